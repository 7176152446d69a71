//! One log line per request, for those who ask for it: off by default, and one branch per request then.
//!
//! Measured with one worker on a busy machine: 18 µs of processor time per request without it, 20 to 26 with, the
//! writer's thread included.
//!
//! No query strings, neither the request's nor the referrer's, no user names in a URL, and no other header fields: they
//! hold secrets.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, StatusCode, Uri, Version};
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

use super::headers::Client;
use super::lines::Style;
use super::upstream::Progress;
use super::worker::Worker;
use crate::domain::snapshot::Service;
use crate::domain::split::{Choice, Role};
use crate::domain::time::{Moment, micros};

/// The client left before there was an answer; nginx's word for it.
const LEFT: u16 = 499;
static PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// What a line is made of; written when dropped, which is when the response is out of our hands.
#[derive(Debug)]
pub struct Access {
    worker: Rc<Worker>,
    arrived: Moment,
    client: HeaderValue,
    client_port: u16,
    scheme: &'static str,
    request_id: HeaderValue,
    method: Method,
    uri: Uri,
    protocol: Version,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    noted: RefCell<Noted>,
}

/// What becomes known on the way.
#[derive(Debug, Default)]
struct Noted {
    authority: Option<Authority>,
    chosen: Option<Chosen>,
    endpoint: Option<SocketAddr>,
    attempts: u64,
    /// Another version's answer hid a failure of the chosen one.
    shielded: bool,
    connect_micros: Option<u64>,
    upstream_status: Option<StatusCode>,
    status: Option<StatusCode>,
    first_byte: Option<Moment>,
    error: Option<&'static str>,
    upload: Option<Rc<Progress>>,
    bytes_out: u64,
    /// Whether the response came to its end; otherwise the client left, or it broke off.
    whole: bool,
}

#[derive(Debug)]
struct Chosen {
    service: Arc<Service>,
    version: usize,
    selected: &'static str,
}

impl Access {
    /// `None` if nobody asked for a log.
    #[must_use]
    pub fn begin(
        worker: &Rc<Worker>,
        client: &Client,
        parts: &Parts,
        arrived: Moment,
        request_id: &HeaderValue,
    ) -> Option<Rc<Access>> {
        worker.access_log.as_ref()?;
        Some(Rc::new(Access {
            worker: worker.clone(),
            arrived,
            client: client.address().clone(),
            client_port: client.peer_port(),
            scheme: client.scheme(),
            request_id: request_id.clone(),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            protocol: parts.version,
            user_agent: parts.headers.get(header::USER_AGENT).cloned(),
            referer: parts.headers.get(header::REFERER).cloned(),
            noted: RefCell::default(),
        }))
    }

    pub fn chosen(&self, authority: Option<&Authority>, service: &Arc<Service>, choice: Choice) {
        let mut noted = self.noted.borrow_mut();
        noted.authority = authority.cloned();
        let selected = choice.selected.as_str();
        noted.chosen = Some(Chosen { service: service.clone(), version: choice.version, selected });
    }

    /// Stable is asked instead.
    pub fn fell_back(&self) {
        if let Some(chosen) = &mut self.noted.borrow_mut().chosen {
            (chosen.version, chosen.selected) = (chosen.service.split.stable, "fallback");
        }
    }

    pub fn uploads(&self, upload: Option<Rc<Progress>>) {
        self.noted.borrow_mut().upload = upload;
    }

    pub fn attempt(&self, endpoint: SocketAddr) {
        let mut noted = self.noted.borrow_mut();
        noted.endpoint = Some(endpoint);
        noted.attempts += 1;
        noted.connect_micros = None;
    }

    pub fn shielded(&self) {
        self.noted.borrow_mut().shielded = true;
    }

    pub fn connected(&self, micros: u64) {
        self.noted.borrow_mut().connect_micros = Some(micros);
    }

    pub fn upstream_answered(&self, status: StatusCode) {
        self.noted.borrow_mut().upstream_status = Some(status);
    }

    /// An error type of RFC 9209, as `Proxy-Status` has it.
    pub fn failed(&self, error: &'static str) {
        self.noted.borrow_mut().error = Some(error);
    }

    /// `empty`: there is no body whose end could be noted.
    pub fn answered(&self, status: StatusCode, empty: bool) {
        let mut noted = self.noted.borrow_mut();
        noted.status = Some(status);
        noted.whole = empty;
        noted.first_byte = Some(self.worker.now());
    }

    pub fn sent(&self, bytes: u64) {
        self.noted.borrow_mut().bytes_out += bytes;
    }

    pub fn ended(&self) {
        self.noted.borrow_mut().whole = true;
    }

