//! How a version's requests are spread over its endpoints: the algorithms, what a request is hashed by, and what a
//! service sets of all this.
//!
//! Every algorithm respects weights, and picks among candidates that [`pool`](super::pool) found available. Weights
//! come in thousandths, so that an endpoint in its slow start can have a part of its own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::breaker::Limits;
use super::ejection::Ejection;
use super::pool::Member;
use super::route::Facts;
use super::split::Weight;

/// The algorithm that picks among a version's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Balance {
    /// Two endpoints at random; the one with fewer requests in flight for its weight takes it.
    #[default]
    PowerOfTwo,
    /// One after the other, over all workers, each as often as its weight says.
    RoundRobin,
    /// The one with the fewest requests in flight for its weight.
    LeastConnections,
    /// The same endpoint for the same client address, while it is available.
    ClientAddressHash,
    /// The same endpoint for the same value of this header.
    HeaderHash(http::HeaderName),
    /// The same endpoint for the same value of this cookie.
    CookieHash(String),
}

impl Balance {
    /// What the request is hashed by. `None`: it is not, or has no such header or cookie; then two choices decide.
    #[must_use]
    pub fn key(&self, client: IpAddr, facts: &Facts<'_>) -> Option<u64> {
        match self {
            Balance::PowerOfTwo | Balance::RoundRobin | Balance::LeastConnections => None,
            Balance::ClientAddressHash => Some(match client.to_canonical() {
                IpAddr::V4(v4) => xxh3_64(&v4.octets()),
                IpAddr::V6(v6) => xxh3_64(&v6.octets()),
            }),
            Balance::HeaderHash(name) => Some(xxh3_64(facts.headers.get(name)?.as_bytes())),
            Balance::CookieHash(name) => {
                facts.cookies().find(|(seen, _)| seen == name).map(|(_, value)| xxh3_64(value.as_bytes()))
            }
        }
    }
}

/// What a service says about the choice among a version's endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Balancing {
    pub balance: Balance,
    /// How long the weight of a new or recovered endpoint takes to grow to its whole; zero: it does not grow.
    pub slow_start: Duration,
    /// With a smaller share of a version's endpoints available than this, their health is ignored.
    pub panic_threshold: Weight,
    /// `None`: nothing is ejected.
    pub ejection: Option<Ejection>,
    pub limits: Limits,
}

impl Default for Balancing {
    fn default() -> Balancing {
        Balancing {
            balance: Balance::default(),
            slow_start: Duration::ZERO,
            panic_threshold: Weight::HALF,
            ejection: Some(Ejection::default()),
            limits: Limits::default(),
        }
    }
}

/// An endpoint that may be picked, as it was looked at: what other workers do meanwhile does not change it any more.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub member: &'a Member,
    /// In thousandths.
    pub weight: u64,
    pub in_flight: u32,
}

/// The number of parts that a weight of one is made of.
pub const WHOLE: u64 = 1_000;

/// Two different candidates by weight (the same one twice when there is one), the less busy first.
#[must_use]
pub fn two_choices<'a>(candidates: &[Candidate<'a>], draw: u64) -> Option<&'a Member> {
    let (high, low) = (draw >> 32, draw & 0xffff_ffff);
    let total = total(candidates);
    let first = at(candidates, part(high << 32, total))?;
    let chosen = candidates[first];
    let position = part(low << 32, total - chosen.weight);
    let before: u64 = candidates[..first].iter().map(|candidate| candidate.weight).sum();
    let second = at(candidates, if position < before { position } else { position + chosen.weight });
    let second = second.map(|second| candidates[second]).filter(|second| chosen.busier(second));
    Some(second.unwrap_or(chosen).member)
}

/// The candidate whose turn it is. Equal weights: strictly one after the other. Different ones: turns step through the
/// weights by the golden ratio, which spreads each candidate's turns as evenly as its weight allows (three-distance
/// theorem), without anything to remember but the number of the turn.
#[must_use]
pub fn in_turn<'a>(candidates: &[Candidate<'a>], turn: u64) -> Option<&'a Member> {
    let one = candidates.first()?.weight;
    let total = total(candidates);
    let position = if candidates.iter().all(|candidate| candidate.weight == one) {
        turn % candidates.len() as u64 * one
    } else {
        part(turn.wrapping_mul(GOLDEN), total)
    };
    at(candidates, position).map(|index| candidates[index].member)
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The least busy candidate for its weight; among equals, one by weight.
#[must_use]
pub fn least_busy<'a>(candidates: &[Candidate<'a>], draw: u64) -> Option<&'a Member> {
    let least = candidates.iter().reduce(|least, next| if least.busier(next) { next } else { least })?;
    let equals = || candidates.iter().filter(|next| !next.busier(least));
    let mut position = part(draw, equals().map(|equal| equal.weight).sum());
    let mut equals = equals();
    let chosen = equals.find(|equal| {
        let here = position < equal.weight;
        position = position.saturating_sub(equal.weight);
        here
    });
    Some(chosen.unwrap_or(least).member)
}

/// The key's own candidate: weighted rendezvous hashing (Thaler and Ravishankar, "A Name-Based Mapping Scheme for
/// Rendezvous", 1996; weights after Schindelhauer and Schomaker, 2005). Every candidate bids for the key, independently
/// of the others, so that only the keys of one that leaves move, and to one that joins only those it outbids for.
#[must_use]
pub fn by_key<'a>(candidates: &[Candidate<'a>], key: u64) -> Option<&'a Member> {
    let bid = |candidate: &Candidate<'a>| {
        let hash = xxh3_64_with_seed(&key.to_le_bytes(), candidate.member.endpoint.seed());
        #[expect(clippy::cast_precision_loss, reason = "53 bits of the hash, and weights below 2^20")]
        let (uniform, weight) = (((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64, candidate.weight as f64);
        -weight / uniform.ln()
    };
    let bids = candidates.iter().map(|candidate| (bid(candidate), candidate.member));
    bids.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, member)| member)
}

/// By which an endpoint bids for keys: the same in every process.
#[must_use]
pub fn seed(address: SocketAddr) -> u64 {
    xxh3_64(address.to_string().as_bytes())
}

impl Candidate<'_> {
    /// Whether it has more in flight for its weight than the other.
    fn busier(&self, other: &Candidate<'_>) -> bool {
        u64::from(self.in_flight) * other.weight > u64::from(other.in_flight) * self.weight
    }
}

fn total(candidates: &[Candidate<'_>]) -> u64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// The part of `whole` that a draw stands for.
fn part(draw: u64, whole: u64) -> u64 {
    ((u128::from(draw) * u128::from(whole)) >> 64) as u64
}

/// The index of the candidate in whose weight a position lies.
fn at(candidates: &[Candidate<'_>], mut position: u64) -> Option<usize> {
    candidates.iter().position(|candidate| {
        let here = position < candidate.weight;
        position = position.saturating_sub(candidate.weight);
        here
    })
}
