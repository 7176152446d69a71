//! From host and path to a service: the most specific host first, then the longest path prefix.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use http::HeaderMap;

/// What routing and splitting may look at.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
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

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Below(name) => write!(f, "*.{name}"),
            HostPattern::Exact(name) => f.write_str(name),
        }
    }
}

/// What a request must look like to belong to a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub host: HostPattern,
    /// Begins with `/`, does not end with one unless it is `/`; matches on segment boundaries (`/api` is no prefix of
    /// `/apix`).
    pub path_prefix: String,
}

/// Prefix to service (an index into the snapshot's services), for one host.
type Paths = BTreeMap<String, usize>;

/// Finds the service of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Router {
    exact: BTreeMap<String, Paths>,
    below: BTreeMap<String, Paths>,
    any: Paths,
}

impl Router {
    /// Of two equal routes the later one wins; `config` refuses them beforehand.
    pub fn add(&mut self, route: &Route, service: usize) {
        let paths = match &route.host {
            HostPattern::Any => &mut self.any,
            HostPattern::Below(name) => self.below.entry(name.clone()).or_default(),
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
        };
        paths.insert(route.path_prefix.clone(), service);
    }

    /// Exact host, then the closest wildcard, then `*`; within each the longest prefix. A host that matches with no
    /// fitting path falls through to the next.
    #[must_use]
    pub fn route(&self, facts: &Facts<'_>) -> Option<usize> {
        let named = || {
            let host = lower_case(facts.host.trim_end_matches('.'));
            let exact = self.exact.get(host.as_ref()).and_then(|paths| longest(paths, facts.path));
            exact.or_else(|| {
                parents(&host).find_map(|parent| self.below.get(parent).and_then(|paths| longest(paths, facts.path)))
            })
        };
        let by_name = if self.exact.is_empty() && self.below.is_empty() { None } else { named() };
        by_name.or_else(|| longest(&self.any, facts.path))
    }
}

fn lower_case(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// `b.c` and `c` of `a.b.c`.
fn parents(host: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(host.split_once('.').map(|(_, rest)| rest), |rest| rest.split_once('.').map(|(_, rest)| rest))
}

/// The entry with the longest prefix of `path` that ends on a segment boundary.
fn longest(paths: &Paths, path: &str) -> Option<usize> {
    let mut prefix = path;
    loop {
        if let Some(service) = paths.get(prefix) {
            return Some(*service);
        }
        // `/a/b/c` -> `/a/b` -> `/a` -> `/`
        prefix = match prefix.rfind('/') {
            Some(0) if prefix.len() > 1 => "/",
            Some(cut) if cut > 0 => &prefix[..cut],
            _ => return None,
        };
    }
}

/// A request to test with, owning what [`Facts`] borrows.
#[cfg(test)]
#[derive(Debug)]
pub struct Request {
    pub uri: http::Uri,
    pub headers: HeaderMap,
}

#[cfg(test)]
impl Request {
    pub fn get(uri: &str) -> Request {
        Request { uri: uri.parse().unwrap(), headers: HeaderMap::new() }
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Request {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    pub fn facts(&self) -> Facts<'_> {
        Facts {
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
    use proptest::prelude::*;

    use super::*;

    fn router(routes: &[(&str, &str)]) -> Router {
        let mut router = Router::default();
        for (index, (host, prefix)) in routes.iter().enumerate() {
            router.add(&Route { host: HostPattern::parse(host).unwrap(), path_prefix: (*prefix).into() }, index);
        }
        router
    }

    fn routed(router: &Router, uri: &str) -> Option<usize> {
        router.route(&Request::get(uri).facts())
    }

    #[test]
    fn a_prefix_ends_on_a_segment_boundary() {
        let router = router(&[("*", "/api")]);
        assert_eq!(routed(&router, "http://a/api"), Some(0));
        assert_eq!(routed(&router, "http://a/api/"), Some(0));
        assert_eq!(routed(&router, "http://a/api/x"), Some(0));
        assert_eq!(routed(&router, "http://a/apix"), None);
        assert_eq!(routed(&router, "http://a/"), None);
    }

    #[test]
    fn the_most_specific_route_wins() {
        let router = router(&[
            ("*", "/"),
            ("*.example.com", "/"),
            ("shop.example.com", "/"),
            ("shop.example.com", "/cart"),
            ("*.eu.example.com", "/"),
        ]);
        assert_eq!(routed(&router, "http://other/"), Some(0));
        assert_eq!(routed(&router, "http://a.example.com/"), Some(1));
        assert_eq!(routed(&router, "http://example.com/"), Some(0));
        assert_eq!(routed(&router, "http://shop.example.com/cartoon"), Some(2));
        assert_eq!(routed(&router, "http://SHOP.example.com/cart/1"), Some(3));
        assert_eq!(routed(&router, "http://x.eu.example.com/"), Some(4));
    }

    #[test]
    fn a_host_without_a_fitting_path_falls_through() {
        let router = router(&[("shop.example.com", "/cart"), ("*", "/")]);
        assert_eq!(routed(&router, "http://shop.example.com/other"), Some(1));
    }

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

    /// The plain reading of the rule, to hold the maps against.
    fn linear(routes: &[Route], host: &str, path: &str) -> Option<usize> {
        let fits = |route: &Route| {
            let prefix = &route.path_prefix;
            prefix == "/"
                || path == prefix
                || path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        let rank = |route: &Route| match &route.host {
            HostPattern::Any => Some(0),
            HostPattern::Below(name) => host
                .strip_suffix(name.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
                .then_some(1 + name.len()),
            HostPattern::Exact(name) => (name == host).then_some(usize::MAX),
        };
        let found = routes
            .iter()
            .enumerate()
            .filter(|(_, route)| fits(route))
            .filter_map(|(index, route)| Some((rank(route)?, route.path_prefix.len(), index)));
        found.max_by_key(|(host, path, _)| (*host, *path)).map(|(_, _, index)| index)
    }

    proptest! {
        #[test]
        fn the_maps_agree_with_a_linear_reading(
            routes in prop::collection::btree_set(("(\\*|(\\*\\.)?(a|b)(\\.(a|b))?)", "(/|(/[ab]{1,2}){1,3})"), 1..12),
            host in "(a|b)(\\.(a|b)){0,2}", path in "(/|(/[ab]{0,2}){1,4})",
        ) {
            let routes: Vec<Route> = routes
                .iter()
                .map(|(host, prefix)| Route { host: HostPattern::parse(host).unwrap(), path_prefix: prefix.clone() })
                .collect();
            let mut router = Router::default();
            for (index, route) in routes.iter().enumerate() { router.add(route, index); }
            let headers = HeaderMap::new();
            let client = [192, 0, 2, 1].into();
            let facts = Facts { host: &host, path: &path, query: None, headers: &headers, client };
            prop_assert_eq!(router.route(&facts), linear(&routes, &host, &path));
        }
    }
}
