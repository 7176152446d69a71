//! Wiring: the only file that knows every layer. It builds the parts, joins them, and takes them apart. No policy.
//!
//! ```text
//!  start:  the store ▸ bind every address ▸ state ▸ look names up ▸ snapshot ▸ engine ▸ workers ▸ admin ▸ ready
//!  stop:   not ready ▸ linger ▸ stop accepting ▸ drain ▸ workers end ▸ engine ends ▸ admin ends
//! ```

mod access_log;
mod listening;
mod reload;
mod route;
mod secrets;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::signal::unix::SignalKind;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::listening::{Expiry, ListenError, socket_help};
use self::reload::Reloader;
pub use self::reload::Source;
pub use self::route::explain;
use self::secrets::Keyring;
pub use self::secrets::NoSecret;
use crate::admin::{self, Outside, Readiness};
use crate::config::{self, Settings};
use crate::control::boot::{Beginning, BootError, boot, open};
use crate::control::command::Control;
pub use crate::control::command::Force;
use crate::control::engine::{Engine, Inlets, Tools};
use crate::control::journal::Journal;
use crate::control::prober::Prober;
use crate::control::resolver::{keep_resolving, resolve};
use crate::control::store::{Insist, Keeper, OpenError};
use crate::domain::service::Definition;
use crate::domain::snapshot::Snapshot;
use crate::domain::state::State;
use crate::link::{self, Clock};
use crate::proxy::{self, Limits, Listener, Proxy};

/// How often a drain is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// For the access log to be written to its end; a disk that hangs is not waited for.
const LAST_LINES: Duration = Duration::from_secs(2);
/// A file has reached the size that the system allows this process.
const SIGXFSZ: i32 = 25;
/// Health that has changed and may wait for the engine.
const WAITING_CHECKS: usize = 256;
/// Lookups that may wait for the engine.
const WAITING_LOOKUPS: usize = 64;

/// A running Penstock.
#[derive(Debug)]
pub struct App {
    proxy: Proxy,
    control: Control,
    readiness: Arc<Readiness>,
    admin: SocketAddr,
    stop_admin: oneshot::Sender<()>,
    admin_task: JoinHandle<io::Result<()>>,
    engine: thread::JoinHandle<()>,
    store: thread::JoinHandle<()>,
    access_log: Option<proxy::Log>,
    /// For everything that waits: the API, lookups, signals.
    runtime: Runtime,
    linger: Duration,
    drain: Duration,
}

/// What is asked for beside the file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether the file may leave out versions that have traffic.
    pub force: Force,
    /// Where the settings come from, if they can be read again.
    pub source: Option<Source>,
}

/// Why nothing was started. Nothing is bound or running any more.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Admin(#[from] admin::BindError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Secret(#[from] NoSecret),
    #[error("cannot open the access log `{0}`: {1}")]
    AccessLog(PathBuf, #[source] io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

impl StartError {
    /// How to go on.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            StartError::Listen(error) => error.help(),
            StartError::Admin(admin::BindError::Bind(_, error)) => socket_help(error),
            StartError::Admin(admin::BindError::NotLoopback(_)) => "use 127.0.0.1 or [::1]",
            StartError::Boot(BootError::Store(OpenError::Locked(_))) => {
                "one store serves one proxy: end the other process, or name another `store.path`"
            }
            StartError::Boot(BootError::Store(OpenError::Newer(..))) => {
                "start the newer release, or name another `store.path` (what was decided is then forgotten)"
            }
            StartError::Boot(BootError::Store(OpenError::Unusable(..))) => "make the directory readable and writable",
            StartError::Boot(BootError::InUse(_)) => {
                "list the version again, move its traffic first, or start with `--force-drain`"
            }
            StartError::Secret(_) => {
                "put a line of at least 16 characters there, such as `openssl rand -hex 32` gives, and let this user read it"
            }
            StartError::AccessLog(..) => "make its folder, and let this user write there",
            StartError::Thread(_) => "raise the limit on threads (`ulimit -u`), or lower `workers`",
        }
    }
}

