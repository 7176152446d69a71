//! One stream to an endpoint and the exchange on it: a request out, a response back, one after the other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::Malformed;
use super::head::{self, Head};
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::sending::{Sending, Unfinished};
use super::upload::Upload;

/// Interim responses before the final one; an endless row of them would keep a request waiting for ever.
const INTERIM: usize = 16;

/// Why there is no response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The request's own body broke off.
    Upload,
    /// The connection ended.
    Closed,
    /// What came is not HTTP.
    Malformed,
}

impl From<Malformed> for Stopped {
    fn from(_: Malformed) -> Stopped {
        Stopped::Malformed
    }
}

/// A stream and the state of the exchange on it.
#[derive(Debug)]
pub struct Wire<S, B = Upload> {
    stream: S,
    inbox: Inbox,
    outbox: Outbox,
    /// The request's head, until a byte of it is written.
    request: Option<Parts>,
    /// The request's body, until its end is in the outbox and something is written.
    sending: Option<Sending<B>>,
    method: Method,
    interim: usize,
    /// The memory of the request's fields, for those of the response.
    fields: HeaderMap,
    /// No exchange is under way.
    over: bool,
    /// Nothing has happened that forbids another exchange after this one.
    persists: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin, B: Body<Data = Bytes> + Unpin> Wire<S, B> {
    #[must_use]
    pub fn new(stream: S) -> Wire<S, B> {
        Wire {
            stream,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            request: None,
            sending: None,
            method: Method::GET,
            interim: 0,
            fields: HeaderMap::new(),
            over: true,
            persists: true,
        }
    }

    /// Begins an exchange. Nothing is written before [`Wire::poll_head`].
    pub fn begin(&mut self, request: Request<B>) {
        let (parts, upload) = request.into_parts();
        let sending = Sending::new(upload);
        head::write(self.outbox.joined(), &parts, sending.coding());
        self.method.clone_from(&parts.method);
        (self.request, self.sending) = (Some(parts), Some(sending));
        (self.interim, self.over) = (0, false);
    }

    /// The head of the final response. Interim ones are dropped: here is where a 103 could be passed on. A 101 is a
    /// final one; nobody asks for it yet.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Stopped>> {
        self.send(cx)?;
        loop {
            while let Some(head) = head::read(&mut self.inbox.unread, &self.method, &mut self.fields)? {
                let status = head.response.status();
                if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                    self.persists &= head.persists && !status.is_informational();
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if self.interim > INTERIM {
                    return Poll::Ready(Err(Stopped::Malformed));
                }
            }
            if !ready!(self.poll_fill(cx)).unwrap_or(false) {
                return Poll::Ready(Err(Stopped::Closed));
            }
        }
    }

    /// Writes what there is of the request, as far as it goes.
    pub fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Stopped> {
        loop {
            if let Some(sending) = &mut self.sending
                && let Poll::Ready(ended) = sending.poll(cx, &mut self.outbox)
            {
                match ended {
                    Ok(()) if self.request.is_some() => {}
                    Ok(()) => self.sending = None,
                    Err(Unfinished) => {
                        self.give_up();
                        return Err(Stopped::Upload);
                    }
                }
            }
            if self.outbox.is_empty() {
                return Ok(());
            }
            match self.outbox.poll_write(cx, &mut self.stream) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => self.reuse_fields(),
                Poll::Ready(Err(_)) if self.request.is_some() => return Err(Stopped::Closed),
                Poll::Ready(Err(_)) => self.give_up(), // it may have answered before it closed
            }
        }
    }

    /// Sends no more of the request.
    fn give_up(&mut self) {
        (self.sending, self.outbox, self.persists) = (None, Outbox::default(), false);
    }

    /// Something is written: the request is not needed any more, but its memory is.
    fn reuse_fields(&mut self) {
        if let Some(parts) = self.request.take() {
            self.fields = parts.headers;
            self.fields.clear();
        }
    }

    /// The request, if nothing of it was written and nothing of its body taken.
    pub fn unsent(&mut self) -> Option<Request<B>> {
        let (parts, sending) = self.request.take().zip(self.sending.take())?;
        Some(Request::from_parts(parts, sending.whole()?))
    }

    /// Received and not taken yet.
    pub fn unread(&mut self) -> &mut Bytes {
        &mut self.inbox.unread
    }

    /// Reads once. `false`: the other side has closed.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.inbox.poll_fill(cx, &mut self.stream)
    }

    /// The response is over.
    pub fn end(&mut self) {
        self.over = true;
        self.inbox.let_go();
    }

    /// Whether it can carry another exchange: the last one is over on both sides, nothing more was sent than was asked
    /// for, and the other side has not closed.
    pub fn lives(&mut self, cx: &mut Context<'_>) -> bool {
        let sent = self.sending.is_none() && self.outbox.is_empty();
        let mut stray = [0];
        self.over
            && self.persists
            && sent
            && self.inbox.unread.is_empty()
            && Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut stray)).is_pending()
    }
}

#[cfg(test)]
mod tests;
