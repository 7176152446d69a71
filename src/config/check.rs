//! The file as a whole: its general tables, and what must agree between places.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::file::{At, Field, Place, Table};
use super::listener::{self, Listener};
use super::problem::{Problems, clipped};
use super::service::{Draft, role};
use super::value::{self, Bounds, Endpoint, first_twin};
use super::{AccessLog, LogFormat, LogLevel, LogSettings, Settings};
use crate::domain::route::Route;
use crate::domain::service::Definition;
use crate::domain::split::Role;

/// Reads everything and checks it against itself. `None` only when a problem has been reported.
pub(super) fn settings(mut root: Table<'_>) -> Option<Settings> {
    let place = root.place.clone();
    let workers = root.get("workers").and_then(|field| workers(&field));
    let listeners = root.get("listeners").map(|field| listeners(&field));
    let admin = root.get("admin").map_or(Some(None), |field| admin(field).map(Some));
    let clients = client_timeouts(root.get("timeouts"));
    let (linger, drain) = shutdown(root.get("shutdown"));
    let log = root.get("log").map(log).unwrap_or_default();
    let store = root.get("store").and_then(store);
    let poll = root.get("reload").and_then(reload);
    let services = root.get("services").map(services);
    root.finish();

    require(&place, listeners.as_ref(), services.as_ref());
    let (listeners, services) = (listeners.unwrap_or_default(), services.unwrap_or_default());
    let default = At { value: DEFAULT_ADMIN, place: place.clone() };
    // A faulty admin address has been reported; the default must not cause complaints of its own then.
    let admin = admin.map(|written| written.unwrap_or(default));
    check_sockets(&listeners, admin.as_ref());
    check_paths(store.as_ref(), log.access_path.as_ref());
    check_loops(&listeners, admin.as_ref(), &services);
    check_routes(&services);
    services.iter().for_each(check_service);

    let services: Option<Vec<Definition>> = services.into_iter().map(Draft::build).collect();
    Some(Settings {
        workers,
        listeners: listeners.into_iter().map(|listener| listener.value).collect(),
        admin: admin?.value,
        request_head: clients.request_head,
        client_idle: clients.client_idle,
        client_write: clients.client_write,
        tls_handshake: clients.tls_handshake,
        linger,
        drain,
        log: log.settings,
        store: store.map(|store| store.value),
        poll,
        services: services?,
        warnings: Problems::new("", "", Vec::new()),
    })
}

fn require(file: &Place<'_>, listeners: Option<&Vec<At<'_, Listener>>>, services: Option<&Vec<Draft<'_>>>) {
    if listeners.is_none() {
        file.missing(
            "no listeners",
            "say where clients connect: `[[listeners]]` and below it `address = \"127.0.0.1:8080\"`",
        );
    }
    if services.is_none() {
        file.missing("no services", "say what is served: `[services.shop]`, with `routes`, `stable` and versions");
    }
}

fn workers(field: &Field<'_>) -> Option<usize> {
    let number = field.integer("4")?;
    let workers = usize::try_from(number).ok().filter(|workers| (1..=MOST_WORKERS).contains(workers));
    if workers.is_none() {
        let help = format!("choose from 1 to {MOST_WORKERS}, or leave it out for one per core: a worker is a thread");
        field.place.error(format!("`{number}` is not between 1 and {MOST_WORKERS}"), help);
    }
    workers
}

fn listeners<'a>(field: &Field<'a>) -> Vec<At<'a, Listener>> {
    let form = "[[listeners]]";
    let Some(items) = field.items(form) else { return Vec::new() };
    if items.is_empty() {
        field.place.error("no listeners", format!("write `{form}`, and below it `address = \"127.0.0.1:8080\"`"));
    }
    items.into_iter().filter_map(listener::read).collect()
}

