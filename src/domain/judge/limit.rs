//! Absolute limits: "more than five percent of this version's requests fail".
//!
//! Without a concurrent control nobody can tell a bad canary from a bad minute, and a fixed limit alone convicts every
//! good canary in every shared outage. So a limit asks, and the coin answers: an arm above its limit holds the rollout
//! or brings the coin back, and above the limit **nothing is tolerated**: a comparison without tolerance runs along and
//! may convict while the canary is over the limit and stable keeps it.

use std::collections::VecDeque;
use std::time::Duration;

use super::bets::{Counts, Tolerance};
use super::evidence::{Budget, Evidence};
use super::logs::{self, real};
use super::settle::{Group, Slot};
use crate::domain::time::{TICK, Tick};

/// How many times the odds of the limit each bet assumes.
const TIMES: [f64; 4] = [1.5, 3.0, 10.0, 100.0];
/// Handed out at the start, and per second.
const START: f64 = 0.5;
const PER_SECOND: f64 = 0.25 / 3600.0;
/// Fewer than one in a hundred arms within their limit ever get there.
const FIRING: f64 = 100.0;
/// No bet grows beyond this, so that an arm which recovers stops firing soon.
const CEILING: f64 = 1.0e4;

/// Evidence that one arm's share of bad requests is above a limit: one toss per tick, needs no minimum of requests.
#[derive(Debug, Clone)]
pub struct AbsoluteLimit {
    limit: f64,
    log_prior: f64,
    log_mass: [f64; TIMES.len()],
    log_e: f64,
}

impl AbsoluteLimit {
    /// A limit of nothing or of everything cannot be tested by betting; the nearest one is.
    #[must_use]
    pub fn new(limit: f64) -> AbsoluteLimit {
        let log_prior = -real(TIMES.len() as u64).ln();
        let log_start = START.ln() + log_prior;
        let limit = limit.clamp(0.0001, 0.9999);
        AbsoluteLimit { limit, log_prior, log_mass: [log_start; TIMES.len()], log_e: START.ln() }
    }

    /// Tosses what ended; the toss is its bad share, however many requests that were.
    pub fn toss(&mut self, bad: u64, ok: u64, seconds: f64) {
        if bad + ok > 0 {
            self.bet(real(bad) / real(bad + ok));
        }
        self.log_e = logs::sum(self.log_mass.iter().copied());
        let injected = self.log_prior + (PER_SECOND * seconds).ln();
        self.log_mass = self.log_mass.map(|mass| logs::add(mass, injected));
    }

    fn bet(&mut self, share: f64) {
        let limit = self.limit;
        for (mass, times) in self.log_mass.iter_mut().zip(TIMES) {
            let assumed = times * limit / (1.0 - limit + times * limit);
            let gain = share * (assumed / limit).ln() + (1.0 - share) * ((1.0 - assumed) / (1.0 - limit)).ln();
            *mass = (*mass + gain).min(CEILING.ln());
        }
    }

    /// The evidence after the last toss, as a logarithm.
    #[must_use]
    pub fn log_e(&self) -> f64 {
        self.log_e
    }

    #[must_use]
    pub fn is_firing(&self) -> bool {
        self.log_e >= FIRING.ln()
    }
}

/// How many pieces a window forgets by.
const PIECES: u64 = 20;

/// What the operator would see in a window: it vetoes an alarm about a rate that is back to normal.
#[derive(Debug, Clone)]
struct Window {
    piece_ticks: u64,
    /// `(number, bad, total)`, oldest first.
    pieces: VecDeque<(u64, u64, u64)>,
}

impl Window {
    fn new(length: Duration) -> Window {
        let ticks = u64::try_from(length.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
        Window { piece_ticks: (ticks / PIECES).max(1), pieces: VecDeque::new() }
    }

    fn add(&mut self, now: Tick, bad: u64, total: u64) {
        let number = now.0 / self.piece_ticks;
        while self.pieces.front().is_some_and(|(piece, ..)| piece + PIECES <= number) {
            self.pieces.pop_front();
        }
        match self.pieces.back_mut() {
            Some((piece, bad_sum, total_sum)) if *piece == number => {
                *bad_sum += bad;
                *total_sum += total;
            }
            _ if total > 0 => self.pieces.push_back((number, bad, total)),
            _ => {}
        }
    }

    /// The bad share; `None` without requests.
    fn rate(&self) -> Option<f64> {
        let (bad, total) = self.pieces.iter().fold((0, 0), |(bad, total), piece| (bad + piece.1, total + piece.2));
        (total > 0).then(|| real(bad) / real(total))
    }
}

/// One arm under a limit.
#[derive(Debug, Clone)]
struct Watch {
    above: f64,
    account: AbsoluteLimit,
    window: Window,
}

impl Watch {
    fn new(above: f64, window: Duration) -> Watch {
        Watch { above, account: AbsoluteLimit::new(above), window: Window::new(window) }
    }

