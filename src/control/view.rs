//! The read model: what the API and the dashboard show, drawn by the engine and read without asking it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::collector::Collector;
use super::store::StoreError;
use crate::domain::admission::{Held, HoldQueue};
use crate::domain::amendments::Source;
use crate::domain::authority::Authority;
use crate::domain::breaker::Shared;
use crate::domain::duration::{Durations, Kinds};
use crate::domain::health::{Administrative, Operational};
use crate::domain::judge::{Hold, Mode, Reading};
use crate::domain::names::{Exposure, ServiceName, VersionId, VersionName};
use crate::domain::pool::{Endpoint, Pool};
use crate::domain::route::Route;
use crate::domain::service::{EndpointDefinition, VersionDefinition};
use crate::domain::snapshot::{Service, Snapshot};
use crate::domain::split::{Role, Weight};
use crate::domain::standing::{Probe, Seal};
use crate::domain::state::ServiceState;
use crate::domain::time::{Moment, Tick};
use crate::domain::window::{Tally, Turned};

/// A picture of everything, as of one tick.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The state's revision.
    pub revision: u64,
    pub services: BTreeMap<ServiceName, Arc<ServiceView>>,
    /// Outcomes owed and never settled: our bug.
    pub lost_outcomes: u64,
    /// Requests left out of the evidence because a tick had too many weights.
    pub left_out: u64,
    /// Requests that no version was chosen for, since the process started.
    pub unrouted: Arc<Kinds>,
    /// The snapshot that every worker has taken up, at least.
    pub applied: u64,
    /// The snapshot published last.
    pub published: u64,
    /// That snapshot: what the workers route by, or will within a request.
    pub snapshot: Arc<Snapshot>,
    /// `None`: no store is declared, and what is decided lasts as long as the process.
    pub store: Option<StoreView>,
}

/// How the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreView {
    /// Whether it kept what it was given last.
    pub keeps: bool,
    /// Why it keeps nothing at present, or why canaries began at weight 0.
    pub trouble: Option<StoreError>,
    /// Entries that have taken effect and are not kept yet.
    pub unsaved: usize,
}

/// When a picture was drawn, by both clocks: dates what is to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drawn {
    pub moment: Moment,
    pub at: Timestamp,
}

impl Drawn {
    #[must_use]
    pub fn now(moment: Moment) -> Drawn {
        Drawn { moment, at: Timestamp::now() }
    }

    /// The date of a moment to come.
    #[must_use]
    pub fn date(&self, moment: Moment) -> Timestamp {
        self.at.checked_add(moment.since(self.moment)).unwrap_or(Timestamp::MAX)
    }
}

#[derive(Debug, Clone)]
pub struct ServiceView {
    pub name: ServiceName,
    /// The revision of the last change; the strong `ETag`.
    pub revision: u64,
    pub routes: Vec<Arc<Route>>,
    pub stable: VersionName,
    pub canary: Option<VersionName>,
    /// Intent: the canary's.
    pub weight: Weight,
    /// What the coin really did over the last minute: the canary's part of the coin-drawn requests.
    pub observed_share: Option<f64>,
    pub mode: Mode,
    pub exposure: Option<Exposure>,
    pub hold: Option<Hold>,
    pub probe: Option<Probe>,
    /// Evidence of the running exposure; of the last one when none runs.
    pub reading: Reading,
    /// In mode `observe`: the verdict that would have been acted on.
    pub would_roll_back: Option<String>,
    /// Until when new requests wait.
    pub paused: Option<Timestamp>,
    pub hold_queue: HoldQueue,
    /// Those that wait, whenever it is asked.
    pub held: Arc<Held>,
    pub turned: Turned,
    pub versions: Vec<VersionView>,
    pub drawn: Drawn,
}

impl ServiceView {
    /// Intent, of the version in this role.
    #[must_use]
    pub fn weight_of(&self, role: Option<Role>) -> Weight {
        match role {
            Some(Role::Canary) => self.weight,
            Some(Role::Stable) => self.weight.rest(),
            None => Weight::ZERO,
        }
    }

