//! Penstock: a traffic-shifting reverse proxy.
pub mod domain;
