//! The spine of the data plane: check, route, choose, forward.

use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, Uri};
use http_body::Body;
use hyper::body::Incoming;

use super::access::Access;
use super::body::Outgoing;
use super::forward::{Call, forward};
use super::headers::{self, Client};
use super::permits::Picking;
use super::reply::{self, Fault, Form};
use super::upstream::Upload;
use super::worker::Worker;
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
        Ok((parts, service, choice, picking)) => {
            let upload = Upload::new(body, &worker.deadlines);
            if let Some(access) = &access {
                access.uploads(upload.progress());
            }
            let access = access.clone();
            let call = Call { worker: worker.clone(), service, choice, picking, arrived, request_id, form, access };
            forward(call, Request::from_parts(parts, upload)).await
        }
        Err(fault) => {
            if let Some(access) = &access {
                access.failed(fault.error());
            }
            reply::fault(fault, form, &request_id).map(Outgoing::own)
        }
    };
    if let Some(access) = &access {
        access.answered(response.status(), response.body().is_end_stream());
    }
    response.map(|body| body.logged(access))
}

/// Finds a request's service and version, and makes it fit for an endpoint.
fn route(
    worker: &Worker,
    client: &Client,
    request_id: &HeaderValue,
    mut parts: Parts,
    access: Option<&Access>,
) -> Result<(Parts, Arc<Service>, Choice, Picking), Fault> {
    let authority = headers::check(&parts).map_err(Fault::Unfit)?;
    let (service, choice, key) = choose(worker, client, &parts, authority.as_ref()).ok_or(Fault::NoRoute)?;
    if let Some(access) = access {
        access.chosen(authority.as_ref(), &service, choice);
    }
    headers::forward(&mut parts.headers, client, authority.as_ref(), request_id.clone());
    parts.uri = origin_form(parts.uri);
    parts.version = http::Version::HTTP_11;
    parts.extensions.clear();
    Ok((parts, service, choice, Picking::by(key)))
}

/// Everything that is decided from one snapshot, without waiting in between.
fn choose(
    worker: &Worker,
    client: &Client,
    parts: &Parts,
    authority: Option<&Authority>,
) -> Option<(Arc<Service>, Choice, Option<u64>)> {
    let facts = Facts {
        host: authority.map_or("", Authority::host),
        path: match parts.uri.path() {
            "*" | "" => "/", // `OPTIONS *` is for the host as a whole
            path => path,
        },
        query: parts.uri.query(),
        headers: &parts.headers,
    };
    worker.with_snapshot(|snapshot| {
        let service = &snapshot.services[snapshot.router.route(&facts)?];
        let choice = service.split.choose(&facts, worker.draw());
        let key = service.versions[choice.version].pool.balancing.balance.key(client.ip(), &facts);
        Some((Arc::clone(service), choice, key))
    })
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
