//! `penstock status`: how the services stand, once or all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::client::Client;
use super::{Failure, Output, render};
use crate::admin::wire::{Service, ServiceName, Services};

const REDRAW: Duration = Duration::from_secs(1);

/// Clears the screen and goes to its corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Show weights, traffic, errors, latency and evidence
#[derive(Debug, Args)]
pub struct Status {
    /// Only this one
    #[arg(value_parser = ServiceName::new)]
    service: Option<ServiceName>,

    /// Go on: redraw each second on a terminal, else print a line per change
    #[arg(long)]
    watch: bool,
}

impl Status {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        match (self.watch, output.terminal && !output.json) {
            (false, _) => output.show(&self.read(client).await?, render::status),
            (true, true) => self.redraw(client, output).await,
            (true, false) => self.follow(client, output).await,
        }
    }

    async fn read(&self, client: &Client) -> Result<Services, Failure> {
        match &self.service {
            Some(name) => {
                let services = vec![client.get(&format!("/v1/services/{name}")).await?];
                Ok(Services { services, ..client.get("/v1/services").await? })
            }
            None => client.get("/v1/services").await,
        }
    }

    async fn redraw(&self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        loop {
            let status = render::status(&self.read(client).await?);
            output.line(&format!("{CLEAR}{status}"))?;
            sleep(REDRAW).await;
        }
    }

    async fn follow(&self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let mut seen = Seen::default();
        loop {
            for service in self.read(client).await?.services {
                if seen.is_news(&service) {
                    output.show(&service, render::line)?;
                }
            }
            sleep(REDRAW).await;
        }
    }
}

/// The line printed last for each service.
#[derive(Default)]
struct Seen(BTreeMap<ServiceName, String>);

impl Seen {
    fn is_news(&mut self, service: &Service) -> bool {
        let line = render::line(service);
        self.0.insert(service.name.clone(), line.clone()) != Some(line)
    }
}
