//! The verdict on a canary, from counts alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::split::Weight;
use super::time::Tick;
use super::window::{Drawn, Generation, Row};

/// What an operator declares about rolling back.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub mode: Mode,
    pub error_rate: Option<ErrorLimit>,
    pub latency: Option<LatencyLimit>,
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
        Policy { mode: Mode::default(), error_rate: Some(error_rate), latency: None }
    }
}

/// What the judge says at the end of a tick.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Not enough to say anything.
    Undecided,
    /// Something is over its limit, but the coin has not convicted the canary.
    Hold(Hold),
    /// Over its limit with too little stable traffic to compare with: lower the weight to a half for a while.
    Probe,
    /// Take the canary's traffic away.
    Worse(Conviction),
}

/// Why a verdict is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Stable is over the limit as well: a shared cause.
    SharedDegradation,
    /// The canary alone is over the limit, and the comparison has not decided yet.
    CanaryOverLimit,
}

/// What convicted the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The comparison with stable.
    #[default]
    Evidence,
    /// The outage guard: the canary is down and stable is not.
    Outage,
    /// An absolute limit, broken by the canary while stable keeps it.
    Limit,
    /// No endpoint of the canary accepts a connection.
    Health,
}

/// The numbers behind a conviction.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Conviction {
    pub trigger: Trigger,
    /// Natural logarithm of the evidence; infinite evidence (health) is stated as the threshold.
    pub log_e: f64,
    /// Natural logarithm of what was needed.
    pub threshold: f64,
    /// One sentence for people.
    pub because: String,
}

/// Where the evidence stands now, for people.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Reading {
    /// Evidence of the strongest of the tests, scaled so that 1000 rolls back.
    pub towards_1000: f64,
}

/// Judges one exposure.
#[derive(Debug)]
pub struct Judge {}

impl Judge {
    #[must_use]
    pub fn new(_policy: &Policy) -> Judge {
        Judge {}
    }

    /// Ends tick `now`, in which the weight was `weight`: `rows` is everything the workers reported since the last call.
    pub fn tick<'a>(
        &mut self,
        _now: Tick,
        _weight: Weight,
        _rows: impl Iterator<Item = (&'a Drawn, &'a Row)>,
    ) -> Verdict {
        Verdict::Undecided
    }

    /// The generation that requests routed from now on belong to.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(0)
    }

    #[must_use]
    pub fn reading(&self) -> Reading {
        Reading::default()
    }
}
