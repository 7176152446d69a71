//! How the API asks the engine: a command, and the reply to it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::capacity::{Overload, Overloaded};
use super::checks::Checks;
use super::engine::Resolved;
use super::journal::{Actor, Journal};
use super::reload::{ConfigView, Extent, NotReloaded, Reload, Reloaded};
use super::store::StoreError;
use super::view::View;
use crate::domain::amendments;
use crate::domain::judge::Mode;
use crate::domain::names::{ServiceName, VersionName};
use crate::domain::service::Definition;
use crate::domain::standing::{Change, Input, Refusal, Request};
use crate::domain::state::{InUse, ServiceState};
use crate::domain::time::Moment;

/// Commands that may wait for the engine, which answers within a tick; more than that are refused as busy.
const WAITING_COMMANDS: usize = 256;
/// Files are read one after the other.
const WAITING_RELOADS: usize = 8;

/// What the engine is asked to do.
#[derive(Debug)]
pub enum Command {
    /// A person's request to change a service.
    Change {
        service: ServiceName,
        request: Request,
        precondition: Precondition,
        overload: Overload,
        run: Run,
        actor: Actor,
        reply: Reply,
    },
    /// A person's request to change which versions and endpoints there are, or what is wanted of one; `resolved`: where
    /// the names in it lead.
    Amend {
        service: ServiceName,
        request: amendments::Request,
        resolved: Vec<Resolved>,
        precondition: Precondition,
        run: Run,
        actor: Actor,
        reply: Reply,
    },
    /// A file was read again.
    Declare { definitions: Vec<Definition>, resolved: Vec<Resolved>, force: Force, actor: Actor, reply: Reply },
}

/// Whether what is asked for is also done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Run {
    #[default]
    Real,
    /// The same answers and refusals, and nothing changes.
    Dry,
}

pub type Reply = oneshot::Sender<Result<Done, Refused>>;

/// Whether versions that have a role at present may be left out of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Force {
    #[default]
    No,
    Drain,
}

/// What the caller believes the service's revision to be. Only raising asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Raising the weight is refused without one.
    None,
    /// The caller has decided not to care (`If-Match: *`, and verbs that state their target).
    Any,
    Revision(u64),
}

/// The request was carried out and published to the workers, or everything already was as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The service's revision now.
    pub revision: u64,
    pub changed: bool,
    /// False: it has taken effect, but the store has not kept it yet. A crash might forget it.
    pub durable: bool,
}

