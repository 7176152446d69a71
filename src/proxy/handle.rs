//! The spine of the data plane: check, route, choose, forward.

use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use uuid::fmt::Hyphenated;

use super::access::Access;
use super::admission::{Admitted, admit};
use super::body::Outgoing;
use super::cookies;
use super::forward::{Call, forward};
use super::headers::{self, Client, Unfit};
use super::permits::Picking;
use super::reply::{self, Fault, Form};
use super::timed::Timed;
use super::upstream::Upload;
use super::worker::Worker;
use crate::domain::action::Actions;
use crate::domain::error_pages::ErrorPages;
use crate::domain::route::Facts;
use crate::domain::snapshot::Service;
use crate::domain::split::Choice;
use crate::domain::time::Moment;

/// Answers one request.
pub async fn handle(worker: &Rc<Worker>, client: &Client, request: Request<Incoming>) -> Response<Outgoing> {
    let (arrived, request_id) = (worker.now(), worker.request_id());
    let (parts, body) = request.into_parts();
    let access = Access::begin(worker, client, &parts, arrived, &request_id);
    let mut timed = Timed::begin(worker, client, &parts, arrived);
    let form = Form::of(&parts.headers);
    let response = match route(worker, client, &request_id, parts, arrived, access.as_deref()).await {
        Ok(Routed { parts, service, choice, picking, actions, arrived }) => {
            timed.chosen(service.versions[choice.version].id);
            let upload = Upload::new(body, &worker.deadlines);
            if let Some(access) = &access {
                access.uploads(upload.progress());
            }
            let (access, pages) = (access.clone(), service.error_pages.clone());
            let cookie = service.split.set_cookie(&choice);
            let call = Call { worker: worker.clone(), service, choice, picking, arrived, request_id, form, access };
            let mut response = forward(call, Request::from_parts(parts, upload)).await;
            if let Some(cookie) = cookie {
                cookies::give(&mut response, &cookie);
            }
            finished(response, form, &pages, actions.as_deref())
        }
        Err(unrouted) => {
            if let (Some(access), Unrouted::Fault(fault, _)) = (&access, &unrouted) {
                access.failed(fault.error());
            }
            unrouted.answer(form, &request_id).map(Outgoing::own)
        }
    };
    timed.answered(&response);
    if let Some(access) = &access {
        access.answered(response.status(), response.body().is_end_stream());
    }
    response.map(|body| body.logged(access).timed(timed))
}

/// A request that is fit for an endpoint.
struct Routed {
    parts: Parts,
    service: Arc<Service>,
    choice: Choice,
    picking: Picking,
    actions: Option<Arc<Actions>>,
    /// When its coin fell.
    arrived: Moment,
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

/// Finds a request's service and version, and makes it fit for an endpoint. Returns the moment that its version was
/// chosen at as well: a request may have been held until then.
async fn route(
    worker: &Worker,
    client: &Client,
    request_id: &HeaderValue,
    mut parts: Parts,
    mut arrived: Moment,
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
    let (mut service, mut choice, mut picking, mut actions) = choose(worker, client, &parts, authority.as_ref())?;
    let admitted = admit(worker, client, &parts.headers, &service).await;
    if admitted.map_err(|fault| Unrouted::Fault(fault, service.error_pages.clone()))? == Admitted::Held {
        (service, choice, picking, actions) = choose(worker, client, &parts, authority.as_ref())?;
        arrived = worker.now(); // its coin fell only now
    }
    choice = choice.within(service.cap.as_deref(), &service.split, arrived);
    if let Some(access) = access {
        access.chosen(authority.as_ref(), &service, choice);
    }
    cookies::strip_ours(&mut parts.headers, &service);
    headers::forward(&mut parts.headers, client, parts.version, authority.as_ref(), request_id.clone());
    parts.uri = origin_form(parts.uri);
    parts.version = http::Version::HTTP_11;
    parts.extensions.clear();
    if let Some(actions) = &actions {
        act(actions, &mut parts).map_err(|fault| Unrouted::Fault(fault, service.error_pages.clone()))?;
    }
    Ok(Routed { parts, service, choice, picking, actions, arrived })
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
        client: client.ip(),
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
    if uri.authority().is_none() && uri.scheme().is_none() && !uri.path().is_empty() {
        return uri; // as nearly all of them come
    }
    let root = || PathAndQuery::from_static("/");
    let mut parts = uri.into_parts();
    (parts.scheme, parts.authority) = (None, None);
    parts.path_and_query = Some(parts.path_and_query.filter(|path| !path.as_str().is_empty()).unwrap_or_else(root));
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(root()))
}

/// A request id, new for every request: nobody is trusted yet to bring one. A hundred of them share an allocation of
/// `memory`'s.
pub fn request_id(unix_ms: u64, random: [u8; 10], memory: &mut BytesMut) -> HeaderValue {
    let id = uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid();
    let mut text = [0; Hyphenated::LENGTH];
    id.hyphenated().encode_lower(&mut text);
    if memory.capacity() < text.len() {
        *memory = BytesMut::with_capacity(100 * text.len());
    }
    memory.extend_from_slice(&text);
    HeaderValue::from_maybe_shared(memory.split().freeze()).expect("hexadecimal digits and hyphens")
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
        let mut memory = BytesMut::new();
        for _ in 0..300 {
            let id = request_id(1_700_000_000_000, [0xff; 10], &mut memory);
            assert_eq!(id, "018bcfe5-6800-7fff-bfff-ffffffffffff");
        }
    }
}
