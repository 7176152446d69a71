//! One world: clients, workers, an engine, two versions and operators, on one virtual clock and one seed.
//!
//! ```text
//!   clients ──▶ workers ──▶ backends          people ──▶ engine
//!                 │   ▲                                  │   ▲
//!                 │   └─────── snapshots, seen late ─────┘   │
//!                 └── batches: delayed, kept and merged ─────┘
//! ```
//!
//! Workers stall, clients leave, and now and then the whole process stands still and finds itself seconds later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use penstock::control::command::Precondition;
use penstock::domain::admission::Admission;
use penstock::domain::balance::Balancing;
use penstock::domain::error_pages::ErrorPages;
use penstock::domain::judge::{LatencyLimit, Mode, Policy};
use penstock::domain::names::{EndpointId, ServiceName, VersionId, VersionName};
use penstock::domain::outcome::Class;
use penstock::domain::pool::{Ask, InFlight};
use penstock::domain::retry::RetryPolicy;
use penstock::domain::route::Facts;
use penstock::domain::service::{Definition, PinDefinition, Target, Timeouts, VersionDefinition};
use penstock::domain::snapshot::{Service, Snapshot};
use penstock::domain::split::{Matcher, Role, Selected, Weight};
use penstock::domain::standing::Request;
use penstock::domain::time::{Moment, TICK, Tick, micros};
use penstock::domain::window::{Batch, Coin, Drawn, Row};
use penstock::link::Subscriber;

use super::backend::{Answer, Backend, Fault};
use super::engine::Engine;
use super::ledger::standing;
use super::luck::pick;

/// Clients come, and persons meddle, until here; then the canary is left to the judge.
const MEDDLING: Duration = Duration::from_secs(45);
/// Snapshots reach no worker later than this, unless it stands still.
const LAG: u64 = 300;

/// What is the matter with the canary.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Canary {
    /// As stable, whatever happens.
    Good,
    /// From some moment on.
    Bad(Fault),
}

/// One request between its coin and its end.
struct Flight {
    worker: usize,
    attempt: Option<InFlight>,
    charge: Option<(Drawn, Role)>,
    class: Class,
    reach: Reach,
    over: bool,
}

/// Whether the drawn version could be tried at all, as in `proxy::recorder`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Reached,
    Unreachable,
    Rescued,
}

enum Happens {
    Arrival,
    /// Of a request that waited for a stalled worker.
    Taken(usize),
    End(Box<Flight>),
    Flush(usize),
    Delivery(Batch),
    Late,
    Meddling,
    /// The last thing a person does.
    LastWord,
}

struct Worker {
    subscriber: Subscriber,
    seen: Arc<Snapshot>,
    look_again: Moment,
    batch: Batch,
    unsent: Option<Batch>,
    stalled_until: Moment,
    /// Batches of one worker do not overtake each other.
    delivered: Moment,
}

pub struct World {
    luck: fastrand::Rng,
    now: Moment,
    agenda: BTreeMap<(Moment, u64), Happens>,
    serial: u64,
    engine: Engine,
    workers: Vec<Worker>,
    engine_stalled_until: Moment,
    canary: Canary,
    bad_from: Moment,
    backends: [Backend; 2],
    definition: Definition,
    rate: f64,
    lag: u64,
    meddlers: bool,
    /// Clients come until then.
    closes: Moment,
    last_word: Weight,
    plain: HeaderMap,
    pinned: HeaderMap,
    /// The world's own books.
    truth: BTreeMap<Drawn, Row>,
    drawn: BTreeMap<VersionId, u64>,
    forced: BTreeMap<VersionId, u64>,
    pools: BTreeSet<EndpointId>,
}

