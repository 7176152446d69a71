//! `penstock reload`: the running proxy reads its file again.

use clap::Args;
use http::Method;

use super::client::Client;
use super::sender::Sender;
use super::{Failure, Output};
use crate::admin::wire::{self, Reloaded};

/// Have the proxy read its file again; a faulty file changes nothing
#[derive(Debug, Args)]
pub struct Reload {
    /// Even if the file leaves out versions that have traffic
    #[arg(long)]
    force_drain: bool,

    /// Only say what is wrong with the file, and what would change
    #[arg(long)]
    validate: bool,

    #[command(flatten)]
    sender: Sender,
}

impl Reload {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let verb = if self.validate { "validate" } else { "reload" };
        let body = serde_json::to_vec(&wire::Reload { force_drain: self.force_drain })?.into();
        let path = format!("/v1/config:{verb}");
        let reloaded: Reloaded = client.ask(Method::POST, &path, self.sender.headers()?, body).await?;
        output.show(&reloaded, |reloaded| {
            let done = if self.validate { "the file is fine" } else { "the file is in force" };
            let warnings = reloaded.warnings.iter().map(|warning| format!("\n  warning: {warning}"));
            format!("{done}; revision {}{}", reloaded.revision, warnings.collect::<String>())
        })
    }
}
