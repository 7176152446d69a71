//! The read model: what the API and the dashboard show, drawn by the engine and read without asking it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::domain::judge::{Hold, Mode, Reading};
use crate::domain::names::{Exposure, ServiceName, VersionId, VersionName};
use crate::domain::pool::Endpoint;
use crate::domain::route::Route;
use crate::domain::split::{Role, Weight};
use crate::domain::standing::{Probe, Seal};
use crate::domain::window::Tally;

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
    /// The snapshot that every worker has taken up, at least.
    pub applied: u64,
    /// The snapshot published last.
    pub published: u64,
}

#[derive(Debug, Clone)]
pub struct ServiceView {
    pub name: ServiceName,
    /// The revision of the last change; the strong `ETag`.
    pub revision: u64,
    pub routes: Vec<Route>,
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
    pub versions: Vec<VersionView>,
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
    pub endpoints: Vec<EndpointView>,
    /// The last minute.
    pub recent: Arc<Tally>,
    /// Since the process started.
    pub all: Arc<Tally>,
    /// Pinned requests since the process started.
    pub forced: u64,
}

/// An endpoint as declared, with the addresses that it resolved to.
#[derive(Debug, Clone)]
pub struct EndpointView {
    pub authority: Arc<str>,
    pub resolved: Vec<Arc<Endpoint>>,
}

impl EndpointView {
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.resolved.iter().map(|endpoint| endpoint.address)
    }

    /// Attempts under way at all of its addresses.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.resolved.iter().map(|endpoint| u64::from(endpoint.in_flight())).sum()
    }
}
