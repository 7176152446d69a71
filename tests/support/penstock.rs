//! A Penstock in this process, in front of the test's origins.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use penstock::app::{App, Options, Source};
use penstock::config::Overrides;
use penstock::control::journal::Entry;
use penstock::control::view::{EndpointView, ServiceView, VersionView, View};
use penstock::domain::names::ServiceName;
use penstock::domain::outcome::Classes;
use penstock::domain::standing::Change;

use super::{Client, Origin, Response, eventually};

/// What is measured is not measured while other tests run.
static ALONE: RwLock<()> = RwLock::new(());

/// A configuration in the making: one service, `shop`, with the versions `v1` (stable) and perhaps `v2` (canary).
#[derive(Debug, Clone, Default)]
pub struct Setup {
    stable: Vec<SocketAddr>,
    weights: &'static [u32],
    canary: Vec<SocketAddr>,
    weight: Option<&'static str>,
    pins: &'static str,
    routes: &'static str,
    clients: &'static str,
    upstream: &'static str,
    rollback: &'static str,
    service: &'static str,
    limits: &'static str,
    drain: &'static str,
    linger: &'static str,
    more: &'static str,
    workers: Option<usize>,
    capacity: Option<u32>,
    alone: bool,
}

impl Setup {
    pub fn of(stable: &[&Origin]) -> Setup {
        Setup::at(stable.iter().map(|origin| origin.address))
    }

    /// By address, for servers that are something else.
    pub fn at(stable: impl IntoIterator<Item = SocketAddr>) -> Setup {
        let stable = stable.into_iter().collect();
        Setup { stable, routes: "{ path_prefix = \"/\" }", drain: "300ms", linger: "0s", ..Setup::default() }
    }

    pub fn canary(self, canary: &[&Origin], weight: &'static str) -> Setup {
        self.canary_at(canary.iter().map(|origin| origin.address), weight)
    }

    pub fn canary_at(self, canary: impl IntoIterator<Item = SocketAddr>, weight: &'static str) -> Setup {
        Setup { canary: canary.into_iter().collect(), weight: Some(weight), ..self }
    }

    pub fn pins(self, pins: &'static str) -> Setup {
        Setup { pins, ..self }
    }

    pub fn routes(self, routes: &'static str) -> Setup {
        Setup { routes, ..self }
    }

    /// Lines of `[timeouts]`.
    pub fn clients(self, clients: &'static str) -> Setup {
        Setup { clients, ..self }
    }

    /// Lines of `[services.shop.timeouts]`.
    pub fn upstream(self, upstream: &'static str) -> Setup {
        Setup { upstream, ..self }
    }

    /// Lines of `[services.shop.rollback]`.
    pub fn rollback(self, rollback: &'static str) -> Setup {
        Setup { rollback, ..self }
    }

    /// Of the stable endpoints, in their order.
    pub fn weights(self, weights: &'static [u32]) -> Setup {
        Setup { weights, ..self }
    }

    /// Lines of `[services.shop]`.
    pub fn service(self, service: &'static str) -> Setup {
        Setup { service, ..self }
    }

    /// Lines of `[services.shop.limits]`.
    pub fn limits(self, limits: &'static str) -> Setup {
        Setup { limits, ..self }
    }

    pub fn stopping(self, linger: &'static str, drain: &'static str) -> Setup {
        Setup { drain, linger, ..self }
    }

    /// Whole tables.
    pub fn more(self, more: &'static str) -> Setup {
        Setup { more, ..self }
    }

    /// Two, unless said otherwise.
    pub fn workers(self, workers: usize) -> Setup {
        Setup { workers: Some(workers), ..self }
    }

    /// Of each endpoint of the canary, in requests per second.
    pub fn capacity(self, capacity: u32) -> Setup {
        Setup { capacity: Some(capacity), ..self }
    }

    /// No other test runs meanwhile: for what is measured.
    pub fn alone(self) -> Setup {
        Setup { alone: true, ..self }
    }

    pub fn text(&self) -> String {
        let list = |all: &[SocketAddr]| all.iter().map(|one| format!("\"{one}\"")).collect::<Vec<_>>().join(", ");
        let mut text = format!(
            "workers = {}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [timeouts]\n{}\n[shutdown]\nlinger = \"{}\"\ndrain = \"{}\"\n\
             [services.shop]\nroutes = [{}]\nstable = \"v1\"\npins = [{}]\n",
            self.workers.unwrap_or(2),
            self.clients,
            self.linger,
            self.drain,
            self.routes,
            self.pins
        );
        if let Some(weight) = self.weight {
            let _ = writeln!(text, "canary = \"v2\"\nweight = \"{weight}\"");
        }
        let more = self.more;
        let _ = writeln!(text, "{}", self.service);
        let _ = writeln!(text, "[services.shop.limits]\n{}", self.limits);
        let _ = writeln!(text, "[services.shop.timeouts]\n{}", self.upstream);
        let _ = writeln!(text, "[services.shop.rollback]\n{}", self.rollback);
        let _ = writeln!(text, "[services.shop.versions.v1]\nendpoints = [{}]", self.weighed());
        if self.weight.is_some() {
            let _ = writeln!(text, "[services.shop.versions.v2]\nendpoints = [{}]", list(&self.canary));
            if let Some(capacity) = self.capacity {
                let _ = writeln!(text, "capacity = {capacity}");
            }
        }
        text + more
    }

