//! Exchanges on a stream that does what the test says.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;

use http_body::{Frame, SizeHint};
use proptest::prelude::*;

use super::*;
use crate::proxy::upstream::download::{Damaged, Download};
use crate::proxy::upstream::testing::{Script, now};

/// A request's body: pieces, `None` where it is not there yet, and the length that it was said to have.
#[derive(Debug, Default)]
struct Pieces {
    frames: VecDeque<Option<Result<Frame<Bytes>, io::Error>>>,
    length: Option<u64>,
}

impl Pieces {
    fn none() -> Pieces {
        Pieces { frames: VecDeque::new(), length: Some(0) }
    }

    fn of(texts: &[&'static str], length: Option<u64>) -> Pieces {
        let frame = |text: &&'static str| match *text {
            "wait" => None,
            "fail" => Some(Err(io::ErrorKind::ConnectionReset.into())),
            text => Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))),
        };
        Pieces { frames: texts.iter().map(frame).collect(), length }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.frames.pop_front() {
            Some(None) => Poll::Pending,
            Some(Some(frame)) => Poll::Ready(Some(frame)),
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn request(method: Method, body: Pieces) -> Request<Pieces> {
    Request::builder().method(method).uri("/a").header("host", "b").body(body).unwrap()
}

/// What came of a request to an endpoint that sends these pieces and then closes, or waits.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: Result<u16, Stopped>,
    body: Vec<u8>,
    trailers: usize,
    end: &'static str,
    /// Whether the connection may be used again.
    again: bool,
}

fn answer(method: Method, stream: Script) -> Outcome {
    let mut wire = Wire::new(stream);
    wire.begin(request(method, Pieces::none()));
    let mut outcome = Outcome { status: Ok(0), body: Vec::new(), trailers: 0, end: "none", again: false };
    let Some(head) = ready(|cx| wire.poll_head(cx)) else { return outcome };
    let mut download = match head {
        Err(stopped) => return Outcome { status: Err(stopped), ..outcome },
        Ok(head) => {
            outcome.status = Ok(head.response.status().as_u16());
            Download::new(head.ending, &mut wire)
        }
    };
    outcome.end = loop {
        match ready(|cx| download.poll_next(&mut wire, cx)) {
            None => break "none",
            Some(None) => break "clean",
            Some(Some(Err(Damaged::Short))) => break "short",
            Some(Some(Err(Damaged::Malformed))) => break "malformed",
            Some(Some(Err(Damaged::Io(_)))) => break "io",
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => outcome.body.extend_from_slice(&data),
                Err(frame) => outcome.trailers += frame.into_trailers().unwrap().len(),
            },
        }
    };
    outcome.again = wire.lives(&mut Context::from_waker(std::task::Waker::noop()));
    outcome
}

fn ready<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// To a GET, from an endpoint that stays.
fn kept(text: &str) -> Outcome {
    answer(Method::GET, Script { open: true, ..Script::sending([text.as_bytes().to_vec()]) })
}

/// To a GET, from an endpoint that closes then.
fn closed(text: &str) -> Outcome {
    answer(Method::GET, Script::sending([text.as_bytes().to_vec()]))
}

#[test]
fn a_connection_is_used_again_when_all_is_over_and_nothing_more_has_come() {
    for (text, body, again) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", "", true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", true),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", "ok", true),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", false),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "ok", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", "ok", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n", "ok", false),
        ("HTTP/1.1 204 No Content\r\n\r\nx", "", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n0", "ok", false),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "", false),
    ] {
        let outcome = kept(text);
        assert_eq!((outcome.body, outcome.end, outcome.again), (body.into(), "clean", again), "{text:?}");
        assert!(!closed(text).again, "{text:?}, and then it closes");
    }
}

