//! The verdict on a canary, from counts alone.
//!
//! ```text
//!  rows, by the tick in which the coin fell ──┬─> exposure  more failures seen by clients than the operator allows
//!                                             ├─> health    no endpoint accepts a connection, stable answers instead
//!                                             ├─> outage    the canary is down and stable is not: generations of coins
//!                                             ├─> settle ──┬─> evidence <─ bets   the comparison: failures, rejected
//!                                             │  (in the   └─> limit's comparison without tolerance
//!                                             │ coins' order)
//!                                             └─> limit     each arm against a fixed share: holds and probes, and lets
//!                                                           the comparison without tolerance act
//!  endpoints, as they stand ────────────────────> ejection  much of the canary is ejected, and stable is well
//!
//!   verdict, first that holds: worse (health, ejection, outage, evidence, limit, exposure), hold (shared), probe,
//!                              hold (canary), undecided
//! ```
//!
//! **The idea.** The proxy flips the coin that sends a request to the canary, so it knows the chance that any one error
//! falls on the canary if the canary is no worse. Errors are bets at known odds; a bankroll that grows a thousandfold
//! says what no bad minute can say, since a bad minute hits both arms. See [`bets`] for the odds, [`evidence`] for the
//! bankroll and why it may be looked at at every tick, [`outage`] for finding total failures in three ticks.
//!
//! **What the guarantee rests on.** Each counted request was drawn by an independent coin with the recorded weight
//! (pins and retries are not counted, and a request is charged to the arm that was drawn). A good canary keeps within
//! the tolerance at every moment. One arm does not break the other. Failures depend on one another only inside one
//! slot.
//!
//! **Sticky sessions.** There the coin is tossed per session ([`Unit::Session`]), so a session counts once: with its
//! first request for the outage guard and for the latency limit's comparison, with its first failure and its first
//! rejection for the comparisons of those, whose odds need no count of what went well, and with its breakdown (see
//! [`sessions`](super::sessions)) for a test of those, which finds a canary that dies under sessions that ask often and
//! has its money from the comparison. What a session does again is for health and for the limits themselves, which are
//! not about chance. With fewer than `LEAST_SESSIONS` coins the comparison convicts nobody. A fixed cohort
//! ([`Unit::None`]) has no coin: health convicts, limits hold. Latencies, once they are compared, must take one sample
//! per session and epoch: of requests with [`Coin::Tossed`].
//!
//! **The account.** A canary that is no worse than tolerated is convicted with probability at most [`ALPHA`] in an hour
//! with five changes of weight. The tests run on different clocks, so their money is not added up but divided: the
//! outage guard has [`ALPHA_OUTAGE`], the comparison of each configured limit [`ALPHA_LIMIT`], the comparison of the
//! arms all the rest. Health and ejection need none (a canary that cannot be reached while stable can is no matter of
//! chance), nor do holds and probes, which convict nobody.
//!
//! **What it does not do.** It reads no clock, draws no luck and changes no weight: what follows from a verdict is the
//! rollout's business. It does not compare latencies yet, except against a declared limit.

pub mod bets;
pub mod ejection;
pub mod evidence;
pub mod exposure;
pub mod health;
pub mod limit;
pub mod logs;
pub mod outage;
mod policy;
pub mod settle;
mod verdict;

use std::time::Duration;

pub use self::policy::{ErrorLimit, ExposureBudget, LatencyLimit, Mode, Policy, Unit};
pub use self::verdict::{
    ComparisonReading, Conviction, ExposureReading, Family, FamilyReading, Hold, LimitReading, Limited, OutageReading,
    Reading, Seen, Trigger, Verdict,
};

use self::bets::{Counts, Tolerance};
use self::ejection::Ejections;
use self::evidence::{Budget, Evidence};
use self::exposure::Spending;
use self::health::Health;
use self::limit::Limit;
use self::outage::{Flow, OutageGuard};
use self::settle::{Group, Ring, Slack, Slot};
use super::pool::Census;
use super::split::Weight;
use super::time::{TICK, Tick};
use super::window::{Arm, Coin, Drawn, Generation, Row};

/// The chance of convicting a canary that is no worse than tolerated: one needless rollback in a thousand rollouts.
pub const ALPHA: f64 = 0.001;
/// The outage guard's share of it.
pub const ALPHA_OUTAGE: f64 = 0.0002;
/// With stickiness, the share of the comparison of sessions that broke down.
pub const ALPHA_BREAKDOWNS: f64 = 0.0002;
/// The share of each configured limit's comparison without tolerance.
pub const ALPHA_LIMIT: f64 = 0.0002;

