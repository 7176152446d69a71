//! Timeouts by the hundred thousand: deadlines are slots in a table that the worker sweeps once a tick.
//!
//! Setting one costs a store, not a timer; what is late is noticed within a tick, which is fine for waits of a second
//! and more. Timers of the runtime are for the few things that happen on time.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::domain::time::Moment;

/// The deadlines of one worker.
#[derive(Debug, Default)]
pub struct Deadlines {
    slots: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
    /// As of the last sweep.
    now: Moment,
}

#[derive(Debug, Default)]
struct Slot {
    due: Option<Moment>,
    waker: Option<Waker>,
}

/// One wait's deadline; unset until [`Deadline::set`].
#[derive(Debug)]
pub struct Deadline {
    table: Rc<Deadlines>,
    slot: usize,
}

/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Deadlines {
    #[must_use]
    pub fn deadline(self: &Rc<Self>) -> Deadline {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.all.push(Slot::default());
            slots.all.len() - 1
        });
        Deadline { table: self.clone(), slot }
    }

    /// The time of the last sweep: within a tick of now, for the price of a load.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.slots.borrow().now
    }

    /// Wakes whoever is late.
    pub fn sweep(&self, now: Moment) {
        self.slots.borrow_mut().now = now;
        self.wake(|slot| slot.due.is_some_and(|due| due <= now));
    }

    /// Wakes everybody, to look at something that is no deadline.
    pub fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, which: impl Fn(&Slot) -> bool) {
        let mut slots = self.slots.borrow_mut();
        let woken: Vec<Waker> =
            slots.all.iter_mut().filter(|slot| which(slot)).filter_map(|slot| slot.waker.take()).collect();
        drop(slots); // a waker may run code that sets a deadline
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Deadline {
    pub fn set(&self, due: Moment) {
        self.table.slots.borrow_mut().all[self.slot].due = Some(due);
    }

    pub fn clear(&self) {
        self.table.slots.borrow_mut().all[self.slot].due = None;
    }

    /// Ready once the deadline has passed; otherwise the task is woken when it has.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Elapsed> {
        let mut slots = self.table.slots.borrow_mut();
        let now = slots.now;
        let slot = &mut slots.all[self.slot];
        if slot.due.is_some_and(|due| due <= now) {
            return Poll::Ready(Elapsed);
        }
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The future's output, unless the deadline passes first.
    pub async fn race<F: Future>(&self, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll(cx).map(Err),
        })
        .await
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut slots = self.table.slots.borrow_mut();
        slots.all[self.slot] = Slot::default();
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_wait_ends_at_the_sweep_after_its_deadline() {
        let table = Rc::new(Deadlines::default());
        let deadline = table.deadline();
        deadline.set(Moment(100));
        let swept = async {
            tokio::task::yield_now().await;
            table.sweep(Moment(99));
            tokio::task::yield_now().await;
            table.sweep(Moment(100));
        };
        let (result, ()) = tokio::join!(deadline.race(pending::<()>()), swept);
        assert_eq!(result, Err(Elapsed));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_done_in_time_is_not_late() {
        let table = Rc::new(Deadlines::default());
        let deadline = table.deadline();
        deadline.set(Moment(100));
        assert_eq!(deadline.race(async { 7 }).await, Ok(7));
    }

    #[test]
    fn slots_are_used_again() {
        let table = Rc::new(Deadlines::default());
        for _ in 0..3 {
            let (_a, b) = (table.deadline(), table.deadline());
            b.set(Moment(1));
        }
        assert_eq!(table.slots.borrow().all.len(), 2);
        assert!(table.slots.borrow().all.iter().all(|slot| slot.due.is_none()));
    }
}
