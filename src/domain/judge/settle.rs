//! Outcomes in the order in which the coins fell.
//!
//! Arms that *fail at different speed* distort the first seconds of an outage that they share: the canary refuses in a
//! millisecond, stable times out after thirty seconds, and by time of completion every visible error is the canary's.
//! So counts are kept by routing tick and handed out slot by slot, in order, once next to nothing of a slot is
//! unfinished; what never ended by then is decided in the stable arm's disfavour, for good. So is what a client gave
//! up waiting for after longer than answers usually take: the impatient would hide the errors of the slower arm.
//!
//! A slot is as many ticks long as stable's requests usually take, because in routing order one dying connection is
//! smeared over all the ticks in which its requests were drawn: the slot makes one toss of it again, two at worst.
//! Only slots that are settled say how long the next one is, so its length cannot depend on its own coins. A change of
//! weight ends a slot early.

use std::collections::VecDeque;

use super::bets::Counts;
use super::logs::real;
use crate::domain::outcome::Classes;
use crate::domain::split::Weight;
use crate::domain::time::{TICK, Tick};
use crate::domain::window::{Arm, Coin, Drawn, Row};

/// How many ticks are one toss at least: an answer within 100 ms ends in this tick or the next.
const SHORTEST_SLOT: usize = 2;
/// And at most: a slow service must not wait for its evidence forever.
const LONGEST_SLOT: usize = 10;
/// So many of stable's requests must have ended before they say how long a slot is.
const KNOWN: f64 = 20.0;
/// The share of them that ends within a slot.
const WITHIN: f64 = 0.95;
/// What a tick is worth after another one: half of it is forgotten after a minute.
const MEMORY: f64 = 0.999;

/// What is known of one arm's requests of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fates {
    routed: u64,
    ended: Classes,
    over: u64,
    /// Of the abandoned: those whose answer was overdue when the client left.
    given_up: u64,
    /// Of the failures and of the rejected: what sessions did again.
    failed_again: u64,
    rejected_again: u64,
    broken: u64,
}

impl Fates {
    fn count(&mut self, arm: &Arm, overdue: bool) {
        self.routed += arm.routed;
        self.ended.merge(&arm.ended);
        self.over += arm.over;
        self.given_up += if overdue { arm.unanswered } else { 0 };
        self.failed_again += arm.failed_again;
        self.rejected_again += arm.rejected_again;
        self.broken += arm.broken;
    }

    fn merge(&mut self, other: &Fates) {
        self.routed += other.routed;
        self.ended.merge(&other.ended);
        self.over += other.over;
        self.given_up += other.given_up;
        self.failed_again += other.failed_again;
        self.rejected_again += other.rejected_again;
        self.broken += other.broken;
    }

    fn and(mut self, other: &Fates) -> Fates {
        self.merge(other);
        self
    }

    /// How those ended that count in a comparison: what a session does again is left out, as if we had done it.
    fn counting(&self) -> Classes {
        Classes {
            failure: self.ended.failure - self.failed_again,
            rejected: self.ended.rejected - self.rejected_again,
            ours: self.ended.ours + self.failed_again + self.rejected_again,
            ..self.ended
        }
    }

    /// Unfinished requests beyond those that a slot does not wait for.
    fn overdue(&self) -> u64 {
        self.unfinished().saturating_sub(self.routed / 100)
    }

    /// Requests that nobody abandoned and that we did not break ourselves.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.routed.saturating_sub(self.ended.total())
    }
}

/// Requests of one slot that were drawn under one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub weight: Weight,
    pub canary: Fates,
    pub stable: Fates,
    /// Of sessions whose coin had fallen before, canary first.
    pub known: [Fates; 2],
}

impl Group {
    fn of(weight: Weight) -> Group {
        Group { weight, canary: Fates::default(), stable: Fates::default(), known: [Fates::default(); 2] }
    }

    /// Failures; what is unfinished or was given up is one of stable's, but none of the canary's.
    #[must_use]
    pub fn failures(&self) -> Counts {
        self.against_stable(|ended| ended.failure)
    }

