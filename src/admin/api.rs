//! `/v1/services`: what is, and the changes that persons ask for.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::body::Body;
use super::caller::Caller;
use super::config;
use super::endpoints;
use super::events::{self, MOST_WATCHERS};
use super::metrics::{self, Outside};
use super::problem::{METHOD, NO_SUCH_PATH, NO_SUCH_SERVICE, NOT_READY, Problem, UNAVAILABLE};
use super::ready::Readiness;
use super::route;
use super::wire::{
    Beside, Canary, Changed, Health, Pause, Promote, Resume, Service, Services, Split, SplitPatch, Store, Unseal,
};
use crate::control::command::{Control, Done, Precondition, Refused, Run};
use crate::control::view::{ServiceView, VersionView};
use crate::domain::admission::LONGEST_PAUSE;
use crate::domain::names::{ServiceName, VersionName};
use crate::domain::split::Role;
use crate::domain::standing::Request;

/// For the engine's answer, which comes within a tick unless something is very wrong.
const ANSWER: Duration = Duration::from_secs(5);

/// What every handler may reach.
#[derive(Clone)]
pub struct Api {
    pub control: Control,
    pub readiness: Arc<Readiness>,
    /// Ends what would otherwise go on for ever: the event streams.
    pub closing: CancellationToken,
    pub watchers: Arc<Semaphore>,
    pub outside: Arc<Outside>,
}

impl Api {
    pub fn new(control: Control, readiness: Arc<Readiness>, closing: CancellationToken) -> Api {
        let watchers = Arc::new(Semaphore::new(MOST_WATCHERS));
        Api { control, readiness, closing, watchers, outside: Arc::default() }
    }

    /// With what the rest of the process counts.
    pub fn seeing(self, outside: Outside) -> Api {
        Api { outside: Arc::new(outside), ..self }
    }

    pub fn router(self) -> Router {
        Router::new()
            .route("/v1/services", get(services))
            .route("/v1/services/{target}", get(service).post(act))
            .route("/v1/services/{target}/split", get(split).patch(patch))
            .merge(endpoints::routes())
            .route("/v1/config", get(config::show))
            .route("/v1/config:reload", post(config::reload))
            .route("/v1/config:validate", post(config::validate))
            .route("/v1/events", get(events::watch))
            .route("/v1/route", post(route::answer))
            .route("/metrics", get(metrics::scrape))
            .route("/health", get(health))
            .route("/ready", get(ready))
            .fallback(no_such_path)
            .method_not_allowed_fallback(wrong_method)
            .with_state(self)
    }

    pub fn service(&self, name: &ServiceName) -> Result<Arc<ServiceView>, Problem> {
        self.control.view().services.get(name).cloned().ok_or_else(|| no_such_service(name.as_str()))
    }

    fn split(&self, name: &ServiceName) -> Result<Split, Problem> {
        Ok(Split::of(&*self.service(name)?))
    }

    /// Asks the engine for a change of the split.
    async fn ask(&self, name: &ServiceName, request: Request, caller: Caller) -> Result<Response, Problem> {
        let (what, run) = (words(&request), caller.run);
        let ask = |Caller { actor, precondition, overload, run, .. }| {
            self.control.ask(name.clone(), request, precondition, overload, run, actor)
        };
        let Done { changed, durable, .. } = self.answered(name, &what, caller, ask).await?;
        self.changed(name, changed, durable, run)
    }

    /// Waits for the engine's answer, and notes who asked for what and what became of it.
    pub async fn answered<A: Future<Output = Result<Done, Refused>>>(
        &self,
        name: &ServiceName,
        what: &str,
        caller: Caller,
        ask: impl FnOnce(Caller) -> A,
    ) -> Result<Done, Problem> {
        let (who, peer, run) = (caller.actor.name.clone(), caller.peer, caller.run);
        let reason = caller.actor.reason.clone().unwrap_or_default();
        let ask = ask(caller);
        let Ok(answer) = timeout(ANSWER, ask).await else {
            tracing::error!(service = %name, what, actor = who, reason, %peer, "no answer from the engine");
            let detail = "the engine has not answered in time; the change may still be made";
            return Err(UNAVAILABLE.because(detail, "read the split before trying again"));
        };
        match answer {
            Ok(done) if run == Run::Dry => Ok(Done { durable: false, ..done }), // asked, not done
            Ok(done) => {
                let Done { revision, changed, durable } = done;
                tracing::info!(service = %name, what, actor = who, reason, %peer, revision, changed, durable, "carried out");
                Ok(done)
            }
            Err(refused) => {
                tracing::warn!(service = %name, what, actor = who, reason, %peer, %refused, "refused");
                Err(refused.into())
            }
        }
    }

