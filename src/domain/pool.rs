//! The endpoints of one version, what all workers share of them, and the choice among them.
//!
//! A pick goes in three steps: who is available (wanted, healthy, not ejected, unless the panic rule ignores the last
//! two), who of those has room, and then whom the algorithm of [`balance`] takes. The common case, two choices among
//! equals that are all well, is decided by looking at two endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::balance::{self, Balance, Balancing, Candidate, WHOLE};
use super::breaker::{Count, Entered, Padded, Shared};
use super::health::{Administrative, Health, Operational};
use super::names::EndpointId;
use super::time::{Moment, micros};

/// One address that serves a version. Kept over snapshots while its version lists it, so its counters stay true.
#[derive(Debug)]
pub struct Endpoint {
    pub id: EndpointId,
    /// As the file names it: `host:port`.
    pub authority: Arc<str>,
    pub address: SocketAddr,
    seed: u64,
    /// Written by every request; apart from what is only read by them.
    in_flight: Padded<Count>,
    condition: Padded<Condition>,
}

/// Of a slow start that is to begin.
const NOT_BEGUN: Moment = Moment(u64::MAX);

/// What is read by every pick and seldom written.
#[derive(Debug)]
struct Condition {
    health: Health,
    /// Gateway failures in a row, over all workers.
    failures: AtomicU32,
    /// They have been too many: to be ejected.
    tripped: AtomicBool,
    /// Until when it is ejected (microseconds of [`Moment`]).
    ejected_until: AtomicU64,
    /// How many ejections the next one is lengthened by.
    ejections: AtomicU32,
    /// Since when it was neither ejected nor forgiven an ejection.
    calm_since: AtomicU64,
    /// Ejections since the process started.
    ejected: AtomicU64,
    connections: Count,
    /// Requests that wait for one of its connections.
    wanted: Count,
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
            tripped: AtomicBool::new(false),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            calm_since: AtomicU64::new(0),
            ejected: AtomicU64::new(0),
            connections: Count::default(),
            wanted: Count::default(),
            closed: AtomicU64::new(0),
        };
        let seed = balance::seed(address);
        Endpoint { id, authority, address, seed, in_flight: Padded::default(), condition: Padded(condition) }
    }

    /// By which it bids for keys.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
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
        self.in_flight.0.get()
    }

    /// Connections over all workers, idle ones included.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.condition.0.connections.get()
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

    /// It was added while others were there already: its slow start begins when time is next told to it.
    #[must_use]
    pub fn added(self) -> Endpoint {
        self.condition.0.health.begin(NOT_BEGUN);
        self
    }

    /// One writer: who decides about ejections.
    pub(super) fn begin_slow_start(&self, now: Moment) {
        if self.healthy_since() == NOT_BEGUN {
            self.condition.0.health.begin(now);
        }
    }

    /// Gateway failures in a row.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.condition.0.failures.load(Ordering::Relaxed)
    }

    /// It answered, and not as a gateway in trouble does. Written only if there is something to forget.
    pub fn answered(&self) {
        if self.consecutive_failures() != 0 {
            self.condition.0.failures.store(0, Ordering::Relaxed);
        }
    }

    /// It did not answer, or as a gateway in trouble does; `many` of these in a row are to eject it.
    pub fn failed(&self, many: u32) {
        if self.condition.0.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= many {
            self.condition.0.tripped.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it has failed too often since this was asked last.
    #[must_use]
    pub(super) fn tripped(&self) -> bool {
        self.condition.0.tripped.load(Ordering::Relaxed) && self.condition.0.tripped.swap(false, Ordering::Relaxed)
    }

    /// One writer: who decides about ejections.
    pub(super) fn eject(&self, until: Moment, times: u32) {
        let condition = &self.condition.0;
        condition.failures.store(0, Ordering::Relaxed);
        condition.ejections.store(times, Ordering::Relaxed);
        condition.ejected.fetch_add(1, Ordering::Relaxed);
        condition.calm_since.store(until.0, Ordering::Relaxed);
        condition.health.begin(until);
        condition.ejected_until.store(until.0, Ordering::Relaxed);
    }

    /// One writer: who decides about ejections.
    pub(super) fn forgive(&self, times: u32, now: Moment) {
        self.condition.0.ejections.store(times, Ordering::Relaxed);
        self.condition.0.calm_since.store(now.0, Ordering::Relaxed);
    }

    /// Since when it was neither ejected nor forgiven an ejection; possibly a moment to come.
    pub(super) fn calm_since(&self) -> Moment {
        Moment(self.condition.0.calm_since.load(Ordering::Relaxed))
    }

    #[must_use]
    pub fn ejected(&self, now: Moment) -> bool {
        self.ejected_until(now).is_some()
    }

    /// Until when it is ejected; `None` when it is not.
    #[must_use]
    pub fn ejected_until(&self, now: Moment) -> Option<Moment> {
        let until = Moment(self.condition.0.ejected_until.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// How often it was ejected lately: the next ejection lasts so many times longer than the first.
    #[must_use]
    pub fn ejections(&self) -> u32 {
        self.condition.0.ejections.load(Ordering::Relaxed)
    }

    /// How often it was ejected since the process started.
    #[must_use]
    pub fn ejections_total(&self) -> u64 {
        self.condition.0.ejected.load(Ordering::Relaxed)
    }

    /// Room for one more connection; `None` at the limit.
    #[must_use]
    pub fn connect(self: &Arc<Self>, limit: Option<u32>) -> Option<Slot> {
        self.condition.0.connections.enter(limit).then(|| Slot(self.clone()))
    }

    /// Asks whoever keeps idle connections to close one.
    #[must_use]
    pub fn want_connection(self: &Arc<Self>) -> Wanted {
        let _unlimited = self.condition.0.wanted.enter(None);
        Wanted(self.clone())
    }
}

/// Room for one connection to an endpoint; kept as long as the connection, and given back when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Endpoint>);

impl Slot {
    /// Whether somebody waits for it: then its connection is not worth keeping idle.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.0.condition.0.wanted.get() > 0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.condition.0.connections.leave();
    }
}

/// Somebody waits for a connection to an endpoint, until dropped.
#[derive(Debug)]
pub struct Wanted(Arc<Endpoint>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.condition.0.wanted.leave();
    }
}

/// One attempt under way; counts itself out when dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    _entered: Option<Entered>,
}