    /// What the version in this role really got; `None` when nothing was drawn.
    #[must_use]
    pub fn observed_share_of(&self, role: Option<Role>) -> Option<f64> {
        let canary = self.observed_share?;
        Some(match role {
            Some(Role::Canary) => canary,
            Some(Role::Stable) => 1.0 - canary,
            None => 0.0,
        })
    }

    /// The versions that get no traffic until a person unseals them.
    pub fn sealed(&self) -> impl Iterator<Item = &VersionName> {
        self.versions.iter().filter(|version| version.seal.is_some()).map(|version| &version.name)
    }
}

#[derive(Debug, Clone)]
pub struct VersionView {
    pub id: VersionId,
    pub name: VersionName,
    /// `None`: listed, but neither stable nor canary.
    pub role: Option<Role>,
    pub seal: Option<Seal>,
    /// Who listed it.
    pub source: Source,
    /// Whether some endpoint of it is wanted and has proven itself; else it is given nothing, whatever its weight.
    pub open: bool,
    pub endpoints: Vec<EndpointView>,
    /// Endpoints of the file that a person removed.
    pub without: Vec<Authority>,
    /// The last minute.
    pub recent: Arc<Tally>,
    /// Since the process started.
    pub all: Arc<Tally>,
    /// Pinned requests since the process started.
    pub forced: u64,
    /// Requests of clients who were known again, since the process started.
    pub sticky: u64,
    /// Requests that it was chosen for, since the process started.
    pub requests: Arc<Kinds>,
    /// What the workers share of it: who waits, who was refused.
    pub shared: Arc<Shared>,
}

/// An endpoint as declared, with the addresses that it resolved to.
#[derive(Debug, Clone)]
pub struct EndpointView {
    pub authority: Arc<str>,
    /// Its share of the version's requests, relative to the others'.
    pub weight: u32,
    pub source: Source,
    pub administrative: Administrative,
    pub resolved: Vec<Arc<Endpoint>>,
    /// Attempts at it since the process started.
    pub attempts: Durations,
}

impl EndpointView {
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.resolved.iter().map(|endpoint| endpoint.address)
    }

    /// Of several addresses, what is believed of the best.
    #[must_use]
    pub fn operational(&self) -> Operational {
        let of = |wanted| self.resolved.iter().any(|endpoint| endpoint.operational() == wanted);
        let best = [Operational::Healthy, Operational::Unhealthy].into_iter().find(|wanted| of(*wanted));
        best.unwrap_or(Operational::Unproven)
    }

    /// Whether nothing is under way there and nothing will be; `applied`: the snapshot that all workers have.
    #[must_use]
    pub fn drained(&self, applied: u64) -> bool {
        self.administrative != Administrative::Ready && self.resolved.iter().all(|endpoint| endpoint.drained(applied))
    }

    /// Until when it is ejected, as a whole; `None` as long as one of its addresses is not.
    #[must_use]
    pub fn ejected_until(&self, now: Moment) -> Option<Moment> {
        let until = self.resolved.iter().map(|endpoint| endpoint.ejected_until(now));
        until.reduce(|one, other| Some(one?.min(other?))).flatten()
    }

    /// Ejections of all of its addresses since the process started.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.resolved.iter().map(|endpoint| endpoint.ejections_total()).sum()
    }

    /// Connections to all of its addresses, idle ones included.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.resolved.iter().map(|endpoint| u64::from(endpoint.connections())).sum()
    }

    /// Attempts under way at all of its addresses.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.resolved.iter().map(|endpoint| u64::from(endpoint.in_flight())).sum()
    }
}