/// Starts everything; returns when requests are served.
pub fn start(settings: Settings) -> Result<App, StartError> {
    start_with(settings, Options::default())
}

/// Starts everything, as asked for.
pub fn start_with(mut settings: Settings, options: Options) -> Result<App, StartError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().thread_name("control").build()?;
    let survives = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(SignalKind::from_raw(SIGXFSZ))?
    };
    drop(survives); // its handler stays: a file at its size limit fails a write, as a full disk does, and kills nobody
    let opened = open(settings.store.as_deref())?;
    let mut keyring = Keyring::new(settings.store.clone());
    keyring.provide(&mut settings.services)?;
    let listeners = bind(&runtime, &settings.listeners)?;
    let access_log = access_log::start(&runtime, &settings.log)?;
    let admin = admin::bind(settings.admin)?;
    let admin_address = admin.local_addr()?;

    let clock = Clock::start();
    let Beginning { mut state, store, entries, unsaved, health } =
        boot(opened, settings.services.clone(), options.force)?;
    look_up(&runtime, &mut state);
    let first = Snapshot::of(&state, &Snapshot::default());
    first.close_endpoints(&Snapshot::default());
    let (publisher, subscriber) = link::snapshots(first);
    let (batch_sender, batches) = link::batches();
    let (resolved_sender, resolved) = mpsc::channel(WAITING_LOOKUPS);
    let (checked_sender, checked) = mpsc::channel(WAITING_CHECKS);

    let workers = settings.workers.unwrap_or_else(one_per_core);
    let (journal, view) = (Arc::new(Journal::of(entries)), Arc::new(ArcSwap::default()));
    let (control, commands, reloads) = Control::new(view.clone(), journal.clone());
    let (stored_sender, stored) = mpsc::unbounded_channel();
    let (mut keeper, store) = Keeper::start(store, stored_sender)?;
    if !unsaved.is_empty() {
        keeper.append(unsaved, Insist::Yes);
    }
    let engine = Engine::new(state, Tools { publisher, keeper, journal, view: view.clone(), clock, workers }, health);
    let engine = start_engine(engine, Inlets { batches, commands, resolved, checked, stored })?;

    let data_plane =
        proxy::Settings { workers, limits: limits(&settings), access_log: access_log.as_ref().map(proxy::Log::sink) };
    let expiry = Expiry::default();
    expiry.note(listeners.iter().map(|listener| &listener.rules));
    let proxy = proxy::start(listeners, data_plane, clock, &subscriber, batch_sender)?;
    let readiness = Arc::new(Readiness::default());
    readiness.listening();
    readiness.published();

    runtime.spawn(keep_resolving(view, resolved_sender));
    runtime.spawn(Prober::new(subscriber, clock, checked_sender, control.checks().clone()).run());
    let (linger, drain, poll) = (settings.linger, settings.drain, settings.poll);
    if let (Some(every), Some(source)) = (poll, &options.source) {
        runtime.spawn(reload::at_changes(control.clone(), source.file.clone(), every));
    }
    let own = proxy.addresses().iter().copied().chain([admin_address]).collect();
    let reloader = Reloader {
        source: options.source,
        control: control.clone(),
        knobs: proxy.knobs(),
        keyring,
        in_force: settings,
        expiry: expiry.clone(),
        own,
    };
    runtime.spawn(reloader.run(reloads));
    let log = access_log.as_ref().map(proxy::Log::shared);
    let log_dropped = Box::new(move || log.as_ref().map_or(0, |log| log.dropped()));
    let certificates = Box::new(move || expiry.all());
    let outside = Outside { active: Box::new(proxy.active()), log_dropped, certificates };
    let (stop_admin, stopped) = oneshot::channel();
    let stopped = async { drop(stopped.await) };
    let admin_task = runtime.spawn(admin::serve(admin, control.clone(), readiness.clone(), outside, stopped));
    for address in proxy.addresses() {
        tracing::info!(%address, workers, "listening");
    }
    tracing::info!(address = %admin_address, "admin API listening");
    Ok(App {
        proxy,
        control,
        readiness,
        admin: admin_address,
        stop_admin,
        admin_task,
        engine,
        store,
        access_log,
        runtime,
        linger,
        drain,
    })
}

