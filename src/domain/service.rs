//! What the file declares of a service, checked: routes, versions, the first split and the rollback policy.

use std::sync::Arc;
use std::time::Duration;

use super::admission::Admission;
use super::balance::Balancing;
use super::check::HealthCheck;
use super::error_pages::ErrorPages;
use super::judge::Policy;
use super::names::{ServiceName, VersionName};
use super::retry::RetryPolicy;
use super::route::Route;
use super::split::{Matcher, Weight};
use super::sticky::Stickiness;

/// One declared service. Everything in it is consistent: `stable` and `canary` name listed versions, and differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    pub name: ServiceName,
    pub routes: Vec<Arc<Route>>,
    pub error_pages: ErrorPages,
    /// In the order of the file.
    pub versions: Vec<VersionDefinition>,
    pub stable: VersionName,
    pub canary: Option<VersionName>,
    /// The canary's first weight.
    pub weight: Weight,
    pub pins: Vec<PinDefinition>,
    pub policy: Policy,
    /// `None`: every request is drawn for itself.
    pub sticky: Option<Arc<Stickiness>>,
    pub timeouts: Timeouts,
    pub retries: RetryPolicy,
    pub admission: Admission,
    /// `None`: nobody asks, and endpoints count as healthy.
    pub health_check: Option<HealthCheck>,
    pub balancing: Balancing,
}

impl Definition {
    #[must_use]
    pub fn version(&self, name: &VersionName) -> Option<&VersionDefinition> {
        self.versions.iter().find(|version| version.name == *name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionDefinition {
    pub name: VersionName,
    pub endpoints: Vec<EndpointDefinition>,
    /// Requests per second that each endpoint can carry, if that is known.
    pub capacity: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointDefinition {
    /// `host:port`, as written: an address, or a name to look up.
    pub authority: Arc<str>,
    /// Its share of the version's requests, relative to the others'; 1 to 1000.
    pub weight: u32,
}

impl EndpointDefinition {
    pub const DEFAULT_WEIGHT: u32 = 1;
}

impl<T: Into<Arc<str>>> From<T> for EndpointDefinition {
    fn from(authority: T) -> EndpointDefinition {
        EndpointDefinition { authority: authority.into(), weight: EndpointDefinition::DEFAULT_WEIGHT }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinDefinition {
    pub matcher: Matcher,
    pub target: Target,
}

/// Where a pin leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Stable,
    Canary,
    Version(VersionName),
}

/// How long an upstream may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To accept a connection.
    pub connect: Duration,
    /// From the request written to the response head.
    pub response_head: Duration,
    /// Between two pieces of a body, either way.
    pub body_idle: Duration,
    /// From the request written to the response head, before somebody else is asked; `None`: nobody is for that.
    pub per_try: Option<Duration>,
    /// From a request's arrival to the end of its response, over all attempts; streams of events have no end.
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(2),
            response_head: Duration::from_secs(30),
            body_idle: Duration::from_secs(30),
            per_try: None,
            total: None,
        }
    }
}
