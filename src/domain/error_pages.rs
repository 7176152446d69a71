//! A service's own pages for the errors that Penstock answers itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

/// Which errors a page is for; a status comes before its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorPattern {
    /// `502`
    Status(u16),
    /// `5xx`: holds 5.
    Class(u16),
}

impl ErrorPattern {
    /// `None`: neither a status from 400 to 599 nor `4xx` or `5xx`.
    #[must_use]
    pub fn parse(text: &str) -> Option<ErrorPattern> {
        match text {
            "4xx" => Some(ErrorPattern::Class(4)),
            "5xx" => Some(ErrorPattern::Class(5)),
            _ if text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().ok().filter(|status| (400..=599).contains(status)).map(ErrorPattern::Status)
            }
            _ => None,
        }
    }
}

impl fmt::Display for ErrorPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorPattern::Status(status) => write!(f, "{status}"),
            ErrorPattern::Class(class) => write!(f, "{class}xx"),
        }
    }
}

/// HTML, as the file had it when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    /// As written.
    pub file: Arc<str>,
    pub html: Bytes,
}

/// A service's pages; none, for most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorPages(Option<Arc<BTreeMap<ErrorPattern, ErrorPage>>>);

impl ErrorPages {
    #[must_use]
    pub fn of(&self, status: StatusCode) -> Option<&ErrorPage> {
        let (pages, status) = (self.0.as_ref()?, status.as_u16());
        pages.get(&ErrorPattern::Status(status)).or_else(|| pages.get(&ErrorPattern::Class(status / 100)))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ErrorPattern, &ErrorPage)> {
        self.0.iter().flat_map(|pages| pages.iter())
    }
}

impl FromIterator<(ErrorPattern, ErrorPage)> for ErrorPages {
    fn from_iter<T: IntoIterator<Item = (ErrorPattern, ErrorPage)>>(pages: T) -> ErrorPages {
        let pages: BTreeMap<_, _> = pages.into_iter().collect();
        ErrorPages((!pages.is_empty()).then(|| Arc::new(pages)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_comes_before_its_class() {
        let page = |file: &str| ErrorPage { file: file.into(), html: Bytes::new() };
        let pages = [("502", "bad.html"), ("5xx", "any.html")];
        let pages: ErrorPages =
            pages.map(|(key, file)| (ErrorPattern::parse(key).unwrap(), page(file))).into_iter().collect();
        let file = |status: u16| pages.of(StatusCode::from_u16(status).unwrap()).map(|page| &*page.file);
        assert_eq!((file(502), file(503), file(404)), (Some("bad.html"), Some("any.html"), None));
        assert_eq!(ErrorPages::default().of(StatusCode::BAD_GATEWAY), None);
    }

    #[test]
    fn a_pattern_is_an_error_s_status_or_class() {
        for text in ["399", "600", "3xx", "5XX", "50", "5000", "", "+50"] {
            assert_eq!(ErrorPattern::parse(text), None, "{text}");
        }
        for text in ["400", "599", "4xx"] {
            assert_eq!(ErrorPattern::parse(text).unwrap().to_string(), text);
        }
    }
}
