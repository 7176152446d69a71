//! The response body on its way to the client. Its end, error or drop settles what is owed for the attempt.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::access::Access;
use super::activity::Busy;
use super::deadline::Deadline;
use super::dues::Dues;
use super::stall::Stall;
use super::timed::Timed;
use super::upstream::{Channel, Damaged, Download};
use super::worker::Worker;
use crate::domain::outcome::Class;
use crate::domain::time::Moment;

/// Why a response breaks off: said to hyper, which then ends the client's connection without completing the message.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the endpoint's response broke off")]
    Upstream(#[from] Damaged),
    #[error("the endpoint stopped sending")]
    Idle,
    #[error("the request took longer than it may")]
    Late,
}

/// What a client gets.
#[derive(Debug)]
pub struct Outgoing {
    source: Source,
    access: Option<Rc<Access>>,
    timed: Option<Timed>,
    /// The client's connection is busy until the response is out of our hands.
    _busy: Option<Busy>,
    /// Of an HTTP/2 stream.
    stall: Option<Rc<Stall>>,
}

#[derive(Debug)]
enum Source {
    Own(Full<Bytes>),
    /// Boxed: it is large, and moves through many hands.
    Relayed(Box<Observed>),
}

impl Outgoing {
    #[must_use]
    pub fn own(body: Full<Bytes>) -> Outgoing {
        Outgoing { source: Source::Own(body), access: None, timed: None, _busy: None, stall: None }
    }

    #[must_use]
    pub fn relayed(body: Observed) -> Outgoing {
        Outgoing { source: Source::Relayed(Box::new(body)), access: None, timed: None, _busy: None, stall: None }
    }

    /// An endpoint's answer as `relayed` makes it, our own one as `own` does.
    #[must_use]
    pub fn finished(
        response: Response<Outgoing>,
        relayed: impl FnOnce(&mut HeaderMap),
        own: impl FnOnce(Response<Full<Bytes>>) -> Response<Full<Bytes>>,
    ) -> Response<Outgoing> {
        let (mut parts, body) = response.into_parts();
        match body.source {
            Source::Relayed(_) => {
                relayed(&mut parts.headers);
                Response::from_parts(parts, body)
            }
            Source::Own(own_body) => own(Response::from_parts(parts, own_body)).map(Outgoing::own),
        }
    }

    /// Has a log line written about it.
    #[must_use]
    pub fn logged(self, access: Option<Rc<Access>>) -> Outgoing {
        Outgoing { access, ..self }
    }

    /// Has its time taken.
    #[must_use]
    pub fn timed(self, mut timed: Timed) -> Outgoing {
        if self.is_end_stream() || matches!(self.source, Source::Own(_)) {
            timed.ended(); // nobody will poll it, or it is whole already
        }
        Outgoing { timed: Some(timed), ..self }
    }

    #[must_use]
    pub fn holding(self, busy: Busy, stall: Option<Rc<Stall>>) -> Outgoing {
        if let Some(stall) = &stall {
            stall.begin();
        }
        Outgoing { _busy: Some(busy), stall, ..self }
    }
}

impl Outgoing {
    fn note(&mut self, frame: &Poll<Option<Result<Frame<Bytes>, Broken>>>) {
        if frame.is_pending() {
            return;
        }
        let ended = self.is_end_stream();
        if let Some(timed) = &mut self.timed {
            match frame {
                Poll::Ready(Some(Err(_))) => timed.broken(),
                Poll::Ready(None) => timed.ended(),
                _ if ended => timed.ended(),
                _ => {}
            }
        }
        let Some(access) = &self.access else { return };
        match frame {
            Poll::Ready(Some(Ok(frame))) => {
                access.sent(frame.data_ref().map_or(0, |data| data.len() as u64));
                if ended {
                    access.ended();
                }
            }
            Poll::Ready(None) => access.ended(),
            Poll::Ready(Some(Err(_))) => access.failed("http_response_incomplete"),
            Poll::Pending => {}
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = match &mut self.source {
            Source::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Source::Relayed(body) => Pin::new(&mut **body).poll_frame(cx),
        };
        self.note(&frame);
        if let Some(stall) = &self.stall {
            if frame.is_ready() { stall.begin() } else { stall.end() }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Relayed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Relayed(body) => body.size_hint(),
        }
    }
}

/// An endpoint's response body, driven through the connection it comes from.
#[derive(Debug)]
pub struct Observed {
    worker: Rc<Worker>,
    download: Download,
    /// Goes back to the idle ones at the end of the body.
    channel: Option<Channel>,
    deadline: Deadline,
    /// Set while we wait for the endpoint, not while the client reads slowly.
    waiting: bool,
    /// Settled at the end; if dropped before, the client has left.
    dues: Dues,
    /// Until when the whole of it is to have been passed on.
    until: Option<Moment>,
    /// The class of this response if it arrives whole.
    class: Class,
}

impl Observed {
    #[must_use]
    pub fn new(
        worker: Rc<Worker>,
        download: Download,
        channel: Channel,
        deadline: Deadline,
        dues: Dues,
        until: Option<Moment>,
        class: Class,
    ) -> Observed {
        deadline.clear();
        Observed { worker, download, channel: Some(channel), deadline, waiting: false, dues, until, class }
    }

    /// Settles at once if there is no body: nobody will poll it.
    pub fn finish_if_empty(&mut self, cx: &mut Context<'_>) {
        if self.download.is_end_stream() {
            self.end(cx);
        }
    }

    fn end(&mut self, cx: &mut Context<'_>) {
        self.dues.settle(self.class);
        if let Some(mut channel) = self.channel.take()
            && channel.lives(cx)
        {
            self.worker.keep(channel);
        }
    }

    fn fail(&mut self) {
        self.channel = None;
        self.dues.settle(Class::Failure);
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Damaged>>> {
        match &mut self.channel {
            Some(channel) => self.download.poll_frame(channel, cx),
            None => Poll::Ready(None),
        }
    }

    fn late(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.waiting {
            self.waiting = true;
            let due = self.worker.now().plus(self.dues.timeouts().body_idle);
            self.deadline.set(self.until.map_or(due, |until| until.min(due)));
        }
        self.deadline.poll(cx).is_ready()
    }

    /// Whether it has taken longer than a request may in all. That may be the client's doing as well as the endpoint's.
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= self.worker.deadlines.now())
    }
}

impl Body for Observed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if this.is_over() && !this.download.is_end_stream() {
            this.channel = None;
            this.dues.settle(if this.waiting { Class::Failure } else { Class::Ours });
            return Poll::Ready(Some(Err(Broken::Late)));
        }
        match this.next(cx) {
            Poll::Pending if this.late(cx) => {
                this.fail();
                Poll::Ready(Some(Err(Broken::Idle)))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting = false;
                this.deadline.clear();
                if this.download.is_end_stream() {
                    this.end(cx); // hyper may not ask again
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.fail();
                Poll::Ready(Some(Err(Broken::Upstream(error))))
            }
            Poll::Ready(None) => {
                this.end(cx);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.download.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.download.size_hint()
    }
}
