//! A small engine to test against: real state, real rules, no judge, no workers; what they would report is handed in.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use http::{Method, StatusCode, Version};
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{Outside, bind, serve};
use crate::control::command::{Command, Commands, Control, Done, Refused, Run, admit, amend};
use crate::control::journal::{Actor, Entry, Journal};
use crate::control::view::{Drawn, EndpointView, ServiceView, VersionView, View};
use crate::domain::admission::{Admission, Held};
use crate::domain::amendments::Source;
use crate::domain::balance::Balancing;
use crate::domain::duration::{Durations, Kind, Kinds};
use crate::domain::error_pages::ErrorPages;
use crate::domain::judge::{Conviction, Policy, Reading, Trigger};
pub use crate::domain::judge::{Hold, Mode, Verdict};
use crate::domain::names::{EndpointId, ServiceName, VersionName};
use crate::domain::outcome::Class;
use crate::domain::pool::Endpoint;
use crate::domain::retry::RetryPolicy;
use crate::domain::route::{HostPattern, Route};
use crate::domain::service::{Definition, EndpointDefinition, Timeouts, VersionDefinition};
use crate::domain::snapshot::Snapshot;
use crate::domain::split::{Role, Weight};
use crate::domain::standing::{Change, Input};
use crate::domain::state::{Event, ServiceState, State};
use crate::domain::time::Moment;
use crate::domain::window::{Tally, Turned, tally};

const NOW: Moment = Moment(0);

pub fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub fn version(name: &str) -> VersionName {
    VersionName::new(name).unwrap()
}

pub fn percent(points: u16) -> Weight {
    Weight::from_basis_points(points * 100).unwrap()
}

/// `shop`: v1 stable, v2 canary at 10 %; and v3, listed.
pub fn shop() -> Definition {
    let listed = |name: &str, port: u16| VersionDefinition {
        name: version(name),
        endpoints: vec![format!("127.0.0.1:{port}").into()],
        capacity: None,
    };
    Definition {
        name: service("shop"),
        routes: vec![Route::below(HostPattern::Any, "/").into()],
        error_pages: ErrorPages::default(),
        versions: vec![listed("v1", 9001), listed("v2", 9002), listed("v3", 9003)],
        stable: version("v1"),
        canary: Some(version("v2")),
        weight: percent(10),
        pins: vec![],
        policy: Policy::default(),
        sticky: None,
        timeouts: Timeouts::default(),
        retries: RetryPolicy::default(),
        admission: Admission::default(),
        health_check: None,
        balancing: Balancing::default(),
    }
}

/// A conviction as the judge would word it.
pub fn conviction() -> Conviction {
    Conviction {
        trigger: Trigger::Evidence,
        log_e: 7.2,
        threshold: 6.9,
        because: "v2 fails 12% of its requests, v1 0.1%".to_owned(),
        ..Conviction::default()
    }
}

/// The engine's inside, reachable for tests.
#[derive(Debug)]
pub struct Engine {
    inside: Mutex<Inside>,
    view: Arc<ArcSwap<View>>,
    journal: Arc<Journal>,
}

#[derive(Debug)]
struct Inside {
    state: State,
    tallies: BTreeMap<VersionName, Arc<Tally>>,
    requests: BTreeMap<VersionName, Arc<Kinds>>,
    observed_share: Option<f64>,
    reading: Reading,
    turned: Turned,
}

impl Engine {
    /// Starts on the current runtime.
    pub fn start(definitions: impl IntoIterator<Item = Definition>) -> (Arc<Engine>, Control) {
        let (engine, control, commands) = Engine::new(definitions);
        tokio::spawn(engine.clone().run(commands));
        (engine, control)
    }

