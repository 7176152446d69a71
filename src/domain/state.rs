//! Everything the control plane knows that matters: the fold of its events over what the file declares.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::names::{Exposure, ServiceName, VersionId, VersionName};
use super::service::Definition;
use super::standing::{Change, Standing};
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
    /// Addresses of endpoints given by name, as last looked up.
    resolved: BTreeMap<Arc<str>, Vec<SocketAddr>>,
    /// Counts events; the newest is the state's revision.
    revision: u64,
    /// Counts whatever a snapshot can show, events included.
    stamp: u64,
    exposures: u32,
    versions: u32,
}

/// One service: as declared, and as it stands.
#[derive(Debug, Clone)]
pub struct ServiceState {
    pub definition: Arc<Definition>,
    pub standing: Standing,
    /// The revision of the event that last changed its weight, roles or seals: what `If-Match` is about.
    pub revision: u64,
    /// The generation that new requests belong to; see `judge`.
    pub generation: Generation,
    ids: BTreeMap<VersionName, VersionId>,
    stamp: u64,
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
    #[must_use]
    pub fn of(definitions: impl IntoIterator<Item = Definition>) -> State {
        let mut state = State::default();
        for definition in definitions {
            state.declare(definition);
        }
        state
    }

    fn declare(&mut self, definition: Definition) {
        let mut ids = BTreeMap::new();
        for version in &definition.versions {
            self.versions += 1;
            ids.insert(version.name.clone(), VersionId(self.versions));
        }
        let (stable, canary) = (definition.stable.clone(), definition.canary.clone());
        let standing = Standing::new(stable, canary, definition.weight, Exposure(self.exposures + 1));
        self.exposures += u32::from(standing.exposure.is_some());
        self.stamp += 1;
        let name = definition.name.clone();
        let service = ServiceState {
            definition: Arc::new(definition),
            standing,
            revision: self.revision,
            generation: Generation::default(),
            ids,
            stamp: self.stamp,
        };
        self.services.insert(name, service);
    }

    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&ServiceState> {
        self.services.get(name)
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceState> {
        self.services.values()
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

    #[must_use]
    pub fn addresses(&self, authority: &str) -> &[SocketAddr] {
        self.resolved.get(authority).map_or(&[], Vec::as_slice)
    }

    /// Makes an event part of the state. The live path and a replay run this same function.
    pub fn apply(&mut self, event: &Event) {
        let next = Exposure(self.exposures + 1);
        let Some(service) = self.services.get_mut(&event.service) else { return };
        self.revision += 1;
        self.stamp += 1;
        let used = service.standing.apply(&event.change, next);
        self.exposures += u32::from(used);
        if event.change.moves() {
            service.revision = self.revision;
        }
        service.stamp = self.stamp;
        if service.standing.exposure.is_none() {
            service.generation = Generation::default();
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
            service.definition.versions.iter().any(|version| version.endpoints.contains(authority))
        };
        for service in self.services.values_mut().filter(|service| lists(service)) {
            service.stamp = self.stamp;
        }
    }
}
