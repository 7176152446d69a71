//! The command line: one verb per file, in the words of the API.
//!
//! Verbs that talk to a running proxy go through `client`, print what they got (`--json`: as it came, one object per
//! line; otherwise by `render`), and end with an exit code that a script can act on ([`Exit`]).

mod abort;
mod check;
mod client;
mod config;
mod demo;
mod drain;
mod endpoints;
mod events;
mod failure;
mod health;
mod pause;
mod promote;
mod reload;
mod render;
mod resume;
mod route;
mod sender;
mod serve;
mod status;
#[cfg(test)]
mod tests;
mod unseal;
mod versions;
mod weights;

use std::io::Write;

use clap::{Parser, Subcommand};
use http::uri::Authority;
use serde::Serialize;

use client::Client;
pub use failure::{Exit, Failure};

use crate::config::Overrides;

/// A traffic-shifting reverse proxy that measures its canaries and takes bad ones away
#[derive(Debug, Parser)]
#[command(name = "penstock", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// The admin address of the proxy to talk to
    #[arg(long, global = true, env = "PENSTOCK_ADMIN", default_value = "127.0.0.1:9900", value_name = "ADDRESS")]
    admin: Authority,

    /// Print JSON, one object per line
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done or promoted, 1 error, 2 usage, 3 rolled back or aborted (while waiting),
4 wait timed out, 5 conflict or refused, 6 admin unreachable";

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::Serve),
    Check(check::Check),
    Config(config::Config),
    Demo(demo::Demo),
    Status(status::Status),
    Weights(weights::Weights),
    Promote(promote::Promote),
    #[command(alias = "cancel")]
    Abort(abort::Abort),
    Unseal(unseal::Unseal),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Endpoints(endpoints::Endpoints),
    Drain(drain::Drain),
    Versions(versions::Versions),
    Events(events::Events),
    Health(health::Health),
    Reload(reload::Reload),
    Route(route::Route),
}

/// Does what the arguments say. `terminal`: a person is looking, and the screen may be drawn over.
pub fn run(arguments: Arguments, to: &mut dyn Write, terminal: bool) -> Result<(), Failure> {
    let Arguments { admin, json, verb } = arguments;
    let (client, output) = (Client::new(admin), &mut Output { to, json, terminal });
    match verb {
        Verb::Serve(serve) => serve.run(),
        Verb::Check(check) => check.run(output),
        Verb::Config(config) => config.run(output),
        Verb::Demo(demo) => demo.run(output),
        Verb::Status(status) => remote(status.run(&client, output)),
        Verb::Weights(weights) => remote(weights.run(&client, output)),
        Verb::Promote(promote) => remote(promote.run(&client, output)),
        Verb::Abort(abort) => remote(abort.run(&client, output)),
        Verb::Unseal(unseal) => remote(unseal.run(&client, output)),
        Verb::Pause(pause) => remote(pause.run(&client, output)),
        Verb::Resume(resume) => remote(resume.run(&client, output)),
        Verb::Endpoints(endpoints) => remote(endpoints.run(&client, output)),
        Verb::Drain(drain) => remote(drain.run(&client, output)),
        Verb::Versions(versions) => remote(versions.run(&client, output)),
        Verb::Events(events) => remote(events.run(&client, output)),
        Verb::Health(health) => remote(health.run(&client, output)),
        Verb::Reload(reload) => remote(reload.run(&client, output)),
        Verb::Route(route) => route.run(&client, output),
    }
}

/// One thread is plenty for talking to one proxy.
fn remote<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(verb)
}

/// The only place where the environment is read for the configuration.
fn environment() -> Overrides {
    Overrides::environment(std::env::vars_os())
}

/// Where a verb prints to, and how.
struct Output<'a> {
    to: &'a mut dyn Write,
    json: bool,
    terminal: bool,
}

impl Output<'_> {
    /// As JSON if that was asked for, else in words.
    fn show<T: Serialize>(&mut self, value: &T, words: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.json { self.line(&serde_json::to_string(value)?) } else { self.line(&words(value)) }
    }

    fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.to, "{text}")?;
        Ok(self.to.flush()?)
    }
}
