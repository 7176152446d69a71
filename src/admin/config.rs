//! `/v1/config`: how the file stands, and having it read again.

use axum::Json;
use axum::extract::State;

use super::api::Api;
use super::body::Body;
use super::caller::Caller;
use super::problem::{BAD_FILE, FieldError, NO_FILE, Problem};
use super::wire::{Config, Reload, Reloaded};
use crate::control::command::Force;
use crate::control::reload::{Extent, NotReloaded};

pub async fn show(State(api): State<Api>) -> Json<Config> {
    let config = api.control.config();
    Json(Config {
        successful: config.successful,
        in_force_since: config.in_force_since.to_string(),
        trouble: config.trouble.clone(),
        warnings: config.warnings.clone(),
    })
}

pub async fn reload(State(api): State<Api>, caller: Caller, body: Body) -> Result<Json<Reloaded>, Problem> {
    read_again(api, caller, body, Extent::Reload).await
}

pub async fn validate(State(api): State<Api>, caller: Caller, body: Body) -> Result<Json<Reloaded>, Problem> {
    read_again(api, caller, body, Extent::Validate).await
}

async fn read_again(api: Api, caller: Caller, body: Body, extent: Extent) -> Result<Json<Reloaded>, Problem> {
    let Reload { force_drain } = body.json_if_any("{\"force_drain\":true}")?;
    let force = if force_drain { Force::Drain } else { Force::No };
    let reloaded = api.control.reload(extent, force, caller.actor).await?;
    Ok(Json(Reloaded { revision: reloaded.revision, warnings: reloaded.warnings }))
}

impl From<NotReloaded> for Problem {
    fn from(refused: NotReloaded) -> Problem {
        let detail = refused.to_string();
        match refused {
            NotReloaded::Problems(problems) => {
                let mut problem = BAD_FILE.because(detail, "mend the file and try again; the last one stays in force");
                let errors =
                    problems.into_iter().map(|problem| FieldError { pointer: problem.path, detail: problem.detail });
                problem.errors = errors.collect();
                problem
            }
            NotReloaded::Listener { help, .. } => BAD_FILE.because(detail, help),
            NotReloaded::Refused(refused) => refused.into(),
            NotReloaded::NoFile => NO_FILE.because(detail, "start it with `penstock serve FILE`"),
        }
    }
}
