//! The settings as a file again, complete: every default written out, and where every line comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::balance;
use super::file::path_below;
use super::listener::{self, Certificate, Listener};
use super::problem::Span;
use super::retries::size;
use super::source::{Origin, Sources};
use super::sticky;
use super::{AccessLog, LogFormat, Settings};
use crate::domain::action::HeaderChanges;
use crate::domain::admission::ClientKey;
use crate::domain::balance::Balancing;
use crate::domain::breaker::Limits;
use crate::domain::check::Ask;
use crate::domain::judge::{ExposureBudget, Mode};
use crate::domain::retry::{Reasons, RetryPolicy};
use crate::domain::route::{Condition, PathPattern, Route};
use crate::domain::service::{Definition, EndpointDefinition, PinDefinition, Target};
use crate::domain::split::{Matcher, Weight};
use crate::domain::sticky::{Cohort, Key, SecretSource, Secure, Stickiness};

/// Settings, and where each value comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    pub settings: Settings,
    sources: Arc<Sources>,
    /// Where every value was written, by its path, such as `services.shop.weight`.
    written: BTreeMap<String, Span>,
    /// Where the lines of the file begin.
    lines: Vec<usize>,
}

/// Whether it is shown where values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origins {
    Shown,
    Hidden,
}

impl Effective {
    pub(super) fn new(settings: Settings, sources: Arc<Sources>, written: BTreeMap<String, Span>) -> Effective {
        let newlines = sources.file_text().bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Effective { settings, sources, written, lines }
    }

    /// Where the value at `path` comes from.
    #[must_use]
    pub fn origin(&self, path: &str) -> Origin {
        self.written.get(path).map_or(Origin::Default, |span| self.origin_of(*span))
    }

    fn origin_of(&self, span: Span) -> Origin {
        match self.sources.giver(span) {
            None => {
                let line = self.lines.partition_point(|start| *start <= span.start);
                Origin::File { file: self.sources.file.clone(), line }
            }
            Some(given) => self.sources.given_origin(given),
        }
    }

    #[cfg(test)]
    pub(super) fn written_by(&self, origin: &Origin) -> bool {
        self.written.values().any(|span| self.origin_of(*span) == *origin)
    }

    /// A file that says the same, and leaves nothing to defaults.
    #[must_use]
    pub fn toml(&self, origins: Origins) -> String {
        self.page().all(origins)
    }

    /// `{"settings": …}`, as the file that [`Effective::toml`] gives; with `origins`, those as well, by path.
    pub fn json(&self, origins: Origins) -> Result<Json, toml::de::Error> {
        let settings: Json = toml::from_str(&self.toml(Origins::Hidden))?;
        Ok(match origins {
            Origins::Hidden => json!({ "settings": settings }),
            Origins::Shown => json!({ "settings": settings, "origins": self.page().origins }),
        })
    }

    fn page(&self) -> Page<'_> {
        let mut page = Page { effective: self, lines: Vec::new(), origins: BTreeMap::new(), table: String::new() };
        page.general(&self.settings);
        self.settings.services.iter().for_each(|service| page.service(service));
        page
    }
}

/// What is written line by line.
struct Page<'e> {
    effective: &'e Effective,
    /// Each with where it comes from.
    lines: Vec<(String, String)>,
    origins: BTreeMap<String, Origin>,
    /// The table that is being written.
    table: String,
}

