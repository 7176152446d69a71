//! The data plane from outside: real sockets on both sides, and what must hold between them.

#![expect(clippy::cast_precision_loss, reason = "counts of requests are small")]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod clients;
mod faults;
mod forwarding;
mod framing;
mod memory;
mod recording;
mod retries;
mod rollback;
mod split;
mod stopping;
