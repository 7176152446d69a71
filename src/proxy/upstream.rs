//! This worker's connections to endpoints. The seam behind which our own HTTP/1.1 client can take hyper's place:
//! nothing outside this file names hyper's client.
//!
//! A connection is a future that moves bytes when polled. It is polled inside the request's task, by
//! [`Channel::exchange`] and then by the response body, never in a task of its own: no wake-ups between tasks, and
//! dropping the request drops the connection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use tokio::net::TcpStream;

use super::deadline::Deadlines;
use super::replay::{Source, Tape};
use super::socket::Socket;
use crate::domain::names::EndpointId;
use crate::domain::pool::Slot;
use crate::domain::time::Moment;

/// Idle connections kept per endpoint and worker; the oldest goes first.
const IDLE_PER_ENDPOINT: usize = 256;
/// Kept below the idle limits that servers commonly have (nginx 75 s, Apache 5 s closes on its own and is noticed).
const IDLE_FOR: Duration = Duration::from_secs(30);
/// A connection that had been idle for at least this long and is found dead was closed for its idleness, not for the
/// request.
const IDLE_RACE: Duration = Duration::from_millis(500);
/// A connection that was idle for longer may be about to be closed: common servers do so after some seconds.
const YOUNG: Duration = Duration::from_secs(1);
/// For so long an endpoint that closed a connection after one exchange is taken to do so with others.
const HASTY_FOR: Duration = Duration::from_secs(10);
/// Response heads up to this size; larger ones are malformed.
const LARGEST_HEAD: usize = 64 * 1024;

/// Idle connections, most recently used last.
#[derive(Debug, Default)]
pub struct Upstreams {
    idle: RefCell<BTreeMap<EndpointId, Vec<Channel>>>,
    /// Endpoints that closed a young connection after its first exchange, and when.
    hasty: RefCell<BTreeMap<EndpointId, Moment>>,
}

/// Which idle connections will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    Any,
    /// For what must not be sent twice: what is written to a connection in the moment of its closing is lost.
    Young,
}

impl Upstreams {
    /// The most recently used connection that still lives.
    pub async fn take(&self, endpoint: EndpointId, trust: Trust, now: Moment) -> Option<Channel> {
        poll_fn(|cx| {
            while let Some(mut channel) = self.newest(endpoint, trust, now) {
                if channel.lives(cx) {
                    return Poll::Ready(Some(channel));
                }
                self.found_dead(&channel, now);
            }
            Poll::Ready(None)
        })
        .await
    }

    fn newest(&self, endpoint: EndpointId, trust: Trust, now: Moment) -> Option<Channel> {
        let will_do = |newest: &mut Channel| {
            let hasty = || self.hasty.borrow().get(&endpoint).is_some_and(|seen| now.since(*seen) < HASTY_FOR);
            trust == Trust::Any || (newest.idle_for(now) < YOUNG && !hasty())
        };
        self.idle.borrow_mut().get_mut(&endpoint)?.pop_if(will_do)
    }

    /// Learns from a connection that died while it was idle, or as it was used again.
    pub fn found_dead(&self, channel: &Channel, now: Moment) {
        if channel.exchanges == 1 && channel.idle_for(now) < YOUNG {
            self.hasty.borrow_mut().insert(channel.endpoint, now);
        }
    }

    /// Keeps a connection whose exchange is over for the next one.
    pub fn give_back(&self, mut channel: Channel, now: Moment) {
        channel.idle_since = Some(now);
        channel.exchanges = channel.exchanges.saturating_add(1);
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry(channel.endpoint).or_default();
        if kept.len() == IDLE_PER_ENDPOINT {
            kept.remove(0);
        }
        kept.push(channel);
    }

    /// Closes the idle connections to endpoints that get nothing new any more.
    pub fn keep(&self, open: impl Fn(EndpointId) -> bool) {
        self.idle.borrow_mut().retain(|endpoint, _| open(*endpoint));
    }

    /// Closes the oldest connection to every endpoint that somebody waits for room at; says whether there was one.
    pub fn close_wanted(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let wanted = idle.values_mut().filter(|kept| kept.first().is_some_and(|oldest| oldest.slot.wanted()));
        wanted.map(|kept| kept.remove(0)).count() > 0
    }

    /// Drops what was closed by the other side, or has been idle for too long.
    pub fn reap(&self, now: Moment) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut idle = self.idle.borrow_mut();
        for kept in idle.values_mut() {
            kept.retain_mut(|channel| channel.idle_for(now) < IDLE_FOR && channel.lives(&mut cx));
        }
        idle.retain(|_, kept| !kept.is_empty());
        self.hasty.borrow_mut().retain(|_, seen| now.since(*seen) < HASTY_FOR);
    }
}

/// One connection to an endpoint.
#[derive(Debug)]
pub struct Channel {
    sender: SendRequest<Upload>,
    /// Boxed: it is large, and moves with every request from the idle ones to the exchange, to the body, and back.
    connection: Box<Connection<Socket, Upload>>,
    endpoint: EndpointId,
    /// `None` on its first exchange.
    idle_since: Option<Moment>,
    /// That are over.
    exchanges: u32,
    closed: bool,
    /// Its place among the endpoint's connections.
    slot: Slot,
}

