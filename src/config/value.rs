//! Single values: percentages, durations, addresses, names, words; each with its bounds and the reason for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use super::file::{At, Field, Meaning, Place, closest, listed};
use super::problem::clipped;
use crate::domain::names::NameError;
use crate::domain::split::{Weight, WeightError};

/// What a duration may be, and why not more or less.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub least: Duration,
    pub most: Duration,
    pub why: &'static str,
}

pub(super) fn duration(field: &Field<'_>, bounds: &Bounds) -> Option<Duration> {
    let At { value: text, place } = field.text(Meaning::Duration)?;
    let Ok(signed) = text.trim().parse::<SignedDuration>() else {
        let bare = text.trim().parse::<f64>().is_ok_and(f64::is_finite);
        let form = if bare { format!("{}s", text.trim()) } else { Meaning::Duration.example().to_owned() };
        let help = format!(
            "write a number and its unit: `{}`; also `500ms` or `1m30s`",
            field.assigned(&field.quoted(&clipped(&form)))
        );
        place.error(format!("`{}` is not a duration", clipped(text)), help);
        return None;
    };
    let within = |duration: &Duration| (bounds.least..=bounds.most).contains(duration);
    let duration = Duration::try_from(signed).ok().filter(within);
    if duration.is_none() {
        let (least, most) = (spoken(bounds.least), spoken(bounds.most));
        let message = format!("`{}` is not between {least} and {most}", clipped(text));
        place.error(message, format!("choose a duration from {least} to {most}: {}", bounds.why));
    }
    duration
}

/// As people write it: `1m 30s`.
pub(super) fn spoken(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |signed| format!("{signed:#}"))
}

/// What a count may be, and why not more or less.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub least: u32,
    pub most: u32,
    pub why: &'static str,
}

pub(super) fn count(field: &Field<'_>, counts: &Counts) -> Option<u32> {
    let number = field.integer(&counts.least.max(1).to_string())?;
    let count = u32::try_from(number).ok().filter(|count| (counts.least..=counts.most).contains(count));
    if count.is_none() {
        let Counts { least, most, why } = counts;
        field.place.error(
            format!("`{number}` is not between {least} and {most}"),
            format!("choose from {least} to {most}: {why}"),
        );
    }
    count
}

/// Whether something is `false`; `true` does not say what it is, and is refused. `part` is one of its keys, as a
/// variable spells it.
pub(super) fn switched_off(field: &Field<'_>, example: &str, part: &str) -> bool {
    if field.is_boolean() && field.boolean() == Some(true) {
        let message = "`true` does not say what the limit is";
        let help = match field.place.variable() {
            Some(variable) => {
                format!("set its parts, such as `{variable}_{part}`, or `{variable}=false` to switch it off")
            }
            None => format!("write `{example}`, or `false` to switch it off"),
        };
        field.place.error(message, help);
    }
    field.is_boolean()
}

/// The name of a header.
pub(super) fn header_name(field: &Field<'_>) -> Option<http::HeaderName> {
    let At { value: text, place } = field.text(Meaning::Text("x-user"))?;
    let help = "letters, digits and `-`, such as `x-user`";
    let message = |_| place.error(format!("`{}` is not a header name", clipped(text)), help);
    http::HeaderName::from_bytes(text.as_bytes()).map_err(message).ok()
}

/// A cookie's name (RFC 6265 §4.1.1): the same alphabet as a header's, its case kept.
pub(super) fn cookie_name(field: &Field<'_>) -> Option<String> {
    let At { value: text, place } = field.text(Meaning::Text("session"))?;
    if http::HeaderName::from_bytes(text.as_bytes()).is_ok() {
        return Some(text.to_owned());
    }
    place.error(format!("`{}` is not a cookie name", clipped(text)), "letters, digits, `-` and `_`, such as `session`");
    None
}

/// A range of percentages, both ends included, and why not more or less.
#[derive(Debug, Clone, Copy)]
pub(super) struct Percentages {
    pub least: &'static str,
    pub most: &'static str,
    pub why: &'static str,
}

/// A percentage with two decimals; read with [`Weight`]'s exact reader, whatever it stands for.
pub(super) fn percentage<'a>(field: &Field<'a>, range: &Percentages) -> Option<At<'a, Weight>> {
    let At { value: text, place } = field.text(Meaning::Percentage)?;
    let limit = |text| Weight::parse(text).unwrap_or_default();
    match Weight::parse(text) {
        Ok(value) if (limit(range.least)..=limit(range.most)).contains(&value) => return Some(At { value, place }),
        Ok(_) | Err(WeightError::Range) => {
            let message = format!("`{}` is not between {} and {}", clipped(text), range.least, range.most);
            place.error(message, format!("choose from {} to {}: {}", range.least, range.most, range.why));
        }
        Err(WeightError::Decimals) => {
            let message = format!("`{}` has more than two decimals", clipped(text));
            place.error(message, "percentages are kept in steps of 0.01%; round it");
        }
        Err(WeightError::Form) => {
            let bare = text.trim().parse::<f64>().is_ok_and(f64::is_finite);
            let form = if bare { format!("{}%", text.trim()) } else { Meaning::Percentage.example().to_owned() };
            let help = format!("write `{}`", field.assigned(&field.quoted(&clipped(&form))));
            place.error(format!("`{}` is not a percentage", clipped(text)), help);
        }
    }
    None
}