impl Page<'_> {
    fn general(&mut self, settings: &Settings) {
        match settings.workers {
            Some(workers) => self.value("workers", workers),
            None => self.absent("workers", "one per core"),
        }
        for (index, listener) in settings.listeners.iter().enumerate() {
            self.header(&format!("listeners[{index}]"), "[[listeners]]".to_owned());
            self.text("address", listener.address);
            self.listener(listener, index);
        }
        self.table("admin");
        self.text("address", settings.admin);
        self.table("timeouts");
        self.duration("request_head", settings.request_head);
        self.duration("client_idle", settings.client_idle);
        self.duration("client_write", settings.client_write);
        self.duration("tls_handshake", settings.tls_handshake);
        self.table("shutdown");
        self.duration("linger", settings.linger);
        self.duration("drain", settings.drain);
        self.table("log");
        self.text("level", settings.log.level.as_str());
        self.text("format", if settings.log.format == LogFormat::Json { "json" } else { "human" });
        match &settings.log.access {
            AccessLog::Off => self.value("access", false),
            AccessLog::Log => self.value("access", true),
            AccessLog::File(path) => self.text("access", path.display()),
        }
        if let Some(store) = &settings.store {
            self.table("store");
            self.text("path", store.display());
        } else {
            self.lines.push((String::new(), String::new()));
            self.table.clear();
            self.absent("store.path", "nothing is kept");
        }
        self.table("reload");
        match settings.poll {
            Some(poll) => self.duration("poll", poll),
            None => self.text("poll", "off"),
        }
    }

    fn listener(&mut self, listener: &Listener, index: usize) {
        let Some(tls) = &listener.tls else {
            self.value("h2c", listener.h2c);
            match listener.redirect_to {
                Some(port) => self.value("redirect_to_https", port),
                None => self.value("redirect_to_https", false),
            }
            return self.absent("tls", "none");
        };
        self.header(&format!("listeners[{index}].tls"), "[listeners.tls]".to_owned());
        let pair = |pair: &Certificate| {
            let (certificate, key) = (quoted(pair.certificate.display()), quoted(pair.key.display()));
            format!("{{ certificate = {certificate}, key = {key} }}")
        };
        self.items("certificates", tls.certificates.iter().map(pair).collect());
        self.text("minimum_version", word(&listener::VERSIONS, tls.minimum_version));
        self.text("client_certificates", word(&listener::CLIENTS, tls.client_certificates));
        match &tls.client_ca {
            Some(path) => self.text("client_ca", path.display()),
            None => self.absent("client_ca", "none"),
        }
        match tls.hsts {
            Some(hsts) => self.duration("hsts", hsts),
            None => self.text("hsts", "off"),
        }
        self.value("h2", tls.h2);
    }

    fn service(&mut self, service: &Definition) {
        let path = path_below("services", service.name.as_str());
        self.table(&path);
        self.items("routes", service.routes.iter().map(|route| route_text(route)).collect());
        self.text("stable", &service.stable);
        match &service.canary {
            Some(canary) => self.text("canary", canary),
            None => self.absent("canary", "none"),
        }
        self.text("weight", service.weight);
        self.items("pins", service.pins.iter().map(pin_text).collect());
        if service.retries.shielding.is_none() {
            self.value("shielding", false);
        }
        let pages = service.error_pages.iter();
        let pages: Vec<_> = pages.map(|(error, page)| format!("{} = {}", quoted(error), quoted(&page.file))).collect();
        match pages[..] {
            [] => self.absent("error_pages", "Penstock's own"),
            _ => self.value("error_pages", table_text(&pages)),
        }
        self.balancing(&service.balancing);
        for version in &service.versions {
            self.table(&path_below(&format!("{path}.versions"), version.name.as_str()));
            let endpoints: Vec<String> = version.endpoints.iter().map(endpoint_text).collect();
            self.value("endpoints", format!("[{}]", endpoints.join(", ")));
            match version.capacity {
                Some(capacity) => self.value("capacity", capacity),
                None => self.absent("capacity", "unknown, and not checked"),
            }
        }
        self.table(&format!("{path}.rollback"));
        self.limits(service);
        if let Some(sticky) = &service.sticky {
            self.table(&format!("{path}.sticky"));
            self.sticky(sticky);
        }
        self.table(&format!("{path}.limits"));
        self.breaker(&service.balancing.limits);
        self.table(&format!("{path}.timeouts"));
        self.duration("connect", service.timeouts.connect);
        self.duration("response_head", service.timeouts.response_head);
        self.duration("body_idle", service.timeouts.body_idle);
        self.limit("per_try", service.timeouts.per_try);
        self.limit("total", service.timeouts.total);
        self.retries(&path, &service.retries);
        self.rate_limit(&path, service);
        self.table(&format!("{path}.hold"));
        self.value("requests", service.admission.hold.requests);
        self.duration("time", service.admission.hold.time);
        self.health_check(&path, service);
    }

    fn retries(&mut self, path: &str, policy: &RetryPolicy) {
        self.table(&format!("{path}.retries"));
        self.value("on", reasons(policy.on));
        self.value("idempotent_methods", policy.idempotent_methods);
        self.value("idempotency_key", policy.idempotency_key);
        self.text("buffer", size(policy.buffer));
        if let Some(on) = policy.shielding {
            self.table(&format!("{path}.shielding"));
            self.value("on", reasons(on));
        }
        self.table(&format!("{path}.skew_rescue"));
        let prefixes: Vec<String> = policy.skew_rescue.iter().map(quoted).collect();
        self.value("path_prefixes", format!("[{}]", prefixes.join(", ")));
    }

    fn limit(&mut self, key: &str, limit: Option<Duration>) {
        match limit {
            Some(limit) => self.duration(key, limit),
            None => self.text(key, "off"),
        }
    }

    fn health_check(&mut self, path: &str, service: &Definition) {
        let Some(check) = &service.health_check else {
            self.lines.push((String::new(), String::new()));
            path.clone_into(&mut self.table);
            return self.absent("health_check", "nobody asks; endpoints count as healthy");
        };
        self.table(&format!("{path}.health_check"));
        match &check.ask {
            Ask::Tcp => self.text("protocol", "tcp"),
            Ask::Http(http) => {
                self.text("protocol", "http");
                self.text("path", &http.path);
                match &http.host {
                    Some(host) => self.text("host", host),
                    None => self.absent("host", "the endpoint's"),
                }
                self.text("expect_status", &http.expect_status);
                match &http.expect_body {
                    Some(text) => self.text("expect_body", text),
                    None => self.absent("expect_body", "any"),
                }
            }
        }
        self.duration("interval", check.interval);
        self.duration("timeout", check.timeout);
        self.value("rise", check.rise);
        self.value("fall", check.fall);
    }

    fn balancing(&mut self, balancing: &Balancing) {
        self.value("balance", balance::shown(&balancing.balance));
        self.duration("slow_start", balancing.slow_start);
        self.text("panic_threshold", balancing.panic_threshold);
        match &balancing.ejection {
            None => self.value("ejection", false),
            Some(ejection) => {
                self.value("ejection.consecutive_failures", ejection.consecutive_failures);
                self.duration("ejection.time", ejection.time);
                self.text("ejection.max_share", ejection.max_share);
            }
        }
    }

    fn breaker(&mut self, limits: &Limits) {
        let parts = [
            ("connections", limits.connections),
            ("in_flight", limits.in_flight),
            ("version_in_flight", limits.version_in_flight),
        ];
        for (key, limit) in parts {
            match limit {
                Some(limit) => self.value(key, limit),
                None => self.absent(key, "unlimited"),
            }
        }
        self.value("pending", limits.pending);
        self.duration("pending_time", limits.pending_time);
    }

    fn limits(&mut self, service: &Definition) {
        match &service.policy.error_rate {
            None => self.value("error_rate", false),
            Some(limit) => {
                self.text("error_rate.above", percentage(limit.above));
                self.duration("error_rate.window", limit.window);
            }
        }
        match &service.policy.latency {
            None => self.value("latency", false),
            Some(limit) => {
                self.text("latency.quantile", percentage(limit.quantile));
                self.duration("latency.above", limit.above);
                self.duration("latency.window", limit.window);
            }
        }
        let ExposureBudget { failures, requests_per_second } = service.policy.exposure;
        if failures.is_none() && requests_per_second.is_none() {
            self.value("exposure", false);
        }
        if let Some(failures) = failures {
            self.value("exposure.failures", failures);
        }
        if let Some(requests) = requests_per_second {
            self.value("exposure.requests_per_second", requests);
        }
        self.text("mode", if service.policy.mode == Mode::Observe { "observe" } else { "abort-only" });
    }

    fn rate_limit(&mut self, path: &str, service: &Definition) {
        let Some(limit) = &service.admission.rate_limit else {
            self.lines.push((String::new(), String::new()));
            self.table.clear();
            return self.absent(&format!("{path}.rate_limit"), "none");
        };
        self.table(&format!("{path}.rate_limit"));
        match &limit.key {
            ClientKey::Address => {}
            ClientKey::Header(name) => self.text("header", name),
            ClientKey::Cookie(name) => self.text("cookie", name),
        }
        self.text("rate", limit.rate);
        self.value("burst", limit.burst);
        self.value("keys", limit.keys);
    }

    fn sticky(&mut self, sticky: &Stickiness) {
        match &sticky.key {
            Key::Own(cookie) => {
                self.text("by", "cookie");
                match &cookie.name {
                    Some(name) => self.text("cookie_name", name),
                    None => {
                        self.absent("cookie_name", "`penstock-SERVICE`, with `__Host-` before it where it is secure");
                    }
                }
                self.text("same_site", sticky::same_site(cookie.same_site));
                match cookie.max_age {
                    Some(age) => self.duration("max_age", age),
                    None => self.absent("max_age", "until the browser is closed"),
                }
                match cookie.secure {
                    Secure::Auto => self.text("secure", "auto"),
                    Secure::Always => self.value("secure", true),
                    Secure::Never => self.value("secure", false),
                }
            }
            Key::Header(name) => self.text("header", name),
            Key::Cookie(name) => self.text("cookie", name),
            Key::ClientAddress => self.text("by", "client-address"),
        }
        self.text("cohort", if sticky.cohort == Cohort::Fixed { "fixed" } else { "rollout" });
        match &sticky.secret {
            SecretSource::Generated => self.absent("secret_file", "made at the first start, and kept in the store"),
            SecretSource::File(path) => self.text("secret_file", path.display()),
            SecretSource::Environment(name) => self.text("secret_env", name),
        }
    }

    fn table(&mut self, path: &str) {
        self.header(path, format!("[{path}]"));
    }

    fn header(&mut self, path: &str, header: String) {
        path.clone_into(&mut self.table);
        self.lines.extend([String::new(), header].map(|line| (line, String::new())));
    }

    fn path(&self, key: &str) -> String {
        if self.table.is_empty() { key.to_owned() } else { format!("{}.{key}", self.table) }
    }

    fn value(&mut self, key: &str, value: impl Display) {
        let path = self.path(key);
        self.line(format!("{key} = {value}"), &path);
    }

    fn text(&mut self, key: &str, text: impl Display) {
        self.value(key, quoted(text));
    }

    fn duration(&mut self, key: &str, duration: Duration) {
        self.text(key, super::value::spoken(duration).replace(' ', ""));
    }

    /// A line that says what it means that there is no value.
    fn absent(&mut self, key: &str, meaning: &str) {
        let path = self.path(key);
        self.line(format!("# {key}: {meaning}"), &path);
    }

    /// One item a line.
    fn items(&mut self, key: &str, items: Vec<String>) {
        if items.is_empty() {
            return self.value(key, "[]");
        }
        let path = self.path(key);
        self.lines.push((format!("{key} = ["), String::new()));
        for (index, item) in items.into_iter().enumerate() {
            self.line(format!("    {item},"), &format!("{path}[{index}]"));
        }
        self.lines.push(("]".to_owned(), String::new()));
    }

    /// A line comes from where its value was written, and from where parts of the value were.
    fn line(&mut self, line: String, path: &str) {
        let origin = self.effective.origin(path);
        let mut told = BTreeSet::new();
        for below in [format!("{path}."), format!("{path}[")] {
            let parts = self.effective.written.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below));
            for (part, span) in parts {
                let from = self.effective.origin_of(*span);
                if from != origin && !same_file(&from, &origin) {
                    told.insert(from.to_string());
                    self.origins.insert(part.clone(), from);
                }
            }
        }
        let told = std::iter::once(origin.to_string()).chain(told).collect::<Vec<_>>().join(", ");
        self.lines.push((line, tame(&told)));
        self.origins.insert(path.to_owned(), origin);
    }

    fn all(&self, origins: Origins) -> String {
        let widths = self.lines.iter().map(|(line, _)| line.chars().count());
        let width = widths.filter(|width| *width <= WIDEST).max().unwrap_or(0);
        let line = |(line, origin): &(String, String)| match (origins, origin.as_str()) {
            (Origins::Hidden, _) | (_, "") => format!("{line}\n"),
            (Origins::Shown, origin) => format!("{line:width$}  # {origin}\n"),
        };
        self.lines.iter().map(line).collect()
    }
}

