//! What a request must look like to belong to a service. [`router`](super::router) finds the route of a request,
//! [`action`](super::action) says what else is done with it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};

use super::action::Actions;

/// What routing and splitting may look at.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub method: &'a Method,
    /// Without the port.
    pub host: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub client: IpAddr,
}

impl<'a> Facts<'a> {
    /// All cookie pairs of all `Cookie` fields (RFC 6265 §5.4), quotes kept as sent.
    pub fn cookies(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let fields = self.headers.get_all(http::header::COOKIE).into_iter();
        fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
    }

    /// All `name=value` pairs of the query, not decoded; a bare name has an empty value.
    pub fn query_pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.query.unwrap_or("").split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

/// Which hosts a route takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPattern {
    /// `*`
    Any,
    /// `*.example.com`: any host below, not `example.com` itself. Holds `example.com`.
    Below(String),
    /// Lower case, without a port.
    Exact(String),
}

/// Why a text is not a host pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    #[error("a host is `*`, a name such as `shop.example.com`, or `*.` and a name")]
    Form,
    #[error("a host in a route has no port: routes apply on every listener")]
    Port,
}

impl HostPattern {
    pub fn parse(text: &str) -> Result<HostPattern, HostPatternError> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let bracketed = name.starts_with('[') && name.ends_with(']') && !below;
        if !bracketed && name.contains(':') {
            return Err(HostPatternError::Port);
        }
        let fits = |b: u8| {
            b.is_ascii_alphanumeric()
                || matches!(b, b'-' | b'.' | b'_')
                || (bracketed && matches!(b, b'[' | b']' | b':'))
        };
        if name.is_empty() || name.starts_with('.') || name.contains("..") || !name.bytes().all(fits) {
            return Err(HostPatternError::Form);
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        Ok(if below { HostPattern::Below(name) } else { HostPattern::Exact(name) })
    }
}

impl HostPattern {
    /// `host`: lower case, without a dot at its end.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Below(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            HostPattern::Exact(name) => name == host,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Below(name) => write!(f, "*.{name}"),
            HostPattern::Exact(name) => f.write_str(name),
        }
    }
}

/// Which paths a route takes: compared as they were sent, byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathPattern {
    /// This path and no other.
    Exact(String),
    /// Begins with `/`, does not end with one unless it is `/`; matches on segment boundaries (`/api` is no prefix of
    /// `/apix`).
    Prefix(String),
}

impl PathPattern {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            PathPattern::Exact(path) | PathPattern::Prefix(path) => path,
        }
    }

    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Exact(exact) => exact == path,
            PathPattern::Prefix(prefix) if prefix == "/" => path.starts_with('/'),
            PathPattern::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

/// `/api` for a prefix, `=/api` for that path alone.
impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Exact(path) => write!(f, "={path}"),
            PathPattern::Prefix(prefix) => f.write_str(prefix),
        }
    }
}

/// What a request must have beside its host and path. Without any, every request will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// One of these; none listed: any.
    pub methods: Vec<Method>,
    /// All of these.
    pub headers: Vec<Condition<HeaderName>>,
    /// All of these; names and values as they stand in the URL, not decoded.
    pub query: Vec<Condition<String>>,
}

/// A named thing that must be there; without a value, being there is enough.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition<N> {
    pub name: N,
    pub value: Option<String>,
}

impl<N> Condition<N> {
    fn accepts(&self, seen: &[u8]) -> bool {
        self.value.as_ref().is_none_or(|value| value.as_bytes() == seen)
    }
}

