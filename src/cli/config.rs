//! `penstock config show FILE`: what the proxy would run with, after defaults, file, environment and flags.

use std::path::PathBuf;

use anstream::eprintln;
use clap::{Args, Subcommand};

use super::serve::refuse;
use super::{Exit, Failure, Output, environment};
use crate::config::{self, Colour, Origins, Overrides};

/// Show the effective configuration
#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Show(Show),
}

/// Print the configuration as it takes effect, with every default, as a file that `check` accepts
#[derive(Debug, Args)]
struct Show {
    /// The configuration
    #[arg(default_value = "penstock.toml")]
    file: PathBuf,

    /// Say behind each value where it comes from
    #[arg(long)]
    origin: bool,

    /// As with `serve`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    workers: Option<u16>,

    /// Leave variables such as `PENSTOCK_WORKERS` out of account
    #[arg(long)]
    no_environment: bool,
}

impl Config {
    pub fn run(self, output: &mut Output<'_>) -> Result<(), Failure> {
        match self.what {
            What::Show(show) => show.run(output),
        }
    }
}

impl Show {
    fn run(self, output: &mut Output<'_>) -> Result<(), Failure> {
        let overrides = if self.no_environment { Overrides::none() } else { environment() };
        let overrides = overrides.flag("--workers", self.workers);
        let effective = config::effective(&self.file, &overrides).map_err(|problems| refuse(&problems))?;
        if !effective.settings.warnings.is_empty() {
            eprintln!("{}", effective.settings.warnings.render(Colour::Ansi));
        }
        let origins = if self.origin { Origins::Shown } else { Origins::Hidden };
        if output.json {
            let json = effective.json(origins).map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
            return output.line(&json.to_string());
        }
        output.line(effective.toml(origins).trim_end())
    }
}
