//! Penstock's own cookie on its way: no endpoint sees it, and a client gets it where no cache would hand it on.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::domain::cookie;
use crate::domain::snapshot::Service;

/// Takes our cookie out of a request; all others stay as they were sent.
pub fn strip_ours(headers: &mut HeaderMap, service: &Service) {
    let Some(name) = service.split.sticky.as_ref().and_then(|sticky| sticky.own_cookie()) else { return };
    let fields = || headers.get_all(header::COOKIE).iter();
    if !fields().any(|field| cookie::without(field.as_bytes(), name.as_bytes()).is_some()) {
        return;
    }
    let left = fields().filter_map(|field| match cookie::without(field.as_bytes(), name.as_bytes()) {
        None => Some(field.clone()),
        Some(left) if left.is_empty() => None,
        Some(left) => HeaderValue::from_bytes(&left).ok(), // parts of a valid value, between semicolons
    });
    let left: Vec<HeaderValue> = left.collect();
    headers.remove(header::COOKIE);
    for field in left {
        headers.append(header::COOKIE, field);
    }
}

/// Adds our cookie to a response, unless a shared cache would keep it for everybody. A response that says nothing about
/// caching is the client's own from then on. One that only says that nothing has changed would rewrite what a cache
/// knows about the response it already has (RFC 9111 §4.3.4); the next one will do.
pub fn give<B>(response: &mut Response<B>, cookie: &str) {
    let headers = response.headers();
    if response.status() == StatusCode::NOT_MODIFIED || is_for_everybody(headers) {
        return;
    }
    let silent = !headers.contains_key(header::CACHE_CONTROL) && !headers.contains_key(header::EXPIRES);
    let Ok(field) = HeaderValue::from_str(cookie) else { return };
    response.headers_mut().append(header::SET_COOKIE, field);
    if silent {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

fn is_for_everybody(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::CACHE_CONTROL).iter();
    let mut directives = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    directives.any(|directive| {
        let name = directive.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        [&b"public"[..], b"s-maxage", b"immutable"].iter().any(|shared| name.eq_ignore_ascii_case(shared))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(status: u16, fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let mut response = response.body(()).unwrap();
        give(&mut response, "ours=1; Path=/");
        response.into_parts().0.headers
    }

    #[test]
    fn a_cookie_makes_a_response_the_clients_own() {
        let headers = given(200, &[("set-cookie", "a=b")]);
        assert_eq!(headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=b", "ours=1; Path=/"]);
        assert_eq!(headers["cache-control"], "private");
    }

    #[test]
    fn what_the_origin_said_about_caching_stays() {
        for field in [("cache-control", "no-cache"), ("cache-control", "max-age=60"), ("expires", "0")] {
            let headers = given(200, &[field]);
            assert!(headers.contains_key("set-cookie"), "{field:?}");
            assert_eq!(
                headers.get("cache-control").map(HeaderValue::as_bytes),
                match field {
                    ("expires", _) => None,
                    (_, said) => Some(said.as_bytes()),
                }
            );
        }
    }

    #[test]
    fn what_shared_caches_keep_gets_no_cookie() {
        for said in ["public", "max-age=60, Public", "s-maxage = 5", "max-age=1,immutable"] {
            assert!(!given(200, &[("cache-control", said)]).contains_key("set-cookie"), "{said}");
        }
        assert!(!given(200, &[("cache-control", "no-cache"), ("cache-control", "public")]).contains_key("set-cookie"));
        assert!(given(304, &[]).is_empty());
    }
}
