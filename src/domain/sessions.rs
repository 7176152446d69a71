//! Which sessions were met, and which of them went badly, since an exposure began.
//!
//! With stickiness a coin is tossed per session, not per request: a session that fails all day is one toss, however
//! often it is seen. So only the first request of a session is a toss, and of its bad requests only the first counts.
//! The memory is shared by all workers, because a session's requests come over any of them: a memory per worker would
//! count a session once for every worker, and a session that always fails would outweigh its coin by their number. A
//! bit is written when a session is first met and when it first goes badly, otherwise it is only read: no lock, no line
//! of memory that every request writes to.
//!
//! One bit per session, at a hash that has nothing to do with its bucket. Two sessions on one bit are taken for one:
//! that drops evidence, and drops it from either arm alike. One bit and not several, because setting it tells exactly
//! one worker that it was the first.
//!
//! **Breakdowns.** Where clients ask often, a canary that dies has the first failure of every session in one tick: one
//! toss, which may be an accident, and none after it. So it is also noted which sessions *keep* failing, which is no
//! accident: again half a second after the first failure, and nothing went well in between. A session breaks down once.
//! One on stable does so more easily than one on the canary: with its second failure however soon, with one request
//! that takes that long to fail, or with one that its client gave up on. So whatever breaks a session on the canary
//! would have broken it on stable, and no later; otherwise, in an outage that both versions share, the one whose
//! failures take longer, or from which clients run away sooner, would seem to be the better one.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::outcome::Class;
use super::split::Role;
use super::sticky::{Assigned, By};
use super::time::Tick;
use super::window::Coin;

/// Identifies a session within an exposure: a hash of its key, or the bucket in its cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Session(pub u64);

/// Sessions met in an exposure: 32 KiB. With as many sessions as bits, a third of the new ones are still seen as new.
const MET_BITS: usize = 1 << 18;
/// Sessions that went badly, of one kind: 8 KiB.
const BAD_BITS: usize = 1 << 16;
/// Sessions that are failing now, or broke down: 64 KiB.
const RUNS: usize = 1 << 14;
/// For so many ticks a session fails before it has broken down. An accident takes three at most.
const BREAKDOWN: u64 = 5;

/// How a request of a session ended.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    pub role: Role,
    pub class: Class,
    /// The client left before the response head.
    pub unanswered: bool,
    pub routed: Tick,
    pub ended: Tick,
}

/// What an ending means to the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meaning {
    /// The session has ended as badly before.
    pub again: bool,
    /// The session has broken down, in this tick.
    pub broken: Option<Tick>,
}

/// The memory of one exposure.
#[derive(Debug)]
pub struct Sessions {
    met: Filter,
    failed: Filter,
    rejected: Filter,
    runs: Runs,
}

impl Default for Sessions {
    fn default() -> Sessions {
        let [failed, rejected] = [BAD_BITS; 2].map(Filter::new);
        Sessions { met: Filter::new(MET_BITS), failed, rejected, runs: Runs::default() }
    }
}

impl Sessions {
    /// Notes a client, and whether the coin fell for this request of his. A client without a cookie is new, even in a
    /// bucket that others were met in.
    pub fn meet(&self, client: &Assigned) -> Coin {
        let first = self.met.add(client.session);
        if first || client.by == By::Draw { Coin::Tossed } else { Coin::Known }
    }

    /// Notes how a request of a client ended. Of a client without a cookie each is a toss of its own.
    pub fn end(&self, client: &Assigned, ending: &Ending) -> Meaning {
        let again = match ending.class {
            Class::Failure => !self.failed.add(client.session),
            Class::Rejected => !self.rejected.add(client.session),
            Class::Success | Class::Abandoned | Class::Ours => false,
        };
        if client.by == By::Draw {
            return Meaning::default();
        }
        Meaning { again, broken: self.runs.end(client.session, ending) }
    }
}

/// For each session the tick in which it began to fail: zero if it does not, the largest number if it broke down.
struct Runs(Box<[AtomicU32]>);