    fn changed(&self, name: &ServiceName, changed: bool, kept: bool, run: Run) -> Result<Response, Problem> {
        let service = self.service(name)?;
        let (split, warnings) = (Split::of(&service), closed(&service));
        let (durable, dry_run) = (self.durable(kept), run == Run::Dry);
        Ok(tagged(split.revision, Changed { changed, durable, dry_run, warnings, split }))
    }

    /// Whether it survives a restart, if the engine says that it was kept.
    pub fn durable(&self, kept: bool) -> bool {
        kept && self.control.view().store.is_some()
    }

    /// How long a pause lasts: as asked for, or as long as a request waits.
    fn pause(&self, name: &ServiceName, Pause { time }: Pause) -> Result<Duration, Problem> {
        let Some(time) = time else { return Ok(self.service(name)?.hold_queue.time) };
        let within = |time: &Duration| (Duration::from_millis(1)..=LONGEST_PAUSE).contains(time);
        Duration::try_from(time).ok().filter(within).ok_or_else(|| {
            let detail = format!("a pause lasts from 1 ms to {} min", LONGEST_PAUSE.as_secs() / 60);
            Problem::field("/for", detail, "for longer, give the service another version to go to")
        })
    }

    /// The version to unseal: the one named, or the only one sealed; none, when none is sealed.
    fn to_unseal(&self, name: &ServiceName, named: Option<VersionName>) -> Result<Option<VersionName>, Problem> {
        if named.is_some() {
            return Ok(named);
        }
        let service = self.service(name)?;
        let sealed: Vec<&VersionName> = service.sealed().collect();
        match sealed[..] {
            [] => Ok(None),
            [only] => Ok(Some(only.clone())),
            [first, ..] => {
                let help = format!("name one, such as {{\"version\":\"{first}\"}}");
                Err(Problem::field("/version", "more than one version is sealed", help))
            }
        }
    }
}

async fn services(State(api): State<Api>) -> Json<Services> {
    let view = api.control.view();
    let beside = Beside::of(&api.control);
    let services = view.services.values().map(|service| Service::of(service, &beside)).collect();
    Json(Services { services, store: view.store.as_ref().map(Store::of) })
}

async fn service(State(api): State<Api>, Target(name): Target) -> Result<Response, Problem> {
    let service = Service::of(&*api.service(&checked(&name)?)?, &Beside::of(&api.control));
    Ok(tagged(service.revision, service))
}

async fn split(State(api): State<Api>, Target(name): Target) -> Result<Response, Problem> {
    let split = api.split(&checked(&name)?)?;
    Ok(tagged(split.revision, split))
}

async fn patch(State(api): State<Api>, Target(name): Target, caller: Caller, body: Body) -> Result<Response, Problem> {
    let name = checked(&name)?;
    api.service(&name)?;
    let SplitPatch { weight } = body.json("{\"weight\":\"25%\"}")?;
    api.ask(&name, Request::Weight(weight), caller).await
}

