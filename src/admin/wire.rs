//! The JSON of the API, both ways: written by the server, read by the command line. The names are a promise.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use super::caller::{ACTOR, REASON};
pub use super::problem::{FieldError, Problem};
use crate::control::checks::{Checks, LastCheck};
use crate::control::command::Control;
use crate::control::journal::Journal;
pub use crate::control::journal::{Actor, Entry, Incident};
use crate::control::view::{Drawn, EndpointView, ServiceView, StoreView, VersionView};
pub use crate::domain::amendments::Source;
pub use crate::domain::authority::Authority;
use crate::domain::health::shown;
pub use crate::domain::health::{Administrative, Operational};
pub use crate::domain::judge::{Conviction, Hold, Mode, Reading};
pub use crate::domain::names::{ServiceName, VersionName};
pub use crate::domain::outcome::Classes;
use crate::domain::route::PathPattern;
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
    /// Null: requests do not wait.
    pub paused: Option<Paused>,
    pub versions: Vec<Version>,
}

/// New requests wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// When they go on by themselves.
    pub until: Timestamp,
    /// Those that wait.
    pub held: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub host: String,
    /// Either this, or `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Host, path and conditions on one line.
    pub pattern: String,
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
    /// Who listed it: the file, or a person at run time.
    pub origin: Source,
    /// Whether some endpoint of it is wanted and has proven itself; else it is given nothing, whatever its weight.
    pub open: bool,
    pub endpoints: Vec<Endpoint>,
    /// Endpoints of the file that a person removed.
    pub without: Vec<String>,
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
    /// Its share of the version's requests, relative to the others'.
    pub weight: u32,
    /// Who listed it: the file, or a person at run time.
    pub origin: Source,
    /// `deploying`, `healthy`, `unhealthy`, `draining` or `maintenance`: what a person wants stands before what checks
    /// say.
    pub state: String,
    /// What a person wants.
    pub administrative: Administrative,
    /// What checks say; of several addresses, of the best.
    pub operational: Operational,
    /// Nothing is under way there, and nothing will be until it is made ready.
    pub drained: bool,
    /// The last check of each address; none where nobody asks, or nobody has asked yet.
    pub checks: Vec<Check>,
}

/// The last check of one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub address: String,
    pub operational: Operational,
    /// When that last changed.
    pub since: Timestamp,
    pub passed: bool,
    /// `status 503`, `connection refused` and the like.
    pub result: String,
    pub at: Timestamp,
}

/// `GET /v1/services/{service}/versions`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    pub service: ServiceName,
    pub revision: u64,
    pub versions: Vec<Version>,
}

/// `GET /v1/services/{service}/versions/{version}/endpoints`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub service: ServiceName,
    pub version: VersionName,
    pub revision: u64,
    pub endpoints: Vec<Endpoint>,
}

/// `PATCH /v1/services/{service}/versions/{version}/endpoints/{endpoint}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointPatch {
    pub state: Administrative,
}

/// `PUT /v1/services/{service}/versions/{version}/endpoints/{endpoint}`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointPut {
    /// 1 to 1000; 1 when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// `PUT /v1/services/{service}/versions/{version}`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionPut {
    pub endpoints: Vec<ListedEndpoint>,
}

/// As in the file: an address, or one with its weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ListedEndpoint {
    Address(Authority),
    Weighed { address: Authority, weight: u32 },
}

/// The answer to a change of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointChanged {
    /// False: everything already was as asked for.
    pub changed: bool,
    /// False: a crash would forget it; the store has not kept it yet, or there is none.
    pub durable: bool,
    /// True: it was only asked whether it would; the endpoint is as it was.
    #[serde(default)]
    pub dry_run: bool,
    pub service: ServiceName,
    pub version: VersionName,
    pub revision: u64,
    /// As it is now; null: it is gone.
    pub endpoint: Option<Endpoint>,
}

/// The answer to a change of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionChanged {
    pub changed: bool,
    pub durable: bool,
    /// As for an endpoint.
    #[serde(default)]
    pub dry_run: bool,
    pub service: ServiceName,
    pub revision: u64,
    /// As it is now; null: it is gone.
    pub version: Option<Version>,
}

/// `POST /v1/services/{service}:canary`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    pub version: VersionName,
}

/// Attempts by class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub last_minute: Classes,
    /// Since the process started.
    pub total: Classes,
    /// Pinned requests since the process started: never evidence.
    pub forced: u64,
    /// Requests of clients who were known again and sent to where they belong, since the process started.
    #[serde(default)]
    pub sticky: u64,
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
    /// Null: requests do not wait.
    #[serde(default)]
    pub paused: Option<Paused>,
}

/// The answer to every change: the split as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// False: everything already was as asked for.
    pub changed: bool,
    /// False: a crash would forget it; the store has not kept it yet, or there is none.
    pub durable: bool,
    /// True: it was only asked what would become of it; the split is as it was.
    #[serde(default)]
    pub dry_run: bool,
    /// What keeps it from having an effect for now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
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

