//! Rate limits: one bucket per client, shared by all workers, in bounded memory.
//!
//! A limiter keeps at most as many buckets as its rule has `keys`. Buckets that are full again say nothing and are
//! swept out, once a second while there are many. A client that comes when there is still no place shares one of
//! [`SHARED`] further buckets, picked by its key: a flood of addresses may cost a newcomer some of its rate, but
//! neither memory, nor those who are known already, nor everybody at once.
//!
//! Keys are hashed with a secret of the process, so that nobody can aim at another's bucket, and headers of any length
//! take eight bytes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dashmap::DashMap;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use http::header::{self, HeaderMap};

use crate::domain::admission::{ClientKey, RateLimit};
use crate::domain::names::ServiceName;
use crate::domain::snapshot::Snapshot;
use crate::domain::time::Moment;
use crate::link::Clock;

/// Buckets that clients share when there is no place for one of their own.
const SHARED: usize = 1_024;
/// Between two sweeps of one limiter.
const SWEEP: Duration = Duration::from_secs(1);

/// The limiters in use; a worker knows those that it has needed, and all know the same ones.
#[derive(Debug)]
pub struct Limiters {
    clock: Clock,
    shared: Arc<Shared>,
    known: RefCell<BTreeMap<ServiceName, Arc<Limiter<Clock>>>>,
}

/// What the workers' limiters have in common: looked at when a worker meets a rule for the first time.
#[derive(Debug, Default)]
pub struct Shared(Mutex<BTreeMap<ServiceName, Weak<Limiter<Clock>>>>);

impl Limiters {
    #[must_use]
    pub fn new(clock: Clock, shared: Arc<Shared>) -> Limiters {
        Limiters { clock, shared, known: RefCell::default() }
    }

    /// Takes a request from its client's bucket; `Err`: how long until there is one again.
    pub fn check(
        &self,
        service: &ServiceName,
        rule: &Arc<RateLimit>,
        address: IpAddr,
        headers: &HeaderMap,
    ) -> Result<(), Duration> {
        let mut known = self.known.borrow_mut();
        if let Some(limiter) = known.get(service).filter(|limiter| Arc::ptr_eq(&limiter.rule, rule)) {
            return limiter.check(address, headers);
        }
        let limiter = self.shared.of(service, rule, self.clock);
        let checked = limiter.check(address, headers);
        known.insert(service.clone(), limiter);
        checked
    }

    /// Sweeps what may be swept, and forgets the limiters of services that have none any more.
    pub fn tick(&self, now: Moment, snapshot: &Snapshot) {
        let mut known = self.known.borrow_mut();
        if known.is_empty() {
            return;
        }
        let limited = snapshot.services.iter().filter(|service| service.gate.rate_limit.is_some());
        let limited: BTreeSet<&ServiceName> = limited.map(|service| &service.name).collect();
        known.retain(|name, limiter| limited.contains(name) && !self.shared.replaced(name, limiter));
        for limiter in known.values() {
            limiter.sweep_at(now);
        }
    }
}

impl Shared {
    /// Whether the others count in other buckets: during a reload, a worker may have met the old rule last.
    fn replaced(&self, service: &ServiceName, known: &Limiter<Clock>) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = all.get(service).and_then(Weak::upgrade);
        current.is_some_and(|current| !Arc::ptr_eq(&current.buckets, &known.buckets))
    }

    /// A rule that says the same as before keeps its buckets.
    fn of(&self, service: &ServiceName, rule: &Arc<RateLimit>, clock: Clock) -> Arc<Limiter<Clock>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, limiter| limiter.strong_count() > 0);
        let before = all.get(service).and_then(Weak::upgrade).filter(|limiter| limiter.rule == *rule);
        let limiter = match before {
            Some(same) if Arc::ptr_eq(&same.rule, rule) => same,
            Some(same) => Arc::new(Limiter { rule: rule.clone(), buckets: same.buckets.clone() }),
            None => Arc::new(Limiter::new(rule.clone(), clock)),
        };
        all.insert(service.clone(), Arc::downgrade(&limiter));
        limiter
    }
}

/// A clock in nanoseconds: ours, and one for tests that stands still.
trait Time: governor::clock::Clock<Instant = Nanos> {}

impl<C: governor::clock::Clock<Instant = Nanos>> Time for C {}

/// One service's rule, and the buckets that go with it.
#[derive(Debug)]
struct Limiter<C: Time> {
    rule: Arc<RateLimit>,
    buckets: Arc<Buckets<C>>,
}

#[derive(Debug)]
struct Buckets<C: Time> {
    limiter: RateLimiter<u64, Bounded, C, NoOpMiddleware<Nanos>>,
    secret: RandomState,
    swept: AtomicU64,
    crowd: Arc<AtomicUsize>,
    /// From so many buckets on, sweeping is worth it.
    many: usize,
}

