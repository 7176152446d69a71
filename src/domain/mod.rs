//! The pure core: what traffic is, where it goes, and when a version has lost the right to it.
//!
//! Nothing here owns a clock, a socket, a task or a source of luck: time and draws are arguments, so that
//! every decision can be replayed. This layer imports nothing else of ours (`tests/tidy.rs` holds it to that).

pub mod action;
pub mod admission;
pub mod amendments;
pub mod authority;
pub mod balance;
pub mod breaker;
pub mod cap;
pub mod check;
pub mod cidr;
pub mod cookie;
pub mod duration;
pub mod ejection;
pub mod error_pages;
pub mod health;
pub mod judge;
pub mod names;
pub mod outcome;
pub mod pool;
pub mod reading;
pub mod retry;
pub mod route;
pub mod router;
pub mod service;
pub mod sessions;
pub mod snapshot;
pub mod split;
pub mod standing;
pub mod state;
pub mod sticky;
pub mod time;
pub mod window;
