//! Passive ejection: an endpoint that fails again and again is left out for a while.

use std::time::Duration;

use super::split::Weight;

/// When an endpoint is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// So many gateway failures in a row, over all workers.
    pub consecutive_failures: u32,
    /// How long the first ejection lasts; the nth lasts n times as long.
    pub time: Duration,
    /// At most so large a share of a version's endpoints is out at once.
    pub max_share: Weight,
}

impl Default for Ejection {
    fn default() -> Ejection {
        Ejection { consecutive_failures: 5, time: Duration::from_secs(30), max_share: Weight::HALF }
    }
}