    /// Rejected (4xx); what is unfinished or was given up is charged to stable as well.
    #[must_use]
    pub fn rejected(&self) -> Counts {
        self.against_stable(|ended| ended.rejected)
    }

    /// Failures and what took longer than the limit, of requests whose coin fell for them: whatever is unfinished when
    /// it is handed out, or was given up after longer than that, is among them in both arms.
    #[must_use]
    pub fn over(&self) -> Counts {
        over(&self.canary, &self.stable)
    }

    /// The same of all requests: to be held against a limit, not to be compared.
    #[must_use]
    pub fn over_of_all(&self) -> Counts {
        let [canary, stable] = self.all();
        over(&canary, &stable)
    }

    /// Sessions that broke down, among all coins that fell. On stable, whatever is long unfinished is one.
    #[must_use]
    pub fn breakdowns(&self) -> Counts {
        let [canary, stable] = self.all();
        let canary_ok = self.canary.routed.saturating_sub(canary.broken);
        Counts { canary_bad: canary.broken, canary_ok, stable_bad: stable.broken + stable.overdue(), stable_ok: 0 }
    }

    fn all(&self) -> [Fates; 2] {
        [self.canary.and(&self.known[0]), self.stable.and(&self.known[1])]
    }

    fn merge(&mut self, other: &Group) {
        self.canary.merge(&other.canary);
        self.stable.merge(&other.stable);
        self.known[0].merge(&other.known[0]);
        self.known[1].merge(&other.known[1]);
    }

    fn against_stable(&self, bad: impl Fn(&Classes) -> u64) -> Counts {
        let [canary, stable] = self.all();
        let (ended, ended_on_stable) = (canary.counting(), stable.counting());
        Counts {
            canary_bad: bad(&ended),
            canary_ok: ended.judged() - bad(&ended) + canary.unfinished() + canary.given_up,
            stable_bad: bad(&ended_on_stable) + stable.unfinished() + stable.given_up,
            stable_ok: ended_on_stable.judged() - bad(&ended_on_stable),
        }
    }
}

fn over(canary: &Fates, stable: &Fates) -> Counts {
    let bad = |arm: &Fates| arm.ended.failure + arm.over.min(arm.ended.success + arm.ended.rejected);
    Counts {
        canary_bad: bad(canary) + canary.unfinished() + canary.given_up,
        canary_ok: canary.ended.judged() - bad(canary),
        stable_bad: bad(stable) + stable.unfinished() + stable.given_up,
        stable_ok: stable.ended.judged() - bad(stable),
    }
}

/// Consecutive ticks, settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub last: Tick,
    pub ticks: u64,
    /// The weight was another one in the slot before.
    pub changed: bool,
    /// By weight, in no particular order; a change of weight within a tick leaves more than one.
    pub groups: Vec<Group>,
}

impl Slot {
    #[must_use]
    pub fn seconds(&self) -> f64 {
        real(self.ticks) * TICK.as_secs_f64()
    }
}

/// When a slot may be handed out before its time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slack {
    /// As soon as at most a hundredth of either arm is unfinished: one slow request must not hold up a busy slot.
    Hundredth,
    /// Not before everything has ended.
    None,
}

#[derive(Debug)]
struct Entry {
    weight: Weight,
    groups: Vec<Group>,
    /// Of stable's requests: how many ended so many ticks after they were drawn, the slowest together.
    ended_after: [u64; LONGEST_SLOT],
}

impl Entry {
    fn of(weight: Weight) -> Entry {
        Entry { weight, groups: Vec::new(), ended_after: [0; LONGEST_SLOT] }
    }
}

/// How many ticks stable's requests take, in settled slots.
#[derive(Debug, Default)]
struct Pace {
    ended_after: [f64; LONGEST_SLOT],
}

impl Pace {
    fn learn(&mut self, entry: &Entry) {
        for (known, new) in self.ended_after.iter_mut().zip(entry.ended_after) {
            *known = MEMORY * *known + real(new);
        }
    }