/// A path on this machine; relative ones are left as they are, for the working directory.
pub(super) fn path<'a>(field: &Field<'a>, example: &'static str) -> Option<At<'a, PathBuf>> {
    let At { value: text, place } = field.text(Meaning::Text(example))?;
    let trouble = match text {
        "" => "an empty path names nothing".to_owned(),
        text if text.chars().any(char::is_control) => format!("`{}` has a control character", clipped(text)),
        text => return Some(At { value: PathBuf::from(text), place }),
    };
    place.error(trouble, format!("write `{}`", field.assigned(&field.quoted(example))));
    None
}

/// One of a few words.
pub(super) fn word<T: Copy>(field: &Field<'_>, words: &[(&'static str, T)]) -> Option<T> {
    let known: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
    let At { value: text, place } = field.text(Meaning::Text(known.first().copied().unwrap_or_default()))?;
    let found = words.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let help = match closest(text, &known) {
            Some(meant) => format!("did you mean `{meant}`? known here: {}", listed(&known)),
            None => format!("use one of {}", listed(&known)),
        };
        place.error(format!("`{}` is not a known {}", clipped(text), place.key), help);
    }
    found.map(|(_, value)| *value)
}

/// A checked name, from a key.
pub(super) fn name<T>(key: &At<'_, &str>, new: impl Fn(&str) -> Result<T, NameError>) -> Option<T> {
    let help = "rename it: names become parts of URLs, metric labels and headers";
    new(key.value).map_err(|error| key.place.error(error.to_string(), help)).ok()
}

/// An address to bind. Port 0, a port of the system's choice, is welcome.
pub(super) fn socket_address<'a>(field: &Field<'a>) -> Option<At<'a, SocketAddr>> {
    let At { value: text, place } = field.text(Meaning::Address)?;
    if let Ok(value) = text.parse() {
        return Some(At { value, place });
    }
    let message = format!("`{}` is not an address to listen on", clipped(text));
    place.error(message, format!("write `{}`", field.assigned(&field.quoted(&listening_form(text)))));
    None
}

/// What somebody probably meant who wrote `text` as an address to listen on.
fn listening_form(text: &str) -> String {
    let port = |text: &str| text.parse::<u16>().ok();
    if let Ok(ip) = text.parse::<IpAddr>() {
        return SocketAddr::new(ip, 8080).to_string();
    }
    match text.rsplit_once(':') {
        Some(("" | "*", digits)) if port(digits).is_some() => format!("0.0.0.0:{digits}"),
        Some(("localhost", digits)) if port(digits).is_some() => format!("127.0.0.1:{digits}"),
        _ if port(text).is_some() => format!("0.0.0.0:{text}"),
        _ => Meaning::Address.example().to_owned(),
    }
}

/// An upstream address: `host:port`, `ip:port` or `[v6]:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub text: Arc<str>,
    pub host: Host,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Ip(IpAddr),
    /// Lower case.
    Name(String),
}

pub(super) fn endpoint<'a>(field: &Field<'a>) -> Option<At<'a, Endpoint>> {
    let At { value: text, place } = field.text(Meaning::Address)?;
    match read_endpoint(text, |form| field.quoted(form)) {
        Ok((host, port)) => Some(At { value: Endpoint { text: text.into(), host, port }, place }),
        Err((what, help)) => {
            place.error(format!("`{}` {what}", clipped(text)), help);
            None
        }
    }
}

type Refusal = (&'static str, String);

/// `quoted` writes a text as it has to be written there.
fn read_endpoint(text: &str, quoted: impl Fn(&str) -> String) -> Result<(Host, u16), Refusal> {
    if text.is_empty() {
        return Err(("is empty", "remove it, or write `host:port`".to_owned()));
    }
    if let Some((_, rest)) = text.split_once("://") {
        let bare = rest.split('/').next().unwrap_or_default();
        return Err(("is a URL, not an endpoint", format!("write `{}`: host and port only", quoted(&clipped(bare)))));
    }
    if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
        let form = quoted(&format!("[{text}]:8080"));
        return Err(("has no port", format!("write `{form}`, with the port the version listens on")));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let form = quoted(&format!("{}:8080", clipped(text)));
        return Err(("has no port", format!("write `{form}`, with the port the version listens on")));
    };
    let port = read_port(port)?;
    Ok((read_host(host, port, quoted)?, port))
}

fn read_port(text: &str) -> Result<u16, Refusal> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(("has no usable port", "end it with `:` and a port from 1 to 65535".to_owned())),
    }
}

