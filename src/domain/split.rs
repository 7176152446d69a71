//! The rule that picks a version: pins in file order, then one independent coin per request.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::route::Facts;

/// The canary's share of new requests, in basis points of the whole (0.01 %).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Weight(u16);

/// Why a text is not a weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    #[error("a weight is written as a percentage, such as \"10%\" or \"2.5%\"")]
    Form,
    #[error("a weight has at most two decimals")]
    Decimals,
    #[error("a weight lies between \"0%\" and \"100%\"")]
    Range,
}

impl Weight {
    pub const ZERO: Weight = Weight(0);
    /// Where a probe puts the canary: the coin says most when it is fair.
    pub const HALF: Weight = Weight(5_000);
    pub const FULL: Weight = Weight(10_000);

    /// `None` above 10,000.
    #[must_use]
    pub fn from_basis_points(points: u16) -> Option<Weight> {
        (points <= Self::FULL.0).then_some(Weight(points))
    }

    /// Reads `"2.5%"`: digits, at most two decimals, a percent sign. Works on the text, so no third decimal is rounded
    /// away.
    pub fn parse(text: &str) -> Result<Weight, WeightError> {
        let number = text.trim().strip_suffix('%').ok_or(WeightError::Form)?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if number.starts_with('-') && digits(&whole[1..]) {
            return Err(WeightError::Range);
        }
        if !digits(whole) || !digits(decimals) {
            return Err(WeightError::Form);
        }
        let significant = decimals.trim_end_matches('0');
        if significant.len() > 2 {
            return Err(WeightError::Decimals);
        }
        let hundredths: u16 = format!("{significant:0<2}").parse().map_err(|_| WeightError::Form)?;
        let whole: u16 = whole.parse().map_err(|_| WeightError::Range)?;
        whole
            .checked_mul(100)
            .and_then(|points| points.checked_add(hundredths))
            .and_then(Weight::from_basis_points)
            .ok_or(WeightError::Range)
    }

    #[must_use]
    pub fn basis_points(self) -> u16 {
        self.0
    }

    /// As a probability.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(Self::FULL.0)
    }

    /// What is left for the other version.
    #[must_use]
    pub fn rest(self) -> Weight {
        Weight(Self::FULL.0 - self.0)
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether a draw, uniform over `u64`, falls to the canary.
    #[must_use]
    pub fn wins(self, draw: u64) -> bool {
        let bucket = (u128::from(draw) * u128::from(Self::FULL.0)) >> 64;
        bucket < u128::from(self.0)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, hundredths) = (self.0 / 100, self.0 % 100);
        match hundredths {
            0 => write!(f, "{whole}%"),
            tenths if tenths % 10 == 0 => write!(f, "{whole}.{}%", tenths / 10),
            hundredths => write!(f, "{whole}.{hundredths:02}%"),
        }
    }
}

impl Serialize for Weight {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Weight, D::Error> {
        let text = String::deserialize(deserializer)?;
        Weight::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The two roles of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Stable,
    Canary,
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Stable => "stable",
            Role::Canary => "canary",
        }
    }
}

/// What a pin looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matcher {
    Header { name: http::HeaderName, value: Option<String> },
    Cookie { name: String, value: Option<String> },
    Query { name: String, value: Option<String> },
}

impl Matcher {
    /// Without a value, being there is enough.
    #[must_use]
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Matcher::Header { name, value } => {
                facts.headers.get_all(name).iter().any(|seen| wanted(value.as_ref(), seen.as_bytes()))
            }
            Matcher::Cookie { name, value } => {
                facts.cookies().any(|(seen, is)| seen == name && wanted(value.as_ref(), is.as_bytes()))
            }
            Matcher::Query { name, value } => {
                facts.query_pairs().any(|(seen, is)| seen == name && wanted(value.as_ref(), is.as_bytes()))
            }
        }
    }
}

fn wanted(value: Option<&String>, seen: &[u8]) -> bool {
    value.is_none_or(|value| value.as_bytes() == seen)
}

/// A declared, open-to-everybody rule: who matches goes to that version (an index into the service's versions).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub matcher: Matcher,
    pub version: usize,
}

/// The split as the data plane uses it: seals already resolved, versions as indexes into the service's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub stable: usize,
    pub canary: Option<usize>,
    pub weight: Weight,
    pub pins: Box<[Pin]>,
}

/// Which version, and how it came to be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub version: usize,
    pub selected: Selected,
}

/// How a version came to be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Selected {
    /// By the coin: counts as evidence.
    Weight,
    /// By a pin: recorded, marked, never evidence.
    Forced,
}

impl Selected {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Selected::Weight => "weight",
            Selected::Forced => "forced",
        }
    }
}

