//! `penstock pause`: new requests of a service wait, for a cut-over that nobody is to notice.

use clap::Args;
use jiff::SignedDuration;

use super::client::Client;
use super::sender::Sender;
use super::{Failure, Output, render};
use crate::admin::wire::{self, ServiceName};

/// Let new requests of a service wait, until `resume` or for a while at most
#[derive(Debug, Args)]
pub struct Pause {
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,

    /// At most so long; it ends by itself [default: the service's `hold.time`]
    #[arg(long = "for", value_name = "DURATION")]
    time: Option<SignedDuration>,

    #[command(flatten)]
    sender: Sender,
}

impl Pause {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let body = wire::Pause { time: self.time };
        let changed = self.sender.post(client, &self.service, "pause", &body).await?;
        output.show(&changed, render::paused)
    }
}
