//! What a client is doing, for the limits on what it may take its time with.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite};

use super::socket::Socket;
use super::worker::Worker;
use crate::domain::time::Moment;

/// A client that has not heard yet that we are stopping may be sending its next request: for so long after its last
/// answer (or since the stop began) a connection is still read from. hyper's own graceful shutdown closes at once.
const CROSSING: Duration = Duration::from_millis(500);

/// One client connection's.
#[derive(Debug)]
pub struct Activity {
    doing: Cell<Doing>,
    /// Requests being answered: at most one in HTTP/1.1.
    requests: Cell<u32>,
    /// Since when the client has not read what there is to read.
    unread: Cell<Option<Moment>>,
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    /// Nothing since it connected.
    New(Moment),
    /// Nothing since its last answer.
    Idle(Moment),
    /// Sending a request head since.
    Head(Moment),
    /// Being answered: the request's own timeouts apply.
    Busy,
}

impl Activity {
    /// A new connection owes its first head from the start.
    #[must_use]
    pub fn new(now: Moment) -> Rc<Activity> {
        Rc::new(Activity { doing: Cell::new(Doing::New(now)), requests: Cell::new(0), unread: Cell::new(None) })
    }

    pub fn begin(self: &Rc<Self>, worker: &Rc<Worker>) -> Busy {
        self.doing.set(Doing::Busy);
        self.requests.set(self.requests.get() + 1);
        worker.load.begin();
        Busy { worker: worker.clone(), activity: self.clone() }
    }

    fn received(&self, worker: &Worker) {
        match self.doing.get() {
            Doing::New(since) => self.doing.set(Doing::Head(since)),
            Doing::Idle(_) => self.doing.set(Doing::Head(worker.deadlines.now())),
            Doing::Head(_) | Doing::Busy => {}
        }
    }

    fn wrote(&self, worker: &Worker, written: &Poll<io::Result<usize>>) {
        let unread = self.unread.get().unwrap_or_else(|| worker.deadlines.now());
        self.unread.set(written.is_pending().then_some(unread));
        if let Doing::Idle(_) = self.doing.get() {
            self.doing.set(Doing::Idle(worker.deadlines.now()));
        }
    }

    /// When the connection has waited for long enough.
    pub fn due(&self, worker: &Worker) -> Option<Moment> {
        let limits = worker.limits.get();
        let unread = self.unread.get().map(|since| since.plus(limits.client_write));
        let waiting = match self.doing.get() {
            Doing::Idle(_) if unread.is_some() => None, // as in the middle of a body
            Doing::Idle(since) => Some(soon(worker, since, limits.client_idle)),
            Doing::New(since) => Some(soon(worker, since, limits.request_head)),
            Doing::Head(since) => Some(since.plus(limits.request_head)),
            Doing::Busy => None,
        };
        waiting.into_iter().chain(unread).min()
    }
}

/// When a wait for a client that says nothing ends: sooner while we are stopping.
fn soon(worker: &Worker, since: Moment, patience: Duration) -> Moment {
    let due = since.plus(patience);
    worker.draining().map_or(due, |stopping| due.min(since.max(stopping).plus(CROSSING)))
}

/// A request being answered: from its head to the last byte of its response.
#[derive(Debug)]
pub struct Busy {
    worker: Rc<Worker>,
    activity: Rc<Activity>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.worker.load.end();
        let left = self.activity.requests.get().saturating_sub(1);
        self.activity.requests.set(left);
        if left == 0 {
            self.activity.doing.set(Doing::Idle(self.worker.deadlines.now()));
        }
    }
}

/// The client's socket, with an eye on when bytes come in and whether they go out.
#[derive(Debug)]
pub struct Watched<S> {
    io: Socket<S>,
    worker: Rc<Worker>,
    activity: Rc<Activity>,
}

impl<S> Watched<S> {
    #[must_use]
    pub fn new(stream: S, worker: &Rc<Worker>, activity: &Rc<Activity>) -> Watched<S> {
        Watched { io: Socket::new(stream), worker: worker.clone(), activity: activity.clone() }
    }
}

impl<S: AsyncRead + Unpin> Read for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        if result.is_ready() {
            self.activity.received(&self.worker);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> Write for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.activity.wrote(&self.worker, &written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.activity.wrote(&self.worker, &written);
        written
    }
}
