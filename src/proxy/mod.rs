//! The data plane: workers that forward requests by the newest snapshot and report what came of them.
//!
//! ```text
//!  listener ──▶ worker ──▶ connection ──▶ handle ──▶ forward ──▶ attempt ──▶ upstream
//!  (accepts)   (a thread)  (one client)   (check,    (one after  (one)       (connections
//!                 │                        route,     the other)              to endpoints)
//!                 │                        admit,       │                       │
//!                 │                        choose)      │                       │
//!                 ▼ every tick                          ▼                       ▼
//!              link::Batch ◀── recorder ◀── settles ── dues ◀────────────────── body
//! ```
//!
//! A request is decided in one go from one snapshot, then everything it needs is in its hands. Nothing here takes a
//! lock or waits for the control plane. It does not know why weights are what they are. Who asks for an access log gets
//! a line per request from `access`, which leaves by `lines` and a thread of its own.

mod access;
mod activity;
mod admission;
mod attempt;
mod body;
mod connection;
mod cookies;
mod deadline;
mod dues;
mod forward;
mod handle;
mod headers;
mod hold;
mod limiter;
mod lines;
mod listener;
mod permits;
mod recorder;
mod replay;
mod reply;
mod socket;
mod stall;
mod timed;
pub mod tls;
mod upstream;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use self::worker::Load;
use crate::link::{BatchSender, Clock, Subscriber};

pub use lines::{Log, Shared, Sink, Style, Target};
pub use listener::{Listener, Rules, Sockets, bind};

/// What a client may take its time with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To send a whole request head.
    pub request_head: Duration,
    /// Between two requests on a connection.
    pub client_idle: Duration,
    /// Between two reads of an answer.
    pub client_write: Duration,
    /// To agree on TLS.
    pub tls_handshake: Duration,
}

/// How the data plane is to run.
#[derive(Debug, Clone)]
pub struct Settings {
    pub workers: usize,
    pub limits: Limits,
    /// Where every request's log line goes, if it gets one.
    pub access_log: Option<Sink>,
}

/// Where the data plane is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Accepts nothing new; connections end after the response they are busy with.
    Draining,
    /// Whatever is left is cut off.
    Ended,
}

/// The running data plane.
#[derive(Debug)]
pub struct Proxy {
    phase: watch::Sender<Phase>,
    knobs: Knobs,
    threads: Vec<thread::JoinHandle<()>>,
    loads: Vec<Arc<Load>>,
    addresses: Vec<SocketAddr>,
}

/// Starts the worker threads and an acceptor on sockets that are bound already.
pub fn start(
    listeners: Vec<Listener>,
    settings: Settings,
    clock: Clock,
    subscriber: &Subscriber,
    batches: BatchSender,
) -> io::Result<Proxy> {
    let (phase, watched) = watch::channel(Phase::Serving);
    let (limits, limited) = watch::channel(settings.limits);
    let (sockets, listening) = mpsc::unbounded_channel();
    let addresses = listeners.iter().map(|listener| listener.socket.local_addr()).collect::<io::Result<Vec<_>>>()?;
    let setup = worker::Setup {
        limits: limited,
        access_log: settings.access_log,
        clock,
        subscriber: subscriber.clone(),
        batches,
        limiters: Arc::default(),
        queues: Arc::default(),
        phase: watched,
    };
    let (mut threads, mut desks, mut loads) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..settings.workers {
        let handle = worker::start(index, setup.clone())?;
        loads.push(handle.load.clone());
        desks.push(listener::Desk { sockets: handle.sockets, load: handle.load });
        threads.push(handle.thread);
    }
    threads.push(listener::start(listeners, listening, desks, setup.phase)?);
    Ok(Proxy { phase, knobs: Knobs { limits, sockets }, threads, loads, addresses })
}

/// What may be changed while it runs.
#[derive(Debug, Clone)]
pub struct Knobs {
    limits: watch::Sender<Limits>,
    sockets: mpsc::UnboundedSender<Sockets>,
}

impl Knobs {
    /// From the next tick on.
    pub fn limit(&self, limits: Limits) {
        self.limits.send_replace(limits);
    }

    /// Changes what is listened on. Connections that came from there go on as they are.
    pub fn listen(&self, sockets: Sockets) {
        let _stopping = self.sockets.send(sockets);
    }
}

impl Proxy {
    #[must_use]
    pub fn knobs(&self) -> Knobs {
        self.knobs.clone()
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Counts the requests being answered, whenever it is asked.
    pub fn active(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let loads = self.loads.clone();
        move || loads.iter().map(|load| u64::from(load.requests())).sum()
    }

    /// Stops accepting; connections end as they finish.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Whether every worker has nothing left to do.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.threads.iter().all(thread::JoinHandle::is_finished)
    }

    /// Cuts off what is left and waits for the threads.
    pub fn end(self) {
        self.phase.send_replace(Phase::Ended);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the data plane ended by a panic");
            }
        }
    }
}
