//! `rate_limit` and `hold` of a service, a version's `capacity`, and the exposure budget: numbers that bound something.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::file::{At, Field, Meaning, Table};
use super::problem::clipped;
use super::value::{self, Bounds};
use crate::domain::admission::{
    Admission, ClientKey, DEFAULT_KEYS, HoldQueue, MOST_REQUESTS, Rate, RateError, RateLimit,
};
use crate::domain::judge::ExposureBudget;

/// The parts of `[services.NAME]` that are read here.
pub(super) fn admission(service: &mut Table<'_>) -> Admission {
    Admission {
        rate_limit: service.get("rate_limit").and_then(rate_limit).map(Arc::new),
        hold: service.get("hold").map(hold).unwrap_or_default(),
    }
}

fn rate_limit(field: Field<'_>) -> Option<RateLimit> {
    if field.is_boolean() && field.boolean() == Some(false) {
        return None;
    }
    let mut table = field.section()?;
    let key = key(&mut table);
    let rate = table.required("rate", RATE).and_then(|field| rate(&field));
    let burst = table.get("burst").map(|field| count(&field, MOST_REQUESTS, "20"));
    let keys = table.get("keys").map(|field| count(&field, MOST_KEYS, "100_000"));
    table.finish();
    let rate = rate?;
    Some(RateLimit {
        key: key?,
        rate,
        burst: burst.unwrap_or(Some(rate.requests))?,
        keys: keys.map_or(Some(DEFAULT_KEYS), |keys| keys.and_then(|keys| usize::try_from(keys.get()).ok()))?,
    })
}

/// At most one of `header` and `cookie`.
fn key(table: &mut Table<'_>) -> Option<ClientKey> {
    match (table.get("header"), table.get("cookie")) {
        (None, None) => Some(ClientKey::Address),
        (Some(header), None) => value::header_name(&header).map(ClientKey::Header),
        (None, Some(cookie)) => value::cookie_name(&cookie).map(ClientKey::Cookie),
        (Some(_), Some(cookie)) => {
            cookie.place.error("a client is told by one thing", "keep one of `header` and `cookie`");
            None
        }
    }
}

fn rate(field: &Field<'_>) -> Option<Rate> {
    let At { value: text, place } = field.text(Meaning::Rate)?;
    let error = match Rate::parse(text) {
        Ok(rate) => return Some(rate),
        Err(error) => error,
    };
    let help = match error {
        RateError::Range => "choose from 1 to 1000000 requests; without the table nothing is limited".to_owned(),
        RateError::Form => {
            let help = field.assigned(&field.quoted("100/s"));
            format!("write requests and a unit: `{help}`; also `30/m` and `1000/h`")
        }
    };
    place.error(format!("`{}` is not a rate", clipped(text)), help);
    None
}

fn hold(field: Field<'_>) -> HoldQueue {
    let mut hold = HoldQueue::default();
    let Some(mut table) = field.section() else { return hold };
    if let Some(requests) = table.get("requests").and_then(|field| count(&field, MOST_HELD, "1000")) {
        hold.requests = requests.get();
    }
    if let Some(time) = table.get("time").and_then(|field| value::duration(&field, &HOLD)) {
        hold.time = time;
    }
    table.finish();
    hold
}

/// `capacity` of a version: requests per second and endpoint.
pub(super) fn capacity(field: &Field<'_>) -> Option<u32> {
    count(field, MOST_REQUESTS, "500").map(NonZeroU32::get)
}

/// `rollback.exposure`
pub(super) fn exposure(field: Field<'_>) -> ExposureBudget {
    let mut budget = ExposureBudget::default();
    let Some(mut table) = field.table(EXPOSURE) else { return budget };
    budget.failures =
        table.get("failures").and_then(|field| count(&field, MOST_REQUESTS, "50")).map(|n| n.get().into());
    budget.requests_per_second = table.get("requests_per_second").and_then(|field| count(&field, MOST_REQUESTS, "100"));
    if let Some(field) = table.get("keys") {
        let help = "remove it; `failures` and `requests_per_second` bound an exposure already";
        field.place.error("`keys` is not there yet: it needs clients that stay with their version", help);
    }
    table.finish();
    budget
}

fn count(field: &Field<'_>, most: u32, example: &str) -> Option<NonZeroU32> {
    let number = field.integer(example)?;
    let count = u32::try_from(number).ok().filter(|count| *count <= most).and_then(NonZeroU32::new);
    if count.is_none() {
        let help = format!("choose from 1 to {most}, such as `{}`", field.assigned(example));
        field.place.error(format!("`{number}` is not between 1 and {most}"), help);
    }
    count
}

const RATE: &str = "rate = \"100/s\"";
pub(super) const EXPOSURE: &str = "exposure = { failures = 50, requests_per_second = 100 }";

/// Sixteen bytes each, and their table: some hundred megabytes.
const MOST_KEYS: u32 = 10_000_000;

/// A request that waits keeps a connection.
const MOST_HELD: u32 = 100_000;

const HOLD: Bounds = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_mins(5),
    why: "a shorter one helps nobody through a cut-over, and clients do not wait for longer",
};
