//! `penstock endpoints`: shows a service's endpoints, says what is wanted of one, adds and removes them.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::json;

use super::client::Client;
use super::failure::Exit;
use super::sender::Sender;
use super::{Failure, Output, render};
use crate::admin::wire::{
    Administrative, Endpoint, EndpointChanged, EndpointPatch, EndpointPut, Service, ServiceName, Version, VersionName,
};

/// Show a service's endpoints, or change one: ready, draining, maintenance, add, remove
#[derive(Debug, Args)]
pub struct Endpoints {
    #[arg(value_parser = ServiceName::new)]
    service: ServiceName,

    /// What is to become of one
    #[arg(requires = "endpoint")]
    action: Option<Action>,

    /// As it is listed: 127.0.0.1:9001
    endpoint: Option<String>,

    /// The version, where more than one lists the endpoint, or to add it to
    #[arg(long = "of", value_name = "VERSION", value_parser = VersionName::new)]
    version: Option<VersionName>,

    /// With add: its share relative to the version's other endpoints, 1 to 1000
    #[arg(long, value_name = "NUMBER")]
    weight: Option<u32>,

    /// Also when stable is left without an endpoint that serves
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    sender: Sender,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    Ready,
    Draining,
    Maintenance,
    Add,
    Remove,
}

impl Endpoints {
    pub async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let service: Service = client.get(&format!("/v1/services/{}", self.service)).await?;
        let (Some(action), Some(endpoint)) = (self.action, &self.endpoint) else {
            return output.show(&shown(&service), |_| render::endpoints(&service));
        };
        let changed = match action {
            Action::Add => self.add(client, &service, endpoint).await?,
            Action::Remove => {
                let (version, _) = self.only(&service, endpoint)?;
                let path = path(&service, &version.name, endpoint, self.force);
                self.sender.change(client, Method::DELETE, &path, service.revision, &json!({})).await?
            }
            Action::Ready | Action::Draining | Action::Maintenance => {
                let (version, found) = self.only(&service, endpoint)?;
                set(client, &self.sender, &service, &version.name, found, wanted(action), self.force).await?
            }
        };
        output.show(&changed, render::endpoint_changed)
    }

    async fn add(&self, client: &Client, service: &Service, endpoint: &str) -> Result<EndpointChanged, Failure> {
        let Some(version) = &self.version else {
            return Err(Failure::new(Exit::Usage, "which version is it an endpoint of?").help("say `--of v2`"));
        };
        let path = path(service, version, endpoint, false);
        let body = EndpointPut { weight: self.weight };
        self.sender.change(client, Method::PUT, &path, service.revision, &body).await
    }

    fn only<'a>(&self, service: &'a Service, endpoint: &str) -> Result<(&'a Version, &'a Endpoint), Failure> {
        let mut found = Target::Endpoint(endpoint.to_owned()).among(service)?;
        found.retain(|(version, _)| self.version.as_ref().is_none_or(|named| version.name == *named));
        match found[..] {
            [only] => Ok(only),
            [] => Err(Failure::new(Exit::Error, format!("that version has no endpoint `{endpoint}`"))
                .help(format!("`penstock endpoints {}` lists them", service.name))),
            [..] => Err(Failure::new(Exit::Usage, format!("more than one version lists `{endpoint}`"))
                .help("say which one, with `--of`")),
        }
    }
}

fn wanted(action: Action) -> Administrative {
    match action {
        Action::Draining => Administrative::Draining,
        Action::Maintenance => Administrative::Maintenance,
        Action::Ready | Action::Add | Action::Remove => Administrative::Ready,
    }
}

/// Says what is wanted of an endpoint.
pub async fn set(
    client: &Client,
    sender: &Sender,
    service: &Service,
    version: &VersionName,
    endpoint: &Endpoint,
    to: Administrative,
    force: bool,
) -> Result<EndpointChanged, Failure> {
    let path = path(service, version, &endpoint.authority, force);
    sender.change(client, Method::PATCH, &path, service.revision, &EndpointPatch { state: to }).await
}

fn path(service: &Service, version: &VersionName, endpoint: &str, force: bool) -> String {
    let force = if force { "?force=true" } else { "" };
    format!("/v1/services/{}/versions/{version}/endpoints/{}{force}", service.name, encoded(endpoint))
}

/// As a segment of a path: RFC 3986 §3.3.
fn encoded(endpoint: &str) -> String {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    endpoint.bytes().map(|b| if safe(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn shown(service: &Service) -> serde_json::Value {
    let versions = service.versions.iter().map(|version| (version.name.to_string(), json!(version.endpoints)));
    let versions: serde_json::Map<_, _> = versions.collect();
    json!({ "service": service.name, "revision": service.revision, "versions": versions })
}

/// A version or an endpoint: only endpoints have a colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Version(String),
    Endpoint(String),
}

impl FromStr for Target {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Target, Infallible> {
        Ok(if text.contains(':') { Target::Endpoint(text.to_owned()) } else { Target::Version(text.to_owned()) })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Target::Version(text) | Target::Endpoint(text)) = self;
        f.write_str(text)
    }
}

impl Target {
    /// The endpoints that are meant: at least one.
    pub fn among<'a>(&self, service: &'a Service) -> Result<Vec<(&'a Version, &'a Endpoint)>, Failure> {
        let all = service.versions.iter();
        let all = all.flat_map(|version| version.endpoints.iter().map(move |endpoint| (version, endpoint)));
        let found: Vec<_> = all
            .filter(|(version, endpoint)| match self {
                Target::Version(name) => version.name.as_str() == name,
                Target::Endpoint(authority) => endpoint.authority == *authority,
            })
            .collect();
        if found.is_empty() {
            return Err(Failure::new(Exit::Error, format!("`{}` has no endpoint `{self}`", service.name))
                .help(format!("`penstock endpoints {}` lists them", service.name)));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_one_segment_of_a_path() {
        assert_eq!(encoded("127.0.0.1:9001"), "127.0.0.1:9001");
        assert_eq!(encoded("[::1]:80"), "%5B::1%5D:80");
        assert_eq!(encoded("a/../b?c#d"), "a%2F..%2Fb%3Fc%23d");
    }
}
