//! What a gateway does to header fields: refuses what could be read in two ways, removes what belongs to one hop only,
//! and says who asked (RFC 9110 §7.6, RFC 9112 §3.2 and §6, RFC 7239's older `X-Forwarded-*` cousins).

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Version};

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// RFC 9110 §7.6.1, with the older ones that clients still send.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    KEEP_ALIVE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];
const VIA: HeaderValue = HeaderValue::from_static("1.1 penstock");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// How often a request may have passed through a penstock before it is taken to run in a circle.
const LAPS: usize = 5;

/// Why a request is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("the request must have exactly one Host, and a valid one")]
    Host,
    #[error("the length of the request's body could be read in two ways")]
    Framing,
    #[error("a gateway does not open tunnels")]
    Connect,
    #[error("the request has passed through this proxy too often")]
    Loop,
}

/// What a request's forwarding fields are made of; made once per client connection.
#[derive(Debug, Clone)]
pub struct Client {
    ip: IpAddr,
    address: HeaderValue,
    port: HeaderValue,
    peer_port: u16,
}

impl Client {
    /// The client's IP address.
    #[must_use]
    pub fn address(&self) -> &HeaderValue {
        &self.address
    }

    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    #[must_use]
    pub fn peer_port(&self) -> u16 {
        self.peer_port
    }

    /// `local` is the address that the client connected to.
    #[must_use]
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Client {
        let ip: IpAddr = peer.ip().to_canonical();
        let text = |text: String| HeaderValue::try_from(text).expect("addresses and numbers are visible ASCII");
        Client { ip, address: text(ip.to_string()), port: text(local.port().to_string()), peer_port: peer.port() }
    }
}

/// Refuses what could be read in two ways, and returns the one authority that the request is for.
pub fn check(parts: &Parts) -> Result<Option<Authority>, Unfit> {
    if parts.method == Method::CONNECT {
        return Err(Unfit::Connect);
    }
    framing(parts)?;
    if laps(&parts.headers) > LAPS {
        return Err(Unfit::Loop);
    }
    authority(parts)
}

/// RFC 9112 §6.1: one length, stated once. Both ways to state it, or an odd one, are an attack or a broken client.
fn framing(parts: &Parts) -> Result<(), Unfit> {
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter().count();
    match (codings.next(), codings.next(), lengths) {
        (None, _, 0 | 1) => Ok(()),
        (Some(coding), None, 0)
            if coding.as_bytes().eq_ignore_ascii_case(b"chunked") && parts.version > Version::HTTP_10 =>
        {
            Ok(())
        }
        _ => Err(Unfit::Framing),
    }
}

/// RFC 9112 §3.2: exactly one Host in HTTP/1.1; an absolute-form target overrides it.
fn authority(parts: &Parts) -> Result<Option<Authority>, Unfit> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Unfit::Host),
        (None, _) if parts.version > Version::HTTP_10 => return Err(Unfit::Host),
        (None, _) => None,
        (Some(host), None) if host.is_empty() => None,
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).map_err(|_| Unfit::Host)?),
    };
    let authority = parts.uri.authority().cloned().or(host);
    match &authority {
        Some(authority) if authority.as_str().contains('@') => Err(Unfit::Host),
        _ => Ok(authority),
    }
}

fn laps(headers: &HeaderMap) -> usize {
    let fields = headers.get_all(header::VIA).iter().filter_map(|via| via.to_str().ok());
    fields.flat_map(|via| via.split(',')).filter(|hop| hop.split_whitespace().nth(1) == Some("penstock")).count()
}

/// Removes what belongs to one hop only: the fixed set, and what `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named = named_by_connection(headers);
    for name in named {
        headers.remove(name);
    }
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// `Connection` may not name what routes or frames a message, nor take away what a later hop relies on.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let fields = headers.get_all(header::CONNECTION).iter().filter_map(|field| field.to_str().ok());
    let names = fields.flat_map(|field| field.split(',')).filter_map(|name| name.trim().parse::<HeaderName>().ok());
    names.filter(|name| ![header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name)).collect()
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Turns a client's header fields into those for an endpoint.
pub fn forward(headers: &mut HeaderMap, client: &Client, authority: Option<&Authority>, request_id: HeaderValue) {
    let wants_trailers = wants_trailers(headers);
    strip_hop_by_hop(headers);
    strip_untrusted(headers);
    if wants_trailers {
        headers.insert(header::TE, TRAILERS);
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(host) = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        headers.insert(X_FORWARDED_HOST, host.clone());
        headers.insert(header::HOST, host);
    }
    headers.insert(X_FORWARDED_FOR, client.address.clone());
    headers.insert(X_REAL_IP, client.address.clone());
    headers.insert(X_FORWARDED_PORT, client.port.clone());
    headers.insert(X_FORWARDED_PROTO, HTTP);
    headers.insert(X_REQUEST_ID, request_id);
    headers.append(header::VIA, VIA);
}

