//! `penstock promote`: the canary becomes the stable version.

use clap::Args;

use super::client::Client;
use super::sender::Sender;
use super::{Failure, Output, render};
use crate::admin::wire::{self, ServiceName};

/// Make the canary the stable version
#[derive(Debug, Args)]
pub struct Promote {
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,

    #[command(flatten)]
    sender: Sender,
}

impl Promote {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let changed = self.sender.post(client, &self.service, "promote", &wire::Promote {}).await?;
        output.show(&changed, render::changed)
    }
}
