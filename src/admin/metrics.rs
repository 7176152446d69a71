//! `/metrics`: the view and what was decided, drawn at scrape. Nothing is counted here, so nothing here costs a request
//! anything.
//!
//! Labels are services, versions, roles, classes and declared endpoints: as many series as the file has lines. Requests
//! are told apart by method and status besides, in bounded number ([`MOST_KINDS`](crate::domain::duration::MOST_KINDS)
//! a version).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::api::Api;
use crate::control::decisions::Decisions;
use crate::control::reload::ConfigView;
use crate::control::view::{ServiceView, VersionView, View};
use crate::domain::duration::{BOUNDS_MICROS, Durations, Kind, Kinds};
use crate::domain::health::{SHOWN, shown};
use crate::domain::names::{ServiceName, VersionName};
use crate::domain::outcome::Class;
use crate::domain::retry::Reason;
use crate::domain::split::Role;
use crate::domain::window::Latencies;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a canary's first failure, or from the decision, to weight zero: ticks, then minutes.
const ROLLBACK: [f64; 11] = [0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// What the rest of the process counts, read at scrape.
pub struct Outside {
    /// Requests being answered.
    pub active: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Lines of the access log that were asked for and not written.
    pub log_dropped: Box<dyn Fn() -> u64 + Send + Sync>,
    /// When the certificates in use end: Unix seconds by file.
    pub certificates: Box<dyn Fn() -> Vec<(String, i64)> + Send + Sync>,
}

impl Default for Outside {
    fn default() -> Outside {
        Outside { active: Box::new(|| 0), log_dropped: Box::new(|| 0), certificates: Box::new(Vec::new) }
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").finish_non_exhaustive()
    }
}

pub async fn scrape(State(api): State<Api>) -> Response {
    let picture = Picture {
        view: api.control.view(),
        decisions: api.control.journal().decisions(),
        config: api.control.config(),
        active: (api.outside.active)(),
        log_dropped: (api.outside.log_dropped)(),
        certificates: (api.outside.certificates)(),
        checks: api.control.checks().durations(),
    };
    ([(header::CONTENT_TYPE, OPEN_METRICS)], exposition(picture)).into_response()
}

fn exposition(picture: Picture) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(picture));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("a string takes all that is written to it");
    out
}

#[derive(Debug)]
struct Picture {
    view: Arc<View>,
    decisions: Decisions,
    config: Arc<ConfigView>,
    active: u64,
    log_dropped: u64,
    certificates: Vec<(String, i64)>,
    /// How long health checks took, in microseconds.
    checks: BTreeMap<(ServiceName, VersionName), Latencies>,
}

impl Collector for Picture {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        self.process(&mut to)?;
        self.splits(&mut to)?;
        self.analysis(&mut to)?;
        self.decided(&mut to)?;
        self.attempts(&mut to)?;
        self.retries(&mut to)?;
        self.admission(&mut to)?;
        self.request_durations(&mut to)?;
        self.attempt_durations(&mut to)?;
        self.endpoints(&mut to)?;
        self.connections(&mut to)?;
        self.ejections(&mut to)?;
        self.room(&mut to)?;
        self.endpoint_states(&mut to)?;
        self.health_checks(&mut to)
    }
}

impl Picture {
    fn services(&self) -> impl Iterator<Item = &ServiceView> {
        self.view.services.values().map(Arc::as_ref)
    }

    fn versions(&self) -> impl Iterator<Item = (&ServiceView, &VersionView)> {
        self.services().flat_map(|service| service.versions.iter().map(move |version| (service, version)))
    }

