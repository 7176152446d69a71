//! What a request passes before it is given a version: the service's rate limit per client, and the queue in which it
//! waits while the service is paused.
//!
//! ```text
//! request ─▶ service found ─▶ rate limit ─▶ paused? ── no ──▶ version chosen
//!                              │ 429         │ yes                ▲ anew, by the newest snapshot
//!                              ▼             ▼                    │
//!                            refused       held: at most so many, for so long (503)
//! ```
//!
//! Here is what is declared, and the one counter that all workers share; `proxy::limiter` keeps the clients' buckets,
//! `proxy::hold` the waiting requests.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::time::Moment;

/// What the file says about letting requests in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admission {
    pub rate_limit: Option<Arc<RateLimit>>,
    pub hold: HoldQueue,
}

/// So many requests per client, and the rest is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    pub key: ClientKey,
    pub rate: Rate,
    /// After a pause, so many at once.
    pub burst: NonZeroU32,
    /// Clients told apart at a time; those beyond share buckets.
    pub keys: usize,
}

/// Clients that have buckets of their own, unless the file says otherwise: a few megabytes.
pub const DEFAULT_KEYS: usize = 100_000;

/// What tells one client from another. Without the header or cookie, a client is its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientKey {
    /// An IPv6 client is its /64: every one of them has 2^64 addresses to choose from.
    Address,
    Header(http::HeaderName),
    Cookie(String),
}

/// Requests per second, minute or hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub requests: NonZeroU32,
    pub per: Per,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    Second,
    Minute,
    Hour,
}

/// Why a text is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    #[error("a rate is written as a number of requests and a unit, such as \"100/s\", \"30/m\" or \"1000/h\"")]
    Form,
    #[error("a rate lies between 1 and {MOST_REQUESTS} requests")]
    Range,
}

/// Of a rate and of a burst: a microsecond apart.
pub const MOST_REQUESTS: u32 = 1_000_000;

impl Rate {
    /// Reads `"100/s"`.
    pub fn parse(text: &str) -> Result<Rate, RateError> {
        let (requests, unit) = text.trim().split_once('/').ok_or(RateError::Form)?;
        let per = Per::ALL.into_iter().find(|per| per.as_str() == unit).ok_or(RateError::Form)?;
        if requests.is_empty() || !requests.bytes().all(|b| b.is_ascii_digit()) {
            return Err(RateError::Form);
        }
        let requests = requests.parse().ok().filter(|requests: &NonZeroU32| requests.get() <= MOST_REQUESTS);
        Ok(Rate { requests: requests.ok_or(RateError::Range)?, per })
    }

    /// From one request to the next, at this rate.
    #[must_use]
    pub fn interval(self) -> Duration {
        self.per.duration() / self.requests.get()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.requests, self.per.as_str())
    }
}

impl Per {
    const ALL: [Per; 3] = [Per::Second, Per::Minute, Per::Hour];

    fn as_str(self) -> &'static str {
        match self {
            Per::Second => "s",
            Per::Minute => "m",
            Per::Hour => "h",
        }
    }

    fn duration(self) -> Duration {
        match self {
            Per::Second => Duration::from_secs(1),
            Per::Minute => Duration::from_mins(1),
            Per::Hour => Duration::from_hours(1),
        }
    }
}

/// The queue of a paused service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldQueue {
    /// So many requests wait, over all workers.
    pub requests: u32,
    /// So long each of them.
    pub time: Duration,
}

impl Default for HoldQueue {
    fn default() -> HoldQueue {
        HoldQueue { requests: 1_000, time: Duration::from_secs(30) }
    }
}

/// The longest pause that may be asked for: who needs more wants a maintenance page, not a queue.
pub const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// A service's admission, as the data plane needs it. The counter is the same one in every snapshot.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    pub rate_limit: Option<Arc<RateLimit>>,
    pub hold: HoldQueue,
    /// Until when requests wait. A worker that hears nothing any more goes by this.
    pub paused: Option<Moment>,
    pub held: Arc<Held>,
}

impl Gate {
    #[must_use]
    pub fn of(admission: &Admission, paused: Option<Moment>, before: Option<&Gate>) -> Gate {
        let held = before.map(|gate| gate.held.clone()).unwrap_or_default();
        Gate { rate_limit: admission.rate_limit.clone(), hold: admission.hold, paused, held }
    }

    #[must_use]
    pub fn is_paused(&self, now: Moment) -> bool {
        self.paused.is_some_and(|until| now < until)
    }
}

/// Requests waiting over all workers.
#[derive(Debug, Default)]
pub struct Held(AtomicU32);

impl Held {
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// A place in the queue, unless `most` are taken.
    #[must_use]
    pub fn enter(self: &Arc<Self>, most: u32) -> Option<Place> {
        let more = |waiting: u32| (waiting < most).then(|| waiting + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place(self.clone()))
    }
}

/// A place in the queue; given up when dropped, so also when the client leaves.
#[derive(Debug)]
pub struct Place(Arc<Held>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        let rate = |text: &str| Rate::parse(text).unwrap();
        assert_eq!(rate("100/s").interval(), Duration::from_millis(10));
        assert_eq!(rate("30/m").interval(), Duration::from_secs(2));
        assert_eq!(rate("3600/h").interval(), Duration::from_secs(1));
        for bad in ["", "100", "/s", "100/", "100/d", "-1/s", "1.5/s", "1e3/s", "100 /s", "100/S", "+1/s"] {
            assert_eq!(Rate::parse(bad), Err(RateError::Form), "{bad}");
        }
        for bad in ["0/s", "1000001/s", "99999999999/h"] {
            assert_eq!(Rate::parse(bad), Err(RateError::Range), "{bad}");
        }
    }

    #[test]
    fn a_pause_ends_by_itself() {
        let gate = Gate { paused: Some(Moment(10)), ..Gate::default() };
        assert!(gate.is_paused(Moment(9)) && !gate.is_paused(Moment(10)));
    }

    #[test]
    fn the_queue_is_one_in_all_snapshots() {
        let first = Gate::of(&Admission::default(), None, None);
        let place = first.held.enter(1).unwrap();
        let next = Gate::of(&Admission::default(), Some(Moment(1)), Some(&first));
        assert!(next.held.enter(1).is_none());
        drop(place);
        assert_eq!(next.held.requests(), 0);
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(requests in 1..=MOST_REQUESTS, unit in 0..3usize) {
            let rate = Rate { requests: NonZeroU32::new(requests).unwrap(), per: Per::ALL[unit] };
            prop_assert_eq!(Rate::parse(&rate.to_string()), Ok(rate));
        }

        #[test]
        fn reading_never_panics(text in "\\PC*") {
            let _ = Rate::parse(&text);
        }

        #[test]
        fn places_are_given_up_to_the_bound_and_come_back(most in 0..20u32, moves: Vec<bool>) {
            let (held, mut places) = (Arc::<Held>::default(), Vec::new());
            for enters in moves {
                if enters {
                    let place = held.enter(most);
                    prop_assert_eq!(place.is_some(), places.len() < most as usize);
                    places.extend(place);
                } else {
                    places.pop();
                }
                prop_assert_eq!(held.requests() as usize, places.len());
            }
        }
    }
}