impl Split {
    /// Picks a version; `draw` is uniform over `u64` and independent per request (the verdict's guarantee rests on it).
    #[must_use]
    pub fn choose(&self, facts: &Facts<'_>, draw: u64) -> Choice {
        if let Some(pin) = self.pins.iter().find(|pin| pin.matcher.matches(facts)) {
            return Choice { version: pin.version, selected: Selected::Forced };
        }
        let version = match self.canary {
            Some(canary) if self.weight.wins(draw) => canary,
            _ => self.stable,
        };
        Choice { version, selected: Selected::Weight }
    }

    #[must_use]
    pub fn role(&self, version: usize) -> Option<Role> {
        if version == self.stable {
            Some(Role::Stable)
        } else if Some(version) == self.canary {
            Some(Role::Canary)
        } else {
            None
        }
    }

    /// Stable for the canary; the canary for stable, while the coin sends anybody there.
    #[must_use]
    pub fn other(&self, version: usize) -> Option<usize> {
        match self.role(version)? {
            Role::Stable => self.canary.filter(|_| !self.weight.is_zero()),
            Role::Canary => Some(self.stable),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::route::Request;

    fn split(weight: Weight, pins: Vec<Pin>) -> Split {
        Split { stable: 0, canary: Some(1), weight, pins: pins.into() }
    }

    fn header(value: &str, version: usize) -> Pin {
        Pin {
            matcher: Matcher::Header { name: http::HeaderName::from_static("x-canary"), value: Some(value.into()) },
            version,
        }
    }

    #[test]
    fn a_weight_is_a_percentage_with_two_decimals() {
        for (text, points) in [
            ("0%", 0),
            ("0.01%", 1),
            ("2.5%", 250),
            ("10%", 1_000),
            ("99.99%", 9_999),
            ("100%", 10_000),
            ("100.00%", 10_000),
            ("5.500%", 550),
        ] {
            assert_eq!(Weight::parse(text), Ok(Weight(points)), "{text}");
        }
        for (text, error) in [
            ("", WeightError::Form),
            ("10", WeightError::Form),
            ("%", WeightError::Form),
            ("NaN%", WeightError::Form),
            ("1e1%", WeightError::Form),
            ("1.%", WeightError::Form),
            (".5%", WeightError::Form),
            ("1.234%", WeightError::Decimals),
            ("100.01%", WeightError::Range),
            ("-1%", WeightError::Range),
            ("70000%", WeightError::Range),
        ] {
            assert_eq!(Weight::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn pins_win_in_file_order_and_are_marked() {
        let split = split(Weight::FULL, vec![header("never", 0), header("always", 1)]);
        let never = Request::get("/").header("x-canary", "never");
        assert_eq!(split.choose(&never.facts(), 0), Choice { version: 0, selected: Selected::Forced });
        let unpinned = Request::get("/").header("x-canary", "maybe");
        assert_eq!(split.choose(&unpinned.facts(), 0), Choice { version: 1, selected: Selected::Weight });
    }

    #[test]
    fn cookies_and_query_parameters_pin_too() {
        let pins = vec![
            Pin { matcher: Matcher::Cookie { name: "beta".into(), value: Some("1".into()) }, version: 1 },
            Pin { matcher: Matcher::Query { name: "canary".into(), value: None }, version: 1 },
        ];
        let split = split(Weight::ZERO, pins);
        let chosen = |request: &Request| split.choose(&request.facts(), 0).version;
        assert_eq!(chosen(&Request::get("/").header("cookie", "a=b; beta=1")), 1);
        assert_eq!(chosen(&Request::get("/").header("cookie", "beta=2")), 0);
        assert_eq!(chosen(&Request::get("/?x=1&canary")), 1);
        assert_eq!(chosen(&Request::get("/?canary=0")), 1);
        assert_eq!(chosen(&Request::get("/?xcanary=0")), 0);
    }

    #[test]
    fn without_a_canary_everything_is_stable() {
        let split = Split { stable: 0, canary: None, weight: Weight::FULL, pins: Box::default() };
        assert_eq!(split.choose(&Request::get("/").facts(), 0).version, 0);
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(points in 0u16..=10_000) {
            prop_assert_eq!(Weight::parse(&Weight(points).to_string()), Ok(Weight(points)));
        }

        #[test]
        fn reading_never_panics(text in "\\PC*") {
            let _ = Weight::parse(&text);
        }

        #[test]
        fn the_share_of_draws_is_the_weight(points in 0u16..=10_000) {
            // Draws on an even grid fall to the canary in exact proportion.
            let step = u64::MAX / 10_000;
            let wins = (0..10_000u64).filter(|i| Weight(points).wins(i * step + step / 2)).count();
            prop_assert_eq!(wins, usize::from(points));
        }

        #[test]
        fn a_rising_weight_only_adds_draws(low in 0u16..=10_000, high in 0u16..=10_000, draw: u64) {
            let (low, high) = (low.min(high), low.max(high));
            prop_assert!(!Weight(low).wins(draw) || Weight(high).wins(draw));
        }
    }
}