impl<C: Time> Limiter<C> {
    fn new(rule: Arc<RateLimit>, clock: C) -> Limiter<C> {
        let quota = Quota::with_period(rule.rate.interval()).expect("a rate's interval is a microsecond at least");
        let bounded = Bounded::new(rule.keys);
        let buckets = Buckets {
            crowd: bounded.count.clone(),
            limiter: RateLimiter::new(quota.allow_burst(rule.burst), bounded, clock),
            secret: RandomState::new(),
            swept: AtomicU64::new(0),
            many: rule.keys / 2,
        };
        Limiter { rule, buckets: Arc::new(buckets) }
    }

    fn check(&self, address: IpAddr, headers: &HeaderMap) -> Result<(), Duration> {
        self.buckets.check(self.key(address, headers))
    }

    fn key(&self, address: IpAddr, headers: &HeaderMap) -> u64 {
        let named = match &self.rule.key {
            ClientKey::Address => None,
            ClientKey::Header(name) => headers.get(name).map(http::HeaderValue::as_bytes),
            ClientKey::Cookie(name) => cookie(headers, name).map(str::as_bytes),
        };
        let secret = &self.buckets.secret;
        named.map_or_else(|| secret.hash_one(network(address)), |named| secret.hash_one(named))
    }

    /// Sweeps, at most so often and by one worker.
    fn sweep_at(&self, now: Moment) {
        let Buckets { swept, crowd, many, limiter, .. } = &*self.buckets;
        let last = swept.load(Ordering::Relaxed);
        let due = crowd.load(Ordering::Relaxed) > *many && now.since(Moment(last)) >= SWEEP;
        if due && swept.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            limiter.retain_recent();
        }
    }
}

impl<C: Time> Buckets<C> {
    fn check(&self, key: u64) -> Result<(), Duration> {
        self.limiter.check_key(&key).map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }
}

/// What an address stands for: an IPv4 address, or the /64 that an IPv6 client chooses its addresses from.
fn network(address: IpAddr) -> (u8, u64) {
    match address.to_canonical() {
        IpAddr::V4(address) => (4, u64::from(u32::from(address))),
        IpAddr::V6(address) => (6, u64::try_from(u128::from(address) >> 64).unwrap_or(u64::MAX)),
    }
}

fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(seen, _)| *seen == name).map(|(_, value)| value)
}

impl governor::clock::Clock for Clock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(Clock::now(self).0.saturating_mul(1_000))
    }
}

/// At most `most` buckets by key; whoever finds no place shares one.
#[derive(Debug)]
struct Bounded {
    own: DashMap<u64, InMemoryState>,
    shared: Box<[InMemoryState]>,
    /// Places taken or about to be.
    count: Arc<AtomicUsize>,
    most: usize,
}

impl Bounded {
    fn new(most: usize) -> Bounded {
        let shared = (0..SHARED).map(|_| InMemoryState::default()).collect();
        Bounded { own: DashMap::new(), shared, count: Arc::default(), most }
    }

