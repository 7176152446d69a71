//! One attempt: a connection to an endpoint, the request on it, and what came of that.

use std::cell::Cell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};

use super::deadline::{Deadline, Elapsed};
use super::forward::Call;
use super::permits::{self, Room};
use super::reply::Fault;
use super::upstream::{Channel, Download, Failed, Progress, Trust, Upload, UploadState};
use super::worker::Worker;
use crate::domain::outcome::Class;
use crate::domain::pool::Endpoint;
use crate::domain::retry::{Ended, Repeat};
use crate::domain::time::Moment;

/// Bytes of a response that nobody wants are read up to this, to keep its connection; none is waited for.
const READ_AWAY: usize = 64 * 1024;

/// What came of an attempt.
#[derive(Debug)]
pub enum Came {
    Answer(Answer),
    /// Not a byte of the request was written, so here it is.
    Unsent {
        request: Request<Upload>,
        idle: bool,
        fault: Fault,
    },
    /// `ended`: how, if that may be followed by another attempt.
    Nothing {
        class: Class,
        fault: Fault,
        ended: Option<Ended>,
    },
}

/// A response whose head has come.
#[derive(Debug)]
pub struct Answer {
    pub channel: Channel,
    pub response: Response<Download>,
    pub deadline: Deadline,
    pub head_micros: u64,
}

impl Answer {
    #[must_use]
    pub fn class(&self) -> Class {
        Class::of_status(self.response.status())
    }

    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        Ended::of_head(self.response.status(), self.response.headers())
    }

    /// Nobody will have it: keeps its connection if all of it is there already.
    pub async fn discard(self, worker: &Worker) {
        let Answer { mut channel, response, .. } = self;
        let mut body = response.into_body();
        let mut left = READ_AWAY;
        let over = poll_fn(|cx| {
            loop {
                match body.poll_frame(&mut channel, cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        let read = frame.data_ref().map_or(0, bytes::Bytes::len);
                        match left.checked_sub(read) {
                            Some(rest) => left = rest,
                            None => return Poll::Ready(false),
                        }
                    }
                    Poll::Ready(None) => return Poll::Ready(channel.lives(cx)),
                    Poll::Ready(Some(Err(_))) | Poll::Pending => return Poll::Ready(false),
                }
            }
        });
        if over.await {
            worker.keep(channel);
        }
    }
}

/// Which connection to take.
#[derive(Debug, Clone, Copy)]
pub enum Dial {
    Reuse,
    Fresh,
}

/// How an attempt is to be made.
pub struct Terms<'a> {
    pub endpoint: &'a Arc<Endpoint>,
    /// Connections that the endpoint may have.
    pub connections: Option<u32>,
    pub dial: Dial,
    pub repeat: Repeat,
    /// Until when the client may wait, in all.
    pub until: Option<Moment>,
    /// Whether somebody else could be asked if nothing came within `per_try`.
    pub can_move: &'a dyn Fn() -> bool,
    /// Set when nothing came within `per_try`, whether or not anybody else was asked.
    pub outlived: &'a Cell<bool>,
}

/// Sends the request to an endpoint.
pub async fn attempt(call: &Call, terms: &Terms<'_>, request: Request<Upload>) -> Came {
    let deadline = call.worker.deadlines.deadline();
    match open(call, terms, &deadline).await {
        Ok(channel) => exchange(call, channel, terms, request, deadline).await,
        Err(fault) => Came::Unsent { request, idle: false, fault },
    }
}

/// A ready connection: an idle one, or a new one within the connect timeout.
async fn open(call: &Call, terms: &Terms<'_>, deadline: &Deadline) -> Result<Channel, Fault> {
    let (endpoint, address) = (terms.endpoint, terms.endpoint.address);
    let trust = if terms.repeat == Repeat::Never { Trust::Young } else { Trust::Any };
    if let Dial::Reuse = terms.dial
        && let Some(channel) = call.worker.upstreams.take(endpoint.id, trust, call.worker.deadlines.now()).await
    {
        return Ok(channel);
    }
    let begun = call.worker.now();
    deadline.set(sooner(begun.plus(call.service.timeouts.connect), terms.until));
    let slot = match permits::connection(&call.worker, endpoint, terms.connections, trust, deadline).await {
        Ok(Room::New(slot)) => slot,
        Ok(Room::Idle(channel)) => return Ok(channel),
        Err(Elapsed) => return Err(Fault::LimitReached),
    };
    match deadline.race(Channel::connect(endpoint.id, address, slot)).await {
        Ok(Ok(channel)) => {
            call.note(|access| access.connected(call.worker.now().0.saturating_sub(begun.0)));
            Ok(channel)
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "no connection");
            Err(Fault::ConnectionRefused)
        }
        Err(Elapsed) => Err(Fault::ConnectionTimeout),
    }
}

