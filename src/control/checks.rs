//! What the prober last heard of each endpoint, and how long it took: for the API and `/metrics` to read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::names::{EndpointId, ServiceName, VersionName};
use crate::domain::time::micros;
use crate::domain::window::{Latencies, latencies, record};

/// Written by the prober alone; nobody holds it for longer than a copy takes.
#[derive(Debug, Default)]
pub struct Checks {
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    last: BTreeMap<EndpointId, LastCheck>,
    durations: BTreeMap<(ServiceName, VersionName), Latencies>,
}

/// An endpoint's last check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCheck {
    pub passed: bool,
    /// `status 503`, `connection refused` and the like.
    pub result: String,
    pub at: Timestamp,
    /// When what is believed of the endpoint last changed.
    pub since: Timestamp,
}

impl Checks {
    #[must_use]
    pub fn last(&self, endpoint: EndpointId) -> Option<LastCheck> {
        self.inside().last.get(&endpoint).cloned()
    }

    /// How long checks took, in microseconds, by service and version.
    #[must_use]
    pub fn durations(&self) -> BTreeMap<(ServiceName, VersionName), Latencies> {
        self.inside().durations.clone()
    }

    pub(super) fn note(&self, endpoint: EndpointId, last: LastCheck, of: (ServiceName, VersionName), took: Duration) {
        let mut inside = self.inside();
        inside.last.insert(endpoint, last);
        record(inside.durations.entry(of).or_insert_with(latencies), micros(took));
    }

    /// Forgets everybody else.
    pub(super) fn keep(&self, endpoints: &BTreeSet<EndpointId>, versions: &BTreeSet<(ServiceName, VersionName)>) {
        let mut inside = self.inside();
        inside.last.retain(|endpoint, _| endpoints.contains(endpoint));
        inside.durations.retain(|version, _| versions.contains(version));
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
