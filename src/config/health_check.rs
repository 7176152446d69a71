//! `[services.NAME.health_check]`: how endpoints are asked whether they are well. Without the table nobody asks.

use std::time::Duration;

use super::file::{At, Field, Meaning, Table};
use super::problem::clipped;
use super::value::{self, Bounds};
use crate::domain::check::{Ask, HealthCheck, HttpCheck, Statuses};

/// Faults are reported; what could not be read has its default.
pub(super) fn read(field: Field<'_>) -> Option<HealthCheck> {
    let mut table = field.section()?;
    let default = HealthCheck::default();
    let protocol = table.get("protocol").map_or(Some(Protocol::Http), |field| protocol(&field));
    let interval = table.get("interval").and_then(|field| value::duration(&field, &INTERVAL));
    let interval = interval.unwrap_or(default.interval);
    let timeout = timeout(table.get("timeout"), interval);
    let rise = table.get("rise").and_then(|field| times(&field)).unwrap_or(default.rise);
    let fall = table.get("fall").and_then(|field| times(&field)).unwrap_or(default.fall);
    let ask = match protocol {
        Some(Protocol::Tcp) => tcp(&mut table),
        Some(Protocol::Http) | None => http(&mut table),
    };
    table.finish();
    Some(HealthCheck { ask, interval, timeout, rise, fall })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    Tcp,
}

fn protocol(field: &Field<'_>) -> Option<Protocol> {
    if field.is_text_of("grpc") {
        let help = format!(
            "write `{}`, or `tcp`: the gRPC health protocol needs HTTP/2 to endpoints, which this release has not yet",
            field.assigned(&field.quoted("http"))
        );
        field.place.error("`grpc` is not there yet", help);
        return None;
    }
    value::word(field, PROTOCOLS)
}

fn timeout(field: Option<Field<'_>>, interval: Duration) -> Duration {
    let default = HealthCheck::default().timeout.min(interval);
    let Some(field) = field else { return default };
    let Some(timeout) = value::duration(&field, &TIMEOUT) else { return default };
    if timeout > interval {
        let (timeout, interval) = (value::spoken(timeout), value::spoken(interval));
        let message = format!("a timeout of {timeout} is longer than the interval of {interval}");
        field.place.error(message, format!("choose at most {interval}: one check ends before the next begins"));
    }
    timeout
}

fn times(field: &Field<'_>) -> Option<u32> {
    let number = field.integer("3")?;
    let times = u32::try_from(number).ok().filter(|times| (1..=MOST_TIMES).contains(times));
    if times.is_none() {
        let help = format!("choose from 1 to {MOST_TIMES}: so many checks in a row change what is believed");
        field.place.error(format!("`{number}` is not between 1 and {MOST_TIMES}"), help);
    }
    times
}

/// What is said of HTTP means nothing then.
fn tcp(table: &mut Table<'_>) -> Ask {
    for key in OF_HTTP {
        if let Some(field) = table.get(key) {
            let message = format!("`{key}` means nothing with `protocol = \"tcp\"`");
            field.place.error(message, "remove it, or write `protocol = \"http\"`");
        }
    }
    Ask::Tcp
}

fn http(table: &mut Table<'_>) -> Ask {
    let mut http = HttpCheck::default();
    let [path, host, status, body] = OF_HTTP.map(|key| table.get(key));
    if let Some(path) = path.and_then(|field| read_path(&field)) {
        http.path = path;
    }
    http.host = host.and_then(|field| read_host(&field));
    if let Some(statuses) = status.and_then(|field| statuses(&field)) {
        http.expect_status = statuses;
    }
    http.expect_body = body.and_then(|field| expected_body(&field));
    Ask::Http(http)
}

fn read_path(field: &Field<'_>) -> Option<String> {
    let At { value: text, place } = field.text(Meaning::Text("/health"))?;
    let sendable = text.bytes().all(|b| b.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&b));
    if text.starts_with('/') && !text.starts_with("//") && sendable {
        return Some(text.to_owned());
    }
    let help =
        format!("write `{}`, with its query if it has one, percent-encoded", field.assigned(&field.quoted("/health")));
    place.error(format!("`{}` is not a path", clipped(text)), help);
    None
}

fn read_host(field: &Field<'_>) -> Option<String> {
    let At { value: text, place } = field.text(Meaning::Text("shop.example.com"))?;
    let authority = text.parse::<http::uri::Authority>().ok();
    if authority.is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty()) {
        return Some(text.to_owned());
    }
    place.error(format!("`{}` is not a host", clipped(text)), "write `shop.example.com` or `shop.example.com:8080`");
    None
}