impl InFlight {
    /// Without any limit.
    #[must_use]
    pub fn begin(endpoint: Arc<Endpoint>) -> InFlight {
        let _unlimited = endpoint.in_flight.0.enter(None);
        InFlight { endpoint, _entered: None }
    }

    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.0.leave();
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

    /// Whether it may take a new request: wanted, healthy, and not ejected.
    #[must_use]
    pub fn takes(&self, now: Moment) -> bool {
        self.takes_but_for_ejection() && !self.endpoint.ejected(now)
    }

    fn takes_but_for_ejection(&self) -> bool {
        self.wanted() && self.endpoint.operational() == Operational::Healthy
    }

    /// Whether a person wants it to take requests, by this snapshot and by every newer one.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.administrative == Administrative::Ready && self.endpoint.is_open()
    }
}

/// The endpoints of one version.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    pub members: Box<[Member]>,
    pub balancing: Balancing,
    /// With no endpoint available, all that are wanted are tried: so it is with stable, and with no other version.
    pub fails_open: bool,
    pub shared: Arc<Shared>,
    /// Two choices among equals: a look at two endpoints decides, if both are available.
    plain: bool,
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
    /// All that are available are at their limits, or the version is.
    Full,
}

/// How many of a version's endpoints are what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// A person wants them to take requests.
    pub wanted: usize,
    /// They may take a request.
    pub available: usize,
    pub ejected: usize,
}

/// Up to so many endpoints, one that is available is enough: a share of them says little.
const FEW: usize = 3;
/// An endpoint in its slow start gets at least a tenth of its weight, or it would never be seen to work.
const SLOWEST_START: u64 = WHOLE / 10;

