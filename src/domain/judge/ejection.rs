//! Ejection: much of the canary has been ejected, while stable keeps its endpoints and answers.
//!
//! An ejected endpoint gets no requests and so brings no more evidence, while those left carry on: ejection must not
//! hide what it tells. One endpoint out of few may be a machine that died, which is no fault of the version; two or
//! more, and more than three in ten, are taken for its doing if that lasts for five seconds in which stable is known to
//! be well. Where stable loses its endpoints too, or fails, the cause is shared: then nothing is concluded, and the
//! rollout holds. No statistics: a good canary would have to lose two endpoints to runs of failures of its own making,
//! at a rate of failures that stable does not have.

use super::bets::Counts;
use crate::domain::pool::Census;
use crate::domain::time::{TICK, Tick};

/// More than so many in ten are ejected...
const TENTHS: usize = 3;
/// ...and at least so many...
const ENDPOINTS: usize = 2;
/// ...for so many ticks: five seconds...
const TICKS: u64 = 50;
/// ...in which so many of stable's requests ended...
const STABLE_REQUESTS: u64 = 20;
/// ...and at most one in so many of them badly.
const STABLE_FAILS: u64 = 20;

/// What is known since much of the canary is ejected.
#[derive(Debug, Clone, Default)]
pub struct Ejections {
    canary: Census,
    stable: Census,
    since: Option<Tick>,
    stable_ended: u64,
    stable_failed: u64,
    shared: bool,
    convicted: Option<Census>,
}

impl Ejections {
    /// How the endpoints of both arms stand at the end of a tick.
    pub fn watch(&mut self, canary: Census, stable: Census) {
        (self.canary, self.stable) = (canary, stable);
    }

    /// Decides; `ended` is what ended in this tick.
    pub fn end_tick(&mut self, now: Tick, ended: &Counts) {
        if !mostly_ejected(self.canary) {
            (self.since, self.shared) = (None, false);
            return;
        }
        let since = *self.since.get_or_insert(now);
        if since == now {
            (self.stable_ended, self.stable_failed) = (0, 0);
        }
        self.stable_ended += ended.stable_bad + ended.stable_ok;
        self.stable_failed += ended.stable_bad;
        let fails = self.stable_failed * STABLE_FAILS > self.stable_ended;
        self.shared = mostly_ejected(self.stable) || fails;
        if self.shared {
            self.since = None; // five seconds of a stable that is well, from here
        } else if now.since(since) >= TICKS && self.stable_ended >= STABLE_REQUESTS {
            self.convicted = Some(self.canary);
        }
    }

    /// Whether the cause is shared.
    #[must_use]
    pub fn shared(&self) -> bool {
        self.shared
    }

    /// What convicts the canary: how its endpoints stood.
    #[must_use]
    pub fn convicts(&self) -> Option<Census> {
        self.convicted
    }

    /// How long that had lasted.
    #[must_use]
    pub fn seconds() -> f64 {
        TICK.as_secs_f64() * super::logs::real(TICKS)
    }
}

fn mostly_ejected(census: Census) -> bool {
    census.ejected >= ENDPOINTS && census.ejected * 10 > census.wanted * TENTHS
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Counts = Counts { canary_bad: 0, canary_ok: 0, stable_bad: 0, stable_ok: 10 };
    const ILL: Counts = Counts { stable_bad: 5, stable_ok: 5, ..WELL };

    fn of(ejected: usize, wanted: usize) -> Census {
        Census { wanted, available: wanted - ejected, ejected }
    }

    /// How many ticks it takes to convict.
    fn convicts(canary: Census, stable: Census, ended: &Counts) -> Option<u64> {
        let mut ejections = Ejections::default();
        (1..=200).find(|tick| {
            ejections.watch(canary, stable);
            ejections.end_tick(Tick(*tick), ended);
            ejections.convicts().is_some()
        })
    }

    #[test]
    fn two_of_four_ejected_for_five_seconds_convict_a_canary() {
        assert_eq!(convicts(of(2, 4), of(0, 4), &WELL), Some(51));
        assert_eq!(convicts(of(3, 10), of(0, 4), &WELL), None, "three in ten may be");
        assert_eq!(convicts(of(4, 10), of(0, 4), &WELL), Some(51));
    }

    #[test]
    fn one_dead_machine_convicts_nobody() {
        assert_eq!(convicts(of(1, 2), of(0, 4), &WELL), None);
        assert_eq!(convicts(of(1, 3), of(0, 4), &WELL), None);
    }

    #[test]
    fn what_stable_shows_too_is_a_shared_cause() {
        assert_eq!(convicts(of(2, 4), of(2, 4), &WELL), None);
        assert_eq!(convicts(of(2, 4), of(0, 4), &ILL), None, "its endpoints need longer to fail five times in a row");
        assert_eq!(convicts(of(2, 4), of(0, 4), &Counts::default()), None, "nothing is known of stable");
    }

    #[test]
    fn a_cause_that_is_no_longer_shared_counts_from_then_on() {
        let mut ejections = Ejections::default();
        ejections.watch(of(2, 4), of(0, 4));
        for tick in 1..=100 {
            ejections.end_tick(Tick(tick), &ILL);
            assert!(ejections.shared());
        }
        for tick in 101..=151 {
            assert!(ejections.convicts().is_none());
            ejections.end_tick(Tick(tick), &WELL);
        }
        assert!(ejections.convicts().is_some() && !ejections.shared());
    }

    #[test]
    fn who_returns_ends_it() {
        let mut ejections = Ejections::default();
        for tick in 1..=200 {
            ejections.watch(if tick % 40 == 0 { of(0, 4) } else { of(2, 4) }, of(0, 4));
            ejections.end_tick(Tick(tick), &WELL);
        }
        assert!(ejections.convicts().is_none());
    }
}
