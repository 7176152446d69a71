//! Circuit breaking: how much a version and its endpoints are given at once, over all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What is not exceeded, over all workers. `None`: unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections to one endpoint, idle ones included.
    pub connections: Option<u32>,
    /// Requests under way at one endpoint.
    pub in_flight: Option<u32>,
    /// Requests under way at one version.
    pub version_in_flight: Option<u32>,
    /// Requests of one version that may wait for room.
    pub pending: u32,
    /// For at most so long.
    pub pending_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: None,
            in_flight: None,
            version_in_flight: None,
            pending: 0,
            pending_time: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// Requests that one endpoint can carry: over HTTP/1 each needs a connection of its own.
    #[must_use]
    pub fn of_endpoint(&self) -> Option<u32> {
        match (self.connections, self.in_flight) {
            (Some(connections), Some(in_flight)) => Some(connections.min(in_flight)),
            (one, other) => one.or(other),
        }
    }

    /// Whether a request may have to wait for room, or be refused for want of it.
    #[must_use]
    pub fn any(&self) -> bool {
        self.of_endpoint().is_some() || self.version_in_flight.is_some()
    }
}

/// A cache line of its own: workers on different cores count different things without touching.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// A count that threads share. It never exceeds the limit that those who enter agree on, not even for a moment.
///
/// Who waits for room says so before it looks a last time, and who leaves looks for waiters after it left: one of the
/// two sees the other, because all of these are in one order (`SeqCst`, which costs nothing more where counting is an
/// exclusive instruction anyway).
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU32);

impl Count {
    /// Counts one in, unless that would be one too many.
    #[must_use]
    pub(super) fn enter(&self, limit: Option<u32>) -> bool {
        let Some(limit) = limit else {
            self.0.fetch_add(1, Ordering::SeqCst);
            return true;
        };
        let next = |count| (count < limit).then_some(count + 1);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
    }

    pub(super) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    #[must_use]
    pub(super) fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What all workers share of a version, beside its endpoints. Kept over snapshots.
#[derive(Debug, Default)]
pub struct Shared {
    in_flight: Padded<Count>,
    waiting: Padded<Count>,
    turn: Padded<AtomicU64>,
    refused: AtomicU64,
}

impl Shared {
    /// Requests under way; counted only while the version has a limit.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.0.get()
    }

    /// Requests that wait for room.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.0.get()
    }

    /// Requests that found no room in time, since the process started.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts a request that found no room in time.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of the next turn.
    pub(super) fn turn(&self) -> u64 {
        self.turn.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a request in. `None`: the version is at its limit.
    #[must_use]
    pub fn enter(self: &Arc<Self>, limit: u32) -> Option<Entered> {
        self.in_flight.0.enter(Some(limit)).then(|| Entered(self.clone()))
    }

    /// Counts a request among those that wait. `None`: enough do.
    #[must_use]
    pub fn wait(self: &Arc<Self>, limit: u32) -> Option<Waiting> {
        self.waiting.0.enter(Some(limit)).then(|| Waiting(self.clone()))
    }
}

/// A request under way at a version with a limit; counts itself out.
#[derive(Debug)]
pub struct Entered(Arc<Shared>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.in_flight.0.leave();
    }
}

/// A request that waits for room; counts itself out.
#[derive(Debug)]
pub struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn an_endpoint_carries_no_more_than_it_has_connections_for() {
        let limits = |connections, in_flight| Limits { connections, in_flight, ..Limits::default() }.of_endpoint();
        assert_eq!(limits(None, None), None);
        assert_eq!(limits(Some(3), None), Some(3));
        assert_eq!(limits(None, Some(4)), Some(4));
        assert_eq!(limits(Some(3), Some(4)), Some(3));
    }

    #[test]
    fn a_limit_is_never_exceeded_and_nobody_is_forgotten() {
        const LIMIT: u32 = 3;
        let (shared, exceeded) = (Arc::new(Shared::default()), AtomicBool::new(false));
        let inside = AtomicU32::new(0);
        let worker = || {
            for _ in 0..20_000 {
                if let Some(_entered) = shared.enter(LIMIT) {
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    if now > LIMIT || shared.in_flight() > LIMIT {
                        exceeded.store(true, Ordering::SeqCst);
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(worker);
            }
        });
        assert!(!exceeded.load(Ordering::SeqCst));
        assert_eq!(shared.in_flight(), 0, "everybody who entered has left");
    }

    #[test]
    fn only_so_many_wait() {
        let shared = Arc::new(Shared::default());
        let (first, second) = (shared.wait(2), shared.wait(2));
        assert!(first.is_some() && second.is_some() && shared.wait(2).is_none());
        drop(first);
        assert!(shared.wait(2).is_some());
    }
}