/// A longer line pushes its own comment away, and nobody else's.
const WIDEST: usize = 44;

/// Lines apart within one file are one origin.
fn same_file(one: &Origin, other: &Origin) -> bool {
    matches!((one, other), (Origin::File { .. }, Origin::File { .. }))
}

/// A comment ends with its line, and a file's name may not.
fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn quoted(text: impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// What the file calls a value.
fn word<T: PartialEq + Copy>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, meaning)| *meaning == value).map_or("", |(word, _)| word)
}

/// Read with two decimals, so it has no more.
fn percentage(fraction: f64) -> String {
    let points = (fraction * f64::from(Weight::FULL.basis_points())).round();
    format!("{}%", points / 100.0)
}

fn endpoint_text(endpoint: &EndpointDefinition) -> String {
    let address = quoted(&endpoint.authority);
    match endpoint.weight {
        EndpointDefinition::DEFAULT_WEIGHT => address,
        weight => format!("{{ address = {address}, weight = {weight} }}"),
    }
}

fn reasons(reasons: Reasons) -> String {
    let words: Vec<String> = reasons.iter().map(|reason| quoted(reason.as_str())).collect();
    format!("[{}]", words.join(", "))
}

/// On one line, with what is not as usual.
fn route_text(route: &Route) -> String {
    let mut parts = vec![format!("host = {}", quoted(&route.host))];
    parts.push(match &route.path {
        PathPattern::Exact(path) => format!("path = {}", quoted(path)),
        PathPattern::Prefix(prefix) => format!("path_prefix = {}", quoted(prefix)),
    });
    let conditions = &route.conditions;
    list_text(&mut parts, "methods", conditions.methods.iter().map(quoted));
    list_text(&mut parts, "headers", conditions.headers.iter().map(condition_text));
    list_text(&mut parts, "query", conditions.query.iter().map(condition_text));
    if route.priority != 0 {
        parts.push(format!("priority = {}", route.priority));
    }
    let Some(actions) = &route.actions else { return table_text(&parts) };
    if let Some(rewrite) = &actions.rewrite {
        let strip = || "strip_prefix = true".to_owned();
        let to = || format!("rewrite_prefix = {}", quoted(rewrite.to()));
        parts.push(if rewrite.strips() { strip() } else { to() });
    }
    if let Some(redirect) = &actions.redirect {
        let status = redirect.status.as_u16();
        parts.push(format!("redirect = {{ to = {}, status = {status} }}", quoted(redirect)));
    }
    for (key, changes) in
        [("request_headers", &actions.request_headers), ("response_headers", &actions.response_headers)]
    {
        if !changes.is_empty() {
            parts.push(format!("{key} = {}", changes_text(changes)));
        }
    }
    if let Some(access) = &actions.access {
        list_text(&mut parts, "allow", access.allow.iter().map(quoted));
        list_text(&mut parts, "deny", access.deny.iter().map(quoted));
    }
    table_text(&parts)
}

