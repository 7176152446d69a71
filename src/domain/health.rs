//! Whether an endpoint is wanted (administrative) and whether it works (operational): two facts, kept apart.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::time::Moment;

/// What a person wants of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Administrative {
    /// It may take requests.
    #[default]
    Ready,
    /// It takes no new requests; those under way finish.
    Draining,
    /// It is being worked on, and takes no requests.
    Maintenance,
}

impl Administrative {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Administrative::Ready => "ready",
            Administrative::Draining => "draining",
            Administrative::Maintenance => "maintenance",
        }
    }
}

/// What health checks say of an endpoint. Without a check, every endpoint counts as healthy from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operational {
    /// Not checked often enough yet to say.
    Unproven,
    #[default]
    Healthy,
    Unhealthy,
}

impl Operational {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Operational::Unproven => "unproven",
            Operational::Healthy => "healthy",
            Operational::Unhealthy => "unhealthy",
        }
    }
}

/// An endpoint's health as all workers see it: one writer, read by every pick.
#[derive(Debug)]
pub struct Health {
    operational: AtomicU8,
    /// When it became healthy last (microseconds of [`Moment`]); zero for "long ago".
    since: AtomicU64,
}

impl Health {
    #[must_use]
    pub fn new(operational: Operational) -> Health {
        Health { operational: AtomicU8::new(operational as u8), since: AtomicU64::new(0) }
    }

    #[must_use]
    pub fn operational(&self) -> Operational {
        match self.operational.load(Ordering::Relaxed) {
            0 => Operational::Unproven,
            1 => Operational::Healthy,
            _ => Operational::Unhealthy,
        }
    }

    /// Becoming healthy begins the slow start.
    pub fn set(&self, operational: Operational, now: Moment) {
        if operational == Operational::Healthy && self.operational() != Operational::Healthy {
            self.begin(now);
        }
        self.operational.store(operational as u8, Ordering::Release);
    }

    /// Begins the slow start.
    pub fn begin(&self, now: Moment) {
        self.since.store(now.0, Ordering::Relaxed);
    }

    /// When it became healthy last.
    #[must_use]
    pub fn since(&self) -> Moment {
        Moment(self.since.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_becoming_healthy_begins_a_slow_start() {
        let health = Health::new(Operational::Unproven);
        assert_eq!((health.operational(), health.since()), (Operational::Unproven, Moment(0)));
        health.set(Operational::Healthy, Moment(5));
        health.set(Operational::Healthy, Moment(9));
        assert_eq!((health.operational(), health.since()), (Operational::Healthy, Moment(5)));
        health.set(Operational::Unhealthy, Moment(12));
        assert_eq!((health.operational(), health.since()), (Operational::Unhealthy, Moment(5)));
        health.set(Operational::Healthy, Moment(20));
        assert_eq!(health.since(), Moment(20));
    }
}
