//! The single loop that owns the state: batches, commands and lookups in; snapshots, journal entries and views out.
//!
//! It runs on a thread of its own and does no I/O at all. A tick is closed when every worker has reported it, or a
//! grace period later; never early because something failed, or the faster version's errors would arrive before the
//! other's and convict it in an outage that both share.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::boot::warn_of_ignored_weights;
use super::capacity::{self, Overload, Overloaded};
use super::collector::Collector;
use super::command::{Command, Commands, Done, Force, Refused, Reply, Run, admit, amend};
use super::ejections::{census, eject};
use super::journal::{Actor, Entry, Incident, Journal};
use super::store::{Insist, Keeper, StoreError, Stored};
use super::view::{Drawn, ServiceView, StoreView, View};
use crate::domain::authority::Authority;
use crate::domain::health::Operational;
use crate::domain::judge::Judge;
use crate::domain::names::{Exposure, ServiceName, VersionName};
use crate::domain::pool::{Endpoint, Member};
use crate::domain::service::Definition;
use crate::domain::snapshot::Snapshot;
use crate::domain::standing::{Change, Input, Request};
use crate::domain::state::{Event, State};
use crate::domain::time::{Moment, Tick};
use crate::domain::window::Rows;
use crate::link::{BatchReceiver, Clock, Publisher};

/// How long a tick waits for a worker that is late.
const GRACE: Duration = Duration::from_millis(50);
/// Ticks between two pictures of a service: often while it is judged, else once a second.
const VIEW_TICKS_JUDGED: u64 = 2;
const VIEW_TICKS: u64 = 10;
/// How long an announcement waits for a slow disk.
const LATE: Duration = Duration::from_secs(1);
/// Between two tries of the machine's at something that a failing store does not keep.
const TRY_AGAIN_TICKS: u64 = 10;
/// A canary without a failure for this long has no incident running.
const QUIET: Duration = Duration::from_secs(10);

/// Where a name leads now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub authority: Arc<str>,
    pub addresses: Vec<SocketAddr>,
}

/// What is believed of an endpoint from now on.
#[derive(Debug)]
pub struct Checked {
    pub service: ServiceName,
    pub version: VersionName,
    pub endpoint: Arc<Endpoint>,
    pub from: Operational,
    pub to: Operational,
    /// What the last check said.
    pub because: String,
}

/// Everything that reaches the engine.
#[derive(Debug)]
pub struct Inlets {
    pub batches: BatchReceiver,
    pub commands: Commands,
    pub resolved: mpsc::Receiver<Resolved>,
    pub checked: mpsc::Receiver<Checked>,
    pub stored: mpsc::UnboundedReceiver<Stored>,
}

/// What the engine works with.
#[derive(Debug)]
pub struct Tools {
    pub publisher: Publisher,
    pub keeper: Keeper,
    pub journal: Arc<Journal>,
    pub view: Arc<ArcSwap<View>>,
    pub clock: Clock,
    pub workers: usize,
}

#[derive(Debug)]
pub struct Engine {
    state: State,
    tools: Tools,
    published: u64,
    collector: Collector,
    trials: BTreeMap<ServiceName, Trial>,
    drawn: BTreeMap<ServiceName, Tick>,
    /// The next tick to close.
    closing: Tick,
    /// The revision given out last; the state's own once everything is kept.
    given_out: u64,
    /// The newest revision that anybody was told of.
    announced: u64,
    /// For the store to keep, oldest first.
    waiting: VecDeque<Waiting>,
    store: Option<StoreView>,
}

/// Entries on their way to the store.
#[derive(Debug)]
struct Waiting {
    entries: Vec<Entry>,
    since: Moment,
    reply: Option<Reply>,
    then: Then,
}

/// What is to be done once the store has kept them.
#[derive(Debug)]
enum Then {
    /// They have taken effect: say so.
    Announce,
    /// They take effect, unless something lowered one of their services meanwhile.
    Apply { overtaken: bool, definitions: Option<Vec<Definition>> },
}

/// The judgement of one exposure.
#[derive(Debug)]
struct Trial {
    exposure: Exposure,
    judge: Judge,
    incident: Incident,
    /// The first and the last failure of the canary in the incident that may be running.
    failing: Option<(Moment, Moment)>,
}

