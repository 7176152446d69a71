//! The endpoints of one version, and the choice among them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::names::EndpointId;

/// One address that serves a version. Kept over snapshots while its version lists it, so its counters stay true.
#[derive(Debug)]
pub struct Endpoint {
    pub id: EndpointId,
    /// As the file names it: `host:port`.
    pub authority: Arc<str>,
    pub address: SocketAddr,
    in_flight: Padded,
}

/// A counter on a cache line of its own: workers on different cores count different endpoints without touching.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU32);

impl Endpoint {
    #[must_use]
    pub fn new(id: EndpointId, authority: Arc<str>, address: SocketAddr) -> Endpoint {
        Endpoint { id, authority, address, in_flight: Padded::default() }
    }

    /// Attempts under way over all workers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.0.load(Ordering::Relaxed)
    }
}

/// One attempt under way; counts itself out when dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
}

impl InFlight {
    #[must_use]
    pub fn begin(endpoint: Arc<Endpoint>) -> InFlight {
        endpoint.in_flight.0.fetch_add(1, Ordering::Relaxed);
        InFlight { endpoint }
    }

    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The endpoints of one version.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    pub endpoints: Box<[Arc<Endpoint>]>,
}

impl Pool {
    /// Power of two choices on in-flight attempts, among those not tried yet; `None` when all were.
    #[must_use]
    pub fn pick(&self, tried: &[EndpointId], draw: u64) -> Option<InFlight> {
        let left = self.endpoints.len() - self.endpoints.iter().filter(|e| tried.contains(&e.id)).count();
        let (first, second) = two_of(left, draw)?;
        let (first, second) = (self.untried(tried, first)?, self.untried(tried, second)?);
        let freer = if second.in_flight() < first.in_flight() { second } else { first };
        Some(InFlight::begin(freer.clone()))
    }

    fn untried(&self, tried: &[EndpointId], nth: usize) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().filter(|e| !tried.contains(&e.id)).nth(nth)
    }
}

/// Two different positions below `n` (the same one twice when there is one), from one draw.
fn two_of(n: usize, draw: u64) -> Option<(usize, usize)> {
    let (high, low) = (draw >> 32, draw & 0xffff_ffff);
    let below = |half: u64, n: usize| usize::try_from((half * n as u64) >> 32).unwrap_or(0);
    match n {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let first = below(high, n);
            let other = below(low, n - 1);
            Some((first, if other >= first { other + 1 } else { other }))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(n: u16) -> Pool {
        let endpoint = |i: u16| {
            Arc::new(Endpoint::new(EndpointId(i.into()), format!("e{i}").into(), SocketAddr::from(([127, 0, 0, 1], i))))
        };
        Pool { endpoints: (0..n).map(endpoint).collect() }
    }

    #[test]
    fn an_attempt_counts_itself_out() {
        let pool = pool(1);
        let attempt = pool.pick(&[], 0).unwrap();
        assert_eq!(pool.endpoints[0].in_flight(), 1);
        drop(attempt);
        assert_eq!(pool.endpoints[0].in_flight(), 0);
    }

    #[test]
    fn the_freer_of_two_is_taken() {
        let pool = pool(2);
        let busy = InFlight::begin(pool.endpoints[0].clone());
        for draw in [0, u64::MAX, 1 << 63, 1 << 31] {
            assert_eq!(pool.pick(&[], draw).unwrap().endpoint().id, EndpointId(1));
        }
        drop(busy);
    }

    proptest! {
        #[test]
        fn what_was_tried_is_not_tried_again(n in 0u16..6, tried in prop::collection::vec(0u32..6, 0..6), draw: u64) {
            let tried: Vec<EndpointId> = tried.into_iter().map(EndpointId).collect();
            let pool = pool(n);
            match pool.pick(&tried, draw) {
                Some(attempt) => prop_assert!(!tried.contains(&attempt.endpoint().id)),
                None => prop_assert!(pool.endpoints.iter().all(|e| tried.contains(&e.id))),
            }
        }
    }
}
