//! `host:port`: how an endpoint is named, in the file, in the API and in the journal.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An upstream address: `host:port`, `ip:port` or `[v6]:port`, and the text that it was written as.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Authority {
    pub text: Arc<str>,
    pub host: Host,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Ip(IpAddr),
    /// Lower case.
    Name(String),
}

/// Why a text does not name an endpoint; some know what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("is empty")]
    Empty,
    #[error("is a URL, not an endpoint")]
    Url { meant: String },
    #[error("has no port")]
    NoPort { meant: String },
    #[error("has no usable port")]
    Port,
    #[error("is an address to listen on, not to connect to")]
    Unspecified { meant: String },
    #[error("is not an endpoint")]
    Form,
}

impl Authority {
    pub fn parse(text: &str) -> Result<Authority, AuthorityError> {
        let (host, port) = read(text)?;
        Ok(Authority { text: text.into(), host, port })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether both are the same address, however they are spelled.
    #[must_use]
    pub fn is(&self, other: &Authority) -> bool {
        self.host == other.host && self.port == other.port
    }

    /// Whether connecting to it reaches `listener` for certain: a proxy loop.
    #[must_use]
    pub fn reaches(&self, listener: SocketAddr) -> bool {
        let loopback = |name: &str| name == "localhost" || name.ends_with(".localhost");
        let same_host = match &self.host {
            Host::Ip(ip) => overlaps(*ip, listener.ip()),
            Host::Name(name) => loopback(name) && (listener.ip().is_loopback() || listener.ip().is_unspecified()),
        };
        same_host && self.port == listener.port()
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Authority {
    type Error = AuthorityError;
    fn try_from(text: String) -> Result<Authority, AuthorityError> {
        Authority::parse(&text)
    }
}

impl From<Authority> for String {
    fn from(authority: Authority) -> String {
        authority.text.as_ref().to_owned()
    }
}

fn read(text: &str) -> Result<(Host, u16), AuthorityError> {
    if text.is_empty() {
        return Err(AuthorityError::Empty);
    }
    if let Some((_, rest)) = text.split_once("://") {
        let bare = rest.split('/').next().unwrap_or_default();
        return Err(AuthorityError::Url { meant: bare.to_owned() });
    }
    if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
        return Err(AuthorityError::NoPort { meant: format!("[{text}]:8080") });
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(AuthorityError::NoPort { meant: format!("{text}:8080") });
    };
    let port = read_port(port)?;
    Ok((read_host(host, port)?, port))
}

fn read_port(text: &str) -> Result<u16, AuthorityError> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0).ok_or(AuthorityError::Port)
}

fn read_host(text: &str, port: u16) -> Result<Host, AuthorityError> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ip = match bracketed {
        Some(inner) => Some(IpAddr::V6(inner.parse::<Ipv6Addr>().map_err(|_| AuthorityError::Form)?)),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    match ip {
        Some(ip) if ip.is_unspecified() => {
            Err(AuthorityError::Unspecified { meant: SocketAddr::new(loopback_like(ip), port).to_string() })
        }
        Some(ip) => Ok(Host::Ip(ip)),
        None if is_host_name(text) => Ok(Host::Name(text.trim_end_matches('.').to_ascii_lowercase())),
        None => Err(AuthorityError::Form),
    }
}

fn loopback_like(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// RFC 1123 §2.1, and underscores, which container networks use. A last label of digits is a mistyped address.
fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let fits = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        (1..=63).contains(&label.len()) && fits && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a connection to `ip` may be accepted by a socket bound to `bound`; with an unspecified one, only loopback is
/// certain.
fn overlaps(ip: IpAddr, bound: IpAddr) -> bool {
    let (ip, bound) = (ip.to_canonical(), bound.to_canonical());
    ip == bound || (bound.is_unspecified() && ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for good in ["127.0.0.1:80", "[::1]:80", "shop:8080", "a.b-c.example:1", "web_1:65535", "example.com.:80"] {
            assert!(Authority::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ":80",
            "shop",
            "shop:",
            "shop:0",
            "shop:65536",
            "shop:+80",
            "::1:80:",
            "::1",
            "[::1]",
            "[::1]80",
            "[shop]:80",
            "127.0.0.1.5:80",
            "300.1.1.1:80",
            "0.0.0.0:80",
            "[::]:80",
            "http://shop:80/",
            "a b:80",
            "-shop:80",
            "sh..op:80",
            "user@shop:80",
            "shop:80/path",
        ] {
            assert!(Authority::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_that_reaches_a_listener_is_seen_through_its_spelling() {
        for (endpoint, listener, reaches) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("localhost:80", "127.0.0.1:80", true),
            ("LOCALHOST.:80", "0.0.0.0:80", true),
            ("127.0.0.1:81", "127.0.0.1:80", false),
            ("10.0.0.1:80", "0.0.0.0:80", false),
            ("127.0.0.2:80", "127.0.0.1:80", false),
            ("shop:80", "0.0.0.0:80", false),
        ] {
            let endpoint = Authority::parse(endpoint).unwrap();
            assert_eq!(endpoint.reaches(listener.parse().unwrap()), reaches, "{endpoint} {listener}");
        }
    }
}