impl Engine {
    /// The publisher has published a snapshot of `state` already.
    #[must_use]
    pub fn new(state: State, tools: Tools, store: Option<StoreView>) -> Engine {
        let mut engine = Engine {
            published: state.stamp(),
            given_out: state.revision(),
            announced: state.revision(),
            collector: Collector::new(tools.workers),
            trials: BTreeMap::new(),
            drawn: BTreeMap::new(),
            closing: tools.clock.now().tick(),
            waiting: VecDeque::new(),
            store,
            state,
            tools,
        };
        engine.draw_all();
        engine
    }

    /// Runs until every worker is gone.
    pub async fn run(mut self, mut inlets: Inlets) {
        loop {
            let late = self.tools.clock.instant(self.closing.end().plus(GRACE)).into();
            tokio::select! {
                biased; // a person's word first: a flood of batches must not keep an abort waiting
                Some(command) = inlets.commands.recv() => self.command(command),
                Some(stored) = inlets.stored.recv() => self.stored(&stored),
                Some(resolved) = inlets.resolved.recv() => self.resolved(&resolved),
                Some(checked) = inlets.checked.recv() => self.checked(checked),
                batch = inlets.batches.next() => match batch {
                    Some(batch) => self.collector.absorb(batch),
                    None => break,
                },
                () = tokio::time::sleep_until(late) => self.close(),
            }
            while self.collector.complete(self.closing) {
                self.close();
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Change { service, request, precondition, overload, run, actor, reply } => {
                let admitted = match self.state.service(&service) {
                    None => Err(Refused::NoService(service.clone())),
                    Some(state) => self
                        .may(&service, &request)
                        .and_then(|()| admit(state, self.tools.clock.now(), request, precondition)),
                };
                let admitted = admitted.and_then(|changes| match overload {
                    Overload::Accepted => Ok(changes),
                    Overload::Refused => self.fits(&service, &changes).map(|()| changes).map_err(Refused::from),
                });
                self.carry_out(&service, admitted, run, &actor, reply);
            }
            Command::Amend { service, request, resolved, precondition, run, actor, reply } => {
                for resolved in resolved.iter().filter(|_| run == Run::Real) {
                    self.state.resolve(&resolved.authority, resolved.addresses.clone());
                }
                let snapshot = self.tools.publisher.current();
                let serves = |version: &VersionName, endpoint: &str| {
                    snapshot.service(&service).is_some_and(|service| service.serves(version, endpoint))
                };
                let admitted = match self.state.service(&service) {
                    None => Err(Refused::NoService(service.clone())),
                    Some(state) => amend(state, serves, request, precondition),
                };
                self.carry_out(&service, admitted, run, &actor, reply);
            }
            Command::Declare { definitions, resolved, force, actor, reply } => {
                for resolved in &resolved {
                    self.state.resolve(&resolved.authority, resolved.addresses.clone());
                }
                self.declare(definitions, force, &actor, reply);
            }
        }
    }

    /// Whether what the changes raise can be carried.
    fn fits(&mut self, name: &ServiceName, changes: &[Change]) -> Result<(), Overloaded> {
        let Some(service) = self.state.service(name) else { return Ok(()) };
        let ids = service.definition.versions.iter().filter_map(|version| service.id(&version.name));
        let rate = self.collector.rate(ids, self.closing);
        let snapshot = self.tools.publisher.current();
        capacity::check(service, changes, rate, |version| {
            let versions = snapshot.service(name).into_iter().flat_map(|service| &service.versions);
            let pools = versions.filter(|listed| listed.name == *version).map(|version| &version.pool);
            pools.flat_map(|pool| &pool.members).filter(|member| carries(member)).count()
        })
    }

    /// All traffic would go to a version that never was healthy: the only request that asks for more than may be.
    fn may(&self, service: &ServiceName, request: &Request) -> Result<(), Refused> {
        let snapshot = self.tools.publisher.current();
        let canary = self.state.service(service).and_then(|service| service.standing.canary.as_ref());
        let (Some(service), Some(canary), Request::Promote) = (snapshot.service(service), canary, request) else {
            return Ok(());
        };
        let closed = service.versions.iter().any(|version| version.name == *canary && !version.pool.is_open());
        if closed { Err(Refused::Closed(canary.clone())) } else { Ok(()) }
    }

    fn carry_out(
        &mut self,
        service: &ServiceName,
        admitted: Result<Vec<Change>, Refused>,
        run: Run,
        actor: &Actor,
        reply: Reply,
    ) {
        match admitted {
            Ok(changes) if run == Run::Dry => self.answer(Some(reply), service, Ok(!changes.is_empty()), false),
            Ok(changes) if changes.is_empty() => self.answer(Some(reply), service, Ok(false), true),
            Ok(changes) => self.enact(service, changes, actor, Some(reply)),
            Err(refused) => self.answer(Some(reply), service, Err(refused), true),
        }
    }

    fn answer(&self, reply: Option<Reply>, service: &ServiceName, result: Result<bool, Refused>, durable: bool) {
        let Some(reply) = reply else { return };
        let revision = self.state.service(service).map_or(self.state.revision(), |state| state.revision);
        let _nobody_waiting = reply.send(result.map(|changed| Done { revision, changed, durable }));
    }

    /// Puts a file's definitions in the place of the last one's, together with what they change about how services
    /// stand.
    fn declare(&mut self, definitions: Vec<Definition>, force: Force, actor: &Actor, reply: Reply) {
        let in_use = self.state.in_use(&definitions);
        if force == Force::No && !in_use.is_empty() {
            let _nobody_waiting = reply.send(Err(Refused::InUse(in_use)));
            return;
        }
        let news = self.state.news(&definitions);
        warn_of_ignored_weights(&self.state, &news, |wanted| self.tools.journal.newest(wanted));
        let entries: Vec<Entry> = news.into_iter().map(|event| self.entry(event, actor)).collect();
        let then = Then::Apply { overtaken: false, definitions: Some(definitions) };
        let waiting = Waiting { entries, since: self.tools.clock.now(), reply: Some(reply), then };
        if waiting.entries.is_empty() {
            return self.finish(waiting, true);
        }
        self.tools.keeper.append(waiting.entries.clone(), Insist::No);
        self.waiting.push_back(waiting);
    }

    /// Makes changes true. What takes traffic from the canary is published before anything else is done with it, and
    /// announced once it is kept; all else is kept first.
    fn enact(&mut self, name: &ServiceName, changes: Vec<Change>, actor: &Actor, reply: Option<Reply>) {
        let (kept, said): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(Change::is_kept);
        for change in said {
            let entry = self.entry(Event { service: name.clone(), change }, actor);
            self.apply(&entry);
            self.announce(entry);
        }
        if kept.is_empty() {
            return self.answer(reply, name, Ok(true), false); // what is said is not kept
        }
        let lowers = kept.iter().any(Change::lowers);
        let events = kept.into_iter().map(|change| Event { service: name.clone(), change });
        let mut entries: Vec<Entry> = events.map(|event| self.entry(event, actor)).collect();
        let then = if lowers {
            if let Some(first) = entries.first_mut() {
                first.overtakes = self.overtake(name);
            }
            for entry in &mut entries {
                self.apply(entry);
                entry.incident = self.incident(entry);
            }
            Then::Announce
        } else {
            Then::Apply { overtaken: false, definitions: None }
        };
        self.tools.keeper.append(entries.clone(), if lowers { Insist::Yes } else { Insist::No });
        self.waiting.push_back(Waiting { entries, since: self.tools.clock.now(), reply, then });
    }

    fn entry(&mut self, event: Event, actor: &Actor) -> Entry {
        self.given_out += 1;
        Entry::new(self.given_out, event, actor.clone())
    }

    fn apply(&mut self, entry: &Entry) {
        self.state.apply(entry.revision, &entry.event);
        self.publish();
    }

    /// A lowering cancels what would raise the service and has not taken effect yet; returns the entries' revisions.
    fn overtake(&mut self, name: &ServiceName) -> Vec<u64> {
        let mut revisions = Vec::new();
        for waiting in &mut self.waiting {
            if let Then::Apply { overtaken, .. } = &mut waiting.then
                && waiting.entries.iter().any(|entry| entry.event.service == *name)
            {
                *overtaken = true;
                revisions.extend(waiting.entries.iter().map(|entry| entry.revision));
            }
        }
        revisions
    }

    /// The store has kept what waited, or could not.
    fn stored(&mut self, stored: &Stored) {
        if let Some(store) = &mut self.store {
            let trouble = stored.result.clone().err();
            *store = StoreView { keeps: trouble.is_none(), trouble, unsaved: stored.waiting };
        }
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.revision() <= stored.revision) {
            match &stored.result {
                Ok(()) => self.finish(waiting, true),
                Err(error) => self.give_up(waiting, error),
            }
        }
        if stored.result.is_ok() && self.waiting.is_empty() && self.tools.keeper.wants_compaction() {
            self.tools.keeper.compact(self.state.saved());
        }
        self.show();
    }