const WELL: u32 = 0;
const BROKEN: u32 = u32::MAX;

impl Default for Runs {
    fn default() -> Runs {
        Runs((0..RUNS).map(|_| AtomicU32::new(WELL)).collect())
    }
}

impl Runs {
    fn end(&self, session: Session, ending: &Ending) -> Option<Tick> {
        let cell = &self.0[usize::try_from(session.0 % RUNS as u64).expect("less than the length")];
        let seen = cell.load(Ordering::Relaxed);
        if seen == BROKEN {
            return None;
        }
        let given_up = ending.class == Class::Abandoned && ending.unanswered && ending.role == Role::Stable;
        match ending.class {
            Class::Failure => {}
            Class::Abandoned if given_up => {}
            Class::Success | Class::Rejected if seen != WELL && ending.routed >= begun(seen) => {
                let _somebody_else_was_faster = exchange(cell, seen, WELL);
                return None;
            }
            Class::Success | Class::Rejected | Class::Abandoned | Class::Ours => return None,
        }
        let begun = if seen == WELL { ending.routed } else { begun(seen).min(ending.routed) };
        let broken = match ending.role {
            Role::Canary => (ending.routed.since(begun) >= BREAKDOWN).then_some(ending.routed),
            Role::Stable if seen != WELL => Some(ending.routed),
            Role::Stable => (ending.ended.since(begun) >= BREAKDOWN).then(|| Tick(begun.0.saturating_add(BREAKDOWN))),
        };
        let exchanged = exchange(cell, seen, if broken.is_some() { BROKEN } else { spelt(begun) });
        broken.filter(|_| exchanged)
    }
}

/// Whether nobody else was faster.
fn exchange(cell: &AtomicU32, seen: u32, next: u32) -> bool {
    seen == next || cell.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Thirteen years of ticks fit.
fn spelt(tick: Tick) -> u32 {
    u32::try_from(tick.0 + 1).unwrap_or(BROKEN - 1).min(BROKEN - 1)
}

fn begun(spelt: u32) -> Tick {
    Tick(u64::from(spelt) - 1)
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runs of {} sessions", self.0.len())
    }
}

/// A set of hashes that may take two for one.
struct Filter(Box<[AtomicU64]>);

impl Filter {
    /// `bits` is a multiple of 64.
    fn new(bits: usize) -> Filter {
        Filter((0..bits / 64).map(|_| AtomicU64::new(0)).collect())
    }

