//! The endpoints of one version, what all workers share of them, and the choice among them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::balance::Balancing;
use super::health::{Administrative, Health, Operational};
use super::names::EndpointId;
use super::time::Moment;

/// One address that serves a version. Kept over snapshots while its version lists it, so its counters stay true.
#[derive(Debug)]
pub struct Endpoint {
    pub id: EndpointId,
    /// As the file names it: `host:port`.
    pub authority: Arc<str>,
    pub address: SocketAddr,
    /// Written by every request; apart from what is only read by them.
    in_flight: Padded<AtomicU32>,
    condition: Padded<Condition>,
}

/// A cache line of its own: workers on different cores count different endpoints without touching.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// What is read by every pick and seldom written.
#[derive(Debug)]
struct Condition {
    health: Health,
    /// Gateway failures in a row, over all workers.
    failures: AtomicU32,
    /// Until when it is ejected (microseconds of [`Moment`]).
    ejected_until: AtomicU64,
    /// How many ejections the next one is lengthened by.
    ejections: AtomicU32,
    /// The first snapshot that gives it nothing new; zero while there is none.
    closed: AtomicU64,
}

impl Endpoint {
    /// A new endpoint, healthy until something says otherwise.
    #[must_use]
    pub fn new(id: EndpointId, authority: Arc<str>, address: SocketAddr) -> Endpoint {
        let condition = Condition {
            health: Health::new(Operational::default()),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            closed: AtomicU64::new(0),
        };
        Endpoint { id, authority, address, in_flight: Padded::default(), condition: Padded(condition) }
    }

    /// It is to prove itself first.
    #[must_use]
    pub fn unproven(mut self) -> Endpoint {
        self.condition.0.health = Health::new(Operational::Unproven);
        self
    }

    /// From now on no attempt begins here, whatever snapshot it is made by; `snapshot` is the first that says so. Those
    /// who hold an older one may be in the middle of a request, with a retry to come.
    pub fn close(&self, snapshot: u64) {
        let _closed_before =
            self.condition.0.closed.compare_exchange(0, snapshot, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub fn open(&self) {
        self.condition.0.closed.store(0, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        self.condition.0.closed.load(Ordering::Relaxed) == 0
    }

    /// Whether nothing is under way here and nothing will be: every worker has taken up a snapshot that closes it
    /// (`applied`: what all of them have), and all that had begun is over.
    #[must_use]
    pub fn drained(&self, applied: u64) -> bool {
        let closed = self.condition.0.closed.load(Ordering::Relaxed);
        closed != 0 && applied >= closed && self.in_flight() == 0
    }

    /// Attempts under way over all workers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.0.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn operational(&self) -> Operational {
        self.condition.0.health.operational()
    }

    /// One writer: who checks health.
    pub fn set_operational(&self, operational: Operational, now: Moment) {
        self.condition.0.health.set(operational, now);
    }

    /// When it became healthy last: its slow start is measured from here.
    #[must_use]
    pub fn healthy_since(&self) -> Moment {
        self.condition.0.health.since()
    }

    /// Gateway failures in a row.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.condition.0.failures.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn ejected(&self, now: Moment) -> bool {
        self.condition.0.ejected_until.load(Ordering::Relaxed) > now.0
    }

    /// Until when it is ejected; `None` when it is not.
    #[must_use]
    pub fn ejected_until(&self, now: Moment) -> Option<Moment> {
        let until = Moment(self.condition.0.ejected_until.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// How often it was ejected lately.
    #[must_use]
    pub fn ejections(&self) -> u32 {
        self.condition.0.ejections.load(Ordering::Relaxed)
    }
}

/// One attempt under way; counts itself out when dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
}

impl InFlight {
    #[must_use]
    pub fn begin(endpoint: Arc<Endpoint>) -> InFlight {
        endpoint.in_flight.0.fetch_add(1, Ordering::Relaxed);
        InFlight { endpoint }
    }

    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An endpoint as one snapshot of its version has it.
#[derive(Debug, Clone)]
pub struct Member {
    pub endpoint: Arc<Endpoint>,
    /// Its share of the version's requests, relative to the others'; 1 to 1000.
    pub weight: u32,
    /// What a person wants of it.
    pub administrative: Administrative,
}

impl Member {
    /// A member of weight 1 that may take requests.
    #[must_use]
    pub fn of(endpoint: Arc<Endpoint>) -> Member {
        Member { endpoint, weight: 1, administrative: Administrative::Ready }
    }

    /// Whether requests are wanted there, however well it is.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.administrative == Administrative::Ready && self.endpoint.is_open()
    }

    /// Whether it may take a new request: wanted, healthy, and not ejected.
    #[must_use]
    pub fn takes(&self, now: Moment) -> bool {
        self.is_wanted() && self.endpoint.operational() == Operational::Healthy && !self.endpoint.ejected(now)
    }
}

/// The endpoints of one version.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    pub members: Box<[Member]>,
    pub balancing: Balancing,
    /// With no endpoint available, all that are wanted are tried: so it is with stable, and with no other version.
    pub fails_open: bool,
}

/// What is known of a request when an endpoint is picked for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// Endpoints not to pick again.
    pub tried: &'a [EndpointId],
    /// Uniform over `u64`.
    pub draw: u64,
    /// What the request is hashed by, if the service balances by hash and the request has it.
    pub key: Option<u64>,
    pub now: Moment,
}

