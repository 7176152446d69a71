//! What the judge says, and the numbers behind it.

use serde::{Deserialize, Serialize};

/// What the judge says at the end of a tick.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Not enough to say anything.
    Undecided,
    /// Something is over its limit, but the coin has not convicted the canary.
    Hold(Hold),
    /// Over its limit with too little stable traffic to compare with: lower the weight to a half for a while.
    Probe,
    /// Take the canary's traffic away. Once said, it is said at every tick of this exposure.
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
    /// The comparison would convict, but there were too few sessions to rest that on.
    FewSessions,
}

/// What convicted the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The comparison with stable.
    #[default]
    Evidence,
    /// The outage guard, or with stickiness the breakdowns: the canary is down and stable is not.
    Outage,
    /// An absolute limit, broken by the canary while stable keeps it.
    Limit,
    /// No endpoint of the canary accepts a connection.
    Health,
    /// Clients saw as many failures as the operator allows; says nothing about stable.
    ExposureBudget,
    /// Much of the canary is ejected, and stable is well.
    Ejection,
}

impl std::fmt::Display for Trigger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Trigger::Evidence => "evidence",
            Trigger::Outage => "outage",
            Trigger::Limit => "limit",
            Trigger::Health => "health",
            Trigger::ExposureBudget => "exposure_budget",
            Trigger::Ejection => "ejection",
        })
    }
}

/// The numbers behind a conviction.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Conviction {
    pub trigger: Trigger,
    /// Natural logarithm of the evidence; infinite evidence (health) is stated as the threshold. An exposure budget
    /// states the comparison's, which did not convict.
    pub log_e: f64,
    /// Natural logarithm of what was needed.
    pub threshold: f64,
    /// One sentence for people.
    pub because: String,
    /// What this exposure had cost by then.
    pub canary: Seen,
    pub stable: Seen,
}

/// Requests of one arm that ended in this exposure and say something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    pub finished: u64,
    pub failed: u64,
}

/// Where the evidence stands now, for people.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Reading {
    /// Evidence of the strongest of the tests, scaled so that 1000 rolls back.
    pub towards_1000: f64,
    pub comparison: ComparisonReading,
    pub outage: OutageReading,
    pub limits: Vec<LimitReading>,
    #[serde(default)]
    pub exposure: ExposureReading,
    pub hold: Option<Hold>,
    pub canary: Seen,
    pub stable: Seen,
}

/// The exposure budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExposureReading {
    /// Failures of the canary that clients saw in this exposure, since the process started.
    pub failures: u64,
    /// So many take the canary's traffic away; `None`: no budget.
    pub budget: Option<u64>,
}

/// The comparison of the arms.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ComparisonReading {
    /// `None` while too few canary requests went badly to say anything.
    pub log_e: Option<f64>,
    pub threshold: f64,
    pub families: Vec<FamilyReading>,
}

/// What a family bets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Failures.
    Error,
    /// Rejected (4xx).
    Rejected,
}

/// One family of bets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FamilyReading {
    pub family: Family,
    /// The family's own money.
    pub log_e: f64,
    /// Whether enough canary requests went badly for it to count.
    pub counts: bool,
    /// How many times the tolerated rate explains best what was seen.
    pub best_times: f64,
}

/// The outage guard.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OutageReading {
    /// `None` while nothing gives reason to look.
    pub log_e: Option<f64>,
    pub threshold: f64,
    /// Generations in the current play.
    pub generations: usize,
}

/// What a limit limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limited {
    Errors,
    Latency,
}

/// One configured limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitReading {
    pub limited: Limited,
    /// The share of bad requests allowed.
    pub above: f64,
    pub canary_log_e: f64,
    pub stable_log_e: f64,
    pub canary_fires: bool,
    pub stable_fires: bool,
    /// Of the comparison without tolerance, which acts only while the canary alone fires.
    pub log_e: Option<f64>,
    pub threshold: f64,
}
