//! `/v1/services/{service}/versions` and below: versions and their endpoints as they are, and what persons change of
//! them at run time.
//!
//! What takes traffic away (`draining`, `maintenance`, DELETE) needs no `If-Match` and is refused only where clients
//! would be left without anybody: `?force=true` does that as well.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::Uri;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::get;
use serde::de::DeserializeOwned;

use super::api::{Api, checked, tagged};
use super::body::Body;
use super::caller::Caller;
use super::problem::{BAD_PATH, NO_SUCH_ENDPOINT, NO_SUCH_VERSION, Problem};
use super::wire::{
    Beside, Endpoint, EndpointChanged, EndpointPatch, EndpointPut, Endpoints, ListedEndpoint, Version, VersionChanged,
    VersionPut, Versions,
};
use crate::control::command::{Done, Run};
use crate::control::engine::Resolved;
use crate::control::resolver::resolve;
use crate::control::view::{EndpointView, ServiceView, VersionView};
use crate::domain::amendments::{Listed, Request};
use crate::domain::authority::Authority;
use crate::domain::health::Administrative;
use crate::domain::names::{ServiceName, VersionName};
use crate::domain::service::EndpointDefinition;

pub fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/services/{service}/versions", get(versions))
        .route("/v1/services/{service}/versions/{version}", get(version).put(put_version).delete(remove_version))
        .route("/v1/services/{service}/versions/{version}/endpoints", get(endpoints))
        .route(
            "/v1/services/{service}/versions/{version}/endpoints/{endpoint}",
            get(endpoint).put(put_endpoint).delete(remove_endpoint).patch(patch_endpoint),
        )
}

async fn versions(State(api): State<Api>, At(name): At<String>) -> Result<Response, Problem> {
    let service = api.service(&checked(&name)?)?;
    let beside = Beside::of(&api.control);
    let versions = service.versions.iter().map(|version| Version::of(&service, version, &beside)).collect();
    let revision = service.revision;
    Ok(tagged(revision, Versions { service: service.name.clone(), revision, versions }))
}

async fn version(State(api): State<Api>, At((service, version)): At<(String, String)>) -> Result<Response, Problem> {
    let service = api.service(&checked(&service)?)?;
    let found = find(&service, &version)?;
    Ok(tagged(service.revision, Version::of(&service, found, &Beside::of(&api.control))))
}

async fn endpoints(State(api): State<Api>, At((service, version)): At<(String, String)>) -> Result<Response, Problem> {
    let service = api.service(&checked(&service)?)?;
    let found = find(&service, &version)?;
    let beside = Beside::of(&api.control);
    let endpoints = found.endpoints.iter().map(|endpoint| Endpoint::of(endpoint, &service.drawn, &beside)).collect();
    let (service, revision) = (service.name.clone(), service.revision);
    Ok(tagged(revision, Endpoints { service, version: found.name.clone(), revision, endpoints }))
}

async fn endpoint(State(api): State<Api>, At(path): At<(String, String, String)>) -> Result<Response, Problem> {
    let (service, version, endpoint) = path;
    let service = api.service(&checked(&service)?)?;
    let found = find(&service, &version)?;
    let listed = listed(found, &endpoint).ok_or_else(|| no_such_endpoint(&found.name, &endpoint))?;
    Ok(tagged(service.revision, Endpoint::of(listed, &service.drawn, &Beside::of(&api.control))))
}

async fn patch_endpoint(
    State(api): State<Api>,
    At(path): At<(String, String, String)>,
    Forced(force): Forced,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    let place = Place::of(&api, &path)?;
    let EndpointPatch { state: to } = body.json("{\"state\":\"draining\"}, or `maintenance`, or `ready`")?;
    let endpoint = place.endpoint.clone().ok_or_else(|| no_such_endpoint(&place.version, &path.2))?;
    let request = Request::State { version: place.version.clone(), endpoint, to, force };
    place.amend(&api, request, Vec::new(), caller).await
}

async fn put_endpoint(
    State(api): State<Api>,
    At(path): At<(String, String, String)>,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    let place = Place::of(&api, &path)?;
    let EndpointPut { weight } = body.json_if_any("{\"weight\":3}, or nothing")?;
    let weight = weighed("/weight", weight.unwrap_or(EndpointDefinition::DEFAULT_WEIGHT))?;
    let endpoint = Authority::parse(&path.2).map_err(|error| {
        Problem::field("", format!("`{}` {error}", path.2), "name it `host:port`, percent-encoded in the path")
    })?;
    let resolved = look_up(&api, std::slice::from_ref(&endpoint)).await?;
    let request = Request::PutEndpoint { version: place.version.clone(), endpoint, weight };
    place.amend(&api, request, resolved, caller).await
}

