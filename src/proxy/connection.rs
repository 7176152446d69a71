//! One client connection: HTTP/1.1 until it ends, is idle for too long, sends its head too slowly, or is drained.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::TcpStream;

use super::body::Outgoing;
use super::handle::handle;
use super::headers::Client;
use super::socket::Socket;
use super::worker::Worker;
use crate::domain::time::Moment;

/// Request heads up to this size; larger ones are answered with 431.
const LARGEST_HEAD: usize = 64 * 1024;
const MOST_HEADERS: usize = 100;
/// A client that has not heard yet that we are stopping may be sending its next request: for so long after its last
/// answer (or since the stop began) a connection is still read from. hyper's own graceful shutdown closes at once.
const CROSSING: Duration = Duration::from_millis(500);

/// Serves one client until its connection is over. Errors are the client's and end nothing else.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let _counted = worker.load.connection();
    let activity = Rc::new(Activity::new(worker.now()));
    let client = Rc::new(Client::new(peer, local));
    let service = {
        let (worker, activity) = (worker.clone(), activity.clone());
        service_fn(move |request| answer(worker.clone(), client.clone(), activity.begin(&worker), request))
    };
    let io = Watched { io: Socket::new(stream), worker: worker.clone(), activity: activity.clone() };
    let mut builder = http1::Builder::new();
    builder.max_headers(MOST_HEADERS).max_header_size(LARGEST_HEAD).half_close(false);
    let mut connection = pin!(builder.serve_connection(io, service));
    let deadline = worker.deadlines.deadline();
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        match activity.due(&worker) {
            Some(due) => deadline.set(due),
            None => deadline.clear(),
        }
        deadline.poll(cx).map(|_| None)
    });
    if let Some(Err(error)) = ended.await {
        tracing::debug!(%peer, %error, "client connection ended");
    }
}

async fn answer(
    worker: Rc<Worker>,
    client: Rc<Client>,
    busy: Busy,
    request: Request<Incoming>,
) -> Result<Response<Outgoing>, std::convert::Infallible> {
    let mut response = handle(&worker, &client, request).await.map(|body| body.holding(busy));
    if worker.draining().is_some() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// What the client is doing, for the limits on what it may take its time with.
#[derive(Debug)]
struct Activity {
    doing: Cell<Doing>,
    /// The last of a response is still with us, because the client reads slowly.
    unread: Cell<bool>,
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
    fn new(now: Moment) -> Activity {
        Activity { doing: Cell::new(Doing::New(now)), unread: Cell::new(false) }
    }

    fn begin(self: &Rc<Self>, worker: &Rc<Worker>) -> Busy {
        self.doing.set(Doing::Busy);
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
        self.unread.set(written.is_pending());
        if let Doing::Idle(_) = self.doing.get() {
            self.doing.set(Doing::Idle(worker.deadlines.now()));
        }
    }

    fn due(&self, worker: &Worker) -> Option<Moment> {
        match self.doing.get() {
            Doing::Idle(_) if self.unread.get() => None, // as in the middle of a body
            Doing::Idle(since) => Some(soon(worker, since, worker.limits.get().client_idle)),
            Doing::New(since) => Some(soon(worker, since, worker.limits.get().request_head)),
            Doing::Head(since) => Some(since.plus(worker.limits.get().request_head)),
            Doing::Busy => None,
        }
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
        self.activity.doing.set(Doing::Idle(self.worker.deadlines.now()));
    }
}

/// The client's socket, with an eye on when bytes come in and whether they go out.
struct Watched {
    io: Socket,
    worker: Rc<Worker>,
    activity: Rc<Activity>,
}

impl Read for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        if result.is_ready() {
            self.activity.received(&self.worker);
        }
        result
    }
}

impl Write for Watched {
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