/// The condition that a request does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet<'a> {
    Method(&'a [Method]),
    Header(&'a Condition<HeaderName>),
    Query(&'a Condition<String>),
}

impl Conditions {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.methods.is_empty() && self.headers.is_empty() && self.query.is_empty()
    }

    /// The first condition that the request does not meet.
    #[must_use]
    pub fn unmet(&self, facts: &Facts<'_>) -> Option<Unmet<'_>> {
        if !self.methods.is_empty() && !self.methods.contains(facts.method) {
            return Some(Unmet::Method(&self.methods));
        }
        let has_header = |wanted: &&Condition<HeaderName>| {
            facts.headers.get_all(&wanted.name).iter().any(|value| wanted.accepts(value.as_bytes()))
        };
        let has_query = |wanted: &&Condition<String>| {
            facts.query_pairs().any(|(name, value)| name == wanted.name && wanted.accepts(value.as_bytes()))
        };
        let header = self.headers.iter().find(|wanted| !has_header(wanted)).map(Unmet::Header);
        header.or_else(|| self.query.iter().find(|wanted| !has_query(wanted)).map(Unmet::Query))
    }
}

impl fmt::Display for Unmet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name, value) = match self {
            Unmet::Method(methods) => {
                let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
                return write!(f, "its method is not {}", methods.join(" or "));
            }
            Unmet::Header(wanted) => ("header", wanted.name.as_str(), &wanted.value),
            Unmet::Query(wanted) => ("query parameter", wanted.name.as_str(), &wanted.value),
        };
        match value {
            None => write!(f, "it has no {kind} `{name}`"),
            Some(value) => write!(f, "it has no {kind} `{name}` of `{value}`"),
        }
    }
}

/// What a request must look like to belong to a service, and what is done with it then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub host: HostPattern,
    pub path: PathPattern,
    pub conditions: Conditions,
    /// Higher ones come before all that is more specific.
    pub priority: i32,
    /// `None`: the request is passed on as it is.
    pub actions: Option<Arc<Actions>>,
    pub line: Line,
}

/// Where a person wrote something, and how: for explanations. It is never compared, so that a definition whose lines
/// have only moved is the same.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// `penstock.toml:31`, or the name of a variable.
    pub place: Arc<str>,
    /// As written.
    pub text: Arc<str>,
    /// Grows along the file.
    pub position: usize,
}

impl PartialEq for Line {
    fn eq(&self, _: &Line) -> bool {
        true
    }
}

impl Eq for Line {}

/// How specific a route is: of two that match, the lesser one is asked first. What is equal here stands in the order of
/// the file.
pub type Precedence = (Reverse<i32>, Reverse<(u8, usize)>, Reverse<(bool, usize)>, Reverse<(bool, usize, usize)>);

impl Route {
    /// Everything of a host below a path, as it is.
    #[must_use]
    pub fn below(host: HostPattern, prefix: &str) -> Route {
        Route {
            host,
            path: PathPattern::Prefix(prefix.to_owned()),
            conditions: Conditions::default(),
            priority: 0,
            actions: None,
            line: Line::default(),
        }
    }

    /// Whether both take the same requests at the same priority, however their conditions are ordered.
    #[must_use]
    pub fn matches_like(&self, other: &Route) -> bool {
        self.priority == other.priority && self.matched() == other.matched()
    }

    /// What a request must look like, in a form that is the same for routes that take the same requests.
    #[must_use]
    pub fn matched(&self) -> Matched<'_> {
        let Conditions { methods, headers, query } = &self.conditions;
        let headers = headers.iter().map(|header| (header.name.as_str(), header.value.as_deref()));
        let query = query.iter().map(|query| (query.name.as_str(), query.value.as_deref()));
        Matched {
            host: &self.host,
            path: &self.path,
            methods: methods.iter().map(Method::as_str).collect(),
            headers: headers.collect(),
            query: query.collect(),
        }
    }

    /// Priority; then the exact host, the longest wildcard, any; then the exact path, the longer prefix; then a method,
    /// more header fields, more query parameters (as the Gateway API orders them).
    #[must_use]
    pub fn precedence(&self) -> Precedence {
        let host = match &self.host {
            HostPattern::Any => (0, 0),
            HostPattern::Below(name) => (1, name.len()),
            HostPattern::Exact(name) => (2, name.len()),
        };
        let path = (matches!(self.path, PathPattern::Exact(_)), self.path.as_str().len());
        let Conditions { methods, headers, query } = &self.conditions;
        let conditions = (!methods.is_empty(), headers.len(), query.len());
        (Reverse(self.priority), Reverse(host), Reverse(path), Reverse(conditions))
    }
}

