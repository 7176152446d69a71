//! `penstock promote`: the canary becomes the stable version.

use clap::Args;

use super::client::Client;
use super::sender::{FORCE, Sender};
use super::{Failure, Output, render};
use crate::admin::wire::{self, ServiceName};

/// Make the canary the stable version
#[derive(Debug, Args)]
pub struct Promote {
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,

    /// Even if its endpoints cannot carry everything, by their declared capacity
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    sender: Sender,
}

impl Promote {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let verb = format!("promote{}", if self.force { FORCE } else { "" });
        let changed = self.sender.post(client, &self.service, &verb, &wire::Promote {}).await?;
        output.show(&changed, render::changed)
    }
}