    /// Not started: nobody answers commands until they are served.
    pub fn new(definitions: impl IntoIterator<Item = Definition>) -> (Arc<Engine>, Control, Commands) {
        let (view, journal) = (Arc::<ArcSwap<View>>::default(), Arc::<Journal>::default());
        let (control, commands, _no_file) = Control::new(view.clone(), journal.clone());
        let mut state = State::of(definitions);
        let versions: Vec<_> = state.services().flat_map(|service| service.definition.versions.clone()).collect();
        for EndpointDefinition { authority, .. } in versions.iter().flat_map(|version| &version.endpoints) {
            state.resolve(authority, vec![authority.parse().unwrap()]);
        }
        let inside = Inside {
            state,
            tallies: BTreeMap::new(),
            requests: BTreeMap::new(),
            observed_share: None,
            reading: Reading::default(),
            turned: Turned::default(),
        };
        let engine = Engine { inside: Mutex::new(inside), view, journal };
        engine.draw(&engine.inside());
        (Arc::new(engine), control, commands)
    }

    async fn run(self: Arc<Engine>, mut commands: Commands) {
        while let Some(command) = commands.recv().await {
            let (reply, answer) = self.carry_out(command);
            let _caller_gone = reply.send(answer);
        }
    }

    fn carry_out(&self, command: Command) -> (oneshot::Sender<Result<Done, Refused>>, Result<Done, Refused>) {
        let (service, actor, reply, run, admitted) = match command {
            Command::Change { service, request, precondition, actor, reply, overload: _, run } => {
                let admitted = self.admitted(&service, |state| admit(state, NOW, request, precondition));
                (service, actor, reply, run, admitted)
            }
            Command::Amend { service, request, precondition, actor, reply, run, .. } => {
                let admitted = self.admitted(&service, |state| amend(state, |_, _| true, request, precondition));
                (service, actor, reply, run, admitted)
            }
            Command::Declare { .. } => unimplemented!("files are read again by the real engine only"),
        };
        let mut inside = self.inside();
        let answer = match admitted {
            Err(refused) => Err(refused),
            Ok(changes) => Ok({
                let changed = !changes.is_empty();
                if run == Run::Real {
                    self.commit(&mut inside, &service, changes, &actor);
                }
                Done { revision: inside.state.service(&service).unwrap().revision, changed, durable: true }
            }),
        };
        (reply, answer)
    }

    fn admitted(
        &self,
        service: &ServiceName,
        admit: impl FnOnce(&ServiceState) -> Result<Vec<Change>, Refused>,
    ) -> Result<Vec<Change>, Refused> {
        let inside = self.inside();
        inside.state.service(service).map_or_else(|| Err(Refused::NoService(service.clone())), admit)
    }

    /// What the judge says, acted on.
    pub fn judged(&self, name: &str, mode: Mode, verdict: Verdict) {
        let (name, mut inside) = (service(name), self.inside());
        let standing = &inside.state.service(&name).unwrap().standing;
        let changes = standing.handle(NOW, mode, Input::Judged(verdict)).unwrap();
        self.commit(&mut inside, &name, changes, &Actor::judge());
    }

    /// What the workers saw: GETs with 200 and with 500 from a version, the head after some microseconds.
    pub fn saw(&self, name: &str, successes: u64, failures: u64, head_micros: u64) {
        let mut seen = Tally { exposed: failures, ..Tally::default() };
        let mut requests = Kinds::default();
        for (class, status, times) in [(Class::Success, 200, successes), (Class::Failure, 500, failures)] {
            let (mut durations, mut kind) = (Durations::default(), Kind::asked(&Method::GET, Version::HTTP_11, "http"));
            kind.answer(StatusCode::from_u16(status).unwrap());
            for _ in 0..times {
                tally(&mut seen, class, Some(head_micros), head_micros + 500);
                durations.add(head_micros + 500);
            }
            requests.merge(kind, &durations);
        }
        let mut inside = self.inside();
        inside.requests.insert(version(name), Arc::new(requests));
        inside.tallies.insert(version(name), Arc::new(seen));
        self.draw(&inside);
    }

    /// What the coin did and where the evidence stands.
    pub fn stands(&self, observed_share: Option<f64>, towards_1000: f64) {
        let mut inside = self.inside();
        inside.observed_share = observed_share;
        inside.reading.towards_1000 = towards_1000;
        self.draw(&inside);
    }

