//! The spine of the data plane: check, route, choose, forward.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderValue;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;

use super::access::Access;
use super::body::Outgoing;
use super::forward::{Call, forward};
use super::headers::{self, Client, Unfit};
use super::reply::{self, Fault, Form};
use super::timed::Timed;
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
    let mut timed = Timed::begin(worker, client, &parts, arrived);
    let form = Form::of(&parts.headers);
    if let Some(port) = client.redirect_to() {
        let response = to_https(port, &parts, form, &request_id).map(Outgoing::own);
        if let Some(access) = &access {
            access.answered(response.status(), response.body().is_end_stream());
        }
        return response.map(|body| body.logged(access));
    }
    let response = match route(worker, client, &request_id, parts, access.as_deref()) {
        Ok((parts, service, choice)) => {
            timed.chosen(service.versions[choice.version].id);
            let upload = Upload::new(body, &worker.deadlines);
            if let Some(access) = &access {
                access.uploads(upload.progress());
            }
            let access = access.clone();
            let call = Call { worker: worker.clone(), service, choice, arrived, request_id, form, access };
            forward(call, Request::from_parts(parts, upload)).await
        }
        Err(fault) => {
            if let Some(access) = &access {
                access.failed(fault.error());
            }
            reply::fault(fault, form, &request_id).map(Outgoing::own)
        }
    };
    timed.answered(&response);
    if let Some(access) = &access {
        access.answered(response.status(), response.body().is_end_stream());
    }
    response.map(|body| body.logged(access).timed(timed))
}

/// The same place, over TLS.
fn to_https(port: u16, parts: &Parts, form: Form, request_id: &HeaderValue) -> Response<Full<Bytes>> {
    let place = headers::check(parts).map(|authority| {
        let host = authority.as_ref().map(Authority::host)?;
        let port = if port == 443 { String::new() } else { format!(":{port}") };
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        Some(format!("https://{host}{port}{}", if path.starts_with('/') { path } else { "/" }))
    });
    match place {
        Ok(Some(place)) => reply::redirect(&place, request_id),
        Ok(None) => reply::fault(Fault::Unfit(Unfit::Host), form, request_id),
        Err(unfit) => reply::fault(Fault::Unfit(unfit), form, request_id),
    }
}

/// Finds a request's service and version, and makes it fit for an endpoint.
fn route(
    worker: &Worker,
    client: &Client,
    request_id: &HeaderValue,
    mut parts: Parts,
    access: Option<&Access>,
) -> Result<(Parts, Arc<Service>, Choice), Fault> {
    let authority = headers::check(&parts).map_err(Fault::Unfit)?;
    if let Some(authority) = &authority
        && client.is_misdirected(authority.host())
    {
        return Err(Fault::Misdirected);
    }
    let (service, choice) = choose(worker, &parts, authority.as_ref()).ok_or(Fault::NoRoute)?;
    if let Some(access) = access {
        access.chosen(authority.as_ref(), &service, choice);
    }
    headers::forward(&mut parts.headers, client, parts.version, authority.as_ref(), request_id.clone());
    parts.uri = origin_form(parts.uri);
    parts.version = http::Version::HTTP_11;
    parts.extensions.clear();
    Ok((parts, service, choice))
}

/// Everything that is decided from one snapshot, without waiting in between.
fn choose(worker: &Worker, parts: &Parts, authority: Option<&Authority>) -> Option<(Arc<Service>, Choice)> {
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
        Some((Arc::clone(service), service.split.choose(&facts, worker.draw())))
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