    /// How many ticks are one toss.
    fn slot(&self) -> usize {
        let all: f64 = self.ended_after.iter().sum();
        if all < KNOWN {
            return SHORTEST_SLOT;
        }
        let sums = self.ended_after.iter().scan(0.0, |sum, ended| {
            *sum += ended;
            Some(*sum)
        });
        let short = sums.take_while(|sum| *sum < WITHIN * all).count();
        (short + 1).clamp(SHORTEST_SLOT, LONGEST_SLOT)
    }
}

/// The ticks that are not settled yet: at most twice the patience, and older ones are not remembered.
#[derive(Debug)]
pub struct Ring {
    slack: Slack,
    /// Ticks after which a slot is handed out whatever is still missing.
    patience: u64,
    first: Tick,
    now: Tick,
    entries: VecDeque<Entry>,
    last_weight: Option<Weight>,
    pace: Pace,
    /// How long the next slot is, unless the weight changes.
    slot_ticks: usize,
}

impl Ring {
    #[must_use]
    pub fn new(slack: Slack, patience: u64) -> Ring {
        Ring {
            slack,
            patience,
            first: Tick(0),
            now: Tick(0),
            entries: VecDeque::new(),
            last_weight: None,
            pace: Pace::default(),
            slot_ticks: SHORTEST_SLOT,
        }
    }

    /// Notes that tick `now` has ended and had that weight. The first call says where time begins; after a gap longer
    /// than the patience it begins anew, which loses evidence for and against alike.
    pub fn advance(&mut self, now: Tick, weight: Weight) {
        self.now = now;
        let known_until = Tick(self.first.0 + self.entries.len() as u64);
        let fresh = self.entries.is_empty() && self.last_weight.is_none();
        if fresh || now.since(known_until) > self.patience {
            self.entries.clear();
            self.first = now;
        }
        if let Some(entry) = self.entry(now, weight) {
            entry.weight = weight;
        }
    }

    /// Counts what became known of requests drawn in one tick; those of a tick that is settled change nothing any more.
    pub fn count(&mut self, drawn: &Drawn, row: &Row) {
        let after = self.now.since(drawn.tick);
        let overdue = after >= self.overdue();
        let Some(entry) = self.entry(drawn.tick, drawn.weight) else { return };
        let slot = usize::try_from(after).unwrap_or(usize::MAX).min(LONGEST_SLOT - 1);
        entry.ended_after[slot] += row.stable.ended.judged();
        let group = group_of(&mut entry.groups, drawn.weight);
        let [canary, stable] = match drawn.coin {
            Coin::Tossed => [&mut group.canary, &mut group.stable],
            Coin::Known => group.known.each_mut(),
        };
        canary.count(&row.canary, overdue);
        stable.count(&row.stable, overdue);
    }

    /// After so many ticks a client who leaves has waited too long: longer than stable usually takes, or, where time
    /// itself is judged, longer than the limit.
    fn overdue(&self) -> u64 {
        match self.slack {
            Slack::Hundredth => self.slot_ticks as u64,
            Slack::None => self.patience.saturating_sub(1),
        }
    }

    fn entry(&mut self, tick: Tick, weight: Weight) -> Option<&mut Entry> {
        let index = usize::try_from(tick.0.checked_sub(self.first.0)?).ok()?;
        if index as u64 > 2 * self.patience {
            return None;
        }
        while self.entries.len() <= index {
            self.entries.push_back(Entry::of(weight));
        }
        self.entries.get_mut(index)
    }

    /// The next slot, if it is settled; to be asked until there is none.
    pub fn settled(&mut self, now: Tick) -> Option<Slot> {
        let length = self.next_slot(now)?;
        let last = Tick(self.first.0 + length as u64 - 1);
        if now.since(last) < self.patience && !self.is_finished(length) {
            return None;
        }
        Some(self.hand_out(length, last))
    }

    /// How many ticks the next slot has; `None` while it may still grow.
    fn next_slot(&self, now: Tick) -> Option<usize> {
        let over = usize::try_from((now.0 + 1).saturating_sub(self.first.0)).unwrap_or(usize::MAX);
        let weight = self.entries.front()?.weight;
        let known = self.entries.iter().take(over.min(self.slot_ticks + 1));
        let same = known.clone().take_while(|entry| entry.weight == weight).count();
        if same >= self.slot_ticks { Some(self.slot_ticks) } else { (same < known.count()).then_some(same) }
    }

