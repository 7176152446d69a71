//! Room for a request: an endpoint within its limits, waited for if the service lets requests wait, and a connection to
//! it.
//!
//! Counting is done by atomics that all workers share (see [`breaker`](crate::domain::breaker)); here is who waits, and
//! who tells them. A request that leaves a version with waiters tells the one that has waited longest, on whichever
//! worker it is. Whoever got room tells the next, in case there is more. Where nothing is limited, none of this costs
//! more than a look at an `Option`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use super::deadline::{Deadline, Elapsed};
use super::forward::Call;
use super::upstream::{Channel, Trust};
use super::worker::Worker;
use crate::domain::breaker::Shared;
use crate::domain::names::{EndpointId, VersionId};
use crate::domain::pool::{Ask, Endpoint, InFlight, Slot, Unpicked};
use crate::domain::snapshot::Version;
use crate::domain::time::{Moment, TICK};

/// Who waits for room, over all workers.
#[derive(Debug, Default)]
pub struct Queues {
    /// Only of versions for which somebody waits.
    versions: Mutex<BTreeMap<VersionId, Arc<Notify>>>,
    /// Workers, to be asked for idle connections that others wait for.
    keepers: Notify,
    /// Requests that wait for such a connection's place.
    seekers: Notify,
}

impl Queues {
    fn versions(&self) -> MutexGuard<'_, BTreeMap<VersionId, Arc<Notify>>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner) // a map of names: nothing can be half done
    }

    /// Tells the one that has waited longest.
    fn tell(&self, version: VersionId) {
        if let Some(queue) = self.versions().get(&version) {
            queue.notify_one();
        }
    }

    /// Completes when somebody waits for a connection that a worker may be keeping idle.
    pub async fn asked(&self) {
        self.keepers.notified().await;
    }

    /// An idle connection was closed for somebody who waits.
    pub fn made_room(&self) {
        self.seekers.notify_waiters();
    }
}

/// What picking endpoints for one request needs to remember.
#[derive(Debug, Default)]
pub struct Picking {
    /// What it is hashed by.
    pub key: Option<u64>,
    /// Until when it may wait for room; set when it first has to.
    until: Cell<Option<Moment>>,
}

impl Picking {
    #[must_use]
    pub fn by(key: Option<u64>) -> Picking {
        Picking { key, until: Cell::new(None) }
    }
}

/// An attempt under way, counted in; when dropped it is counted out, and who waits is told.
#[derive(Debug)]
pub struct Permit {
    /// `None` only while it is dropped.
    in_flight: Option<InFlight>,
    leaves: Option<Leaves>,
}

/// Who may be waiting for this one to leave.
#[derive(Debug)]
struct Leaves {
    queues: Arc<Queues>,
    version: VersionId,
    shared: Arc<Shared>,
}

impl Permit {
    pub(super) fn new(worker: &Worker, version: &Version, in_flight: InFlight) -> Permit {
        let leaves = version.pool.balancing.limits.any().then(|| Leaves {
            queues: worker.queues.clone(),
            version: version.id,
            shared: version.pool.shared.clone(),
        });
        Permit { in_flight: Some(in_flight), leaves }
    }

    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.in_flight.as_ref().expect("it is kept until the drop").endpoint()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight = None; // first: who is told must find the room
        if let Some(leaves) = &self.leaves
            && leaves.shared.waiting() > 0
        {
            leaves.queues.tell(leaves.version);
        }
    }
}

/// Picks an endpoint that was not tried yet, and waits for room if all of them are full and the service allows it.
pub async fn pick(call: &Call, version: &Version, tried: &[EndpointId]) -> Result<Permit, Unpicked> {
    match pick_at_once(call, version, tried) {
        Err(Unpicked::Full) => {
            let waited = wait(call, version, tried).await;
            if let Err(Unpicked::Full) = waited {
                version.pool.shared.refused();
            }
            waited
        }
        picked => picked,
    }
}

