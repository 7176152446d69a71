//! `[services.NAME]`: from a table to a checked [`Definition`].

use std::sync::Arc;
use std::time::Duration;

use super::admission;
use super::balance;
use super::file::{At, Field, Meaning, Place, Table, closest, listed};
use super::health_check;
use super::problem::clipped;
use super::retries;
use super::route::{ROUTES, error_pages, routes};
use super::sticky;
use super::value::{self, Bounds, Endpoint, Percentages};
use crate::domain::admission::Admission;
use crate::domain::balance::Balancing;
use crate::domain::check::HealthCheck;
use crate::domain::error_pages::ErrorPages;
use crate::domain::judge::{ErrorLimit, ExposureBudget, LatencyLimit, Mode, Policy, Unit};
use crate::domain::names::{ServiceName, VersionName};
use crate::domain::retry::RetryPolicy;
use crate::domain::route::Route;
use crate::domain::service::{Definition, EndpointDefinition, PinDefinition, Target, Timeouts, VersionDefinition};
use crate::domain::split::{Matcher, Role, Weight};
use crate::domain::sticky::Stickiness;

/// A service as far as it could be read: enough to check it against itself and the others even when parts are wrong.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub place: Place<'a>,
    pub name: Option<ServiceName>,
    pub routes: Vec<At<'a, Arc<Route>>>,
    /// `None` when they could not be read at all.
    pub versions: Option<Vec<DraftVersion<'a>>>,
    pub stable: Option<At<'a, &'a str>>,
    pub canary: Option<At<'a, &'a str>>,
    /// Also when its name could not be read.
    pub has_canary: bool,
    pub weight: Option<At<'a, Weight>>,
    pub pins: Vec<DraftPin<'a>>,
    policy: Policy,
    pub sticky: Option<Stickiness>,
    timeouts: Timeouts,
    retries: RetryPolicy,
    error_pages: ErrorPages,
    admission: Admission,
    health_check: Option<HealthCheck>,
    balancing: Balancing,
}

#[derive(Debug)]
pub(super) struct DraftVersion<'a> {
    pub key: At<'a, &'a str>,
    pub name: Option<VersionName>,
    pub endpoints: Vec<At<'a, Endpoint>>,
    capacity: Option<u32>,
    /// Of the endpoints, in their order.
    pub weights: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct DraftPin<'a> {
    matcher: Option<Matcher>,
    /// A role, or a version's name.
    pub version: Option<At<'a, &'a str>>,
}

impl<'a> Draft<'a> {
    pub fn read(key: &At<'a, &'a str>, field: Field<'a>) -> Option<Draft<'a>> {
        let name = value::name(key, ServiceName::new);
        let mut table = field.section()?;
        let routed = table.required("routes", ROUTES);
        let stable = table.required("stable", "stable = \"v1\"");
        let canary = table.get("canary");
        let draft = Draft {
            place: table.place.clone(),
            name,
            routes: routed.map(|field| routes(&field)).unwrap_or_default(),
            versions: table.get("versions").map_or(Some(Vec::new()), versions),
            stable: stable.and_then(|field| field.text(VERSION)),
            has_canary: canary.is_some(),
            canary: canary.and_then(|field| field.text(VERSION)),
            weight: table.get("weight").and_then(|field| value::percentage(&field, &WEIGHTS)),
            pins: table.get("pins").map(|field| pins(&field)).unwrap_or_default(),
            policy: table.get("rollback").map(rollback).unwrap_or_default(),
            sticky: table.get("sticky").and_then(sticky::read),
            timeouts: table.get("timeouts").map(timeouts).unwrap_or_default(),
            retries: retries::read(&mut table),
            error_pages: table.get("error_pages").and_then(error_pages).unwrap_or_default(),
            admission: admission::admission(&mut table),
            health_check: table.get("health_check").and_then(health_check::read),
            balancing: balance::read(&mut table),
        };
        table.finish();
        Some(draft)
    }

    pub fn versions(&self) -> &[DraftVersion<'a>] {
        self.versions.as_deref().unwrap_or_default()
    }

    /// What the pins name: roles or versions.
    pub fn pinned(&self) -> impl Iterator<Item = &At<'a, &'a str>> {
        self.pins.iter().filter_map(|pin| pin.version.as_ref())
    }

    /// Whether stable, canary and all pins could be read.
    pub fn is_named_throughout(&self) -> bool {
        let pins = self.pins.iter().all(|pin| pin.version.is_some());
        self.stable.is_some() && self.canary.is_some() == self.has_canary && pins
    }

    pub fn version(&self, name: &str) -> Option<&DraftVersion<'a>> {
        self.versions().iter().find(|version| version.key.value == name)
    }