    fn give_up(&mut self, waiting: Waiting, error: &StoreError) {
        match waiting.then {
            Then::Announce => self.finish(waiting, false),
            Then::Apply { .. } => {
                tracing::error!(%error, "the store did not keep a change, so it is not made");
                if let Some(reply) = waiting.reply {
                    let _nobody_waiting = reply.send(Err(Refused::NotKept(error.clone())));
                }
            }
        }
    }

    fn finish(&mut self, waiting: Waiting, durable: bool) {
        let service = waiting.service().cloned();
        let Waiting { entries, reply, then, .. } = waiting;
        let result = match then {
            Then::Announce => Ok(true),
            Then::Apply { overtaken: true, .. } => {
                let current = self.state.revision();
                Err(Refused::PreconditionFailed {
                    given: entries.first().map_or(current, |entry| entry.revision),
                    current,
                })
            }
            Then::Apply { definitions, .. } => {
                let changed = definitions.is_some() || !entries.is_empty();
                for entry in &entries {
                    self.state.apply(entry.revision, &entry.event);
                }
                if let Some(definitions) = definitions {
                    self.state.define(definitions);
                }
                self.publish();
                Ok(changed)
            }
        };
        if result.is_ok() {
            for entry in entries {
                let entry = Entry { durable, ..entry };
                if service.is_some() { self.announce(entry) } else { self.note(entry) }
            }
            if service.is_none() {
                self.draw_all();
            }
        }
        match (service, reply) {
            (Some(service), reply) => self.answer(reply, &service, result, durable),
            (None, Some(reply)) => {
                let revision = self.state.revision();
                let _nobody_waiting = reply.send(result.map(|changed| Done { revision, changed, durable }));
            }
            (None, None) => {}
        }
    }

