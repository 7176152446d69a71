//! One thread, one runtime, and everything that its connections share: no locks, because nothing leaves the thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use http::header::HeaderValue;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use super::deadline::Deadlines;
use super::handle::request_id;
use super::hold::Holds;
use super::limiter::{Limiters, Shared};
use super::lines::{Lines, Sink};
use super::listener::Accepted;
use super::permits::Queues;
use super::recorder::Recorder;
use super::replay::Spare;
use super::upstream::{Channel, Upstreams};
use super::{Limits, Phase, connection};
use crate::domain::names::EndpointId;
use crate::domain::retry::RetryBudgets;
use crate::domain::snapshot::Snapshot;
use crate::domain::time::{Moment, TICK, Tick};
use crate::domain::window::Batch;
use crate::link::{BatchSender, Clock, Subscriber};

/// Accepted sockets that may wait for one worker; behind that the acceptor waits, and then the kernel's backlog.
const WAITING_SOCKETS: usize = 1_024;
/// Idle upstream connections are looked over this often.
const REAP_TICKS: u64 = 10;
/// So are the limiters' buckets.
const SWEEP_TICKS: u64 = 10;

/// What one worker thread owns.
#[derive(Debug)]
pub struct Worker {
    pub index: usize,
    pub limits: Cell<Limits>,
    /// `None`: nobody asked for one.
    pub access_log: Option<Lines>,
    pub recorder: Rc<Recorder>,
    pub upstreams: Upstreams,
    pub deadlines: Rc<Deadlines>,
    pub limiters: Limiters,
    /// Requests of paused services.
    pub holds: Holds,
    pub load: Arc<Load>,
    pub handshakes: Gate,
    /// Earned by the requests of ticks that have ended.
    pub budgets: RefCell<RetryBudgets>,
    pub spare: Spare,
    /// Shared by all workers.
    pub queues: Arc<Queues>,
    clock: Clock,
    subscriber: RefCell<Subscriber>,
    random: RefCell<fastrand::Rng>,
    /// Unix time at the clock's epoch, for request ids.
    epoch_unix_ms: u64,
    /// What request ids are written into.
    ids: RefCell<BytesMut>,
    draining: Cell<Option<Moment>>,
}

/// What the acceptor knows of a worker, written by that worker alone.
#[derive(Debug, Default)]
pub struct Load {
    connections: AtomicU32,
    requests: AtomicU32,
}

/// The acceptor's and the owner's hold on a worker.
#[derive(Debug)]
pub struct Handle {
    pub sockets: mpsc::Sender<Accepted>,
    pub load: Arc<Load>,
    pub thread: thread::JoinHandle<()>,
}

/// What a worker needs to start.
#[derive(Debug, Clone)]
pub struct Setup {
    pub limits: watch::Receiver<Limits>,
    pub access_log: Option<Sink>,
    pub clock: Clock,
    pub subscriber: Subscriber,
    pub batches: BatchSender,
    pub limiters: Arc<Shared>,
    pub queues: Arc<Queues>,
    pub phase: watch::Receiver<Phase>,
}

/// Starts a worker's thread.
pub fn start(index: usize, setup: Setup) -> io::Result<Handle> {
    let (sockets, accepted) = mpsc::channel(WAITING_SOCKETS);
    let load = Arc::new(Load::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let thread = thread::Builder::new().name(format!("worker-{index}")).spawn({
        let load = load.clone();
        move || {
            let worker = Rc::new(Worker::new(index, &setup, load));
            LocalSet::new().block_on(&runtime, run(worker, setup, accepted));
        }
    })?;
    Ok(Handle { sockets, load, thread })
}

/// Serves what the acceptor hands over, sends a batch per tick, and ends when drained or told to.
async fn run(worker: Rc<Worker>, mut setup: Setup, mut accepted: mpsc::Receiver<Accepted>) {
    let mut flush = tokio::time::interval_at(setup.clock.instant(worker.now().tick().end()).into(), TICK);
    flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (mut unsent, mut published) = (None, setup.subscriber.published());
    loop {
        tokio::select! {
            _ = flush.tick() => {
                worker.limits.set(*setup.limits.borrow_and_update());
                unsent = worker.tick(&setup.batches, unsent);
                let last = accepted.is_closed() && accepted.is_empty();
                if worker.draining().is_some() && last && worker.load.connections() == 0 {
                    break;
                }
            }
            () = published.changed() => worker.look_at_holds(),
            Some(accepted) = accepted.recv() => welcome(&worker, accepted),
            () = setup.queues.asked() => worker.make_room(),
            Ok(()) = setup.phase.changed() => match *setup.phase.borrow_and_update() {
                Phase::Serving => {}
                Phase::Draining => worker.drain(),
                Phase::Ended => break,
            },
        }
    }
    worker.tick(&setup.batches, unsent);
}

fn welcome(worker: &Rc<Worker>, Accepted { stream, peer, rules }: Accepted) {
    match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => drop(tokio::task::spawn_local(connection::serve(worker.clone(), stream, peer, rules))),
        Err(error) => tracing::warn!(%peer, %error, "an accepted socket could not be used"),
    }
}

impl Worker {
    #[expect(clippy::disallowed_methods, reason = "once, to date the epoch: request ids carry the time of day")]
    fn new(index: usize, setup: &Setup, load: Arc<Load>) -> Worker {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let running = setup.clock.now().since(Moment::default());
        Worker {
            index,
            limits: Cell::new(*setup.limits.borrow()),
            access_log: setup.access_log.clone().map(Lines::new),
            recorder: Rc::default(),
            upstreams: Upstreams::default(),
            deadlines: Rc::default(),
            limiters: Limiters::new(setup.clock, setup.limiters.clone()),
            holds: Holds::default(),
            load,
            handshakes: Gate::default(),
            budgets: RefCell::default(),
            spare: Spare::default(),
            queues: setup.queues.clone(),
            clock: setup.clock,
            subscriber: RefCell::new(setup.subscriber.clone()),
            random: RefCell::new(fastrand::Rng::new()), // seeded by the operating system, each worker apart
            epoch_unix_ms: u64::try_from(unix.saturating_sub(running).as_millis()).unwrap_or(0),
            ids: RefCell::default(),
            draining: Cell::new(None),
        }
    }

