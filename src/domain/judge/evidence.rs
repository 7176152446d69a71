//! The bankroll of a bettor against the canary.
//!
//! Every bet of every family starts with its share of half the money, wins or loses slot by slot, and is joined by
//! later bettors: a quarter of the money is handed out evenly over an hour and another quarter over the planned changes
//! of weight. Without these restarts (as in Shiryaev's procedure and the e-detectors of Shin, Ramdas and Rinaldo) a
//! canary that breaks at minute ten would first have to earn back a whole good past.
//!
//! The sum is a nonnegative process whose mean is at most the money handed out, if the canary is no worse than
//! tolerated. By Ville's inequality `P(it ever reaches 1 / alpha) <= alpha`, at every instant and for any number of
//! looks (betting: Waudby-Smith and Ramdas; counts on a known split: Lindon, Sanden and Shirikian, arXiv 2205.14762).
//! An hour with five changes of weight hands out exactly one unit; every further hour adds a quarter of `alpha`.

use super::bets::{BETS, Counts, ErrorFamily, SHARES, TIMES, Tolerance};
use super::logs;

/// How the money is handed out, and how much of it must come back many times over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// The chance of convicting a canary that is no worse than tolerated.
    pub alpha: f64,
    /// Handed out at the start.
    pub start: f64,
    /// Handed out per second.
    pub per_second: f64,
    /// Handed out at each of the first `changes` changes of weight.
    pub per_change: f64,
    pub changes: u32,
}

impl Budget {
    /// One unit of money over an hour and five changes of weight.
    #[must_use]
    pub fn of(alpha: f64) -> Budget {
        Budget { alpha, start: 0.5, per_second: 0.25 / 3600.0, per_change: 0.25 / 5.0, changes: 5 }
    }
}

/// One family in the bankroll.
#[derive(Debug, Clone)]
struct Member {
    family: ErrorFamily,
    /// Canary requests that must have gone badly before this family counts: a sentence needs more than one accident.
    at_least: u64,
    seen: u64,
    log_prior: [f64; BETS],
    log_mass: [f64; BETS],
}

/// A weighted sum of restarting bets.
#[derive(Debug, Clone)]
pub struct Evidence {
    threshold: f64,
    log_per_second: f64,
    log_per_change: f64,
    changes_left: u32,
    members: Vec<Member>,
    latest: Option<f64>,
}

impl Evidence {
    /// Families as `(tolerance, share of the money, bad canary requests before it counts)`; shares are normalised.
    #[must_use]
    pub fn new(budget: Budget, families: &[(Tolerance, f64, u64)]) -> Evidence {
        let shares: f64 = families.iter().map(|(_, share, _)| share).sum();
        let member = |&(tolerance, share, at_least): &(Tolerance, f64, u64)| {
            let log_prior = SHARES.map(|bet| (share / shares * bet).ln());
            let log_mass = log_prior.map(|prior| prior + budget.start.ln());
            Member { family: ErrorFamily::new(tolerance), at_least, seen: 0, log_prior, log_mass }
        };
        Evidence {
            threshold: -budget.alpha.ln(),
            log_per_second: budget.per_second.ln(),
            log_per_change: budget.per_change.ln(),
            changes_left: budget.changes,
            members: families.iter().map(member).collect(),
            latest: None,
        }
    }

    /// Lets a family bet on one group of requests, drawn under one coin.
    pub fn toss(&mut self, family: usize, coin: f64, counts: &Counts) {
        let member = &mut self.members[family];
        member.seen += counts.canary_bad;
        for (mass, gain) in member.log_mass.iter_mut().zip(member.family.toss(coin, counts)) {
            *mass += gain;
        }
    }

    /// Lets a family bet on each of several tosses that are independent even within a slot.
    pub fn tosses(&mut self, family: usize, coin: f64, counts: &Counts) {
        let member = &mut self.members[family];
        member.seen += counts.canary_bad;
        for (mass, gain) in member.log_mass.iter_mut().zip(member.family.tosses(coin, counts)) {
            *mass += gain;
        }
    }

