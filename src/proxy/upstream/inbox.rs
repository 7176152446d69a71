//! What an endpoint has sent and nobody has taken yet.
//!
//! All connections of a worker read into one buffer, from which what came is split off and handed on without copying.
//! Once nothing of it is kept anywhere, which is nearly always, it is used from its beginning again: it stays in the
//! processor's cache, and idle connections keep no memory.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The buffer of a worker whose endpoints send little.
const SMALL: usize = 64 * 1024;
/// And once one has sent much.
const LARGE: usize = 256 * 1024;

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// Received bytes, in order.
#[derive(Debug, Default)]
pub struct Inbox {
    pub unread: Bytes,
    /// The last read took all that there was room for.
    plenty: bool,
}

impl Inbox {
    /// Reads once. `false`: the other side has closed.
    pub fn poll_fill<S: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<bool>> {
        self.let_go();
        ROOM.with_borrow_mut(|room| {
            let buffer = room.behind(&self.unread, if self.plenty { LARGE } else { SMALL });
            let space = buffer.capacity() - buffer.len();
            let read = pin!(stream.read_buf(buffer)).poll(cx);
            let Poll::Ready(Ok(read)) = read else {
                buffer.clear();
                return read.map_ok(|_| false);
            };
            self.plenty = read == space;
            self.unread = buffer.split().freeze();
            Poll::Ready(Ok(read > 0))
        })
    }

    /// Nothing of nothing still holds on to the buffer that it was cut from.
    pub fn let_go(&mut self) {
        if self.unread.is_empty() {
            self.unread = Bytes::new();
        }
    }
}

/// The buffer that a worker's connections read into.
#[derive(Debug, Default)]
struct Room {
    /// Empty between reads.
    buffer: BytesMut,
    /// What it was made for; its capacity is what is left of that.
    size: usize,
}

impl Room {
    /// Room to read into behind `unread`: a copy of it, which is short, because bodies are handed on as they come.
    fn behind(&mut self, unread: &[u8], size: usize) -> &mut BytesMut {
        let whole = self.buffer.try_reclaim(self.size);
        if self.size < size || (!whole && self.buffer.capacity() < unread.len() + size / 4) {
            *self = Room { buffer: BytesMut::with_capacity(unread.len() + size), size };
        }
        self.buffer.extend_from_slice(unread);
        &mut self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::upstream::testing::{Script, now};

    #[test]
    fn what_was_not_taken_stays_in_front_of_what_comes() {
        let (mut inbox, mut stream) = (Inbox::default(), Script::sending([b"abc".to_vec(), b"def".to_vec()]));
        assert!(now(|cx| inbox.poll_fill(cx, &mut stream)).unwrap());
        let taken = inbox.unread.split_to(1);
        assert!(now(|cx| inbox.poll_fill(cx, &mut stream)).unwrap());
        assert_eq!((&taken[..], &inbox.unread[..]), (&b"a"[..], &b"bcdef"[..]));
        assert!(!now(|cx| inbox.poll_fill(cx, &mut stream)).unwrap());
        assert_eq!(inbox.unread, "bcdef");
    }

    #[test]
    fn one_buffer_serves_all_and_grows_for_much() {
        let mut room = Room::default();
        room.behind(b"", SMALL).extend_from_slice(b"kept");
        let place = room.buffer.as_ptr();
        let kept = room.buffer.split().freeze();
        assert_eq!(room.behind(b"", SMALL).as_ptr(), place.wrapping_add(4), "something of it is kept");
        drop(kept);
        assert_eq!(room.behind(b"", SMALL).as_ptr(), place, "and is not any more");
        assert_eq!(room.behind(b"", LARGE).capacity(), LARGE);
        assert_eq!(room.behind(b"", SMALL).capacity(), LARGE, "it stays");
    }

    #[test]
    fn a_buffer_that_is_nearly_kept_whole_is_let_go() {
        let mut room = Room::default();
        room.behind(b"", SMALL).resize(SMALL - 10, b'x');
        let kept = room.buffer.split().freeze();
        assert_eq!(room.behind(b"abc", SMALL), "abc");
        assert!(room.buffer.capacity() >= SMALL);
        assert_eq!(kept.len(), SMALL - 10);
    }
}