    fn takes_place(&self) -> bool {
        let more = |count: usize| (count < self.most).then(|| count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

impl StateStore for Bounded {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        if let Some(bucket) = self.own.get(key) {
            return bucket.measure_and_replace(&NotKeyed::NonKey, f);
        }
        if !self.takes_place() {
            let shared = usize::try_from(*key).unwrap_or(usize::MAX) % SHARED;
            return self.shared[shared].measure_and_replace(&NotKeyed::NonKey, f);
        }
        match self.own.entry(*key) {
            dashmap::Entry::Occupied(bucket) => {
                self.count.fetch_sub(1, Ordering::Relaxed); // another worker was first
                bucket.get().measure_and_replace(&NotKeyed::NonKey, f)
            }
            dashmap::Entry::Vacant(place) => {
                place.insert(InMemoryState::default()).measure_and_replace(&NotKeyed::NonKey, f)
            }
        }
    }
}

impl ShrinkableKeyedStateStore<u64> for Bounded {
    fn retain_recent(&self, drop_below: Nanos) {
        self.own.retain(|_, bucket| {
            let kept = drop_below < arrival(bucket);
            if !kept {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            kept
        });
    }

    fn len(&self) -> usize {
        self.own.len()
    }

    fn is_empty(&self) -> bool {
        self.own.is_empty()
    }
}

/// The theoretical arrival time that a bucket holds: read, and nothing put in its place.
fn arrival(bucket: &InMemoryState) -> Nanos {
    let read = bucket.measure_and_replace::<(), _, _>(&NotKeyed::NonKey, |arrival| Err(arrival.unwrap_or_default()));
    read.err().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::domain::admission::Rate;

    fn rule(rate: &str, burst: u32, keys: usize, key: ClientKey) -> Arc<RateLimit> {
        Arc::new(RateLimit { key, rate: Rate::parse(rate).unwrap(), burst: NonZeroU32::new(burst).unwrap(), keys })
    }

    fn limiter(rate: &str, burst: u32, keys: usize) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiter::new(rule(rate, burst, keys, ClientKey::Address), clock.clone()), clock)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    impl Limiter<FakeRelativeClock> {
        /// Of so many requests at once, how many get through.
        fn of(&self, client: IpAddr, requests: usize) -> usize {
            (0..requests).filter(|_| self.check(client, &HeaderMap::new()).is_ok()).count()
        }
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (limiter, clock) = limiter("10/s", 5, 100);
        let client = address("192.0.2.1");
        assert_eq!(limiter.of(client, 100), 5);
        assert_eq!(limiter.check(client, &HeaderMap::new()), Err(Duration::from_millis(100)));
        clock.advance(Duration::from_secs(1));
        assert_eq!(limiter.of(client, 100), 5, "no more than a burst, however long it rested");
        for _ in 0..100 {
            clock.advance(Duration::from_millis(100));
            assert_eq!(limiter.of(client, 3), 1);
        }
    }

    #[test]
    fn clients_do_not_share_but_the_addresses_of_one_network_do() {
        let (limiter, _) = limiter("1/s", 1, 100);
        for (client, passes) in [
            ("192.0.2.1", true),
            ("192.0.2.2", true),
            ("::ffff:192.0.2.1", false),
            ("2001:db8::1", true),
            ("2001:db8::ffff:1", false),
            ("2001:db8:0:1::1", true),
        ] {
            assert_eq!(limiter.of(address(client), 1), usize::from(passes), "{client}");
        }
    }

    #[test]
    fn a_header_or_a_cookie_tells_clients_apart_and_without_it_the_address_does() {
        let client = address("192.0.2.1");
        for key in [ClientKey::Header(http::HeaderName::from_static("x-key")), ClientKey::Cookie("key".to_owned())] {
            let limiter = Limiter::new(rule("1/s", 1, 100, key), FakeRelativeClock::default());
            let passes = |of: &'static str| {
                let cookie = format!("a=b; key={of}; c=d");
                let fields = [("x-key", of.to_owned()), ("cookie", cookie)];
                let fields = fields.map(|(name, value)| {
                    (http::HeaderName::from_static(name), http::HeaderValue::try_from(value).unwrap())
                });
                limiter.check(client, &HeaderMap::from_iter(fields)).is_ok()
            };
            assert_eq!(["one", "one", "other"].map(passes), [true, false, true]);
            assert_eq!([1, 1].map(|_| limiter.of(client, 1)), [1, 0]);
        }
    }

    #[test]
    fn a_million_clients_take_the_memory_of_so_many_as_are_told_apart() {
        let (limiter, clock) = limiter("1/s", 2, 10_000);
        let client = |i: u32| IpAddr::from(std::net::Ipv4Addr::from(i));
        let known = client(u32::MAX);
        assert_eq!(limiter.of(known, 1), 1);
        let passed = (0..1_000_000).filter(|i| limiter.of(client(*i), 1) == 1).count();
        assert_eq!(limiter.buckets.limiter.len(), 10_000);
        assert_eq!(passed, 9_999 + SHARED * 2, "those with a bucket of their own, and what the shared ones give");
        assert_eq!(limiter.of(known, 9), 1, "who was there before is not touched");
        assert_eq!(limiter.of(known, 9), 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(limiter.of(client(2_000_000), 9), 1, "a newcomer gets its part of a shared one");
        clock.advance(Duration::from_secs(2));
        limiter.sweep_at(Moment(3_000_000));
        assert_eq!(limiter.buckets.limiter.len(), 0);
        assert_eq!(limiter.of(client(2_000_000), 9), 2, "and then a bucket of its own");
        assert_eq!(limiter.buckets.limiter.len(), 1);
    }

    #[test]
    fn places_are_counted_right_when_workers_race() {
        let (limiter, _) = limiter("1/h", 1, 500);
        let passed: usize = std::thread::scope(|scope| {
            let one = || (0..400u32).map(|i| limiter.of(std::net::Ipv4Addr::from(i).into(), 1)).sum::<usize>();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(passed, 400, "each client once, whichever worker it met");
        assert_eq!(limiter.buckets.crowd.load(Ordering::Relaxed), 400);
    }

    #[test]
    fn a_rule_that_says_the_same_keeps_its_buckets() {
        let (clock, shared) = (Clock::start(), Arc::<Shared>::default());
        let (one, other) = (Limiters::new(clock, shared.clone()), Limiters::new(clock, shared));
        let service = ServiceName::new("shop").unwrap();
        let passes = |worker: &Limiters, rule: &Arc<RateLimit>| {
            worker.check(&service, rule, address("192.0.2.1"), &HeaderMap::new()).is_ok()
        };
        let first = rule("1/h", 2, 100, ClientKey::Address);
        assert!(passes(&one, &first) && passes(&other, &first), "two workers, one bucket");
        assert!(!passes(&one, &first) && !passes(&other, &first));
        let again = rule("1/h", 2, 100, ClientKey::Address);
        assert!(!passes(&one, &again) && !passes(&other, &again), "read again");
        let changed = rule("2/h", 2, 100, ClientKey::Address);
        assert!(passes(&one, &changed), "changed");
        // One of them is late to hear of it, and then they meet again.
        let _late = passes(&other, &first);
        let third = Limiters::new(clock, one.shared.clone());
        assert!(passes(&third, &changed) && passes(&third, &changed));
        assert!(passes(&one, &changed), "its own for a moment");
        one.known.borrow_mut().retain(|name, limiter| !one.shared.replaced(name, limiter));
        assert!(!passes(&one, &changed));
    }
}
