//! Circuit breaking: how much a version and its endpoints are given at once, over all workers.

use std::time::Duration;

/// What is not exceeded, over all workers. `None`: unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections to one endpoint, idle ones included.
    pub connections: Option<u32>,
    /// Requests under way at one endpoint.
    pub in_flight: Option<u32>,
    /// Requests under way at one version.
    pub version_in_flight: Option<u32>,
    /// Requests of one version that may wait for room.
    pub pending: u32,
    /// For at most so long.
    pub pending_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: None,
            in_flight: None,
            version_in_flight: None,
            pending: 0,
            pending_time: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// Requests that one endpoint can carry: over HTTP/1 each needs a connection of its own.
    #[must_use]
    pub fn of_endpoint(&self) -> Option<u32> {
        match (self.connections, self.in_flight) {
            (Some(connections), Some(in_flight)) => Some(connections.min(in_flight)),
            (one, other) => one.or(other),
        }
    }

    /// Whether anything is limited.
    #[must_use]
    pub fn any(&self) -> bool {
        self.of_endpoint().is_some() || self.version_in_flight.is_some()
    }
}
