//! Requests that wait while their service is paused: one queue per worker and service, let go in order.
//!
//! A waiting request costs a place in the service's count (over all workers), a slot in the deadline table and a
//! channel. Nobody polls: a new snapshot wakes the worker, which lets the queues of services go that are not paused any
//! more. A client that leaves drops its future, and with it the place.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;

use super::reply::Fault;
use super::worker::Worker;
use crate::domain::admission::Gate;
use crate::domain::names::ServiceName;
use crate::domain::snapshot::{Service, Snapshot};
use crate::domain::time::Moment;

/// A worker's waiting requests.
#[derive(Debug, Default)]
pub struct Holds {
    queues: RefCell<BTreeMap<ServiceName, Queue>>,
}

type Queue = VecDeque<oneshot::Sender<Release>>;

/// Why a request waits no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    Resumed,
    /// The proxy stops.
    Stopping,
}

/// Waits until the service is resumed, or not paused any more.
pub async fn wait(worker: &Worker, service: &Service) -> Result<(), Fault> {
    if worker.draining().is_some() {
        return Err(Fault::HoldStopping);
    }
    let Gate { hold, held, .. } = &service.gate;
    let Some(_place) = held.enter(hold.requests) else {
        worker.recorder.turned(&service.name, |turned| turned.hold_full += 1);
        return Err(Fault::HoldFull);
    };
    let deadline = worker.deadlines.deadline();
    deadline.set(worker.now().plus(hold.time));
    match deadline.race(worker.holds.join(&service.name)).await {
        Ok(Ok(Release::Resumed)) => Ok(()),
        Ok(Ok(Release::Stopping) | Err(_)) => Err(Fault::HoldStopping),
        Err(_elapsed) => {
            worker.recorder.turned(&service.name, |turned| turned.hold_late += 1);
            Err(Fault::HoldLate)
        }
    }
}

impl Holds {
    fn join(&self, service: &ServiceName) -> oneshot::Receiver<Release> {
        let (sender, receiver) = oneshot::channel();
        let mut queues = self.queues.borrow_mut();
        let queue = queues.entry(service.clone()).or_default();
        if queue.len() == queue.capacity() {
            queue.retain(|waiting| !waiting.is_closed()); // whoever left has no place any more
        }
        queue.push_back(sender);
        receiver
    }

    /// Lets go, in order, who waits for a service that is not paused by this snapshot.
    pub fn look(&self, snapshot: &Snapshot, now: Moment) {
        if self.queues.borrow().is_empty() {
            return;
        }
        let paused = |name: &ServiceName| {
            snapshot.services.iter().any(|service| service.name == *name && service.gate.is_paused(now))
        };
        let resumed: Vec<Queue> =
            self.queues.borrow_mut().extract_if(.., |name, _| !paused(name)).map(|(_, q)| q).collect();
        for queue in resumed {
            release(queue, Release::Resumed);
        }
    }

    /// Turns everybody away: the proxy stops.
    pub fn stop(&self) {
        for queue in std::mem::take(&mut *self.queues.borrow_mut()).into_values() {
            release(queue, Release::Stopping);
        }
    }
}

fn release(queue: Queue, release: Release) {
    for waiting in queue {
        let _left_already = waiting.send(release);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::task::{LocalSet, yield_now};

    use super::*;

    fn shop() -> ServiceName {
        ServiceName::new("shop").unwrap()
    }

    /// Enough for every task to have its turn.
    async fn turns() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_came_first_goes_first() {
        LocalSet::new()
            .run_until(async {
                let (holds, gone) = (Rc::new(Holds::default()), Rc::<RefCell<Vec<u32>>>::default());
                for number in 0..100 {
                    let (holds, gone) = (holds.clone(), gone.clone());
                    tokio::task::spawn_local(async move {
                        holds.join(&shop()).await.unwrap();
                        gone.borrow_mut().push(number);
                    });
                }
                turns().await;
                assert!(gone.borrow().is_empty());
                holds.look(&Snapshot::default(), Moment(0));
                turns().await;
                assert_eq!(*gone.borrow(), (0..100).collect::<Vec<_>>());
            })
            .await;
    }

    #[test]
    fn those_who_leave_do_not_pile_up() {
        let holds = Holds::default();
        let stays = holds.join(&shop());
        for _ in 0..10_000 {
            drop(holds.join(&shop()));
        }
        assert!(holds.queues.borrow()[&shop()].capacity() < 64);
        holds.stop();
        assert_eq!(stays.blocking_recv(), Ok(Release::Stopping));
    }
}
