//! The outage guard: "the canary is down, and stable is not", from generations of coins.
//!
//! ```text
//!          canary requests fail                  enough coins are in it
//!   idle ───────────────────────> open ────────────────────────────────> closed
//!    ^   (onset j pays 1/(j(j+1)))  ^                                       │
//!    │                              │  a quarter of it has failed           │
//!    │                              └───────────────────────────────────────┤
//!    └──────────────────────────────────────────────────────────────────────┘
//!              three quarters went well, or ten seconds passed: the stake is lost
//! ```
//!
//! A *generation* holds the requests **routed** while it was open; each request carries its serial. It is closed as
//! soon as its coins alone would be worth `CAP` were the canary down and stable perfect, and whatever of it has not
//! ended yet is counted **against** a rollback: canary as well, stable as failed. So the number computed at any time is
//! at most the final one, whichever arm answers first and however long the other takes.
//!
//! A generation is worth at most `CAP / (1 - ACCIDENTS + ACCIDENTS * CAP)`, about fifty, of the five thousand needed at
//! the first onset with its stake of a half: three generations that all say the same. One dying connection takes down
//! what is in flight *now*; generation one holds only requests routed after that, and each next one only requests
//! routed after a quarter of the one before was seen to fail. So one accident can fill one generation and no more.
//! A blackout of the canary alone of up to three ticks is forgiven, one of four ticks at high traffic is not.
//!
//! Bound: `P(rollback) <= alpha` if within a regular generation each request had its own coin and the canary was no
//! worse than tolerated, and a generation is an accident (any dependence, any outcome) with probability at most
//! `ACCIDENTS`. The stakes of all onsets add up to one, and forfeiting is free: the purse is a nonnegative
//! supermartingale, and Ville's inequality does the rest.

use super::bets::{Counts, Tolerance, fair};
use super::logs::{self, real};

/// One generation never weighs more than this.
const CAP: f64 = 100.0;
/// The share of generations that may be accidents of any kind.
const ACCIDENTS: f64 = 0.01;
/// The failing share that arms the guard and that opens the next generation.
const FAILING: f64 = 0.25;
/// Generations of one play.
const GENERATIONS: usize = 8;
/// A closed generation is given up on after this many ticks: ten seconds.
const PATIENCE: u64 = 100;
/// Reference levels as a share of the coin, and how much of the largest safe stake is played.
const KERNELS: [(f64, f64); 3] = [(1.0, 0.9), (1.0, 0.45), (0.25, 0.9)];

/// `ln` of the mean of three products of the kernel: evidence that the canary fails where stable does not.
#[must_use]
pub fn log_likelihood(coin: f64, counts: &Counts) -> f64 {
    let products = KERNELS.map(|(of_coin, share)| {
        let level = of_coin * coin;
        let stake = share * Tolerance::ERRORS.largest_stake(level, coin);
        Tolerance::ERRORS.factors(stake, level, coin).of(counts)
    });
    logs::sum(products.into_iter()) - real(KERNELS.len() as u64).ln()
}

/// What became known in one tick about requests of one generation (zero: of none) that were drawn under one coin.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Flow {
    pub generation: u32,
    pub coin: f64,
    pub canary_routed: u64,
    pub stable_routed: u64,
    /// Those that ended. A request that was given up by the client never does.
    pub ended: Counts,
}

#[derive(Debug, Clone)]
struct Group {
    serial: u32,
    coin: f64,
    canary_routed: u64,
    stable_routed: u64,
    ended: Counts,
    closed_at: Option<u64>,
}

impl Group {
    fn count(&mut self, flow: &Flow) {
        self.canary_routed += flow.canary_routed;
        self.stable_routed += flow.stable_routed;
        self.ended.canary_bad += flow.ended.canary_bad;
        self.ended.canary_ok += flow.ended.canary_ok;
        self.ended.stable_bad += flow.ended.stable_bad;
        self.ended.stable_ok += flow.ended.stable_ok;
    }

    /// What its coins would be worth if the canary were down and stable perfect.
    fn potential(&self) -> f64 {
        if self.canary_routed + self.stable_routed == 0 {
            return 0.0;
        }
        let best = Counts { canary_bad: self.canary_routed, stable_ok: self.stable_routed, ..Counts::default() };
        log_likelihood(self.coin, &best)
    }

