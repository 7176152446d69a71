//! The control plane: takes batches in, decides, and publishes snapshots.
//!
//! ```text
//!  link::Batch ──▶ collector ──▶ engine ──▶ link::Snapshot        (published first when exposure falls)
//!                   (windows)    │  ▲  │
//!         domain::judge ◀────────┘  │  └──▶ journal, view         (what the API and people see)
//!         domain::standing          │
//!                        command ───┤ resolver, prober        (names to addresses; whether endpoints are well)
//!                 (the API asks)    └─ store                   (its own thread: keeps, then tells)
//! ```
//!
//! The engine is the only one that changes anything, and what it decides by is pure: it lives in `domain`.

pub mod boot;
pub mod capacity;
pub mod checks;
pub mod collector;
pub mod command;
pub mod decisions;
mod ejections;
pub mod engine;
pub mod journal;
pub mod prober;
pub mod reload;
pub mod resolver;
pub mod store;
pub mod view;
