//! What people read. Colour only underlines what the words already say.

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};
use jiff::SignedDuration;

use crate::admin::wire::{
    Change, Changed, Endpoint, EndpointChanged, Entry, Hold, MatchedRoute, Mode, Operational, Outcome, Paused,
    Question, Role, RouteAnswer, Service, ServiceName, Services, Source, Split, Store, Version, VersionChanged,
    VersionName, Weight,
};

const STRONG: Style = Style::new().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const CARE: Style = AnsiColor::Yellow.on_default();

fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// All services, a block each.
pub fn status(services: &Services) -> String {
    let mut blocks: Vec<String> = services.services.iter().map(service).collect();
    if blocks.is_empty() {
        blocks.push("no services".to_owned());
    }
    blocks.extend(services.store.as_ref().and_then(trouble));
    blocks.join("\n\n")
}

fn trouble(store: &Store) -> Option<String> {
    let trouble = store.trouble.as_ref()?;
    let what = match (store.keeps, store.unsaved) {
        (false, 0) => "the store keeps nothing; raising a weight is refused".to_owned(),
        (_, 0) => "the store keeps what is decided now, and had trouble".to_owned(),
        (_, unsaved) => format!("the store has not kept {unsaved} of the newest changes: a crash would forget them"),
    };
    Some(format!("{}: {trouble}", styled(BAD, &what)))
}

fn service(service: &Service) -> String {
    let routes: Vec<&str> = service.routes.iter().map(|route| route.pattern.as_str()).collect();
    let name = styled(STRONG, service.name.as_str());
    let mut lines = vec![format!("{name}  {}  revision {}", routes.join(" "), service.revision)];
    lines.extend(table(service).lines().map(|line| format!(" {}", line.trim_end())));
    lines.extend(notes(service).iter().map(|note| format!("  {note}")));
    lines.join("\n")
}

const COLUMNS: [&str; 9] = ["VERSION", "ROLE", "WEIGHT", "SHARE", "REQ/MIN", "ERRORS", "P50", "P99", "IN FLIGHT"];

/// Words to the left, figures to the right; over the last minute.
fn table(service: &Service) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(COLUMNS).add_rows(service.versions.iter().map(row));
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn row(version: &Version) -> [String; COLUMNS.len()] {
    let in_flight: u64 = version.endpoints.iter().map(|endpoint| endpoint.in_flight).sum();
    [
        version.name.to_string(),
        version.role.map_or("-", Role::as_str).to_owned(),
        version.weight.to_string(),
        known(version.share, percent),
        version.counts.last_minute.total().to_string(),
        known(version.error_rate, percent),
        known(version.latency_ms.map(|latency| latency.p50), milliseconds),
        known(version.latency_ms.map(|latency| latency.p99), milliseconds),
        in_flight.to_string(),
    ]
}

/// What the table has no column for: where the evidence stands, and whatever is out of the ordinary.
fn notes(service: &Service) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(canary) = &service.canary {
        let acts = match service.mode {
            Mode::AbortOnly => "rolls back",
            Mode::Observe => "would roll back; mode `observe` leaves the weight alone",
        };
        notes.push(format!("evidence against {canary}: {:.0} (1000 {acts})", service.evidence.towards_1000));
    }
    if let Some(probe) = &service.probe {
        notes.push(styled(CARE, &format!("probing: weight lowered for a while, then back to {}", probe.back_to)));
    }
    if let Some(reason) = service.hold {
        notes.push(styled(CARE, &format!("holding: {}", hold(reason))));
    }
    if let Some(paused) = &service.paused {
        notes.push(styled(CARE, &pause(paused)));
    }
    if let Some(why) = &service.would_roll_back {
        notes.push(styled(CARE, &format!("would have rolled back: {why}")));
    }
    for version in service.versions.iter().filter(|version| waits(version)) {
        let why = "none of its endpoints is ready and has passed its health check";
        notes.push(styled(CARE, &format!("{} gets nothing for now: {why}", version.name)));
    }
    for version in &service.versions {
        if let Some(sealed) = &version.sealed {
            let what = styled(BAD, &format!("{} is sealed", version.name));
            notes.push(format!("{what} by {}: {}", sealed.by, sealed.why));
            notes.push(format!("  `penstock unseal {} {}` lets it take traffic again", service.name, version.name));
        }
    }
    notes
}