fn read_host(text: &str, port: u16, quoted: impl Fn(&str) -> String) -> Result<Host, Refusal> {
    let form = || ("is not an endpoint", "write `host:port`, `127.0.0.1:8080` or `[::1]:8080`".to_owned());
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ip = match bracketed {
        Some(inner) => Some(IpAddr::V6(inner.parse::<Ipv6Addr>().map_err(|_| form())?)),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    match ip {
        Some(ip) if ip.is_unspecified() => {
            let local = quoted(&SocketAddr::new(loopback_like(ip), port).to_string());
            Err(("is an address to listen on, not to connect to", format!("write `{local}` for this machine")))
        }
        Some(ip) => Ok(Host::Ip(ip)),
        None if is_host_name(text) => Ok(Host::Name(text.trim_end_matches('.').to_ascii_lowercase())),
        None => Err(form()),
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

impl Endpoint {
    /// Whether both are the same address, however they are spelled.
    pub fn is(&self, other: &Endpoint) -> bool {
        self.host == other.host && self.port == other.port
    }

    /// Whether connecting to it reaches `listener` for certain: a proxy loop.
    pub fn reaches(&self, listener: SocketAddr) -> bool {
        let loopback = |name: &str| name == "localhost" || name.ends_with(".localhost");
        let same_host = match &self.host {
            Host::Ip(ip) => overlaps(*ip, listener.ip()),
            Host::Name(name) => loopback(name) && (listener.ip().is_loopback() || listener.ip().is_unspecified()),
        };
        same_host && self.port == listener.port()
    }
}

/// Whether a connection to `ip` may be accepted by a socket bound to `bound`; with an unspecified one, only loopback is
/// certain.
fn overlaps(ip: IpAddr, bound: IpAddr) -> bool {
    let (ip, bound) = (ip.to_canonical(), bound.to_canonical());
    ip == bound || (bound.is_unspecified() && ip.is_loopback())
}

/// Whether two sockets cannot both be bound: the same port, and one address or one of them unspecified.
pub(super) fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && one.port() != 0 && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// A path prefix as the router wants it: no slash at the end, unless it is all there is.
pub(super) fn path_prefix(field: &Field<'_>) -> Option<String> {
    let At { value: text, place } = field.text(Meaning::Text("/"))?;
    match read_path_prefix(text) {
        Ok(prefix) => Some(prefix),
        Err((what, help)) => {
            place.error(format!("`{}` {what}", clipped(text)), help);
            None
        }
    }
}

fn read_path_prefix(text: &str) -> Result<String, Refusal> {
    if !text.starts_with('/') {
        return Err(("does not begin with `/`", format!("write `\"/{}\"`", clipped(text))));
    }
    if let Some(cut) = text.find(['?', '#']) {
        let help = format!("routes look at the path alone; write `\"{}\"`", clipped(&text[..cut]));
        return Err(("has more than a path", help));
    }
    if text.contains('*') {
        let plain = text.split('*').next().unwrap_or("/").trim_end_matches('/');
        let plain = if plain.is_empty() { "/" } else { plain };
        return Err(("has a wildcard", format!("a prefix takes everything below it; write `\"{}\"`", clipped(plain))));
    }
    if text.contains("//") {
        return Err(("has an empty segment", "remove the second `/`".to_owned()));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        let help = "write it percent-encoded, as clients send it: `/caf%C3%A9`".to_owned();
        return Err(("has a character that no request path has", help));
    }
    let short = text.strip_suffix('/').unwrap_or(text);
    Ok(if short.is_empty() { "/".to_owned() } else { short.to_owned() })
}

/// Reports at most one of a list's duplicates each, beside the first.
pub(super) fn first_twin<'i, 'a, T: PartialEq>(earlier: &'i [At<'a, T>], value: &T) -> Option<&'i Place<'a>> {
    earlier.iter().find(|one| one.value == *value).map(|one| &one.place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Endpoint {
        let (host, port) = read_endpoint(text, str::to_owned).unwrap();
        Endpoint { text: text.into(), host, port }
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for good in ["127.0.0.1:80", "[::1]:80", "shop:8080", "a.b-c.example:1", "web_1:65535", "example.com.:80"] {
            assert!(read_endpoint(good, str::to_owned).is_ok(), "{good}");
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
            assert!(read_endpoint(bad, str::to_owned).is_err(), "{bad}");
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
            assert_eq!(at(endpoint).reaches(listener.parse().unwrap()), reaches, "{endpoint} {listener}");
        }
    }

    #[test]
    fn a_path_prefix_loses_its_last_slash() {
        assert_eq!(read_path_prefix("/").unwrap(), "/");
        assert_eq!(read_path_prefix("/api/").unwrap(), "/api");
        assert_eq!(read_path_prefix("/api/v1").unwrap(), "/api/v1");
        for bad in ["", "api", "/a?b", "/a#b", "/api/*", "//", "/a//b", "/é", "/a b"] {
            assert!(read_path_prefix(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sockets_collide_when_one_would_take_the_other_s_connections() {
        let collide = |a: &str, b: &str| collide(a.parse().unwrap(), b.parse().unwrap());
        assert!(collide("127.0.0.1:80", "127.0.0.1:80"));
        assert!(collide("0.0.0.0:80", "127.0.0.1:80"));
        assert!(collide("[::]:80", "0.0.0.0:80"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!collide("127.0.0.1:80", "127.0.0.2:80"));
    }
}
