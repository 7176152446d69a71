//! How long requests and attempts took, and what requests have in common: for metrics alone, never for the verdict.
//!
//! Counted per worker by small integers, so that a request costs a search of an ordered map that fits the cache and
//! nothing else. What a client or an endpoint can make up is bounded twice: methods by those that RFC 9110 names, and
//! everything together by [`MOST_KINDS`].

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, StatusCode, Version};

use super::names::{EndpointId, VersionId};

/// Upper bounds in microseconds, as OpenTelemetry's conventions advise.
pub const BOUNDS_MICROS: [u64; 14] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000,
];

/// Kinds of requests of one version that are told apart; those behind count as one more, [`Kind::OTHER`].
pub const MOST_KINDS: usize = 200;

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
const PROTOCOLS: [&str; 4] = ["1.1", "1.0", "2", "3"];

/// A histogram by [`BOUNDS_MICROS`], and the sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    pub sum_micros: u64,
    /// The count of each bucket alone; the last one has no upper bound.
    pub counts: [u64; BOUNDS_MICROS.len() + 1],
}

impl Durations {
    pub fn add(&mut self, micros: u64) {
        self.sum_micros += micros;
        self.counts[BOUNDS_MICROS.iter().take_while(|bound| micros > **bound).count()] += 1;
    }

    pub fn merge(&mut self, other: &Durations) {
        self.sum_micros += other.sum_micros;
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// How a client asked and what it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// Zero: there was no answer.
    status: u16,
    /// Into [`METHODS`]; behind its end for all others.
    method: u8,
    /// Into [`PROTOCOLS`].
    protocol: u8,
    /// By TLS.
    secure: bool,
    error: Option<&'static str>,
}

impl Kind {
    /// What is counted together once too many kinds are told apart.
    pub const OTHER: Kind = Kind { status: 0, method: u8::MAX, protocol: u8::MAX, secure: false, error: None };

    #[must_use]
    pub fn asked(method: &Method, version: Version, scheme: &str) -> Kind {
        let method = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::POST => 2,
            Method::PUT => 3,
            Method::PATCH => 4,
            Method::DELETE => 5,
            Method::OPTIONS => 6,
            Method::TRACE => 7,
            Method::CONNECT => 8,
            _ => Kind::OTHER.method,
        };
        let protocol = match version {
            Version::HTTP_10 => 1,
            Version::HTTP_2 => 2,
            Version::HTTP_3 => 3,
            _ => 0,
        };
        Kind { status: 0, method, protocol, secure: scheme == "https", error: None }
    }

    pub fn answer(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// Why it did not end well: one of few words.
    pub fn fail(&mut self, error: &'static str) {
        self.error = Some(error);
    }

    #[must_use]
    pub fn method(self) -> &'static str {
        METHODS.get(usize::from(self.method)).copied().unwrap_or("_OTHER")
    }

    #[must_use]
    pub fn scheme(self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// `None`: not told apart.
    #[must_use]
    pub fn protocol(self) -> Option<&'static str> {
        PROTOCOLS.get(usize::from(self.protocol)).copied()
    }

    /// `None`: the client left before there was one, or it is not told apart.
    #[must_use]
    pub fn status(self) -> Option<u16> {
        (self.status != 0).then_some(self.status)
    }

    #[must_use]
    pub fn error(self) -> Option<&'static str> {
        self.error
    }
}

/// Requests of one version by kind.
#[derive(Debug, Clone, Default)]
pub struct Kinds(BTreeMap<Kind, Durations>);

impl Kinds {
    pub fn merge(&mut self, kind: Kind, durations: &Durations) {
        let known = self.0.len() < MOST_KINDS || self.0.contains_key(&kind);
        self.0.entry(if known { kind } else { Kind::OTHER }).or_default().merge(durations);
    }

    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Durations)> {
        self.0.iter().map(|(kind, durations)| (*kind, durations))
    }
}