fn hold(reason: Hold) -> &'static str {
    match reason {
        Hold::SharedDegradation => "stable is over the limit as well, so the cause is shared",
        Hold::CanaryOverLimit => "the canary is over its limit, and the comparison with stable has not decided yet",
        Hold::FewSessions => "the canary looks worse than stable, but too few sessions were seen to say so",
    }
}

/// One service on one line, without what changes all the time.
pub fn line(service: &Service) -> String {
    let canary =
        service.canary.as_ref().map_or("no canary".to_owned(), |canary| format!("{canary} {}", service.weight));
    let sealed = service.versions.iter().filter(|version| version.sealed.is_some());
    let sealed = sealed.map(|version| format!(", {} sealed", version.name));
    let held = service.hold.map(|reason| format!(", holding: {}", hold(reason)));
    let probing = service.probe.as_ref().map(|probe| format!(", probing, back to {}", probe.back_to));
    let paused = service.paused.as_ref().map(|_| ", paused".to_owned());
    let rest: String = sealed.chain(probing).chain(held).chain(paused).collect();
    format!("{}: {} stable, {canary}{rest}", service.name, service.stable)
}

/// The split on one line.
pub fn split(split: &Split) -> String {
    let head = format!("{}: {} {}", split.service, split.stable, split.weight.rest());
    let canary = split.canary.as_ref().map(|canary| format!(", {canary} {}", split.weight));
    let share = split.share.filter(|_| split.canary.is_some()).map(|share| format!(" (really {})", percent(share)));
    let sealed = split.sealed.iter().map(|version| format!(", {version} sealed"));
    let rest: String = canary.into_iter().chain(share).chain(sealed).collect();
    format!("{head}{rest}; revision {}", split.revision)
}

fn pause(paused: &Paused) -> String {
    format!("paused until {:.0}: new requests wait, {} of them now", paused.until, paused.held)
}

/// Whether a service is paused.
pub fn paused(changed: &Changed) -> String {
    let already = if changed.changed { "" } else { " (it was so already)" };
    let how = changed.split.paused.as_ref().map_or("requests go on".to_owned(), pause);
    format!("{}: {how}{already}", changed.split.service)
}

/// A version that should get traffic and may not.
fn waits(version: &Version) -> bool {
    !version.open && version.sealed.is_none() && version.weight != Weight::ZERO && version.role == Some(Role::Canary)
}

/// How it is now, and whether that is news.
pub fn changed(changed: &Changed) -> String {
    let already = match (changed.changed, changed.dry_run) {
        (true, false) => "",
        (false, _) => " (it was so already)",
        (true, true) => " (nothing has changed; it would)",
    };
    let warnings: Vec<String> = changed.warnings.iter().map(|warning| styled(CARE, warning)).collect();
    // The share is of the minute before the change: it would only confuse.
    let now = format!("{}{already}", split(&Split { share: None, ..changed.split.clone() }));
    std::iter::once(now).chain(warnings).collect::<Vec<_>>().join("\n")
}

/// One line of the journal.
pub fn entry(entry: &Entry) -> String {
    let reason = entry.actor.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let what = change(&entry.event.change);
    format!("{:.0}  {}  {what}  ({}{reason})", entry.at, styled(STRONG, entry.event.service.as_str()), entry.actor.name)
}