    /// What has taken effect is not kept back for ever by a slow disk.
    fn announce_late(&mut self, now: Moment) {
        let late = |waiting: &Waiting| matches!(waiting.then, Then::Announce) && now.since(waiting.since) >= LATE;
        while let Some(index) = self.waiting.iter().position(late) {
            if let Some(waiting) = self.waiting.remove(index) {
                if let Some(store) = &mut self.store {
                    store.unsaved += waiting.entries.len();
                    store
                        .trouble
                        .get_or_insert_with(|| StoreError(format!("it takes longer than {LATE:?} to keep a change")));
                }
                self.finish(waiting, false);
            }
        }
    }

    fn resolved(&mut self, resolved: &Resolved) {
        self.state.resolve(&resolved.authority, resolved.addresses.clone());
        self.publish();
    }

    /// The workers know already; the split may have to. Of an endpoint that has gone meanwhile nothing is said.
    fn checked(&mut self, checked: Checked) {
        let Checked { service, version, endpoint, from, to, because } = checked;
        let Some(state) = self.state.service(&service) else { return };
        let listed = state.definition.version(&version);
        let listed = listed.is_some_and(|v| v.endpoints.iter().any(|listed| listed.authority == endpoint.authority));
        let Some(authority) = Authority::parse(&endpoint.authority).ok().filter(|_| listed) else { return };
        let address = endpoint.address;
        let change = Change::EndpointHealth { version, endpoint: authority, address, from, to, because };
        self.enact(&service, vec![change], &Actor::checks(), None);
    }

