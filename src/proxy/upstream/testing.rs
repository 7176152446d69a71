//! A stream that does what a test says.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives its pieces one at a time and then ends, and takes as much at a time as it is told to, over and over.
#[derive(Debug, Default)]
pub struct Script {
    pub sending: VecDeque<Vec<u8>>,
    pub written: Vec<u8>,
    pub writes: usize,
    pub takes: Vec<usize>,
    /// Waits for more at its end, instead of ending.
    pub open: bool,
    pub broken: bool,
}

impl Script {
    pub fn sending(pieces: impl IntoIterator<Item = Vec<u8>>) -> Script {
        let sending = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Script { sending, ..Script::default() }
    }

    pub fn taking(takes: Vec<usize>) -> Script {
        Script { takes, ..Script::default() }
    }

    fn take(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let most = self.takes.get(self.writes % self.takes.len().max(1)).copied().unwrap_or(usize::MAX);
        let taken = bytes.len().min(most);
        self.written.extend_from_slice(&bytes[..taken]);
        self.writes += 1;
        Poll::Ready(Ok(taken))
    }
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.sending.pop_front() else {
            return if self.open { Poll::Pending } else { Poll::Ready(Ok(())) };
        };
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        if !rest.is_empty() {
            self.sending.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let joined: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.take(&joined)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What is ready without waiting.
pub fn now<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("not ready"),
    }
}