/// `POST /v1/services/{service}:pause`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// At most so long; the service's `hold.time` if nothing is said.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub time: Option<SignedDuration>,
}

/// `POST /v1/services/{service}:resume`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {}

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

/// `POST /v1/route`: what would become of this request?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub method: String,
    /// Or a path alone, with the host among the fields.
    pub url: String,
    #[serde(default)]
    pub headers: Vec<Field>,
    /// Without it, nobody is refused by address.
    #[serde(default)]
    pub client_address: Option<IpAddr>,
}

/// A header field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    pub name: String,
    pub value: String,
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAnswer {
    pub outcome: Outcome,
    /// Null: no route takes it.
    pub route: Option<MatchedRoute>,
    /// Of the answer that Penstock makes itself: a redirect's, or a refusal's.
    pub status: Option<u16>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// What an endpoint is asked, by path and query.
    pub sent_as: Option<String>,
    /// The versions that it may go to.
    pub candidates: Vec<Candidate>,
    /// Why it is refused, or what the answer leaves out.
    pub why: Option<String>,
    /// Other routes for the same host and path, in the order in which they are asked.
    pub passed_over: Vec<Passed>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    #[default]
    NoRoute,
    Forwarded,
    Redirected,
    Denied,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchedRoute {
    pub service: ServiceName,
    /// Among the service's routes, from 0.
    pub index: usize,
    /// Host, path and conditions on one line.
    pub pattern: String,
    pub priority: i32,
    /// Where it was written: file and line, or a variable.
    pub place: String,
    /// How it was written there.
    pub text: String,
}

/// A version that a request may go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub version: VersionName,
    pub role: Option<Role>,
    /// How likely.
    pub share: Weight,
    /// `weight`: by the coin; `forced`: by a pin.
    pub selected: String,
    /// The pin, if one decides.
    pub pin: Option<String>,
    /// Addresses that may be asked.
    pub endpoints: Vec<String>,
}

/// A route for the same host and path that did not get the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    #[serde(flatten)]
    pub route: MatchedRoute,
    pub why: String,
}

/// `GET /health`, `GET /ready`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: String,
}

/// What a view does not know: who sealed a version and why, what was last heard of endpoints, and which snapshot all
/// workers have.
#[derive(Debug, Clone, Copy)]
pub struct Beside<'a> {
    journal: &'a Journal,
    checks: &'a Checks,
    applied: u64,
}

impl Beside<'_> {
    #[must_use]
    pub fn of(control: &Control) -> Beside<'_> {
        Beside { journal: control.journal(), checks: control.checks(), applied: control.view().applied }
    }
}

impl Service {
    #[must_use]
    pub fn of(view: &ServiceView, beside: &Beside<'_>) -> Service {
        Service {
            name: view.name.clone(),
            revision: view.revision,
            routes: view.routes.iter().map(|route| Route::of(route)).collect(),
            stable: view.stable.clone(),
            canary: view.canary.clone(),
            weight: view.weight,
            share: view.observed_share,
            mode: view.mode,
            evidence: view.reading.clone(),
            hold: view.hold,
            probe: view.probe.map(|probe| Probe { back_to: probe.back_to }),
            would_roll_back: view.would_roll_back.clone(),
            paused: Paused::of(view),
            versions: view.versions.iter().map(|version| Version::of(view, version, beside)).collect(),
        }
    }
}

impl Paused {
    fn of(view: &ServiceView) -> Option<Paused> {
        view.paused.map(|until| Paused { until, held: view.held.requests() })
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
        let (path_prefix, path) = match &route.path {
            PathPattern::Prefix(prefix) => (Some(prefix.clone()), None),
            PathPattern::Exact(path) => (None, Some(path.clone())),
        };
        Route { host: route.host.to_string(), path_prefix, path, pattern: route.to_string() }
    }
}