    /// Ends a tick: judges every exposure, acts, and draws new pictures.
    fn close(&mut self) {
        let tick = self.closing;
        self.closing = tick.next();
        let rows = self.collector.close(tick);
        let now = self.tools.clock.now();
        self.announce_late(now);
        let snapshot = self.tools.publisher.current();
        eject(&snapshot, now);
        let names: Vec<ServiceName> = self.state.services().map(|service| service.definition.name.clone()).collect();
        for name in &names {
            if self.state.service(name).is_some_and(|service| service.standing.paused.is_some()) {
                self.act(name, now, Input::Passed);
            }
            self.judge(name, tick, now, &snapshot, &rows);
        }
        self.publish(); // generations that opened or closed
        let due =
            |name: &ServiceName| self.drawn.get(name).is_none_or(|drawn| tick.since(*drawn) >= self.view_ticks(name));
        let due: Vec<ServiceName> = names.into_iter().filter(due).collect();
        self.draw(&due);
        self.drawn.extend(due.into_iter().map(|name| (name, tick)));
    }

    fn view_ticks(&self, name: &ServiceName) -> u64 {
        let judged = self.state.service(name).is_some_and(|service| service.standing.exposure.is_some());
        if judged { VIEW_TICKS_JUDGED } else { VIEW_TICKS }
    }

    fn judge(&mut self, name: &ServiceName, tick: Tick, now: Moment, snapshot: &Snapshot, rows: &Rows) {
        let Some(service) = self.state.service(name) else { return };
        let Some(exposure) = service.standing.exposure else { return };
        let (definition, weight) = (service.definition.clone(), service.standing.weight);
        let trial = match self.trials.remove(name) {
            Some(trial) if trial.exposure == exposure => trial,
            _ => Trial::new(
                exposure,
                Judge::new(&definition.policy, definition.timeouts.response_head, service.standing.trials),
            ),
        };
        let trial = self.trials.entry(name.clone()).or_insert(trial);
        trial.count(tick, rows);
        if let Some([canary, stable]) = census(snapshot, name, now) {
            trial.judge.watch_endpoints(canary, stable);
        }
        let verdict = trial.judge.tick(tick, weight, rows.of(exposure));
        let generation = trial.judge.generation();
        self.act(name, now, Input::Judged(verdict));
        self.act(name, now, Input::Passed);
        if self.state.service(name).is_some_and(|service| service.standing.exposure == Some(exposure)) {
            self.state.open_generation(name, generation);
        }
    }

    fn act(&mut self, name: &ServiceName, now: Moment, input: Input) {
        let Some(service) = self.state.service(name) else { return };
        let mode = service.definition.policy.mode;
        let Ok(changes) = service.standing.handle(now, mode, input) else { return };
        // What the machine asked for already is on its way to the store; lowering is never asked for twice, for it is
        // done.
        let lowers = changes.iter().any(Change::lowers);
        let waits = self.waiting.iter().any(|waiting| waiting.service() == Some(name));
        let keeps = self.store.as_ref().is_none_or(|store| store.keeps);
        let again = keeps || self.closing.0.is_multiple_of(TRY_AGAIN_TICKS);
        if !lowers && (waits || !again) {
            return;
        }
        self.enact(name, changes, &Actor::judge(), None);
    }

    fn incident(&self, entry: &Entry) -> Option<Incident> {
        match &entry.event.change {
            Change::RolledBack { .. } | Change::Aborted { .. } | Change::WouldRollBack { .. } => {
                let now = self.tools.clock.now();
                let decided = Tick(self.closing.0.saturating_sub(1)).begin();
                let trial = self.trials.get(&entry.event.service)?;
                Some(Incident {
                    decision_ms: by_judge(entry).then(|| millis(now.since(decided))),
                    ..trial.incident(now)
                })
            }
            _ => None,
        }
    }

    fn note(&mut self, entry: Entry) {
        self.announced = self.announced.max(entry.revision);
        self.tools.journal.append(entry);
    }

    fn announce(&mut self, entry: Entry) {
        let service = entry.event.service.clone();
        self.note(entry);
        self.draw(&[service]); // whoever looks after the announcement sees it
    }

