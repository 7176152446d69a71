//! How requests are spread over endpoints: `balance`, `slow_start`, `panic_threshold`, `ejection` and `limits`.

use std::time::Duration;

use super::file::{At, Field, Meaning, Table, closest, listed};
use super::problem::clipped;
use super::value::{self, Bounds, Endpoint, Percentages};
use crate::domain::balance::{Balance, Balancing};
use crate::domain::breaker::Limits;
use crate::domain::ejection::Ejection;
use crate::domain::service::EndpointDefinition;

/// Reads a service's keys; what is wrong is reported, and the default stands in for it.
pub(super) fn read(table: &mut Table<'_>) -> Balancing {
    let default = Balancing::default();
    let slow_start = table.get("slow_start").and_then(|field| value::duration(&field, &SLOW_STARTS));
    let panic = table.get("panic_threshold").and_then(|field| value::percentage(&field, &PANICS));
    Balancing {
        balance: table.get("balance").and_then(balance).unwrap_or_default(),
        slow_start: slow_start.unwrap_or(default.slow_start),
        panic_threshold: panic.map_or(default.panic_threshold, |at| at.value),
        ejection: table.get("ejection").map_or(default.ejection, ejection),
        limits: table.get("limits").map(limits).unwrap_or_default(),
    }
}

/// As the file writes it.
pub(super) fn shown(balance: &Balance) -> String {
    match balance {
        Balance::HeaderHash(name) => format!("{{ header_hash = \"{name}\" }}"),
        Balance::CookieHash(name) => format!("{{ cookie_hash = \"{name}\" }}"),
        plain => {
            let word = WORDS.iter().find(|(_, meant)| meant == plain).map_or("", |(word, _)| word);
            format!("\"{word}\"")
        }
    }
}

fn balance(field: Field<'_>) -> Option<Balance> {
    if field.is_text() {
        return word(&field);
    }
    if field.is_table() {
        return hash(field);
    }
    let message = format!("expected an algorithm, found {}", field.found());
    let quoted = field.quoted(WORDS[0].0);
    field.place.error(message, format!("write `{}`, or `{HASH}`", field.assigned(&quoted)));
    None
}

fn word(field: &Field<'_>) -> Option<Balance> {
    let At { value: text, place } = field.text(Meaning::Text(WORDS[0].0))?;
    if let Some((_, balance)) = WORDS.iter().find(|(word, _)| *word == text) {
        return Some(balance.clone());
    }
    let known: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
    let help = match (closest(text, &known), text) {
        (_, "header-hash" | "header_hash") => "name it: `balance = { header_hash = \"x-user\" }`".to_owned(),
        (_, "cookie-hash" | "cookie_hash") => format!("name it: `{HASH}`"),
        (Some(meant), _) => format!("did you mean `{meant}`? known here: {}, and `{HASH}`", listed(&known)),
        (None, _) => format!("use one of {}, or `{HASH}`", listed(&known)),
    };
    place.error(format!("`{}` is not a known balance", clipped(text)), help);
    None
}

/// Exactly one of `header_hash` and `cookie_hash`.
fn hash(field: Field<'_>) -> Option<Balance> {
    let mut table = field.table(HASH)?;
    let keys = (table.get("header_hash"), table.get("cookie_hash"));
    let balance = match &keys {
        (Some(header), None) => value::header_name(header).map(Balance::HeaderHash),
        (None, Some(cookie)) => value::cookie_name(cookie).map(Balance::CookieHash),
        (Some(_), Some(_)) => {
            table.place.error("a request is hashed by one thing", "keep one of `header_hash` and `cookie_hash`");
            None
        }
        (None, None) => {
            table.place.error("it does not say what a request is hashed by", format!("write `{HASH}`"));
            None
        }
    };
    table.finish();
    balance
}

