//! What an operator declares about rolling back.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an operator declares about rolling back.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub mode: Mode,
    pub error_rate: Option<ErrorLimit>,
    pub latency: Option<LatencyLimit>,
    pub exposure: ExposureBudget,
    pub unit: Unit,
}

/// What one coin is tossed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    #[default]
    Request,
    /// With stickiness: for a session, whose requests then all go the same way.
    Session,
    /// With a fixed cohort nothing is left to chance.
    None,
}

/// What the machine may do with its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Takes a bad canary's weight to zero.
    #[default]
    AbortOnly,
    /// Judges and records, and leaves the weight alone.
    Observe,
}

/// What a canary may cost, whatever the statistics say. Nothing is limited unless declared; see [`super::exposure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExposureBudget {
    /// Failures that clients may see, per exposure.
    pub failures: Option<u64>,
    /// A cap on the canary's requests.
    pub requests_per_second: Option<NonZeroU32>,
}

/// An absolute limit on the share of failures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorLimit {
    /// As a fraction.
    pub above: f64,
    pub window: Duration,
}

/// An absolute limit on a latency quantile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyLimit {
    /// As a fraction: 0.99.
    pub quantile: f64,
    pub above: Duration,
    pub window: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        let error_rate = ErrorLimit { above: 0.05, window: Duration::from_secs(10) };
        Policy {
            mode: Mode::default(),
            error_rate: Some(error_rate),
            latency: None,
            exposure: ExposureBudget::default(),
            unit: Unit::default(),
        }
    }
}
