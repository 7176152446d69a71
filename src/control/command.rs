//! How the API asks the engine: a command, and the reply to it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::journal::{Actor, Journal};
use super::view::View;
use crate::domain::names::{ServiceName, VersionName};
use crate::domain::standing::{Refusal, Request};

/// Commands that may wait for the engine, which answers within a tick; more than that are refused as busy.
const WAITING_COMMANDS: usize = 256;

/// A person's request to change a service.
#[derive(Debug)]
pub struct Command {
    pub service: ServiceName,
    pub request: Request,
    pub precondition: Precondition,
    pub actor: Actor,
    pub reply: oneshot::Sender<Result<Done, Refused>>,
}

/// What the caller believes the service's revision to be. Only raising asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Raising the weight is refused without one.
    None,
    /// The caller has decided not to care (`If-Match: *`, and verbs that state their target).
    Any,
    Revision(u64),
}

/// The request was carried out and published to the workers, or everything already was as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The service's revision now.
    pub revision: u64,
    pub changed: bool,
}

/// Why a command was not carried out. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("there is no service `{0}`")]
    NoService(ServiceName),
    #[error("service `{0}` has no version `{1}`")]
    NoVersion(ServiceName, VersionName),
    #[error("raising the weight needs the revision it is based on")]
    PreconditionRequired { current: u64 },
    #[error("the service has changed since revision {given}; it is now at revision {current}")]
    PreconditionFailed { given: u64, current: u64 },
    #[error(transparent)]
    Conflict(#[from] Refusal),
    #[error("the engine is busy or stopping")]
    Unavailable,
}

/// What the API holds of the engine: a way to ask, and pictures to read without asking.
#[derive(Debug, Clone)]
pub struct Control {
    commands: mpsc::Sender<Command>,
    view: Arc<ArcSwap<View>>,
    journal: Arc<Journal>,
}

/// The engine's end.
pub type Commands = mpsc::Receiver<Command>;

impl Control {
    #[must_use]
    pub fn new(view: Arc<ArcSwap<View>>, journal: Arc<Journal>) -> (Control, Commands) {
        let (commands, receiver) = mpsc::channel(WAITING_COMMANDS);
        (Control { commands, view, journal }, receiver)
    }

    /// Asks the engine and waits for its reply.
    pub async fn ask(
        &self,
        service: ServiceName,
        request: Request,
        precondition: Precondition,
        actor: Actor,
    ) -> Result<Done, Refused> {
        let (reply, answer) = oneshot::channel();
        let command = Command { service, request, precondition, actor, reply };
        self.commands.try_send(command).map_err(|_| Refused::Unavailable)?;
        answer.await.map_err(|_| Refused::Unavailable)?
    }

    /// The newest picture; at most two ticks behind, and never older than a reply already given.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }
}
