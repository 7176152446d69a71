//! The JSON of the API, both ways: written by the server, read by the command line. The names are a promise.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use super::caller::{ACTOR, REASON};
pub use super::problem::{FieldError, Problem};
use crate::control::journal::Journal;
pub use crate::control::journal::{Actor, Entry, Incident};
use crate::control::view::{Drawn, EndpointView, ServiceView, StoreView, VersionView};
pub use crate::domain::judge::{Conviction, Hold, Mode, Reading};
pub use crate::domain::names::{ServiceName, VersionName};
pub use crate::domain::outcome::Classes;
pub use crate::domain::split::{Role, Weight};
pub use crate::domain::standing::Change;
use crate::domain::standing::Seal;
use crate::domain::window::Latencies;

/// `GET /v1/services`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Services {
    pub services: Vec<Service>,
    /// Null: none is declared, and what is decided lasts as long as the process.
    pub store: Option<Store>,
}

/// Whether what is decided survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Whether it kept what it was given last; while it does not, a canary's weight cannot be raised.
    pub keeps: bool,
    /// Null: all is well.
    pub trouble: Option<String>,
    /// Changes that have taken effect, and that a crash would forget.
    pub unsaved: usize,
}

/// `GET /v1/services/{service}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub name: ServiceName,
    /// Of the last change; the `ETag`.
    pub revision: u64,
    pub routes: Vec<Route>,
    pub stable: VersionName,
    pub canary: Option<VersionName>,
    /// Intent: the canary's.
    pub weight: Weight,
    /// What the coin really gave the canary over the last minute, 0 to 1; null when nothing was drawn.
    pub share: Option<f64>,
    pub mode: Mode,
    pub evidence: Reading,
    /// Something is over its limit, and the verdict is held back.
    pub hold: Option<Hold>,
    pub probe: Option<Probe>,
    /// In mode `observe`: the verdict that would have been acted on.
    pub would_roll_back: Option<String>,
    pub versions: Vec<Version>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub host: String,
    pub path_prefix: String,
}

/// The canary is at half weight for a while, to have something to compare it with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub back_to: Weight,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    pub name: VersionName,
    /// Null: listed, but neither stable nor canary.
    pub role: Option<Role>,
    /// Null: not sealed.
    pub sealed: Option<Sealed>,
    /// Intent.
    pub weight: Weight,
    /// What it really got over the last minute, 0 to 1; null when unknown.
    pub share: Option<f64>,
    pub endpoints: Vec<Endpoint>,
    /// Requests that wait for room within the service's limits.
    pub waiting: u32,
    pub counts: Counts,
    /// Failures among what says something about the version, over the last minute, 0 to 1; null when nothing does.
    pub error_rate: Option<f64>,
    /// To the response head, over the last minute; null without a response.
    pub latency_ms: Option<Latency>,
}

/// Why a version gets no traffic until a person unseals it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sealed {
    /// `judge`, or the person.
    pub by: String,
    pub why: String,
    /// The judge's numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conviction: Option<Conviction>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// As declared.
    pub authority: String,
    /// As resolved.
    pub addresses: Vec<String>,
    /// Attempts under way.
    pub in_flight: u64,
    /// Connections over all workers, idle ones included.
    pub connections: u64,
    /// It failed too often in a row, and gets no requests until then; null: it is not ejected.
    pub ejected_until: Option<Timestamp>,
}

/// Attempts by class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub last_minute: Classes,
    /// Since the process started.
    pub total: Classes,
    /// Pinned requests since the process started: never evidence.
    pub forced: u64,
    /// Failures that another version's answer hid from the client, since the process started.
    pub shielded: u64,
    /// Failures that a client saw, since the process started.
    pub exposed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
}

/// `GET /v1/services/{service}/split`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Split {
    pub service: ServiceName,
    pub revision: u64,
    pub stable: VersionName,
    pub canary: Option<VersionName>,
    pub weight: Weight,
    pub share: Option<f64>,
    /// Versions that get no traffic until a person unseals them.
    pub sealed: Vec<VersionName>,
}

/// The answer to every change: the split as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// False: everything already was as asked for.
    pub changed: bool,
    /// False: a crash would forget it; the store has not kept it yet, or there is none.
    pub durable: bool,
    #[serde(flatten)]
    pub split: Split,
}

/// `PATCH /v1/services/{service}/split`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitPatch {
    pub weight: Weight,
}

/// `POST /v1/services/{service}:unseal`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unseal {
    /// May be left out when exactly one version is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionName>,
}

/// `POST /v1/services/{service}:promote`: nothing to say yet, and nothing said is not ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {}

/// `GET /v1/config`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Whether the file, when it was read last, came into force.
    pub successful: bool,
    pub in_force_since: String,
    /// Why it did not; the one before stays in force.
    pub trouble: Option<String>,
    pub warnings: Vec<String>,
}

/// `POST /v1/config:reload`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Whether the file may leave out versions that have traffic.
    #[serde(default)]
    pub force_drain: bool,
}

/// The answer to `:reload` and `:validate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    pub revision: u64,
    pub warnings: Vec<String>,
}

/// `GET /health`, `GET /ready`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: String,
}