impl Pool {
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = Member>, balancing: Balancing, fails_open: bool) -> Pool {
        let members: Box<[Member]> = members.into_iter().collect();
        let equal = members.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let plain = equal && balancing.slow_start.is_zero() && balancing.balance == Balance::PowerOfTwo;
        Pool { members, balancing, fails_open, shared: Arc::default(), plain }
    }

    /// Goes on with what the workers shared of this version before.
    #[must_use]
    pub fn sharing(self, shared: Arc<Shared>) -> Pool {
        Pool { shared, ..self }
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.members.iter().map(|member| &member.endpoint)
    }

    /// Picks an endpoint, and counts the attempt in.
    pub fn pick(&self, ask: &Ask<'_>) -> Result<InFlight, Unpicked> {
        if self.plain
            && ask.tried.is_empty()
            && let Some(taken) = self.pick_plainly(ask)
        {
            return Ok(taken);
        }
        // Whoever was chosen may be full by the time it is entered, and is then no candidate any more.
        for _ in 0..=self.members.len() {
            if let Some(taken) = self.begin(self.choose(ask)?) {
                return Ok(taken);
            }
        }
        Err(Unpicked::Full)
    }

    /// The same choice as [`balance::two_choices`] would make if everybody were available, as long as those two are.
    fn pick_plainly(&self, ask: &Ask<'_>) -> Option<InFlight> {
        let (first, second) = two_of(self.members.len(), ask.draw)?;
        let (first, second) = (&self.members[first], &self.members[second]);
        if !(first.takes(ask.now) && second.takes(ask.now)) {
            return None;
        }
        self.begin(if second.endpoint.in_flight() < first.endpoint.in_flight() { second } else { first })
    }

    /// `None`: it is full, or the version is.
    fn begin(&self, member: &Member) -> Option<InFlight> {
        let limits = &self.balancing.limits;
        let entered = match limits.version_in_flight {
            Some(limit) => Some(self.shared.enter(limit)?),
            None => None,
        };
        let endpoint = member.endpoint.clone();
        endpoint.in_flight.0.enter(limits.of_endpoint()).then(|| InFlight { endpoint, _entered: entered })
    }

    /// Looks at every member once: in what order other workers change them meanwhile does not matter.
    fn choose(&self, ask: &Ask<'_>) -> Result<&Member, Unpicked> {
        let panics = self.panics(ask.now);
        let untried = |member: &&Member| !ask.tried.contains(&member.endpoint.id);
        // Who has failed a few times is better than nobody, for a request that all others have failed.
        let last = self.fails_open
            && !ask.tried.is_empty()
            && !self.members.iter().filter(untried).any(|member| member.takes(ask.now));
        let open = self.members.iter().filter(untried).filter(move |member| match (panics, last) {
            (true, _) => member.wanted(),
            (false, true) => member.takes_but_for_ejection(),
            (false, false) => member.takes(ask.now),
        });
        let limits = &self.balancing.limits;
        let (limit, version_limit) = (limits.of_endpoint(), limits.version_in_flight);
        let mut full = Err(Unpicked::NoneLeft);
        let roomy = open.filter_map(|member| {
            full = Err(Unpicked::Full);
            let in_flight = member.endpoint.in_flight();
            let weight = self.effective_weight(member, ask.now);
            limit.is_none_or(|limit| in_flight < limit).then_some(Candidate { member, weight, in_flight })
        });
        let chosen = with_all(roomy, |candidates| self.balanced(candidates, ask));
        if version_limit.is_some_and(|limit| self.shared.in_flight() >= limit) {
            return full;
        }
        chosen.map_or(full, Ok)
    }

    fn balanced<'a>(&self, candidates: &[Candidate<'a>], ask: &Ask<'_>) -> Option<&'a Member> {
        match (&self.balancing.balance, ask.key) {
            (Balance::RoundRobin, _) => balance::in_turn(candidates, self.shared.turn()),
            (Balance::LeastConnections, _) => balance::least_busy(candidates, ask.draw),
            (Balance::ClientAddressHash | Balance::HeaderHash(_) | Balance::CookieHash(_), Some(key)) => {
                balance::by_key(candidates, key)
            }
            _ => balance::two_choices(candidates, ask.draw),
        }
    }

    /// In thousandths; grows linearly during the slow start.
    fn effective_weight(&self, member: &Member, now: Moment) -> u64 {
        let whole = u64::from(member.weight) * WHOLE;
        let (slow, since) = (self.balancing.slow_start, member.endpoint.healthy_since());
        if slow.is_zero() || since == Moment::default() {
            return whole;
        }
        let part = grown(now.since(since), slow).max(SLOWEST_START);
        whole * part / WHOLE
    }

    /// Whether the version may be given traffic at all: some endpoint is wanted that has proven itself once, whatever
    /// has become of it since.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let proven = |member: &Member| member.endpoint.operational() != Operational::Unproven;
        self.members.iter().any(|member| member.administrative == Administrative::Ready && proven(member))
    }

    /// The panic rule: whether so few endpoints are available that their health is ignored.
    #[must_use]
    pub fn panics(&self, now: Moment) -> bool {
        let Census { wanted, available, .. } = self.census(now);
        if available == 0 {
            return self.fails_open;
        }
        let threshold = u64::from(self.balancing.panic_threshold.basis_points());
        wanted > FEW && (available as u64) * 10_000 < threshold * wanted as u64
    }

    #[must_use]
    pub fn census(&self, now: Moment) -> Census {
        let mut census = Census::default();
        for member in self.members.iter().filter(|member| member.wanted()) {
            census.wanted += 1;
            census.available += usize::from(member.takes(now));
            census.ejected += usize::from(member.endpoint.ejected(now));
        }
        census
    }
}

/// Gathers candidates where they cost no allocation, unless there are many.
fn with_all<'a, T>(mut candidates: impl Iterator<Item = Candidate<'a>>, then: impl FnOnce(&[Candidate<'a>]) -> T) -> T {
    let Some(first) = candidates.next() else { return then(&[]) };
    let (mut few, mut count) = ([first; FEW_CANDIDATES], 1);
    for candidate in candidates.by_ref() {
        if count == FEW_CANDIDATES {
            let many: Vec<_> = few.into_iter().chain([candidate]).chain(candidates).collect();
            return then(&many);
        }
        few[count] = candidate;
        count += 1;
    }
    then(&few[..count])
}

/// So many are gathered without an allocation.
const FEW_CANDIDATES: usize = 16;

/// How much of a slow start is over, in thousandths.
fn grown(elapsed: Duration, slow: Duration) -> u64 {
    let part = u128::from(micros(elapsed)) * u128::from(WHOLE) / u128::from(micros(slow).max(1));
    u64::try_from(part).unwrap_or(WHOLE).min(WHOLE)
}

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
mod tests;