    /// What it is worth with everything unfinished counted against the rollback.
    fn log_gain(&self) -> f64 {
        let worst = Counts {
            canary_bad: self.ended.canary_bad,
            canary_ok: self.canary_routed.saturating_sub(self.ended.canary_bad),
            stable_bad: self.stable_routed.saturating_sub(self.ended.stable_ok),
            stable_ok: self.ended.stable_ok,
        };
        log_likelihood(self.coin, &worst).min(CAP.ln()) - (1.0 - ACCIDENTS + ACCIDENTS * CAP).ln()
    }

    /// Whether enough of it has failed to look further; an empty one says nothing against that.
    fn failing(&self) -> bool {
        self.canary_routed == 0 || failing(self.ended.canary_bad, self.canary_routed)
    }

    fn mostly_well(&self) -> bool {
        real(self.ended.canary_ok) > (1.0 - FAILING) * real(self.canary_routed)
    }
}

fn failing(bad: u64, of: u64) -> bool {
    bad >= 1 && real(bad) >= FAILING * real(of)
}

/// The evidence at the tick at which there was enough of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proof {
    pub log_e: f64,
    /// How many generations in a row it took.
    pub generations: usize,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct OutageGuard {
    threshold: f64,
    last_serial: u32,
    onsets: u64,
    /// Of the current play, oldest first; empty when idle.
    play: Vec<Group>,
    log_stake: f64,
    now: u64,
    /// Canary requests that ended in this tick, of whatever generation.
    canary_bad: u64,
    canary_ok: u64,
    proof: Option<Proof>,
}

impl OutageGuard {
    #[must_use]
    pub fn new(alpha: f64) -> OutageGuard {
        OutageGuard {
            threshold: -alpha.ln(),
            last_serial: 0,
            onsets: 0,
            play: Vec::new(),
            log_stake: f64::NEG_INFINITY,
            now: 0,
            canary_bad: 0,
            canary_ok: 0,
            proof: None,
        }
    }

    /// Counts what became known. Only requests drawn under their generation's coin belong to it, also when it has just
    /// been closed: workers learn of that a moment later, and those coins were as fair.
    pub fn count(&mut self, flow: &Flow) {
        self.canary_bad += flow.ended.canary_bad;
        self.canary_ok += flow.ended.canary_ok;
        let same = |group: &&mut Group| group.serial == flow.generation && same_coin(group.coin, flow.coin);
        if let Some(group) = self.play.iter_mut().find(same) {
            group.count(flow);
        }
    }

    /// Ends `ticks` ticks, the last of which was drawn under `coin`. Returns the evidence, `None` when idle.
    pub fn end_tick(&mut self, coin: f64, ticks: u64) -> Option<f64> {
        self.now += ticks;
        let (bad, ok) = (std::mem::take(&mut self.canary_bad), std::mem::take(&mut self.canary_ok));
        if self.play.is_empty() {
            if fair(coin) && failing(bad, bad + ok) {
                self.onset(coin);
            }
            return None;
        }
        self.close_if_done(coin);
        let best = self.best();
        self.proof = self.proof.or(best.filter(|best| best.log_e >= self.threshold));
        self.go_on(coin);
        best.map(|best| best.log_e)
    }

    fn onset(&mut self, coin: f64) {
        self.onsets += 1;
        self.log_stake = -(real(self.onsets) * (real(self.onsets) + 1.0)).ln();
        self.open_next(coin);
    }

    fn open_next(&mut self, coin: f64) {
        self.last_serial += 1;
        let (serial, ended) = (self.last_serial, Counts::default());
        self.play.push(Group { serial, coin, canary_routed: 0, stable_routed: 0, ended, closed_at: None });
    }

    /// Closes the open generation if the coin is another one now, or if it holds enough.
    fn close_if_done(&mut self, coin: f64) {
        let now = self.now;
        let open = self.play.last_mut().filter(|group| group.closed_at.is_none());
        if let Some(open) = open
            && (!same_coin(open.coin, coin) || open.potential() >= CAP.ln())
        {
            open.closed_at = Some(now);
        }
    }