impl Service {
    /// The journal knows who sealed a version and why, which the view does not.
    #[must_use]
    pub fn of(view: &ServiceView, journal: &Journal) -> Service {
        Service {
            name: view.name.clone(),
            revision: view.revision,
            routes: view.routes.iter().map(Route::of).collect(),
            stable: view.stable.clone(),
            canary: view.canary.clone(),
            weight: view.weight,
            share: view.observed_share,
            mode: view.mode,
            evidence: view.reading.clone(),
            hold: view.hold,
            probe: view.probe.map(|probe| Probe { back_to: probe.back_to }),
            would_roll_back: view.would_roll_back.clone(),
            versions: view.versions.iter().map(|version| Version::of(view, version, journal)).collect(),
        }
    }
}

impl Store {
    #[must_use]
    pub fn of(view: &StoreView) -> Store {
        let trouble = view.trouble.as_ref().map(ToString::to_string);
        Store { keeps: view.keeps, trouble, unsaved: view.unsaved }
    }
}

impl Route {
    fn of(route: &crate::domain::route::Route) -> Route {
        Route { host: route.host.to_string(), path_prefix: route.path_prefix.clone() }
    }
}

impl Version {
    fn of(service: &ServiceView, version: &VersionView, journal: &Journal) -> Version {
        Version {
            name: version.name.clone(),
            role: version.role,
            sealed: version.seal.as_ref().map(|seal| Sealed::of(seal, service, version, journal)),
            weight: service.weight_of(version.role),
            share: service.observed_share_of(version.role),
            endpoints: version.endpoints.iter().map(|endpoint| Endpoint::of(endpoint, &service.drawn)).collect(),
            waiting: version.shared.waiting(),
            counts: Counts {
                last_minute: version.recent.classes,
                total: version.all.classes,
                forced: version.forced,
                shielded: version.all.shielded,
                exposed: version.all.exposed,
            },
            error_rate: version.recent.classes.error_rate(),
            latency_ms: Latency::of(&version.recent.head),
        }
    }
}

impl Sealed {
    fn of(seal: &Seal, service: &ServiceView, version: &VersionView, journal: &Journal) -> Sealed {
        match seal {
            Seal::Judge(conviction) => Sealed {
                by: Actor::judge().name,
                why: conviction.because.clone(),
                conviction: Some(conviction.clone()),
            },
            Seal::Person => {
                let aborted = |entry: &Entry| {
                    entry.event.service == service.name
                        && matches!(&entry.event.change, Change::Aborted { version: of, .. } if *of == version.name)
                };
                let actor = journal.newest(aborted).map(|entry| entry.actor);
                Sealed {
                    by: actor.as_ref().map_or("a person", |actor| &actor.name).to_owned(),
                    why: actor.and_then(|actor| actor.reason).unwrap_or_else(|| "aborted".to_owned()),
                    conviction: None,
                }
            }
        }
    }
}

impl Endpoint {
    fn of(view: &EndpointView, drawn: &Drawn) -> Endpoint {
        Endpoint {
            authority: view.authority.to_string(),
            addresses: view.addresses().map(|address| address.to_string()).collect(),
            in_flight: view.in_flight(),
            connections: view.connections(),
            ejected_until: view.ejected_until(drawn.moment).map(|until| drawn.date(until)),
        }
    }
}

impl Latency {
    fn of(latencies: &Latencies) -> Option<Latency> {
        #[expect(clippy::cast_precision_loss, reason = "at most an hour of microseconds")]
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        let latency = || Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999) };
        (!latencies.is_empty()).then(latency)
    }
}

impl Split {
    #[must_use]
    pub fn of(view: &ServiceView) -> Split {
        Split {
            service: view.name.clone(),
            revision: view.revision,
            stable: view.stable.clone(),
            canary: view.canary.clone(),
            weight: view.weight,
            share: view.observed_share,
            sealed: view.sealed().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::state::Event;
    use crate::domain::time::Moment;

    fn entry(change: Change) -> Entry {
        let (actor, service) = (Actor::judge(), ServiceName::new("shop").unwrap());
        let incident = Some(Incident { canary_requests: 9, detection_ms: Some(120), ..Incident::default() });
        Entry {
            revision: 7,
            at: Timestamp::UNIX_EPOCH,
            actor,
            event: Event { service, change },
            incident,
            overtakes: vec![],
            durable: true,
        }
    }

    #[test]
    fn every_event_reads_back() {
        let version = VersionName::new("v2").unwrap();
        let (from, to) = (Weight::FULL, Weight::HALF);
        let conviction = Conviction { log_e: 7.25, because: "too many errors".to_owned(), ..Conviction::default() };
        for change in [
            Change::WeightSet { version: version.clone(), from, to },
            Change::Promoted { version: version.clone(), replaced: version.clone() },
            Change::Aborted { version: version.clone(), from },
            Change::RolledBack { version: version.clone(), from, conviction: conviction.clone() },
            Change::WouldRollBack { version: version.clone(), conviction },
            Change::Unsealed { version: version.clone() },
            Change::ProbeBegan { version: version.clone(), from, to, until: Moment(1 << 40) },
            Change::ProbeEnded { version, from, to },
            Change::HoldBegan { reason: Hold::SharedDegradation },
            Change::HoldEnded,
        ] {
            let entry = entry(change);
            let text = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry, "{text}");
        }
    }

    #[test]
    fn a_problem_reads_back() {
        let problem = Problem::field("/weight", "too much", "write less");
        let text = serde_json::to_string(&problem).unwrap();
        assert_eq!(serde_json::from_str::<Problem>(&text).unwrap(), problem, "{text}");
    }
}
