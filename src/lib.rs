//! Penstock: a traffic-shifting reverse proxy. Outcomes flow up, decisions flow down, and what decides is a pure
//! function.
//!
//! # The house
//!
//! ```text
//!           main ─▶ cli ─▶ app                 app joins the parts; it has no policy of its own
//!                           │
//!           admin ──────▶ control      proxy   the API · decides and publishes · forwards and counts
//!                              ╲       ╱
//!                    config     ╲     ╱        the file, checked
//!                         ╲      link          one clock; snapshots go down, batches of tallies come up
//!                          ╲    ╱
//!                          domain              what traffic is, where it goes, when a version has lost it
//! ```
//!
//! Arrows point down only, and `control` and `proxy` never name each other: they share two plain values, a
//! [`Snapshot`](domain::snapshot::Snapshot) and a [`Batch`](domain::window::Batch). `tests/tidy.rs` holds the source to
//! that. Begin with [`domain`], then [`proxy`], [`control`] and [`domain::judge`].
//!
//! # What always holds
//!
//! - A request never waits for the control plane, and the control plane never touches a request.
//! - `domain` has no clock, socket, task or luck: time and draws are arguments, so every decision can be replayed.
//! - One writer owns the state (the engine); workers read a whole snapshot, never a mixture of two.
//! - Every attempt owes exactly one outcome; one that is dropped unsettled is counted, as our bug.
//! - Only requests whose version the coin drew are evidence, charged to the version drawn.
//! - Lowering the canary's exposure is published before anything else is done, and is never refused.
//! - The machine raises only what it lowered itself for a probe, and not once a person has touched the weight since;
//!   what is sealed stays so until a person unseals it.
//! - Whatever waits has a bound, with a name.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod domain;
pub mod link;
pub mod proxy;