/// Why an exchange brought no response head.
#[derive(Debug)]
pub enum Failed {
    /// Nothing of the request was written: it is whole, and may go elsewhere.
    Unsent(Request<Upload>),
    /// The request's own body broke off.
    Upload,
    /// The connection ended.
    Terminated,
    /// What came back is not HTTP.
    Malformed,
    /// `patience` ran out.
    Late,
}

impl Channel {
    pub async fn connect(endpoint: EndpointId, address: SocketAddr, slot: Slot) -> io::Result<Channel> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let handshake = http1::Builder::new().max_header_size(LARGEST_HEAD).handshake(Socket::new(stream)).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        let connection = Box::new(connection);
        Ok(Channel { sender, connection, endpoint, idle_since: None, exchanges: 0, closed: false, slot })
    }

    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    #[must_use]
    pub fn reused(&self) -> bool {
        self.idle_since.is_some()
    }

    /// Whether it had been idle for so long before this exchange that the other side may have closed it meanwhile.
    #[must_use]
    pub fn was_idle(&self, now: Moment) -> bool {
        self.idle_for(now) >= IDLE_RACE
    }

    fn idle_for(&self, now: Moment) -> Duration {
        self.idle_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Sends a request and waits for the response head, until `patience` says that it has been too long.
    pub async fn exchange(
        &mut self,
        request: Request<Upload>,
        mut patience: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<Response<Incoming>, Failed> {
        let upload = request.body().progress.clone();
        let mut sending = pin!(self.sender.try_send_request(request));
        let answer = poll_fn(|cx| {
            if let Poll::Ready(answer) = sending.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            self.closed = self.closed || Pin::new(&mut *self.connection).poll(cx).is_ready();
            match sending.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => patience(cx).map(|()| None),
            }
        });
        match answer.await {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut refused)) => Err(match refused.take_message() {
                Some(request) => Failed::Unsent(request),
                None if upload.is_some_and(|upload| upload.state() == UploadState::Failed) => Failed::Upload,
                None if refused.error().is_parse() => Failed::Malformed,
                None => Failed::Terminated,
            }),
            None => Err(Failed::Late),
        }
    }

    /// Moves bytes. To be polled while a response body is waited for.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        self.closed = self.closed || Pin::new(&mut *self.connection).poll(cx).is_ready();
    }

    /// Whether it can carry another exchange: the last one is over, and the other side has not closed it.
    pub fn lives(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        !self.closed && self.sender.is_ready()
    }
}

/// A request's body on its way to an endpoint: streamed, never collected.
#[derive(Debug)]
pub struct Upload {
    body: Source,
    /// Of the body, with what is sent again.
    passed: u64,
    progress: Option<Rc<Progress>>,
}

/// How far an upload is; shared with whoever waits for the response.
#[derive(Debug)]
pub struct Progress {
    deadlines: Rc<Deadlines>,
    state: Cell<UploadState>,
    moved: Cell<Moment>,
    bytes: Cell<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UploadState {
    /// The endpoint has not asked for more.
    Sending,
    /// The client has not sent more.
    WaitingForClient,
    Done,
    Failed,
}

impl Progress {
    #[must_use]
    pub fn state(&self) -> UploadState {
        self.state.get()
    }

    /// When a piece last moved, to within a tick.
    #[must_use]
    pub fn moved(&self) -> Moment {
        self.moved.get()
    }

    /// Of the body, as far as it came.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// The body is sent from its beginning, again.
    fn restart(&self) {
        self.note(UploadState::Sending);
    }

    fn note(&self, state: UploadState) {
        self.state.set(state);
        if state != UploadState::WaitingForClient {
            self.moved.set(self.deadlines.now());
        }
    }
}

impl Upload {
    #[must_use]
    pub fn new(body: Incoming, deadlines: &Rc<Deadlines>) -> Upload {
        let progress = (!body.is_end_stream()).then(|| {
            let (state, moved) = (Cell::new(UploadState::Sending), Cell::new(deadlines.now()));
            Rc::new(Progress { deadlines: deadlines.clone(), state, moved, bytes: Cell::new(0) })
        });
        Upload { body: Source::Client(body), passed: 0, progress }
    }

    /// Keeps what passes, up to `most` bytes, to be sent again. `None`: there is no body.
    pub fn keep(&mut self, most: usize) -> Option<Tape> {
        self.progress.as_ref()?;
        self.body.keep(most)
    }

    /// The same request's body, from its beginning.
    #[must_use]
    pub fn again(tape: Option<&Tape>, progress: Option<Rc<Progress>>) -> Upload {
        if let Some(progress) = &progress {
            progress.restart();
        }
        Upload { body: tape.map_or(Source::Nothing, Tape::play), passed: 0, progress }
    }

    /// `None`: there is no body.
    #[must_use]
    pub fn progress(&self) -> Option<Rc<Progress>> {
        self.progress.clone()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let mut passed = self.passed;
        if let Some(progress) = &self.progress {
            if let Poll::Ready(Some(Ok(piece))) = &frame {
                passed += piece.data_ref().map_or(0, Bytes::len) as u64;
                progress.bytes.set(progress.bytes.get().max(passed));
            }
            progress.note(match &frame {
                Poll::Pending => UploadState::WaitingForClient,
                Poll::Ready(Some(Err(_))) => UploadState::Failed,
                Poll::Ready(None) => UploadState::Done,
                Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => UploadState::Done,
                Poll::Ready(Some(Ok(_))) => UploadState::Sending,
            });
        }
        self.passed = passed;
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