    /// A worker without a thread.
    #[cfg(test)]
    pub fn idle(subscriber: Subscriber) -> Rc<Worker> {
        let limits = Limits { request_head: TICK, client_idle: TICK, client_write: TICK, tls_handshake: TICK };
        let setup = Setup {
            limits: watch::channel(limits).1,
            access_log: None,
            clock: Clock::start(),
            subscriber,
            batches: crate::link::batches().0,
            limiters: Arc::default(),
            queues: Arc::default(),
            phase: watch::channel(Phase::Serving).1,
        };
        Rc::new(Worker::new(0, &setup, Arc::default()))
    }

    #[must_use]
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Uniform over `u64`, independent of all others: a coin.
    pub fn draw(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// Reads one consistent picture. Nothing of the snapshot is held over a wait: clone what is needed.
    pub fn with_snapshot<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        read(self.subscriber.borrow_mut().current())
    }

    pub fn request_id(&self) -> HeaderValue {
        let unix_ms = self.epoch_unix_ms + self.deadlines.now().0 / 1_000;
        let (high, low) = (self.draw().to_le_bytes(), self.draw().to_le_bytes());
        let mut random = [0; 10];
        random[..8].copy_from_slice(&high);
        random[8..].copy_from_slice(&low[..2]);
        request_id(unix_ms, random, &mut self.ids.borrow_mut())
    }

    /// Keeps a connection whose exchange is over, unless somebody waits for its place.
    pub fn keep(&self, channel: Channel) {
        if channel.slot().wanted() {
            drop(channel);
            self.queues.made_room();
        } else {
            self.upstreams.give_back(channel, self.deadlines.now()); // a tick more or less
        }
    }

    /// Closes idle connections whose place somebody waits for.
    fn make_room(&self) {
        if self.upstreams.close_wanted() {
            self.queues.made_room();
        }
    }

    /// Since when; `None` while it serves.
    #[must_use]
    pub fn draining(&self) -> Option<Moment> {
        self.draining.get()
    }

    /// Lets go who waits for a service that is not paused any more.
    fn look_at_holds(&self) {
        let now = self.now();
        self.with_snapshot(|snapshot| self.holds.look(snapshot, now));
    }

    fn drain(&self) {
        self.draining.set(Some(self.now()));
        self.holds.stop();
        self.deadlines.wake_all(); // every connection has a deadline, and looks at `draining` when woken
    }

    /// Requests earn their versions extra attempts.
    fn earn(&self, ended: Tick, counted: &Batch) {
        let mut budgets = self.budgets.borrow_mut();
        for (version, requests) in counted.drawn.iter().chain(&counted.forced) {
            budgets.earn(*version, ended, *requests);
        }
    }

    /// Ends a tick: sends what was counted, or keeps what did not fit, and wakes what is late.
    fn tick(&self, batches: &BatchSender, unsent: Option<Batch>) -> Option<Batch> {
        let now = self.now();
        let ended = Tick(now.tick().0.saturating_sub(1));
        let revision = self.with_snapshot(|snapshot| snapshot.revision);
        let fresh = self.recorder.flush(self.index, ended, revision);
        self.earn(ended, &fresh);
        let batch = match unsent {
            Some(mut older) => {
                older.merge(fresh);
                older
            }
            None => fresh,
        };
        if let Some(lines) = &self.access_log {
            lines.flush();
        }
        self.deadlines.sweep(now);
        self.look_at_holds(); // a pause may be over
        if ended.0.is_multiple_of(SWEEP_TICKS) {
            self.with_snapshot(|snapshot| self.limiters.tick(now, snapshot));
        }
        if ended.0.is_multiple_of(REAP_TICKS) {
            self.upstreams.reap(now);
            self.budgets.borrow_mut().forget(ended);
            let open = self.with_snapshot(open_endpoints);
            self.upstreams.keep(|endpoint| open.contains(&endpoint));
        }
        batches.try_send(batch)
    }
}

/// Lets a bounded number in at a time.
#[derive(Debug, Clone, Default)]
pub struct Gate(Rc<Cell<u32>>);

impl Gate {
    /// `None` when `most` are in already.
    #[must_use]
    pub fn enter(&self, most: u32) -> Option<Entered> {
        let inside = self.0.get();
        (inside < most).then(|| {
            self.0.set(inside + 1);
            Entered(self.clone())
        })
    }
}

/// One that was let in; leaves when dropped.
#[derive(Debug)]
pub struct Entered(Gate);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get().saturating_sub(1));
    }
}

fn open_endpoints(snapshot: &Snapshot) -> BTreeSet<EndpointId> {
    let members = snapshot.services.iter().flat_map(|service| service.members());
    members.filter(|member| member.wanted()).map(|member| member.endpoint.id).collect()
}

impl Load {
    /// Streams first: a few busy connections weigh more than many idle ones.
    #[must_use]
    pub fn weight(&self) -> (u32, u32) {
        (self.requests(), self.connections())
    }

    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn connection(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(self.clone())
    }

    pub fn begin(&self) {
        self.requests.store(self.requests.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.requests.store(self.requests.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }
}

/// A connection being served; counts itself out.
#[derive(Debug)]
pub struct Connected(Arc<Load>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
