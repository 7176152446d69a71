//! A request's body on its way into the outbox: by its length, or in chunks.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;

use super::chunked;
use super::outbox::Outbox;

/// How a request's body ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// After this many bytes more.
    Length(u64),
    Chunked,
}

impl Coding {
    #[must_use]
    pub fn of(body: &impl Body) -> Coding {
        body.size_hint().exact().map_or(Coding::Chunked, Coding::Length)
    }
}

/// The body broke off, or is not as long as it was said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished;

/// A body and how it is written.
#[derive(Debug)]
pub struct Sending<B> {
    body: B,
    coding: Coding,
    /// Something of it may have been taken.
    begun: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    #[must_use]
    pub fn new(body: B) -> Sending<B> {
        Sending { coding: Coding::of(&body), body, begun: false }
    }

    #[must_use]
    pub fn coding(&self) -> Coding {
        self.coding
    }

    /// The body, if nothing of it was taken.
    #[must_use]
    pub fn whole(self) -> Option<B> {
        (!self.begun).then_some(self.body)
    }

    /// Moves pieces into the outbox while there is room; ready once that was the last.
    pub fn poll(&mut self, cx: &mut Context<'_>, outbox: &mut Outbox) -> Poll<Result<(), Unfinished>> {
        while self.coding != Coding::Length(0) && outbox.has_room() {
            self.begun = true;
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Poll::Ready(Err(Unfinished)),
                None => return Poll::Ready(self.end(&HeaderMap::new(), outbox)),
            };
            match (frame.into_data(), &mut self.coding) {
                (Ok(data), _) if data.is_empty() => {}
                (Ok(data), Coding::Length(left)) => {
                    *left = left.checked_sub(data.len() as u64).ok_or(Unfinished)?;
                    outbox.push(data, b"");
                }
                (Ok(data), Coding::Chunked) => {
                    chunked::write_size(outbox.joined(), data.len());
                    outbox.push(data, b"\r\n");
                }
                (Err(frame), _) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Poll::Ready(self.end(&trailers, outbox));
                }
            }
        }
        if self.coding == Coding::Length(0) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// The body is over: is that where it was said to end?
    fn end(&mut self, trailers: &HeaderMap, outbox: &mut Outbox) -> Result<(), Unfinished> {
        if let Coding::Length(_) = self.coding {
            return Err(Unfinished);
        }
        self.coding = Coding::Length(0);
        chunked::write_end(outbox.joined(), trailers);
        Ok(())
    }
}