/// What a run came to.
pub struct Story {
    pub good: bool,
    pub rolled_back: Vec<String>,
    pub probes: u64,
    pub events: Vec<String>,
    pub requests: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut luck = fastrand::Rng::with_seed(seed);
        let canary = if luck.bool() { Canary::Good } else { Canary::Bad(pick(&mut luck, &BAD)) };
        let definition = definition(&mut luck, canary);
        let workers = luck.usize(1..=4);
        let (engine, subscriber) = Engine::new(&definition, workers);
        let meddlers = luck.u64(..4) > 0;
        let bad_from = Moment(luck.u64(..micros(MEDDLING)));
        let backends = backends(&mut luck, canary, bad_from, definition.timeouts.response_head);
        let last_word = pick(&mut luck, &[500, 1_000, 2_500, 5_000]);
        let mut world = World {
            now: Moment::default(),
            agenda: BTreeMap::new(),
            serial: 0,
            engine,
            workers: Vec::new(),
            engine_stalled_until: Moment::default(),
            canary,
            bad_from,
            backends,
            rate: pick(&mut luck, &[20.0, 50.0, 100.0]),
            lag: pick(&mut luck, &[0, 0, 1_000 * LAG]),
            meddlers,
            closes: Moment::default(),
            last_word: Weight::from_basis_points(last_word).expect("at most everything"),
            plain: HeaderMap::new(),
            pinned: HeaderMap::new(),
            truth: BTreeMap::new(),
            drawn: BTreeMap::new(),
            forced: BTreeMap::new(),
            pools: BTreeSet::new(),
            definition,
            luck,
        };
        world.pinned.insert("x-canary", http::HeaderValue::from_static("always"));
        world.closes = world.left_alone().plus(world.patience());
        for index in 0..workers {
            let mut subscriber = subscriber.clone();
            let seen = Arc::clone(subscriber.current());
            let (batch, now) = (Batch::default(), Moment::default());
            let (unsent, look_again, stalled_until, delivered) = (None, now, now, now);
            world.workers.push(Worker { subscriber, seen, look_again, batch, unsent, stalled_until, delivered });
            world.after_micros(100_000, Happens::Flush(index));
        }
        world.after_micros(0, Happens::Arrival);
        world.after_micros(150_000, Happens::Late);
        if world.meddlers {
            world.after_micros(3_000_000, Happens::Meddling);
        }
        world.after_micros(micros(MEDDLING), Happens::LastWord);
        world
    }

    /// From when on the canary can be told from stable: nobody meddles, and stable has no trouble of its own.
    fn left_alone(&self) -> Moment {
        let shared = self.backends[0].faults.iter().map(|(_, to, _)| *to).max();
        self.bad_from.max(Moment::default().plus(MEDDLING)).max(shared.unwrap_or_default())
    }

    /// How long the judge may take from then on: some seconds, a hundred and twenty canary requests, and what a
    /// hanging endpoint keeps to itself.
    fn patience(&self) -> Duration {
        let needed = Duration::from_secs_f64(120.0 / (self.rate * self.last_word.fraction()));
        Duration::from_secs(20) + needed + 2 * self.definition.timeouts.response_head
    }

    /// What is the matter here, for who replays a failure.
    pub fn describe(&self) -> String {
        let workers = self.workers.len();
        let World { canary, bad_from, rate, backends, definition, .. } = self;
        format!("{canary:?} from {bad_from:?}, {rate}/s, {workers} workers, {backends:#?}, {:?}", definition.policy)
    }

    /// Runs until everything has ended and every batch has arrived.
    pub fn run(mut self) -> Story {
        while let Some(((at, _), happens)) = self.agenda.pop_first() {
            self.now = at;
            if self.now > self.closes && self.only_clockwork(&happens) {
                break;
            }
            self.happens(happens);
        }
        self.settle_accounts();
        self.judge_of_the_judge();
        Story {
            good: self.canary == Canary::Good,
            rolled_back: self.engine.ledger.rolled_back,
            probes: self.engine.ledger.probes,
            events: self.engine.ledger.journal,
            requests: self.drawn.values().sum(),
        }
    }

    fn only_clockwork(&self, happens: &Happens) -> bool {
        let ticking = |happens: &Happens| matches!(happens, Happens::Flush(_) | Happens::Late);
        ticking(happens) && self.agenda.values().all(ticking)
    }

    fn happens(&mut self, happens: Happens) {
        match happens {
            Happens::Arrival => self.arrival(),
            Happens::Taken(worker) => self.taken(worker),
            Happens::End(flight) => self.end(flight),
            Happens::Flush(worker) => self.flush(worker),
            Happens::Delivery(batch) => self.delivery(batch),
            Happens::Late => self.late(),
            Happens::Meddling => self.meddling(),
            Happens::LastWord => self.last_word(),
        }
    }

    fn at(&mut self, moment: Moment, happens: Happens) {
        self.serial += 1;
        self.agenda.insert((moment, self.serial), happens);
    }

    fn after_micros(&mut self, later: u64, happens: Happens) {
        self.at(Moment(self.now.0 + later), happens);
    }

    fn arrival(&mut self) {
        if self.now < self.closes {
            let gap = -(1.0 - self.luck.f64()).ln() / self.rate;
            self.at(self.now.plus(Duration::from_secs_f64(gap)), Happens::Arrival);
        }
        let worker = self.luck.usize(..self.workers.len());
        self.accidents(worker);
        self.taken(worker);
    }

    /// About once a minute a worker stands still, and once in two minutes the whole process does.
    fn accidents(&mut self, worker: usize) {
        let every = |seconds: f64, world: &mut World| world.luck.f64() < 1.0 / (seconds * world.rate);
        if every(60.0, self) {
            self.workers[worker].stalled_until = Moment(self.now.0 + self.luck.u64(100_000..3_000_000));
        }
        if every(120.0, self) {
            let back = Moment(self.now.0 + self.luck.u64(100_000..8_000_000));
            self.engine_stalled_until = back;
            for worker in &mut self.workers {
                worker.stalled_until = back;
            }
        }
    }

    /// A worker takes up a request: routes, tosses the coin, and sends it on its way.
    fn taken(&mut self, worker: usize) {
        if let Some(later) = self.stalled(worker) {
            return self.at(later, Happens::Taken(worker));
        }
        let snapshot = self.look(worker);
        let service = Arc::clone(&snapshot.services[0]);
        let headers = if self.luck.u64(..50) == 0 { &self.pinned } else { &self.plain };
        let client = [192, 0, 2, 1].into();
        let facts = Facts { method: &http::Method::GET, host: "shop", path: "/", query: None, headers, client };
        let choice = service.split.choose(&facts, self.luck.u64(..));
        self.engine.ledger.routed(&snapshot, choice);
        let id = service.versions[choice.version].id;
        let charge = match choice.selected {
            Selected::Forced => {
                *self.forced.entry(id).or_default() += 1;
                *self.workers[worker].batch.forced.entry(id).or_default() += 1;
                None
            }
            Selected::Capped => unreachable!("nothing is capped here"),
            Selected::Weight | Selected::Sticky => {
                *self.drawn.entry(id).or_default() += 1;
                *self.workers[worker].batch.drawn.entry(id).or_default() += 1;
                self.charge(worker, &service, choice.version)
            }
        };
        self.send(worker, &service, choice.version, charge);
    }

    fn stalled(&self, worker: usize) -> Option<Moment> {
        Some(self.workers[worker].stalled_until).filter(|until| *until > self.now)
    }

    /// Workers may see a snapshot late.
    fn look(&mut self, index: usize) -> Arc<Snapshot> {
        let worker = &mut self.workers[index];
        if self.now >= worker.look_again {
            worker.seen = Arc::clone(worker.subscriber.current());
            worker.look_again = Moment(self.now.0 + self.luck.u64(..=self.lag));
        }
        Arc::clone(&worker.seen)
    }

    fn charge(&mut self, worker: usize, service: &Service, version: usize) -> Option<(Drawn, Role)> {
        let role = service.split.role(version)?;
        let (weight, generation) = (service.split.weight, service.generation);
        let (exposure, tick) = (service.exposure?, self.now.tick());
        let drawn = Drawn { exposure, tick, weight, generation, coin: Coin::Tossed };
        self.workers[worker].batch.requests.row(drawn)?.arm(role).routed += 1;
        self.truth.entry(drawn).or_default().arm(role).routed += 1;
        Some((drawn, role))
    }

    /// Tries the version's endpoints, and stable's if none of them can be reached.
    fn send(&mut self, worker: usize, service: &Service, version: usize, charge: Option<(Drawn, Role)>) {
        let (mut attempt, mut answer) = self.attempt(service, version);
        let unreachable = answer == Answer::Refused;
        if unreachable && version != service.split.stable {
            (attempt, answer) = self.attempt(service, service.split.stable);
        }
        let head = self.definition.timeouts.response_head;
        let (after, class) = match answer {
            Answer::Refused => (Duration::ZERO, Class::Failure),
            Answer::Never => (head, Class::Failure),
            Answer::After(after, _) if after > head => (head, Class::Failure),
            Answer::After(after, class) => (after, class),
        };
        let patience = Duration::from_millis(self.luck.u64(500..60_000));
        let (after, class, reach) = match (unreachable, class) {
            (true, Class::Failure) => (after, Class::Failure, Reach::Unreachable),
            (true, _) => (after, Class::Failure, Reach::Rescued),
            (false, _) if after > patience => (patience, Class::Abandoned, Reach::Reached),
            (false, class) => (after, class, Reach::Reached),
        };
        let late = service.over_micros.is_some_and(|over| micros(after) > over);
        let over = late && matches!(class, Class::Success | Class::Rejected);
        let flight = Flight { worker, attempt, charge, class, reach, over };
        self.at(self.now.plus(after), Happens::End(Box::new(flight)));
    }

    fn attempt(&mut self, service: &Service, version: usize) -> (Option<InFlight>, Answer) {
        let pool = &service.versions[version].pool;
        let mut tried = Vec::new();
        while let Ok(in_flight) = pool.pick(&Ask { tried: &tried, draw: self.luck.u64(..), key: None, now: self.now }) {
            assert!(!tried.contains(&in_flight.endpoint().id), "an endpoint is tried once");
            self.pools.insert(in_flight.endpoint().id);
            match self.backends[version].answer(&mut self.luck, self.now) {
                Answer::Refused => tried.push(in_flight.endpoint().id),
                answer => return (Some(in_flight), answer),
            }
        }
        assert_eq!(tried.len(), pool.members.len(), "every endpoint was tried");
        (None, Answer::Refused)
    }

    fn end(&mut self, flight: Box<Flight>) {
        if let Some(later) = self.stalled(flight.worker) {
            return self.at(later, Happens::End(flight));
        }
        drop(flight.attempt);
        let Some((drawn, role)) = flight.charge else { return };
        let Some(row) = self.workers[flight.worker].batch.requests.row(drawn) else { return };
        for arm in [row.arm(role), self.truth.entry(drawn).or_default().arm(role)] {
            arm.ended.add(flight.class);
            arm.over += u64::from(flight.over);
            arm.unreachable += u64::from(flight.reach != Reach::Reached);
            arm.rescued += u64::from(flight.reach == Reach::Rescued);
            arm.hidden += u64::from(flight.reach == Reach::Rescued);
            arm.unanswered += u64::from(flight.class == Class::Abandoned); // clients here leave before the head
        }
    }

    /// Ends a worker's tick: sends what it counted, or keeps it because the way up is full.
    fn flush(&mut self, index: usize) {
        if let Some(later) = self.stalled(index) {
            return self.at(later, Happens::Flush(index));
        }
        let jitter = self.luck.u64(..2_000);
        self.at(Moment(self.now.tick().end().0 + jitter), Happens::Flush(index));
        let (now, revision) = (self.now, self.look(index).revision);
        let full = self.luck.u64(..20) == 0;
        let delay = if self.luck.u64(..10) == 0 { self.luck.u64(..400_000) } else { self.luck.u64(..5_000) };
        let worker = &mut self.workers[index];
        let ended = Tick(now.tick().0.saturating_sub(1));
        let fresh = Batch { worker: index, tick: ended, revision, ..std::mem::take(&mut worker.batch) };
        let batch = match worker.unsent.take() {
            Some(mut older) => {
                older.merge(fresh);
                older
            }
            None => fresh,
        };
        if full {
            worker.unsent = Some(batch);
            return;
        }
        worker.delivered = worker.delivered.max(Moment(now.0 + delay));
        let at = worker.delivered;
        self.at(at, Happens::Delivery(batch));
    }

    fn delivery(&mut self, batch: Batch) {
        match self.engine_stalled() {
            Some(later) => self.at(later, Happens::Delivery(batch)),
            None => self.engine.absorb(self.now, batch),
        }
    }

    fn engine_stalled(&self) -> Option<Moment> {
        Some(self.engine_stalled_until).filter(|until| *until > self.now)
    }

    fn late(&mut self) {
        if let Some(later) = self.engine_stalled() {
            return self.at(later, Happens::Late);
        }
        if self.now >= self.engine.late() {
            self.engine.close(self.now);
        }
        let next = self.engine.late().max(self.now);
        self.at(next, Happens::Late);
    }

    /// Persons do all kinds of things, some of them twice and some by an old picture.
    fn meddling(&mut self) {
        let gap = self.luck.u64(200_000..12_000_000);
        if self.now.0 + gap < micros(MEDDLING) {
            self.after_micros(gap, Happens::Meddling);
        }
        let request = match self.luck.u64(..40) {
            0 => Request::Promote,
            1..=3 => Request::Abort,
            4..=9 => Request::Unseal(version("v2")),
            10 => Request::Unseal(version("v1")),
            11..=13 => Request::Weight(Weight::FULL),
            14..=16 => Request::Weight(Weight::ZERO),
            17 => Request::Pause(Duration::from_millis(self.luck.u64(1..5_000))),
            18 => Request::Resume,
            _ => Request::Weight(Weight::from_basis_points(self.luck.u16(..=10_000)).expect("at most everything")),
        };
        let current = self.engine.state.services().next().expect("the only service").revision;
        let precondition = match self.luck.u64(..6) {
            0 => Precondition::None,
            1 => Precondition::Revision(current),
            2 => Precondition::Revision(current.wrapping_sub(1)),
            _ => Precondition::Any,
        };
        self.person(&request, precondition);
    }

    fn person(&mut self, request: &Request, precondition: Precondition) {
        let before = standing(&self.engine.state).clone();
        let revision = self.engine.state.services().next().expect("the only service").revision;
        let lowers = match request {
            Request::Weight(to) => *to < before.weight || before.canary.is_none() && to.is_zero(),
            Request::Abort => true,
            Request::Promote | Request::Unseal(_) | Request::Canary(_) | Request::Pause(_) | Request::Resume => false,
        };
        let raises = matches!(request, Request::Weight(to) if *to > before.weight) || *request == Request::Promote;
        let result = self.engine.command(self.now, request.clone(), precondition);
        assert!(!lowers || result.is_ok(), "lowering always succeeds: {request:?} gave {result:?}");
        let current = matches!(precondition, Precondition::Any) || precondition == Precondition::Revision(revision);
        assert!(!raises || current || result.is_err(), "raising needs the newest revision: {request:?}");
        if result.is_err() {
            assert_eq!(&before, standing(&self.engine.state), "what was refused changed nothing");
        }
    }

    /// Gives the canary a weight at which there is a coin, whatever happened to it before, and leaves it to the judge.
    fn last_word(&mut self) {
        if self.meddlers {
            self.person(&Request::Unseal(version("v2")), Precondition::Any);
            self.person(&Request::Weight(self.last_word), Precondition::Any);
        }
    }

    /// Everything drawn and ended has arrived, once.
    fn settle_accounts(&mut self) {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let tick = self.now.tick();
            let mut last = worker.unsent.take().unwrap_or_default();
            last.merge(std::mem::take(&mut worker.batch));
            self.engine.absorb(self.now, Batch { worker: index, tick, revision: worker.seen.revision, ..last });
        }
        self.engine.ledger.closes(&self.engine.state, &self.truth);
        let snapshot = Arc::clone(self.workers[0].subscriber.current());
        for version in &snapshot.services[0].versions {
            let seen = self.engine.collector.figures(version.id);
            let (drawn, forced) = (seen.drawn.all().classes.success, seen.forced);
            assert_eq!(drawn, self.drawn.get(&version.id).copied().unwrap_or(0), "draws are counted once");
            assert_eq!(forced, self.forced.get(&version.id).copied().unwrap_or(0), "pins are counted once");
            for endpoint in version.pool.endpoints() {
                assert_eq!(endpoint.in_flight(), 0, "nothing is under way any more");
                self.pools.remove(&endpoint.id);
            }
        }
        assert_eq!(self.pools, BTreeSet::new(), "endpoints are kept from snapshot to snapshot");
    }

    /// Bad canaries have lost their traffic, and good ones are as persons left them.
    fn judge_of_the_judge(&self) {
        let standing = standing(&self.engine.state);
        let ledger = &self.engine.ledger;
        let acting = self.definition.policy.mode == Mode::AbortOnly;
        match self.canary {
            Canary::Bad(fault) if acting && standing.canary.is_some() => {
                assert!(
                    standing.weight.is_zero(),
                    "{fault:?} since {:?} and still at {} after {:?}, {}/s: {standing:?}",
                    self.bad_from,
                    standing.weight,
                    self.now.since(self.left_alone()),
                    self.rate
                );
            }
            Canary::Good if ledger.rolled_back.is_empty() => {
                let weight = standing.probe.map_or(standing.weight, |probe| probe.back_to);
                assert_eq!(weight, ledger.granted, "a good canary has what a person gave it");
            }
            _ => {}
        }
        assert!(acting || ledger.rolled_back.is_empty() && ledger.probes == 0, "who only observes moves nothing");
    }
}

