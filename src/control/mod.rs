//! The control plane: takes batches in, decides, and publishes snapshots.
pub mod command;
pub mod journal;
pub mod view;
