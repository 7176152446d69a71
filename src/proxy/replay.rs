//! What it takes to send a request again: its head, and as much of its body as is kept while it streams.
//!
//! A head is copied field by field into memory that the worker has used before: no allocation for a request without a
//! body. Large pieces of a body are shared with the one that is being sent; small ones are copied, because a slice of a
//! few bytes would hold on to the whole buffer that it came in.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::upstream::{Progress, Upload};

/// Which attempt this is, from the second on.
const PENSTOCK_ATTEMPT: HeaderName = HeaderName::from_static("penstock-attempt");

/// Pieces smaller than this are copied.
const SHARED: usize = 4 * 1024;
/// A body in more pieces than this is not kept: each costs memory besides its bytes.
const PIECES: usize = 512;
/// Emptied field lists that a worker keeps for the next requests.
const SPARE: usize = 64;

type Fields = Vec<(HeaderName, HeaderValue)>;

/// A worker's memory for heads.
#[derive(Debug, Default)]
pub struct Spare(RefCell<Vec<Fields>>);

/// A request that can be sent again.
#[derive(Debug)]
pub struct Kept<'a> {
    spare: &'a Spare,
    method: Method,
    uri: Uri,
    fields: Fields,
    /// `None`: there is no body.
    tape: Option<Tape>,
    progress: Option<Rc<Progress>>,
}

impl<'a> Kept<'a> {
    /// Keeps the head, and up to `most` bytes of the body as it passes.
    pub fn of(request: &mut Request<Upload>, most: usize, spare: &'a Spare) -> Kept<'a> {
        let mut fields = spare.0.borrow_mut().pop().unwrap_or_default();
        fields.extend(request.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let (tape, progress) = (request.body_mut().keep(most), request.body().progress());
        Kept { spare, method, uri, fields, tape, progress }
    }

    /// Whether all of it is there, to be sent once more.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.tape.as_ref().is_none_or(Tape::is_whole)
    }

    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The request, from its beginning.
    #[must_use]
    pub fn again(&self) -> Request<Upload> {
        let mut request = Request::new(Upload::again(self.tape.as_ref(), self.progress.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().reserve(self.fields.len() + 1);
        for (name, value) in &self.fields {
            request.headers_mut().append(name.clone(), value.clone());
        }
        request
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let mut spare = self.spare.0.borrow_mut();
        if spare.len() < SPARE {
            self.fields.clear();
            spare.push(std::mem::take(&mut self.fields));
        }
    }
}

/// Tells the endpoint which attempt this is.
pub fn number(request: &mut Request<Upload>, attempt: u32) {
    if attempt > 1 {
        request.headers_mut().insert(PENSTOCK_ATTEMPT, HeaderValue::from(attempt));
    }
}

/// Where a body comes from.
#[derive(Debug)]
pub enum Source {
    Client(Incoming),
    /// The same, kept as it passes; or what was kept, and then the rest.
    Tape(Tape, usize),
    Nothing,
}

/// A body on its way, with its beginning kept.
#[derive(Debug, Clone)]
pub struct Tape(Rc<RefCell<Recording>>);

#[derive(Debug)]
struct Recording {
    client: Incoming,
    /// `None`: too much has passed to be kept.
    pieces: Option<Vec<Piece>>,
    /// Bytes that may still be kept.
    room: usize,
}

#[derive(Debug, Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Source {
    pub fn keep(&mut self, room: usize) -> Option<Tape> {
        match std::mem::replace(self, Source::Nothing) {
            Source::Client(client) => {
                let recording = Recording { client, pieces: Some(Vec::new()), room };
                let tape = Tape(Rc::new(RefCell::new(recording)));
                *self = tape.play();
                Some(tape)
            }
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Tape {
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.borrow().pieces.is_some()
    }

    #[must_use]
    pub fn play(&self) -> Source {
        Source::Tape(self.clone(), 0)
    }
}

impl Recording {
    fn next(&mut self, at: &mut usize, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(piece) = self.pieces.as_ref().and_then(|pieces| pieces.get(*at)) {
            *at += 1;
            return Poll::Ready(Some(Ok(piece.frame())));
        }
        let frame = Pin::new(&mut self.client).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            *at += 1;
            self.keep(frame);
        }
        frame
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(pieces) = &mut self.pieces else { return };
        let left = self.room.checked_sub(frame.data_ref().map_or(0, Bytes::len));
        match (Piece::of(frame), left) {
            (Some(piece), Some(left)) if pieces.len() < PIECES => {
                pieces.push(piece);
                self.room = left;
            }
            _ => self.pieces = None,
        }
    }

    /// Bytes kept from `at` on.
    fn ahead(&self, at: usize) -> u64 {
        let pieces = self.pieces.iter().flat_map(|pieces| pieces.iter().skip(at));
        pieces.map(|piece| if let Piece::Data(data) = piece { data.len() as u64 } else { 0 }).sum()
    }

    fn is_at_end(&self, at: usize) -> bool {
        self.pieces.as_ref().is_none_or(|pieces| pieces.len() <= at) && self.client.is_end_stream()
    }
}

impl Piece {
    fn of(frame: &Frame<Bytes>) -> Option<Piece> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) if data.len() < SHARED => Some(Piece::Data(Bytes::copy_from_slice(data))),
            (Some(data), _) => Some(Piece::Data(data.clone())),
            (None, Some(trailers)) => Some(Piece::Trailers(trailers.clone())),
            (None, None) => None,
        }
    }

    fn frame(&self) -> Frame<Bytes> {
        match self {
            Piece::Data(data) => Frame::data(data.clone()),
            Piece::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Source::Client(client) => Pin::new(client).poll_frame(cx),
            Source::Tape(tape, at) => tape.0.borrow_mut().next(at, cx),
            Source::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Source::Client(client) => client.is_end_stream(),
            Source::Tape(tape, at) => tape.0.borrow().is_at_end(*at),
            Source::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Source::Client(client) => client.size_hint(),
            Source::Tape(tape, at) => {
                let recording = tape.0.borrow();
                let (ahead, rest) = (recording.ahead(*at), recording.client.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(ahead + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(ahead + upper);
                }
                hint
            }
            Source::Nothing => SizeHint::with_exact(0),
        }
    }
}