fn admin(field: Field<'_>) -> Option<At<'_, SocketAddr>> {
    let mut table = field.section()?;
    let place = table.place.clone();
    let written = table.get("address");
    table.finish();
    let Some(written) = written else { return Some(At { value: DEFAULT_ADMIN, place }) };
    let address = value::socket_address(&written)?;
    if address.value.ip().to_canonical().is_loopback() {
        return Some(address);
    }
    let message = format!("the admin address `{}` is not a loopback address", address.value);
    let loopback = SocketAddr::new(DEFAULT_ADMIN.ip(), address.value.port()).to_string();
    let help = format!(
        "write `{}`: the API has no authentication yet, and whoever reaches it moves the traffic; \
         from elsewhere, use an SSH tunnel",
        written.assigned(&written.quoted(&loopback))
    );
    address.place.error(message, help);
    None
}

/// What clients may take their time with.
struct ClientTimeouts {
    request_head: Duration,
    client_idle: Duration,
    client_write: Duration,
    tls_handshake: Duration,
}

fn client_timeouts(field: Option<Field<'_>>) -> ClientTimeouts {
    let mut table = field.and_then(Field::section);
    let request_head = duration_in(table.as_mut(), "request_head", &REQUEST_HEAD, DEFAULT_REQUEST_HEAD);
    let client_idle = duration_in(table.as_mut(), "client_idle", &CLIENT_IDLE, DEFAULT_CLIENT_IDLE);
    let client_write = duration_in(table.as_mut(), "client_write", &CLIENT_WRITE, DEFAULT_CLIENT_WRITE);
    let tls_handshake = duration_in(table.as_mut(), "tls_handshake", &TLS_HANDSHAKE, DEFAULT_TLS_HANDSHAKE);
    table.into_iter().for_each(Table::finish);
    ClientTimeouts { request_head, client_idle, client_write, tls_handshake }
}

fn shutdown(field: Option<Field<'_>>) -> (Duration, Duration) {
    let mut table = field.and_then(Field::section);
    let linger = duration_in(table.as_mut(), "linger", &LINGER, DEFAULT_LINGER);
    let drain = duration_in(table.as_mut(), "drain", &DRAIN, DEFAULT_DRAIN);
    table.into_iter().for_each(Table::finish);
    (linger, drain)
}

fn duration_in(table: Option<&mut Table<'_>>, key: &'static str, bounds: &Bounds, default: Duration) -> Duration {
    let field = table.and_then(|table| table.get(key));
    field.and_then(|field| value::duration(&field, bounds)).unwrap_or(default)
}

/// `[log]`, and where the access log's path was written.
#[derive(Debug, Default)]
struct DraftLog<'a> {
    settings: LogSettings,
    access_path: Option<At<'a, PathBuf>>,
}

fn log(field: Field<'_>) -> DraftLog<'_> {
    let mut log = DraftLog::default();
    let Some(mut table) = field.section() else { return log };
    if let Some(level) = table.get("level").and_then(|field| value::word(&field, &LEVELS)) {
        log.settings.level = level;
    }
    if let Some(format) = table.get("format").and_then(|field| value::word(&field, &FORMATS)) {
        log.settings.format = format;
    }
    if let Some(field) = table.get("access") {
        (log.settings.access, log.access_path) = access(&field);
    }
    table.finish();
    log
}

fn access<'a>(field: &Field<'a>) -> (AccessLog, Option<At<'a, PathBuf>>) {
    if let Some((word, switch)) = SWITCHES.iter().find(|(word, _)| field.is_text_of(word)) {
        let help = format!("write `{}`; a file of that name is `./{word}`", field.assigned(switch));
        field.place.error(format!("`{word}` is not `true` or `false`, and an unlikely path"), help);
        return (AccessLog::Off, None);
    }
    if field.is_text() {
        let path = value::path(field, "access.log");
        return (path.as_ref().map_or(AccessLog::Off, |path| AccessLog::File(path.value.clone())), path);
    }
    if !field.is_boolean() {
        let help = format!("write `{}`, `true`, or `false`", field.assigned(&field.quoted("access.log")));
        field.place.error(format!("expected `true`, `false` or a file's path, found {}", field.found()), help);
    }
    let on = field.is_boolean() && field.boolean() == Some(true);
    (if on { AccessLog::Log } else { AccessLog::Off }, None)
}

