//! `penstock weights`: shows the split, or sets the canary's weight.

use clap::Args;

use super::client::Client;
use super::sender::{FORCE, Sender};
use super::{Failure, Output, render};
use crate::admin::wire::{ServiceName, Split, SplitPatch, Weight};

/// Show the split, or set the canary's weight
#[derive(Debug, Args)]
pub struct Weights {
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,

    /// The canary's, with two decimals at most: 25%, 0.5%
    #[arg(value_parser = Weight::parse)]
    weight: Option<Weight>,

    /// Only if the service is still at this revision [default: the one it is at now]
    #[arg(long, value_name = "REVISION", requires = "weight")]
    if_match: Option<u64>,

    /// Even if its endpoints cannot carry it, by their declared capacity
    #[arg(long, requires = "weight")]
    force: bool,

    /// Only say whether it would be refused
    #[arg(long, requires = "weight")]
    dry_run: bool,

    #[command(flatten)]
    sender: Sender,
}

impl Weights {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let path = format!("/v1/services/{}/split", self.service);
        let read = client.get::<Split>(&path);
        let Some(weight) = self.weight else { return output.show(&read.await?, render::split) };
        let revision = match self.if_match {
            Some(revision) => revision,
            None => read.await?.revision,
        };
        let query = match (self.force, self.dry_run) {
            (false, false) => "",
            (true, false) => FORCE,
            (false, true) => "?dry_run=true",
            (true, true) => "?force=true&dry_run=true",
        };
        let changed = self.sender.patch(client, &self.service, revision, query, &SplitPatch { weight }).await?;
        output.show(&changed, render::changed)
    }
}
