//! `penstock events`: what is decided, as it is decided.

use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::client::{Client, Feed, Message};
use super::failure::Exit;
use super::{Failure, Output, render};
use crate::admin::wire::Entry;

/// As the server advises.
const RECONNECT: Duration = Duration::from_secs(1);

/// Follow what is decided: weights, promotions, rollbacks, seals
#[derive(Debug, Args)]
pub struct Events {
    /// Begin with what came after this revision (0: everything still known) [default: from now on]
    #[arg(long, value_name = "REVISION")]
    after: Option<u64>,

    /// End after so many events
    #[arg(long, value_name = "NUMBER")]
    count: Option<usize>,
}

impl Events {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let mut left = self.count.unwrap_or(usize::MAX);
        let mut last = self.after;
        let mut feed = client.watch(last).await?;
        while left > 0 {
            let Some(message) = feed.next().await else {
                feed = again(client, last).await?;
                continue;
            };
            last = Some(message.id);
            left -= 1;
            print(&message, output)?;
        }
        Ok(())
    }
}

/// Goes on where it was, as soon as the proxy is back.
async fn again(client: &Client, last: Option<u64>) -> Result<Feed, Failure> {
    loop {
        sleep(RECONNECT).await;
        match client.watch(last).await {
            Err(failure) if failure.exit == Exit::Unreachable => {}
            answered => return answered,
        }
    }
}

fn print(message: &Message, output: &mut Output<'_>) -> Result<(), Failure> {
    if output.json {
        return output.line(&message.data);
    }
    if message.event == "reset" {
        return output.line("some events are no longer known; `penstock status` shows how things stand");
    }
    output.line(&render::entry(&serde_json::from_str::<Entry>(&message.data)?))
}