    /// What to write instead of a version's name that is not listed.
    pub fn meant(&self, name: &str, others: &[&'static str]) -> String {
        let mut known: Vec<&str> = self.versions().iter().map(|version| version.key.value).collect();
        known.extend(others);
        match closest(name, &known) {
            Some(meant) => format!("did you mean `{}`?", clipped(meant)),
            None if known.is_empty() => "list it".to_owned(),
            None => format!("name one of {}", listed(&known)),
        }
    }

    /// `None` when a part is wrong; that has been reported then.
    /// Whether the canary's requests are counted by the second.
    pub fn has_cap(&self) -> bool {
        self.policy.exposure.requests_per_second.is_some()
    }

    pub fn build(self) -> Option<Definition> {
        let versions: Option<Vec<VersionDefinition>> = self.versions?.into_iter().map(DraftVersion::build).collect();
        let pins: Option<Vec<PinDefinition>> = self.pins.into_iter().map(DraftPin::build).collect();
        let canary = match self.canary {
            Some(canary) => Some(VersionName::new(canary.value).ok()?),
            None => None,
        };
        Some(Definition {
            name: self.name?,
            routes: self.routes.into_iter().map(|route| route.value).collect(),
            error_pages: self.error_pages,
            versions: versions?,
            stable: VersionName::new(self.stable?.value).ok()?,
            canary,
            weight: self.weight.map(|weight| weight.value).unwrap_or_default(),
            pins: pins?,
            policy: Policy { unit: self.sticky.as_ref().map_or(Unit::Request, sticky::unit), ..self.policy },
            sticky: self.sticky.map(Arc::new),
            timeouts: self.timeouts,
            retries: self.retries,
            admission: self.admission,
            health_check: self.health_check,
            balancing: self.balancing,
        })
    }
}

impl DraftVersion<'_> {
    fn build(self) -> Option<VersionDefinition> {
        let endpoints = self.endpoints.into_iter().zip(self.weights);
        let endpoints = endpoints.map(|(at, weight)| EndpointDefinition { authority: at.value.text, weight }).collect();
        Some(VersionDefinition { name: self.name?, endpoints, capacity: self.capacity })
    }
}

impl DraftPin<'_> {
    fn build(self) -> Option<PinDefinition> {
        let version = self.version?.value;
        let target = match role(version) {
            Some(Role::Stable) => Target::Stable,
            Some(Role::Canary) => Target::Canary,
            None => Target::Version(VersionName::new(version).ok()?),
        };
        Some(PinDefinition { matcher: self.matcher?, target })
    }
}

/// The role that a pin's `version` names, if it is not a version's own name.
pub(super) fn role(text: &str) -> Option<Role> {
    [Role::Stable, Role::Canary].into_iter().find(|role| role.as_str() == text)
}

fn versions(field: Field<'_>) -> Option<Vec<DraftVersion<'_>>> {
    let example = format!("[{}.v1]", field.place.path);
    let table = field.table(&example)?;
    Some(table.named().into_iter().map(|(key, field)| version(key, field)).collect())
}

fn version<'a>(key: At<'a, &'a str>, field: Field<'a>) -> DraftVersion<'a> {
    let name = value::name(&key, VersionName::new);
    if role(key.value).is_some() {
        let message = format!("a version cannot be called `{}`", key.value);
        key.place.error(message, "give it another name: in a pin, this word means the role");
    }
    let mut capacity = None;
    let endpoints = field.section().map(|mut table| {
        let field = table.required("endpoints", ENDPOINTS);
        capacity = table.get("capacity").and_then(|field| admission::capacity(&field));
        table.finish();
        field.map(|field| endpoints(&field)).unwrap_or_default()
    });
    let (endpoints, weights) = endpoints.unwrap_or_default().into_iter().unzip();
    DraftVersion { key, name, endpoints, capacity, weights }
}

fn endpoints<'a>(field: &Field<'a>) -> Vec<(At<'a, Endpoint>, u32)> {
    let Some(items) = field.items(ENDPOINTS) else { return Vec::new() };
    if items.is_empty() {
        field.place.error("a version without endpoints cannot answer", format!("write `{ENDPOINTS}`"));
    }
    items.into_iter().filter_map(balance::endpoint).collect()
}