/// The families of the comparison: tolerance, share of its money, bad canary requests before it counts.
const FAMILIES: [(Tolerance, f64, u64); 2] = [(Tolerance::ERRORS, 5.0, 3), (Tolerance::REJECTED, 2.0, 3)];
const NAMES: [Family; FAMILIES.len()] = [Family::Error, Family::Rejected];

/// What has not ended after ten seconds is decided without it, unless an upstream may take longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest latency limit and upstream timeout that are waited for.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// No trial's allowance is smaller than a thousandth: a proxy that crashes on must still find a dead canary.
const MOST_HALVINGS: i32 = 10;
/// With stickiness, fewer coins than that say too little of the clients to compare versions by.
const LEAST_SESSIONS: u64 = 100;
/// After a session on stable broke down, this many ticks, a minute, belong to the same outage.
const QUIET: u64 = 600;
/// The shown evidence ends here: what is above convicted long ago.
const SHOWN: f64 = 1e9;

/// Judges one exposure.
#[derive(Debug)]
pub struct Judge {
    last: Option<Tick>,
    unit: Unit,
    /// Coins tossed so far.
    tossed: u64,
    canary: Seen,
    stable: Seen,
    spending: Spending,
    health: Health,
    ejections: Ejections,
    outage: OutageGuard,
    slots: Ring,
    comparison: Evidence,
    /// Bets only with stickiness.
    breakdowns: Evidence,
    /// When the last session on stable broke down.
    quiet_since: Tick,
    errors: Option<Limit>,
    latency: Option<(Ring, Limit)>,
    convicted: Option<Conviction>,
    hold: Option<Hold>,
}

impl Judge {
    /// `response_head`: how long an endpoint may take. A canary that hangs fails only then, and a slot that is settled
    /// before would take it for good. `trial`: how often the judgement of this exposure has been begun. Every restart
    /// loses the evidence and must not mint a fresh allowance: the second trial has half of it, the third a quarter, so
    /// that a crash loop has twice the allowance in all.
    #[must_use]
    pub fn new(policy: &Policy, response_head: Duration, trial: u32) -> Judge {
        let limits = u8::from(policy.error_rate.is_some()) + u8::from(policy.latency.is_some());
        let share = 0.5f64.powi(i32::try_from(trial.saturating_sub(1)).unwrap_or(i32::MAX).min(MOST_HALVINGS));
        let of_sessions = if policy.unit == Unit::Session { ALPHA_BREAKDOWNS } else { 0.0 };
        let alpha = (ALPHA - ALPHA_OUTAGE - of_sessions - f64::from(limits) * ALPHA_LIMIT) * share;
        let (for_outage, for_limit) = (ALPHA_OUTAGE * share, ALPHA_LIMIT * share);
        Judge {
            last: None,
            unit: policy.unit,
            tossed: 0,
            canary: Seen::default(),
            stable: Seen::default(),
            spending: Spending::new(policy.exposure.failures, trial),
            health: Health::default(),
            ejections: Ejections::default(),
            outage: OutageGuard::new(for_outage),
            slots: Ring::new(Slack::Hundredth, patience(response_head.max(PATIENCE))),
            comparison: Evidence::new(Budget::of(alpha), &FAMILIES),
            breakdowns: Evidence::new(Budget::of(of_sessions * share), &[(Tolerance::ERRORS, 1.0, 3)]),
            quiet_since: Tick(0),
            errors: policy.error_rate.map(|limit| Limit::new(limit.above, limit.window, for_limit)),
            latency: policy.latency.map(|limit| {
                let ring = Ring::new(Slack::None, patience(limit.above));
                (ring, Limit::new(1.0 - limit.quantile, limit.window, for_limit))
            }),
            convicted: None,
            hold: None,
        }
    }

    /// How the arms' endpoints stand, before the tick is ended.
    pub fn watch_endpoints(&mut self, canary: Census, stable: Census) {
        self.ejections.watch(canary, stable);
    }

