//! Single values: percentages, durations, addresses, names, words; each with its bounds and the reason for them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;

use super::file::{At, Field, Meaning, Place, closest, listed};
use super::problem::clipped;
use crate::domain::authority::{Authority, AuthorityError};
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

/// The name of a header.
pub(super) fn header_name(field: &Field<'_>) -> Option<http::HeaderName> {
    let At { value: text, place } = field.text(Meaning::Text("x-canary"))?;
    let help = "letters, digits and `-`, such as `x-canary`";
    let message = || format!("`{}` is not a header name", clipped(text));
    http::HeaderName::from_bytes(text.as_bytes()).map_err(|_| place.error(message(), help)).ok()
}

/// A cookie's name (RFC 6265 §4.1.1): the same alphabet as a header's, its case kept.
pub(super) fn cookie_name(field: &Field<'_>) -> Option<String> {
    let At { value: text, place } = field.text(Meaning::Text("canary"))?;
    if http::HeaderName::from_bytes(text.as_bytes()).is_ok() {
        return Some(text.to_owned());
    }
    place.error(format!("`{}` is not a cookie name", clipped(text)), "letters, digits, `-` and `_`, such as `canary`");
    None
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
pub(super) type Endpoint = Authority;

pub(super) fn endpoint<'a>(field: &Field<'a>) -> Option<At<'a, Endpoint>> {
    let At { value: text, place } = field.text(Meaning::Address)?;
    match Authority::parse(text) {
        Ok(value) => Some(At { value, place }),
        Err(error) => {
            place.error(format!("`{}` {error}", clipped(text)), endpoint_help(&error, |form| field.quoted(form)));
            None
        }
    }
}

/// `quoted` writes a text as it has to be written there.
fn endpoint_help(error: &AuthorityError, quoted: impl Fn(&str) -> String) -> String {
    let quoted = |meant: &str| quoted(&clipped(meant));
    match error {
        AuthorityError::Empty => "remove it, or write `host:port`".to_owned(),
        AuthorityError::Url { meant } => format!("write `{}`: host and port only", quoted(meant)),
        AuthorityError::NoPort { meant } => {
            format!("write `{}`, with the port the version listens on", quoted(meant))
        }
        AuthorityError::Port => "end it with `:` and a port from 1 to 65535".to_owned(),
        AuthorityError::Unspecified { meant } => format!("write `{}` for this machine", quoted(meant)),
        AuthorityError::Form => "write `host:port`, `127.0.0.1:8080` or `[::1]:8080`".to_owned(),
    }
}

type Refusal = (&'static str, String);

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

/// A whole path, as clients send it.
pub(super) fn exact_path(field: &Field<'_>) -> Option<String> {
    let At { value: text, place } = field.text(Meaning::Text("/status"))?;
    match read_path_prefix(text) {
        Ok(_) => Some(text.to_owned()),
        Err((what, help)) => {
            place.error(format!("`{}` {what}", clipped(text)), help);
            None
        }
    }
}

/// Reports at most one of a list's duplicates each, beside the first.
pub(super) fn first_twin<'i, 'a, T: PartialEq>(earlier: &'i [At<'a, T>], value: &T) -> Option<&'i Place<'a>> {
    earlier.iter().find(|one| one.value == *value).map(|one| &one.place)
}

#[cfg(test)]
mod tests {
    use super::*;

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