/// Faults that the judge finds in a hundred canary requests, at half the traffic or less.
const BAD: [Fault; 7] = [
    Fault::Fails(1.0, Duration::ZERO),
    Fault::Fails(1.0, Duration::from_millis(700)),
    Fault::Fails(0.5, Duration::ZERO),
    Fault::Rejects,
    Fault::RefusesConnections,
    Fault::Hangs,
    Fault::Slow(Duration::from_secs(1)),
];

fn version(name: &str) -> VersionName {
    VersionName::new(name).expect("a name")
}

fn definition(luck: &mut fastrand::Rng, canary: Canary) -> Definition {
    let endpoints = |of: u16| (1..=2u16).map(|n| format!("10.0.{of}.{n}:80").into()).collect();
    let (v1, v2) = (version("v1"), version("v2"));
    let slow = matches!(canary, Canary::Bad(Fault::Slow(_)));
    let latency = (slow || luck.u64(..3) == 0).then_some(LatencyLimit {
        quantile: 0.95,
        above: Duration::from_millis(400),
        window: Duration::from_secs(10),
    });
    let mode = if luck.u64(..8) == 0 { Mode::Observe } else { Mode::AbortOnly };
    let pin = |value: &str, target| PinDefinition {
        matcher: Matcher::Header { name: http::HeaderName::from_static("x-canary"), value: Some(value.to_owned()) },
        target,
    };
    Definition {
        name: ServiceName::new("shop").expect("a name"),
        routes: vec![],
        error_pages: ErrorPages::default(),
        versions: vec![
            VersionDefinition { name: v1.clone(), endpoints: endpoints(1), capacity: None },
            VersionDefinition { name: v2.clone(), endpoints: endpoints(2), capacity: None },
        ],
        stable: v1,
        canary: Some(v2.clone()),
        weight: Weight::from_basis_points(pick(luck, &[0, 500, 1_000, 5_000])).expect("at most everything"),
        pins: vec![pin("always", Target::Canary), pin("v2", Target::Version(v2))],
        policy: Policy { mode, latency, ..Policy::default() },
        sticky: None,
        timeouts: Timeouts { response_head: Duration::from_secs(pick(luck, &[3, 30])), ..Timeouts::default() },
        retries: RetryPolicy::default(),
        admission: Admission::default(),
        health_check: None,
        balancing: Balancing::default(),
    }
}