/// See [`Route::matched`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Matched<'a> {
    host: &'a HostPattern,
    path: &'a PathPattern,
    methods: BTreeSet<&'a str>,
    headers: BTreeSet<(&'a str, Option<&'a str>)>,
    query: BTreeSet<(&'a str, Option<&'a str>)>,
}

/// The pattern on one line: `shop.example.com/cart GET,HEAD header x-beta=1 query debug`.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conditions { methods, headers, query } = &self.conditions;
        write!(f, "{}{}", self.host, self.path)?;
        if !methods.is_empty() {
            let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
            write!(f, " {}", methods.join(","))?;
        }
        let value = |value: &Option<String>| value.as_ref().map_or_else(String::new, |value| format!("={value}"));
        headers.iter().try_for_each(|header| write!(f, " header {}{}", header.name, value(&header.value)))?;
        query.iter().try_for_each(|query| write!(f, " query {}{}", query.name, value(&query.value)))
    }
}

/// A request to test with, owning what [`Facts`] borrows.
#[cfg(test)]
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    pub uri: http::Uri,
    pub headers: HeaderMap,
}

#[cfg(test)]
impl Request {
    pub fn get(uri: &str) -> Request {
        Request { method: Method::GET, uri: uri.parse().unwrap(), headers: HeaderMap::new() }
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Request {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    pub fn facts(&self) -> Facts<'_> {
        Facts {
            method: &self.method,
            host: self.uri.host().unwrap_or("localhost"),
            path: self.uri.path(),
            query: self.uri.query(),
            headers: &self.headers,
            client: IpAddr::from([192, 0, 2, 1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_hosts_are_refused() {
        for (text, error) in [
            ("", HostPatternError::Form),
            ("a:80", HostPatternError::Port),
            ("a b", HostPatternError::Form),
            ("*.", HostPatternError::Form),
            ("a..b", HostPatternError::Form),
            ("*x", HostPatternError::Form),
        ] {
            assert_eq!(HostPattern::parse(text), Err(error), "{text}");
        }
        assert_eq!(HostPattern::parse("[::1]"), Ok(HostPattern::Exact("[::1]".into())));
    }

    #[test]
    fn moving_a_line_changes_no_route() {
        let route = Route::below(HostPattern::Any, "/");
        let moved = Route { line: Line { place: "a:9".into(), text: "{}".into(), position: 90 }, ..route.clone() };
        assert_eq!(route, moved);
    }

    #[test]
    fn the_first_condition_that_is_not_met_is_named() {
        let header = Condition { name: HeaderName::from_static("x-beta"), value: Some("1".into()) };
        let query = Condition { name: "debug".to_owned(), value: None };
        let conditions =
            Conditions { methods: vec![Method::GET, Method::HEAD], headers: vec![header], query: vec![query] };
        let unmet = |request: &Request| conditions.unmet(&request.facts()).map(|unmet| unmet.to_string());
        let post = Request { method: Method::POST, ..Request::get("/") };
        assert_eq!(unmet(&post).unwrap(), "its method is not GET or HEAD");
        assert_eq!(unmet(&Request::get("/").header("x-beta", "2")).unwrap(), "it has no header `x-beta` of `1`");
        let one_of_two = Request::get("/?bug&debug=").header("x-beta", "2").header("x-beta", "1");
        assert_eq!(unmet(&one_of_two), None);
        assert_eq!(unmet(&Request::get("/?x").header("x-beta", "1")).unwrap(), "it has no query parameter `debug`");
    }

    #[test]
    fn routes_that_take_the_same_requests_are_alike_however_they_are_written() {
        let condition = |name: &'static str| Condition { name: HeaderName::from_static(name), value: None };
        let route = |headers| Route {
            conditions: Conditions { headers, ..Conditions::default() },
            ..Route::below(HostPattern::Any, "/")
        };
        let one = route(vec![condition("a"), condition("b")]);
        assert!(one.matches_like(&route(vec![condition("b"), condition("a")])));
        assert!(!one.matches_like(&route(vec![condition("a")])));
    }
}
