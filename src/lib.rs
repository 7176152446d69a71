//! Penstock: a traffic-shifting reverse proxy.
pub mod admin;
pub mod cli;
pub mod control;
pub mod domain;
pub mod link;
