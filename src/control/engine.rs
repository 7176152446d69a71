//! The single loop that owns the state: batches, commands and lookups in; snapshots, journal entries and views out.
//!
//! It runs on a thread of its own and does no I/O at all. A tick is closed when every worker has reported it, or a grace
//! period later; never early because something failed, or the faster version's errors would arrive before the other's
//! and convict it in an outage that both share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::collector::Collector;
use super::command::{Command, Commands, Done, Refused, admit};
use super::journal::{Actor, Entry, Incident, Journal};
use super::view::{ServiceView, View};
use crate::domain::judge::Judge;
use crate::domain::names::{Exposure, ServiceName};
use crate::domain::snapshot::Snapshot;
use crate::domain::standing::{Change, Input};
use crate::domain::state::{Event, State};
use crate::domain::time::{Moment, Tick};
use crate::domain::window::Rows;
use crate::link::{BatchReceiver, Clock, Publisher};

/// How long a tick waits for a worker that is late.
const GRACE: Duration = Duration::from_millis(50);
/// Ticks between two pictures of a service: often while it is judged, else once a second.
const VIEW_TICKS_JUDGED: u64 = 2;
const VIEW_TICKS: u64 = 10;
/// A canary without a failure for this long has no incident running.
const QUIET: Duration = Duration::from_secs(10);

/// Where a name leads now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub authority: Arc<str>,
    pub addresses: Vec<SocketAddr>,
}

/// Everything that reaches the engine.
#[derive(Debug)]
pub struct Inlets {
    pub batches: BatchReceiver,
    pub commands: Commands,
    pub resolved: mpsc::Receiver<Resolved>,
}

#[derive(Debug)]
pub struct Engine {
    state: State,
    publisher: Publisher,
    published: u64,
    collector: Collector,
    trials: BTreeMap<ServiceName, Trial>,
    journal: Arc<Journal>,
    view: Arc<ArcSwap<View>>,
    drawn: BTreeMap<ServiceName, Tick>,
    clock: Clock,
    /// The next tick to close.
    closing: Tick,
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
    /// `publisher` has published a snapshot of `state` already.
    #[must_use]
    pub fn new(
        state: State,
        publisher: Publisher,
        workers: usize,
        journal: Arc<Journal>,
        view: Arc<ArcSwap<View>>,
        clock: Clock,
    ) -> Engine {
        let published = state.stamp();
        let mut engine = Engine {
            state,
            publisher,
            published,
            collector: Collector::new(workers),
            trials: BTreeMap::new(),
            journal,
            view,
            drawn: BTreeMap::new(),
            clock,
            closing: clock.now().tick(),
        };
        engine.draw_all();
        engine
    }

