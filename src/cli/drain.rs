//! `penstock drain`: nothing new for an endpoint or a whole version, and waits until nothing is under way there.

use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::Client;
use super::endpoints::{Target, set};
use super::failure::Exit;
use super::sender::Sender;
use super::{Failure, Output, render};
use crate::admin::wire::{Administrative, Endpoint, Service, ServiceName};

/// Between two looks.
const AGAIN: Duration = Duration::from_millis(200);

/// Give nothing new to an endpoint or a version, and wait until it has nothing under way
#[derive(Debug, Args)]
pub struct Drain {
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,

    /// A version, or an endpoint as it is listed: 127.0.0.1:9001
    target: Target,

    /// How long to wait; requests under way are never cut off
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    timeout: Duration,

    /// Also when stable is left without an endpoint that serves
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    sender: Sender,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<SignedDuration>().ok().and_then(|signed| Duration::try_from(signed).ok());
    duration.ok_or_else(|| "a number and its unit, such as 30s or 5m".to_owned())
}

impl Drain {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        let path = format!("/v1/services/{}", self.service);
        let service: Service = client.get(&path).await?;
        let stable = self.target == Target::Version(service.stable.to_string());
        if stable && !self.force {
            let message = format!("`{}` is the stable version, and nobody would be left to serve", self.target);
            return Err(Failure::new(Exit::Refused, message)
                .help("drain its endpoints one by one, or say `--force`: requests fail then"));
        }
        for (version, endpoint) in self.target.among(&service)? {
            set(client, &self.sender, &service, &version.name, endpoint, Administrative::Draining, self.force).await?;
        }
        loop {
            let service: Service = match timeout_at(deadline, client.get(&path)).await {
                Ok(read) => read?,
                Err(_) => return Err(self.over(None)),
            };
            let found = self.target.among(&service)?;
            if found.iter().all(|(_, endpoint)| endpoint.drained) {
                return output.show(&drained(&found), |_| render::drained(&self.service, &found));
            }
            if Instant::now() >= deadline {
                let left = found.iter().map(|(_, endpoint)| endpoint.in_flight).sum();
                return Err(self.over(Some(left)));
            }
            sleep_until(deadline.min(Instant::now() + AGAIN)).await;
        }
    }

    fn over(&self, left: Option<u64>) -> Failure {
        let under_way = match left {
            None => "the proxy did not answer".to_owned(),
            Some(0) => "not every worker has said that it knows".to_owned(),
            Some(1) => "one request is still under way".to_owned(),
            Some(left) => format!("{left} requests are still under way"),
        };
        let message = format!("not drained within {:?}: {under_way}", self.timeout);
        Failure::new(Exit::TimedOut, message)
            .help(format!("it stays draining: `penstock drain {} {}` goes on waiting", self.service, self.target))
    }
}

fn drained(found: &[(&crate::admin::wire::Version, &Endpoint)]) -> serde_json::Value {
    let endpoints: Vec<&str> = found.iter().map(|(_, endpoint)| endpoint.authority.as_str()).collect();
    serde_json::json!({ "drained": true, "endpoints": endpoints })
}