    fn process(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut build = to.encode_descriptor("penstock_build", "Which Penstock this is", None, MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let mut lost = counter(to, "penstock_lost_outcomes", "Outcomes owed and never settled: a bug of Penstock")?;
        count(&mut lost, self.view.lost_outcomes)?;
        let help = "Requests left out of the evidence because a tick had too many weights";
        count(&mut counter(to, "penstock_analysis_left_out_requests", help)?, self.view.left_out)?;
        let help = "Lines of the access log that were not written";
        count(&mut counter(to, "penstock_log_dropped", help)?, self.log_dropped)?;
        gauge(to, "http_server_active_requests", "Requests being answered")?.encode_gauge(&self.active)?;
        let mut revision = gauge(to, "penstock_state_revision", "Changes so far")?;
        revision.encode_gauge(&self.view.revision)?;
        self.config(to)?;
        self.certificates(to)?;
        self.store(to)
    }

    fn config(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1: the file, when it was read last, came into force";
        let successful = u64::from(self.config.successful);
        gauge(to, "penstock_config_last_reload_successful", help)?.encode_gauge(&successful)?;
        let help = "When a file came into force last, in seconds since 1970";
        let seconds = self.config.in_force_since.as_second();
        gauge(to, "penstock_config_last_reload_success_timestamp_seconds", help)?.encode_gauge(&seconds)
    }

    fn certificates(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.certificates.is_empty() {
            return Ok(());
        }
        let help = "When the certificate expires, in seconds since 1970";
        let mut expiry = gauge(to, "penstock_certificate_expiry_timestamp_seconds", help)?;
        for (file, end) in &self.certificates {
            expiry.encode_family(&[("file", file.as_str())])?.encode_gauge(end)?;
        }
        Ok(())
    }

    fn store(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(store) = &self.view.store else { return Ok(()) };
        gauge(to, "penstock_store_up", "1: the store keeps what is decided")?.encode_gauge(&u64::from(store.keeps))?;
        let help = "Changes that have taken effect and are not kept yet";
        gauge(to, "penstock_store_unsaved_entries", help)?.encode_gauge(&(store.unsaved as u64))
    }

    fn splits(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut weight = gauge(to, "penstock_split_weight_ratio", "Intended part of new requests")?;
        for (service, version) in self.versions() {
            let ratio = service.weight_of(version.role).fraction();
            weight.encode_family(&labels(service, version))?.encode_gauge(&ratio)?;
        }
        let mut observed = gauge(to, "penstock_split_observed_ratio", "Real part of new requests, over a minute")?;
        for (service, version) in self.versions() {
            if let Some(ratio) = service.observed_share_of(version.role) {
                observed.encode_family(&labels(service, version))?.encode_gauge(&ratio)?;
            }
        }
        let mut sealed = gauge(to, "penstock_version_sealed", "1: no traffic until a person unseals it")?;
        for (service, version) in self.versions() {
            sealed.encode_family(&labels(service, version))?.encode_gauge(&u64::from(version.seal.is_some()))?;
        }
        Ok(())
    }

    /// The evidence is scaled so that 1000 rolls back; its logarithm has no value while there is none.
    fn analysis(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Natural logarithm of the evidence against the canary (e-value)";
        let mut evidence = gauge(to, "penstock_analysis_evidence", help)?;
        for service in self.services().filter(|service| service.reading.towards_1000 > 0.0) {
            let log_e = service.reading.towards_1000.ln();
            evidence.encode_family(&[("service", service.name.as_str())])?.encode_gauge(&log_e)?;
        }
        let mut threshold = gauge(to, "penstock_analysis_threshold", "The evidence that rolls back")?;
        for service in self.services() {
            threshold.encode_family(&[("service", service.name.as_str())])?.encode_gauge(&1_000_f64.ln())?;
        }
        Ok(())
    }

    fn decided(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut decisions = counter(to, "penstock_decision", "What was decided, and what for")?;
        for (decided, times) in &self.decisions.counts {
            let (service, trigger) = (decided.service.as_str(), decided.trigger.as_str());
            let labels = [("service", service), ("decision", decided.decision), ("trigger", trigger)];
            count(&mut decisions.encode_family(&labels)?, *times)?;
        }
        let (name, help) = ("penstock_detection_seconds", "From a canary's first failure to weight zero, in rollbacks");
        rollbacks(&mut histogram(to, name, help)?, &self.decisions.detections)?;
        let help = "From the begin of the tick whose outcomes decided a rollback, to weight zero published";
        rollbacks(&mut histogram(to, "penstock_rollback_duration_seconds", help)?, &self.decisions.rollbacks)
    }

    fn attempts(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut attempts = counter(to, "penstock_attempts", "Tries at an endpoint, by what they came to")?;
        for (service, version) in self.versions() {
            for class in Class::ALL {
                let [of, name] = labels(service, version);
                let labels = [of, name, ("class", class.as_str())];
                count(&mut attempts.encode_family(&labels)?, version.all.classes.get(class))?;
            }
        }
        let forced = counter(to, "penstock_forced_requests", "Requests sent there by a pin: never evidence")?;
        self.count_each(forced, |version| version.forced)?;
        let sticky = counter(to, "penstock_sticky_requests", "Requests of clients who were known again")?;
        self.count_each(sticky, |version| version.sticky)?;
        let exposed = counter(to, "penstock_exposed_failures", "Failures that a client saw")?;
        self.count_each(exposed, |version| version.all.exposed)?;
        let shielded = counter(to, "penstock_shielded_requests", "Failures that another version's answer hid")?;
        self.count_each(shielded, |version| version.all.shielded)
    }

    fn retries(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut retries = counter(to, "penstock_retries", "Attempts that were followed by another, and why")?;
        for (service, version) in self.versions() {
            for reason in Reason::ALL {
                let [of, name] = labels(service, version);
                let labels = [of, name, ("reason", reason.as_str())];
                count(&mut retries.encode_family(&labels)?, version.all.retried.get(reason))?;
            }
        }
        let help = "Attempts that the budget had no room for";
        let exhausted = counter(to, "penstock_retry_budget_exhausted", help)?;
        self.count_each(exhausted, |version| version.all.retried.exhausted)?;
        let help = "Requests for which the other version had what this one does not";
        let rescues = counter(to, "penstock_skew_rescues", help)?;
        self.count_each(rescues, |version| version.all.retried.skew_rescues)
    }

    /// What was turned away before it had a version, and what waits for one.
    fn admission(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests refused because their client asked too often";
        let mut limited = counter(to, "penstock_rate_limited_requests", help)?;
        for service in self.services() {
            count(&mut limited.encode_family(&of(service))?, service.turned.rate_limited)?;
        }
        let help = "Requests of a paused service refused because the queue was full, or after its time";
        let mut refused = counter(to, "penstock_hold_refused_requests", help)?;
        for service in self.services() {
            for (reason, times) in [("full", service.turned.hold_full), ("time", service.turned.hold_late)] {
                let [service] = of(service);
                count(&mut refused.encode_family(&[service, ("reason", reason)])?, times)?;
            }
        }
        let mut held = gauge(to, "penstock_held_requests", "Requests of a paused service that wait")?;
        for service in self.services() {
            held.encode_family(&of(service))?.encode_gauge(&u64::from(service.held.requests()))?;
        }
        let mut paused = gauge(to, "penstock_service_paused", "1: new requests wait")?;
        for service in self.services() {
            paused.encode_family(&of(service))?.encode_gauge(&u64::from(service.paused.is_some()))?;
        }
        let help = "Requests given to stable because the canary had as many as it may: never evidence";
        let mut capped = counter(to, "penstock_capped_requests", help)?;
        for service in self.services() {
            count(&mut capped.encode_family(&of(service))?, service.turned.capped)?;
        }
        let help = "Failures of the running exposure that clients saw, and that count against its budget";
        let mut spent = gauge(to, "penstock_exposure_failures", help)?;
        for service in self.services() {
            spent.encode_family(&of(service))?.encode_gauge(&service.reading.exposure.failures)?;
        }
        Ok(())
    }

    fn count_each(&self, mut family: MetricEncoder<'_>, of: impl Fn(&VersionView) -> u64) -> fmt::Result {
        self.versions().try_for_each(|(service, version)| {
            count(&mut family.encode_family(&labels(service, version))?, of(version))
        })
    }

    fn request_durations(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "From a request's arrival to the end of its answer, by the version chosen for it";
        let mut durations = histogram(to, "http_server_request_duration_seconds", help)?;
        for (service, version) in self.versions() {
            requests(&mut durations, &version_of(service, version), &version.requests)?;
        }
        requests(&mut durations, &[], &self.view.unrouted)
    }

    fn attempt_durations(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "From an attempt's begin to its response's last byte";
        let mut durations = histogram(to, "http_client_request_duration_seconds", help)?;
        for (service, version) in self.versions() {
            for endpoint in &version.endpoints {
                let (host, port) = endpoint.authority.rsplit_once(':').unwrap_or((&endpoint.authority, ""));
                let mut labels = version_of(service, version).to_vec();
                labels.extend([("server_address", host), ("server_port", port)]);
                timed(&mut durations, &labels, &endpoint.attempts)?;
            }
        }
        Ok(())
    }

    fn connections(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut connections = gauge(to, "penstock_upstream_connections", "Connections to endpoints, of all workers")?;
        for (service, version) in self.versions() {
            for endpoint in &version.endpoints {
                let active = endpoint.in_flight().min(endpoint.connections());
                for (state, count) in [("active", active), ("idle", endpoint.connections() - active)] {
                    let [of, name] = labels(service, version);
                    let labels = [of, name, ("endpoint", endpoint.authority.as_ref()), ("state", state)];
                    connections.encode_family(&labels)?.encode_gauge(&count)?;
                }
            }
        }
        Ok(())
    }

    fn ejections(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Times that an endpoint was left out for a while, having failed too often in a row";
        let mut ejections = counter(to, "penstock_endpoint_ejections", help)?;
        for (service, version) in self.versions() {
            for endpoint in &version.endpoints {
                let [of, name] = labels(service, version);
                let labels = [of, name, ("endpoint", endpoint.authority.as_ref())];
                count(&mut ejections.encode_family(&labels)?, endpoint.ejections())?;
            }
        }
        let help = "1: the endpoint is ejected";
        let mut ejected = gauge(to, "penstock_endpoint_ejected", help)?;
        for (service, version) in self.versions() {
            for endpoint in &version.endpoints {
                let [of, name] = labels(service, version);
                let labels = [of, name, ("endpoint", endpoint.authority.as_ref())];
                let is = u64::from(endpoint.ejected_until(service.drawn.moment).is_some());
                ejected.encode_family(&labels)?.encode_gauge(&is)?;
            }
        }
        Ok(())
    }

    fn room(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests that wait for room within the service's limits";
        let mut waiting = gauge(to, "penstock_requests_waiting", help)?;
        for (service, version) in self.versions() {
            waiting.encode_family(&labels(service, version))?.encode_gauge(&u64::from(version.shared.waiting()))?;
        }
        let help = "Requests that found no room in time within the service's limits";
        let mut refused = counter(to, "penstock_limit_refusals", help)?;
        for (service, version) in self.versions() {
            count(&mut refused.encode_family(&labels(service, version))?, version.shared.refusals())?;
        }
        Ok(())
    }

    fn endpoint_states(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1: the endpoint is in this state, of which what a person wants stands before what checks say";
        let mut states = gauge(to, "penstock_endpoint_state", help)?;
        for (service, version) in self.versions() {
            for endpoint in &version.endpoints {
                let now = shown(endpoint.administrative, endpoint.operational());
                for state in SHOWN {
                    let [of, name] = labels(service, version);
                    let labels = [of, name, ("endpoint", endpoint.authority.as_ref()), ("state", state)];
                    states.encode_family(&labels)?.encode_gauge(&u64::from(state == now))?;
                }
            }
        }
        Ok(())
    }

    fn health_checks(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("penstock_health_check_duration_seconds", "How long health checks took");
        let mut durations = to.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let bounds = BOUNDS_MICROS.map(seconds);
        for ((service, version), took) in &self.checks {
            let (sum, buckets) = bucketed(took, &bounds);
            let labels = [("service", service.as_str()), ("version", version.as_str())];
            let mut family = durations.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(sum, took.len(), &buckets, None)?;
        }
        Ok(())
    }

    fn endpoints(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut in_flight = gauge(to, "penstock_endpoint_in_flight", "Attempts under way")?;
        for (service, version) in self.versions() {
            for endpoint in &version.endpoints {
                let [of, name] = labels(service, version);
                let labels = [of, name, ("endpoint", endpoint.authority.as_ref())];
                in_flight.encode_family(&labels)?.encode_gauge(&endpoint.in_flight())?;
            }
        }
        Ok(())
    }
}

fn of(service: &ServiceView) -> [(&'static str, &str); 1] {
    [("service", service.name.as_str())]
}

/// Labels of OpenTelemetry's metrics.
fn version_of<'a>(service: &'a ServiceView, version: &'a VersionView) -> [(&'static str, &'a str); 3] {
    [
        ("penstock_service", service.name.as_str()),
        ("penstock_version", version.name.as_str()),
        ("penstock_role", version.role.map_or("none", Role::as_str)),
    ]
}

fn requests(family: &mut MetricEncoder<'_>, of: &[(&str, &str)], kinds: &Kinds) -> fmt::Result {
    kinds.iter().try_for_each(|(kind, durations)| {
        let status = kind.status().map(|status| status.to_string());
        timed(family, &[of, asked(kind, status.as_deref()).as_slice()].concat(), durations)
    })
}

/// As the conventions have it: what is not known is left out, and a failure without a name has its status for one.
fn asked(kind: Kind, status: Option<&str>) -> Vec<(&'static str, &str)> {
    let failed = status.filter(|_| kind.status() >= Some(500));
    let mut labels = vec![("http_request_method", kind.method()), ("url_scheme", kind.scheme())];
    labels.extend(status.map(|status| ("http_response_status_code", status)));
    labels.extend(kind.protocol().map(|version| ("network_protocol_version", version)));
    labels.extend(kind.error().or(failed).map(|error| ("error_type", error)));
    labels
}

fn timed(family: &mut MetricEncoder<'_>, labels: &[(&str, &str)], durations: &Durations) -> fmt::Result {
    let bounds = BOUNDS_MICROS.iter().map(|micros| seconds(*micros)).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(durations.counts).collect();
    let sum = seconds(durations.sum_micros);
    family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, durations.count(), &buckets, None)
}

