//! `penstock check FILE`: everything that is wrong with a file and what overrides it, at once.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure, Output, environment};
use crate::config::{self, Colour, Overrides};

/// Check a configuration, and report every problem in it
#[derive(Debug, Args)]
pub struct Check {
    /// The configuration
    file: PathBuf,

    /// Leave variables such as `PENSTOCK_WORKERS` out of account
    #[arg(long)]
    no_environment: bool,
}

impl Check {
    pub fn run(self, output: &mut Output<'_>) -> Result<(), Failure> {
        let overrides = if self.no_environment { Overrides::none() } else { environment() };
        let problems = config::check(&self.file, &overrides);
        output.show(&problems, |problems| {
            if problems.is_empty() { format!("{} is fine", self.file.display()) } else { problems.render(Colour::Ansi) }
        })?;
        if problems.has_errors() { Err(Failure::new(Exit::Error, "")) } else { Ok(()) }
    }
}