    /// Publishes a snapshot if the newest one no longer shows the state.
    fn publish(&mut self) {
        if self.published != self.state.stamp() {
            let current = self.tools.publisher.current();
            let snapshot = Snapshot::of(&self.state, &current);
            snapshot.close_endpoints(&current);
            self.tools.publisher.publish(snapshot);
            self.published = self.state.stamp();
        }
    }

    fn draw_all(&mut self) {
        let names: Vec<ServiceName> = self.state.services().map(|service| service.definition.name.clone()).collect();
        self.draw(&names);
    }

    /// Draws services' pictures anew, and shows them at once: each showing costs as much as there are services. What
    /// has taken effect and is not announced yet is not shown either: who has seen a rollback may rely on it.
    fn draw(&mut self, names: &[ServiceName]) {
        if names.is_empty() {
            return;
        }
        let mut view = View::clone(&self.tools.view.load());
        let snapshot = self.tools.publisher.current();
        let now = Drawn::now(self.tools.clock.now());
        for name in names {
            let unannounced =
                |waiting: &Waiting| matches!(waiting.then, Then::Announce) && waiting.service() == Some(name);
            let announced = !self.waiting.iter().any(unannounced);
            let Some(service) = self.state.service(name).filter(|_| announced) else { continue };
            let reading = self.trials.get(name).map(|trial| trial.judge.reading()).unwrap_or_default();
            let mut drawn = ServiceView::draw(service, &snapshot, reading, &mut self.collector, self.closing, now);
            drawn.paused = service.standing.paused.map(|until| until.since(self.tools.clock.now())).map(ending);
            view.services.insert(name.clone(), Arc::new(drawn));
        }
        self.store_view(view);
    }

    fn show(&self) {
        self.store_view(View::clone(&self.tools.view.load()));
    }

    fn store_view(&self, mut view: View) {
        view.services.retain(|name, _| self.state.service(name).is_some());
        view.revision = self.announced;
        view.lost_outcomes = self.collector.lost;
        view.left_out = self.collector.left_out;
        view.unrouted = Arc::new(self.collector.unrouted.clone());
        view.applied = self.collector.applied();
        view.snapshot = self.tools.publisher.current();
        view.published = view.snapshot.revision;
        view.store.clone_from(&self.store);
        self.tools.view.store(Arc::new(view));
    }
}

impl Waiting {
    fn revision(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.revision)
    }

    /// The service that a person or the judge acted on; `None` for a file.
    fn service(&self) -> Option<&ServiceName> {
        match &self.then {
            Then::Apply { definitions: Some(_), .. } => None,
            Then::Announce | Then::Apply { .. } => self.entries.first().map(|entry| &entry.event.service),
        }
    }
}

/// When what lasts so long is over.
fn ending(left: Duration) -> Timestamp {
    Timestamp::now().checked_add(left).unwrap_or(Timestamp::MAX)
}

fn by_judge(entry: &Entry) -> bool {
    matches!(entry.event.change, Change::RolledBack { .. } | Change::WouldRollBack { .. })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Trial {
    fn new(exposure: Exposure, judge: Judge) -> Trial {
        Trial { exposure, judge, incident: Incident::default(), failing: None }
    }

    /// Keeps the incident's figures.
    fn count(&mut self, tick: Tick, rows: &Rows) {
        for (drawn, row) in rows.of(self.exposure) {
            self.incident.canary_requests += row.canary.routed;
            self.incident.canary_failures += row.canary.ended.failure;
            self.incident.exposed_failures += row.canary.exposed;
            if row.canary.ended.failure > 0 {
                let routed = drawn.tick.begin();
                self.failing = match self.failing {
                    Some((first, last)) if tick.end().since(last) < QUIET => Some((first.min(routed), tick.end())),
                    _ => Some((routed, tick.end())),
                };
            }
        }
    }

    fn incident(&self, now: Moment) -> Incident {
        let detection = self.failing.map(|(first, _)| now.since(first));
        Incident { detection_ms: detection.map(millis), ..self.incident.clone() }
    }
}

/// Whether an endpoint can take requests, or could once it has proven itself.
fn carries(member: &Member) -> bool {
    member.wanted() && member.endpoint.operational() != Operational::Unhealthy
}
