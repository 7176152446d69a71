//! What is to be written to an endpoint: small pieces joined, large ones not copied.
//!
//! ```text
//!   joined: head, chunk sizes, small pieces │ large: one piece │ tail: the end of its chunk
//! ```

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Up to this size, copying is cheaper than `writev`, and no more pieces are asked for than that.
const SMALL: usize = 16 * 1024;

thread_local! {
    /// The memory that the last message was joined in: one per worker, none per idle connection.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes on their way out, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    joined: Vec<u8>,
    /// Of `joined`.
    written: usize,
    large: Bytes,
    tail: &'static [u8],
}

impl Outbox {
    /// Where small pieces are put. Nothing large may be waiting, see [`Outbox::has_room`].
    pub fn joined(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.large.is_empty() && self.tail.is_empty(), "it would overtake what is waiting");
        if self.joined.capacity() == 0 {
            self.joined = SPARE.take();
        }
        &mut self.joined
    }

    /// Adds a piece of a body, and what ends its chunk.
    pub fn push(&mut self, piece: Bytes, tail: &'static [u8]) {
        let joined = self.joined();
        if joined.len() + piece.len() <= SMALL {
            joined.extend_from_slice(&piece);
            joined.extend_from_slice(tail);
        } else {
            (self.large, self.tail) = (piece, tail);
        }
    }

    #[must_use]
    pub fn has_room(&self) -> bool {
        self.large.is_empty() && self.tail.is_empty() && self.joined.len() < SMALL
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.large.is_empty() && self.tail.is_empty()
    }

    /// Writes once, as much as is taken.
    pub fn poll_write<S: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<()>> {
        let (stream, joined) = (Pin::new(stream), &self.joined[self.written..]);
        let written = if self.large.is_empty() && self.tail.is_empty() {
            stream.poll_write(cx, joined)
        } else {
            stream.poll_write_vectored(cx, &[IoSlice::new(joined), IoSlice::new(&self.large), IoSlice::new(self.tail)])
        };
        match ready!(written)? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => {
                self.advance(written);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn advance(&mut self, written: usize) {
        let of_joined = written.min(self.joined.len() - self.written);
        let of_large = (written - of_joined).min(self.large.len());
        self.written += of_joined;
        self.large.advance(of_large);
        self.tail = &self.tail[written - of_joined - of_large..];
        if self.written == self.joined.len() {
            self.written = 0;
            self.joined.clear();
            if self.is_empty() {
                SPARE.set(std::mem::take(&mut self.joined));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::upstream::testing::{Script, now};

    proptest! {
        #[test]
        fn everything_is_written_once_and_in_order(
            pieces in prop::collection::vec((b'a'..=b'd', 1_usize..30_000), 1..8),
            takes in prop::collection::vec(1_usize..40_000, 1..8),
        ) {
            let (mut outbox, mut stream) = (Outbox::default(), Script::taking(takes));
            let mut expected = Vec::new();
            for (letter, length) in pieces {
                let piece = vec![letter; length];
                expected.extend_from_slice(&piece);
                expected.extend_from_slice(b"\r\n");
                outbox.push(piece.into(), b"\r\n");
                while !outbox.has_room() {
                    now(|cx| outbox.poll_write(cx, &mut stream)).unwrap();
                }
            }
            while !outbox.is_empty() {
                now(|cx| outbox.poll_write(cx, &mut stream)).unwrap();
            }
            prop_assert!(stream.written == expected);
        }
    }
}