/// `POST /v1/services/{service}:{verb}`. Each verb states its target, so doing it twice is doing it once.
async fn act(State(api): State<Api>, Target(target): Target, caller: Caller, body: Body) -> Result<Response, Problem> {
    let Some((name, verb)) = target.rsplit_once(':') else {
        let problem = METHOD.because("POST wants a verb", format!("POST to `/v1/services/{target}:promote`, say"));
        return Ok(([(header::ALLOW, "GET,HEAD")], problem).into_response());
    };
    let name = checked(name)?;
    api.service(&name)?;
    match verb {
        "promote" => {
            let Promote {} = body.json_if_any("{}, or nothing")?;
            api.ask(&name, Request::Promote, caller.stating_its_target()).await
        }
        // Whatever else the request says: taking traffic away is never refused over form.
        "abort" => api.ask(&name, Request::Abort, caller.stating_its_target()).await,
        "canary" => {
            let Canary { version } = body.json("{\"version\":\"v2\"}")?;
            api.ask(&name, Request::Canary(version), caller.stating_its_target()).await
        }
        "unseal" => {
            let Unseal { version } = body.json_if_any("{\"version\":\"v2\"}")?;
            match api.to_unseal(&name, version)? {
                Some(version) => api.ask(&name, Request::Unseal(version), caller.stating_its_target()).await,
                None => api.changed(&name, false, true, caller.run),
            }
        }
        "pause" => {
            let pause: Pause = body.json_if_any("{\"for\":\"30s\"}")?;
            let time = api.pause(&name, pause)?;
            api.ask(&name, Request::Pause(time), caller.stating_its_target()).await
        }
        "resume" => {
            let Resume {} = body.json_if_any("{}, or nothing")?;
            api.ask(&name, Request::Resume, caller.stating_its_target()).await
        }
        _ => {
            let help = "use `promote`, `abort`, `unseal`, `canary`, `pause` or `resume`";
            Err(NO_SUCH_PATH.because(format!("there is no verb `{verb}`"), help))
        }
    }
}

impl Caller {
    /// For verbs, `If-Match` is a choice.
    fn stating_its_target(self) -> Caller {
        let precondition = match self.precondition {
            Precondition::None => Precondition::Any,
            stated => stated,
        };
        Caller { precondition, ..self }
    }
}

/// A weight that has no effect yet.
fn closed(service: &ServiceView) -> Vec<String> {
    let canary = service.versions.iter().filter(|version| version.role == Some(Role::Canary));
    let waits = canary.filter(|version| !version.open && version.seal.is_none() && !service.weight.is_zero());
    let why = |version: &VersionView| {
        format!(
            "{} gets nothing for now, whatever its weight: none of its endpoints is ready and has passed its health check",
            version.name
        )
    };
    waits.map(why).collect()
}

/// For the log.
fn words(request: &Request) -> String {
    match request {
        Request::Weight(weight) => format!("weight {weight}"),
        Request::Promote => "promote".to_owned(),
        Request::Abort => "abort".to_owned(),
        Request::Unseal(version) => format!("unseal {version}"),
        Request::Pause(time) => format!("pause for {time:?}"),
        Request::Resume => "resume".to_owned(),
        Request::Canary(version) => format!("canary {version}"),
    }
}

async fn health() -> Json<Health> {
    Json(Health { status: "alive".to_owned() })
}

async fn ready(State(api): State<Api>) -> Result<Json<Health>, Problem> {
    let reasons = api.readiness.reasons();
    if reasons.is_empty() {
        return Ok(Json(Health { status: "ready".to_owned() }));
    }
    Err(NOT_READY.because(reasons.join("; "), "ask again in a moment"))
}

async fn no_such_path(uri: Uri) -> Problem {
    let help = "the paths are /v1/services, /v1/services/{service}, /v1/services/{service}/split, /v1/services/{service}/versions[/{version}[/endpoints[/{endpoint}]]], /v1/route, /v1/events, /metrics, /health and /ready";
    NO_SUCH_PATH.because(format!("there is nothing at `{}`", uri.path()), help)
}

async fn wrong_method(method: Method) -> Problem {
    METHOD.because(format!("`{method}` means nothing here"), "the `Allow` field names the methods that do")
}

/// A path's `{target}`: a service, and for POST a verb behind a colon (the router knows no suffixes).
struct Target(String);

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Target, Problem> {
        let unreadable =
            |rejection: PathRejection| super::problem::BAD_PATH.because(rejection.body_text(), "percent-encode UTF-8");
        let Path(target) = Path::<String>::from_request_parts(parts, state).await.map_err(unreadable)?;
        Ok(Target(target))
    }
}

pub fn checked(name: &str) -> Result<ServiceName, Problem> {
    ServiceName::new(name).map_err(|_| no_such_service(name))
}

fn no_such_service(name: &str) -> Problem {
    NO_SUCH_SERVICE.because(format!("there is no service `{name}`"), "`GET /v1/services` lists the services")
}

/// With the strong `ETag` that `If-Match` is compared with.
pub fn tagged(revision: u64, body: impl serde::Serialize) -> Response {
    let tag = HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits and quotes fit a header");
    ([(header::ETAG, tag)], Json(body)).into_response()
}