/// As [`pick`], without waiting, and without passing anybody who waits: for what a request can do without.
pub fn pick_at_once(call: &Call, version: &Version, tried: &[EndpointId]) -> Result<Permit, Unpicked> {
    let pool = &version.pool;
    let others_wait = pool.balancing.limits.any() && pool.shared.waiting() > 0;
    let picked = if others_wait { Err(Unpicked::Full) } else { pool.pick(&ask(call, tried)) };
    picked.map(|in_flight| Permit::new(&call.worker, version, in_flight))
}

fn ask<'a>(call: &Call, tried: &'a [EndpointId]) -> Ask<'a> {
    Ask { tried, draw: call.worker.draw(), key: call.picking.key, now: call.worker.deadlines.now() }
}

async fn wait(call: &Call, version: &Version, tried: &[EndpointId]) -> Result<Permit, Unpicked> {
    let (pool, worker) = (&version.pool, &call.worker);
    let limits = &pool.balancing.limits;
    let until = call.picking.until.get().unwrap_or_else(|| worker.now().plus(limits.pending_time));
    call.picking.until.set(Some(until));
    let over = call.service.timeouts.total.map(|total| call.arrived.plus(total));
    let until = over.map_or(until, |over| over.min(until));
    let Some(place) = pool.shared.wait(limits.pending) else { return Err(Unpicked::Full) };
    let ticket = Ticket::draw(&worker.queues, version.id);
    let deadline = worker.deadlines.deadline();
    let mut looks = pool.shared.waiting() == 1; // else somebody was here before
    loop {
        let mut told = pin!(ticket.queue.notified());
        told.as_mut().enable(); // from here on nobody leaves unnoticed
        if looks {
            match pool.pick(&ask(call, tried)) {
                Err(Unpicked::Full) => {}
                picked => {
                    drop(place);
                    return picked.map(|in_flight| Permit::new(worker, version, in_flight)); // the ticket tells the next
                }
            }
        }
        let now = worker.now();
        if now >= until {
            return Err(Unpicked::Full);
        }
        // An endpoint may also become available, or a limit be raised, and nobody tells of that: look once a tick.
        deadline.set(until.min(now.plus(TICK)));
        let _told_or_not = deadline.race(told).await;
        looks = true;
    }
}

/// A place in a version's queue. Whoever gives it up tells the next one: there may be more room.
struct Ticket<'a> {
    queues: &'a Queues,
    version: VersionId,
    queue: Arc<Notify>,
}

impl<'a> Ticket<'a> {
    fn draw(queues: &'a Queues, version: VersionId) -> Ticket<'a> {
        let queue = queues.versions().entry(version).or_default().clone();
        Ticket { queues, version, queue }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut versions = self.queues.versions();
        if Arc::strong_count(&self.queue) <= 2 {
            versions.remove(&self.version); // the map's and this one: nobody waits any more
        } else {
            self.queue.notify_one();
        }
    }
}

/// What a connection to an endpoint is made of.
pub enum Room {
    /// A new one may be opened.
    New(Slot),
    /// One of this worker's came free meanwhile.
    Idle(Channel),
}

/// Room for a connection. The endpoint has room for the request, so within its limit of connections there is an idle
/// one, here or with another worker, which is then asked to close it.
pub async fn connection(
    worker: &Worker,
    endpoint: &Arc<Endpoint>,
    limit: Option<u32>,
    trust: Trust,
    deadline: &Deadline,
) -> Result<Room, Elapsed> {
    if let Some(slot) = endpoint.connect(limit) {
        return Ok(Room::New(slot));
    }
    let _wanted = endpoint.want_connection();
    loop {
        let mut made = pin!(worker.queues.seekers.notified());
        made.as_mut().enable();
        if let Some(slot) = endpoint.connect(limit) {
            return Ok(Room::New(slot));
        }
        if let Some(channel) = worker.upstreams.take(endpoint.id, trust, worker.deadlines.now()).await {
            return Ok(Room::Idle(channel));
        }
        worker.queues.keepers.notify_waiters();
        // One that breaks off tells nobody: look once a tick.
        let mut tick = pin!(tokio::time::sleep(TICK));
        poll_fn(|cx| {
            if deadline.poll(cx).is_ready() {
                return Poll::Ready(Err(Elapsed));
            }
            let ready = made.as_mut().poll(cx).is_ready() || tick.as_mut().poll(cx).is_ready();
            if ready { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await?;
    }
}
