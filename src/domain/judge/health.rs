//! Health: no endpoint of the canary accepts a connection, and stable answers in its stead.
//!
//! No statistics: a request that the canary could not even be offered, and that stable then answered well, proves both
//! halves of the sentence. In a shared outage nothing is rescued, so nothing is convicted. An accident of up to three
//! ticks is forgiven, as by the outage guard.

use super::logs::real;
use crate::domain::time::{TICK, Tick};
use crate::domain::window::Row;

/// So many rescued requests convict...
const RESCUED: u64 = 20;
/// ...if they were drawn in at least so many different ticks;
const RESCUED_TICKS: usize = 4;
/// any number of them convicts when drawn in so many different ticks,
const TICKS: usize = 5;
/// or when drawn so many ticks apart: five seconds.
const SPAN: u64 = 50;

/// What is known since the canary was last reached.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// The latest routing tick of a canary request that is known to have been reached.
    reached: Option<Tick>,
    /// Rescued requests drawn after that, by routing tick, in order. Never long: five ticks convict.
    rescued: Vec<(Tick, u64)>,
    convicted: Option<Outage>,
}

/// A canary that cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outage {
    pub rescued: u64,
    /// From the first to the last tick in which one was drawn.
    pub seconds: f64,
}

impl Health {
    /// Counts what became known of canary requests drawn in one tick. A late answer to a request drawn before the
    /// canary vanished ends nothing: only one drawn at the same time or later does.
    pub fn count(&mut self, drawn: Tick, row: &Row) {
        let canary = &row.canary;
        if canary.ended.judged() > canary.unreachable {
            self.reached = self.reached.max(Some(drawn));
            self.rescued.retain(|(tick, _)| *tick > drawn);
        }
        if canary.rescued > 0 && self.reached.is_none_or(|reached| reached < drawn) {
            match self.rescued.binary_search_by_key(&drawn, |(tick, _)| *tick) {
                Ok(at) => self.rescued[at].1 += canary.rescued,
                Err(at) => self.rescued.insert(at, (drawn, canary.rescued)),
            }
        }
    }

    /// Decides, once everything that became known in this tick is counted, in whatever order.
    pub fn end_tick(&mut self) {
        let (Some((first, _)), Some((last, _))) = (self.rescued.first(), self.rescued.last()) else { return };
        let rescued = self.rescued.iter().map(|(_, count)| count).sum();
        let (ticks, span) = (self.rescued.len(), last.since(*first));
        if ticks >= TICKS || span >= SPAN || (rescued >= RESCUED && ticks >= RESCUED_TICKS) {
            self.convicted = Some(Outage { rescued, seconds: real(span + 1) * TICK.as_secs_f64() });
            self.rescued.clear();
        }
    }

    /// What convicts the canary.
    #[must_use]
    pub fn convicts(&self) -> Option<Outage> {
        self.convicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Classes;
    use crate::domain::window::Arm;

    fn unreachable(rescued: u64) -> Row {
        let ended = Classes { failure: 10, ..Classes::default() };
        Row { canary: Arm { ended, unreachable: 10, rescued, ..Arm::default() }, ..Row::default() }
    }

    fn reached() -> Row {
        let ended = Classes { failure: 1, ..Classes::default() };
        Row { canary: Arm { ended, ..Arm::default() }, ..Row::default() }
    }

    fn convicts(rows: &[(u64, Row)]) -> bool {
        let mut health = Health::default();
        for (tick, row) in rows {
            health.count(Tick(*tick), row);
            health.end_tick();
        }
        health.convicts().is_some()
    }

    #[test]
    fn twenty_rescued_in_four_ticks_convict_but_not_in_three() {
        let rows: Vec<_> = (1..=4).map(|tick| (tick, unreachable(7))).collect();
        assert!(!convicts(&rows[..3]));
        assert!(convicts(&rows));
    }

    #[test]
    fn a_few_rescued_convict_after_five_ticks() {
        let rows: Vec<_> = (1..=5).map(|tick| (tick, unreachable(1))).collect();
        assert!(!convicts(&rows[..4]));
        assert!(convicts(&rows));
    }

    #[test]
    fn two_rescued_five_seconds_apart_convict() {
        assert!(!convicts(&[(1, unreachable(1)), (50, unreachable(1))]));
        assert!(convicts(&[(1, unreachable(1)), (51, unreachable(1))]));
    }

    #[test]
    fn a_shared_outage_rescues_nobody_and_convicts_nobody() {
        assert!(!convicts(&(1..=600).map(|tick| (tick, unreachable(0))).collect::<Vec<_>>()));
    }

    #[test]
    fn any_answer_of_the_canary_even_an_error_begins_anew() {
        let mut rows: Vec<_> = (1..=4).map(|tick| (tick, unreachable(1))).collect();
        rows.push((5, reached()));
        rows.extend((6..=9).map(|tick| (tick, unreachable(1))));
        assert!(!convicts(&rows));
    }

    #[test]
    fn a_late_answer_to_a_request_from_before_changes_nothing() {
        let mut rows: Vec<_> = (2..=5).map(|tick| (tick, unreachable(1))).collect();
        rows.push((1, reached()));
        rows.push((6, unreachable(1)));
        assert!(convicts(&rows));
    }

    #[test]
    fn a_canary_of_which_one_endpoint_answers_is_not_gone() {
        let mut both = unreachable(5);
        both.merge(&reached());
        assert!(!convicts(&(1..=60).map(|tick| (tick, both)).collect::<Vec<_>>()));
    }
}