fn pins<'a>(field: &Field<'a>) -> Vec<DraftPin<'a>> {
    let items = field.items(PINS).unwrap_or_default();
    items.into_iter().filter_map(pin).collect()
}

fn pin(field: Field<'_>) -> Option<DraftPin<'_>> {
    let mut table = field.table(PIN)?;
    let keys = [table.get("header"), table.get("cookie"), table.get("query")];
    let value = table.get("value").map(|field| field.text(Meaning::Text("always")));
    let version = table.required("version", "version = \"canary\"").and_then(|field| field.text(VERSION));
    let matcher = match value {
        Some(None) => None,
        Some(Some(value)) => matcher(&table, keys, Some(value)),
        None => matcher(&table, keys, None),
    };
    table.finish();
    Some(DraftPin { matcher, version })
}

/// Exactly one of `header`, `cookie` and `query`.
fn matcher(table: &Table<'_>, keys: [Option<Field<'_>>; 3], value: Option<At<'_, &str>>) -> Option<Matcher> {
    match keys {
        [Some(header), None, None] => header_matcher(&header, value),
        [None, Some(cookie), None] => {
            let name = value::cookie_name(&cookie)?;
            let value = sendable(value, |b| b.is_ascii_graphic() && b != b';').ok()?;
            Some(Matcher::Cookie { name, value })
        }
        [None, None, Some(query)] => {
            let name = query_name(&query)?;
            let value = sendable(value, |b| b.is_ascii_graphic() && !b"&#".contains(&b)).ok()?;
            Some(Matcher::Query { name, value })
        }
        [None, None, None] => {
            let help = format!("add `header`, `cookie` or `query`, as in `{PIN}`");
            table.place.error("a pin must say what it looks at", help);
            None
        }
        _ => {
            let help = "keep one of `header`, `cookie` and `query`; pins are tried one after the other, so write a pin for each";
            table.place.error("a pin looks at one thing", help);
            None
        }
    }
}

fn header_matcher(field: &Field<'_>, value: Option<At<'_, &str>>) -> Option<Matcher> {
    let name = value::header_name(field)?;
    let value = sendable(value, |b| b == b' ' || b.is_ascii_graphic()).ok()?;
    Some(Matcher::Header { name, value })
}

pub(super) fn query_name(field: &Field<'_>) -> Option<String> {
    let At { value: text, place } = field.text(Meaning::Text("canary"))?;
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"&=#?".contains(&b)) {
        return Some(text.to_owned());
    }
    let message = format!("`{}` is not the name of a query parameter", clipped(text));
    place.error(message, "write it as it stands in the URL, percent-encoded, without `?`, `&`, `=` and `#`");
    None
}

/// What was reported already.
pub(super) struct Reported;

/// Refuses a value that no request can carry: the pin or route would silently never match.
pub(super) fn sendable(value: Option<At<'_, &str>>, fits: impl Fn(u8) -> bool) -> Result<Option<String>, Reported> {
    let Some(At { value: text, place }) = value else { return Ok(None) };
    if text.trim() == text && text.bytes().all(fits) {
        return Ok(Some(text.to_owned()));
    }
    let message = format!("no request can carry the value `{}` there", clipped(text));
    place.error(message, "write it as it is sent: in ASCII, without separators and without spaces at its ends");
    Err(Reported)
}

fn rollback(field: Field<'_>) -> Policy {
    let mut policy = Policy::default();
    let Some(mut table) = field.section() else { return policy };
    if let Some(field) = table.get("error_rate") {
        policy.error_rate = if value::switched_off(&field, ERROR_RATE, "ABOVE") { None } else { error_limit(field) };
    }
    if let Some(field) = table.get("latency") {
        policy.latency = if value::switched_off(&field, LATENCY, "ABOVE") { None } else { latency_limit(field) };
    }
    if let Some(field) = table.get("exposure") {
        policy.exposure = if value::switched_off(&field, admission::EXPOSURE, "FAILURES") {
            ExposureBudget::default()
        } else {
            admission::exposure(field)
        };
    }
    if let Some(mode) = table.get("mode").and_then(|field| value::word(&field, MODES)) {
        policy.mode = mode;
    }
    table.finish();
    policy
}

