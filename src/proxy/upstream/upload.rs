//! A request's body on its way to an endpoint: streamed, never collected.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::domain::time::Moment;
use crate::proxy::deadline::Deadlines;
use crate::proxy::replay::{Source, Tape};

/// What is sent of it, and how far that is.
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