/// Why no endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpicked {
    /// None is available that was not tried.
    NoneLeft,
    /// All that are available are at their limits.
    Full,
}

impl Pool {
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = Member>, balancing: Balancing, fails_open: bool) -> Pool {
        Pool { members: members.into_iter().collect(), balancing, fails_open }
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.members.iter().map(|member| &member.endpoint)
    }

    /// Power of two choices on in-flight attempts, among those not tried yet.
    pub fn pick(&self, ask: &Ask<'_>) -> Result<InFlight, Unpicked> {
        let panics = self.panics(ask.now);
        let candidates = || self.candidates(ask, panics);
        let (first, second) = two_of(candidates().count(), ask.draw).ok_or(Unpicked::NoneLeft)?;
        let nth = |n| candidates().nth(n).ok_or(Unpicked::NoneLeft);
        let (first, second) = (nth(first)?, nth(second)?);
        let freer = if second.endpoint.in_flight() < first.endpoint.in_flight() { second } else { first };
        Ok(InFlight::begin(freer.endpoint.clone()))
    }

    fn candidates(&self, ask: &Ask<'_>, panics: bool) -> impl Iterator<Item = &Member> {
        let (tried, now) = (ask.tried, ask.now);
        let eligible = move |m: &&Member| {
            if panics { m.is_wanted() } else { m.takes(now) }
        };
        self.members.iter().filter(eligible).filter(move |m| !tried.contains(&m.endpoint.id))
    }

    /// Whether the version may be given traffic at all: some endpoint is wanted that has proven itself once, whatever has
    /// become of it since.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let proven = |member: &Member| member.endpoint.operational() != Operational::Unproven;
        self.members.iter().any(|member| member.administrative == Administrative::Ready && proven(member))
    }

    /// The panic rule: whether so few endpoints are available that their health is ignored.
    #[must_use]
    pub fn panics(&self, now: Moment) -> bool {
        let wanted = self.members.iter().filter(|member| member.is_wanted()).count();
        let available = self.members.iter().filter(|member| member.takes(now)).count();
        if available == 0 {
            return self.fails_open;
        }
        let threshold = u64::from(self.balancing.panic_threshold.basis_points());
        wanted > FEW && (available as u64) * 10_000 < threshold * wanted as u64
    }
}

/// Up to so many endpoints, one healthy is enough: a share of them says little.
const FEW: usize = 3;

/// Two different positions below `n` (the same one twice when there is one), from one draw.
fn two_of(n: usize, draw: u64) -> Option<(usize, usize)> {
    let (high, low) = (draw >> 32, draw & 0xffff_ffff);
    let below = |half: u64, n: usize| usize::try_from((half * n as u64) >> 32).unwrap_or(0);
    match n {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let first = below(high, n);
            let other = below(low, n - 1);
            Some((first, if other >= first { other + 1 } else { other }))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(n: u16) -> Pool {
        let endpoint = |i: u16| {
            Arc::new(Endpoint::new(EndpointId(i.into()), format!("e{i}").into(), SocketAddr::from(([127, 0, 0, 1], i))))
        };
        Pool::new((0..n).map(endpoint).map(Member::of), Balancing::default(), true)
    }

    fn ask(draw: u64) -> Ask<'static> {
        Ask { draw, ..Ask::default() }
    }

    #[test]
    fn an_attempt_counts_itself_out() {
        let pool = pool(1);
        let attempt = pool.pick(&ask(0)).unwrap();
        assert_eq!(pool.members[0].endpoint.in_flight(), 1);
        drop(attempt);
        assert_eq!(pool.members[0].endpoint.in_flight(), 0);
    }

    #[test]
    fn the_freer_of_two_is_taken() {
        let pool = pool(2);
        let busy = InFlight::begin(pool.members[0].endpoint.clone());
        for draw in [0, u64::MAX, 1 << 63, 1 << 31] {
            assert_eq!(pool.pick(&ask(draw)).unwrap().endpoint().id, EndpointId(1));
        }
        drop(busy);
    }

    proptest! {
        #[test]
        fn what_was_tried_is_not_tried_again(n in 0u16..6, tried in prop::collection::vec(0u32..6, 0..6), draw: u64) {
            let tried: Vec<EndpointId> = tried.into_iter().map(EndpointId).collect();
            let pool = pool(n);
            match pool.pick(&Ask { tried: &tried, draw, ..Ask::default() }) {
                Ok(attempt) => prop_assert!(!tried.contains(&attempt.endpoint().id)),
                Err(_) => prop_assert!(pool.endpoints().all(|e| tried.contains(&e.id))),
            }
        }
    }
}