    /// Ends tick `now`, in which the weight was `weight`: `rows` is everything the workers reported since the last
    /// call.
    pub fn tick<'a>(&mut self, now: Tick, weight: Weight, rows: impl Iterator<Item = (&'a Drawn, &'a Row)>) -> Verdict {
        let ticks = self.last.replace(now).map_or(1, |last| now.since(last));
        self.advance(now, weight);
        let ended = self.count(rows);
        if let Some(limit) = &mut self.errors {
            limit.watch(now, &ended, logs::real(ticks) * TICK.as_secs_f64());
        }
        self.health.end_tick();
        self.ejections.end_tick(now, &ended);
        self.outage.end_tick(weight.fraction(), ticks);
        let compared = self.settle(now);
        self.settle_latency(now);
        self.decide(weight, compared)
    }

    fn advance(&mut self, now: Tick, weight: Weight) {
        self.slots.advance(now, weight);
        if let Some((slots, _)) = &mut self.latency {
            slots.advance(now, weight);
        }
    }

    /// Hands every row to the tests; returns what ended, whenever it was drawn.
    fn count<'a>(&mut self, rows: impl Iterator<Item = (&'a Drawn, &'a Row)>) -> Counts {
        let mut all = Counts::default();
        for (drawn, row) in rows {
            let ended = failures(row);
            all.canary_bad += ended.canary_bad;
            all.canary_ok += ended.canary_ok;
            all.stable_bad += ended.stable_bad;
            all.stable_ok += ended.stable_ok;
            self.spending.count(row);
            self.health.count(drawn.tick, row);
            if drawn.coin == Coin::Tossed && self.unit != Unit::None {
                self.tossed += row.canary.routed + row.stable.routed;
                self.outage.count(&flow(drawn, row, ended));
            }
            self.slots.count(drawn, row);
            if let Some((slots, _)) = &mut self.latency {
                slots.count(drawn, row);
            }
        }
        self.canary.add(all.canary_bad, all.canary_ok);
        self.stable.add(all.stable_bad, all.stable_ok);
        all
    }

    /// Compares the arms in every slot that is settled by now. Evidence counts at the slot in which it is reached.
    fn settle(&mut self, now: Tick) -> Option<Conviction> {
        let mut conviction = None;
        while let Some(slot) = self.slots.settled(now) {
            if self.unit == Unit::None {
                continue;
            }
            if slot.changed {
                self.comparison.weight_changed();
            }
            for group in &slot.groups {
                self.comparison.toss(0, group.weight.fraction(), &group.failures());
                self.comparison.toss(1, group.weight.fraction(), &group.rejected());
            }
            self.comparison.end_slot(slot.seconds());
            if self.unit == Unit::Session {
                self.settle_breakdowns(&slot);
            }
            if let Some(limit) = &mut self.errors {
                limit.compare(&slot, Group::failures);
            }
            if conviction.is_none() && self.comparison.convicts() && self.enough_sessions() {
                conviction = Some(self.by_evidence());
            }
        }
        conviction
    }

    /// Every session that broke down is a toss: keeping on failing is no accident of one tick.
    fn settle_breakdowns(&mut self, slot: &Slot) {
        for group in &slot.groups {
            let counts = group.breakdowns();
            if counts.stable_bad > 0 {
                self.quiet_since = slot.last;
            }
            self.breakdowns.tosses(0, group.weight.fraction(), &counts);
        }
        // In an outage that both share, stable's sessions break down first (see `sessions`): who came in between would
        // see the canary's alone.
        if slot.last.since(self.quiet_since) < QUIET {
            return self.breakdowns.end_slot_among_themselves();
        }
        if slot.changed {
            self.breakdowns.weight_changed();
        }
        self.breakdowns.end_slot(slot.seconds());
    }

    /// Puts every slot in which it is known what was over the latency limit against that limit.
    fn settle_latency(&mut self, now: Tick) {
        let Some((slots, limit)) = &mut self.latency else { return };
        while let Some(slot) = slots.settled(now) {
            let mut over = Counts::default();
            for counts in slot.groups.iter().map(Group::over_of_all) {
                over.canary_bad += counts.canary_bad;
                over.canary_ok += counts.canary_ok;
                over.stable_bad += counts.stable_bad;
                over.stable_ok += counts.stable_ok;
            }
            limit.watch(slot.last, &over, slot.seconds());
            if self.unit != Unit::None {
                limit.compare(&slot, Group::over);
            }
        }
    }

    fn decide(&mut self, weight: Weight, compared: Option<Conviction>) -> Verdict {
        if self.convicted.is_none() {
            let judged = self
                .by_health()
                .or_else(|| self.by_ejection())
                .or_else(|| self.by_outage())
                .or_else(|| self.by_breakdowns())
                .or(compared)
                .or_else(|| self.by_limit());
            self.convicted = judged.or_else(|| self.by_budget());
        }
        if let Some(conviction) = &self.convicted {
            self.hold = None;
            return Verdict::Worse(conviction.clone());
        }
        // An arm that gets no requests cannot recover in its account, and cannot be over a limit either.
        let canary = !weight.is_zero() && self.limits().any(|(_, limit)| limit.canary_fires());
        let stable = weight < Weight::FULL && self.limits().any(|(_, limit)| limit.stable_fires());
        let verdict = match (stable || self.ejections.shared(), canary) {
            (true, _) => Verdict::Hold(Hold::SharedDegradation),
            (false, true) if weight > Weight::HALF && self.unit != Unit::None => Verdict::Probe,
            (false, true) => Verdict::Hold(Hold::CanaryOverLimit),
            (false, false) if self.comparison.convicts() => Verdict::Hold(Hold::FewSessions),
            (false, false) => Verdict::Undecided,
        };
        self.hold = if let Verdict::Hold(hold) = verdict { Some(hold) } else { None };
        verdict
    }

    fn enough_sessions(&self) -> bool {
        self.unit != Unit::Session || self.tossed >= LEAST_SESSIONS
    }

    fn by_health(&self) -> Option<Conviction> {
        let gone = self.health.convicts()?;
        let because = format!(
            "no endpoint of the canary accepts a connection, while stable answered {} of its requests within {:.1} s",
            gone.rescued, gone.seconds
        );
        let enough = -ALPHA.ln();
        Some(self.conviction(Trigger::Health, enough, enough, because))
    }

    fn by_ejection(&self) -> Option<Conviction> {
        let Census { ejected, wanted, .. } = self.ejections.convicts()?;
        let because = format!(
            "{ejected} of the canary's {wanted} endpoints have been ejected for {:.0} s, and stable is well",
            Ejections::seconds()
        );
        let enough = -ALPHA.ln();
        Some(self.conviction(Trigger::Ejection, enough, enough, because))
    }

    fn by_outage(&self) -> Option<Conviction> {
        let proof = self.outage.convicts()?;
        let threshold = self.outage.threshold();
        let because = format!(
            "the canary fails where stable does not, in {} groups of requests one after the other ({})",
            proof.generations,
            evidence_and_need(proof.log_e, threshold)
        );
        Some(self.conviction(Trigger::Outage, proof.log_e, threshold, because))
    }

    fn by_breakdowns(&self) -> Option<Conviction> {
        let (log_e, threshold) = (self.breakdowns.log_e()?, self.breakdowns.threshold());
        let because = || {
            let evidence = evidence_and_need(log_e, threshold);
            format!("sessions on the canary keep failing, and those on stable do not ({evidence})")
        };
        self.breakdowns.convicts().then(|| self.conviction(Trigger::Outage, log_e, threshold, because()))
    }

    fn by_evidence(&self) -> Conviction {
        let (log_e, threshold) = (self.comparison.log_e().unwrap_or(f64::NEG_INFINITY), self.comparison.threshold());
        let families = (0..FAMILIES.len()).filter(|family| self.comparison.counts(*family));
        let strongest = families.max_by(|a, b| self.family_log_e(*a).total_cmp(&self.family_log_e(*b))).unwrap_or(0);
        let what = match NAMES[strongest] {
            Family::Error => "errors on the canary",
            Family::Rejected => "requests rejected (4xx) by the canary",
        };
        let because = format!(
            "{what} are best explained by {} times the tolerated rate ({})",
            self.comparison.best_times(strongest),
            evidence_and_need(log_e, threshold)
        );
        self.conviction(Trigger::Evidence, log_e, threshold, because)
    }

    fn by_limit(&self) -> Option<Conviction> {
        let (limited, limit) = self.limits().find(|(_, limit)| acts(limit) && limit.comparison().convicts())?;
        let log_e = limit.comparison().log_e()?;
        let threshold = limit.comparison().threshold();
        let what = match limited {
            Limited::Errors => "fail",
            Limited::Latency => "fail or take longer than the latency limit",
        };
        let because = format!(
            "more than {}% of the canary's requests {what}, and stable keeps that limit ({})",
            (limit.above() * 1e6).round() / 1e4,
            evidence_and_need(log_e, threshold)
        );
        Some(self.conviction(Trigger::Limit, log_e, threshold, because))
    }

    fn by_budget(&self) -> Option<Conviction> {
        let budget = self.spending.budget().filter(|_| self.spending.is_spent())?;
        let because = format!(
            "clients saw {} failures of the canary, and the exposure budget is {budget}; whether it is worse than \
             stable is not said by that",
            self.spending.exposed()
        );
        let log_e = self.comparison.log_e().unwrap_or_default();
        Some(self.conviction(Trigger::ExposureBudget, log_e, self.comparison.threshold(), because))
    }

    fn conviction(&self, trigger: Trigger, log_e: f64, threshold: f64, because: String) -> Conviction {
        Conviction { trigger, log_e, threshold, because, canary: self.canary, stable: self.stable }
    }

    fn limits(&self) -> impl Iterator<Item = (Limited, &Limit)> {
        let errors = self.errors.iter().map(|limit| (Limited::Errors, limit));
        errors.chain(self.latency.iter().map(|(_, limit)| (Limited::Latency, limit)))
    }

    fn family_log_e(&self, family: usize) -> f64 {
        logs::sum(self.comparison.log_masses(family).into_iter())
    }

    /// The generation that requests routed from now on belong to.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.outage.open().unwrap_or(0))
    }

    #[must_use]
    pub fn reading(&self) -> Reading {
        Reading {
            towards_1000: self.towards_1000(),
            comparison: ComparisonReading {
                log_e: self.comparison.log_e(),
                threshold: self.comparison.threshold(),
                families: (0..FAMILIES.len()).map(|family| self.family_reading(family)).collect(),
            },
            outage: OutageReading {
                log_e: self.outage.log_e(),
                threshold: self.outage.threshold(),
                generations: self.outage.generations(),
            },
            limits: self.limits().map(|(limited, limit)| limit_reading(limited, limit)).collect(),
            exposure: ExposureReading { failures: self.spending.exposed(), budget: self.spending.budget() },
            hold: self.hold,
            canary: self.canary,
            stable: self.stable,
        }
    }

    fn towards_1000(&self) -> f64 {
        if let Some(conviction) = &self.convicted {
            return scaled(conviction.log_e, conviction.threshold);
        }
        let limits = self.limits().filter(|(_, limit)| acts(limit)).map(|(_, limit)| limit.comparison());
        let compared = limits.chain([&self.comparison, &self.breakdowns]).map(|test| (test.log_e(), test.threshold()));
        let all = compared.chain([(self.outage.log_e(), self.outage.threshold())]);
        all.filter_map(|(log_e, threshold)| Some(scaled(log_e?, threshold))).fold(0.0, f64::max)
    }

    fn family_reading(&self, family: usize) -> FamilyReading {
        FamilyReading {
            family: NAMES[family],
            log_e: self.family_log_e(family),
            counts: self.comparison.counts(family),
            best_times: self.comparison.best_times(family),
        }
    }
}