    fn toss(&mut self, now: Tick, bad: u64, ok: u64, seconds: f64) {
        self.account.toss(bad, ok, seconds);
        self.window.add(now, bad, bad + ok);
    }

    fn is_firing(&self) -> bool {
        self.account.is_firing() && self.window.rate().is_none_or(|rate| rate > self.above)
    }
}

/// A configured limit: both arms against it, and both against each other.
#[derive(Debug, Clone)]
pub struct Limit {
    canary: Watch,
    stable: Watch,
    comparison: Evidence,
}

impl Limit {
    /// At most the share `above` may be bad, by a comparison that convicts wrongly with chance `alpha`.
    #[must_use]
    pub fn new(above: f64, window: Duration, alpha: f64) -> Limit {
        Limit {
            canary: Watch::new(above, window),
            stable: Watch::new(above, window),
            comparison: Evidence::new(Budget::of(alpha), &[(Tolerance::NONE, 1.0, LEAST_BAD)]),
        }
    }

    /// Puts what ended against the limit.
    pub fn watch(&mut self, now: Tick, counts: &Counts, seconds: f64) {
        self.canary.toss(now, counts.canary_bad, counts.canary_ok, seconds);
        self.stable.toss(now, counts.stable_bad, counts.stable_ok, seconds);
    }

    /// Compares the arms in one settled slot.
    pub fn compare(&mut self, slot: &Slot, counts: impl Fn(&Group) -> Counts) {
        if slot.changed {
            self.comparison.weight_changed();
        }
        for group in &slot.groups {
            self.comparison.toss(0, group.weight.fraction(), &counts(group));
        }
        self.comparison.end_slot(slot.seconds());
    }

    #[must_use]
    pub fn above(&self) -> f64 {
        self.canary.above
    }

    #[must_use]
    pub fn canary_fires(&self) -> bool {
        self.canary.is_firing()
    }

    #[must_use]
    pub fn stable_fires(&self) -> bool {
        self.stable.is_firing()
    }

    /// The evidence that each arm is over the limit, canary first, as logarithms.
    #[must_use]
    pub fn log_e(&self) -> [f64; 2] {
        [self.canary.account.log_e(), self.stable.account.log_e()]
    }

    #[must_use]
    pub fn comparison(&self) -> &Evidence {
        &self.comparison
    }
}

/// Bad canary requests before the comparison counts.
const LEAST_BAD: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_SECONDS: Duration = Duration::from_secs(10);

    fn after(tosses: &[(u64, u64)]) -> AbsoluteLimit {
        let mut account = AbsoluteLimit::new(0.05);
        for (bad, ok) in tosses {
            account.toss(*bad, *ok, 0.1);
        }
        account
    }

    #[test]
    fn three_failures_in_a_row_fire_at_any_rate_of_requests() {
        assert!(!after(&[(1, 0); 2]).is_firing());
        assert!(after(&[(1, 0); 3]).is_firing());
        assert!(after(&[(1, 0), (0, 0), (1, 0), (0, 0), (1, 0)]).is_firing());
    }

    #[test]
    fn one_burst_does_not_fire() {
        assert!(!after(&[(500, 0)]).is_firing());
    }

    #[test]
    fn an_arm_at_its_limit_does_not_fire() {
        assert!(!after(&vec![(5, 95); 5_000]).is_firing());
    }

    #[test]
    fn an_arm_that_recovers_stops_firing_soon() {
        let mut tosses = vec![(1, 0); 1_000];
        tosses.extend([(0, 1); 200]);
        assert!(!after(&tosses).is_firing());
    }

    #[test]
    fn the_window_vetoes_what_is_back_below_the_limit() {
        let mut watch = Watch::new(0.05, TEN_SECONDS);
        watch.toss(Tick(1), 0, 10_000, 0.1);
        for tick in 2..6 {
            watch.toss(Tick(tick), 1, 0, 0.1);
        }
        assert!(watch.account.is_firing() && !watch.is_firing());
        watch.toss(Tick(200), 1, 0, 0.1);
        assert!(watch.is_firing(), "the good past has left the window");
    }

    #[test]
    fn an_empty_window_vetoes_nothing() {
        let mut watch = Watch::new(0.05, TEN_SECONDS);
        for minute in 1..5 {
            watch.toss(Tick(minute * 600), 1, 0, 60.0);
        }
        watch.toss(Tick(3_000), 0, 0, 60.0);
        assert!(watch.is_firing());
    }
}
