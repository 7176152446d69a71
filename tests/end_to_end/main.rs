//! The data plane from outside: real sockets on both sides, and what must hold between them.

#![expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
#![expect(clippy::print_stdout, reason = "measurements are for people to read")]
#![expect(clippy::unwrap_used, reason = "what a test relies on and does not get fails it")]
#![expect(clippy::disallowed_methods, reason = "these tests run in real time, against deadlines")]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod support;

mod access_log;
mod balancing;
mod bodies;
mod breaker;
mod clients;
mod endpoints;
mod faults;
mod forwarding;
mod framing;
mod limits;
mod memory;
mod metrics;
mod recording;
mod reload;
mod retries;
mod rollback;
mod routes;
mod shielding;
mod split;
mod sticky;
mod stopping;
