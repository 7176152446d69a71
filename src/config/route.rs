//! A service's `routes` and `error_pages`: which requests are its own, and what is done with them beside passing them
//! on.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::file::{At, Field, Meaning, Place, Table};
use super::problem::clipped;
use super::service::{Reported, query_name, sendable};
use super::value;
use crate::domain::action::{Access, Actions, HeaderChanges, Redirect, RedirectError, Rewrite, untouchable};
use crate::domain::cidr::{Cidr, CidrError};
use crate::domain::error_pages::{ErrorPage, ErrorPages, ErrorPattern};
use crate::domain::route::{Condition, Conditions, HostPattern, Line, PathPattern, Route};

pub(super) const ROUTES: &str = r#"routes = [{ host = "*", path_prefix = "/" }]"#;

pub(super) fn routes<'a>(field: &Field<'a>) -> Vec<At<'a, Arc<Route>>> {
    let Some(items) = field.items(ROUTES) else { return Vec::new() };
    if items.is_empty() {
        field.place.error("a service without routes gets no requests", format!("write `{ROUTES}`"));
    }
    items.into_iter().filter_map(route).collect()
}

/// Reads all of a route before it gives up, so that everything is said at once.
fn route(field: Field<'_>) -> Option<At<'_, Arc<Route>>> {
    let place = field.place.clone();
    let (written, text, position) = place.written();
    let mut table = field.table(r#"{ host = "*", path_prefix = "/" }"#)?;
    let host = table.get("host").map_or(Some(HostPattern::Any), |field| host(&field));
    let path = path(&mut table);
    let conditions = conditions(&mut table);
    let priority = table.get("priority").map_or(Some(0), |field| priority(&field));
    let actions = actions(&mut table, path.as_ref());
    table.finish();
    let actions = Some(actions?).filter(|actions| !actions.is_empty()).map(Arc::new);
    let line = Line { place: written.into(), text: text.into(), position };
    let route = Route { host: host?, path: path?, conditions: conditions?, priority: priority?, actions, line };
    Some(At { value: Arc::new(route), place })
}

fn host(field: &Field<'_>) -> Option<HostPattern> {
    let At { value: text, place } = field.text(Meaning::Text("shop.example.com"))?;
    let help = "write `*`, `shop.example.com` or `*.example.com`";
    let message = |error| format!("`{}` is not a host: {error}", clipped(text));
    HostPattern::parse(text).map_err(|error| place.error(message(error), help)).ok()
}

fn path(table: &mut Table<'_>) -> Option<PathPattern> {
    match (table.get("path"), table.get("path_prefix")) {
        (None, None) => Some(PathPattern::Prefix("/".to_owned())),
        (None, Some(prefix)) => value::path_prefix(&prefix).and_then(bounded(&prefix.place)).map(PathPattern::Prefix),
        (Some(exact), None) => value::exact_path(&exact).and_then(bounded(&exact.place)).map(PathPattern::Exact),
        (Some(exact), Some(prefix)) => {
            let help = "keep `path` for that path alone, or `path_prefix` for everything below it as well";
            exact.place.error_beside(&prefix.place, "the other one", "a route has one path", help);
            None
        }
    }
}

fn bounded<'p>(place: &'p Place<'_>) -> impl Fn(String) -> Option<String> + 'p {
    move |path| {
        if path.len() <= LONGEST_PATH {
            return Some(path);
        }
        let message = format!("a route's path has at most {LONGEST_PATH} characters, this one has {}", path.len());
        place.error(message, "shorten it: a prefix takes everything below it");
        None
    }
}

fn conditions(table: &mut Table<'_>) -> Option<Conditions> {
    let methods = table.get("methods").map_or(Some(Vec::new()), |field| list(&field, METHODS, |field| method(&field)));
    let headers = table.get("headers").map_or(Some(Vec::new()), |field| list(&field, HEADERS, header_condition));
    let query = table.get("query").map_or(Some(Vec::new()), |field| list(&field, QUERY, query_condition));
    Some(Conditions { methods: methods?, headers: headers?, query: query? })
}

/// Every item of a list, read by `read`; each only once. `None` when one of them is wrong.
fn list<'a, T: PartialEq>(field: &Field<'a>, example: &str, read: impl Fn(Field<'a>) -> Option<T>) -> Option<Vec<T>> {
    let items = field.items(example)?;
    if items.is_empty() {
        field.place.error("an empty list says nothing", format!("remove it, or write `{example}`"));
        return None;
    }
    let (mut values, mut faulty): (Vec<At<'_, T>>, bool) = (Vec::new(), false);
    for item in items {
        let place = item.place.clone();
        let Some(value) = read(item) else {
            faulty = true;
            continue;
        };
        if let Some(first) = value::first_twin(&values, &value) {
            place.error_beside(first, "listed here", "this is listed twice", "remove one of the two");
            faulty = true;
        }
        values.push(At { value, place });
    }
    (!faulty).then(|| values.into_iter().map(|at| at.value).collect())
}

fn method(field: &Field<'_>) -> Option<Method> {
    let At { value: text, place } = field.text(Meaning::Text("GET"))?;
    let upper = text.to_ascii_uppercase();
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT) => {
            place.error("a gateway does not open tunnels", "remove `CONNECT`: it is refused before routes are asked");
            None
        }
        Ok(_) if text != upper && Method::from_bytes(upper.as_bytes()).is_ok_and(|method| is_known(&method)) => {
            place.error(
                format!("`{text}` is not `{upper}`"),
                format!("write `\"{upper}\"`: methods are case-sensitive"),
            );
            None
        }
        Ok(method) => Some(method),
        Err(_) => {
            place.error(
                format!("`{}` is not a method", clipped(text)),
                "write it as it is sent, such as `GET` or `PURGE`",
            );
            None
        }
    }
}

fn is_known(method: &Method) -> bool {
    use Method as M;
    [M::GET, M::HEAD, M::POST, M::PUT, M::DELETE, M::OPTIONS, M::TRACE, M::PATCH].contains(method)
}

fn header_condition(field: Field<'_>) -> Option<Condition<HeaderName>> {
    condition(field, r#"{ name = "x-beta", value = "1" }"#, header_name, |b| b == b' ' || b.is_ascii_graphic())
}

fn query_condition(field: Field<'_>) -> Option<Condition<String>> {
    condition(field, r#"{ name = "debug", value = "1" }"#, query_name, |b| b.is_ascii_graphic() && !b"&#".contains(&b))
}

fn condition<'a, N>(
    field: Field<'a>,
    example: &str,
    name: impl Fn(&Field<'a>) -> Option<N>,
    fits: impl Fn(u8) -> bool,
) -> Option<Condition<N>> {
    let mut table = field.table(example)?;
    let named = table.required("name", "name = \"x-beta\"").and_then(|field| name(&field));
    let value = match table.get("value") {
        None => Ok(None),
        Some(field) => match field.text(Meaning::Text("1")) {
            Some(text) => sendable(Some(text), fits),
            None => Err(Reported),
        },
    };
    table.finish();
    Some(Condition { name: named?, value: value.ok()? })
}

fn header_name(field: &Field<'_>) -> Option<HeaderName> {
    let At { value: text, place } = field.text(Meaning::Text("x-beta"))?;
    named_header(text, &place)
}

fn named_header(text: &str, place: &Place<'_>) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    if name.is_none() {
        let help = "letters, digits and `-`, such as `x-beta`";
        place.error(format!("`{}` is not a header name", clipped(text)), help);
    }
    name
}

fn priority(field: &Field<'_>) -> Option<i32> {
    let number = field.integer("10")?;
    let priority = i32::try_from(number).ok().filter(|priority| priority.abs() <= HIGHEST_PRIORITY);
    if priority.is_none() {
        let help =
            format!("choose from -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}; 0 is usual, and the most specific wins");
        field.place.error(format!("`{number}` is not between -{HIGHEST_PRIORITY} and {HIGHEST_PRIORITY}"), help);
    }
    priority
}

fn actions(table: &mut Table<'_>, path: Option<&PathPattern>) -> Option<Actions> {
    let rewrite = rewrite(table, path);
    let redirect = table.get("redirect").map(|field| redirect(field).ok_or(Reported)).transpose();
    let mut changes = |key| table.get(key).map_or(Some(HeaderChanges::default()), header_changes);
    let (request_headers, response_headers) = (changes("request_headers"), changes("response_headers"));
    let access = access(table);
    if let (Ok(Some(_)), Some(field)) =
        (&redirect, ["request_headers", "response_headers"].iter().find_map(|k| table.get(k)))
    {
        let help = "remove it, or the redirect: no endpoint is asked, and none answers";
        field.place.error("a redirected request is not passed on", help);
        return None;
    }
    Some(Actions {
        access: access.ok()?,
        rewrite: rewrite.ok()?,
        redirect: redirect.ok()?,
        request_headers: request_headers?,
        response_headers: response_headers?,
    })
}

fn rewrite(table: &mut Table<'_>, path: Option<&PathPattern>) -> Result<Option<Rewrite>, Reported> {
    let strip = table.get("strip_prefix");
    let strips = strip.as_ref().map_or(Ok(false), |field| field.boolean().ok_or(Reported));
    let to = table.get("rewrite_prefix");
    let rewritten = to.as_ref().map(|field| value::path_prefix(field).ok_or(Reported)).transpose();
    let (strips, rewritten) = (strips?, rewritten?);
    let path = path.ok_or(Reported)?.as_str();
    match (strip.filter(|_| strips), to.zip(rewritten)) {
        (Some(strip), Some((to, _))) => {
            let help = "keep one of the two: to strip it is to rewrite it to `/`";
            strip.place.error_beside(&to.place, "the other one", "a prefix is stripped or rewritten", help);
        }
        (Some(strip), None) if path == "/" => {
            let help = "add `path_prefix = \"/api\"`, or remove `strip_prefix`";
            strip.place.error("there is no prefix to strip", help);
        }
        (Some(_), None) => return Ok(Some(Rewrite::new(path, "/"))),
        (None, Some((field, to))) if to == path => {
            let help = "remove `rewrite_prefix`, or name another path";
            field.place.error("the prefix would be rewritten to itself", help);
        }
        (None, Some((field, to))) if PathAndQuery::try_from(to.as_str()).is_err() => {
            let help = "write it percent-encoded, as an endpoint wants it: `/caf%C3%A9`";
            field.place.error(format!("`{}` has a character that no request path has", clipped(&to)), help);
        }
        (None, Some((_, to))) => return Ok(Some(Rewrite::new(path, &to))),
        (None, None) => return Ok(None),
    }
    Err(Reported)
}

fn redirect(field: Field<'_>) -> Option<Redirect> {
    let mut table = field.table(REDIRECT)?;
    let status = table.get("status").map_or(Some(Redirect::STATUSES[0]), |field| redirect_status(&field));
    let to = table.required("to", "to = \"https://new.example.com{path}{query}\"");
    let to = to.and_then(|field| field.text(Meaning::Text("https://new.example.com{path}{query}")));
    table.finish();
    let (status, At { value: text, place }) = (status?, to?);
    let refused = |error: RedirectError| {
        let help = match error {
            RedirectError::Form => "write `https://new.example.com{path}{query}`, or `/new{path}{query}`",
            RedirectError::Placeholder => "write `https://new.example.com{path}{query}`; a brace of your own is `%7B`",
            RedirectError::DoubleSlash => "leave out the slash before `{path}`",
            RedirectError::Query => "put `{query}` at the end, and write no `?`",
            RedirectError::Character => "write it percent-encoded, such as `%20` for a space",
        };
        place.error(format!("`{}` is not where a redirect can lead: {error}", clipped(text)), help);
    };
    Redirect::new(text, status).map_err(refused).ok()
}

fn redirect_status(field: &Field<'_>) -> Option<StatusCode> {
    let number = field.integer("308")?;
    let status = Redirect::STATUSES.into_iter().find(|status| i64::from(status.as_u16()) == number);
    if status.is_none() {
        let help = "use 308 or 307, which keep the method (for good, or for now); or 301, 302, 303";
        field.place.error(format!("`{number}` is not the status of a redirect"), help);
    }
    status
}

fn header_changes(field: Field<'_>) -> Option<HeaderChanges> {
    let mut table = field.table(CHANGES)?;
    let set = table.get("set").map_or(Some(Vec::new()), named_values);
    let add = table.get("add").map_or(Some(Vec::new()), named_values);
    let remove = table.get("remove").map_or(Some(Vec::new()), |field| list(&field, REMOVE, |field| changeable(&field)));
    let place = table.place.clone();
    table.finish();
    let changes = HeaderChanges { remove: remove?, set: set?, add: add? };
    if changes.is_empty() {
        place.error("no header field is changed", format!("write `{CHANGES}`, or remove it"));
        return None;
    }
    if let Some((name, _)) = changes.set.iter().chain(&changes.add).find(|(name, _)| changes.remove.contains(name)) {
        let help = "to replace it, `set` is enough; to take it away, `remove` is";
        place.error(format!("`{name}` is removed and written in one go"), help);
        return None;
    }
    Some(changes)
}

fn named_values(field: Field<'_>) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let table = field.table(r#"{ x-from = "penstock" }"#)?;
    let (mut pairs, mut faulty): (Vec<(HeaderName, HeaderValue)>, bool) = (Vec::new(), false);
    for (key, field) in table.named() {
        let (name, value) = (allowed(key.value, &key.place), header_value(&field));
        let twin = name.as_ref().is_some_and(|name| pairs.iter().any(|(other, _)| other == name));
        if twin {
            key.place.error(format!("`{}` is written twice", clipped(key.value)), "keep one: case does not matter");
        }
        match (name, value) {
            (Some(name), Some(value)) if !twin => pairs.push((name, value)),
            _ => faulty = true,
        }
    }
    (!faulty).then_some(pairs)
}

fn changeable(field: &Field<'_>) -> Option<HeaderName> {
    let At { value: text, place } = field.text(Meaning::Text("server"))?;
    allowed(text, &place)
}

fn allowed(text: &str, place: &Place<'_>) -> Option<HeaderName> {
    let name = named_header(text, place)?;
    if let Some(why) = untouchable(&name) {
        place
            .error(format!("a route cannot change `{name}`: it {why}"), "remove it; Penstock writes this field itself");
        return None;
    }
    Some(name)
}

fn header_value(field: &Field<'_>) -> Option<HeaderValue> {
    let At { value: text, place } = field.text(Meaning::Text("1"))?;
    let fits = text.trim() == text && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    let value = HeaderValue::from_str(text).ok().filter(|_| fits);
    if value.is_none() {
        let help = "write it in ASCII, without line breaks and without spaces at its ends";
        place.error(format!("no header field can have the value `{}`", clipped(text)), help);
    }
    value
}

fn access(table: &mut Table<'_>) -> Result<Option<Access>, Reported> {
    let mut read = |key| table.get(key).map_or(Some(Vec::new()), |field| list(&field, RANGES, |field| range(&field)));
    let (deny, allow) = (read("deny"), read("allow"));
    let access = Access { deny: deny.ok_or(Reported)?, allow: allow.ok_or(Reported)? };
    Ok((access != Access::default()).then_some(access))
}

fn range(field: &Field<'_>) -> Option<Cidr> {
    let At { value: text, place } = field.text(Meaning::Text("10.0.0.0/8"))?;
    let refused = |error: CidrError| {
        let help = match &error {
            CidrError::Form => "write `192.0.2.7`, `10.0.0.0/8` or `2001:db8::/32`; names are not looked up".to_owned(),
            CidrError::Length { most, .. } => format!("end it with `/` and a number from 0 to {most}"),
            CidrError::HostBits(network) => format!("write `\"{network}\"`, or the address alone"),
        };
        place.error(format!("`{}` is not a range of addresses: {error}", clipped(text)), help);
    };
    text.parse().map_err(refused).ok()
}

pub(super) fn error_pages(field: Field<'_>) -> Option<ErrorPages> {
    let table = field.table(r#"error_pages = { "5xx" = "sorry.html" }"#)?;
    let (mut pages, mut faulty) = (Vec::new(), false);
    for (key, field) in table.named() {
        let pattern = ErrorPattern::parse(key.value);
        if pattern.is_none() {
            let help = "write a status from 400 to 599, such as `\"502\"`, or a class: `\"4xx\"`, `\"5xx\"`";
            key.place.error(format!("`{}` is not the status of an error", clipped(key.value)), help);
        }
        match (pattern, error_page(&field)) {
            (Some(pattern), Some(page)) => pages.push((pattern, page)),
            _ => faulty = true,
        }
    }
    (!faulty).then(|| pages.into_iter().collect())
}

fn error_page(field: &Field<'_>) -> Option<ErrorPage> {
    let At { value: path, place } = value::path(field, "sorry.html")?;
    let file = path.to_string_lossy();
    match page_of(&path) {
        Ok(html) => Some(ErrorPage { file: file.into(), html: html.into() }),
        Err((what, help)) => {
            place.error(format!("the error page `{}` {what}", clipped(&file)), help);
            None
        }
    }
}

/// A page's text, or what is the matter with it and the remedy.
fn page_of(path: &Path) -> Result<String, (String, String)> {
    let readable =
        "name a file that exists and that this user may read; relative paths begin where penstock is started";
    let mut html = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_PAGE + 1).read_to_end(&mut html));
    read.map_err(|error| (format!("cannot be read: {error}"), readable.to_owned()))?;
    if html.len() as u64 > LARGEST_PAGE {
        let help = "keep it small, and leave pictures to another server: it stays in memory".to_owned();
        return Err((format!("is larger than {LARGEST_PAGE} bytes"), help));
    }
    String::from_utf8(html).map_err(|_| ("is not UTF-8".to_owned(), "save it as UTF-8".to_owned()))
}

/// For messages: what tells one route from another.
pub(super) fn route_text(route: &Route) -> String {
    let path = match &route.path {
        PathPattern::Exact(path) => format!("`={}`", clipped(path)),
        PathPattern::Prefix(path) => format!("`{}`", clipped(path)),
    };
    let conditions = if route.conditions.is_empty() { "" } else { " with these conditions" };
    format!("`{}` {path}{conditions}", clipped(&route.host.to_string()))
}

/// For a page that a client gets instead of an answer.
const LARGEST_PAGE: u64 = 256 * 1024;

/// Far longer than any route; it bounds the depth of what is built of it.
const LONGEST_PATH: usize = 1_024;

/// Enough to stand above and below everything.
const HIGHEST_PRIORITY: i32 = 1_000_000;

const METHODS: &str = r#"methods = ["GET", "HEAD"]"#;
const HEADERS: &str = r#"headers = [{ name = "x-beta", value = "1" }]"#;
const QUERY: &str = r#"query = [{ name = "debug" }]"#;
const REDIRECT: &str = r#"redirect = { to = "https://new.example.com{path}{query}", status = 308 }"#;
const CHANGES: &str = r#"{ set = { x-from = "penstock" }, remove = ["server"] }"#;
const REMOVE: &str = r#"remove = ["server"]"#;
const RANGES: &str = r#"["10.0.0.0/8", "2001:db8::/32"]"#;
