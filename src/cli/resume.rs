//! `penstock resume`: requests that wait go on, in order, to the version that is right now.

use clap::Args;

use super::client::Client;
use super::sender::Sender;
use super::{Failure, Output, render};
use crate::admin::wire::ServiceName;

/// Let the requests of a paused service go on
#[derive(Debug, Args)]
pub struct Resume {
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,

    #[command(flatten)]
    sender: Sender,
}

impl Resume {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let changed = self.sender.post(client, &self.service, "resume", &serde_json::json!({})).await?;
        output.show(&changed, render::paused)
    }
}