fn ejection(field: Field<'_>) -> Option<Ejection> {
    if value::switched_off(&field, EJECTION, "CONSECUTIVE_FAILURES") {
        return None;
    }
    if let Some(variable) = field.place.variable().filter(|_| !field.is_table()) {
        let help = format!("set `{variable}=false`, or its parts, such as `{variable}_CONSECUTIVE_FAILURES`");
        field.place.error(format!("expected `false`, found {}", field.found()), help);
        return Some(Ejection::default());
    }
    let mut ejection = Ejection::default();
    let Some(mut table) = field.table(EJECTION) else { return Some(ejection) };
    if let Some(many) = table.get("consecutive_failures").and_then(|field| value::count(&field, &FAILURES)) {
        ejection.consecutive_failures = many;
    }
    if let Some(time) = table.get("time").and_then(|field| value::duration(&field, &EJECTIONS)) {
        ejection.time = time;
    }
    if let Some(share) = table.get("max_share").and_then(|field| value::percentage(&field, &SHARES)) {
        ejection.max_share = share.value;
    }
    table.finish();
    Some(ejection)
}

fn limits(field: Field<'_>) -> Limits {
    let mut limits = Limits::default();
    let Some(mut table) = field.section() else { return limits };
    let mut count = |key| table.get(key).and_then(|field| value::count(&field, &LIMITS));
    limits.connections = count("connections");
    limits.in_flight = count("in_flight");
    limits.version_in_flight = count("version_in_flight");
    let pending = table.get("pending");
    if let Some(pending) = &pending {
        limits.pending = value::count(pending, &PENDING).unwrap_or(limits.pending);
    }
    if let Some(time) = table.get("pending_time").and_then(|field| value::duration(&field, &PENDING_TIMES)) {
        limits.pending_time = time;
    }
    if let Some(pending) = pending.filter(|_| limits.pending > 0 && !limits.any()) {
        let help = "add `in_flight`, `version_in_flight` or `connections`, or remove it";
        pending.place.missing("nothing is limited that requests could wait for", help);
    }
    table.finish();
    limits
}

/// An endpoint and its weight: `"ip:port"`, or a table with both.
pub(super) fn endpoint(field: Field<'_>) -> Option<(At<'_, Endpoint>, u32)> {
    if !field.is_table() {
        return Some((value::endpoint(&field)?, EndpointDefinition::DEFAULT_WEIGHT));
    }
    let mut table = field.table(ENDPOINT)?;
    let address = table.required("address", "address = \"127.0.0.1:9001\"").map(|field| value::endpoint(&field));
    let weight = table.get("weight").map(|field| value::count(&field, &WEIGHTS));
    table.finish();
    Some((address??, weight.unwrap_or(Some(EndpointDefinition::DEFAULT_WEIGHT))?))
}

const WORDS: &[(&str, Balance)] = &[
    ("power-of-two", Balance::PowerOfTwo),
    ("round-robin", Balance::RoundRobin),
    ("weighted-round-robin", Balance::RoundRobin),
    ("least-connections", Balance::LeastConnections),
    ("client-address-hash", Balance::ClientAddressHash),
];

const HASH: &str = "balance = { cookie_hash = \"session\" }";
const EJECTION: &str = "ejection = { consecutive_failures = 5, time = \"30s\", max_share = \"50%\" }";
const ENDPOINT: &str = "{ address = \"127.0.0.1:9001\", weight = 2 }";

const SLOW_STARTS: Bounds = Bounds {
    least: Duration::ZERO,
    most: Duration::from_hours(1),
    why: "it is how long a new or recovered endpoint takes to get its whole share; zero for at once",
};

const PANICS: Percentages =
    Percentages { least: "0%", most: "100%", why: "with a smaller share of endpoints available, health is ignored" };

const EJECTIONS: Bounds = Bounds {
    least: Duration::from_secs(1),
    most: Duration::from_hours(1),
    why: "a shorter one is over before the next request, a longer one outlasts any trouble",
};

const SHARES: Percentages = Percentages {
    least: "0.01%",
    most: "100%",
    why: "one endpoint is kept in any case; `false` switches ejection off",
};

const PENDING_TIMES: Bounds = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_mins(1),
    why: "a shorter one is not worth the wait, and clients do not wait longer",
};

const FAILURES: value::Counts =
    value::Counts { least: 1, most: 1_000, why: "so many failures in a row eject an endpoint; `false` for never" };

const LIMITS: value::Counts = value::Counts {
    least: 1,
    most: 1_000_000,
    why: "it is a number of requests or connections; leave it out for none",
};

const PENDING: value::Counts =
    value::Counts { least: 0, most: 100_000, why: "each waiting request holds its client's connection" };

const WEIGHTS: value::Counts =
    value::Counts { least: 1, most: 1_000, why: "weights are relative; to give an endpoint nothing, leave it out" };