/// Both versions alike, through troubles that they share but notice at different speeds; and the canary's own fault.
fn backends(luck: &mut fastrand::Rng, canary: Canary, bad_from: Moment, head: Duration) -> [Backend; 2] {
    let healthy = Backend::healthy(luck);
    let mut both = [healthy.clone(), healthy];
    if luck.bool() {
        let from = Moment(luck.u64(..60_000_000));
        let to = Moment(from.0 + luck.u64(2_000_000..30_000_000));
        let (quick, slow) = (Duration::from_millis(1), Duration::from_secs(luck.u64(1..=5)));
        let first = luck.usize(..2);
        let kind = luck.u64(..6);
        for (index, backend) in both.iter_mut().enumerate() {
            let after = if index == first { quick } else { slow };
            let fault = match kind {
                0 | 1 => Fault::Fails(1.0, after),
                2 => Fault::Fails(0.3, after),
                3 => Fault::Rejects,
                4 => Fault::RefusesConnections,
                // Over any limit here, and no failure.
                _ => Fault::Slow((Duration::from_millis(900) + after).min(head / 2)),
            };
            backend.faults.push((from, to, fault));
        }
    }
    if let Canary::Bad(fault) = canary {
        both[1].faults.insert(0, (bad_from, Moment(u64::MAX), fault));
    }
    both
}

/// The length of a tick is what the flushes above count on.
const _: () = assert!(TICK.as_millis() == 100);
