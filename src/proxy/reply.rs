//! The answers we make ourselves, when no endpoint did.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::headers::{Unfit, X_REQUEST_ID};
use crate::domain::error_pages::ErrorPages;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why a request was not answered by an endpoint. Each has its status, and its error type of RFC 9209.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NoRoute,
    /// The route's lists of addresses say so.
    Denied,
    /// The path became too long when the route rewrote it.
    LongTarget,
    NoEndpoint,
    /// All endpoints are at their limits.
    LimitReached,
    ConnectionRefused,
    ConnectionTimeout,
    ConnectionTerminated,
    MalformedResponse,
    ResponseTimeout,
    RequestTimeout,
    /// The request's body broke off or was malformed.
    BadBody,
    /// The client has asked more often than it may; again after so many seconds.
    RateLimited(u32),
    /// The service is paused, and no more requests may wait for it.
    HoldFull,
    /// The service was paused for longer than a request waits.
    HoldLate,
    /// The service is paused, and we stop.
    HoldStopping,
    /// Asked for over a connection that is for another name.
    Misdirected,
    Unfit(Unfit),
}

impl Fault {
    /// `wait`: until the client's next request passes.
    #[must_use]
    pub fn rate_limited(wait: Duration) -> Fault {
        let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Fault::RateLimited(u32::try_from(whole.max(1)).unwrap_or(u32::MAX))
    }

    /// In seconds.
    fn retry_after(self) -> Option<u32> {
        match self {
            Fault::RateLimited(seconds) => Some(seconds),
            fault => (fault.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Fault::NoRoute => StatusCode::NOT_FOUND,
            Fault::Denied => StatusCode::FORBIDDEN,
            Fault::LongTarget => StatusCode::URI_TOO_LONG,
            Fault::NoEndpoint | Fault::LimitReached | Fault::HoldFull | Fault::HoldLate | Fault::HoldStopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Fault::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Fault::ConnectionRefused | Fault::ConnectionTerminated | Fault::MalformedResponse => {
                StatusCode::BAD_GATEWAY
            }
            Fault::ConnectionTimeout | Fault::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Fault::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Fault::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Fault::Unfit(Unfit::Connect) => StatusCode::NOT_IMPLEMENTED,
            Fault::Unfit(Unfit::Loop) => StatusCode::LOOP_DETECTED,
            Fault::Unfit(_) | Fault::BadBody => StatusCode::BAD_REQUEST,
        }
    }

    /// The error type of RFC 9209 §2.3.
    #[must_use]
    pub fn error(self) -> &'static str {
        match self {
            Fault::NoRoute => "destination_not_found",
            Fault::Denied | Fault::RateLimited(_) => "http_request_denied",
            Fault::NoEndpoint | Fault::HoldFull | Fault::HoldLate | Fault::HoldStopping => "destination_unavailable",
            Fault::LimitReached => "connection_limit_reached",
            Fault::ConnectionRefused => "connection_refused",
            Fault::ConnectionTimeout => "connection_timeout",
            Fault::ConnectionTerminated => "connection_terminated",
            Fault::MalformedResponse => "http_protocol_error",
            Fault::ResponseTimeout => "http_response_timeout",
            Fault::Unfit(Unfit::Loop) => "proxy_loop_detected",
            Fault::RequestTimeout | Fault::BadBody | Fault::LongTarget | Fault::Misdirected | Fault::Unfit(_) => {
                "http_request_error"
            }
        }
    }

    /// For the client: what happened, nothing about whom.
    fn detail(self) -> Cow<'static, str> {
        match self {
            Fault::NoRoute => "no service answers to this host and path".into(),
            Fault::Denied => "this address may not ask for this".into(),
            Fault::LongTarget => "the request's target is too long".into(),
            Fault::NoEndpoint => "the service has no endpoint to answer right now; try again shortly".into(),
            Fault::RateLimited(seconds) => format!("too many requests; try again in {seconds} s").into(),
            Fault::HoldFull | Fault::HoldLate => "the service is paused for a moment; try again shortly".into(),
            Fault::HoldStopping => "the server is stopping; try again shortly".into(),
            Fault::LimitReached => "the service has as much to do as it may have; try again shortly".into(),
            Fault::ConnectionRefused => "the service does not accept connections".into(),
            Fault::ConnectionTimeout => "the service did not accept a connection in time".into(),
            Fault::ConnectionTerminated => "the service ended the connection before it answered".into(),
            Fault::MalformedResponse => "the service's answer was not valid HTTP".into(),
            Fault::ResponseTimeout => "the service did not answer in time".into(),
            Fault::RequestTimeout => "the request did not arrive in time".into(),
            Fault::BadBody => "the request's body could not be read".into(),
            Fault::Misdirected => "this connection is for another host; ask over a new one".into(),
            Fault::Unfit(unfit) => unfit.to_string().into(),
        }
    }

    /// After which the client's connection is not to be used again: what follows on it cannot be trusted.
    fn ends_connection(self) -> bool {
        matches!(self, Fault::Unfit(_) | Fault::BadBody | Fault::RequestTimeout)
    }
}

