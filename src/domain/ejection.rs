//! Passive ejection: an endpoint that fails again and again is left out for a while.
//!
//! Workers count, one decides. Every gateway failure (no connection, a reset, a timeout, garbage, a body that breaks
//! off, or 502, 503 or 504 as an answer) counts one up in what all workers share of the endpoint; every other answer,
//! a plain 500 too, begins anew: who answers so is up, and what it answers is for the judge. The engine looks at the
//! end of every tick and ejects, so that "at most so many" needs no lock and no second opinion, and is told once.

use std::sync::Arc;
use std::time::Duration;

use super::pool::{Endpoint, Pool};
use super::split::Weight;
use super::time::Moment;

/// When an endpoint is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// So many gateway failures in a row, over all workers.
    pub consecutive_failures: u32,
    /// How long the first ejection lasts; the nth lasts n times as long, up to [`LONGEST`].
    pub time: Duration,
    /// At most so large a share of a version's endpoints is out at once.
    pub max_share: Weight,
}

impl Default for Ejection {
    fn default() -> Ejection {
        Ejection { consecutive_failures: 5, time: Duration::from_secs(30), max_share: Weight::HALF }
    }
}

/// No ejection is longer, unless the first one is.
pub const LONGEST: Duration = Duration::from_mins(5);

/// One ejection, for the log.
#[derive(Debug, Clone)]
pub struct Ejected {
    pub endpoint: Arc<Endpoint>,
    /// Gateway failures in a row.
    pub failures: u32,
    pub time: Duration,
}

impl Ejection {
    /// How long an endpoint's ejection lasts when it was ejected `times` times lately, this one included.
    #[must_use]
    fn lasts(&self, times: u32) -> Duration {
        self.time.saturating_mul(times).min(LONGEST.max(self.time))
    }

    fn allowed(&self, endpoints: usize) -> usize {
        endpoints * usize::from(self.max_share.basis_points()) / usize::from(Weight::FULL.basis_points())
    }
}

/// Ejects whoever failed too often, as far as the version can do without; forgives one ejection of those that have held
/// out since for as long as the last one lasted; and tells the time to those whose slow start is to begin.
pub fn sweep(pool: &Pool, now: Moment) -> Vec<Ejected> {
    let mut ejected = Vec::new();
    for member in &pool.members {
        let endpoint = &member.endpoint;
        endpoint.begin_slow_start(now);
        let Some(rule) = &pool.balancing.ejection else { continue };
        if endpoint.tripped() && !endpoint.ejected(now) {
            let (census, failures) = (pool.census(now), endpoint.consecutive_failures());
            let others = census.available.saturating_sub(usize::from(member.takes(now)));
            if others > 0 && census.ejected < rule.allowed(pool.members.len()) {
                let times = endpoint.ejections() + 1;
                let time = rule.lasts(times);
                endpoint.eject(now.plus(time), times);
                ejected.push(Ejected { endpoint: endpoint.clone(), failures, time });
            }
        }
        let times = endpoint.ejections();
        if times > 0 && now.since(endpoint.calm_since()) >= rule.lasts(times) {
            endpoint.forgive(times - 1, now);
        }
    }
    ejected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::balance::Balancing;
    use crate::domain::names::EndpointId;
    use crate::domain::pool::Member;

    const MANY: u32 = 5;

    fn pool(n: u16) -> Pool {
        ruled(n, Some(Ejection::default()))
    }

    fn ruled(n: u16, ejection: Option<Ejection>) -> Pool {
        let endpoint =
            |i: u16| Arc::new(Endpoint::new(EndpointId(i.into()), "e".into(), ([127, 0, 0, 1], i + 1).into()));
        Pool::new((0..n).map(endpoint).map(Member::of), Balancing { ejection, ..Balancing::default() }, true)
    }

    fn fail(pool: &Pool, index: usize, times: u32) {
        for _ in 0..times {
            pool.members[index].endpoint.failed(MANY);
        }
    }

    fn out(pool: &Pool, at: u64) -> usize {
        pool.census(seconds(at)).ejected
    }

    fn seconds(at: u64) -> Moment {
        Moment(at * 1_000_000)
    }

    #[test]
    fn five_failures_in_a_row_eject_for_thirty_seconds() {
        let pool = pool(3);
        fail(&pool, 0, MANY - 1);
        pool.members[0].endpoint.answered();
        fail(&pool, 0, MANY - 1);
        assert!(sweep(&pool, seconds(1)).is_empty(), "an answer in between begins anew");
        fail(&pool, 0, 1);
        let ejected = sweep(&pool, seconds(1));
        assert_eq!((ejected.len(), ejected[0].time, ejected[0].failures), (1, Duration::from_secs(30), MANY));
        assert!(!pool.members[0].takes(seconds(30)) && pool.members[0].takes(seconds(31)));
        assert!(sweep(&pool, seconds(32)).is_empty(), "it has to fail as often again");
    }

    #[test]
    fn what_happened_between_two_looks_is_not_overlooked() {
        let pool = pool(2);
        fail(&pool, 0, MANY);
        pool.members[0].endpoint.answered();
        assert_eq!(sweep(&pool, seconds(1)).len(), 1);
    }

    #[test]
    fn every_ejection_lasts_longer_up_to_five_minutes_until_it_holds_out() {
        let pool = pool(2);
        let mut now = 1;
        for n in 1..=12 {
            fail(&pool, 0, MANY);
            let ejected = sweep(&pool, seconds(now));
            assert_eq!(ejected[0].time.as_secs(), (30 * n).min(300));
            now += ejected[0].time.as_secs();
        }
        for left in (0..12).rev() {
            assert!(sweep(&pool, seconds(now)).is_empty());
            let wait = (30 * u64::from(pool.members[0].endpoint.ejections())).min(300);
            sweep(&pool, seconds(now + wait - 1));
            assert_eq!(pool.members[0].endpoint.ejections(), left + 1);
            now += wait;
            sweep(&pool, seconds(now));
            assert_eq!(pool.members[0].endpoint.ejections(), left);
        }
    }

    #[test]
    fn half_of_a_version_stays_and_one_endpoint_always() {
        for (n, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)] {
            let pool = pool(n);
            for index in 0..usize::from(n) {
                fail(&pool, index, MANY);
            }
            sweep(&pool, seconds(1));
            assert_eq!(out(&pool, 1), most, "of {n}");
        }
        let all = Ejection { max_share: Weight::FULL, ..Ejection::default() };
        let pool = ruled(3, Some(all));
        for index in 0..3 {
            fail(&pool, index, MANY);
        }
        sweep(&pool, seconds(1));
        assert_eq!(out(&pool, 1), 2, "the last one is kept whatever it does");
    }

    #[test]
    fn a_service_that_ejects_nothing_ejects_nothing() {
        let pool = ruled(3, None);
        fail(&pool, 0, MANY);
        assert!(sweep(&pool, seconds(1)).is_empty());
    }
}
