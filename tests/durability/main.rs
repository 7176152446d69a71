//! What was decided survives: the real binary, killed at any moment, its store taken away, filled up, damaged.
//!
//! `PENSTOCK_KILLS=1000 cargo test --test durability kill_loop -- --nocapture` kills it a thousand times, which takes
//! some minutes; `PENSTOCK_SEED` repeats a run's choices (not its timing).

#![expect(clippy::print_stdout, reason = "measurements, and what was left out and why, are for people to read")]
#![expect(clippy::unwrap_used, reason = "what a test relies on and does not get fails it")]
#![expect(clippy::disallowed_methods, reason = "these tests run in real time, against deadlines")]

#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with tests that need more of it")]
mod support;

mod damage;
mod faults;
mod kills;
mod restarts;
mod world;
