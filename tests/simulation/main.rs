//! The pure core under simulation: virtual time, one seed per run, and everything that may go wrong between a request
//! and a verdict. `null` and `power` count what the judge costs, by counts per tick.

mod counts;
mod interval;
mod luck;
mod null;
mod power;
mod sweep;
