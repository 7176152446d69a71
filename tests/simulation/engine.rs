//! The engine's procedure, driven by hand: what `control::engine` does with its state at every batch, command and tick,
//! without its thread, clock and queues. To be kept in step with it: `absorb`, `command`, `close`, `judge`, `act` and
//! `enact` are named as there. What it decides with is the real thing, down to the collector and the publisher.

use std::time::Duration;

use penstock::control::collector::Collector;
use penstock::control::command::{Precondition, Refused, admit};
use penstock::domain::judge::Judge;
use penstock::domain::names::{Exposure, ServiceName};
use penstock::domain::service::Definition;
use penstock::domain::snapshot::Snapshot;
use penstock::domain::standing::{Change, Input, Request};
use penstock::domain::state::{Event, State};
use penstock::domain::time::{Moment, Tick};
use penstock::domain::window::Batch;
use penstock::link::{Publisher, Subscriber, snapshots};

use super::ledger::{By, Ledger};

/// As in `control::engine`.
const GRACE: Duration = Duration::from_millis(50);

pub struct Engine {
    pub state: State,
    pub ledger: Ledger,
    pub collector: Collector,
    name: ServiceName,
    publisher: Publisher,
    published: u64,
    trial: Option<(Exposure, Judge)>,
    /// The next tick to close.
    closing: Tick,
}

impl Engine {
    pub fn new(definition: &Definition, workers: usize) -> (Engine, Subscriber) {
        let mut state = State::of([definition.clone()]);
        for authority in
            definition.versions.iter().flat_map(|version| &version.endpoints).map(|endpoint| &endpoint.authority)
        {
            state.resolve(authority, vec![authority.parse().expect("endpoints are addresses here")]);
        }
        let first = Snapshot::of(&state, &Snapshot::default());
        let mut ledger = Ledger::new(definition, &state);
        ledger.published(&state, &first);
        let (publisher, subscriber) = snapshots(first);
        let engine = Engine {
            published: state.stamp(),
            state,
            ledger,
            collector: Collector::new(workers),
            name: definition.name.clone(),
            publisher,
            trial: None,
            closing: Tick(0),
        };
        (engine, subscriber)
    }

    pub fn absorb(&mut self, now: Moment, batch: Batch) {
        self.collector.absorb(batch);
        while self.collector.complete(self.closing) {
            self.close(now);
        }
    }

    /// When the tick that is waited for is closed without the latecomers.
    pub fn late(&self) -> Moment {
        self.closing.end().plus(GRACE)
    }

    pub fn command(&mut self, now: Moment, request: Request, precondition: Precondition) -> Result<(), Refused> {
        let service = self.state.service(&self.name).expect("the only service");
        let changes = admit(service, now, request, precondition)?;
        self.enact(changes, By::Person);
        Ok(())
    }

    /// Ends a tick: judges, and acts.
    pub fn close(&mut self, now: Moment) {
        let tick = self.closing;
        self.closing = tick.next();
        let rows = self.collector.close(tick);
        self.ledger.closed(&rows);
        self.judge(tick, now, &rows);
        self.publish();
        self.ledger.check(&self.state);
    }

    fn judge(&mut self, tick: Tick, now: Moment, rows: &penstock::domain::window::Rows) {
        let service = self.state.service(&self.name).expect("the only service");
        let Some(exposure) = service.standing.exposure else { return };
        let (definition, weight) = (service.definition.clone(), service.standing.weight);
        let (_, judge) = match self.trial.take() {
            Some(trial) if trial.0 == exposure => self.trial.insert(trial),
            _ => {
                let judge = Judge::new(&definition.policy, definition.timeouts.response_head, 1);
                self.trial.insert((exposure, judge))
            }
        };
        let verdict = judge.tick(tick, weight, rows.of(exposure));
        let generation = judge.generation();
        self.act(now, Input::Judged(verdict));
        self.act(now, Input::Passed);
        if self.state.service(&self.name).is_some_and(|service| service.standing.exposure == Some(exposure)) {
            self.state.open_generation(&self.name, generation);
        }
    }

    fn act(&mut self, now: Moment, input: Input) {
        let service = self.state.service(&self.name).expect("the only service");
        let mode = service.definition.policy.mode;
        if let Ok(changes) = service.standing.handle(now, mode, input) {
            self.enact(changes, By::Machine);
        }
    }

    fn enact(&mut self, changes: Vec<Change>, by: By) {
        for change in changes {
            let before = self.state.clone();
            let lowers = change.lowers();
            let event = Event { service: self.name.clone(), change };
            self.state.apply(self.state.revision() + 1, &event);
            if lowers {
                self.publish();
            }
            self.ledger.enacted(&before, &self.state, &event, by);
            self.publish();
        }
    }

    fn publish(&mut self) {
        if self.published != self.state.stamp() {
            let snapshot = Snapshot::of(&self.state, &self.publisher.current());
            self.ledger.published(&self.state, &snapshot);
            self.publisher.publish(snapshot);
            self.published = self.state.stamp();
        }
    }
}