fn error_limit(field: Field<'_>) -> Option<ErrorLimit> {
    let default = Policy::default().error_rate?;
    let mut table = field.table(ERROR_RATE)?;
    let above = table.get("above").map(|field| value::percentage(&field, &ERROR_RATES));
    let window = table.get("window").map(|field| value::duration(&field, &WINDOWS));
    table.finish();
    Some(ErrorLimit {
        above: above.map_or(Some(default.above), |at| at.map(|at| at.value.fraction()))?,
        window: window.unwrap_or(Some(default.window))?,
    })
}

fn latency_limit(field: Field<'_>) -> Option<LatencyLimit> {
    let mut table = field.table(LATENCY)?;
    let quantile = table.get("quantile").map(|field| value::percentage(&field, &QUANTILES));
    let above = table.required("above", "above = \"5s\"").and_then(|field| value::duration(&field, &LATENCIES));
    let window = table.get("window").map(|field| value::duration(&field, &WINDOWS));
    table.finish();
    Some(LatencyLimit {
        quantile: quantile.map_or(Some(LATENCY_QUANTILE), |at| at.map(|at| at.value.fraction()))?,
        above: above?,
        window: window.unwrap_or(Some(LATENCY_WINDOW))?,
    })
}

fn timeouts(field: Field<'_>) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(mut table) = field.section() else { return timeouts };
    let mut read = |key, bounds: &Bounds, into: &mut Duration| {
        if let Some(duration) = table.get(key).and_then(|field| value::duration(&field, bounds)) {
            *into = duration;
        }
    };
    read("connect", &CONNECT, &mut timeouts.connect);
    read("response_head", &RESPONSE_HEAD, &mut timeouts.response_head);
    read("body_idle", &BODY_IDLE, &mut timeouts.body_idle);
    timeouts.per_try = table.get("per_try").and_then(|field| retries::limit(&field));
    timeouts.total = table.get("total").and_then(|field| retries::limit(&field));
    table.finish();
    timeouts
}

/// Of a latency limit that does not name its quantile.
const LATENCY_QUANTILE: f64 = 0.99;

/// Of a latency limit that does not name its window: three times that of errors, because a tail needs more requests.
const LATENCY_WINDOW: Duration = Duration::from_secs(30);

const VERSION: Meaning = Meaning::Text("v1");

const ENDPOINTS: &str = r#"endpoints = ["127.0.0.1:9001"]"#;
const PIN: &str = r#"{ header = "x-canary", value = "always", version = "canary" }"#;
const PINS: &str = r#"pins = [{ header = "x-canary", value = "always", version = "canary" }]"#;
const ERROR_RATE: &str = r#"error_rate = { above = "5%", window = "10s" }"#;
const LATENCY: &str = r#"latency = { quantile = "99%", above = "5s", window = "30s" }"#;

const MODES: &[(&str, Mode)] = &[("abort-only", Mode::AbortOnly), ("observe", Mode::Observe)];

const WEIGHTS: Percentages = Percentages { least: "0%", most: "100%", why: "it is the canary's share of new requests" };

const QUANTILES: Percentages = Percentages {
    least: "50%",
    most: "99.99%",
    why: "below the median it says nothing of the slow, and nothing short of every request is above 99.99%",
};

const ERROR_RATES: Percentages = Percentages {
    least: "0.01%",
    most: "99.99%",
    why: "a canary need not be perfect, and one that fails always must be over its limit; `false` switches it off",
};

const WINDOWS: Bounds = Bounds {
    least: Duration::from_secs(1),
    most: Duration::from_mins(10),
    why: "a shorter window holds too few requests, a longer one is slow to notice",
};

const LATENCIES: Bounds =
    Bounds { least: Duration::from_millis(1), most: Duration::from_mins(1), why: "that is what the histograms cover" };

const CONNECT: Bounds = Bounds {
    least: Duration::from_millis(1),
    most: Duration::from_mins(1),
    why: "an endpoint that takes longer to accept a connection is down",
};

const RESPONSE_HEAD: Bounds = Bounds {
    least: Duration::from_millis(10),
    most: Duration::from_hours(1),
    why: "a shorter one fails healthy versions, a longer one lets a hung version hold every client",
};

const BODY_IDLE: Bounds = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_hours(1),
    why: "a shorter one cuts off slow clients, a longer one keeps dead connections",
};
