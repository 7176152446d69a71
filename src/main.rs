//! Reads the arguments, does what they say, and turns a failure into text and an exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use penstock::cli::{self, Arguments};

fn main() -> ExitCode {
    let terminal = std::io::stdout().is_terminal();
    match cli::run(Arguments::parse(), &mut anstream::stdout(), terminal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            anstream::eprint!("{failure}");
            failure.exit.into()
        }
    }
}