/// All or none.
fn bind(runtime: &Runtime, listeners: &[config::Listener]) -> Result<Vec<Listener>, StartError> {
    let _inside = runtime.enter(); // where tokio's sockets are made
    Ok(listeners.iter().map(listening::bind).collect::<Result<_, _>>()?)
}

fn limits(settings: &Settings) -> Limits {
    let Settings { request_head, client_idle, client_write, tls_handshake, .. } = *settings;
    Limits { request_head, client_idle, client_write, tls_handshake }
}

fn authorities<'a>(definitions: impl IntoIterator<Item = &'a Definition>) -> BTreeSet<Arc<str>> {
    let versions = definitions.into_iter().flat_map(|service| &service.versions);
    versions.flat_map(|version| version.endpoints.iter().map(|endpoint| endpoint.authority.clone())).collect()
}

/// Names that have no address yet do not keep the proxy from starting: their versions have no endpoint until they do.
fn look_up(runtime: &Runtime, state: &mut State) {
    let definitions = state.services().map(|service| &*service.definition);
    let authorities = authorities(definitions);
    for result in runtime.block_on(resolve(&authorities)) {
        match result {
            Ok(resolved) => state.resolve(&resolved.authority, resolved.addresses),
            Err(authority) => tracing::warn!(%authority, "an endpoint's name has no address; looking again in 30 s"),
        }
    }
}

fn one_per_core() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn start_engine(engine: Engine, inlets: Inlets) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    thread::Builder::new().name("engine".to_owned()).spawn(move || runtime.block_on(engine.run(inlets)))
}

impl App {
    /// Where clients are served.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.proxy.addresses()
    }

    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Serves until SIGTERM or SIGINT, then stops gracefully; a second signal cuts it short.
    pub fn run(self) -> io::Result<()> {
        let mut signals = {
            let _inside = self.runtime.enter();
            Signals::new()?
        };
        self.runtime.spawn(reload::at_hangups(self.control.clone()));
        let signal = self.runtime.block_on(signals.next());
        tracing::info!(signal, linger = ?self.linger, drain = ?self.drain, "stopping; a second signal ends it at once");
        let hurry = Arc::new(AtomicBool::new(false));
        self.runtime.spawn({
            let hurry = hurry.clone();
            async move {
                signals.next().await;
                hurry.store(true, Ordering::Relaxed);
            }
        });
        self.stop(|| hurry.load(Ordering::Relaxed));
        Ok(())
    }

    /// Stops gracefully, unless `hurry` says otherwise.
    #[expect(clippy::disallowed_methods, reason = "on the main thread, which nothing waits for")]
    pub fn stop(self, hurry: impl Fn() -> bool) {
        self.readiness.stopping();
        let wait = |done: &dyn Fn() -> bool, at_most: Duration| {
            let begun = Instant::now();
            while !done() && !hurry() && begun.elapsed() < at_most {
                thread::sleep(LOOK);
            }
        };
        wait(&|| false, self.linger);
        self.proxy.drain();
        wait(&|| self.proxy.drained(), self.drain);
        let requests = self.proxy.active()();
        if requests > 0 {
            tracing::warn!(requests, "requests did not end in time and are cut off");
        }
        self.proxy.end();
        if let Some(writer) = self.access_log.map(proxy::Log::close) {
            wait(&|| writer.is_finished(), LAST_LINES);
        }
        if self.engine.join().is_err() {
            tracing::error!("the engine ended by a panic");
        }
        if self.store.join().is_err() {
            tracing::error!("the store's thread ended by a panic");
        }
        let _ended_already = self.stop_admin.send(());
        if let Ok(Err(error)) | Err(error) = self.runtime.block_on(self.admin_task).map_err(io::Error::other) {
            tracing::warn!(%error, "the admin listener ended badly");
        }
        self.runtime.shutdown_background(); // lookups under way are not waited for
        tracing::info!("stopped");
    }
}

/// The signals that ask to stop.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        use tokio::signal::unix::signal;
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
