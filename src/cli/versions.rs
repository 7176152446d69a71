//! `penstock versions`: shows a service's versions, adds and removes them at run time, and names the canary.

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::json;

use super::client::Client;
use super::failure::Exit;
use super::sender::Sender;
use super::{Failure, Output, render};
use crate::admin::wire::{
    self, Authority, ListedEndpoint, Service, ServiceName, VersionChanged, VersionName, VersionPut,
};

/// Show a service's versions, or add one, remove one, name one as the canary
#[derive(Debug, Args)]
pub struct Versions {
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,

    /// What is to become of one
    #[arg(requires = "version")]
    action: Option<Action>,

    #[arg(value_parser = VersionName::new)]
    version: Option<VersionName>,

    /// With add: its endpoints
    endpoints: Vec<String>,

    #[command(flatten)]
    sender: Sender,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    Add,
    Remove,
    /// It begins at weight 0
    Canary,
}

impl Versions {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let service: Service = client.get(&format!("/v1/services/{}", self.service)).await?;
        let (Some(action), Some(version)) = (self.action, &self.version) else {
            return output.show(&service.versions, |_| render::versions(&service));
        };
        if action != Action::Add && !self.endpoints.is_empty() {
            return Err(Failure::new(Exit::Usage, "endpoints are named with `add` only"));
        }
        let path = format!("/v1/services/{}/versions/{version}", self.service);
        let changed: VersionChanged = match action {
            Action::Canary => {
                let canary = wire::Canary { version: version.clone() };
                let changed = self.sender.post(client, &self.service, "canary", &canary).await?;
                return output.show(&changed, render::changed);
            }
            Action::Add => {
                let body = VersionPut { endpoints: self.listed()? };
                self.sender.change(client, Method::PUT, &path, service.revision, &body).await?
            }
            Action::Remove => self.sender.change(client, Method::DELETE, &path, service.revision, &json!({})).await?,
        };
        output.show(&changed, |changed| render::version_changed(version, changed))
    }

    fn listed(&self) -> Result<Vec<ListedEndpoint>, Failure> {
        let listed = |text: &String| {
            let odd = |error| Failure::new(Exit::Usage, format!("`{text}` {error}")).help("write `host:port`");
            Authority::parse(text).map(ListedEndpoint::Address).map_err(odd)
        };
        self.endpoints.iter().map(listed).collect()
    }
}
