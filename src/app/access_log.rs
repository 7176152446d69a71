//! The access log's writer: where it writes to, and that it is told when its file was moved.

use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::StartError;
use crate::config::{AccessLog, LogFormat, LogSettings};
use crate::proxy::{Log, Shared, Style, Target};

/// Starts the writer, if there is anything to write, and listens for SIGUSR1 in any case: unheard, it would end the
/// process.
pub(super) fn start(runtime: &Runtime, settings: &LogSettings) -> Result<Option<Log>, StartError> {
    let log = writer(settings)?;
    let rotated = {
        let _inside = runtime.enter();
        signal(SignalKind::user_defined1())?
    };
    runtime.spawn(reopen(log.as_ref().map(Log::shared), rotated));
    Ok(log)
}

fn writer(settings: &LogSettings) -> Result<Option<Log>, StartError> {
    let (target, style) = match (&settings.access, settings.format) {
        (AccessLog::Off, _) => return Ok(None),
        (AccessLog::File(path), _) => (Target::File(path.clone()), Style::Json),
        (AccessLog::Log, LogFormat::Json) => (Target::StandardError, Style::JsonAmongOthers),
        (AccessLog::Log, LogFormat::Human) => (Target::StandardError, Style::Human),
    };
    Log::start(&target, style).map(Some).map_err(|error| match target {
        Target::File(path) => StartError::AccessLog(path, error),
        Target::StandardError => StartError::Thread(error),
    })
}

async fn reopen(log: Option<Arc<Shared>>, mut rotated: Signal) {
    while rotated.recv().await.is_some() {
        if let Some(log) = &log {
            log.reopen();
        }
    }
}
