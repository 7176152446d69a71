//! The admin listener: reads the control plane's pictures, asks its engine for changes, and tells the world about both.
//!
//! ```text
//! server     one loopback listener: connections, limits, graceful end
//!   guard    who may talk to it at all: Host, Origin, media type, deadline
//!     api    /v1/services …: what is, and the changes that persons ask for
//!     endpoints  /v1/services/{service}/versions and below: what there is, what is wanted of it
//!     config /v1/config: the file, and reading it again
//!     events /v1/events: the journal as it grows
//!     metrics  /metrics: the view, drawn at scrape
//!     ready  /health and /ready
//!     route  /v1/route: what would become of a request
//!   caller   who asks, why, and based on which revision
//!   body     JSON in, with a pointer to whatever is wrong in it
//!   problem  every error, RFC 9457
//! wire       the JSON types, shared with the command line
//! ```
//!
//! Nothing here decides about traffic and nothing here is on a request's path: this layer may be slow, busy or dead,
//! and the proxy goes on. It takes a person's request, hands it to the engine, and reports what the engine said.

mod api;
mod body;
mod caller;
mod config;
mod endpoints;
mod events;
mod guard;
mod metrics;
mod problem;
mod ready;
mod route;
mod server;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod wire;

pub use metrics::Outside;
pub use ready::Readiness;
pub use route::explain;
pub use server::{BindError, bind, serve};