    /// Runs until every worker is gone.
    pub async fn run(mut self, mut inlets: Inlets) {
        loop {
            let late = self.clock.instant(self.closing.end().plus(GRACE)).into();
            tokio::select! {
                biased; // a person's word first: a flood of batches must not keep an abort waiting
                Some(command) = inlets.commands.recv() => self.command(command),
                Some(resolved) = inlets.resolved.recv() => self.resolved(&resolved),
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
        let Command { service, request, precondition, actor, reply } = command;
        let result = match self.state.service(&service) {
            None => Err(Refused::NoService(service)),
            Some(state) => admit(state, self.clock.now(), request, precondition).map(|changes| {
                let changed = !changes.is_empty();
                self.enact(&service, changes, &actor);
                self.draw(&service);
                Done { revision: self.state.service(&service).map_or(0, |state| state.revision), changed }
            }),
        };
        let _nobody_waiting = reply.send(result);
    }

    fn resolved(&mut self, resolved: &Resolved) {
        self.state.resolve(&resolved.authority, resolved.addresses.clone());
        self.publish();
    }

    /// Ends a tick: judges every exposure, acts, and draws new pictures.
    fn close(&mut self) {
        let tick = self.closing;
        self.closing = tick.next();
        let rows = self.collector.close(tick);
        let now = self.clock.now();
        let names: Vec<ServiceName> = self.state.services().map(|service| service.definition.name.clone()).collect();
        for name in &names {
            self.judge(name, tick, now, &rows);
        }
        self.publish(); // generations that opened or closed
        for name in names {
            if self.drawn.get(&name).is_none_or(|drawn| tick.since(*drawn) >= self.view_ticks(&name)) {
                self.drawn.insert(name.clone(), tick);
                self.draw(&name);
            }
        }
    }

    fn view_ticks(&self, name: &ServiceName) -> u64 {
        let judged = self.state.service(name).is_some_and(|service| service.standing.exposure.is_some());
        if judged { VIEW_TICKS_JUDGED } else { VIEW_TICKS }
    }

    fn judge(&mut self, name: &ServiceName, tick: Tick, now: Moment, rows: &Rows) {
        let Some(service) = self.state.service(name) else { return };
        let Some(exposure) = service.standing.exposure else { return };
        let (definition, weight) = (service.definition.clone(), service.standing.weight);
        let trial = match self.trials.remove(name) {
            Some(trial) if trial.exposure == exposure => trial,
            _ => Trial::new(exposure, Judge::new(&definition.policy, definition.timeouts.response_head)),
        };
        let trial = self.trials.entry(name.clone()).or_insert(trial);
        trial.count(tick, rows);
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
        if let Ok(changes) = service.standing.handle(now, mode, input) {
            self.enact(name, changes, &Actor::judge());
        }
    }

    /// Makes changes true. What takes traffic from the canary is published before anything else is done with it.
    fn enact(&mut self, name: &ServiceName, changes: Vec<Change>, actor: &Actor) {
        for change in changes {
            let lowers = change.lowers();
            let event = Event { service: name.clone(), change };
            self.state.apply(&event);
            if lowers {
                self.publish();
            }
            self.announce(event, actor);
            self.publish();
            self.drawn.remove(name); // whoever looks after the announcement sees it
        }
    }

    fn announce(&self, event: Event, actor: &Actor) {
        let incident = match &event.change {
            Change::RolledBack { .. } | Change::Aborted { .. } | Change::WouldRollBack { .. } => {
                self.trials.get(&event.service).map(|trial| trial.incident(self.clock.now()))
            }
            _ => None,
        };
        let (revision, at) = (self.state.revision(), Timestamp::now());
        self.journal.append(Entry { revision, at, actor: actor.clone(), event, incident });
    }

    /// Publishes a snapshot if the newest one no longer shows the state.
    fn publish(&mut self) {
        if self.published != self.state.stamp() {
            self.publisher.publish(Snapshot::of(&self.state, &self.publisher.current()));
            self.published = self.state.stamp();
        }
    }

    fn draw_all(&mut self) {
        let names: Vec<ServiceName> = self.state.services().map(|service| service.definition.name.clone()).collect();
        for name in names {
            self.draw(&name);
        }
    }

    /// Draws a service's picture anew, and shows it.
    fn draw(&mut self, name: &ServiceName) {
        let Some(service) = self.state.service(name) else { return };
        let snapshot = self.publisher.current();
        let reading = self.trials.get(name).map(|trial| trial.judge.reading()).unwrap_or_default();
        let drawn = ServiceView::draw(service, &snapshot, reading, &mut self.collector, self.closing);
        let mut view = View::clone(&self.view.load());
        view.services.insert(name.clone(), Arc::new(drawn));
        view.revision = self.state.revision();
        view.lost_outcomes = self.collector.lost;
        view.left_out = self.collector.left_out;
        view.applied = self.collector.applied();
        view.published = snapshot.revision;
        self.view.store(Arc::new(view));
    }
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
            self.incident.exposed_failures += row.canary.ended.failure - row.canary.rescued;
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
        let detection = self.failing.map(|(first, _)| now.since(first).as_millis());
        Incident { detection_ms: detection.and_then(|ms| u64::try_from(ms).ok()), ..self.incident.clone() }
    }
}
