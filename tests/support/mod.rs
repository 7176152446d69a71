//! What tests that use real sockets share: servers that misbehave as told, a Penstock in front of them, clients, load.
//!
//! Nothing here sleeps and hopes: [`eventually`] waits for a condition, with a deadline.

pub mod client;
pub mod load;
pub mod origin;
pub mod penstock;
pub mod process;
pub mod relay;
pub mod scrape;

use std::thread;
use std::time::{Duration, Instant};

pub use client::{Client, Response};
pub use load::{Load, Report};
pub use origin::{Act, Origin, Request};
pub use penstock::{Penstock, Setup};
pub use process::Process;
pub use scrape::Scrape;

/// Generous: a slow machine that runs other tests meanwhile still gets there.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Watches a condition for a while: for things that must not happen.
#[track_caller]
pub fn throughout(duration: Duration, what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < duration {
        assert!(holds(), "no longer after {:?}: {what}", begun.elapsed());
        thread::sleep(Duration::from_millis(5));
    }
}
