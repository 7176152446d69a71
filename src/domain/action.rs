//! What a route does with a request beside passing it on: refuse it, redirect it, give it another path, and change
//! header fields on the way there and back.
//!
//! ```text
//!  refused by address? ─▶ another path ─▶ redirected? ─▶ choose, forward ─▶ the answer's fields
//! ```

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, header};

use super::cidr::Cidr;
use super::route::Facts;

/// Everything a route may do; most do nothing, and have none of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actions {
    pub access: Option<Access>,
    pub rewrite: Option<Rewrite>,
    pub redirect: Option<Redirect>,
    /// Of what an endpoint is asked, after our own fields were added.
    pub request_headers: HeaderChanges,
    /// Of what an endpoint answered; never of our own answers.
    pub response_headers: HeaderChanges,
}

impl Actions {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Actions::default()
    }

    /// The path that an endpoint would be asked, or a redirect leads to.
    #[must_use]
    pub fn path<'a>(&self, path: &'a str) -> Cow<'a, str> {
        self.rewrite.as_ref().map_or(Cow::Borrowed(path), |rewrite| rewrite.apply(path).into())
    }

    /// Where the client is sent instead of being answered.
    #[must_use]
    pub fn elsewhere(&self, facts: &Facts<'_>) -> Option<Elsewhere> {
        let redirect = self.redirect.as_ref()?;
        let location = redirect.location(facts.host, &self.path(facts.path), facts.query);
        Some(Elsewhere { status: redirect.status, location })
    }
}

/// Where a redirect leads for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    pub status: StatusCode,
    pub location: String,
}

/// Who may ask, by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Looked at first.
    pub deny: Vec<Cidr>,
    /// Without any: everybody who is not denied.
    pub allow: Vec<Cidr>,
}

impl Access {
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        let among = |ranges: &[Cidr]| ranges.iter().any(|range| range.contains(client));
        !among(&self.deny) && (self.allow.is_empty() || among(&self.allow))
    }
}

/// Another beginning for the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// Bytes at the beginning that the route matched; 0 for `/`.
    matched: usize,
    /// What stands there instead; empty: nothing does.
    to: String,
}

impl Rewrite {
    /// In a route for `path` (a prefix, or a whole path), `to` instead of it. `/` is nothing.
    #[must_use]
    pub fn new(path: &str, to: &str) -> Rewrite {
        let nothing = |path: &str| if path == "/" { String::new() } else { path.to_owned() };
        Rewrite { matched: nothing(path).len(), to: nothing(to) }
    }

    /// Whether the prefix is only taken away.
    #[must_use]
    pub fn strips(&self) -> bool {
        self.to.is_empty()
    }

    #[must_use]
    pub fn to(&self) -> &str {
        &self.to
    }

    /// The path that a request of this route is passed on with.
    #[must_use]
    pub fn apply(&self, path: &str) -> String {
        let rest = path.get(self.matched..).unwrap_or_default();
        let slash = if self.to.is_empty() && !rest.starts_with('/') { "/" } else { "" };
        format!("{slash}{}{rest}", self.to)
    }
}

/// Sends the client elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    to: Vec<Part>,
    pub status: StatusCode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `{host}`: as asked for, without the port.
    Host,
    /// `{path}`: as sent, or as rewritten.
    Path,
    /// `{query}`: with its `?`; nothing without a query.
    Query,
}

const PLACEHOLDERS: [(&str, Part); 3] = [("{host}", Part::Host), ("{path}", Part::Path), ("{query}", Part::Query)];

/// Why a text is not where a redirect can lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    #[error("a redirect leads to `https://…`, `http://…`, or to a path of the same host, `/…`")]
    Form,
    #[error("there are no placeholders but `{{host}}`, `{{path}}` and `{{query}}`")]
    Placeholder,
    #[error("`{{path}}` begins with a `/` already")]
    DoubleSlash,
    #[error("`{{query}}` brings its own `?`, and ends the URL")]
    Query,
    #[error("it holds a character that no URL has")]
    Character,
}

impl Redirect {
    /// The statuses that a redirect may have; the first one is the default: it keeps the method (RFC 9110 §15.4.9).
    pub const STATUSES: [StatusCode; 5] = [
        StatusCode::PERMANENT_REDIRECT,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
    ];

    /// Reads `https://new.example.com{path}{query}`. What a client sends can only fill the placeholders, and none of
    /// them can change the host: a text of `{path}` alone would lead `//evil.example/` there.
    pub fn new(text: &str, status: StatusCode) -> Result<Redirect, RedirectError> {
        let target = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let fits = match target {
            Some(target) => !target.is_empty() && !target.starts_with(['/', '?', '#']) && !target.starts_with("{path}"),
            None => text.starts_with('/') && !text.starts_with("//"),
        };
        if text.contains("/{path}") {
            return Err(RedirectError::DoubleSlash);
        }
        if !fits {
            return Err(RedirectError::Form);
        }
        let to = parts(text)?;
        match to.iter().position(|part| *part == Part::Query) {
            Some(at) if at + 1 < to.len() || text.contains('?') => Err(RedirectError::Query),
            _ => Ok(Redirect { to, status }),
        }
    }

