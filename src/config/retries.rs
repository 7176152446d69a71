//! What `[services.NAME]` says about repeating requests: `retries`, `shielding`, `skew_rescue`, and the timeouts that
//! belong to them.

use std::time::Duration;

use super::file::{At, Field, Meaning, Table};
use super::problem::clipped;
use super::value::{self, Bounds};
use crate::domain::retry::{Reason, Reasons, RetryPolicy};

/// Takes its keys out of a service's table.
pub(super) fn read(service: &mut Table<'_>) -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    if let Some(field) = service.get("retries") {
        retries(field, &mut policy);
    }
    if let Some(field) = service.get("shielding") {
        policy.shielding = shielding(field);
    }
    if let Some(field) = service.get("skew_rescue") {
        policy.skew_rescue = skew_rescue(field);
    }
    policy
}

fn retries(field: Field<'_>, policy: &mut RetryPolicy) {
    let Some(mut table) = field.section() else { return };
    if let Some(on) = table.get("on").and_then(|field| reasons(&field)) {
        policy.on = on;
    }
    let mut read = |key, into: &mut bool| {
        if let Some(allowed) = table.get(key).and_then(|field| field.boolean()) {
            *into = allowed;
        }
    };
    read("idempotent_methods", &mut policy.idempotent_methods);
    read("idempotency_key", &mut policy.idempotency_key);
    if let Some(buffer) = table.get("buffer").and_then(|field| buffer(&field)) {
        policy.buffer = buffer;
    }
    table.finish();
}

/// `false` switches it off.
fn shielding(field: Field<'_>) -> Option<Reasons> {
    let default = RetryPolicy::default().shielding;
    if field.is_boolean() {
        return default.filter(|_| field.boolean() == Some(true));
    }
    let mut table = field.table(SHIELDING)?;
    let on = table.get("on").and_then(|field| reasons(&field));
    table.finish();
    on.or(default)
}

fn reasons(field: &Field<'_>) -> Option<Reasons> {
    let items = field.items(ON)?;
    Some(items.iter().filter_map(|item| value::word(item, REASONS)).collect())
}

fn skew_rescue(field: Field<'_>) -> Box<[String]> {
    let Some(mut table) = field.section() else { return Box::default() };
    let prefixes = table.required("path_prefixes", PATH_PREFIXES).and_then(|field| field.items(PATH_PREFIXES));
    table.finish();
    prefixes.unwrap_or_default().iter().filter_map(value::path_prefix).collect()
}

/// A number of bytes: `64KiB`, `1MiB`, or `0`.
fn buffer(field: &Field<'_>) -> Option<usize> {
    let At { value: text, place } = field.text(Meaning::Text("64KiB"))?;
    let bytes = bytes(text.trim());
    match bytes {
        None => {
            let help = format!("write `{}`; also `1MiB` or `0`", field.assigned(&field.quoted("64KiB")));
            place.error(format!("`{}` is not a size", clipped(text)), help);
        }
        Some(bytes) if bytes > LARGEST_BUFFER => {
            let help = "choose from `0` to `1MiB`: that much memory may be held for every request that can be repeated";
            place.error(format!("`{}` is more than 1MiB", clipped(text)), help);
        }
        Some(_) => {}
    }
    bytes.filter(|bytes| *bytes <= LARGEST_BUFFER)
}

fn bytes(text: &str) -> Option<usize> {
    let unit = |suffix, size: usize| Some((text.strip_suffix(suffix)?, size));
    let (digits, size) =
        unit("MiB", 1 << 20).or_else(|| unit("KiB", 1 << 10)).or_else(|| unit("B", 1)).unwrap_or((text, 1));
    let digits = digits.trim_end();
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (size == 1 && text == digits && digits != "0") {
        return None; // a number alone may be meant in any unit
    }
    digits.parse().unwrap_or(usize::MAX).checked_mul(size).or(Some(usize::MAX))
}

/// As [`bytes()`] reads it.
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        bytes if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        bytes if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        bytes => format!("{bytes}B"),
    }
}

/// A timeout that can be `off`.
pub(super) fn limit(field: &Field<'_>) -> Option<Duration> {
    if field.is_text_of("off") { None } else { value::duration(field, &LIMITS) }
}

const LARGEST_BUFFER: usize = 1 << 20;

const ON: &str = r#"on = ["reset", "timeout", "502", "503", "504"]"#;
const SHIELDING: &str = r#"shielding = { on = ["reset", "timeout", "502", "503", "504"] }"#;
const PATH_PREFIXES: &str = r#"path_prefixes = ["/assets"]"#;

/// What can be chosen. That nothing could be written is always enough.
const REASONS: &[(&str, Reason)] = &[
    ("reset", Reason::Reset),
    ("timeout", Reason::Timeout),
    ("500", Reason::InternalServerError),
    ("502", Reason::BadGateway),
    ("503", Reason::ServiceUnavailable),
    ("504", Reason::GatewayTimeout),
];

const LIMITS: Bounds = Bounds {
    least: Duration::from_millis(10),
    most: Duration::from_hours(1),
    why: "a shorter one fails healthy versions; `off` is for none at all",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_names_its_unit() {
        for (text, read) in [
            ("0", Some(0)),
            ("0KiB", Some(0)),
            ("17B", Some(17)),
            ("64KiB", Some(65_536)),
            ("1 MiB", Some(1 << 20)),
            ("99999999999999999999MiB", Some(usize::MAX)),
            ("64", None),
            ("64kb", None),
            ("KiB", None),
            ("-1KiB", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), read, "{text}");
        }
        for bytes_ in [0, 1, 1_023, 1_024, 65_536, 1 << 20] {
            assert_eq!(bytes(&size(bytes_)), Some(bytes_));
        }
    }

    #[test]
    fn every_reason_is_spelled_as_in_the_metrics() {
        assert!(REASONS.iter().all(|(word, reason)| reason.as_str() == *word));
    }
}
