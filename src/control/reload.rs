//! Asking for the file to be read again. The engine does not read files and `admin` does not wire: both meet here.

use std::net::SocketAddr;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::command::{Force, Refused};
use super::journal::Actor;

/// A wish to have the file read again.
#[derive(Debug)]
pub struct Reload {
    pub extent: Extent,
    pub force: Force,
    pub actor: Actor,
    pub reply: oneshot::Sender<Result<Reloaded, NotReloaded>>,
}

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Say what is wrong with the file, and what it would change.
    Validate,
    Reload,
}

/// The file is in force (or, when only validated, could be).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// The state's revision.
    pub revision: u64,
    /// What is odd about it, or takes effect at the next start only.
    pub warnings: Vec<String>,
}

/// The file is not in force; the last one still is, entirely.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReloaded {
    #[error("the file has {} problems", .0.len())]
    Problems(Vec<FileProblem>),
    #[error("{message}")]
    Listener { message: String, help: String },
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("this proxy was not started from a file")]
    NoFile,
}

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// `services.shop.weight`
    pub path: String,
    /// With file, line and remedy.
    pub detail: String,
}

/// How the last reading went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigView {
    pub successful: bool,
    /// When a file came into force last.
    pub in_force_since: Timestamp,
    /// Why the last reading failed.
    pub trouble: Option<String>,
    pub warnings: Vec<String>,
    /// Where we listen, the admin listener included: no endpoint may be one of these.
    pub own: Vec<SocketAddr>,
}

impl Default for ConfigView {
    fn default() -> ConfigView {
        ConfigView {
            successful: true,
            in_force_since: Timestamp::UNIX_EPOCH,
            trouble: None,
            warnings: Vec::new(),
            own: Vec::new(),
        }
    }
}