#[test]
fn only_a_body_without_a_length_ends_with_its_connection() {
    let outcome = closed("HTTP/1.1 200 OK\r\n\r\nhello");
    assert_eq!((outcome.body, outcome.end, outcome.again), (b"hello".to_vec(), "clean", false));
    assert_eq!(closed("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello").end, "short");
    assert_eq!(closed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n").end, "short");
    assert_eq!(closed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n").end, "malformed");
}

#[test]
fn interim_responses_are_dropped_and_counted() {
    let interim = |count| "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n".repeat(count);
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(kept(&(interim(8) + last)).status, Ok(200));
    assert_eq!(kept(&(interim(9) + last)).status, Err(Stopped::Malformed));
}

#[test]
fn no_head_is_told_from_a_bad_one() {
    assert_eq!(closed("").status, Err(Stopped::Closed));
    assert_eq!(closed("HTTP/1.1 200 OK\r\nContent-").status, Err(Stopped::Closed));
    assert_eq!(closed("SSH-2.0\r\n").status, Err(Stopped::Malformed));
    assert_eq!(kept("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n").status, Err(Stopped::Malformed));
}

#[test]
fn a_head_and_a_small_body_are_written_at_once() {
    let mut wire = Wire::new(Script { open: true, ..Script::default() });
    wire.begin(request(Method::POST, Pieces::of(&["hello ", "you"], Some(9))));
    assert!(ready(|cx| wire.poll_head(cx)).is_none());
    assert_eq!(wire.stream.writes, 1);
    assert_eq!(wire.stream.written, b"POST /a HTTP/1.1\r\nhost: b\r\ncontent-length: 9\r\n\r\nhello you");
}

#[test]
fn a_body_of_unknown_length_is_written_in_chunks_as_it_comes() {
    let mut wire = Wire::new(Script { open: true, ..Script::default() });
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
    let mut body = Pieces::of(&["", "hello", "wait", "you"], None);
    body.frames.push_back(Some(Ok(Frame::trailers(trailers))));
    wire.begin(request(Method::POST, body));
    let head = "POST /a HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    now(|cx| Poll::Ready(wire.send(cx))).unwrap();
    assert_eq!(wire.stream.written, format!("{head}3\r\nyou\r\n0\r\nx-sum: 1\r\n\r\n").as_bytes());
    assert_eq!(wire.stream.writes, 2);
}

#[test]
fn a_request_of_which_nothing_was_written_comes_back() {
    let broken = || Script { broken: true, ..Script::default() };
    let mut wire = Wire::new(broken());
    wire.begin(request(Method::GET, Pieces::none()));
    assert_eq!(now(|cx| wire.poll_head(cx)).unwrap_err(), Stopped::Closed);
    let unsent = wire.unsent().expect("it is whole");
    assert_eq!((unsent.uri().path(), unsent.headers()["host"].as_bytes()), ("/a", &b"b"[..]));
    let mut begun = Wire::new(broken());
    begun.begin(request(Method::POST, Pieces::of(&["hello"], Some(5))));
    assert_eq!(now(|cx| begun.poll_head(cx)).unwrap_err(), Stopped::Closed);
    assert!(begun.unsent().is_none(), "its body is used up");
    let mut closing = Wire::new(Script::default());
    closing.begin(request(Method::GET, Pieces::none()));
    assert_eq!(now(|cx| closing.poll_head(cx)).unwrap_err(), Stopped::Closed);
    assert!(closing.unsent().is_none(), "it was written");
}

#[test]
fn an_upload_that_breaks_off_is_never_completed() {
    for (pieces, length) in [
        (&["hello", "fail"][..], None),
        (&["hello", "fail"], Some(9)),
        (&["hello"], Some(9)),
        (&["hello", "you"], Some(7)),
    ] {
        let mut wire = Wire::new(Script { open: true, ..Script::default() });
        wire.begin(request(Method::POST, Pieces::of(pieces, length)));
        assert_eq!(now(|cx| wire.poll_head(cx)).unwrap_err(), Stopped::Upload, "{pieces:?}");
        for _ in 0..3 {
            now(|cx| Poll::Ready(wire.send(cx))).unwrap();
        }
        assert!(!wire.stream.written.ends_with(b"0\r\n\r\n"), "{pieces:?}");
        assert!(!wire.lives(&mut Context::from_waker(std::task::Waker::noop())));
    }
}

#[test]
fn an_early_answer_is_passed_on_and_the_connection_is_not_used_again_before_the_upload_is_through() {
    let early = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n".to_vec();
    let mut wire = Wire::new(Script { open: true, ..Script::sending([early]) });
    wire.begin(request(Method::POST, Pieces::of(&["he", "wait", "wait", "llo"], Some(5))));
    let head = now(|cx| wire.poll_head(cx)).unwrap();
    assert_eq!(head.response.status(), 413);
    assert!(Download::new(head.ending, &mut wire).is_end_stream());
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(!wire.lives(&mut cx));
    wire.send(&mut cx).unwrap();
    wire.send(&mut cx).unwrap();
    assert!(wire.lives(&mut cx));
}

#[test]
fn an_answer_counts_even_if_the_endpoint_takes_no_more() {
    let early = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n".to_vec();
    let mut wire = Wire::new(Script { open: true, ..Script::sending([early]) });
    wire.begin(request(Method::POST, Pieces::of(&["he", "wait", "llo"], Some(5))));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    wire.send(&mut cx).unwrap();
    wire.stream.broken = true;
    wire.outbox.joined().extend_from_slice(b"more");
    assert_eq!(now(|cx| wire.poll_head(cx)).unwrap().response.status(), 413);
    wire.end();
    assert!(!wire.lives(&mut cx));
}

#[test]
fn an_idle_connection_keeps_no_buffer() {
    let beginning_of_the_shared_one = || {
        let mut inbox = Inbox::default();
        assert!(now(|cx| inbox.poll_fill(cx, &mut Script::sending([b"x".to_vec()]))).unwrap());
        inbox.unread.as_ptr()
    };
    let place = beginning_of_the_shared_one();
    for text in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ] {
        let mut wire = Wire::new(Script { open: true, ..Script::sending([text.as_bytes().to_vec()]) });
        wire.begin(request(Method::GET, Pieces::none()));
        let head = now(|cx| wire.poll_head(cx)).unwrap();
        let mut download = Download::new(head.ending, &mut wire);
        while now(|cx| download.poll_next(&mut wire, cx)).is_some() {}
        drop(head.response);
        assert!(wire.lives(&mut Context::from_waker(std::task::Waker::noop())));
        assert_eq!(beginning_of_the_shared_one(), place, "{text:?}");
        assert_eq!(wire.fields.capacity(), 0);
        assert!(size_of_val(&wire) - size_of_val(&wire.stream) < 600, "{}", size_of_val(&wire));
    }
}

/// Responses, mostly well-formed.
fn responses() -> impl Strategy<Value = Vec<u8>> {
    let head = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "",
    ]);
    let body = prop_oneof![
        prop::sample::select(vec![
            "5\r\nhello\r\n0\r\n\r\n",
            "3;x\r\nabc\r\n",
            "0\r\n\r\n",
            "",
            "abc",
            "HTTP/1.1 200 OK\r\n\r\n"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..30),
    ];
    (head, prop::collection::vec(body, 0..4))
        .prop_map(|(head, bodies)| [head.as_bytes().to_vec(), bodies.concat()].concat())
}

