//! Everything the control plane knows that matters: the fold of its events over what the file declares.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::names::{Exposure, ServiceName, VersionId, VersionName};
use super::service::Definition;
use super::split::Role;
use super::standing::{Begins, Change, Declared, Standing};
use super::window::Generation;

/// One entry's worth of what happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub service: ServiceName,
    #[serde(flatten)]
    pub change: Change,
}

/// The state of all services.
#[derive(Debug, Clone, Default)]
pub struct State {
    services: BTreeMap<ServiceName, ServiceState>,
    /// How services stood that the file no longer, or not yet, declares: their seals are not forgotten.
    absent: BTreeMap<ServiceName, Standing>,
    /// Addresses of endpoints given by name, as last looked up.
    resolved: BTreeMap<Arc<str>, Vec<SocketAddr>>,
    /// Of the newest event.
    revision: u64,
    /// Counts whatever a snapshot can show, events included.
    stamp: u64,
    /// The stamp at which routes may have changed last.
    routes: u64,
    exposures: u32,
    versions: u32,
}

/// One service: as declared, as amended, and as it stands.
#[derive(Debug, Clone)]
pub struct ServiceState {
    /// With what persons changed of versions and endpoints at run time.
    pub definition: Arc<Definition>,
    /// What the file declares.
    pub file: Arc<Definition>,
    pub standing: Standing,
    /// The revision of the event that last changed its weight, roles or seals: what `If-Match` is about.
    pub revision: u64,
    /// The generation that new requests belong to; see `judge`.
    pub generation: Generation,
    ids: BTreeMap<VersionName, VersionId>,
    stamp: u64,
}

/// What must survive a restart: a state without what the file says and what is looked up.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Saved {
    pub revision: u64,
    pub exposures: u32,
    pub standings: BTreeMap<ServiceName, Standing>,
}

/// A file leaves out a version that has a role at present.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version `{version}` is the {} one of `{service}` at present, and the file leaves it out", role.as_str())]
pub struct InUse {
    pub service: ServiceName,
    pub version: VersionName,
    pub role: Role,
}

impl ServiceState {
    #[must_use]
    pub fn id(&self, version: &VersionName) -> Option<VersionId> {
        self.ids.get(version).copied()
    }

    /// Changes whenever a snapshot of this service would.
    #[must_use]
    pub fn stamp(&self) -> u64 {
        self.stamp
    }
}

impl State {
    /// What the file declares, and nothing decided yet.
    #[must_use]
    pub fn of(definitions: impl IntoIterator<Item = Definition>) -> State {
        let mut state = State::default();
        let definitions: Vec<Definition> = definitions.into_iter().collect();
        for event in state.news(&definitions) {
            state.apply(0, &event);
        }
        state.define(definitions);
        state
    }

    /// How things stood, before any file is read.
    #[must_use]
    pub fn resume(saved: Saved) -> State {
        let Saved { revision, exposures, standings } = saved;
        State { revision, exposures, absent: standings, ..State::default() }
    }

    #[must_use]
    pub fn saved(&self) -> Saved {
        let present = self.services.iter().map(|(name, service)| (name.clone(), service.standing.clone()));
        let absent = self.absent.iter().map(|(name, standing)| (name.clone(), standing.clone()));
        Saved { revision: self.revision, exposures: self.exposures, standings: present.chain(absent).collect() }
    }

    /// What a file changes about how services stand: to be applied before [`State::define`].
    #[must_use]
    pub fn news(&self, definitions: &[Definition]) -> Vec<Event> {
        let news = definitions.iter().flat_map(|definition| {
            let declared = declared(definition);
            let changes = match self.standing(&definition.name) {
                Some(standing) => said_anew(standing, definition, &declared),
                None => vec![first(declared)],
            };
            changes.into_iter().map(|change| Event { service: definition.name.clone(), change })
        });
        news.collect()
    }

    /// Versions with traffic at present that a file leaves out. A first declaration leaves out nothing.
    #[must_use]
    pub fn in_use(&self, definitions: &[Definition]) -> Vec<InUse> {
        let mut in_use = Vec::new();
        for definition in definitions {
            let Some(standing) = self.standing(&definition.name) else { continue };
            let definition = standing.amendments.over(definition);
            let canary = standing.canary.as_ref().filter(|_| !standing.weight.is_zero());
            for (version, role) in [(Some(&standing.stable), Role::Stable), (canary, Role::Canary)] {
                if let Some(version) = version.filter(|version| definition.version(version).is_none()) {
                    in_use.push(InUse { service: definition.name.clone(), version: version.clone(), role });
                }
            }
        }
        in_use
    }

    /// Puts a file's definitions in the place of the last one's. How services stand is not touched.
    pub fn define(&mut self, definitions: Vec<Definition>) {
        self.stamp += 1;
        self.routes = self.stamp;
        let mut before = std::mem::take(&mut self.services);
        for definition in definitions {
            let name = definition.name.clone();
            let service = match (before.remove(&name), self.absent.remove(&name)) {
                (Some(service), _) => self.redefine(service, definition),
                (None, standing) => {
                    let next = Exposure(self.exposures + 1);
                    let standing = standing.unwrap_or_else(|| Standing::new(declared(&definition), next));
                    self.redefine(ServiceState::new(standing, self.revision, &definition), definition)
                }
            };
            self.services.insert(name, service);
        }
        self.absent.extend(before.into_iter().map(|(name, service)| (name, service.standing)));
    }

