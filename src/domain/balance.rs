//! How a version's requests are spread over its endpoints: the algorithms, and what a service sets of them.

use std::time::Duration;

use super::breaker::Limits;
use super::ejection::Ejection;
use super::split::Weight;

/// The algorithm that picks among a version's endpoints. All of them respect the endpoints' weights.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Balance {
    /// Two endpoints at random; the one with fewer requests in flight takes it.
    #[default]
    PowerOfTwo,
    /// One after the other, in proportion to their weights.
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

/// What a service says about the choice among its endpoints.
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
