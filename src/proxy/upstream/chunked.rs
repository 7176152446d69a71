//! The chunked transfer coding (RFC 9112 §7.1): read strictly, and written.

use std::io::Write;

use bytes::{Buf, Bytes};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::framing::Malformed;
use crate::proxy::headers;

/// Digits of a chunk's size: what fits 64 bits.
const SIZE_DIGITS: usize = 16;
/// Bytes of chunk extensions in one body. Nobody uses them; an endless one would be read for ever.
const EXTENSIONS: usize = 16 * 1024;
/// Trailer sections up to this size.
const TRAILERS: usize = 16 * 1024;
const MOST_TRAILERS: usize = 100;

/// Takes chunks apart, as far as they have come.
#[derive(Debug, Default)]
pub struct Decoder {
    next: Next,
    /// Bytes of chunk extensions so far.
    extensions: usize,
}

#[derive(Debug, Clone, Copy, Default)]
enum Next {
    #[default]
    Size,
    /// This much of the chunk.
    Data(u64),
    DataEnd,
    Trailers,
}

#[derive(Debug, PartialEq)]
pub enum Piece {
    Data(Bytes),
    /// Also the end, if there are any.
    Trailers(HeaderMap),
    End,
}

impl Decoder {
    /// The next piece; `None` until more has come. Nothing follows the trailers or the end.
    pub fn decode(&mut self, bytes: &mut Bytes) -> Result<Option<Piece>, Malformed> {
        loop {
            self.next = match self.next {
                Next::Size => match self.size(bytes)? {
                    None => return Ok(None),
                    Some(0) => Next::Trailers,
                    Some(size) => Next::Data(size),
                },
                Next::Data(_) if bytes.is_empty() => return Ok(None),
                Next::Data(left) => {
                    let data = take(bytes, left);
                    let left = left - data.len() as u64;
                    self.next = if left == 0 { Next::DataEnd } else { Next::Data(left) };
                    return Ok(Some(Piece::Data(data)));
                }
                Next::DataEnd => match bytes.first_chunk() {
                    None => return Ok(None),
                    Some(b"\r\n") => {
                        bytes.advance(2);
                        Next::Size
                    }
                    Some(_) => return Err(Malformed),
                },
                Next::Trailers => return trailers(bytes),
            }
        }
    }

    fn size(&mut self, bytes: &mut Bytes) -> Result<Option<u64>, Malformed> {
        let Some(line) = line(bytes, SIZE_DIGITS + EXTENSIONS)? else { return Ok(None) };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extensions) = line.split_at(digits);
        self.extensions += extensions.len();
        let well_formed = match extensions.trim_ascii_start() {
            [] => true,
            [first, rest @ ..] => *first == b';' && rest.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()),
        };
        if !well_formed || digits > SIZE_DIGITS || self.extensions > EXTENSIONS {
            return Err(Malformed);
        }
        let size = str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
        size.map(Some).ok_or(Malformed)
    }
}

/// At most `most` of what is there.
pub fn take(bytes: &mut Bytes, most: u64) -> Bytes {
    bytes.split_to(usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len()))
}

/// A line without its CRLF, at most `limit` long. A bare LF or CR is no end of a line, and nothing else either.
fn line(bytes: &mut Bytes, limit: usize) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() > limit + 1 { Err(Malformed) } else { Ok(None) };
    };
    let mut line = bytes.split_to(end + 1);
    line.truncate(end);
    match line.split_last() {
        Some((b'\r', text)) if text.len() <= limit && !text.contains(&b'\r') => Ok(Some(line.slice(..text.len()))),
        _ => Err(Malformed),
    }
}

/// The section behind the last chunk.
fn trailers(bytes: &mut Bytes) -> Result<Option<Piece>, Malformed> {
    if bytes.starts_with(b"\r\n") {
        bytes.advance(2);
        return Ok(Some(Piece::End));
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
    let (length, fields) = match httparse::parse_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(parsed)) => parsed,
        Ok(httparse::Status::Partial) if bytes.len() <= TRAILERS => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Malformed),
    };
    let ends = bytes[..length].iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(end, _)| end);
    if length > TRAILERS || ends.into_iter().any(|end| end == 0 || bytes[end - 1] != b'\r') {
        return Err(Malformed);
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed)?;
        if headers::may_trail(&name) {
            trailers.append(name, value);
        }
    }
    bytes.advance(length);
    Ok(Some(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) }))
}

/// The line in front of a chunk of this many bytes, of which there are some.
pub fn write_size(out: &mut Vec<u8>, size: usize) {
    debug_assert!(size > 0, "it would be the last chunk");
    let _into_memory = write!(out, "{size:x}\r\n");
}