fn change(change: &Change) -> String {
    match change {
        Change::Declared { stable, canary: None, .. } => format!("declared: stable {stable}"),
        Change::Declared { stable, canary: Some(canary), weight, .. } => {
            format!("declared: stable {stable}, canary {canary} at {weight}")
        }
        Change::Resumed => "judging anew after a restart".to_owned(),
        Change::WeightSet { version, from, to } => format!("weight of {version} set from {from} to {to}"),
        Change::Promoted { version, replaced } => format!("{version} promoted, replacing {replaced}"),
        Change::Aborted { version, from } => format!("{version} aborted at {from}, and sealed"),
        Change::RolledBack { version, from, conviction } => {
            let what = styled(BAD, &format!("{version} rolled back from {from}, and sealed"));
            format!("{what}: {}", conviction.because)
        }
        Change::WouldRollBack { version, conviction } => format!("would roll {version} back: {}", conviction.because),
        Change::Unsealed { version } => format!("{version} unsealed"),
        Change::ProbeBegan { version, from, to, .. } => format!("probe: weight of {version} from {from} to {to}"),
        Change::ProbeEnded { version, to, .. } => format!("probe over: weight of {version} back to {to}"),
        Change::HoldBegan { reason } => styled(CARE, &format!("holding: {}", hold(*reason))),
        Change::HoldEnded => "no longer holding".to_owned(),
        Change::TrafficPaused { for_ms, .. } => {
            format!(
                "paused: new requests wait, for {:#} at most",
                SignedDuration::from_millis(i64::try_from(*for_ms).unwrap_or(i64::MAX))
            )
        }
        Change::TrafficResumed => "resumed".to_owned(),
        Change::CanaryNamed { version, .. } => format!("{version} named as canary, at 0%"),
        Change::EndpointSet { version, endpoint, to, .. } => format!("{endpoint} of {version} set to {}", to.as_str()),
        Change::EndpointPut { version, endpoint, weight } => {
            format!("{endpoint} is an endpoint of {version} with weight {weight}")
        }
        Change::EndpointRemoved { version, endpoint } => format!("{endpoint} removed from {version}"),
        Change::VersionAdded { version, endpoints } => format!("{version} added with {} endpoints", endpoints.len()),
        Change::VersionRemoved { version } => format!("{version} removed"),
        Change::AmendmentsSettled { settled } => {
            format!("{} changes made at run time are the file's now, or mean nothing any more", settled.len())
        }
        Change::EndpointHealth { version, endpoint, to, because, .. } => {
            let what = format!("{endpoint} of {version} is {}", to.as_str());
            let what = if *to == Operational::Healthy { what } else { styled(CARE, &what) };
            format!("{what}: {because}")
        }
    }
}

/// What would become of a request.
pub fn route(question: &Question, answer: &RouteAnswer) -> String {
    let mut lines = vec![styled(STRONG, &format!("{} {}", question.method, question.url))];
    let mut line = |label: &str, text: &str| lines.push(format!("  {label:9} {text}").trim_end().to_owned());
    if let Some(route) = &answer.route {
        line("route", &matched(route));
        if !route.place.is_empty() {
            line("", &format!("{}  {}", route.place, route.text));
        }
    }
    match answer.outcome {
        Outcome::NoRoute => line("answer", &styled(BAD, "404: no route takes it")),
        Outcome::Denied => line("answer", &styled(BAD, "403: denied")),
        Outcome::Redirected => {
            let (status, location) =
                (answer.status.unwrap_or_default(), answer.location.as_deref().unwrap_or_default());
            line("answer", &format!("{status}: {location}"));
        }
        Outcome::Forwarded => line("sent as", answer.sent_as.as_deref().unwrap_or_default()),
    }
    if let Some(why) = &answer.why {
        line("", why);
    }
    for (at, candidate) in answer.candidates.iter().enumerate() {
        let role = candidate.role.map(|role| format!(" ({})", role.as_str())).unwrap_or_default();
        let how = match &candidate.pin {
            Some(pin) => format!("pinned by {pin}"),
            None if candidate.share == Weight::FULL => "every request".to_owned(),
            None => format!("{} of requests, by the coin", candidate.share),
        };
        line(if at == 0 { "version" } else { "" }, &format!("{}{role}: {how}", candidate.version));
        let endpoints =
            if candidate.endpoints.is_empty() { "none known".to_owned() } else { candidate.endpoints.join(", ") };
        line("", &format!("  endpoints: {endpoints}"));
    }
    for (at, passed) in answer.passed_over.iter().enumerate() {
        line(if at == 0 { "not" } else { "" }, &format!("{}: {}", matched(&passed.route), passed.why));
    }
    lines.join("\n")
}

fn matched(route: &MatchedRoute) -> String {
    let priority = if route.priority == 0 { String::new() } else { format!(" priority {}", route.priority) };
    format!("{}, route {}: {}{priority}", route.service, route.index, route.pattern)
}

fn known<T>(value: Option<T>, words: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), words)
}

