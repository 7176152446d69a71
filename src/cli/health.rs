//! `penstock health`: whether the proxy's process lives, for container health checks.

use clap::Args;

use super::client::Client;
use super::{Failure, Output};
use crate::admin::wire;

/// Tell whether the proxy lives: exits with 0, 1 or 6
#[derive(Debug, Args)]
pub struct Health {}

impl Health {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let health: wire::Health = client.get("/health").await?;
        output.show(&health, |health| health.status.clone())
    }
}