/// The form of an error that the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Problem,
    Page,
    Text,
}

impl Form {
    /// Negotiates by `Accept`, roughly: browsers name HTML, programs JSON or nothing, `curl` anything.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Form {
        let accept = headers.get(header::ACCEPT).map_or(&b"*/*"[..], HeaderValue::as_bytes);
        let named = |kind: &[u8]| accept.split(|byte| *byte == b',').any(|range| range.trim_ascii().starts_with(kind));
        if named(b"text/html") {
            Form::Page
        } else if named(b"text/plain") && !named(b"application/json") && !named(b"application/problem+json") {
            Form::Text
        } else {
            Form::Problem
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::Problem => "application/problem+json",
            Form::Page => "text/html; charset=utf-8",
            Form::Text => "text/plain; charset=utf-8",
        }
    }
}

/// RFC 9457.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    request_id: &'a str,
}

/// Our own answer to a request that no endpoint answered; the fault is among its extensions.
#[must_use]
pub fn fault(fault: Fault, form: Form, request_id: &HeaderValue) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body(fault, form, request_id))));
    *response.status_mut() = fault.status();
    response.extensions_mut().insert(fault);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, request_id.clone());
    if let Ok(status) = HeaderValue::try_from(format!("penstock; error={}", fault.error())) {
        headers.insert(PROXY_STATUS, status);
    }
    if let Some(seconds) = fault.retry_after() {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if fault.ends_connection() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Our own answer with the service's page for it, if it has one and the client wants to see a page.
#[must_use]
pub fn with_page(response: Response<Full<Bytes>>, form: Form, pages: &ErrorPages) -> Response<Full<Bytes>> {
    match pages.of(response.status()).filter(|_| form == Form::Page) {
        Some(page) => response.map(|_| Full::new(page.html.clone())),
        None => response,
    }
}

/// Sends the client elsewhere, without a body: whoever follows it does not read one.
#[must_use]
pub fn redirect(status: StatusCode, location: HeaderValue, request_id: &HeaderValue) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(X_REQUEST_ID, request_id.clone());
    response
}

fn body(fault: Fault, form: Form, request_id: &HeaderValue) -> String {
    let status = fault.status();
    let (title, detail) = (status.canonical_reason().unwrap_or("Error"), fault.detail());
    let request_id = request_id.to_str().unwrap_or("");
    match form {
        Form::Problem => {
            let problem =
                Problem { r#type: "about:blank", title, status: status.as_u16(), detail: &detail, request_id };
            serde_json::to_string(&problem).unwrap_or_default()
        }
        Form::Page => format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{code} {title}</title>\
             <h1>{code} {title}</h1><p>{detail}</p><p><small>Request {request_id}</small></p></html>\n",
            code = status.as_u16()
        ),
        Form::Text => format!("{} {title}: {detail}\nrequest {request_id}\n", status.as_u16()),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(response: Response<Full<Bytes>>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_error_says_what_without_saying_whom() {
        let response = fault(Fault::ConnectionRefused, Form::Problem, &HeaderValue::from_static("id-1"));
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers()["proxy-status"], "penstock; error=connection_refused");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-request-id"], "id-1");
        let problem: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!((problem["status"].as_u64(), problem["title"].as_str()), (Some(502), Some("Bad Gateway")));
    }

    #[tokio::test]
    async fn the_form_follows_accept() {
        let form = |accept: &'static str| {
            Form::of(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert_eq!(form("text/html,application/xhtml+xml,*/*;q=0.8"), Form::Page);
        assert_eq!(form("application/json"), Form::Problem);
        assert_eq!(form("*/*"), Form::Problem);
        assert_eq!(form("text/plain"), Form::Text);
        assert_eq!(Form::of(&HeaderMap::new()), Form::Problem);
        let page = text(fault(Fault::NoRoute, Form::Page, &HeaderValue::from_static("id"))).await;
        assert!(page.contains("<h1>404 Not Found</h1>"));
    }

    #[test]
    fn a_client_that_asks_too_often_is_told_when_to_ask_again() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (59_500, "60")] {
            let limited = Fault::rate_limited(Duration::from_millis(millis));
            let response = fault(limited, Form::Problem, &HeaderValue::from_static("id"));
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()["retry-after"], seconds);
            assert_eq!(response.headers()["proxy-status"], "penstock; error=http_request_denied");
        }
    }

    #[test]
    fn what_cannot_be_trusted_ends_the_connection() {
        let id = HeaderValue::from_static("id");
        assert_eq!(fault(Fault::Unfit(Unfit::Framing), Form::Text, &id).headers()["connection"], "close");
        assert!(!fault(Fault::NoEndpoint, Form::Text, &id).headers().contains_key("connection"));
        assert_eq!(fault(Fault::NoEndpoint, Form::Text, &id).headers()["retry-after"], "1");
    }
}