fn store(field: Field<'_>) -> Option<At<'_, PathBuf>> {
    let mut table = field.section()?;
    let path = table.required("path", "path = \"data\"").and_then(|field| value::path(&field, "data"));
    table.finish();
    path
}

fn reload(field: Field<'_>) -> Option<Duration> {
    let mut table = field.section()?;
    let poll = table.get("poll").filter(|field| !field.is_text_of("off"));
    let poll = poll.and_then(|field| value::duration(&field, &POLL));
    table.finish();
    poll
}

fn services(field: Field<'_>) -> Vec<Draft<'_>> {
    let Some(table) = field.table("[services.NAME]") else { return Vec::new() };
    let named = table.named();
    if named.is_empty() {
        table.place.missing("no services", "write `[services.shop]`, with `routes`, `stable` and versions");
    }
    named.into_iter().filter_map(|(key, field)| Draft::read(&key, field)).collect()
}

/// The access log would end in the middle of the journal.
fn check_paths(store: Option<&At<'_, PathBuf>>, access: Option<&At<'_, PathBuf>>) {
    if let (Some(store), Some(access)) = (store, access)
        && store.value == access.value
    {
        let message = format!("`{}` is the store's folder already", clipped(&access.value.to_string_lossy()));
        access.place.error_beside(&store.place, "the store", message, "give the access log a file of its own");
    }
}

/// No two sockets of ours may want the same connections.
fn check_sockets(listeners: &[At<'_, Listener>], admin: Option<&At<'_, SocketAddr>>) {
    for (index, listener) in listeners.iter().enumerate() {
        if let Some(first) =
            listeners[..index].iter().find(|first| value::collide(first.value.address, listener.value.address))
        {
            let message = format!("`{}` collides with another listener", listener.value.address);
            listener.place.error_beside(&first.place, "the other one", message, "remove one, or change its port");
        }
        if let Some(admin) = admin.filter(|admin| value::collide(admin.value, listener.value.address)) {
            let message = format!("`{}` collides with the admin address `{}`", listener.value.address, admin.value);
            let help = "give one of them another port: clients must never reach the API";
            listener.place.error_beside(&admin.place, "the admin address", message, help);
        }
    }
}

/// No endpoint may be ourselves: requests would go in circles, or reach the API from outside.
fn check_loops(listeners: &[At<'_, Listener>], admin: Option<&At<'_, SocketAddr>>, services: &[Draft<'_>]) {
    let endpoints = services.iter().flat_map(Draft::versions).flat_map(|version| &version.endpoints);
    for endpoint in endpoints {
        check_loop(endpoint, listeners, admin);
    }
}

fn check_loop(endpoint: &At<'_, Endpoint>, listeners: &[At<'_, Listener>], admin: Option<&At<'_, SocketAddr>>) {
    let At { value, place } = endpoint;
    let text = clipped(&value.text);
    if let Some(listener) = listeners.iter().find(|listener| value.reaches(listener.value.address)) {
        let help = "name the address of the version itself: requests would go in circles";
        let message = format!("the endpoint `{text}` is Penstock's own listener");
        place.error_beside(&listener.place, "the listener", message, help);
    }
    if let Some(admin) = admin.filter(|admin| value.reaches(admin.value)) {
        let help = "name the address of the version itself: every client would reach the API that moves the traffic";
        let message = format!("the endpoint `{text}` is Penstock's own admin address");
        place.error_beside(&admin.place, "the admin address", message, help);
    }
}

/// Two services cannot share a route, and a service does not need one twice.
fn check_routes(services: &[Draft<'_>]) {
    let mut seen: Vec<At<'_, Route>> = Vec::new();
    for route in services.iter().flat_map(|service| &service.routes) {
        match first_twin(&seen, &route.value) {
            Some(first) => {
                let message = format!("the route {} is taken already", route_text(&route.value));
                let help = "remove one, or make its host or path prefix more specific: the most specific route wins";
                route.place.error_beside(first, "taken here", message, help);
            }
            None => seen.push(route.clone()),
        }
    }
}

fn route_text(route: &Route) -> String {
    format!("`{}` `{}`", clipped(&route.host.to_string()), clipped(&route.path_prefix))
}

fn check_service(service: &Draft<'_>) {
    if service.versions.as_ref().is_some_and(Vec::is_empty) {
        let form = format!("[{}.versions.v1]", service.place.path);
        let help = format!("write `{form}`, and below it `endpoints = [\"127.0.0.1:9001\"]`");
        service.place.missing(format!("`{}` has no versions", service.place.path), help);
    } else if service.versions.is_some() {
        check_names(service);
    }
    check_roles(service);
    check_endpoints(service);
    warn_of_idle_versions(service);
}

/// Whatever names a version must name a listed one.
fn check_names(service: &Draft<'_>) {
    for named in [&service.stable, &service.canary].into_iter().flatten() {
        if service.version(named.value).is_none() {
            let message = format!("`{}` is not a version of this service", clipped(named.value));
            named.place.missing(message, service.meant(named.value, &[]));
        }
    }
    for pinned in service.pinned() {
        if role(pinned.value).is_none() && service.version(pinned.value).is_none() {
            let message = format!("`{}` is neither a role nor a version of this service", clipped(pinned.value));
            pinned.place.missing(message, service.meant(pinned.value, &["stable", "canary"]));
        }
    }
}

/// Stable and canary differ, and nothing is said of a canary that is not there.
fn check_roles(service: &Draft<'_>) {
    if let (Some(stable), Some(canary)) = (&service.stable, &service.canary)
        && stable.value == canary.value
    {
        let message = format!("`{}` is both stable and canary", clipped(canary.value));
        let help = "name another version, or remove `canary`: there is nothing to compare with";
        canary.place.error_beside(&stable.place, "stable", message, help);
    }
    if !service.has_canary {
        check_uses_of_no_canary(service);
    }
}

fn check_uses_of_no_canary(service: &Draft<'_>) {
    if let Some(weight) = service.weight.as_ref().filter(|weight| !weight.value.is_zero()) {
        let help = "add `canary = \"v2\"`, or remove the weight: it is the canary's";
        weight.place.missing(format!("a weight of {} needs a canary", weight.value), help);
    }
    for pinned in service.pinned().filter(|pinned| role(pinned.value) == Some(Role::Canary)) {
        pinned.place.missing("the service has no canary", "add `canary = \"v2\"`, or name a version");
    }
}

fn check_endpoints(service: &Draft<'_>) {
    let mut elsewhere: Vec<(&str, At<'_, Endpoint>)> = Vec::new();
    for version in service.versions() {
        let mut own: Vec<At<'_, Endpoint>> = Vec::new();
        for endpoint in &version.endpoints {
            let At { value, place } = endpoint;
            if let Some(first) = own.iter().find(|first| first.value.is(value)) {
                let message = format!("`{}` is listed twice in `{}`", clipped(&value.text), clipped(version.key.value));
                place.error_beside(&first.place, "listed here", message, "remove one of them");
            } else if let Some((other, _)) = elsewhere.iter().find(|(_, first)| first.value.is(value)) {
                let message = format!("`{}` serves `{}` as well", clipped(&value.text), clipped(other));
                place.warn(
                    message,
                    "give each version endpoints of its own: the same server cannot be compared with itself",
                );
            }
            own.push(endpoint.clone());
        }
        elsewhere.extend(own.into_iter().map(|endpoint| (version.key.value, endpoint)));
    }
}

/// Only when every name is understood: a slip in one would make its version look idle.
fn warn_of_idle_versions(service: &Draft<'_>) {
    let roles = [&service.stable, &service.canary].into_iter().flatten();
    let used: Vec<&str> = roles.chain(service.pinned()).map(|named| named.value).collect();
    let understood = |name: &&str| service.version(name).is_some() || role(name).is_some();
    if !service.is_named_throughout() || !used.iter().all(understood) {
        return;
    }
    for version in service.versions().iter().filter(|version| !used.contains(&version.key.value)) {
        // Of a name that has been refused, that is enough to say.
        if version.name.is_some() && role(version.key.value).is_none() {
            let message = format!("no request can reach the version `{}`", version.key.value);
            version.key.place.warn(message, "make it stable or canary, pin it, or remove it");
        }
    }
}

/// When the file has no `[admin]`.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9900);

const DEFAULT_REQUEST_HEAD: Duration = Duration::from_secs(10);
const DEFAULT_CLIENT_IDLE: Duration = Duration::from_mins(1);
const DEFAULT_CLIENT_WRITE: Duration = Duration::from_secs(30);
const DEFAULT_TLS_HANDSHAKE: Duration = Duration::from_secs(10);

/// Together below the 30 s that Kubernetes waits before it kills.
const DEFAULT_LINGER: Duration = Duration::from_secs(5);
const DEFAULT_DRAIN: Duration = Duration::from_secs(20);

/// Far above any machine's cores; a typing slip should not start ten thousand threads.
const MOST_WORKERS: usize = 512;

const REQUEST_HEAD: Bounds = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_mins(5),
    why: "a shorter one cuts honest clients off, a longer one invites clients that never finish",
};

const CLIENT_WRITE: Bounds = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_hours(1),
    why: "a shorter one cuts clients on poor lines off, a longer one lets clients that never read hold memory",
};

const TLS_HANDSHAKE: Bounds = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_mins(1),
    why: "a shorter one cuts distant clients off, a longer one invites clients that never finish",
};

const CLIENT_IDLE: Bounds = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_hours(1),
    why: "a shorter one defeats keep-alive, a longer one keeps sockets of clients that have gone",
};

const LINGER: Bounds = Bounds {
    least: Duration::ZERO,
    most: Duration::from_mins(5),
    why: "it only has to outlast the load balancer's next look at `/ready`",
};

const DRAIN: Bounds = Bounds {
    least: Duration::ZERO,
    most: Duration::from_hours(1),
    why: "what takes longer than an hour would keep a deployment waiting for it",
};

const POLL: Bounds = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_hours(1),
    why: "a shorter one reads the file all the time, a longer one makes a change a matter of luck; `off` never looks",
};

/// Texts that are meant as a switch, and which way.
const SWITCHES: [(&str, &str); 10] = [
    ("true", "true"),
    ("on", "true"),
    ("yes", "true"),
    ("1", "true"),
    ("stderr", "true"),
    ("false", "false"),
    ("off", "false"),
    ("no", "false"),
    ("0", "false"),
    ("none", "false"),
];

pub(super) const LEVELS: [(&str, LogLevel); 6] = [
    ("info", LogLevel::Info),
    ("off", LogLevel::Off),
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

const FORMATS: [(&str, LogFormat); 2] = [("human", LogFormat::Human), ("json", LogFormat::Json)];