    /// Decides what follows a closed generation: the next one, more waiting, or the end of the play.
    fn go_on(&mut self, coin: f64) {
        let Some((newest, closed_at)) = self.play.last().and_then(|group| Some((group, group.closed_at?))) else {
            return;
        };
        let given_up = self.now - closed_at > PATIENCE;
        if newest.failing() && self.play.len() < GENERATIONS && fair(coin) {
            self.open_next(coin);
        } else if given_up || (!newest.failing() && newest.mostly_well()) {
            self.play.clear();
        }
    }

    /// The largest product of stake and first generations; `None` when idle.
    fn best(&self) -> Option<Proof> {
        let worths = self.play.iter().scan(self.log_stake, |log_e, group| {
            *log_e += group.log_gain();
            Some(*log_e)
        });
        let prefixes = (1..).zip(worths).map(|(generations, log_e)| Proof { log_e, generations });
        prefixes.reduce(|best, next| if next.log_e > best.log_e { next } else { best })
    }

    /// The evidence now, as a logarithm; `None` when idle.
    #[must_use]
    pub fn log_e(&self) -> Option<f64> {
        self.best().map(|best| best.log_e)
    }

    /// Natural logarithm of what convicts.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// The serial of the open generation.
    #[must_use]
    pub fn open(&self) -> Option<u32> {
        self.play.last().filter(|group| group.closed_at.is_none()).map(|group| group.serial)
    }

    /// Generations of the current play.
    #[must_use]
    pub fn generations(&self) -> usize {
        self.play.len()
    }

    /// What convicts the canary: the evidence when it first was enough.
    #[must_use]
    pub fn convicts(&self) -> Option<Proof> {
        self.proof
    }
}

#[expect(clippy::float_cmp, reason = "the same weight is the same bits")]
fn same_coin(a: f64, b: f64) -> bool {
    a == b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed() -> OutageGuard {
        let mut guard = OutageGuard::new(0.0002);
        guard.count(&Flow { ended: Counts { canary_bad: 1, ..Counts::default() }, ..Flow::default() });
        guard.end_tick(0.5, 1);
        guard
    }

    fn flow(generation: u32, canary_bad: u64, stable_ok: u64) -> Flow {
        Flow {
            generation,
            coin: 0.5,
            canary_routed: 50,
            stable_routed: 50,
            ended: Counts { canary_bad, stable_ok, ..Counts::default() },
        }
    }

    #[test]
    fn a_failing_tick_opens_a_generation() {
        assert_eq!(armed().open(), Some(1));
    }

    #[test]
    fn three_generations_that_say_the_same_convict() {
        let mut guard = armed();
        for serial in 1..=3 {
            assert_eq!(guard.convicts(), None);
            guard.count(&flow(serial, 50, 50));
            guard.end_tick(0.5, 1);
        }
        assert_eq!(guard.convicts().map(|proof| proof.generations), Some(3));
    }

    #[test]
    fn what_is_unfinished_speaks_for_the_canary() {
        let mut guard = armed();
        for serial in 1..=8 {
            guard.count(&flow(serial, 50, 0));
            guard.end_tick(0.5, 1);
        }
        assert_eq!(guard.convicts(), None, "stable has not answered at all");
    }

    #[test]
    fn requests_that_a_worker_routed_before_it_learned_of_the_closing_still_count() {
        let mut guard = armed();
        guard.count(&Flow { ended: Counts::default(), ..flow(1, 0, 0) });
        guard.end_tick(0.5, 1);
        assert_eq!(guard.open(), None, "fifty coins on each side are enough");
        guard.count(&flow(1, 50, 50));
        assert_eq!(guard.play[0].canary_routed, 100);
    }

    #[test]
    fn requests_of_another_weight_stay_out() {
        let mut guard = armed();
        guard.count(&Flow { coin: 0.1, ..flow(1, 50, 50) });
        assert_eq!(guard.play[0].canary_routed, 0);
        guard.end_tick(0.1, 1);
        assert_eq!(guard.open(), Some(2), "the change closes a generation, and an empty one is no answer");
    }

    #[test]
    fn a_play_without_an_answer_ends_after_ten_seconds() {
        let mut guard = armed();
        guard.count(&Flow { ended: Counts::default(), ..flow(1, 0, 0) });
        guard.end_tick(0.5, 1);
        guard.end_tick(0.5, 100);
        assert_eq!(guard.generations(), 1);
        guard.end_tick(0.5, 1);
        assert_eq!(guard.generations(), 0);
    }
}