    /// The `Location`; `path` begins with `/`.
    #[must_use]
    pub fn location(&self, host: &str, path: &str, query: Option<&str>) -> String {
        let mut location = String::new();
        for part in &self.to {
            match part {
                Part::Text(text) => location.push_str(text),
                Part::Host => location.push_str(host),
                Part::Path => location.push_str(path),
                Part::Query => {
                    if let Some(query) = query {
                        location.push('?');
                        location.push_str(query);
                    }
                }
            }
        }
        location
    }
}

/// As written.
impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Host => f.write_str("{host}"),
            Part::Path => f.write_str("{path}"),
            Part::Query => f.write_str("{query}"),
        })
    }
}

fn parts(text: &str) -> Result<Vec<Part>, RedirectError> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        if let Some((name, part)) = PLACEHOLDERS.iter().find(|(name, _)| rest.starts_with(name)) {
            parts.push(part.clone());
            rest = &rest[name.len()..];
            continue;
        }
        let end = rest.bytes().skip(1).position(|byte| byte == b'{').map_or(rest.len(), |at| at + 1);
        let plain = rest.get(..end).ok_or(RedirectError::Character)?;
        if plain.contains(['{', '}']) {
            return Err(RedirectError::Placeholder);
        }
        if !plain.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`|".contains(&b)) {
            return Err(RedirectError::Character);
        }
        parts.push(Part::Text(plain.to_owned()));
        rest = &rest[end..];
    }
    Ok(parts)
}

/// Changes of header fields: taken away, then set, then added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    pub remove: Vec<HeaderName>,
    /// In the place of all values there are.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Behind the values there are.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// Why a route may not touch a header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untouchable {
    #[error("says where a message ends")]
    Framing,
    #[error("is about one connection only")]
    HopByHop,
    #[error("says which host is asked")]
    Host,
    #[error("stops requests that run in a circle")]
    Via,
    #[error("is Penstock's own")]
    Ours,
}

/// Whether a route must leave a header field alone (RFC 9110 §7.2, §7.6; RFC 9112 §6).
#[must_use]
pub fn untouchable(name: &HeaderName) -> Option<Untouchable> {
    let hop_by_hop = [
        header::CONNECTION,
        header::TE,
        header::UPGRADE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::EXPECT,
    ];
    match name {
        name if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::TRAILER].contains(name) => {
            Some(Untouchable::Framing)
        }
        name if hop_by_hop.contains(name) => Some(Untouchable::HopByHop),
        name if ["keep-alive", "proxy-connection"].contains(&name.as_str()) => Some(Untouchable::HopByHop),
        name if *name == header::HOST => Some(Untouchable::Host),
        name if *name == header::VIA => Some(Untouchable::Via),
        name if name.as_str().starts_with("penstock-") => Some(Untouchable::Ours),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn access(deny: &[&str], allow: &[&str]) -> Access {
        let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Access { deny: ranges(deny), allow: ranges(allow) }
    }

    #[test]
    fn a_redirect_to_a_place_of_other_letters_is_refused() {
        for text in ["ü.ry}", "{host}ü{path}"] {
            assert!(matches!(parts(text), Err(RedirectError::Character | RedirectError::Placeholder)), "{text}");
        }
    }

    #[test]
    fn deny_comes_before_allow() {
        let admits = |access: &Access, address: &str| access.admits(address.parse().unwrap());
        let office = access(&["10.0.0.66"], &["10.0.0.0/8", "2001:db8::/32"]);
        assert!(admits(&office, "10.0.0.1") && admits(&office, "2001:db8::1") && admits(&office, "::ffff:10.0.0.1"));
        assert!(!admits(&office, "10.0.0.66") && !admits(&office, "192.0.2.1") && !admits(&office, "::1"));
        let pest = access(&["192.0.2.0/24"], &[]);
        assert!(admits(&pest, "10.0.0.1") && !admits(&pest, "192.0.2.7"));
    }

    #[test]
    fn a_prefix_is_taken_away_or_replaced() {
        for (route, to, path, sent) in [
            ("/api", "/", "/api", "/"),
            ("/api", "/", "/api/", "/"),
            ("/api", "/", "/api/x/", "/x/"),
            ("/api", "/", "/api//x", "//x"),
            ("/api", "/v2", "/api", "/v2"),
            ("/api", "/v2", "/api/x", "/v2/x"),
            ("/", "/v2", "/x", "/v2/x"),
            ("/", "/v2", "/", "/v2/"),
            ("/old/", "/new", "/old/", "/new"),
        ] {
            assert_eq!(Rewrite::new(route, to).apply(path), sent, "{route} {to} {path}");
        }
        assert!(Rewrite::new("/api", "/").strips());
    }

    fn location(to: &str, host: &str, path: &str, query: Option<&str>) -> String {
        Redirect::new(to, StatusCode::FOUND).unwrap().location(host, path, query)
    }

    #[test]
    fn a_redirect_fills_in_host_path_and_query() {
        let old = "https://new.example.com{path}{query}";
        assert_eq!(location(old, "old", "/a//b%20", Some("x=%2F&")), "https://new.example.com/a//b%20?x=%2F&");
        assert_eq!(location(old, "old", "/", None), "https://new.example.com/");
        assert_eq!(location("https://{host}{path}{query}", "a.b", "/x", Some("")), "https://a.b/x?");
        assert_eq!(location("/login?from=app", "a", "/x", Some("y")), "/login?from=app");
        assert_eq!(location("/new{path}", "a", "//evil.example", None), "/new//evil.example");
    }

    #[test]
    fn a_redirect_that_a_client_could_bend_is_refused() {
        for (text, error) in [
            ("", RedirectError::Form),
            ("{path}", RedirectError::Form),
            ("//evil.example", RedirectError::Form),
            ("new.example.com", RedirectError::Form),
            ("ftp://a/", RedirectError::Form),
            ("javascript:alert(1)", RedirectError::Form),
            ("https://", RedirectError::Form),
            ("https://{path}", RedirectError::DoubleSlash),
            ("/{path}", RedirectError::DoubleSlash),
            ("https://a/{path}", RedirectError::DoubleSlash),
            ("https://a{query}{path}", RedirectError::Query),
            ("https://a/?b{query}", RedirectError::Query),
            ("https://a/{name}", RedirectError::Placeholder),
            ("https://a/}", RedirectError::Placeholder),
            ("https://a/b c", RedirectError::Character),
            ("https://a/é", RedirectError::Character),
        ] {
            assert_eq!(Redirect::new(text, StatusCode::FOUND), Err(error), "{text}");
        }
    }

    #[test]
    fn fields_are_removed_set_and_added() {
        let named = |name: &'static str| HeaderName::from_static(name);
        let pair = |name, value| (named(name), HeaderValue::from_static(value));
        let changes = HeaderChanges {
            remove: vec![named("x-gone"), named("x-new")],
            set: vec![pair("x-set", "1")],
            add: vec![pair("x-add", "2"), pair("x-new", "3")],
        };
        let old = ["x-gone", "x-set", "x-add", "x-new"].map(|name| (named(name), HeaderValue::from_static("0")));
        let mut headers = HeaderMap::from_iter(old);
        changes.apply(&mut headers);
        let all = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("x-gone"), all("x-set")), (vec![], vec!["1"]));
        assert_eq!((all("x-add"), all("x-new")), (vec!["0", "2"], vec!["3"]));
    }

    #[test]
    fn what_frames_or_routes_a_message_is_left_alone() {
        for name in ["content-length", "Transfer-Encoding", "connection", "keep-alive", "host", "via", "penstock-x"] {
            assert!(untouchable(&name.parse().unwrap()).is_some(), "{name}");
        }
        for name in ["x-forwarded-for", "authorization", "set-cookie", "content-type", "server"] {
            assert_eq!(untouchable(&name.parse().unwrap()), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(text in "(https://a|/b)(\\{host\\}|[a-z?/#=.-]{0,3}|\\{path\\}){0,3}(\\{query\\})?") {
            if let Ok(redirect) = Redirect::new(&text, StatusCode::FOUND) {
                prop_assert_eq!(redirect.to_string(), text);
            }
        }

        #[test]
        fn reading_never_panics(text in "(https?://)?(\\PC|\\{|\\}){0,12}") {
            let _ = Redirect::new(&text, StatusCode::FOUND);
        }

        #[test]
        fn no_path_leads_off_the_host(path in "/[/\\\\a.:@-]{0,12}", query in "[ -~]{0,5}") {
            let to = location("https://new.example.com{path}{query}", "x", &path, Some(&query));
            let authority = to.strip_prefix("https://").unwrap().split(['/', '?', '#', '\\']).next();
            prop_assert_eq!(authority, Some("new.example.com"));
        }

        #[test]
        fn a_rewritten_path_is_a_path(rest in "(/[a-z/%]{0,9})?", to in "/[a-z]{0,4}") {
            let path = format!("/api{rest}");
            prop_assert!(Rewrite::new("/api", &to).apply(&path).starts_with('/'));
        }
    }
}