fn table_text(parts: &[String]) -> String {
    format!("{{ {} }}", parts.join(", "))
}

fn list_text(parts: &mut Vec<String>, key: &str, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.collect();
    if !items.is_empty() {
        parts.push(format!("{key} = [{}]", items.join(", ")));
    }
}

fn condition_text<N: Display>(condition: &Condition<N>) -> String {
    let value = condition.value.as_ref().map_or_else(String::new, |value| format!(", value = {}", quoted(value)));
    format!("{{ name = {}{value} }}", quoted(&condition.name))
}

fn changes_text(changes: &HeaderChanges) -> String {
    let mut parts = Vec::new();
    for (key, pairs) in [("set", &changes.set), ("add", &changes.add)] {
        let text = |value: &http::HeaderValue| quoted(String::from_utf8_lossy(value.as_bytes()));
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{} = {}", quoted(name), text(value))).collect();
        if !pairs.is_empty() {
            parts.push(format!("{key} = {}", table_text(&pairs)));
        }
    }
    list_text(&mut parts, "remove", changes.remove.iter().map(quoted));
    table_text(&parts)
}

fn pin_text(pin: &PinDefinition) -> String {
    let (kind, name, value) = match &pin.matcher {
        Matcher::Header { name, value } => ("header", name.as_str(), value),
        Matcher::Cookie { name, value } => ("cookie", name.as_str(), value),
        Matcher::Query { name, value } => ("query", name.as_str(), value),
    };
    let version = match &pin.target {
        Target::Stable => "stable",
        Target::Canary => "canary",
        Target::Version(name) => name.as_str(),
    };
    let value = value.as_ref().map_or_else(String::new, |value| format!("value = {}, ", quoted(value)));
    format!("{{ {kind} = {}, {value}version = {} }}", quoted(name), quoted(version))
}