/// Two digits that matter: an error rate of 0.04 % is not none.
fn percent(fraction: f64) -> String {
    match fraction * 100.0 {
        0.0 => "0%".to_owned(),
        small if small < 1.0 => format!("{small:.2}%"),
        percent => format!("{percent:.1}%"),
    }
}

/// Three digits that matter.
fn milliseconds(milliseconds: f64) -> String {
    match milliseconds {
        short if short < 10.0 => format!("{short:.2} ms"),
        middle if middle < 100.0 => format!("{middle:.1} ms"),
        long => format!("{long:.0} ms"),
    }
}

const ENDPOINTS: [&str; 8] = ["VERSION", "ENDPOINT", "STATE", "CHECKS", "WEIGHT", "IN FLIGHT", "ORIGIN", "LAST CHECK"];

/// A service's endpoints, a line each.
pub fn endpoints(service: &Service) -> String {
    let mut table = Table::new();
    let rows = service.versions.iter().flat_map(|version| version.endpoints.iter().map(|e| endpoint(version, e)));
    table.load_style(presets::NOTHING).set_header(ENDPOINTS).add_rows(rows);
    for column in table.column_iter_mut().skip(4).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let removed = service.versions.iter().flat_map(|version| {
        version.without.iter().map(|gone| format!("{gone} of {} is in the file, and was removed", version.name))
    });
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).chain(removed).collect();
    lines.join("\n")
}

fn endpoint(version: &Version, endpoint: &Endpoint) -> [String; ENDPOINTS.len()] {
    let checks = endpoint.checks.iter().map(|check| format!("{}, since {:.0}", check.result, check.since));
    let drained = if endpoint.drained { ", drained" } else { "" };
    [
        version.name.to_string(),
        endpoint.authority.clone(),
        format!("{}{drained}", endpoint.state),
        endpoint.operational.as_str().to_owned(),
        endpoint.weight.to_string(),
        endpoint.in_flight.to_string(),
        origin(endpoint.origin).to_owned(),
        if endpoint.checks.is_empty() { "-".to_owned() } else { checks.collect::<Vec<_>>().join("; ") },
    ]
}

fn origin(source: Source) -> &'static str {
    match source {
        Source::File => "file",
        Source::Runtime => "runtime",
    }
}

/// A service's versions, a line each.
pub fn versions(service: &Service) -> String {
    let mut table = Table::new();
    let row = |version: &Version| {
        let ready = version.endpoints.iter().filter(|endpoint| endpoint.state == "healthy").count();
        [
            version.name.to_string(),
            version.role.map_or("-", Role::as_str).to_owned(),
            version.weight.to_string(),
            format!("{ready} of {} healthy", version.endpoints.len()),
            origin(version.origin).to_owned(),
            if version.sealed.is_some() { "sealed".to_owned() } else { "-".to_owned() },
        ]
    };
    let header = ["VERSION", "ROLE", "WEIGHT", "ENDPOINTS", "ORIGIN", "SEAL"];
    table.load_style(presets::NOTHING).set_header(header).add_rows(service.versions.iter().map(row));
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// What became of an endpoint.
pub fn endpoint_changed(changed: &EndpointChanged) -> String {
    let already = if changed.changed { "" } else { " (it was so already)" };
    let now = match &changed.endpoint {
        None => format!("gone from {}", changed.version),
        Some(endpoint) => {
            format!("{} of {} is {}, weight {}", endpoint.authority, changed.version, endpoint.state, endpoint.weight)
        }
    };
    format!("{}: {now}{already}; revision {}", changed.service, changed.revision)
}

/// What became of a version.
pub fn version_changed(name: &VersionName, changed: &VersionChanged) -> String {
    let already = if changed.changed { "" } else { " (it was so already)" };
    let now = match &changed.version {
        None => format!("{name} is gone"),
        Some(version) => format!("{name} has {} endpoints", version.endpoints.len()),
    };
    format!("{}: {now}{already}; revision {}", changed.service, changed.revision)
}

/// What has nothing under way any more.
pub fn drained(service: &ServiceName, found: &[(&Version, &Endpoint)]) -> String {
    let names: Vec<String> =
        found.iter().map(|(version, endpoint)| format!("{} of {}", endpoint.authority, version.name)).collect();
    format!("{service}: drained: {}", names.join(", "))
}
