//! Who may talk to the admin listener at all.
//!
//! A loopback address keeps other machines out, not the web pages that a person on this machine visits. A page can make
//! the browser send requests here; a name that its owner points at 127.0.0.1 even lets it read the answers (DNS
//! rebinding). Hence: only hosts that we know, no foreign origin, and a media type that a form cannot send.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;

use super::problem::{BAD_HEADER, FOREIGN, MISDIRECTED, NOT_JSON, Problem, TOO_SLOW};

/// From the request head to the response head: longer than we wait for the engine, so it is a slow body that ends here.
const DEADLINE: Duration = Duration::from_secs(10);

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The hosts that this listener answers to.
#[derive(Debug, Clone)]
pub struct Hosts(Arc<BTreeSet<String>>);

impl Hosts {
    pub fn of(bound: SocketAddr) -> Hosts {
        // The bound address as a URL spells it: brackets round IPv6.
        let own = SocketAddr::new(bound.ip(), 0).to_string();
        let own = own.trim_end_matches(":0");
        let names = ["localhost", "127.0.0.1", "[::1]", own];
        let spellings = |name: &str| [name.to_owned(), format!("{name}:{}", bound.port())];
        Hosts(Arc::new(names.into_iter().flat_map(spellings).collect()))
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        let host = one(headers, &header::HOST)?.unwrap_or_default();
        let authority = request.uri().authority().map_or(host, |authority| authority.as_str());
        if !self.know(host) || !self.know(authority) {
            let known: Vec<&str> = self.0.iter().map(String::as_str).collect();
            let detail = format!("this listener does not answer to the host `{host}`");
            return Err(MISDIRECTED.because(detail, format!("use one of {}", known.join(", "))));
        }
        same_origin(headers, host)?;
        json_or_nothing(request)
    }

    fn know(&self, host: &str) -> bool {
        self.0.contains(&host.to_ascii_lowercase())
    }
}

/// Lets through what may come in, within the deadline, and marks every answer as not to be kept.
pub async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let answer = match hosts.check(&request) {
        Ok(()) => tokio::time::timeout(DEADLINE, next.run(request)).await.unwrap_or_else(|_| too_slow()),
        Err(problem) => problem.into_response(),
    };
    not_to_be_kept(answer)
}

fn too_slow() -> Response {
    let detail = format!("the request was not complete within {} s", DEADLINE.as_secs());
    TOO_SLOW.because(detail, "send it again").into_response()
}

fn not_to_be_kept(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// A browser names the page that makes it send something; other clients say nothing.
fn same_origin(headers: &HeaderMap, host: &str) -> Result<(), Problem> {
    let own = format!("http://{host}");
    let origin = one(headers, &header::ORIGIN)?.is_none_or(|origin| origin.eq_ignore_ascii_case(&own));
    let site = one(headers, &SEC_FETCH_SITE)?.is_none_or(|site| matches!(site, "same-origin" | "none"));
    if origin && site {
        return Ok(());
    }
    let help = "web pages of other origins may not use this API; use the command line, or curl";
    Err(FOREIGN.because("the request names another origin than this listener", help))
}

/// A form can send a body with any of three media types; none of them is JSON.
fn json_or_nothing(request: &Request) -> Result<(), Problem> {
    let media_type = one(request.headers(), &header::CONTENT_TYPE)?;
    if request.body().is_end_stream() || media_type.is_some_and(is_json) {
        return Ok(());
    }
    Err(NOT_JSON
        .because("the request has a body that is not declared as JSON", "send `Content-Type: application/json`"))
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// The value of a field that may be there once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next().map(HeaderValue::to_str), values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(value)), None) => Ok(Some(value)),
        _ => Err(BAD_HEADER.because(format!("`{name}` is there twice, or is not text"), "send it once")),
    }
}