    fn is_finished(&self, length: usize) -> bool {
        let groups = || self.entries.iter().take(length).flat_map(|entry| &entry.groups);
        let finished = |arm: usize| {
            let drawn: u64 = groups().map(|group| group.all()[arm].routed).sum();
            let unfinished: u64 = groups().map(|group| group.all()[arm].unfinished()).sum();
            match self.slack {
                Slack::Hundredth => unfinished <= drawn / 100,
                Slack::None => unfinished == 0,
            }
        };
        finished(0) && finished(1)
    }

    fn hand_out(&mut self, length: usize, last: Tick) -> Slot {
        let mut groups = Vec::new();
        let mut weight = self.last_weight;
        for entry in self.entries.drain(..length) {
            weight = Some(entry.weight);
            self.pace.learn(&entry);
            for from in entry.groups {
                group_of(&mut groups, from.weight).merge(&from);
            }
        }
        let changed = self.last_weight.is_some_and(|last| Some(last) != weight);
        self.last_weight = weight;
        self.first = last.next();
        self.slot_ticks = self.pace.slot();
        Slot { last, ticks: length as u64, changed, groups }
    }
}

fn group_of(groups: &mut Vec<Group>, weight: Weight) -> &mut Group {
    let index = groups.iter().position(|group| group.weight == weight).unwrap_or_else(|| {
        groups.push(Group::of(weight));
        groups.len() - 1
    });
    &mut groups[index]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::Exposure;
    use crate::domain::window::Generation;

    const HALF: Weight = Weight::HALF;
    const FULL: Weight = Weight::FULL;

    fn drawn(tick: u64, weight: Weight) -> Drawn {
        Drawn { exposure: Exposure(1), tick: Tick(tick), weight, generation: Generation(0), coin: Coin::Tossed }
    }

    fn routed(stable: u64, canary: u64) -> Row {
        let arm = |routed| Arm { routed, ..Arm::default() };
        Row { stable: arm(stable), canary: arm(canary) }
    }

    fn ended(stable: Classes, canary: Classes) -> Row {
        let arm = |ended| Arm { ended, ..Arm::default() };
        Row { stable: arm(stable), canary: arm(canary) }
    }

    fn well(success: u64) -> Classes {
        Classes { success, ..Classes::default() }
    }

    fn ring(weights: &[Weight]) -> Ring {
        let mut ring = Ring::new(Slack::Hundredth, 100);
        for (tick, weight) in (1..).zip(weights) {
            ring.advance(Tick(tick), *weight);
        }
        ring
    }

    #[test]
    fn a_slot_waits_for_its_second_tick_and_its_last_request() {
        let mut ring = ring(&[HALF]);
        ring.count(&drawn(1, HALF), &routed(1, 0));
        assert_eq!(ring.settled(Tick(1)), None);
        ring.advance(Tick(2), HALF);
        assert_eq!(ring.settled(Tick(2)), None);
        ring.count(&drawn(1, HALF), &ended(well(1), well(0)));
        let slot = ring.settled(Tick(2)).unwrap();
        assert_eq!((slot.ticks, slot.groups[0].failures().stable_ok), (2, 1));
    }

    #[test]
    fn one_slow_request_in_a_hundred_does_not_hold_up_a_slot() {
        let mut ring = ring(&[HALF, HALF]);
        ring.count(&drawn(1, HALF), &routed(100, 0));
        ring.count(&drawn(1, HALF), &ended(well(99), well(0)));
        assert_eq!(ring.settled(Tick(2)).unwrap().groups[0].failures().stable_bad, 1);
    }

    #[test]
    fn after_ten_seconds_what_is_unfinished_is_stables_failure_and_not_the_canarys() {
        let mut ring = ring(&[HALF, HALF]);
        ring.count(&drawn(1, HALF), &routed(7, 3));
        assert_eq!(ring.settled(Tick(101)), None);
        let slot = ring.settled(Tick(102)).unwrap();
        assert_eq!(slot.groups[0].failures(), Counts { canary_ok: 3, stable_bad: 7, ..Counts::default() });
        assert_eq!(slot.groups[0].rejected(), slot.groups[0].failures());
        assert_eq!(slot.groups[0].over(), Counts { canary_bad: 3, stable_bad: 7, ..Counts::default() });
    }

    #[test]
    fn what_a_client_abandoned_counts_for_nobody() {
        let mut ring = ring(&[HALF, HALF]);
        ring.count(&drawn(1, HALF), &routed(1, 1));
        let gone = Classes { abandoned: 1, ..Classes::default() };
        let ours = Classes { ours: 1, ..Classes::default() };
        ring.count(&drawn(1, HALF), &ended(gone, ours));
        assert_eq!(ring.settled(Tick(2)).unwrap().groups[0].failures(), Counts::default());
    }

    #[test]
    fn slots_are_as_long_as_stables_requests_take() {
        let mut ring = Ring::new(Slack::Hundredth, 100);
        let mut lengths = Vec::new();
        for tick in 1..40 {
            ring.advance(Tick(tick), HALF);
            ring.count(&drawn(tick, HALF), &routed(30, 10));
            if tick > 4 {
                ring.count(&drawn(tick - 4, HALF), &ended(well(30), well(10)));
            }
            lengths.extend(ring.settled(Tick(tick)).map(|slot| slot.ticks));
        }
        assert_eq!(lengths[..3], [2, 5, 5]);
    }

    #[test]
    fn what_a_client_gave_up_late_is_decided_against_stable() {
        let mut ring = ring(&[HALF, HALF]);
        ring.count(&drawn(1, HALF), &routed(3, 3));
        ring.advance(Tick(30), HALF);
        let left = Arm { ended: Classes { abandoned: 3, ..Classes::default() }, unanswered: 2, ..Arm::default() };
        ring.count(&drawn(1, HALF), &Row { stable: left, canary: left });
        let slot = ring.settled(Tick(30)).unwrap();
        assert_eq!(slot.groups[0].failures(), Counts { canary_ok: 2, stable_bad: 2, ..Counts::default() });
        assert_eq!(slot.groups[0].over(), Counts { canary_bad: 2, stable_bad: 2, ..Counts::default() });
    }

    #[test]
    fn a_change_of_weight_ends_a_slot_and_marks_the_next() {
        let mut ring = ring(&[HALF, FULL, FULL]);
        let slots: Vec<_> =
            std::iter::from_fn(|| ring.settled(Tick(3))).map(|slot| (slot.ticks, slot.changed)).collect();
        assert_eq!(slots, [(1, false), (2, true)]);
    }

    #[test]
    fn requests_of_two_weights_in_one_tick_are_kept_apart() {
        let mut ring = ring(&[HALF, HALF]);
        ring.count(&drawn(2, HALF), &ended(well(1), well(1)));
        ring.count(&drawn(2, FULL), &ended(well(0), well(1)));
        assert_eq!(ring.settled(Tick(2)).unwrap().groups.len(), 2);
    }

    #[test]
    fn a_slot_never_overtakes_an_earlier_one() {
        let mut ring = ring(&[HALF; 4]);
        ring.count(&drawn(1, HALF), &routed(1, 0));
        ring.count(&drawn(3, HALF), &routed(1, 0));
        ring.count(&drawn(3, HALF), &ended(well(1), well(0)));
        assert_eq!(ring.settled(Tick(4)), None);
    }

    #[test]
    fn what_ends_after_its_slot_was_settled_changes_nothing() {
        let mut ring = ring(&[HALF, HALF]);
        ring.settled(Tick(2)).unwrap();
        ring.count(&drawn(1, HALF), &ended(well(0), Classes { failure: 9, ..Classes::default() }));
        ring.advance(Tick(4), HALF);
        assert_eq!(ring.settled(Tick(4)).unwrap().groups, []);
    }

    #[test]
    fn memory_stays_bounded_however_long_the_caller_sleeps() {
        let mut ring = ring(&[HALF; 4]);
        ring.advance(Tick(1_000_000), HALF);
        ring.count(&drawn(9_000_000, HALF), &routed(1, 1));
        assert_eq!(ring.entries.len(), 1);
    }
}