    fn weighed(&self) -> String {
        let weights = self.weights.iter().chain(std::iter::repeat(&1));
        let one = |(address, weight)| format!("{{ address = \"{address}\", weight = {weight} }}");
        self.stable.iter().zip(weights).map(one).collect::<Vec<_>>().join(", ")
    }

    pub fn start(self) -> Penstock {
        let turn = if self.alone { Turn::alone() } else { Turn::among() };
        let settings = penstock::config::parse("test.toml", &self.text()).unwrap_or_else(|problems| {
            panic!("{problems:?}");
        });
        Penstock { app: Some(penstock::app::start(settings).unwrap()), _turn: turn }
    }

    /// Started from a file, so that it can be read again.
    pub fn start_from(self, file: &Path) -> Penstock {
        let turn = if self.alone { Turn::alone() } else { Turn::among() };
        std::fs::write(file, self.text()).unwrap();
        let source = Source { file: file.to_owned(), overrides: Overrides::none() };
        let settings = penstock::config::read(file).unwrap_or_else(|problems| panic!("{problems:?}"));
        let options = Options { source: Some(source), ..Options::default() };
        Penstock { app: Some(penstock::app::start_with(settings, options).unwrap()), _turn: turn }
    }
}

/// Held while a test keeps the machine busy: together with others, or alone.
#[expect(dead_code, reason = "held, not looked at")]
pub enum Turn {
    Among(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

impl Turn {
    pub fn among() -> Turn {
        Turn::Among(ALONE.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn alone() -> Turn {
        Turn::Alone(ALONE.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A running Penstock; stops when dropped.
pub struct Penstock {
    app: Option<App>,
    _turn: Turn,
}

impl Penstock {
    fn app(&self) -> &App {
        self.app.as_ref().expect("running")
    }

    pub fn address(&self) -> SocketAddr {
        self.app().addresses()[0]
    }

    /// Of every listener, in the order of the file.
    #[allow(dead_code, reason = "for some of the tests that share this")]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.app().addresses()
    }

    pub fn admin(&self) -> SocketAddr {
        self.app().admin()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.client().get(path)
    }

    /// Stops gracefully; returns when stopped.
    pub fn stop(&mut self) {
        if let Some(app) = self.app.take() {
            app.stop(|| false);
        }
    }

    /// The app, to be stopped by the caller.
    pub fn take(&mut self) -> App {
        self.app.take().expect("running")
    }

    pub fn view(&self) -> Arc<View> {
        self.app().control().view()
    }

    pub fn shop(&self) -> Arc<ServiceView> {
        self.view().services[&ServiceName::new("shop").unwrap()].clone()
    }

    pub fn version(&self, name: &str) -> VersionView {
        self.shop().versions.iter().find(|version| version.name.to_string() == name).expect("listed").clone()
    }

    /// Attempts of a version by class, since the start.
    pub fn classes(&self, version: &str) -> Classes {
        self.version(version).all.classes
    }

    /// Waits until so many attempts of a version have ended, and none is under way.
    #[track_caller]
    pub fn settled(&self, version: &str, attempts: u64) -> Classes {
        eventually(&format!("{attempts} attempts of {version} recorded"), || {
            self.classes(version).total() >= attempts && self.in_flight() == 0
        });
        // One more picture, so that a surplus would show.
        std::thread::sleep(Duration::from_millis(400));
        let classes = self.classes(version);
        assert_eq!(self.view().lost_outcomes, 0, "outcomes lost");
        classes
    }

    pub fn in_flight(&self) -> u64 {
        let shop = self.shop();
        shop.versions.iter().flat_map(|version| &version.endpoints).map(EndpointView::in_flight).sum()
    }

    /// The newest journal entry whose change is of this kind.
    pub fn journal(&self, wanted: impl Fn(&Change) -> bool) -> Option<Entry> {
        self.app().control().journal().newest(|entry| wanted(&entry.event.change))
    }

    pub fn rollback(&self) -> Option<Entry> {
        self.journal(|change| matches!(change, Change::RolledBack { .. }))
    }

    /// Has the file read again, over the admin API.
    #[track_caller]
    pub fn reload(&self) -> Response {
        self.post("/v1/config:reload", "{}")
    }

    /// What the admin API says.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let mut admin = Client::connect(self.admin());
        admin.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.admin())).text()
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &str) -> Response {
        Client::connect(self.admin()).ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.admin(),
            body.len()
        ))
    }

    /// Sets the canary's weight as a person would: over the admin API.
    #[track_caller]
    pub fn set_weight(&self, admin: &mut Client, weight: &str) {
        let body = format!("{{\"weight\":\"{weight}\"}}");
        let response = admin.ask(&format!(
            "PATCH /v1/services/shop/split HTTP/1.1\r\nHost: {}\r\nIf-Match: *\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.admin(),
            body.len()
        ));
        assert_eq!(response.status, 200, "{}", response.text());
    }
}

impl Drop for Penstock {
    fn drop(&mut self) {
        self.stop();
    }
}