    /// Ends a slot of that length: reads the evidence, and only then lets new bettors in.
    pub fn end_slot(&mut self, seconds: f64) {
        self.latest = self.now();
        self.inject(self.log_per_second + seconds.ln());
        for member in &mut self.members {
            member.family.end_slot();
        }
    }

    /// Ends a slot without letting new bettors in.
    pub fn end_slot_among_themselves(&mut self) {
        self.latest = self.now();
        for member in &mut self.members {
            member.family.end_slot();
        }
    }

    /// Lets new bettors in because the weight has changed, as often as was planned for.
    pub fn weight_changed(&mut self) {
        if self.changes_left > 0 {
            self.changes_left -= 1;
            self.inject(self.log_per_change);
        }
    }

    fn inject(&mut self, log_money: f64) {
        for member in &mut self.members {
            for (mass, prior) in member.log_mass.iter_mut().zip(member.log_prior) {
                *mass = logs::add(*mass, prior + log_money);
            }
        }
    }

    fn now(&self) -> Option<f64> {
        let counting = self.members.iter().filter(|member| member.counts());
        let log_e = logs::sum(counting.flat_map(|member| member.log_mass.iter().copied()));
        (log_e > f64::NEG_INFINITY).then_some(log_e)
    }

    /// The evidence at the end of the last slot, as a logarithm; `None` while no family counts yet.
    #[must_use]
    pub fn log_e(&self) -> Option<f64> {
        self.latest
    }

    /// Natural logarithm of what convicts.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    #[must_use]
    pub fn convicts(&self) -> bool {
        self.latest.is_some_and(|log_e| log_e >= self.threshold)
    }

    /// The money of all families, whether they count yet or not, as a logarithm.
    #[must_use]
    pub fn log_total(&self) -> f64 {
        logs::sum(self.members.iter().flat_map(|member| member.log_mass.iter().copied()))
    }

    /// The money of each bet of a family, as logarithms.
    #[must_use]
    pub fn log_masses(&self, family: usize) -> [f64; BETS] {
        self.members[family].log_mass
    }

    /// Whether a family counts already.
    #[must_use]
    pub fn counts(&self, family: usize) -> bool {
        self.members[family].counts()
    }

    /// The richest bet of a family: how many times the tolerated rate explains best what was seen.
    #[must_use]
    pub fn best_times(&self, family: usize) -> f64 {
        let masses = self.members[family].log_mass.iter().zip(TIMES);
        masses.max_by(|(a, _), (b, _)| a.total_cmp(b)).map_or(1.0, |(_, times)| times)
    }
}

impl Member {
    fn counts(&self) -> bool {
        self.seen >= self.at_least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_errors() -> Evidence {
        Evidence::new(Budget::of(0.001), &[(Tolerance::ERRORS, 1.0, 3)])
    }

    fn canary_errors(count: u64) -> Counts {
        Counts { canary_bad: count, ..Counts::default() }
    }

    fn after(mut evidence: Evidence, slots: u32, canary_bad: u64) -> Evidence {
        for _ in 0..slots {
            evidence.toss(0, 0.05, &canary_errors(canary_bad));
            evidence.end_slot(0.1);
        }
        evidence
    }

    #[test]
    fn two_errors_never_convict() {
        assert_eq!(after(on_errors(), 2, 1).log_e(), None);
        assert!(after(on_errors(), 3, 1).log_e().is_some());
    }

    #[test]
    fn one_accident_does_not_convict_and_four_in_a_row_do() {
        assert!(!after(on_errors(), 1, 50).convicts());
        assert!(after(on_errors(), 4, 50).convicts());
    }

    #[test]
    fn silence_hands_out_the_budget_and_no_more() {
        let evidence = after(on_errors(), 36_000, 0);
        assert!((evidence.log_total().exp() - 0.75).abs() < 1e-9);
        assert_eq!(evidence.log_e(), None);
    }

    #[test]
    fn a_sixth_change_of_weight_lets_nobody_in() {
        let mut evidence = on_errors();
        for _ in 0..5 {
            evidence.weight_changed();
        }
        let before = evidence.log_total();
        evidence.weight_changed();
        assert_eq!(evidence.log_total().to_bits(), before.to_bits());
        assert!((before.exp() - 0.75).abs() < 1e-9);
    }
}
