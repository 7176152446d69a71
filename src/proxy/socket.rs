//! A byte stream that sends what is small in one piece.
//!
//! hyper hands a head and the beginning of a body over as slices. `writev` spares copying them, and costs more than
//! that for as little as most messages are: below [`SMALL`] they are joined first, and leave by `send`.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Up to this size, copying is cheaper than `writev`.
const SMALL: usize = 16 * 1024;

thread_local! {
    /// One worker's: a buffer per connection would be memory that idle ones keep.
    static JOINED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

/// A byte stream, for hyper on either side.
#[derive(Debug)]
pub struct Socket<S = TcpStream>(TokioIo<S>);

impl<S> Socket<S> {
    #[must_use]
    pub fn new(stream: S) -> Socket<S> {
        Socket(TokioIo::new(stream))
    }
}

impl<S: AsyncRead + Unpin> Read for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> Write for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let [only] = slices {
            return stream.poll_write(cx, only);
        }
        if slices.iter().map(|slice| slice.len()).sum::<usize>() > SMALL {
            return stream.poll_write_vectored(cx, slices);
        }
        JOINED.with_borrow_mut(|joined| {
            joined.clear();
            for slice in slices {
                joined.extend_from_slice(slice);
            }
            stream.poll_write(cx, joined)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn slices_arrive_in_order_whatever_their_size() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(listener.accept().await.unwrap().0);
        let mut client = client;
        for sizes in [&[5][..], &[3, 0, 4], &[SMALL - 1, 1], &[SMALL, 1]] {
            let parts: Vec<Vec<u8>> = (b'a'..).zip(sizes).map(|(letter, size)| vec![letter; *size]).collect();
            let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let written = poll_fn(|cx| Pin::new(&mut socket).poll_write_vectored(cx, &slices)).await.unwrap();
            let mut arrived = vec![0; written];
            client.read_exact(&mut arrived).await.unwrap();
            assert_eq!(arrived, parts.concat()[..written], "{sizes:?}");
            assert!(written > 0);
        }
    }
}