impl Version {
    #[must_use]
    pub fn of(service: &ServiceView, version: &VersionView, beside: &Beside<'_>) -> Version {
        Version {
            name: version.name.clone(),
            role: version.role,
            sealed: version.seal.as_ref().map(|seal| Sealed::of(seal, service, version, beside.journal)),
            weight: service.weight_of(version.role),
            share: service.observed_share_of(version.role),
            origin: version.source,
            open: version.open,
            endpoints: version.endpoints.iter().map(|e| Endpoint::of(e, &service.drawn, beside)).collect(),
            without: version.without.iter().map(ToString::to_string).collect(),
            waiting: version.shared.waiting(),
            counts: Counts {
                last_minute: version.recent.classes,
                total: version.all.classes,
                forced: version.forced,
                sticky: version.sticky,
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
    #[must_use]
    pub fn of(view: &EndpointView, drawn: &Drawn, beside: &Beside<'_>) -> Endpoint {
        let checks = view.resolved.iter().filter_map(|endpoint| {
            let LastCheck { passed, result, at, since } = beside.checks.last(endpoint.id)?;
            let (address, operational) = (endpoint.address.to_string(), endpoint.operational());
            Some(Check { address, operational, since, passed, result, at })
        });
        let (administrative, operational) = (view.administrative, view.operational());
        Endpoint {
            weight: view.weight,
            origin: view.source,
            state: shown(administrative, operational).to_owned(),
            administrative,
            operational,
            drained: view.drained(beside.applied),
            checks: checks.collect(),
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
            paused: Paused::of(view),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::amendments::{Listed, Settled};
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
        let endpoint = Authority::parse("[::1]:80").unwrap();
        let conviction = Conviction { log_e: 7.25, because: "too many errors".to_owned(), ..Conviction::default() };
        for change in [
            Change::WeightSet { version: version.clone(), from, to },
            Change::Promoted { version: version.clone(), replaced: version.clone() },
            Change::Aborted { version: version.clone(), from },
            Change::RolledBack { version: version.clone(), from, conviction: conviction.clone() },
            Change::WouldRollBack { version: version.clone(), conviction },
            Change::Unsealed { version: version.clone() },
            Change::ProbeBegan { version: version.clone(), from, to, until: Moment(1 << 40) },
            Change::ProbeEnded { version: version.clone(), from, to },
            Change::CanaryNamed { version: version.clone(), replaced: Some(version.clone()) },
            Change::EndpointSet {
                version: version.clone(),
                endpoint: endpoint.clone(),
                from: Administrative::Ready,
                to: Administrative::Draining,
            },
            Change::EndpointPut { version: version.clone(), endpoint: endpoint.clone(), weight: 3 },
            Change::EndpointRemoved { version: version.clone(), endpoint: endpoint.clone() },
            Change::VersionAdded {
                version: version.clone(),
                endpoints: vec![Listed { endpoint: endpoint.clone(), weight: 1 }],
            },
            Change::VersionRemoved { version: version.clone() },
            Change::AmendmentsSettled {
                settled: vec![Settled::Removal { version: version.clone(), endpoint: endpoint.clone() }],
            },
            Change::EndpointHealth {
                version,
                endpoint,
                address: "127.0.0.1:1".parse().unwrap(),
                from: Operational::Healthy,
                to: Operational::Unhealthy,
                because: "status 503".to_owned(),
            },
            Change::HoldBegan { reason: Hold::SharedDegradation },
            Change::HoldEnded,
            Change::TrafficPaused { for_ms: 30_000, until: Moment(1 << 40) },
            Change::TrafficResumed,
        ] {
            let entry = entry(change);
            let text = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry, "{text}");
        }
    }

    /// As releases without run-time changes of endpoints wrote them, and as this one writes those.
    #[test]
    fn entries_read_as_they_were_written() {
        let head = "\"revision\":7,\"at\":\"1970-01-01T00:00:00Z\",\"actor\":{\"name\":\"alice\"},\"service\":\"shop\"";
        let endpoint = Authority::parse("127.0.0.1:9001").unwrap();
        let (version, from) = (VersionName::new("v2").unwrap(), Administrative::Ready);
        for (written, change) in [
            (
                r#""change":"weight_set","version":"v2","from":"10%","to":"0%""#,
                Change::WeightSet { version: version.clone(), from: Weight::parse("10%").unwrap(), to: Weight::ZERO },
            ),
            (
                r#""change":"endpoint_set","version":"v2","endpoint":"127.0.0.1:9001","from":"ready","to":"maintenance""#,
                Change::EndpointSet {
                    version: version.clone(),
                    endpoint: endpoint.clone(),
                    from,
                    to: Administrative::Maintenance,
                },
            ),
            (
                r#""change":"version_added","version":"v2","endpoints":[{"endpoint":"127.0.0.1:9001","weight":2}]"#,
                Change::VersionAdded {
                    version: version.clone(),
                    endpoints: vec![Listed { endpoint: endpoint.clone(), weight: 2 }],
                },
            ),
            (
                r#""change":"amendments_settled","settled":[{"what":"state","version":"v2","endpoint":"127.0.0.1:9001"}]"#,
                Change::AmendmentsSettled { settled: vec![Settled::State { version, endpoint }] },
            ),
        ] {
            let text = format!("{{{head},{written}}}");
            let entry: Entry = serde_json::from_str(&text).unwrap();
            assert_eq!(entry.event.change, change);
            assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        }
    }

    #[test]
    fn a_problem_reads_back() {
        let problem = Problem::field("/weight", "too much", "write less");
        let text = serde_json::to_string(&problem).unwrap();
        assert_eq!(serde_json::from_str::<Problem>(&text).unwrap(), problem, "{text}");
    }
}