impl Seen {
    fn add(&mut self, bad: u64, ok: u64) {
        self.finished += bad + ok;
        self.failed += bad;
    }
}

/// A limit's comparison acts only while the canary breaks the limit and stable keeps it.
fn acts(limit: &Limit) -> bool {
    limit.canary_fires() && !limit.stable_fires()
}

/// What ended of a row, by whether it failed.
fn failures(row: &Row) -> Counts {
    let ok = |arm: &Arm| arm.ended.success + arm.ended.rejected;
    Counts {
        canary_bad: row.canary.ended.failure,
        canary_ok: ok(&row.canary),
        stable_bad: row.stable.ended.failure,
        stable_ok: ok(&row.stable),
    }
}

fn flow(drawn: &Drawn, row: &Row, ended: Counts) -> Flow {
    Flow {
        generation: drawn.generation.0,
        coin: drawn.weight.fraction(),
        canary_routed: row.canary.routed,
        stable_routed: row.stable.routed,
        ended,
    }
}

/// Ticks until everything of a slot that is still unfinished has taken longer than `limit`.
fn patience(limit: Duration) -> u64 {
    let millis = limit.min(LONGEST_WAIT).as_millis().div_ceil(TICK.as_millis());
    u64::try_from(millis).unwrap_or(u64::MAX) + 2
}

fn limit_reading(limited: Limited, limit: &Limit) -> LimitReading {
    let [canary_log_e, stable_log_e] = limit.log_e();
    LimitReading {
        limited,
        above: limit.above(),
        canary_log_e,
        stable_log_e,
        canary_fires: limit.canary_fires(),
        stable_fires: limit.stable_fires(),
        log_e: limit.comparison().log_e(),
        threshold: limit.comparison().threshold(),
    }
}

/// Evidence on the scale on which 1000 convicts.
fn scaled(log_e: f64, threshold: f64) -> f64 {
    (log_e - threshold + 1000f64.ln()).exp().min(SHOWN)
}

fn evidence_and_need(log_e: f64, threshold: f64) -> String {
    let needed = threshold.exp();
    match log_e.exp() {
        evidence if evidence < 1e6 => format!("evidence {evidence:.0}, needed {needed:.0}"),
        _ => format!("evidence over a million, needed {needed:.0}"),
    }
}

#[cfg(test)]
mod behaviour;