    /// The line's fields, in order; what is not known is left out.
    fn each(&self, now: Moment, mut field: impl FnMut(&str, Value<'_>)) {
        let noted = self.noted.borrow();
        let mut text = |name: &str, value: Option<&HeaderValue>| {
            if let Some(value) = value {
                field(name, Value::Text(String::from_utf8_lossy(value.as_bytes())));
            }
        };
        text("request_id", Some(&self.request_id));
        text("client_ip", Some(&self.client));
        field("client_port", Value::Count(self.client_port.into()));
        field("method", Value::text(self.method.as_str()));
        field("scheme", Value::text(self.scheme));
        if let Some(authority) = &noted.authority {
            field("host", Value::text(authority.as_str())); // one with a user name is refused
        }
        field("path", Value::text(self.uri.path()));
        field("proto", Value::Text(format!("{:?}", self.protocol).into()));
        if let Some(Chosen { service, version, selected }) = &noted.chosen {
            field("service", Value::text(service.name.as_str()));
            field("version", Value::text(service.versions[*version].name.as_str()));
            field("role", Value::text(service.split.role(*version).map_or("none", Role::as_str)));
            field("selected", Value::text(selected));
        }
        if let Some(endpoint) = noted.endpoint {
            field("endpoint", Value::Text(endpoint.to_string().into()));
        }
        field("attempts", Value::Count(noted.attempts));
        if noted.shielded {
            field("shielded", Value::Flag(true));
        }
        field("status", Value::Count(noted.status.map_or(LEFT, |status| status.as_u16()).into()));
        if let Some(status) = noted.upstream_status {
            field("upstream_status", Value::Count(status.as_u16().into()));
        }
        if let Some(error) = noted.error {
            field("error", Value::text(error));
        }
        field("bytes_in", Value::Count(noted.upload.as_ref().map_or(0, |upload| upload.bytes())));
        field("bytes_out", Value::Count(noted.bytes_out));
        field("whole", Value::Flag(noted.whole));
        field("dur_ms", Value::Millis(micros(now.since(self.arrived))));
        if let Some(micros) = noted.connect_micros {
            field("connect_ms", Value::Millis(micros));
        }
        if let Some(first) = noted.first_byte {
            field("ttfb_ms", Value::Millis(micros(first.since(self.arrived))));
        }
        if let Some(user_agent) = &self.user_agent {
            field("user_agent", Value::Text(String::from_utf8_lossy(user_agent.as_bytes())));
        }
        if let Some(referer) = &self.referer {
            let referer = String::from_utf8_lossy(referer.as_bytes());
            field("referer", Value::Text(without_user(referer.split(['?', '#']).next().unwrap_or_default())));
        }
    }

    fn write(&self, now: Moment, style: Style, line: &mut Vec<u8>) {
        let arrived = Timestamp::now().checked_sub(now.since(self.arrived)).unwrap_or(Timestamp::UNIX_EPOCH);
        let ts = PRINTER.timestamp_to_string(&arrived);
        let colon = if style == Style::Human {
            let _into_memory = write!(line, "{ts}  INFO penstock::access: request");
            '='
        } else {
            let _into_memory = write!(line, "{{\"ts\":\"{ts}\"");
            if style == Style::JsonAmongOthers {
                line.extend_from_slice(b",\"level\":\"INFO\",\"target\":\"penstock::access\",\"message\":\"request\"");
            }
            ':'
        };
        self.each(now, |name, value| {
            let _into_memory = match colon {
                ':' => write!(line, ",\"{name}\":"),
                _ => write!(line, " {name}="),
            };
            value.write(line);
        });
        if colon == ':' {
            line.push(b'}');
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        if let Some(log) = &self.worker.access_log {
            let now = self.worker.now();
            log.add(|line| self.write(now, log.style(), line));
        }
    }
}

/// Both JSON and people read these alike.
enum Value<'a> {
    Text(Cow<'a, str>),
    Count(u64),
    Flag(bool),
    /// Microseconds, shown as milliseconds.
    Millis(u64),
}

impl<'a> Value<'a> {
    fn text(text: &'a str) -> Value<'a> {
        Value::Text(Cow::Borrowed(text))
    }

    /// Writing to memory does not fail.
    fn write(&self, line: &mut Vec<u8>) {
        let _into_memory = match self {
            Value::Text(text) => serde_json::to_writer(line, text).map_err(Into::into),
            Value::Count(count) => write!(line, "{count}"),
            Value::Flag(flag) => write!(line, "{flag}"),
            Value::Millis(micros) => write!(line, "{}.{:03}", micros / 1_000, micros % 1_000),
        };
    }
}

/// `https://user:password@host/path` without what is before the `@`.
fn without_user(text: &str) -> Cow<'_, str> {
    let (scheme, rest) = text.split_at(text.find("//").map_or(0, |at| at + 2));
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        None => Cow::Borrowed(text),
        Some(at) => Cow::Owned(format!("{scheme}{}", &rest[at + 1..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_and_passwords_are_left_out() {
        for (said, kept) in [
            ("host/a", "host/a"),
            ("u:p@host/a", "host/a"),
            ("https://u:p@host/a@b", "https://host/a@b"),
            ("https://host/a@b", "https://host/a@b"),
            ("", ""),
        ] {
            assert_eq!(without_user(said), kept);
        }
    }

    #[test]
    fn values_are_json() {
        let written = |value: Value<'_>| {
            let mut line = Vec::new();
            value.write(&mut line);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(written(Value::text("a\"\n\u{1b}é")), r#""a\"\n\u001bé""#);
        assert_eq!(written(Value::Millis(1_020)), "1.020");
        assert_eq!(written(Value::Count(7)) + &written(Value::Flag(true)), "7true");
    }
}