proptest! {
    #[test]
    fn an_answer_is_the_same_however_it_comes(bytes in responses(), size in 1_usize..40, open in any::<bool>()) {
        let cut = bytes.chunks(size).map(<[u8]>::to_vec);
        let pieces = answer(Method::GET, Script { open, ..Script::sending(cut) });
        let whole = answer(Method::GET, Script { open, ..Script::sending([bytes.clone()]) });
        let told = |outcome: Outcome| (outcome.status, outcome.body, outcome.trailers, outcome.end);
        prop_assert!(!whole.again || pieces.end == "clean");
        prop_assert_eq!(told(pieces), told(whole));
    }

    #[test]
    fn an_answer_cut_short_is_never_whole(
        body in prop::collection::vec(any::<u8>(), 1..200),
        chunk in prop::option::of(1_usize..50),
        at in any::<prop::sample::Index>(),
        size in 1_usize..80,
    ) {
        let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
        match chunk {
            None => bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes()),
            Some(_) => bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n"),
        }
        for piece in body.chunks(chunk.unwrap_or(usize::MAX)) {
            if chunk.is_some() {
                bytes.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
            }
            bytes.extend_from_slice(piece);
            if chunk.is_some() {
                bytes.extend_from_slice(b"\r\n");
            }
        }
        if chunk.is_some() {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        let sent = |bytes: &[u8]| answer(Method::GET, Script::sending(bytes.chunks(size).map(<[u8]>::to_vec)));
        let whole = sent(&bytes);
        prop_assert_eq!((whole.status, &whole.body, whole.end), (Ok(200), &body, "clean"));
        let part = sent(&bytes[..at.index(bytes.len())]);
        prop_assert!(matches!((part.status, part.end), (Err(Stopped::Closed), _) | (Ok(200), "short")), "{:?}", part);
    }
}
