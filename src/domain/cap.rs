//! A cap on canary requests per second, over all workers, that leaves the coin honest.
//!
//! Whether there is room is known *before* the coin is tossed. While there is none, no coin is tossed at all: the
//! request goes to stable, and is evidence for neither version. Leaving out only those that the coin gave to the canary
//! would keep stable's outcomes of the same moments, as if the coin had favoured stable there: a busy hour in which
//! stable does well would then speak against the canary.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use super::time::Moment;

const NANOS: u64 = 1_000_000_000;
/// A tenth of a second's requests may come at once.
const BURSTS_PER_SECOND: u32 = 10;

/// At most so many canary requests a second: a virtual schedule that requests may run ahead of by a burst (GCRA).
#[derive(Debug)]
pub struct Cap {
    per_second: NonZeroU32,
    /// When the next request is due, in nanoseconds of [`Moment`]'s epoch.
    due: AtomicU64,
}

impl Cap {
    #[must_use]
    pub fn new(per_second: NonZeroU32) -> Cap {
        Cap { per_second, due: AtomicU64::new(0) }
    }

    #[must_use]
    pub fn per_second(&self) -> NonZeroU32 {
        self.per_second
    }

    /// Whether a canary request may be sent now.
    #[must_use]
    pub fn has_room(&self, now: Moment) -> bool {
        self.due.load(Ordering::Relaxed) <= nanos(now) + u64::from(self.burst() - 1) * self.interval()
    }

    /// Counts a canary request. Workers that look at the same moment may each find the last room: at most one request
    /// more than there is room for, per further worker.
    pub fn take(&self, now: Moment) {
        let next = |due: u64| Some(due.max(nanos(now)) + self.interval());
        let _always_some = self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn interval(&self) -> u64 {
        NANOS / u64::from(self.per_second.get())
    }

    fn burst(&self) -> u32 {
        (self.per_second.get() / BURSTS_PER_SECOND).max(1)
    }
}

fn nanos(moment: Moment) -> u64 {
    moment.0.saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(cap: &Cap, moments: impl Iterator<Item = u64>) -> u64 {
        let mut sent = 0;
        for now in moments.map(Moment) {
            if cap.has_room(now) {
                cap.take(now);
                sent += 1;
            }
        }
        sent
    }

    fn cap(per_second: u32) -> Cap {
        Cap::new(NonZeroU32::new(per_second).unwrap())
    }

    #[test]
    fn a_flood_gets_through_at_the_rate() {
        // Ten seconds of 10,000 a second.
        assert_eq!(sent(&cap(200), (0..100_000).map(|i| i * 100)), 200 * 10 + 19);
    }

    #[test]
    fn what_is_below_is_not_touched() {
        assert_eq!(sent(&cap(200), (0..1_000).map(|i| i * 5_000)), 1_000);
    }

    proptest! {
        #[test]
        fn no_second_gets_more_than_the_rate_and_a_burst(
            per_second in 1..2_000u32, gaps in prop::collection::vec(0..20_000u64, 1..2_000),
        ) {
            let cap = cap(per_second);
            let mut now = 0;
            let mut taken = Vec::new();
            for gap in gaps {
                now += gap;
                if cap.has_room(Moment(now)) {
                    cap.take(Moment(now));
                    taken.push(now);
                }
            }
            let most = u64::from(per_second + cap.burst());
            for (index, from) in taken.iter().enumerate() {
                let within = taken[index..].iter().take_while(|at| **at < from + 1_000_000).count() as u64;
                prop_assert!(within <= most + 1, "{within} within a second, of {per_second}");
            }
        }
    }
}
