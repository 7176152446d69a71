//! How a verb ends when it does not end well: the exit code for scripts, the words for people.

use std::fmt;
use std::io;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

use crate::admin::wire::Problem;

/// Exit codes are a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or promoted.
    Done = 0,
    Error = 1,
    Usage = 2,
    /// What was waited for was rolled back or aborted.
    RolledBack = 3,
    /// The wait was over first.
    TimedOut = 4,
    /// A conflict with how things are, or refused.
    Refused = 5,
    /// Nobody answers at the admin address.
    Unreachable = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    /// Lower case, no full stop. Nothing is printed if it is empty.
    pub message: String,
    /// How to go on.
    pub help: Option<String>,
    /// The message says `error` and `help` itself.
    rendered: bool,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), help: None, rendered: false }
    }

    /// A message that is already as people should see it.
    pub fn rendered(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { rendered: true, ..Failure::new(exit, message) }
    }

    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Failure {
        Failure { help: Some(help.into()), ..self }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        // Forbidden, conflict, precondition failed, misdirected, locked, precondition required.
        let exit =
            if matches!(problem.status, 403 | 409 | 412 | 421 | 423 | 428) { Exit::Refused } else { Exit::Error };
        let fields = problem.errors.iter().map(|field| field.detail.as_str());
        let details = std::iter::once(&*problem.detail).chain(fields.filter(|field| *field != &*problem.detail));
        Failure::new(exit, details.collect::<Vec<_>>().join("\n  ")).help(problem.help)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            // Whoever read our output has seen enough (`penstock events | head`).
            io::ErrorKind::BrokenPipe => Failure::new(Exit::Done, ""),
            _ => Failure::new(Exit::Error, error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        Failure::new(Exit::Error, format!("the answer is not understood: {error}"))
            .help("is the proxy of the same version as this command?")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ERROR: Style = AnsiColor::Red.on_default().bold();
        const HELP: Style = AnsiColor::Cyan.on_default();
        if self.message.is_empty() {
            return Ok(());
        }
        if self.rendered {
            return writeln!(f, "{}", self.message);
        }
        writeln!(f, "{ERROR}error{ERROR:#}: {}", self.message)?;
        self.help.iter().try_for_each(|help| writeln!(f, " {HELP}help{HELP:#}: {help}"))
    }
}