fn sooner(due: Moment, until: Option<Moment>) -> Moment {
    until.map_or(due, |until| until.min(due))
}

/// One request on one ready connection.
async fn exchange(
    call: &Call,
    mut channel: Channel,
    terms: &Terms<'_>,
    request: Request<Upload>,
    deadline: Deadline,
) -> Came {
    let sent = call.worker.now();
    let (reused, was_idle) = (channel.reused(), channel.was_idle(sent));
    let upload = request.body().progress();
    let per_try = Cell::new(call.service.timeouts.per_try.filter(|_| terms.repeat != Repeat::Never));
    let patience = Patience { call, deadline: &deadline, upload: upload.as_deref(), sent, per_try, terms };
    patience.arm();
    let answer = channel.exchange(request, |cx| patience.poll(cx)).await;
    let cut = Some(Ended::Cut { idle: reused });
    let garbage = Some(Ended::Cut { idle: false });
    let (class, fault, ended) = match answer {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            (Class::Failure, Fault::MalformedResponse, garbage) // nobody asked for it
        }
        Ok(response) => {
            let head_micros = call.worker.now().0.saturating_sub(sent.0);
            return Came::Answer(Answer { channel, response, deadline, head_micros });
        }
        Err(Failed::Unsent(request)) => {
            return Came::Unsent { request, idle: reused, fault: Fault::ConnectionTerminated };
        }
        Err(Failed::Upload) => (Class::Abandoned, Fault::BadBody, None),
        Err(Failed::Terminated) if was_idle => (Class::Ours, Fault::ConnectionTerminated, cut),
        Err(Failed::Terminated) => {
            call.worker.upstreams.found_dead(&channel, sent);
            (Class::Failure, Fault::ConnectionTerminated, cut)
        }
        Err(Failed::Malformed) => (Class::Failure, Fault::MalformedResponse, garbage),
        Err(Failed::Late) if patience.client_is_late() => (Class::Abandoned, Fault::RequestTimeout, None),
        Err(Failed::Late) if patience.moves() => (Class::Failure, Fault::ResponseTimeout, Some(Ended::Late)),
        Err(Failed::Late) => (Class::Failure, Fault::ResponseTimeout, None),
    };
    Came::Nothing { class, fault, ended }
}

/// How long to wait for a response head: from the end of the request, or from the last piece of an upload that moved.
struct Patience<'a> {
    call: &'a Call,
    deadline: &'a Deadline,
    upload: Option<&'a Progress>,
    sent: Moment,
    /// `None` when it does not apply, or has passed.
    per_try: Cell<Option<Duration>>,
    terms: &'a Terms<'a>,
}

impl Patience<'_> {
    fn due(&self) -> Moment {
        let timeouts = &self.call.service.timeouts;
        let head = self.per_try.get().map_or(timeouts.response_head, |per_try| per_try.min(timeouts.response_head));
        let due = match self.upload.map(|upload| (upload.state(), upload.moved())) {
            None => self.sent.plus(head),
            Some((UploadState::Done | UploadState::Failed, moved)) => moved.plus(head),
            Some((UploadState::Sending | UploadState::WaitingForClient, moved)) => moved.plus(timeouts.body_idle),
        };
        sooner(due, self.terms.until)
    }

    fn arm(&self) {
        self.deadline.set(self.due());
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.upload.is_some() {
            self.arm(); // it may have moved
        }
        if self.deadline.poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.outlives_per_try() {
            self.terms.outlived.set(true);
            if !(self.terms.can_move)() {
                // Nobody else to ask: it may still answer.
                self.per_try.set(None);
                self.arm();
                return self.deadline.poll(cx).map(|Elapsed| ());
            }
        }
        Poll::Ready(())
    }

    /// Whether it is `per_try` that has passed, and nothing else yet.
    fn outlives_per_try(&self) -> bool {
        let now = self.call.worker.deadlines.now();
        let uploading = self.upload.is_some_and(|upload| upload.state() < UploadState::Done);
        let over = self.terms.until.is_some_and(|until| until <= now);
        let shorter = self.per_try.get().is_some_and(|per_try| per_try < self.call.service.timeouts.response_head);
        shorter && !uploading && !over
    }

    /// Whether the wait was ended for somebody else to be asked.
    fn moves(&self) -> bool {
        self.terms.outlived.get() && self.per_try.get().is_some()
    }

    fn client_is_late(&self) -> bool {
        self.upload.is_some_and(|upload| upload.state() == UploadState::WaitingForClient)
    }
}
