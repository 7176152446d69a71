//! Passive ejection, decided once a tick for all workers: the engine is the only one who ejects.

use crate::domain::ejection::{Ejected, sweep};
use crate::domain::names::ServiceName;
use crate::domain::pool::Census;
use crate::domain::snapshot::Snapshot;
use crate::domain::time::Moment;

/// Looks at every endpoint; says whom it ejected.
pub(super) fn eject(snapshot: &Snapshot, now: Moment) {
    for service in &snapshot.services {
        for version in &service.versions {
            for Ejected { endpoint, failures, time } in sweep(&version.pool, now) {
                tracing::warn!(
                    service = %service.name, version = %version.name, endpoint = %endpoint.address, failures, ?time,
                    "an endpoint is ejected: it failed too often in a row"
                );
            }
        }
    }
}

/// How the endpoints of a service's canary and stable stand; `None` without a canary.
pub(super) fn census(snapshot: &Snapshot, name: &ServiceName, now: Moment) -> Option<[Census; 2]> {
    let index = snapshot.services.binary_search_by(|service| service.name.cmp(name)).ok()?;
    let service = &snapshot.services[index];
    let canary = &service.versions[service.split.canary?];
    Some([canary.pool.census(now), service.stable().pool.census(now)])
}