    /// A version that was there before keeps its serial, and with it its tallies and endpoints.
    fn redefine(&mut self, mut service: ServiceState, file: Definition) -> ServiceState {
        let definition = service.standing.amendments.over(&file);
        let mut ids = BTreeMap::new();
        for version in &definition.versions {
            let id = service.ids.get(&version.name).copied().unwrap_or_else(|| {
                self.versions += 1;
                VersionId(self.versions)
            });
            ids.insert(version.name.clone(), id);
        }
        service.ids = ids;
        (service.definition, service.file) = (Arc::new(definition), Arc::new(file));
        service.stamp = self.stamp;
        service
    }

    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&ServiceState> {
        self.services.get(name)
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceState> {
        self.services.values()
    }

    /// How a service stands, whether or not a file declares it.
    #[must_use]
    pub fn standing(&self, name: &ServiceName) -> Option<&Standing> {
        self.services.get(name).map(|service| &service.standing).or_else(|| self.absent.get(name))
    }

    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Changes whenever a snapshot would.
    #[must_use]
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Changes whenever routes may have.
    #[must_use]
    pub fn routes(&self) -> u64 {
        self.routes
    }

    #[must_use]
    pub fn addresses(&self, authority: &str) -> &[SocketAddr] {
        self.resolved.get(authority).map_or(&[], Vec::as_slice)
    }

    /// Makes an event part of the state. The live path and a replay run this same function.
    pub fn apply(&mut self, revision: u64, event: &Event) {
        let next = Exposure(self.exposures + 1);
        self.revision = self.revision.max(revision);
        self.stamp += 1;
        let used = match (self.services.get_mut(&event.service), &event.change) {
            (Some(service), change) => service.apply(change, next, revision, self.stamp),
            (None, change) => self.apply_to_absent(&event.service, change, next),
        };
        self.exposures += u32::from(used);
        if event.change.amends()
            && let Some(service) = self.services.remove(&event.service)
        {
            let file = Definition::clone(&service.file);
            let amended = self.redefine(service, file);
            self.services.insert(event.service.clone(), amended);
        }
    }

    fn apply_to_absent(&mut self, name: &ServiceName, change: &Change, next: Exposure) -> bool {
        match (self.absent.get_mut(name), change) {
            (Some(standing), change) => standing.apply(change, next),
            // The weight that it begins at is the event's: the file's may have been held back.
            (None, Change::Declared { declared, weight, .. }) => {
                let begins = Declared { weight: *weight, ..declared.clone() };
                let mut standing = Standing::new(begins, next);
                standing.declared = declared.clone();
                let used = standing.exposure.is_some();
                self.absent.insert(name.clone(), standing);
                used
            }
            (None, _) => false,
        }
    }

    /// Names the generation that a service's new requests belong to. Not an event: it means nothing after a restart.
    pub fn open_generation(&mut self, name: &ServiceName, generation: Generation) {
        if let Some(service) = self.services.get_mut(name).filter(|service| service.generation != generation) {
            self.stamp += 1;
            service.generation = generation;
            service.stamp = self.stamp;
        }
    }

    /// Notes where a name leads now. Not an event: it is looked up again after a restart.
    pub fn resolve(&mut self, authority: &Arc<str>, mut addresses: Vec<SocketAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        if self.addresses(authority) == addresses {
            return;
        }
        self.resolved.insert(authority.clone(), addresses);
        self.stamp += 1;
        let lists = |service: &ServiceState| {
            service
                .definition
                .versions
                .iter()
                .any(|version| version.endpoints.iter().any(|endpoint| endpoint.authority == *authority))
        };
        for service in self.services.values_mut().filter(|service| lists(service)) {
            service.stamp = self.stamp;
        }
    }
}

impl ServiceState {
    fn new(standing: Standing, revision: u64, definition: &Definition) -> ServiceState {
        ServiceState {
            definition: Arc::new(definition.clone()),
            file: Arc::new(definition.clone()),
            standing,
            revision,
            generation: Generation::default(),
            ids: BTreeMap::new(),
            stamp: 0,
        }
    }

    fn apply(&mut self, change: &Change, next: Exposure, revision: u64, stamp: u64) -> bool {
        let before = self.standing.exposure;
        let used = self.standing.apply(change, next);
        if change.moves() {
            self.revision = revision;
        }
        self.stamp = stamp;
        if self.standing.exposure != before {
            self.generation = Generation::default();
        }
        used
    }
}

fn declared(definition: &Definition) -> Declared {
    let Definition { stable, canary, weight, .. } = definition.clone();
    Declared { stable, canary, weight }
}

/// What a file says differently of a service that is known.
fn said_anew(standing: &Standing, definition: &Definition, declared: &Declared) -> Vec<Change> {
    let roles = std::iter::once(&standing.stable).chain(&standing.canary);
    let amended = standing.amendments.over(definition);
    let listed = roles.into_iter().all(|version| amended.version(version).is_some());
    let change = standing.declare(declared, listed);
    let named: Vec<&VersionName> = match &change {
        Some(Change::Declared { stable, canary, exposure: Begins::Anew, .. }) => {
            std::iter::once(stable).chain(canary).collect()
        }
        _ => vec![],
    };
    let settled = standing.amendments.settled_by(definition, &named);
    let settled = (!settled.is_empty()).then_some(Change::AmendmentsSettled { settled });
    change.clone().into_iter().chain(settled).collect()
}

/// The first declaration of a service that nothing is known of.
fn first(declared: Declared) -> Change {
    let (stable, canary, weight) = (declared.stable.clone(), declared.canary.clone(), declared.weight);
    Change::Declared { declared, stable, canary, weight, exposure: Begins::Anew }
}
