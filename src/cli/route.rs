//! `penstock route METHOD URL`: which route, version and endpoint a request would get, and why.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use http::{HeaderMap, Method};

use super::client::Client;
use super::serve::refuse;
use super::{Exit, Failure, Output, environment, remote, render};
use crate::admin::wire::{Field, Outcome, Question, RouteAnswer};
use crate::{app, config};

/// Say what would become of a request, and why; exits with 1 if no route takes it, with 5 if it would be denied
#[derive(Debug, Args)]
pub struct Route {
    /// Such as GET
    method: String,

    /// Such as `http://shop.example.com/cart?item=1`
    url: String,

    /// A header field of the request, such as 'x-canary: always'
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<Field>,

    /// Who asks: where routes allow and deny addresses
    #[arg(long, value_name = "IP")]
    client_address: Option<IpAddr>,

    /// Ask this file instead of a running proxy: its own weights, and no names looked up
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn field(text: &str) -> Result<Field, String> {
    let (name, value) = text.split_once(':').ok_or("write `name: value`")?;
    Ok(Field { name: name.trim().to_owned(), value: value.trim().to_owned() })
}

impl Route {
    pub fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let Route { method, url, headers, client_address, config } = self;
        let question = Question { method, url, headers, client_address };
        let answer = match config {
            Some(file) => {
                let settings = config::read_with(&file, &environment()).map_err(|problems| refuse(&problems))?;
                app::explain(settings, &question)?
            }
            None => remote_answer(client, &question)?,
        };
        output.show(&answer, |answer| render::route(&question, answer))?;
        match answer.outcome {
            Outcome::Forwarded | Outcome::Redirected => Ok(()),
            Outcome::NoRoute => Err(Failure::new(Exit::Error, "")),
            Outcome::Denied => Err(Failure::new(Exit::Refused, "")),
        }
    }
}

fn remote_answer(client: &Client, question: &Question) -> Result<RouteAnswer, Failure> {
    let body = serde_json::to_vec(question)?.into();
    let json = http::HeaderValue::from_static("application/json");
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, json)]);
    remote(client.ask(Method::POST, "/v1/route", headers, body))
}
