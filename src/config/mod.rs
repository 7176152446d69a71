//! The file, and what overrides it: from TOML to domain values that cannot be wrong, with every problem reported at
//! once.
//!
//! ```text
//! text --toml--> spanned document --overrides--> the same --file, value, service--> drafts --check--> Settings
//!   '---syntax----------'--------------'-------------------------------------------'-------'-----> Problems
//! ```
//!
//! Nothing after this layer can meet an invalid value: [`read`] gives [`Settings`], or all there is to say against the
//! file. Reading goes on after a fault, so a draft holds what could be read, and the cross-checks work on drafts; a
//! [`Definition`] is built only when nobody complained. In a file that is not TOML all the way, complaints about what
//! is *absent* are held back: it may stand in the part that was lost.
//!
//! A flag beats a variable, a variable the file, the file the default. [`Overrides`] bring the first two as data; all
//! that was read is one text (`source`), so every value and every problem knows where it comes from.
//!
//! Left to others: looking names up, binding (`app`), and reading the environment (`cli`).

mod admission;
mod balance;
mod check;
mod file;
mod health_check;
mod listener;
mod overrides;
mod problem;
mod retries;
mod route;
mod service;
mod show;
mod source;
mod sticky;
mod syntax;
mod value;

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use self::file::{Place, Sink, Table};
pub use self::listener::{Certificate, ClientCertificates, Listener, Tls, TlsVersion};
pub use self::overrides::Overrides;
pub use self::problem::{Colour, Position, Problem, Problems, Severity, Span};
pub use self::show::{Effective, Origins};
pub use self::source::Origin;
use self::source::Sources;
use crate::domain::service::Definition;

/// A whole file, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `None`: one per core.
    pub workers: Option<usize>,
    /// At least one, no two of which collide.
    pub listeners: Vec<Listener>,
    /// A loopback address.
    pub admin: SocketAddr,
    /// To receive the whole head of a request.
    pub request_head: Duration,
    /// For which a client's connection may wait for its next request.
    pub client_idle: Duration,
    /// For which a client may leave an answer unread.
    pub client_write: Duration,
    /// To agree on TLS with a client.
    pub tls_handshake: Duration,
    /// For which connections are still accepted after SIGTERM, while `/ready` already fails.
    pub linger: Duration,
    /// To let requests in flight come to their end, after that.
    pub drain: Duration,
    pub log: LogSettings,
    /// The folder that keeps what was decided; `None`: nothing is kept. Relative to the working directory.
    pub store: Option<PathBuf>,
    /// How often the file's content is looked at for changes; `None`: it is not.
    pub poll: Option<Duration>,
    /// At least one, in the order of the file.
    pub services: Vec<Definition>,
    /// What looks like a mistake, yet harms nobody.
    pub warnings: Problems,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSettings {
    pub level: LogLevel,
    pub format: LogFormat,
    pub access: AccessLog,
}

/// Where the line goes that every request gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AccessLog {
    /// There is none.
    #[default]
    Off,
    /// Among the other lines.
    Log,
    /// To a file of its own, as JSON, relative to the working directory.
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As the file and `PENSTOCK_LOG` spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Off => "off",
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

/// Reads and checks a file, and nothing else. On `Err`, at least one of the problems is an error; warnings stand among
/// them.
pub fn read(path: &Path) -> Result<Settings, Problems> {
    read_with(path, &Overrides::none())
}

/// As [`read`], with what beats the file. A reload reads with the same overrides.
pub fn read_with(path: &Path, overrides: &Overrides) -> Result<Settings, Problems> {
    effective(path, overrides).map(|effective| effective.settings)
}

/// As [`read_with`], with where everything comes from.
pub fn effective(path: &Path, overrides: &Overrides) -> Result<Effective, Problems> {
    let name = path.display().to_string();
    let text = text_of(path).map_err(|refusal| Problems::new(&name, "", vec![unreadable(&refusal)]))?;
    parse_with(&name, &text, overrides)
}

/// Everything there is to say about a file, for `penstock check`; [`Problems::has_errors`] decides its exit code.
#[must_use]
pub fn check(path: &Path, overrides: &Overrides) -> Problems {
    read_with(path, overrides).map_or_else(|problems| problems, |settings| settings.warnings)
}

/// Checks a text; `name` is what problems call it.
pub fn parse(name: &str, text: &str) -> Result<Settings, Problems> {
    parse_with(name, text, &Overrides::none()).map(|effective| effective.settings)
}

/// As [`parse`], with what beats the text.
pub fn parse_with(name: &str, text: &str, overrides: &Overrides) -> Result<Effective, Problems> {
    let sources = Arc::new(Sources::new(name, text, overrides.iter()));
    let (document, syntax) = DeTable::parse_recoverable(sources.file_text());
    let (syntax, lost) = syntax::problems(text, &syntax);
    let sink = Sink::new(sources.clone(), syntax, lost);
    let document = overrides::lay_over(document.into_inner(), &sources, &sink);
    let read = check::settings(Table::new(Place::whole_file(&sink), &document));
    let (written, failed) = (overrides::written(&document), sink.has_errors());
    let problems = Problems::among(sources.clone(), sink.into_problems());
    match read {
        Some(settings) if !failed => {
            Ok(Effective::new(Settings { warnings: problems, ..settings }, sources.clone(), written))
        }
        _ => Err(problems),
    }
}

/// What is the matter with a file, and the remedy.
type Refusal = (String, &'static str);

/// The file's text, or why there is none.
fn text_of(path: &Path) -> Result<String, Refusal> {
    let bytes = bytes_of(path).map_err(|error| (format!("cannot be read: {error}"), READABLE))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err((format!("is larger than {LARGEST_FILE} bytes"), "name the configuration, not another file"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        (format!("is not UTF-8 at byte {valid}"), "save it as UTF-8, as TOML requires")
    })
}

fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable((what, help): &Refusal) -> Problem {
    Problem {
        severity: Severity::Error,
        message: format!("the file {what}"),
        path: String::new(),
        span: None,
        help: (*help).to_owned(),
        beside: None,
    }
}

const READABLE: &str = "name a file that exists and that this user may read";

/// Thousands of services fit in it; a disk image, or `/dev/zero`, does not.
const LARGEST_FILE: u64 = 4 << 20;

#[cfg(test)]
mod tests;