    /// Adds one; whether it was not there. Of several that add the same at once, exactly one is told so.
    fn add(&self, session: Session) -> bool {
        let words = self.0.len() as u64;
        let (word, bit) = ((session.0 / 64) % words, 1 << (session.0 % 64));
        let word = &self.0[usize::try_from(word).expect("less than the length, which is a usize")];
        // Most are known already, and reading keeps the line in every core's cache.
        word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter of {} bits", self.0.len() * 64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::domain::split::Bucket;

    fn known(session: u64) -> Assigned {
        Assigned { bucket: Bucket::new(1).unwrap(), session: Session(session), by: By::Known }
    }

    fn ending(role: Role, class: Class, routed: u64, ended: u64) -> Ending {
        Ending { role, class, unanswered: class == Abandoned, routed: Tick(routed), ended: Tick(ended) }
    }

    fn again(sessions: &Sessions, client: &Assigned, class: Class) -> bool {
        sessions.end(client, &ending(Canary, class, 1, 1)).again
    }

    #[test]
    fn a_session_is_met_once_and_fails_first_once() {
        let sessions = Sessions::default();
        assert_eq!([7, 7, 8].map(|session| sessions.meet(&known(session))), [Coin::Tossed, Coin::Known, Coin::Tossed]);
        let again = |class| again(&sessions, &known(7), class);
        assert!(!again(Success) && !again(Success));
        assert!(!again(Failure) && again(Failure));
        assert!(!again(Class::Rejected) && again(Class::Rejected), "each kind for itself");
    }

    #[test]
    fn a_client_without_a_cookie_is_a_toss_every_time() {
        let (sessions, drawn) = (Sessions::default(), Assigned { by: By::Draw, ..known(7) });
        for _ in 0..3 {
            assert_eq!(sessions.meet(&drawn), Coin::Tossed);
            assert!(!again(&sessions, &drawn, Failure));
        }
        assert_eq!(sessions.meet(&known(7)), Coin::Known, "with the cookie that it was given it is not");
        assert!(again(&sessions, &known(7), Failure));
    }

    #[test]
    fn buckets_never_share_a_bit() {
        let sessions = Sessions::default();
        assert!((0..10_000).all(|bucket| sessions.meet(&known(bucket)) == Coin::Tossed));
        assert!((0..10_000).all(|bucket| !again(&sessions, &known(bucket), Failure)));
    }

    #[test]
    fn of_many_workers_exactly_one_meets_a_session_first() {
        let (sessions, begin) = (Sessions::default(), Barrier::new(4));
        let first = || {
            begin.wait();
            (0..20_000).filter(|session| sessions.meet(&known(*session)) == Coin::Tossed).count()
        };
        let met: usize = thread::scope(|scope| {
            let workers = [(); 4].map(|()| scope.spawn(first));
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(met, 20_000);
    }

    /// The ticks in which a session breaks down.
    fn broken(endings: &[Ending]) -> Vec<u64> {
        let sessions = Sessions::default();
        endings.iter().filter_map(|ending| Some(sessions.end(&known(1), ending).broken?.0)).collect()
    }

    use Class::{Abandoned, Failure, Ours, Success};
    use Role::{Canary, Stable};

    #[test]
    fn a_session_that_keeps_failing_breaks_down_once() {
        let fails = |tick| ending(Canary, Failure, tick, tick);
        assert_eq!(broken(&[fails(10), fails(12), fails(14), fails(15), fails(16), fails(99)]), [15]);
        assert_eq!(broken(&[fails(10), ending(Canary, Ours, 11, 11), fails(90)]), [90]);
    }

    #[test]
    fn what_goes_well_in_between_ends_it() {
        let fails = |tick| ending(Canary, Failure, tick, tick);
        assert_eq!(broken(&[fails(10), ending(Canary, Success, 12, 13), fails(15), fails(19), fails(20)]), [20]);
        let earlier = ending(Canary, Success, 9, 13);
        assert_eq!(broken(&[fails(10), earlier, fails(15)]), [15], "but not what was routed before");
    }

    #[test]
    fn on_stable_a_slow_failure_or_a_second_one_is_enough_but_not_on_the_canary() {
        for class in [Failure, Abandoned] {
            assert_eq!(broken(&[ending(Stable, class, 10, 60)]), [15]);
            assert_eq!(broken(&[ending(Canary, class, 10, 60)]), Vec::<u64>::new());
            assert_eq!(broken(&[ending(Stable, class, 10, 14)]), Vec::<u64>::new());
        }
        assert_eq!(broken(&[ending(Stable, Failure, 10, 11), ending(Stable, Failure, 12, 12)]), [12]);
    }

    proptest::proptest! {
        #[test]
        fn stable_breaks_down_whenever_the_canary_would_have_and_no_later(
            ends in proptest::collection::vec((0u64..5, 0u64..8, 0usize..3), 1..30),
        ) {
            let mut now = 0;
            let told = |role| move |&(routed, ended, class): &(u64, u64, Class)| ending(role, class, routed, ended);
            let ends: Vec<(u64, u64, Class)> = ends
                .into_iter()
                .map(|(pause, takes, class)| {
                    now += pause;
                    (now, now + takes, [Failure, Success, Ours][class])
                })
                .collect();
            let of = |role| broken(&ends.iter().map(told(role)).collect::<Vec<_>>());
            if let [canary] = of(Canary)[..] {
                let stable = of(Stable);
                proptest::prop_assert!(stable.len() == 1 && stable[0] <= canary, "{stable:?} and {canary}");
            }
        }
    }
}
