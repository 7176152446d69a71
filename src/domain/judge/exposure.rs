//! The exposure budget: how many failures of the canary users may see before it goes, whatever the statistics say.
//!
//! A budget is no test. It asks what the canary has cost, not whether it is worse than stable, so it needs no share of
//! the account and gives no guarantee: a canary as good as stable spends it too, at stable's own error rate, and an
//! outage that both share spends it in seconds. That is why there is none unless the operator declares one. Fifty
//! failures are a lot for a rollout of a thousand requests; a healthy standing split of 100 canary requests a second at
//! one error in a thousand sees them in eight minutes, where the promise is 10 false rollbacks in 10,000 half-hours.

use crate::domain::window::Row;

/// Trials of one exposure after which the rest of the budget is no longer halved.
const MOST_HALVINGS: u32 = 10;

/// What one exposure may cost, and has cost.
#[derive(Debug, Clone, Copy)]
pub struct Spending {
    budget: Option<u64>,
    exposed: u64,
}

impl Spending {
    /// `trial`: how often the judgement of this exposure has been begun. What was spent before a restart is forgotten,
    /// and a restart must not refill the budget: the second trial has half of it, the third a quarter, so that a crash
    /// loop spends at most twice the budget, and one failure a trial after that.
    #[must_use]
    pub fn new(budget: Option<u64>, trial: u32) -> Spending {
        let share = |failures: u64| (failures >> trial.saturating_sub(1).min(MOST_HALVINGS)).max(1);
        Spending { budget: budget.map(share), exposed: 0 }
    }

    pub fn count(&mut self, row: &Row) {
        self.exposed += row.canary.exposed;
    }

    /// Failures of the canary that a client saw, in this trial.
    #[must_use]
    pub fn exposed(&self) -> u64 {
        self.exposed
    }

    #[must_use]
    pub fn budget(&self) -> Option<u64> {
        self.budget
    }

    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.budget.is_some_and(|budget| self.exposed >= budget)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::window::Arm;

    fn row(exposed: u64) -> Row {
        Row { canary: Arm { exposed, ..Arm::default() }, ..Row::default() }
    }

    #[test]
    fn without_a_budget_nothing_is_ever_spent() {
        let mut spending = Spending::new(None, 1);
        spending.count(&row(u64::from(u32::MAX)));
        assert!(!spending.is_spent());
    }

    #[test]
    fn failures_of_stable_cost_nothing() {
        let mut spending = Spending::new(Some(1), 1);
        spending.count(&Row { stable: Arm { exposed: 9, ..Arm::default() }, ..Row::default() });
        assert!(!spending.is_spent());
    }

    proptest! {
        #[test]
        fn it_is_spent_exactly_when_as_many_were_seen(
            budget in 1..200u64, rows in prop::collection::vec(0..9u64, 0..60),
        ) {
            let mut spending = Spending::new(Some(budget), 1);
            let mut sum = 0;
            for exposed in rows {
                spending.count(&row(exposed));
                sum += exposed;
                prop_assert_eq!(spending.is_spent(), sum >= budget);
            }
        }

        #[test]
        fn a_crash_loop_spends_at_most_twice_the_budget(budget in 1..10_000u64, trials in 1..12u32) {
            let sum: u64 = (1..=trials).filter_map(|trial| Spending::new(Some(budget), trial).budget()).sum();
            prop_assert!(sum <= 2 * budget + u64::from(trials));
        }
    }
}
