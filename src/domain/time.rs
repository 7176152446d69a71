//! Time as a value: monotone microseconds handed in by the caller, and the numbered ticks cut from them.
//!
//! All workers and the engine share one epoch, so a tick's number means the same everywhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long one tick is: the unit in which outcomes travel upward and in which the judge tosses its coins
/// (it is also "how long one accident may be"; see `judge`).
pub const TICK: Duration = Duration::from_millis(100);
const TICK_MICROS: u64 = 100_000;

/// Monotone microseconds since the process's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Moment(pub u64);

/// The number of a tick on the shared epoch; tick `n` covers `[n, n + 1) * 100 ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Tick(pub u64);

impl Moment {
    #[must_use]
    pub fn tick(self) -> Tick {
        Tick(self.0 / TICK_MICROS)
    }

    /// Time from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(micros(duration)))
    }
}

impl Tick {
    #[must_use]
    pub fn next(self) -> Tick {
        Tick(self.0 + 1)
    }

    #[must_use]
    pub fn begin(self) -> Moment {
        Moment(self.0 * TICK_MICROS)
    }

    /// The first moment after this tick.
    #[must_use]
    pub fn end(self) -> Moment {
        self.next().begin()
    }

    /// Ticks from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Whole microseconds of a duration, saturating.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_covers_its_hundred_milliseconds() {
        assert_eq!(Moment(0).tick(), Tick(0));
        assert_eq!(Moment(99_999).tick(), Tick(0));
        assert_eq!(Moment(100_000).tick(), Tick(1));
        assert_eq!(Tick(0).end(), Moment(100_000));
        assert_eq!(Tick(7).end().tick(), Tick(8));
    }

    #[test]
    fn time_never_runs_backwards() {
        assert_eq!(Moment(5).since(Moment(9)), Duration::ZERO);
        assert_eq!(Tick(5).since(Tick(9)), 0);
    }
}
