//! The spine of the data plane: check, route, choose, forward.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;

use super::access::Access;
use super::body::Outgoing;
use super::forward::{Call, forward};
use super::headers::{self, Client, Unfit};
use super::permits::Picking;
use super::reply::{self, Fault, Form};
use super::upstream::Upload;
use super::worker::Worker;
use crate::domain::action::Actions;
use crate::domain::error_pages::ErrorPages;
use crate::domain::route::Facts;
use crate::domain::snapshot::Service;
use crate::domain::split::Choice;

/// Answers one request.
pub async fn handle(worker: &Rc<Worker>, client: &Client, request: Request<Incoming>) -> Response<Outgoing> {
    let (arrived, request_id) = (worker.now(), worker.request_id());
    let (parts, body) = request.into_parts();
    let access = Access::begin(worker, client, &parts, arrived, &request_id);
    let form = Form::of(&parts.headers);
    let response = match route(worker, client, &request_id, parts, access.as_deref()) {
        Ok(Routed { parts, service, choice, picking, actions }) => {
            let upload = Upload::new(body, &worker.deadlines);
            if let Some(access) = &access {
                access.uploads(upload.progress());
            }
            let (access, pages) = (access.clone(), service.error_pages.clone());
            let call = Call { worker: worker.clone(), service, choice, picking, arrived, request_id, form, access };
            let response = forward(call, Request::from_parts(parts, upload)).await;
            finished(response, form, &pages, actions.as_deref())
        }
        Err(unrouted) => {
            if let (Some(access), Unrouted::Fault(fault, _)) = (&access, &unrouted) {
                access.failed(fault.error());
            }
            unrouted.answer(form, &request_id).map(Outgoing::own)
        }
    };
    if let Some(access) = &access {
        access.answered(response.status(), response.body().is_end_stream());
    }
    response.map(|body| body.logged(access))
}

/// A request that is fit for an endpoint.
struct Routed {
    parts: Parts,
    service: Arc<Service>,
    choice: Choice,
    picking: Picking,
    actions: Option<Arc<Actions>>,
}

/// Why no endpoint is asked.
enum Unrouted {
    /// With the service's pages, once there is a service.
    Fault(Fault, ErrorPages),
    Redirect(StatusCode, HeaderValue),
}

impl From<Fault> for Unrouted {
    fn from(fault: Fault) -> Unrouted {
        Unrouted::Fault(fault, ErrorPages::default())
    }
}

impl Unrouted {
    fn answer(self, form: Form, request_id: &HeaderValue) -> Response<Full<Bytes>> {
        match self {
            Unrouted::Fault(fault, pages) => reply::with_page(reply::fault(fault, form, request_id), form, &pages),
            Unrouted::Redirect(status, location) => reply::redirect(status, location, request_id),
        }
    }
}

/// The same place, over TLS.
fn to_https(port: u16, parts: &Parts, authority: Option<&Authority>) -> Unrouted {
    let Some(host) = authority.map(Authority::host) else { return Fault::Unfit(Unfit::Host).into() };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let place = format!("https://{host}{port}{}", if path.starts_with('/') { path } else { "/" });
    match HeaderValue::try_from(place) {
        Ok(place) => Unrouted::Redirect(StatusCode::PERMANENT_REDIRECT, place),
        Err(_) => Fault::Unfit(Unfit::Host).into(),
    }
}

/// Finds a request's service and version, and makes it fit for an endpoint.
fn route(
    worker: &Worker,
    client: &Client,
    request_id: &HeaderValue,
    mut parts: Parts,
    access: Option<&Access>,
) -> Result<Routed, Unrouted> {
    let authority = headers::check(&parts).map_err(Fault::Unfit)?;
    if let Some(port) = client.redirect_to() {
        return Err(to_https(port, &parts, authority.as_ref()));
    }
    if let Some(authority) = &authority
        && client.is_misdirected(authority.host())
    {
        return Err(Fault::Misdirected.into());
    }
    let (service, choice, picking, actions) = choose(worker, client, &parts, authority.as_ref())?;
    if let Some(access) = access {
        access.chosen(authority.as_ref(), &service, choice);
    }
    headers::forward(&mut parts.headers, client, parts.version, authority.as_ref(), request_id.clone());
    parts.uri = origin_form(parts.uri);
    parts.version = http::Version::HTTP_11;
    parts.extensions.clear();
    if let Some(actions) = &actions {
        act(actions, &mut parts).map_err(|fault| Unrouted::Fault(fault, service.error_pages.clone()))?;
    }
    Ok(Routed { parts, service, choice, picking, actions })
}

