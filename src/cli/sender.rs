//! What every change tells about its sender, and the way it is sent.

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::Client;
use super::failure::{Exit, Failure};
use crate::admin::wire::{ACTOR, Changed, REASON, ServiceName};

/// Whoever asks knows better than the declared capacity.
pub const FORCE: &str = "?force=true";

#[derive(Debug, Args)]
pub struct Sender {
    /// Why; kept in the journal
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// Who; kept in the journal
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    actor: Option<String>,
}

impl Sender {
    /// `PATCH` of the split, based on a revision.
    pub async fn patch(
        &self,
        client: &Client,
        service: &ServiceName,
        revision: u64,
        query: &str,
        body: &impl Serialize,
    ) -> Result<Changed, Failure> {
        let mut headers = self.headers()?;
        headers.insert(header::IF_MATCH, text(&header::IF_MATCH, &format!("\"{revision}\""))?);
        let body = serde_json::to_vec(body)?.into();
        client.ask(Method::PATCH, &format!("/v1/services/{service}/split{query}"), headers, body).await
    }

    /// `POST` of a verb.
    pub async fn post(
        &self,
        client: &Client,
        service: &ServiceName,
        verb: &str,
        body: &impl Serialize,
    ) -> Result<Changed, Failure> {
        let body: Bytes = serde_json::to_vec(body)?.into();
        client.ask(Method::POST, &format!("/v1/services/{service}:{verb}"), self.headers()?, body).await
    }

    /// A change of what stands at `path`: a version or an endpoint. `revision`: what it is based on.
    pub async fn change<T: DeserializeOwned>(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        revision: u64,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let mut headers = self.headers()?;
        headers.insert(header::IF_MATCH, text(&header::IF_MATCH, &format!("\"{revision}\""))?);
        client.ask(method, path, headers, serde_json::to_vec(body)?.into()).await
    }

    /// Who and why, with a JSON body.
    pub fn headers(&self) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, said) in [(REASON, &self.reason), (ACTOR, &self.actor)] {
            if let Some(said) = said {
                headers.insert(name.clone(), text(&name, said)?);
            }
        }
        Ok(headers)
    }
}

fn text(name: &HeaderName, value: &str) -> Result<HeaderValue, Failure> {
    let odd = |_| Failure::new(Exit::Usage, format!("`{name}` must be one line of text, and `{value:?}` is not"));
    HeaderValue::from_bytes(value.as_bytes()).map_err(odd)
}