fn rollbacks(family: &mut MetricEncoder<'_>, all: &BTreeMap<ServiceName, Latencies>) -> fmt::Result {
    all.iter().try_for_each(|(service, took)| {
        let (sum, buckets) = bucketed(took, &ROLLBACK);
        let labels = [("service", service.as_str())];
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, took.len(), &buckets, None)
    })
}

fn labels<'a>(service: &'a ServiceView, version: &'a VersionView) -> [(&'static str, &'a str); 2] {
    [("service", service.name.as_str()), ("version", version.name.as_str())]
}

fn gauge<'a>(to: &'a mut DescriptorEncoder<'_>, name: &'a str, help: &str) -> Result<MetricEncoder<'a>, fmt::Error> {
    to.encode_descriptor(name, help, None, MetricType::Gauge)
}

/// The encoder appends `_total` to the name.
fn counter<'a>(to: &'a mut DescriptorEncoder<'_>, name: &'a str, help: &str) -> Result<MetricEncoder<'a>, fmt::Error> {
    to.encode_descriptor(name, help, None, MetricType::Counter)
}

fn count(family: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    family.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
}

fn histogram<'a>(
    to: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    to.encode_descriptor(name, help, None, MetricType::Histogram)
}

#[expect(clippy::cast_precision_loss, reason = "three centuries of microseconds")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// Sum in seconds, and the count of each bucket alone (the encoder adds them up).
fn bucketed(latencies: &Latencies, bounds: &[f64]) -> (f64, Vec<(f64, u64)>) {
    let mut buckets: Vec<(f64, u64)> = bounds.iter().chain([&f64::INFINITY]).map(|bound| (*bound, 0)).collect();
    let mut sum = 0.0;
    for step in latencies.iter_recorded() {
        let count = step.count_since_last_iteration();
        #[expect(clippy::cast_precision_loss, reason = "at most an hour of microseconds")]
        let seconds = latencies.median_equivalent(step.value_iterated_to()) as f64 / 1e6;
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let part = seconds * count as f64;
        sum += part;
        if let Some(bucket) = buckets.iter_mut().find(|(bound, _)| seconds <= *bound) {
            bucket.1 += count;
        }
    }
    (sum, buckets)
}