impl ServiceView {
    /// Puts together what is known of a service as of a tick.
    pub(super) fn draw(
        service: &ServiceState,
        snapshot: &Snapshot,
        reading: Reading,
        collector: &mut Collector,
        now: Tick,
        drawn: Drawn,
    ) -> ServiceView {
        let (definition, standing) = (&service.definition, &service.standing);
        let known = snapshot.service(&definition.name).map(|service| &**service);
        let versions = definition.versions.iter().filter_map(|version| {
            let id = service.id(&version.name)?;
            Some(VersionView {
                id,
                name: version.name.clone(),
                role: standing.role(&version.name),
                seal: standing.seal(&version.name).cloned(),
                source: source(service.file.version(&version.name).is_some()),
                open: pool(known, id).is_some_and(Pool::is_open),
                endpoints: endpoints(service, version, pool(known, id), &mut collector.figures(id).attempts),
                without: standing.amendments.without(&version.name).cloned().collect(),
                recent: Arc::new(collector.figures(id).window.recent(now)),
                all: Arc::new(collector.figures(id).window.all().clone()),
                forced: collector.figures(id).forced,
                sticky: collector.figures(id).sticky,
                requests: Arc::new(collector.figures(id).requests.clone()),
                shared: shared(known, id),
            })
        });
        let versions: Vec<VersionView> = versions.collect();
        let mut share_of = |role| {
            let version = versions.iter().find(|version| version.role == Some(role))?;
            Some(collector.figures(version.id).drawn.recent(now).classes.success)
        };
        ServiceView {
            observed_share: share(share_of(Role::Stable), share_of(Role::Canary)),
            name: definition.name.clone(),
            revision: service.revision,
            routes: definition.routes.clone(),
            stable: standing.stable.clone(),
            canary: standing.canary.clone(),
            weight: standing.weight,
            mode: definition.policy.mode,
            exposure: standing.exposure,
            hold: standing.hold,
            probe: standing.probe,
            reading,
            paused: None,
            hold_queue: definition.admission.hold,
            held: held(snapshot, &definition.name),
            turned: collector.turned(&definition.name),
            would_roll_back: standing.would_roll_back.as_ref().map(|conviction| conviction.because.clone()),
            versions,
            drawn,
        }
    }
}

/// The count that the workers use.
fn held(snapshot: &Snapshot, name: &ServiceName) -> Arc<Held> {
    let service = snapshot.services.iter().find(|service| service.name == *name);
    service.map(|service| service.gate.held.clone()).unwrap_or_default()
}

/// The canary's part of the coin-drawn requests; `None` without any, or without a canary.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn share(stable: Option<u64>, canary: Option<u64>) -> Option<f64> {
    let (stable, canary) = (stable?, canary?);
    (stable + canary > 0).then(|| canary as f64 / (stable + canary) as f64)
}

fn shared(service: Option<&Service>, version: VersionId) -> Arc<Shared> {
    pool(service, version).map(|pool| pool.shared.clone()).unwrap_or_default()
}

fn pool(service: Option<&Service>, version: VersionId) -> Option<&Pool> {
    service?.versions.iter().find(|known| known.id == version).map(|version| &version.pool)
}

fn source(in_file: bool) -> Source {
    if in_file { Source::File } else { Source::Runtime }
}

/// Forgets what was counted of endpoints that are no longer listed.
fn endpoints(
    service: &ServiceState,
    version: &VersionDefinition,
    pool: Option<&Pool>,
    attempts: &mut BTreeMap<Arc<str>, Durations>,
) -> Vec<EndpointView> {
    attempts.retain(|authority, _| version.endpoints.iter().any(|listed| listed.authority == *authority));
    let resolved = |authority: &Arc<str>| {
        let all = pool.iter().flat_map(|pool| pool.endpoints());
        all.filter(|endpoint| endpoint.authority == *authority).cloned().collect()
    };
    let in_file = |authority: &Arc<str>| {
        let declared = service.file.version(&version.name);
        declared.is_some_and(|version| version.endpoints.iter().any(|listed| listed.authority == *authority))
    };
    let view = |EndpointDefinition { authority, weight }: &EndpointDefinition| EndpointView {
        authority: authority.clone(),
        weight: *weight,
        source: source(in_file(authority)),
        administrative: service.standing.amendments.state(&version.name, authority),
        resolved: resolved(authority),
        attempts: attempts.get(authority).cloned().unwrap_or_default(),
    };
    version.endpoints.iter().map(view).collect()
}