type Chosen = (Arc<Service>, Choice, Picking, Option<Arc<Actions>>);

/// Everything that is decided from one snapshot, without waiting in between.
fn choose(worker: &Worker, client: &Client, parts: &Parts, authority: Option<&Authority>) -> Result<Chosen, Unrouted> {
    let facts = Facts {
        method: &parts.method,
        host: authority.map_or("", Authority::host),
        path: match parts.uri.path() {
            "*" | "" => "/", // `OPTIONS *` is for the host as a whole
            path => path,
        },
        query: parts.uri.query(),
        headers: &parts.headers,
    };
    worker.with_snapshot(|snapshot| {
        let rule = snapshot.router.route(&facts).ok_or(Fault::NoRoute)?;
        let service = &snapshot.services[rule.service];
        if snapshot.router.refusal(rule, &facts, client.ip()).is_some() {
            return Err(Unrouted::Fault(Fault::Denied, service.error_pages.clone()));
        }
        if let Some(elsewhere) = rule.actions.as_deref().and_then(|actions| actions.elsewhere(&facts)) {
            let location = HeaderValue::try_from(elsewhere.location).map_err(|_| Fault::LongTarget)?;
            return Err(Unrouted::Redirect(elsewhere.status, location));
        }
        let choice = service.split.choose(&facts, worker.draw());
        let key = service.versions[choice.version].pool.balancing.balance.key(client.ip(), &facts);
        Ok((Arc::clone(service), choice, Picking::by(key), rule.actions.clone()))
    })
}

/// What the route changes about a request that is otherwise ready for an endpoint.
fn act(actions: &Actions, parts: &mut Parts) -> Result<(), Fault> {
    if let Some(rewrite) = actions.rewrite.as_ref().filter(|_| parts.uri.path() != "*") {
        let mut target = rewrite.apply(parts.uri.path());
        if let Some(query) = parts.uri.query() {
            target.push('?');
            target.push_str(query);
        }
        parts.uri = Uri::from(PathAndQuery::try_from(target).map_err(|_| Fault::LongTarget)?);
    }
    actions.request_headers.apply(&mut parts.headers);
    Ok(())
}

/// The answer as the route and the service want it.
fn finished(
    response: Response<Outgoing>,
    form: Form,
    pages: &ErrorPages,
    actions: Option<&Actions>,
) -> Response<Outgoing> {
    let relayed = |headers: &mut HeaderMap| {
        if let Some(actions) = actions {
            actions.response_headers.apply(headers);
        }
    };
    Outgoing::finished(response, relayed, |own| reply::with_page(own, form, pages))
}

/// RFC 9112 §3.2.1: an origin server is asked by path and query alone.
fn origin_form(uri: Uri) -> Uri {
    let root = || PathAndQuery::from_static("/");
    let mut parts = uri.into_parts();
    (parts.scheme, parts.authority) = (None, None);
    parts.path_and_query = Some(parts.path_and_query.filter(|path| !path.as_str().is_empty()).unwrap_or_else(root));
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(root()))
}

/// A request id, new for every request: nobody is trusted yet to bring one.
pub fn request_id(unix_ms: u64, random: [u8; 10]) -> HeaderValue {
    let id = uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid();
    let mut buffer = uuid::Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut buffer)).expect("hexadecimal digits and hyphens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_asked_by_path_and_query_alone() {
        for (target, origin) in [
            ("/a?b=c", "/a?b=c"),
            ("http://host/a", "/a"),
            ("http://host", "/"),
            ("*", "*"),
            ("http://u@h:1/x?y", "/x?y"),
        ] {
            assert_eq!(origin_form(target.parse().unwrap()).to_string(), origin);
        }
    }

    #[test]
    fn a_request_id_is_a_uuid_of_version_7() {
        let id = request_id(1_700_000_000_000, [0xff; 10]);
        assert_eq!(id, "018bcfe5-6800-7fff-bfff-ffffffffffff");
    }
}