/// RFC 9110 §10.1.4: the one transfer coding preference that may be passed on.
fn wants_trailers(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(header::TE).iter().filter_map(|te| te.to_str().ok());
    fields.any(|te| te.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
}

/// Nobody is trusted yet to say who the client is, or to speak for us.
fn strip_untrusted(headers: &mut HeaderMap) {
    headers.remove(header::FORWARDED);
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("penstock-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(version: Version, target: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().version(version).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn checked(fields: &[(&str, &str)]) -> Result<Option<String>, Unfit> {
        check(&parts(Version::HTTP_11, "/", fields)).map(|authority| authority.map(|a| a.to_string()))
    }

    const HOST: (&str, &str) = ("host", "a");

    #[test]
    fn a_length_is_stated_once() {
        assert!(checked(&[HOST, ("content-length", "3")]).is_ok());
        assert!(checked(&[HOST, ("transfer-encoding", "chunked")]).is_ok());
        for fields in [
            &[HOST, ("content-length", "3"), ("transfer-encoding", "chunked")][..],
            &[HOST, ("content-length", "3"), ("content-length", "3")],
            &[HOST, ("transfer-encoding", "gzip, chunked")],
            &[HOST, ("transfer-encoding", "identity")],
            &[HOST, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(checked(fields), Err(Unfit::Framing), "{fields:?}");
        }
        let old = parts(Version::HTTP_10, "/", &[HOST, ("transfer-encoding", "chunked")]);
        assert_eq!(check(&old), Err(Unfit::Framing));
    }

    #[test]
    fn there_is_one_host() {
        assert_eq!(checked(&[("host", "shop.example.com:8080")]), Ok(Some("shop.example.com:8080".into())));
        for fields in
            [&[][..], &[("host", "a"), ("host", "a")], &[("host", "a b")], &[("host", "user@a")], &[("host", "a/b")]]
        {
            assert_eq!(checked(fields), Err(Unfit::Host), "{fields:?}");
        }
        assert_eq!(check(&parts(Version::HTTP_10, "/", &[])), Ok(None));
        let absolute = parts(Version::HTTP_11, "http://real.example.com/x", &[("host", "other")]);
        assert_eq!(check(&absolute).unwrap().unwrap(), "real.example.com");
    }

    #[test]
    fn a_request_that_runs_in_a_circle_is_stopped() {
        let via = |n: usize| vec!["1.1 penstock"; n].join(", ");
        assert!(checked(&[HOST, ("via", &via(5))]).is_ok());
        assert_eq!(checked(&[HOST, ("via", &via(6))]), Err(Unfit::Loop));
        assert!(checked(&[HOST, ("via", "1.1 other-penstock")]).is_ok());
    }

    fn forwarded(fields: &[(&str, &str)]) -> HeaderMap {
        let mut parts = parts(Version::HTTP_11, "/", fields);
        let authority = check(&parts).unwrap();
        let client = Client::new("192.0.2.1:4000".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        forward(&mut parts.headers, &client, authority.as_ref(), HeaderValue::from_static("id"));
        parts.headers
    }

    #[test]
    fn one_hops_fields_stay_behind() {
        let headers = forwarded(&[
            HOST,
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "x"),
            ("proxy-connection", "keep-alive"),
            ("accept", "*/*"),
        ]);
        for gone in ["connection", "x-secret", "keep-alive", "te", "upgrade", "proxy-authorization", "proxy-connection"]
        {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(headers["accept"], "*/*");
    }

    #[test]
    fn connection_cannot_take_away_what_we_add_or_route_by() {
        let headers =
            forwarded(&[HOST, ("connection", "host, x-forwarded-for, content-length"), ("content-length", "1")]);
        assert_eq!(headers["host"], "a");
        assert_eq!(headers["content-length"], "1");
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
    }

    #[test]
    fn the_client_is_who_connected_not_who_it_says() {
        let headers = forwarded(&[
            HOST,
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("penstock-version", "canary"),
            ("via", "1.0 other"),
        ]);
        assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["192.0.2.1"]);
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "a");
        assert_eq!(headers["x-real-ip"], "192.0.2.1");
        assert!(!headers.contains_key("forwarded") && !headers.contains_key("penstock-version"));
        assert_eq!(headers.get_all("via").iter().collect::<Vec<_>>(), ["1.0 other", "1.1 penstock"]);
    }

    #[test]
    fn trailers_may_be_asked_for() {
        let headers = forwarded(&[HOST, ("te", "gzip, trailers")]);
        assert_eq!((headers["te"].as_bytes(), headers["connection"].as_bytes()), (&b"trailers"[..], &b"te"[..]));
    }

    proptest! {
        #[test]
        fn nothing_of_one_hop_is_forwarded(
            connection in "[ -~]{0,30}",
            names in prop::collection::vec("[a-z-]{1,12}", 0..5),
        ) {
            let framing = ["host", "content-length", "transfer-encoding", "via"];
            let mut fields = vec![HOST, ("connection", connection.as_str())];
            let others = names.iter().filter(|name| !framing.contains(&name.as_str()));
            fields.extend(others.map(|name| (name.as_str(), "x")));
            let headers = forwarded(&fields);
            prop_assert!(headers.keys().all(|name| !is_hop_by_hop(name)));
            for named in connection.split(',').map(str::trim).filter(|n| names.iter().any(|name| name == n)) {
                prop_assert!(!headers.contains_key(named));
            }
        }
    }
}
