//! `penstock unseal`: a sealed version may be given traffic again. Its weight stays at 0.

use clap::Args;

use super::client::Client;
use super::sender::Sender;
use super::{Failure, Output, render};
use crate::admin::wire::{self, ServiceName, VersionName};

/// Let a sealed version be given traffic again; its weight stays at 0%
#[derive(Debug, Args)]
pub struct Unseal {
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,
    #[arg(value_parser = VersionName::new)]
    version: VersionName,

    #[command(flatten)]
    sender: Sender,
}

impl Unseal {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let body = wire::Unseal { version: Some(self.version) };
        let changed = self.sender.post(client, &self.service, "unseal", &body).await?;
        output.show(&changed, render::changed)
    }
}