/// The last chunk, and the trailers that may be one.
pub fn write_end(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.iter().filter(|(name, _)| headers::may_trail(name)) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A body in pieces, joined as they come: its data, its trailers, and what is left. `None`: it is not all there.
    type Decoded = Result<Option<(Vec<u8>, HeaderMap, Vec<u8>)>, Malformed>;

    fn decoded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
        let (mut decoder, mut unread, mut data) = (Decoder::default(), Bytes::new(), Vec::new());
        let mut ended = None;
        for piece in pieces {
            unread = [&unread, piece].concat().into();
            while ended.is_none()
                && let Some(piece) = decoder.decode(&mut unread)?
            {
                match piece {
                    Piece::Data(more) => data.extend_from_slice(&more),
                    Piece::Trailers(trailers) => ended = Some(trailers),
                    Piece::End => ended = Some(HeaderMap::new()),
                }
            }
        }
        Ok(ended.map(|trailers| (data, trailers, unread.to_vec())))
    }

    fn whole(text: &str) -> Result<Option<String>, Malformed> {
        Ok(decoded([text.as_bytes()])?.map(|(data, ..)| String::from_utf8(data).unwrap()))
    }

    #[test]
    fn chunks_become_a_body() {
        for text in [
            "5\r\nhello\r\n0\r\n\r\n",
            "2\r\nhe\r\n003\r\nllo\r\n0000\r\n\r\n",
            "5;a=b;c=\"d\"\r\nhello\r\n0; x\r\n\r\n",
            "5 \t\r\nhello\r\n0\r\nA: b\r\n\r\n",
        ] {
            assert_eq!(whole(text), Ok(Some("hello".into())), "{text:?}");
        }
    }

    #[test]
    fn chunks_that_could_be_read_in_two_ways_are_not_read() {
        for text in [
            "zz\r\n",
            "-1\r\n",
            "+1\r\na",
            "0x1\r\na",
            " 1\r\na",
            "\r\n",
            "\n",
            "1\na\r\n",
            "1\r\naXX",
            "1\r\na\n0\r\n\r\n",
            "1\r\n\n\n\n",
            "1;a\nb\r\na",
            "1;a\rb\r\na",
            "1;a\0b\r\na",
            "1 a\r\na",
            "10000000000000000\r\na",
            "00000000000000001\r\na",
            "0\r\nA : b\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA: b\r\n\n",
            "0\r\n A: b\r\n\r\n",
            "0\r\nA: b\r\n c\r\n\r\n",
            "0\r\nA: \0\r\n\r\n",
            "0\r\nno colon\r\n\r\n",
        ] {
            assert_eq!(whole(text), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn what_nobody_uses_is_bounded() {
        let extension = |length: usize| format!("1;{}\r\na\r\n", "x".repeat(length - 1));
        assert_eq!(whole(&format!("{}0\r\n\r\n", extension(EXTENSIONS))), Ok(Some("a".into())));
        assert_eq!(whole(&extension(EXTENSIONS + 1)), Err(Malformed));
        assert_eq!(whole(&extension(EXTENSIONS / 2 + 1).repeat(2)), Err(Malformed), "all of them together");
        assert_eq!(whole(&"1;".repeat(EXTENSIONS)), Err(Malformed), "before its end has come");
        assert_eq!(whole(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(MOST_TRAILERS + 1))), Err(Malformed));
        assert_eq!(whole(&format!("0\r\nA: {}\r\n\r\n", "x".repeat(TRAILERS))), Err(Malformed));
        assert_eq!(whole(&format!("0\r\nA: {}", "x".repeat(TRAILERS))), Err(Malformed));
    }

    #[test]
    fn trailers_do_not_say_what_only_a_head_may() {
        let text = "0\r\nX-Sum: 1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: a\r\nCookie: b\r\n\r\n";
        let (_, trailers, _) = decoded([text.as_bytes()]).unwrap().unwrap();
        assert_eq!(trailers, HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("1"))]));
        let mut written = Vec::new();
        let all = ["x-sum", "content-length", "authorization", "x-forwarded-for", "penstock-version"];
        write_end(
            &mut written,
            &all.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).into_iter().collect(),
        );
        assert_eq!(written, b"0\r\nx-sum: 1\r\n\r\n");
    }

    fn encoded(pieces: &[Vec<u8>], trailers: &HeaderMap) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            write_size(&mut out, piece.len());
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
        }
        write_end(&mut out, trailers);
        out
    }

    fn cut(bytes: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
        bytes.chunks(size)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_however_it_comes(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            trailer in prop::option::of("[a-z]{1,8}"),
            size in 1_usize..50,
        ) {
            let field = |value: &String| (HeaderName::from_static("x-sum"), value.parse().unwrap());
            let trailers: HeaderMap = trailer.iter().map(field).collect();
            let mut bytes = encoded(&pieces, &trailers);
            bytes.extend_from_slice(b"next");
            let (data, read, rest) = decoded(cut(&bytes, size)).unwrap().unwrap();
            prop_assert_eq!((data, read, rest.as_slice()), (pieces.concat(), trailers, &b"next"[..]));
        }

        #[test]
        fn what_is_cut_short_has_no_end(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            at in any::<prop::sample::Index>(),
        ) {
            let bytes = encoded(&pieces, &HeaderMap::new());
            prop_assert_eq!(decoded([&bytes[..at.index(bytes.len())]]), Ok(None));
        }

        #[test]
        fn any_bytes_mean_the_same_however_they_come(
            bytes in prop::collection::vec(prop_oneof![
                5 => prop::sample::select(b"0123aAfF;\r\n :x".to_vec()), 1 => any::<u8>(),
            ], 0..60),
            size in 1_usize..60,
        ) {
            prop_assert_eq!(decoded(cut(&bytes, size)), decoded([&bytes[..]]));
        }

        #[test]
        fn lines_mean_the_same_however_they_come(
            lines in prop::collection::vec(prop::sample::select(vec![
                "0", "1", "a", "abcdefghij", "5;x", "A: b", "zz", "", "X",
            ]), 0..8),
            size in 1_usize..20,
        ) {
            let text = lines.join("\r\n") + "\r\n\r\n";
            prop_assert_eq!(decoded(cut(text.as_bytes(), size)), decoded([text.as_bytes()]));
        }
    }
}
