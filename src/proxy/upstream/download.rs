//! An endpoint's response body, as it comes. A body cut short is an error, never an end.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::channel::Channel;
use super::chunked::{self, Decoder, Piece};
use super::framing::{Ending, Malformed};
use super::wire::Wire;

/// What is still to come of a body.
#[derive(Debug)]
pub enum Download {
    /// This many bytes.
    Length(u64),
    Chunks(Decoder),
    /// Whatever comes before the connection ends.
    Close,
    Nothing,
}

/// Why a response body has no end.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    #[error("it ended too early")]
    Short,
    #[error("it is not HTTP")]
    Malformed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Malformed> for Damaged {
    fn from(_: Malformed) -> Damaged {
        Damaged::Malformed
    }
}

type Next = Option<Result<Frame<Bytes>, Damaged>>;

impl Download {
    #[must_use]
    pub fn new<S, B>(ending: Ending, wire: &mut Wire<S, B>) -> Download
    where
        S: AsyncRead + AsyncWrite + Unpin,
        B: Body<Data = Bytes> + Unpin,
    {
        match ending {
            Ending::Length(0) => {
                wire.end();
                Download::Nothing
            }
            Ending::Length(length) => Download::Length(length),
            Ending::Chunks => Download::Chunks(Decoder::default()),
            Ending::Close => Download::Close,
        }
    }

    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        matches!(self, Download::Nothing)
    }

    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Download::Nothing => SizeHint::with_exact(0),
            Download::Length(left) => SizeHint::with_exact(*left),
            Download::Chunks(_) | Download::Close => SizeHint::default(),
        }
    }

    /// The next piece, from the channel that the response's head came from.
    pub fn poll_frame(&mut self, channel: &mut Channel, cx: &mut Context<'_>) -> Poll<Next> {
        channel.drive(cx);
        self.poll_next(channel.wire(), cx)
    }

    /// The same, from a wire whose sending goes on elsewhere.
    pub fn poll_next<S, B>(&mut self, wire: &mut Wire<S, B>, cx: &mut Context<'_>) -> Poll<Next>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            if let Some(frame) = self.take(wire.unread())? {
                if self.is_end_stream() {
                    wire.end();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.is_end_stream() {
                wire.end();
                return Poll::Ready(None);
            }
            if !ready!(wire.poll_fill(cx))? {
                if !matches!(self, Download::Close) {
                    return Poll::Ready(Some(Err(Damaged::Short)));
                }
                *self = Download::Nothing;
            }
        }
    }

    /// What has come already.
    fn take(&mut self, unread: &mut Bytes) -> Result<Option<Frame<Bytes>>, Malformed> {
        let frame = match self {
            Download::Nothing => None,
            Download::Length(_) | Download::Close if unread.is_empty() => None,
            Download::Close => Some(Frame::data(std::mem::take(unread))),
            Download::Length(left) => {
                let data = chunked::take(unread, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Download::Nothing;
                }
                Some(Frame::data(data))
            }
            Download::Chunks(decoder) => match decoder.decode(unread)? {
                None => None,
                Some(Piece::Data(data)) => Some(Frame::data(data)),
                Some(Piece::Trailers(trailers)) => {
                    *self = Download::Nothing;
                    Some(Frame::trailers(trailers))
                }
                Some(Piece::End) => {
                    *self = Download::Nothing;
                    None
                }
            },
        };
        Ok(frame)
    }
}