/// Why a command was not carried out. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("there is no service `{0}`")]
    NoService(ServiceName),
    #[error("service `{0}` has no version `{1}`")]
    NoVersion(ServiceName, VersionName),
    #[error("raising the weight needs the revision it is based on")]
    PreconditionRequired { current: u64 },
    #[error("the service has changed since revision {given}; it is now at revision {current}")]
    PreconditionFailed { given: u64, current: u64 },
    #[error(transparent)]
    Conflict(#[from] Refusal),
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    #[error("version `{0}` has no endpoint that is ready and has passed its health check")]
    Closed(VersionName),
    #[error(transparent)]
    Amendment(#[from] amendments::Refusal),
    #[error("{}", in_use(.0))]
    InUse(Vec<InUse>),
    #[error("the store cannot keep it: {0}")]
    NotKept(StoreError),
    #[error("the engine is busy or stopping")]
    Unavailable,
}

/// Decides on a person's request: the changes to make (none: everything already is as asked for), or why not.
///
/// Lowering is asymmetric on purpose: whatever only takes traffic from the canary needs no precondition and ignores a
/// stale one, so that it cannot be kept waiting by a lost race. An impossible request is refused as such first; who has
/// read the newest revision would not get further.
pub fn admit(
    service: &ServiceState,
    now: Moment,
    request: Request,
    precondition: Precondition,
) -> Result<Vec<Change>, Refused> {
    if let Request::Unseal(version) | Request::Canary(version) = &request
        && service.definition.version(version).is_none()
    {
        return Err(Refused::NoVersion(service.definition.name.clone(), version.clone()));
    }
    // A person's request does not depend on what the machine may do.
    let changes = service.standing.handle(now, Mode::default(), Input::Person(request))?;
    if changes.iter().all(never_raises) {
        return Ok(changes);
    }
    met(precondition, service.revision).map(|()| changes)
}

/// As [`admit`], for a request about versions and endpoints. What only takes traffic away needs no precondition.
/// `serves`: whether an endpoint is well.
pub fn amend(
    service: &ServiceState,
    serves: impl Fn(&VersionName, &str) -> bool,
    request: amendments::Request,
    precondition: Precondition,
) -> Result<Vec<Change>, Refused> {
    let standing = &service.standing;
    let changes = standing.amendments.handle(standing, &service.file, &service.definition, serves, request)?;
    if changes.iter().all(Change::lowers) {
        return Ok(changes);
    }
    met(precondition, service.revision).map(|()| changes)
}

fn met(precondition: Precondition, current: u64) -> Result<(), Refused> {
    match precondition {
        Precondition::None => Err(Refused::PreconditionRequired { current }),
        Precondition::Revision(given) if given != current => Err(Refused::PreconditionFailed { given, current }),
        Precondition::Any | Precondition::Revision(_) => Ok(()),
    }
}

fn in_use(versions: &[InUse]) -> String {
    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Lowers, keeps the weight of a running probe, or lets requests wait and go on.
fn never_raises(change: &Change) -> bool {
    match change {
        Change::WeightSet { from, to, .. } if from == to => true,
        Change::TrafficPaused { .. } | Change::TrafficResumed => true,
        change => change.lowers(),
    }
}

/// What the API holds of the engine: a way to ask, and pictures to read without asking.
#[derive(Debug, Clone)]
pub struct Control {
    commands: mpsc::Sender<Command>,
    reloads: mpsc::Sender<Reload>,
    config: Arc<ArcSwap<ConfigView>>,
    view: Arc<ArcSwap<View>>,
    journal: Arc<Journal>,
    checks: Arc<Checks>,
}

/// The end of whoever reads files.
pub type Reloads = mpsc::Receiver<Reload>;

/// The engine's end.
pub type Commands = mpsc::Receiver<Command>;

impl Control {
    #[must_use]
    pub fn new(view: Arc<ArcSwap<View>>, journal: Arc<Journal>) -> (Control, Commands, Reloads) {
        let (commands, commanded) = mpsc::channel(WAITING_COMMANDS);
        let (reloads, to_reload) = mpsc::channel(WAITING_RELOADS);
        let control = Control { commands, reloads, config: Arc::default(), view, journal, checks: Arc::default() };
        (control, commanded, to_reload)
    }

    /// Asks the engine and waits for its reply.
    pub async fn ask(
        &self,
        service: ServiceName,
        request: Request,
        precondition: Precondition,
        overload: Overload,
        run: Run,
        actor: Actor,
    ) -> Result<Done, Refused> {
        self.command(|reply| Command::Change { service, request, precondition, overload, run, actor, reply }).await
    }

    /// As [`Control::ask`], about versions and endpoints.
    pub async fn amend(
        &self,
        service: ServiceName,
        request: amendments::Request,
        resolved: Vec<Resolved>,
        precondition: Precondition,
        run: Run,
        actor: Actor,
    ) -> Result<Done, Refused> {
        self.command(|reply| Command::Amend { service, request, resolved, precondition, run, actor, reply }).await
    }

    /// Puts a file's definitions in the place of the last one's; `resolved`: where their endpoints' names lead.
    pub async fn declare(
        &self,
        definitions: Vec<Definition>,
        resolved: Vec<Resolved>,
        force: Force,
        actor: Actor,
    ) -> Result<Done, Refused> {
        self.command(|reply| Command::Declare { definitions, resolved, force, actor, reply }).await
    }

    /// Has the file read again.
    pub async fn reload(&self, extent: Extent, force: Force, actor: Actor) -> Result<Reloaded, NotReloaded> {
        let (reply, answer) = oneshot::channel();
        self.reloads.send(Reload { extent, force, actor, reply }).await.map_err(|_| NotReloaded::NoFile)?;
        answer.await.map_err(|_| Refused::Unavailable)?
    }

    /// How the last reading of the file went.
    #[must_use]
    pub fn config(&self) -> Arc<ConfigView> {
        self.config.load_full()
    }

    pub fn note_config(&self, config: ConfigView) {
        self.config.store(Arc::new(config));
    }

    async fn command(&self, command: impl FnOnce(Reply) -> Command) -> Result<Done, Refused> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        self.commands.try_send(command).map_err(|_| Refused::Unavailable)?;
        answer.await.map_err(|_| Refused::Unavailable)?
    }

    /// The newest picture; at most two ticks behind, and never older than a reply already given.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// What was last heard of each endpoint.
    #[must_use]
    pub fn checks(&self) -> &Arc<Checks> {
        &self.checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::Admission;
    use crate::domain::balance::Balancing;
    use crate::domain::error_pages::ErrorPages;
    use crate::domain::judge::{Policy, Verdict};
    use crate::domain::retry::RetryPolicy;
    use crate::domain::service::{Definition, Timeouts, VersionDefinition};
    use crate::domain::split::Weight;
    use crate::domain::state::{Event, State};

    const NOW: Moment = Moment(0);

    fn shop() -> State {
        let version =
            |name| VersionDefinition { name: VersionName::new(name).unwrap(), endpoints: vec![], capacity: None };
        State::of([Definition {
            name: ServiceName::new("shop").unwrap(),
            routes: vec![],
            error_pages: ErrorPages::default(),
            versions: vec![version("v1"), version("v2")],
            stable: VersionName::new("v1").unwrap(),
            canary: Some(VersionName::new("v2").unwrap()),
            weight: percent(80),
            pins: vec![],
            policy: Policy::default(),
            sticky: None,
            timeouts: Timeouts::default(),
            retries: RetryPolicy::default(),
            admission: Admission::default(),
            health_check: None,
            balancing: Balancing::default(),
        }])
    }

    fn percent(points: u16) -> Weight {
        Weight::from_basis_points(points * 100).unwrap()
    }

    fn weigh(state: &State, points: u16, precondition: Precondition) -> Result<Vec<Change>, Refused> {
        let service = state.services().next().unwrap();
        admit(service, NOW, Request::Weight(percent(points)), precondition)
    }

    #[test]
    fn raising_needs_the_newest_revision_and_lowering_needs_nothing() {
        let shop = shop();
        assert_eq!(weigh(&shop, 90, Precondition::None), Err(Refused::PreconditionRequired { current: 0 }));
        let stale = Precondition::Revision(7);
        assert_eq!(weigh(&shop, 90, stale), Err(Refused::PreconditionFailed { given: 7, current: 0 }));
        assert_eq!(weigh(&shop, 90, Precondition::Revision(0)).unwrap().len(), 1);
        assert_eq!(weigh(&shop, 90, Precondition::Any).unwrap().len(), 1);
        assert_eq!(weigh(&shop, 70, Precondition::None).unwrap().len(), 1);
        assert_eq!(weigh(&shop, 0, stale).unwrap().len(), 1);
        assert_eq!(weigh(&shop, 80, Precondition::None), Ok(vec![]));
    }

    #[test]
    fn keeping_the_weight_of_a_probe_raises_nothing() {
        let mut state = shop();
        let service = state.services().next().unwrap();
        let changes = service.standing.handle(NOW, Mode::AbortOnly, Input::Judged(Verdict::Probe)).unwrap();
        let name = service.definition.name.clone();
        for change in changes {
            state.apply(1, &Event { service: name.clone(), change });
        }
        assert_eq!(weigh(&state, 50, Precondition::None).unwrap().len(), 1);
        assert!(matches!(weigh(&state, 51, Precondition::None), Err(Refused::PreconditionRequired { .. })));
    }

    #[test]
    fn a_version_that_is_not_listed_cannot_be_unsealed() {
        let state = shop();
        let v9 = VersionName::new("v9").unwrap();
        let answer = admit(state.services().next().unwrap(), NOW, Request::Unseal(v9.clone()), Precondition::Any);
        assert_eq!(answer, Err(Refused::NoVersion(ServiceName::new("shop").unwrap(), v9)));
    }
}
