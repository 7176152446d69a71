//! `penstock serve FILE`: runs the proxy until it is told to stop.

use std::path::PathBuf;

use anstream::AutoStream;
use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{Exit, Failure, environment};
use crate::app::{self, App, Force, Options, Source};
use crate::config::{self, Colour, LogFormat, LogSettings, Problems, Settings};

/// Run the proxy
#[derive(Debug, Args)]
pub struct Serve {
    /// The configuration
    file: PathBuf,

    /// Worker threads; beats `PENSTOCK_WORKERS` and the file [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    workers: Option<u16>,

    /// Start even if the file leaves out versions that have traffic
    #[arg(long)]
    force_drain: bool,

    /// What to log, such as `debug` or `penstock::proxy=debug,info`; beats the file
    #[arg(long, env = "PENSTOCK_LOG", value_name = "LEVEL")]
    log: Option<String>,
}

impl Serve {
    pub fn run(self) -> Result<(), Failure> {
        let overrides = environment().flag("--workers", self.workers);
        let settings = config::read_with(&self.file, &overrides).map_err(|problems| refuse(&problems))?;
        if !settings.warnings.is_empty() {
            anstream::eprintln!("{}", settings.warnings.render(Colour::Ansi));
        }
        start_log(&settings.log, self.log.as_deref())?;
        let force = if self.force_drain { Force::Drain } else { Force::No };
        Ok(start(settings, Options { force, source: Some(Source { file: self.file, overrides }) })?.run()?)
    }
}

pub(super) fn start(settings: Settings, options: Options) -> Result<App, Failure> {
    app::start_with(settings, options).map_err(|error| Failure::new(Exit::Error, error.to_string()).help(error.help()))
}

/// Nothing is bound before the file is right.
pub(super) fn refuse(problems: &Problems) -> Failure {
    Failure::rendered(Exit::Error, problems.render(Colour::Ansi))
}

/// Logs go to standard error: standard output is for what a verb was asked for.
fn start_log(settings: &LogSettings, directives: Option<&str>) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(directives.unwrap_or(settings.level.as_str())).map_err(|error| {
        let help = "name a level (off, error, warn, info, debug, trace), or `module=level` pairs with commas between";
        Failure::new(Exit::Usage, format!("the log level is not understood: {error}")).help(help)
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Human => log.with_ansi(coloured()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

fn coloured() -> bool {
    AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}
