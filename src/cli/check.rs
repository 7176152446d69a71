//! `penstock check FILE`: everything that is wrong with a file, at once.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure, Output};
use crate::config::{self, Colour};

/// Check a configuration, and report every problem in it
#[derive(Debug, Args)]
pub struct Check {
    /// The configuration
    file: PathBuf,
}

impl Check {
    pub fn run(self, output: &mut Output<'_>) -> Result<(), Failure> {
        let problems = config::check(&self.file);
        output.show(&problems, |problems| {
            if problems.is_empty() { format!("{} is fine", self.file.display()) } else { problems.render(Colour::Ansi) }
        })?;
        if problems.has_errors() { Err(Failure::new(Exit::Error, "")) } else { Ok(()) }
    }
}
