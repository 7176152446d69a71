//! Where a body ends (RFC 9112 §6). What could be read in two ways is not read at all.

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};

/// It is not HTTP, or could be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// How a response's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// After this many bytes.
    Length(u64),
    /// With its last chunk.
    Chunks,
    /// With the connection.
    Close,
}

/// What a response's fields say about its body and its connection.
#[derive(Debug, Default)]
pub struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Framing {
    /// Takes in one field.
    pub fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Malformed> {
        if name == header::CONTENT_LENGTH {
            self.stated_once()?;
            self.length = Some(length(value.as_bytes())?);
        } else if name == header::TRANSFER_ENCODING {
            self.stated_once()?;
            self.chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            return if self.chunked { Ok(()) } else { Err(Malformed) };
        } else if name == header::CONNECTION {
            for option in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    fn stated_once(&self) -> Result<(), Malformed> {
        if self.length.is_some() || self.chunked { Err(Malformed) } else { Ok(()) }
    }

    /// RFC 9112 §6.3, for anything but the answer to CONNECT.
    pub fn ending(&self, to: &Method, status: StatusCode, version: Version) -> Result<Ending, Malformed> {
        if self.chunked && version < Version::HTTP_11 {
            return Err(Malformed); // §6.1: its sender does not know what it means
        }
        let bodiless = *to == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Ok(match (bodiless, self.chunked, self.length) {
            (true, ..) => Ending::Length(0),
            (false, true, _) => Ending::Chunks,
            (false, false, Some(length)) => Ending::Length(length),
            (false, false, None) => Ending::Close,
        })
    }

    /// RFC 9112 §9.3: whether the connection may carry another exchange.
    pub fn persists(&self, version: Version) -> bool {
        !self.close && (self.keep_alive || version >= Version::HTTP_11)
    }
}

/// Digits, nothing else.
fn length(text: &[u8]) -> Result<u64, Malformed> {
    if !text.iter().all(u8::is_ascii_digit) {
        return Err(Malformed); // `parse` takes a sign
    }
    str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(fields: &[(&'static str, &'static str)]) -> Result<Framing, Malformed> {
        let mut framing = Framing::default();
        for (name, value) in fields {
            framing.note(&HeaderName::from_static(name), &HeaderValue::from_static(value))?;
        }
        Ok(framing)
    }

    fn ending(fields: &[(&'static str, &'static str)]) -> Result<Ending, Malformed> {
        framing(fields)?.ending(&Method::GET, StatusCode::OK, Version::HTTP_11)
    }

    #[test]
    fn a_length_is_stated_once() {
        assert_eq!(ending(&[("content-length", "0")]), Ok(Ending::Length(0)));
        assert_eq!(ending(&[("content-length", "18446744073709551615")]), Ok(Ending::Length(u64::MAX)));
        assert_eq!(ending(&[("transfer-encoding", "Chunked")]), Ok(Ending::Chunks));
        assert_eq!(ending(&[]), Ok(Ending::Close));
        for fields in [
            &[("content-length", "3"), ("content-length", "3")][..],
            &[("content-length", "3"), ("content-length", "4")],
            &[("content-length", "3"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked"), ("content-length", "3")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(ending(fields), Err(Malformed), "{fields:?}");
        }
    }

    #[test]
    fn a_length_is_digits() {
        for value in ["", "-1", "+1", " 1", "1 ", "0x1", "1,1", "1.0", "18446744073709551616", "1e3"] {
            assert_eq!(ending(&[("content-length", value)]), Err(Malformed), "{value:?}");
        }
    }

    #[test]
    fn the_one_transfer_coding_is_chunked() {
        for value in
            ["", "gzip", "identity", "gzip, chunked", "chunked, chunked", "chunked;q=1", "xchunked", "chunked,"]
        {
            assert_eq!(ending(&[("transfer-encoding", value)]), Err(Malformed), "{value:?}");
        }
        let old = framing(&[("transfer-encoding", "chunked")]).unwrap();
        assert_eq!(old.ending(&Method::GET, StatusCode::OK, Version::HTTP_10), Err(Malformed));
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        let long = framing(&[("content-length", "9")]).unwrap();
        let none = |to, status| long.ending(&to, status, Version::HTTP_11);
        assert_eq!(none(Method::HEAD, StatusCode::OK), Ok(Ending::Length(0)));
        assert_eq!(none(Method::GET, StatusCode::NO_CONTENT), Ok(Ending::Length(0)));
        assert_eq!(none(Method::GET, StatusCode::NOT_MODIFIED), Ok(Ending::Length(0)));
        assert_eq!(none(Method::POST, StatusCode::OK), Ok(Ending::Length(9)));
    }

    #[test]
    fn an_older_endpoint_says_that_it_keeps_the_connection() {
        for (fields, older, newer) in [
            (&[][..], false, true),
            (&[("connection", "Keep-Alive")], true, true),
            (&[("connection", "x-a , close")], false, false),
            (&[("connection", "keep-alive"), ("connection", "close")], false, false),
        ] {
            let framing = framing(fields).unwrap();
            assert_eq!((framing.persists(Version::HTTP_10), framing.persists(Version::HTTP_11)), (older, newer));
        }
    }
}