async fn remove_endpoint(
    State(api): State<Api>,
    At(path): At<(String, String, String)>,
    Forced(force): Forced,
    caller: Caller,
) -> Result<Response, Problem> {
    let place = Place::of(&api, &path)?;
    let endpoint = place.endpoint.clone().ok_or_else(|| no_such_endpoint(&place.version, &path.2))?;
    let request = Request::RemoveEndpoint { version: place.version.clone(), endpoint, force };
    place.amend(&api, request, Vec::new(), caller).await
}

async fn put_version(
    State(api): State<Api>,
    At((service, version)): At<(String, String)>,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    let (service, version) = (checked(&service)?, new_name(&version)?);
    api.service(&service)?;
    let VersionPut { endpoints } = body.json("{\"endpoints\":[\"127.0.0.1:9003\"]}")?;
    let endpoints = distinct(endpoints)?;
    let authorities: Vec<Authority> = endpoints.iter().map(|listed| listed.endpoint.clone()).collect();
    let resolved = look_up(&api, &authorities).await?;
    amend_version(&api, &service, version.clone(), Request::PutVersion { version, endpoints }, resolved, caller).await
}

async fn remove_version(
    State(api): State<Api>,
    At((service, version)): At<(String, String)>,
    caller: Caller,
) -> Result<Response, Problem> {
    let service = checked(&service)?;
    api.service(&service)?;
    let version = VersionName::new(&version).map_err(|_| no_such_version(&version))?;
    let request = Request::RemoveVersion { version: version.clone() };
    amend_version(&api, &service, version, request, Vec::new(), caller).await
}

/// What a request is about.
struct Place {
    service: ServiceName,
    version: VersionName,
    /// As it is written; `None`: no endpoint can be called that.
    endpoint: Option<Authority>,
}

impl Place {
    /// The service and the version exist.
    fn of(api: &Api, (service, version, endpoint): &(String, String, String)) -> Result<Place, Problem> {
        let service = api.service(&checked(service)?)?;
        let version = find(&service, version)?.name.clone();
        Ok(Place { service: service.name.clone(), version, endpoint: Authority::parse(endpoint).ok() })
    }

    async fn amend(
        self,
        api: &Api,
        request: Request,
        resolved: Vec<Resolved>,
        caller: Caller,
    ) -> Result<Response, Problem> {
        let endpoint = named(&request);
        let dry_run = caller.run == Run::Dry;
        let Done { changed, durable, .. } = amend(api, &self.service, request, resolved, caller).await?;
        let service = api.service(&self.service)?;
        let found = service.versions.iter().find(|version| version.name == self.version);
        let listed = found.and_then(|version| listed(version, endpoint.as_str()));
        let (revision, durable) = (service.revision, api.durable(durable));
        let endpoint = listed.map(|endpoint| Endpoint::of(endpoint, &service.drawn, &Beside::of(&api.control)));
        let (service, version) = (self.service, self.version);
        Ok(tagged(revision, EndpointChanged { changed, durable, dry_run, service, version, revision, endpoint }))
    }
}

/// The endpoint that a request names, for its answer.
fn named(request: &Request) -> String {
    match request {
        Request::State { endpoint, .. }
        | Request::PutEndpoint { endpoint, .. }
        | Request::RemoveEndpoint { endpoint, .. } => endpoint.to_string(),
        Request::PutVersion { .. } | Request::RemoveVersion { .. } => String::new(),
    }
}

async fn amend_version(
    api: &Api,
    name: &ServiceName,
    version: VersionName,
    request: Request,
    resolved: Vec<Resolved>,
    caller: Caller,
) -> Result<Response, Problem> {
    let dry_run = caller.run == Run::Dry;
    let Done { changed, durable, .. } = amend(api, name, request, resolved, caller).await?;
    let service = api.service(name)?;
    let found = service.versions.iter().find(|known| known.name == version);
    let (revision, durable) = (service.revision, api.durable(durable));
    let version = found.map(|version| Version::of(&service, version, &Beside::of(&api.control)));
    Ok(tagged(revision, VersionChanged { changed, durable, dry_run, service: name.clone(), revision, version }))
}

async fn amend(
    api: &Api,
    name: &ServiceName,
    request: Request,
    resolved: Vec<Resolved>,
    caller: Caller,
) -> Result<Done, Problem> {
    let what = words(&request);
    let ask = |Caller { actor, precondition, run, .. }| {
        api.control.amend(name.clone(), request, resolved, precondition, run, actor)
    };
    api.answered(name, &what, caller, ask).await
}

/// For the log.
fn words(request: &Request) -> String {
    match request {
        Request::State { version, endpoint, to, force } => {
            let force = if *force && *to != Administrative::Ready { ", by force" } else { "" };
            format!("{endpoint} of {version} {}{force}", to.as_str())
        }
        Request::PutEndpoint { version, endpoint, weight } => format!("put {endpoint} of {version}, weight {weight}"),
        Request::RemoveEndpoint { version, endpoint, .. } => format!("remove {endpoint} of {version}"),
        Request::PutVersion { version, .. } => format!("put version {version}"),
        Request::RemoveVersion { version } => format!("remove version {version}"),
    }
}

