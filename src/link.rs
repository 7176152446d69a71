//! What the planes share: one clock, and two pipes. Snapshots go down, batches of tallies come up. Neither plane ever
//! waits for the other.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, Cache};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::domain::snapshot::Snapshot;
use crate::domain::time::{Moment, micros};
use crate::domain::window::Batch;

/// Monotone time on one epoch, so that a tick's number means the same to every worker and to the engine.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    epoch: Instant,
}

impl Clock {
    /// A clock whose epoch is now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn start() -> Clock {
        Clock { epoch: Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(micros(self.epoch.elapsed()))
    }

    /// When a moment is, for timers.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        self.epoch + moment.since(Moment::default())
    }
}

/// Batches that may wait for the engine, all workers together: seconds of them. Behind that, workers keep and merge.
const WAITING_BATCHES: usize = 1_024;

/// The writing end of the snapshot; there is one, and the engine owns it.
#[derive(Debug)]
pub struct Publisher {
    cell: Arc<ArcSwap<Snapshot>>,
    bell: watch::Sender<()>,
}

/// The reading end: one per worker, a pointer comparison per read.
#[derive(Debug, Clone)]
pub struct Subscriber {
    cell: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    bell: watch::Receiver<()>,
}

/// Rings when a snapshot has been published: for what waits for one. Requests only look.
#[derive(Debug)]
pub struct Published(watch::Receiver<()>);

impl Published {
    /// Returns once for any number of snapshots published since; never again once the publisher is gone. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[must_use]
pub fn snapshots(first: Snapshot) -> (Publisher, Subscriber) {
    let cell = Arc::new(ArcSwap::from_pointee(first));
    let (bell, rung) = watch::channel(());
    (Publisher { cell: cell.clone(), bell }, Subscriber { cell: Cache::new(cell), bell: rung })
}

impl Publisher {
    pub fn publish(&self, snapshot: Snapshot) {
        self.cell.store(Arc::new(snapshot));
        self.bell.send_replace(());
    }

    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.cell.load_full()
    }
}

impl Subscriber {
    /// The newest snapshot. The one before stays alive until this is called, so an idle worker calls it on its tick.
    pub fn current(&mut self) -> &Arc<Snapshot> {
        self.cell.load()
    }

    #[must_use]
    pub fn published(&self) -> Published {
        Published(self.bell.clone())
    }
}

/// A worker's end of the way up.
#[derive(Debug, Clone)]
pub struct BatchSender(mpsc::Sender<Batch>);

/// The engine's end of the way up.
#[derive(Debug)]
pub struct BatchReceiver(mpsc::Receiver<Batch>);

#[must_use]
pub fn batches() -> (BatchSender, BatchReceiver) {
    let (sender, receiver) = mpsc::channel(WAITING_BATCHES);
    (BatchSender(sender), BatchReceiver(receiver))
}

impl BatchSender {
    /// Sends without waiting. A batch that does not fit comes back: the worker merges the next one into it.
    #[must_use]
    pub fn try_send(&self, batch: Batch) -> Option<Batch> {
        match self.0.try_send(batch) {
            Ok(()) => None,
            Err(TrySendError::Full(batch) | TrySendError::Closed(batch)) => Some(batch),
        }
    }
}

impl BatchReceiver {
    /// The next batch; `None` once every worker is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Batch> {
        self.0.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::state::State;
    use crate::domain::time::Tick;

    #[test]
    fn a_full_pipe_gives_the_batch_back() {
        let (sender, _receiver) = batches();
        let sent = (0..1_000_000)
            .take_while(|tick| sender.try_send(Batch { tick: Tick(*tick), ..Batch::default() }).is_none())
            .count();
        assert_eq!(sent, WAITING_BATCHES);
        let refused = sender.try_send(Batch { tick: Tick(9), ..Batch::default() }).unwrap();
        assert_eq!(refused.tick, Tick(9));
    }

    #[test]
    fn what_is_published_is_seen_by_the_next_reader() {
        let (publisher, mut subscriber) = snapshots(Snapshot::default());
        publisher.publish(Snapshot::of(&State::default(), subscriber.current()));
        assert_eq!(subscriber.current().revision, 1);
    }
}