/// What one worker timed since its last batch.
#[derive(Debug, Default)]
pub struct Timings {
    /// From a request's arrival to the end of its answer, by the version chosen for it; `None` when there was none.
    pub requests: BTreeMap<(Option<VersionId>, Kind), Durations>,
    /// Attempts, from their begin to the end of the response, by endpoint.
    pub attempts: BTreeMap<EndpointId, Attempts>,
}

/// Attempts at one address.
#[derive(Debug)]
pub struct Attempts {
    pub version: VersionId,
    /// The endpoint as the file names it.
    pub authority: Arc<str>,
    pub durations: Durations,
}

impl Timings {
    pub fn request(&mut self, version: Option<VersionId>, kind: Kind, micros: u64) {
        self.requests.entry((version, kind)).or_default().add(micros);
    }

    pub fn attempt(&mut self, version: VersionId, endpoint: EndpointId, authority: &Arc<str>, micros: u64) {
        let begun = || Attempts { version, authority: authority.clone(), durations: Durations::default() };
        self.attempts.entry(endpoint).or_insert_with(begun).durations.add(micros);
    }

    pub fn merge(&mut self, later: Timings) {
        for (kind, durations) in later.requests {
            self.requests.entry(kind).or_default().merge(&durations);
        }
        for (endpoint, attempts) in later.attempts {
            let Attempts { version, authority, durations } = attempts;
            let begun = || Attempts { version, authority, durations: Durations::default() };
            self.attempts.entry(endpoint).or_insert_with(begun).durations.merge(&durations);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut durations = Durations::default();
        for micros in [0, 5_000, 5_001, 10_000_000, 10_000_001, u64::from(u32::MAX)] {
            durations.add(micros);
        }
        assert_eq!(
            (durations.counts[0], durations.counts[1], durations.counts[13], durations.counts[14]),
            (2, 1, 1, 2)
        );
        assert_eq!(durations.count(), 6);
        assert!(BOUNDS_MICROS.is_sorted());
    }

    #[test]
    fn every_method_and_protocol_has_its_name() {
        for name in METHODS {
            let kind = Kind::asked(&name.parse().unwrap(), Version::HTTP_11, "http");
            assert_eq!((kind.method(), kind.protocol(), kind.status()), (name, Some("1.1"), None));
        }
        assert_eq!(Kind::asked(&"BREW".parse().unwrap(), Version::HTTP_10, "http").method(), "_OTHER");
        assert_eq!(Kind::asked(&Method::GET, Version::HTTP_10, "http").protocol(), Some("1.0"));
        assert_eq!(Kind::asked(&Method::GET, Version::HTTP_2, "http").protocol(), Some("2"));
    }

    #[test]
    fn an_endpoint_that_makes_up_statuses_is_bounded() {
        let (mut kinds, mut one) = (Kinds::default(), Durations::default());
        one.add(1);
        for status in 100..=999 {
            let mut kind = Kind::asked(&Method::GET, Version::HTTP_11, "http");
            kind.answer(StatusCode::from_u16(status).unwrap());
            kinds.merge(kind, &one);
        }
        assert_eq!(kinds.iter().count(), MOST_KINDS + 1);
        assert_eq!(kinds.iter().map(|(_, durations)| durations.count()).sum::<u64>(), 900);
        assert_eq!(kinds.iter().find(|(kind, _)| *kind == Kind::OTHER).unwrap().1.count(), 700);
    }

    #[test]
    fn timings_that_had_to_wait_lose_nothing() {
        let timed = || {
            let (mut timings, kind) = (Timings::default(), Kind::asked(&Method::GET, Version::HTTP_11, "http"));
            timings.request(None, kind, 7);
            timings.attempt(VersionId(1), EndpointId(2), &"a:1".into(), 5);
            timings
        };
        let mut waiting = timed();
        waiting.merge(timed());
        assert_eq!(waiting.requests.values().map(|durations| durations.sum_micros).sum::<u64>(), 14);
        assert_eq!(waiting.attempts[&EndpointId(2)].durations.count(), 2);
    }
}
