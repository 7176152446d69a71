//! Penstock: a traffic-shifting reverse proxy.
pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod domain;
pub mod link;
pub mod proxy;