/// Where endpoints lead: somewhere, and not back to ourselves.
async fn look_up(api: &Api, endpoints: &[Authority]) -> Result<Vec<Resolved>, Problem> {
    let names: BTreeSet<Arc<str>> = endpoints.iter().map(|endpoint| endpoint.text.clone()).collect();
    let (own, mut found) = (api.control.config().own.clone(), Vec::new());
    for result in resolve(&names).await {
        let resolved = result.map_err(|name| {
            Problem::field(
                "",
                format!("`{name}` has no address"),
                "add it to the name service first, or name its address",
            )
        })?;
        let leads_back = |address: &std::net::SocketAddr| {
            let there = Authority::parse(&address.to_string());
            there.is_ok_and(|there| own.iter().any(|own| there.reaches(*own)))
        };
        if resolved.addresses.iter().any(leads_back) {
            let detail =
                format!("`{}` is Penstock itself: requests would go in circles, or reach this API", resolved.authority);
            return Err(Problem::field("", detail, "name the address of the version itself"));
        }
        found.push(resolved);
    }
    Ok(found)
}

fn distinct(endpoints: Vec<ListedEndpoint>) -> Result<Vec<Listed>, Problem> {
    let mut distinct: Vec<Listed> = Vec::new();
    for (index, listed) in endpoints.into_iter().enumerate() {
        let (endpoint, weight) = match listed {
            ListedEndpoint::Address(address) => (address, EndpointDefinition::DEFAULT_WEIGHT),
            ListedEndpoint::Weighed { address, weight } => (address, weight),
        };
        let weight = weighed(&format!("/endpoints/{index}/weight"), weight)?;
        if distinct.iter().any(|known| known.endpoint.is(&endpoint)) {
            let pointer = format!("/endpoints/{index}");
            return Err(Problem::field(pointer, format!("`{endpoint}` is listed twice"), "remove one of them"));
        }
        distinct.push(Listed { endpoint, weight });
    }
    Ok(distinct)
}

fn weighed(pointer: &str, weight: u32) -> Result<u32, Problem> {
    if (1..=MOST_WEIGHT).contains(&weight) {
        return Ok(weight);
    }
    let help = "a share relative to the other endpoints of its version; to give it none, drain it";
    Err(Problem::field(pointer, format!("a weight is from 1 to {MOST_WEIGHT}"), help))
}

/// As in the file.
const MOST_WEIGHT: u32 = 1_000;

fn find<'a>(service: &'a ServiceView, version: &str) -> Result<&'a VersionView, Problem> {
    service.versions.iter().find(|known| known.name.as_str() == version).ok_or_else(|| no_such_version(version))
}

fn listed<'a>(version: &'a VersionView, endpoint: &str) -> Option<&'a EndpointView> {
    version.endpoints.iter().find(|listed| *listed.authority == *endpoint)
}

fn new_name(version: &str) -> Result<VersionName, Problem> {
    let help = "choose a name that fits URLs, metric labels and headers, and is not a role";
    if ["stable", "canary"].contains(&version) {
        return Err(Problem::field("", format!("a version cannot be called `{version}`"), help));
    }
    VersionName::new(version).map_err(|error| Problem::field("", error.to_string(), help))
}

fn no_such_version(version: &str) -> Problem {
    let help = "`GET /v1/services/{service}/versions` lists the versions";
    NO_SUCH_VERSION.because(format!("there is no version `{version}`"), help)
}

fn no_such_endpoint(version: &VersionName, endpoint: &str) -> Problem {
    let help = format!("`GET /v1/services/{{service}}/versions/{version}/endpoints` lists the endpoints");
    NO_SUCH_ENDPOINT.because(format!("version `{version}` has no endpoint `{endpoint}`"), help)
}

/// A path's parts, percent-decoded.
struct At<T>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<At<T>, Problem> {
        let unreadable = |rejection: PathRejection| BAD_PATH.because(rejection.body_text(), "percent-encode UTF-8");
        let Path(at) = Path::<T>::from_request_parts(parts, state).await.map_err(unreadable)?;
        Ok(At(at))
    }
}

/// Whether stable's last endpoint may be taken away.
struct Forced(bool);

impl<S: Sync> FromRequestParts<S> for Forced {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Forced, Problem> {
        forced(&parts.uri).map(Forced)
    }
}

/// Beside it, `dry_run=true` is read by [`Caller`].
fn forced(uri: &Uri) -> Result<bool, Problem> {
    let mut force = false;
    for pair in uri.query().unwrap_or_default().split('&') {
        match pair {
            "" | "force=false" | "dry_run=true" => {}
            "force=true" | "force" => force = true,
            odd => {
                let help = "`?force=true` and `?dry_run=true` are all there is";
                return Err(BAD_PATH.because(format!("`{odd}` means nothing here"), help));
            }
        }
    }
    Ok(force)
}