    fn commit(&self, inside: &mut Inside, name: &ServiceName, changes: Vec<Change>, actor: &Actor) {
        for change in changes {
            let event = Event { service: name.clone(), change };
            let revision = inside.state.revision() + 1;
            inside.state.apply(revision, &event);
            let entry = Entry::new(revision, event, actor.clone());
            self.journal.append(Entry { at: Timestamp::UNIX_EPOCH, ..entry });
        }
        self.draw(inside);
    }

    fn draw(&self, inside: &Inside) {
        let services = inside.state.services();
        let services = services.map(|s| (s.definition.name.clone(), Arc::new(inside.service(s)))).collect();
        let snapshot = Arc::new(Snapshot::of(&inside.state, &self.view.load().snapshot));
        let revision = inside.state.revision();
        self.view.store(Arc::new(View { revision, services, snapshot, ..View::default() }));
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }
}

impl Inside {
    fn service(&self, service: &ServiceState) -> ServiceView {
        let (definition, standing) = (&service.definition, &service.standing);
        ServiceView {
            name: definition.name.clone(),
            revision: service.revision,
            routes: definition.routes.clone(),
            stable: standing.stable.clone(),
            canary: standing.canary.clone(),
            weight: standing.weight,
            observed_share: self.observed_share,
            mode: definition.policy.mode,
            exposure: standing.exposure,
            hold: standing.hold,
            probe: standing.probe,
            reading: self.reading.clone(),
            paused: standing.paused.map(|_| Timestamp::UNIX_EPOCH),
            hold_queue: definition.admission.hold,
            held: Arc::<Held>::default(),
            turned: self.turned,
            would_roll_back: standing.would_roll_back.as_ref().map(|conviction| conviction.because.clone()),
            versions: definition.versions.iter().map(|version| self.version(service, version)).collect(),
            drawn: Drawn::default(),
        }
    }

    fn version(&self, service: &ServiceState, version: &VersionDefinition) -> VersionView {
        let standing = &service.standing;
        let role = if version.name == standing.stable {
            Some(Role::Stable)
        } else {
            (standing.canary.as_ref() == Some(&version.name)).then_some(Role::Canary)
        };
        let tally = self.tallies.get(&version.name).cloned().unwrap_or_default();
        VersionView {
            id: service.id(&version.name).unwrap(),
            name: version.name.clone(),
            role,
            seal: standing.seal(&version.name).cloned(),
            source: Source::File,
            open: true,
            endpoints: version.endpoints.iter().map(|listed| endpoint(service, &version.name, listed)).collect(),
            without: standing.amendments.without(&version.name).cloned().collect(),
            recent: tally.clone(),
            all: tally,
            forced: 0,
            sticky: 0,
            requests: self.requests.get(&version.name).cloned().unwrap_or_default(),
            shared: Arc::default(),
        }
    }
}

fn endpoint(service: &ServiceState, version: &VersionName, listed: &EndpointDefinition) -> EndpointView {
    let EndpointDefinition { authority, weight } = listed;
    let address = authority.parse().unwrap();
    let resolved = vec![Arc::new(Endpoint::new(EndpointId(1), authority.clone(), address))];
    EndpointView {
        authority: authority.clone(),
        weight: *weight,
        source: Source::File,
        administrative: service.standing.amendments.state(version, authority),
        resolved,
        attempts: Durations::default(),
    }
}

/// The whole admin side of a proxy on a thread of its own, for clients that block. Ends with the process.
pub fn served(definitions: impl IntoIterator<Item = Definition>) -> (Arc<Engine>, SocketAddr) {
    let (engine, control, commands) = Engine::new(definitions);
    let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let running = engine.clone().run(commands);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.spawn(running);
        runtime.block_on(serve(listener, control, Arc::default(), Outside::default(), std::future::pending())).unwrap();
    });
    (engine, address)
}
