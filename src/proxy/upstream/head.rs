//! Heads on the wire: a request's, written anew; a response's, read strictly (RFC 9112 §2 to §6).

use std::io::Write;
use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use super::framing::{Ending, Framing, Malformed};
use super::sending::Coding;

/// Response heads up to this size.
const LARGEST: usize = 64 * 1024;
const MOST_FIELDS: usize = 100;
/// Request heads are mostly smaller than this.
const USUAL: usize = 2 * 1024;

/// Writes a request's head. How its body ends is said by `coding` alone, whatever the fields say.
pub fn write(out: &mut Vec<u8>, request: &Parts, coding: Coding) {
    out.reserve(USUAL);
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut states_length = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    for (name, value) in &request.headers {
        if name == header::CONTENT_LENGTH {
            states_length = true;
        } else if name != header::TRANSFER_ENCODING {
            write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    match coding {
        Coding::Chunked => write_field(out, b"transfer-encoding", b"chunked"),
        Coding::Length(0) if !states_length => {} // RFC 9110 §8.6
        Coding::Length(length) => {
            let _into_memory = write!(out, "content-length: {length}\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A response's head, and what it says about what follows.
#[derive(Debug)]
pub struct Head {
    pub response: Response<()>,
    pub ending: Ending,
    /// Whether the connection may carry another exchange afterwards.
    pub persists: bool,
}

/// Reads the head of a response to a request of method `to`; `None` until all of it has come. `fields` is an empty map
/// whose memory may be used.
///
/// A bare LF ends a line, as RFC 9112 §2.2 allows: heads are written anew, so nobody behind us can read it otherwise.
pub fn read(bytes: &mut Bytes, to: &Method, fields: &mut HeaderMap) -> Result<Option<Head>, Malformed> {
    match bytes.first() {
        None => return Ok(None),
        Some(b'H') => {}
        Some(_) => return Err(Malformed), // httparse skips empty lines, which may be the last message's surplus
    }
    let mut parsed = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parts = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parts, bytes, &mut parsed) {
        Ok(httparse::Status::Complete(length)) if length <= LARGEST => length,
        Ok(httparse::Status::Partial) if bytes.len() <= LARGEST => return Ok(None),
        Ok(_) | Err(_) => return Err(Malformed),
    };
    let version = if parts.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let status = parts.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed)?;
    let (mut framing, mut fields) = (Framing::default(), std::mem::take(fields));
    fields.reserve(parts.headers.len());
    for field in parts.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| Malformed)?;
        framing.note(&name, &value)?;
        fields.append(name, value);
    }
    let mut response = Response::new(());
    (*response.status_mut(), *response.version_mut(), *response.headers_mut()) = (status, version, fields);
    if let Some(reason) = parts.reason.filter(|reason| Some(*reason) != status.canonical_reason()) {
        let reason = ReasonPhrase::try_from(reason.as_bytes()).map_err(|_| Malformed)?;
        response.extensions_mut().insert(reason);
    }
    bytes.advance(length);
    let ending = framing.ending(to, status, version)?;
    Ok(Some(Head { response, ending, persists: framing.persists(version) }))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn read_all(bytes: &[u8]) -> Result<Option<(Head, Bytes)>, Malformed> {
        let mut bytes = Bytes::copy_from_slice(bytes);
        let head = read(&mut bytes, &Method::GET, &mut HeaderMap::new())?;
        Ok(head.map(|head| (head, bytes)))
    }

    fn malformed(text: &str) -> bool {
        read_all(text.as_bytes()).is_err()
    }

    #[test]
    fn a_head_is_read_and_what_follows_is_left() {
        let text =
            "HTTP/1.1 404 Not Found\r\nServer: a\r\nSet-Cookie: b\r\nset-cookie: \tc \r\nContent-Length: 3\r\n\r\nabc";
        let (head, rest) = read_all(text.as_bytes()).unwrap().unwrap();
        assert_eq!(
            (head.response.status(), head.ending, head.persists),
            (StatusCode::NOT_FOUND, Ending::Length(3), true)
        );
        assert_eq!(head.response.headers()["server"], "a");
        assert_eq!(head.response.headers().get_all("set-cookie").iter().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(rest, "abc");
        let (old, _) = read_all(b"HTTP/1.0 200\r\n\r\n").unwrap().unwrap();
        assert_eq!((old.response.version(), old.ending, old.persists), (Version::HTTP_10, Ending::Close, false));
    }

    #[test]
    fn a_reason_of_its_own_is_kept() {
        let reason = |text: &str| {
            let (head, _) = read_all(text.as_bytes()).unwrap().unwrap();
            head.response.extensions().get::<ReasonPhrase>().map(|reason| reason.as_bytes().to_vec())
        };
        assert_eq!(reason("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(reason("HTTP/1.1 200 Fine\r\n\r\n"), Some(b"Fine".to_vec()));
    }

    #[test]
    fn what_is_no_head_is_not_read_as_one() {
        for line in [
            "",
            " HTTP/1.1 200 OK",
            "HTTP/2.0 200 OK",
            "HTTP/1.2 200 OK",
            "HTTP/0.9 200 OK",
            "http/1.1 200 OK",
            "HTTP/1.1  200 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 099 OK",
            "HTTP/1.1 -20 OK",
            "HTTP/1.1 abc OK",
            "HTTP/1.1 200 O\0K",
            "HTTP/1.1 200 O\rK",
            "HTTP/1.1\t200 OK",
            "ICY 200 OK",
            "SSH-2.0-OpenSSH_9.2",
        ] {
            assert!(malformed(&format!("{line}\r\n\r\n")), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_field_is_not_read_as_one() {
        for field in [
            "X-A : 1",
            "X A: 1",
            ": 1",
            "no colon",
            "X-A: 1\r\n folded",
            " X-A: 1",
            "X-A: a\0b",
            "X-A: a\rb",
            "X-A: a\u{1}b",
            "X-\u{e4}: 1",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: +1",
            "Transfer-Encoding: gzip",
        ] {
            assert!(malformed(&format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n")), "{field:?}");
        }
    }

    #[test]
    fn a_head_is_bounded() {
        let large = |length: usize| format!("HTTP/1.1 200 OK\r\nX-A: {}", "x".repeat(length));
        let around = large(0).len() + 4;
        assert!(!malformed(&format!("{}\r\n\r\n", large(LARGEST - around))));
        assert!(malformed(&format!("{}\r\n\r\n", large(LARGEST - around + 1))));
        assert!(malformed(&large(LARGEST)));
        let many = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: 1\r\n".repeat(count));
        assert!(!malformed(&many(MOST_FIELDS)));
        assert!(malformed(&many(MOST_FIELDS + 1)));
    }

    fn written(method: Method, fields: &[(&str, &str)], coding: Coding) -> String {
        let mut request = Request::builder().method(method).uri("http://other/a?b");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut out = Vec::new();
        write(&mut out, &request.body(()).unwrap().into_parts().0, coding);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_is_written_with_one_framing() {
        let fields =
            [("host", "a"), ("content-length", "9"), ("transfer-encoding", "gzip"), ("x-a", "1"), ("x-a", "2")];
        let lines = "POST /a?b HTTP/1.1\r\nhost: a\r\nx-a: 1\r\nx-a: 2\r\n";
        assert_eq!(written(Method::POST, &fields, Coding::Length(7)), format!("{lines}content-length: 7\r\n\r\n"));
        let chunked = format!("{lines}transfer-encoding: chunked\r\n\r\n");
        assert_eq!(written(Method::POST, &fields, Coding::Chunked), chunked);
    }

    #[test]
    fn no_body_is_said_where_one_was_to_be_expected() {
        let none = Coding::Length(0);
        assert_eq!(written(Method::GET, &[], none), "GET /a?b HTTP/1.1\r\n\r\n");
        assert_eq!(written(Method::PUT, &[], none), "PUT /a?b HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
        let said = written(Method::GET, &[("content-length", "0")], none);
        assert_eq!(said, "GET /a?b HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_head_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200), named in any::<bool>()) {
            let mut text = if named { b"HTTP/1.1 200 OK\r\n".to_vec() } else { Vec::new() };
            text.extend_from_slice(&bytes);
            let _either = read_all(&text);
        }

        #[test]
        fn a_head_is_read_once_it_is_all_there(
            status in 100_u16..1_000,
            fields in prop::collection::vec(("x-[a-z]{1,8}", "[!-~]([ -~]{0,20}[!-~])?"), 0..20),
            at in any::<prop::sample::Index>(),
        ) {
            let lines = fields.iter().fold(String::new(), |lines, (name, value)| lines + name + ": " + value + "\r\n");
            let text = format!("HTTP/1.1 {status} Reason\r\n{lines}\r\n");
            let (head, rest) = read_all(text.as_bytes()).unwrap().unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(head.response.status(), status);
            for (name, value) in &fields {
                prop_assert!(head.response.headers().get_all(name).iter().any(|read| read == value));
            }
            prop_assert_eq!(head.response.headers().len(), fields.len());
            let part = &text.as_bytes()[..at.index(text.len())];
            prop_assert!(matches!(read_all(part), Ok(None)), "cut short");
        }
    }
}
