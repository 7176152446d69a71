//! How a service's endpoints are asked whether they are well, as the file declares it. What follows from the answers is
//! in `health`; the asking itself is `control::prober`'s.

use std::fmt;
use std::time::Duration;

/// One service's active health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub ask: Ask,
    /// Between two checks of an endpoint, less or more a tenth.
    pub interval: Duration,
    /// For the whole of one check; never longer than the interval.
    pub timeout: Duration,
    /// Checks in a row that must pass before an endpoint is healthy.
    pub rise: u32,
    /// Checks in a row that must fail before a healthy endpoint is unhealthy.
    pub fall: u32,
}

/// What is asked, and what passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Http(HttpCheck),
    /// That it accepts a connection.
    Tcp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// With the query, if there is one.
    pub path: String,
    /// `None`: the endpoint's own `host:port`.
    pub host: Option<String>,
    pub expect_status: Statuses,
    /// A text that the body must have in its first part.
    pub expect_body: Option<String>,
}

impl Default for HealthCheck {
    fn default() -> HealthCheck {
        HealthCheck {
            ask: Ask::Http(HttpCheck::default()),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        }
    }
}

impl Default for HttpCheck {
    fn default() -> HttpCheck {
        HttpCheck { path: "/health".to_owned(), host: None, expect_status: Statuses::default(), expect_body: None }
    }
}

/// The answers that pass: statuses and ranges of them, such as `200-299, 304`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(Vec<(u16, u16)>);

/// A text does not name statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatusesError {
    #[error("statuses are numbers and ranges with commas between")]
    Form,
    #[error("a status is a number from 200 to 599")]
    Range,
    #[error("a range begins with its lower end")]
    Backwards,
}

impl Statuses {
    /// Reads `200-399` or `200, 204`.
    pub fn parse(text: &str) -> Result<Statuses, StatusesError> {
        text.split(',').map(range).collect::<Result<_, _>>().map(Statuses)
    }

    #[must_use]
    pub fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

/// Everything but errors: a redirect is not followed, and says that the server is there.
impl Default for Statuses {
    fn default() -> Statuses {
        Statuses(vec![(200, 399)])
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

fn range(text: &str) -> Result<(u16, u16), StatusesError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (status(first)?, status(last)?) {
        (first, last) if first > last => Err(StatusesError::Backwards),
        range => Ok(range),
    }
}

/// A final one (RFC 9110 §15): what begins with 1 is not an answer yet.
fn status(text: &str) -> Result<u16, StatusesError> {
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(StatusesError::Form);
    }
    text.parse().ok().filter(|status| (200..=599).contains(status)).ok_or(StatusesError::Range)
}

/// Digits that are read at all.
const LONGEST: usize = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statuses_are_numbers_and_ranges() {
        let some = Statuses::parse("200-299, 304,401").unwrap();
        for (status, passes) in [(199, false), (200, true), (299, true), (300, false), (304, true), (401, true)] {
            assert_eq!(some.contain(status), passes, "{status}");
        }
        assert_eq!(some.to_string(), "200-299, 304, 401");
        for form in ["", "200-", "ok", "2xx", "200,,204", "-200", "200 204", "+200"] {
            assert_eq!(Statuses::parse(form), Err(StatusesError::Form), "{form}");
        }
        for range in ["0", "100", "199-300", "600", "99999"] {
            assert_eq!(Statuses::parse(range), Err(StatusesError::Range), "{range}");
        }
        assert_eq!(Statuses::parse("399-200"), Err(StatusesError::Backwards));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(ranges in prop::collection::vec((200u16..600, 200u16..600), 1..5)) {
            let statuses = Statuses(ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect());
            prop_assert_eq!(Statuses::parse(&statuses.to_string()), Ok(statuses));
        }

        #[test]
        fn no_text_is_too_strange(text in "[0-9, -]{0,12}|(?s).{0,12}") {
            let _read = Statuses::parse(&text);
        }
    }
}
