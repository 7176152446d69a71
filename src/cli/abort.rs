//! `penstock abort`: takes the canary's traffic away and seals it. Ends with 0: it has done what was asked.

use clap::Args;

use super::client::Client;
use super::sender::Sender;
use super::{Failure, Output, render};
use crate::admin::wire::ServiceName;

/// Take the canary's traffic away, and seal it until somebody unseals it
#[derive(Debug, Args)]
pub struct Abort {
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,

    #[command(flatten)]
    sender: Sender,
}

impl Abort {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let changed = self.sender.post(client, &self.service, "abort", &serde_json::json!({})).await?;
        output.show(&changed, render::changed)
    }
}