fn statuses(field: &Field<'_>) -> Option<Statuses> {
    let At { value: text, place } = field.text(Meaning::Text("200-399"))?;
    let example = field.assigned(&field.quoted("200-399"));
    let help = format!("write `{example}`, or such as `200, 204`");
    Statuses::parse(text).map_err(|error| place.error(format!("`{}`: {error}", clipped(text)), help)).ok()
}

fn expected_body(field: &Field<'_>) -> Option<String> {
    let At { value: text, place } = field.text(Meaning::Text("ok"))?;
    if (1..=LONGEST_TEXT).contains(&text.len()) {
        return Some(text.to_owned());
    }
    let help = format!("write a text of 1 to {LONGEST_TEXT} bytes that is in the body, or remove it");
    place.error(format!("`{}` cannot be looked for", clipped(text)), help);
    None
}

const OF_HTTP: [&str; 4] = ["path", "host", "expect_status", "expect_body"];

const PROTOCOLS: &[(&str, Protocol)] = &[("http", Protocol::Http), ("tcp", Protocol::Tcp)];

/// Beyond it nobody means it.
const MOST_TIMES: u32 = 100;

/// Of a text to look for; the body's first 64 KiB are looked through.
const LONGEST_TEXT: usize = 1_024;

const INTERVAL: Bounds = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_hours(1),
    why: "a shorter one is a load of its own, a longer one finds a dead endpoint too late to matter",
};

const TIMEOUT: Bounds = Bounds {
    least: Duration::from_millis(10),
    most: Duration::from_mins(1),
    why: "a shorter one fails healthy endpoints, and one that needs longer to say that it is well is not",
};

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::config::{Problems, parse};

    fn checked(table: &str) -> Result<Option<HealthCheck>, Problems> {
        let text = format!(
            "listeners = [{{ address = \"127.0.0.1:8080\" }}]\n[services.shop]\nroutes = [{{}}]\nstable = \"v1\"\n\
             versions.v1.endpoints = [\"127.0.0.1:9001\"]\n{table}"
        );
        parse("penstock.toml", &text).map(|settings| settings.services[0].health_check.clone())
    }

    fn of_shop(lines: &str) -> Result<Option<HealthCheck>, Problems> {
        checked(&format!("[services.shop.health_check]\n{lines}"))
    }

    #[test]
    fn nobody_asks_unless_the_table_is_there() {
        assert_eq!(checked(""), Ok(None));
        assert_eq!(of_shop(""), Ok(Some(HealthCheck::default())));
    }

    #[test]
    fn every_key_is_taken() {
        let lines = "path = \"/up?full\"\nhost = \"shop.example.com\"\ninterval = \"1s\"\nrise = 1\nfall = 7\n\
                     expect_status = \"204\"\nexpect_body = \"ok\"\n";
        let http = HttpCheck {
            path: "/up?full".to_owned(),
            host: Some("shop.example.com".to_owned()),
            expect_status: Statuses::parse("204").unwrap(),
            expect_body: Some("ok".to_owned()),
        };
        let second = Duration::from_secs(1);
        let expected = HealthCheck { ask: Ask::Http(http), interval: second, timeout: second, rise: 1, fall: 7 };
        assert_eq!(of_shop(lines), Ok(Some(expected)), "a timeout that is not given is no longer than the interval");
        let tcp = HealthCheck { ask: Ask::Tcp, ..HealthCheck::default() };
        assert_eq!(of_shop("protocol = \"tcp\"\n"), Ok(Some(tcp)));
    }

    #[test]
    fn health_checks_in_every_bad_form() {
        let said = |lines: &str| of_shop(lines).unwrap_err().to_string();
        let lines = "path = \"health\"\nhost = \"a/b\"\ninterval = \"1ms\"\ntimeout = \"3s\"\nrise = 0\nfall = \"3\"\n\
                     expect_status = \"2xx\"\nexpect_body = \"\"\npaths = 1\n";
        let all = [
            said(lines),
            said("protocol = \"grpc\"\n"),
            said("protocol = \"http2\"\ntimeout = \"6s\"\n"),
            said("protocol = \"tcp\"\npath = \"/\"\nexpect_status = 200\n"),
            said("expect_status = 204\n"),
        ];
        assert_snapshot!(all.join("\n"));
    }
}
