//! `POST /v1/route`: what would become of a request, and why. Nothing is forwarded, no coin is tossed.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::api::Api;
use super::body::Body;
use super::problem::Problem;
use super::wire::{Candidate, Field, MatchedRoute, Outcome, Passed, Question, RouteAnswer};
use crate::domain::action::Actions;
use crate::domain::route::{Facts, Unmet};
use crate::domain::router::{Fate, Rule};
use crate::domain::snapshot::{Service, Snapshot, Version};
use crate::domain::split::{Matcher, Selected, Weight};

pub async fn answer(State(api): State<Api>, body: Body) -> Result<Json<RouteAnswer>, Problem> {
    let question: Question = body.json(EXAMPLE)?;
    explain(&api.control.view().snapshot, &question).map(Json)
}

/// What would become of a request, if this snapshot were in force.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Result<RouteAnswer, Problem> {
    let request = Request::read(question)?;
    let facts = request.facts(question.client_address);
    let explained = snapshot.router.explain(&facts);
    let passed = explained.iter().filter_map(|(rule, fate)| passed(snapshot, rule, *fate)).take(MOST_PASSED).collect();
    let answer = RouteAnswer { passed_over: passed, ..RouteAnswer::default() };
    match snapshot.router.route(&facts) {
        None => Ok(answer),
        Some(rule) => Ok(routed(snapshot, rule, &facts, question.client_address, answer)),
    }
}

fn routed(
    snapshot: &Snapshot,
    rule: &Rule,
    facts: &Facts<'_>,
    client: Option<IpAddr>,
    answer: RouteAnswer,
) -> RouteAnswer {
    let answer = RouteAnswer { route: Some(matched(snapshot, rule)), ..answer };
    let refusal = client.and_then(|client| snapshot.router.refusal(rule, facts, client));
    if let (Some(by), Some(client)) = (refusal, client) {
        let why = refused(snapshot, rule, by, client);
        return RouteAnswer { outcome: Outcome::Denied, status: Some(403), why: Some(why), ..answer };
    }
    let actions = rule.actions.as_deref();
    let open = client.is_none() && snapshot.router.looks_at_client(rule, facts);
    let why = open.then(|| "only for some clients, and no client's address was given".to_owned());
    if let Some(elsewhere) = actions.and_then(|actions| actions.elsewhere(facts)) {
        let (status, location) = (Some(elsewhere.status.as_u16()), Some(elsewhere.location));
        return RouteAnswer { outcome: Outcome::Redirected, status, location, why, ..answer };
    }
    let service = &snapshot.services[rule.service];
    let path = actions.map_or(facts.path.into(), |actions| Actions::path(actions, facts.path));
    let query = facts.query.map(|query| format!("?{query}")).unwrap_or_default();
    RouteAnswer {
        outcome: Outcome::Forwarded,
        sent_as: Some(format!("{path}{query}")),
        candidates: candidates(service, facts),
        why,
        ..answer
    }
}

fn refused(snapshot: &Snapshot, rule: &Rule, by: &Rule, client: IpAddr) -> String {
    if (by.service, by.index) == (rule.service, rule.index) {
        return format!("the route's `deny` and `allow` do not let {client} in");
    }
    let service = &snapshot.services[by.service].name;
    format!(
        "an endpoint may read the path in another way, and the route {} of `{service}` does not let {client} in",
        by.route
    )
}

/// The versions that the request may go to: one, if a pin decides; else all that the coin can draw.
fn candidates(service: &Service, facts: &Facts<'_>) -> Vec<Candidate> {
    let split = &service.split;
    if let Some(pin) = split.pins.iter().find(|pin| pin.matcher.matches(facts)) {
        let pinned = pin_text(&pin.matcher);
        return vec![candidate(service, pin.version, Weight::FULL, Selected::Forced, Some(pinned))];
    }
    let canary = split.canary.filter(|_| !split.weight.is_zero());
    let stable = split.canary.map_or(Weight::FULL, |_| split.weight.rest());
    let shares = [Some((split.stable, stable)), canary.map(|canary| (canary, split.weight))];
    let shares = shares.into_iter().flatten().filter(|(_, share)| !share.is_zero());
    shares.map(|(version, share)| candidate(service, version, share, Selected::Weight, None)).collect()
}

fn candidate(service: &Service, at: usize, share: Weight, selected: Selected, pin: Option<String>) -> Candidate {
    let Version { name, pool, .. } = &service.versions[at];
    let role = service.split.role(at);
    let wanted = pool.members.iter().filter(|member| member.wanted());
    let endpoints = wanted.map(|member| member.endpoint.address.to_string()).collect();
    Candidate { version: name.clone(), role, share, selected: selected.as_str().to_owned(), pin, endpoints }
}

fn pin_text(matcher: &Matcher) -> String {
    let (kind, name, value) = match matcher {
        Matcher::Header { name, value } => ("header", name.as_str(), value),
        Matcher::Cookie { name, value } => ("cookie", name.as_str(), value),
        Matcher::Query { name, value } => ("query", name.as_str(), value),
    };
    format!("{kind} {name}{}", value.as_ref().map(|value| format!("={value}")).unwrap_or_default())
}

fn matched(snapshot: &Snapshot, rule: &Rule) -> MatchedRoute {
    let line = &rule.route.line;
    MatchedRoute {
        service: snapshot.services[rule.service].name.clone(),
        index: rule.index,
        pattern: rule.route.to_string(),
        priority: rule.route.priority,
        place: line.place.to_string(),
        text: line.text.to_string(),
    }
}

fn passed(snapshot: &Snapshot, rule: &Rule, fate: Fate<'_>) -> Option<Passed> {
    let why = match fate {
        Fate::Chosen => return None,
        Fate::Later => "another one comes first".to_owned(),
        Fate::Unmet(unmet @ (Unmet::Method(_) | Unmet::Header(_) | Unmet::Query(_))) => unmet.to_string(),
    };
    Some(Passed { route: matched(snapshot, rule), why })
}

/// What was asked about, read.
struct Request {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl Request {
    fn read(question: &Question) -> Result<Request, Problem> {
        let method = Method::from_bytes(question.method.as_bytes());
        let method = method.map_err(|_| wrong("/method", "not a method", "write `GET`, say"))?;
        let url = Uri::from_str(&question.url);
        let url = url.map_err(|error| wrong("/url", error, "write `http://shop.example.com/cart?item=1`"))?;
        let headers = question.headers.iter().enumerate().map(|(at, field)| header(at, field));
        let headers: HeaderMap = headers.collect::<Result<_, _>>()?;
        let said = headers.get("host").and_then(|host| host.to_str().ok()).map(str::parse);
        let said = said.transpose().map_err(|error| wrong("/headers", error, "write `host: shop.example.com`"))?;
        let authority: Option<Authority> = url.authority().cloned().or(said);
        let host = authority.map(|authority| authority.host().to_owned()).unwrap_or_default();
        let path = if matches!(url.path(), "" | "*") { "/" } else { url.path() }.to_owned();
        if !path.starts_with('/') {
            return Err(wrong("/url", "it has no path", "write `http://shop.example.com/cart`, or `/cart`"));
        }
        Ok(Request { method, host, path, query: url.query().map(str::to_owned), headers })
    }

    /// From nowhere, when nobody said where from.
    fn facts(&self, client: Option<IpAddr>) -> Facts<'_> {
        let Request { method, host, path, query, headers } = self;
        let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Facts { method, host, path, query: query.as_deref(), headers, client }
    }
}

fn header(at: usize, field: &Field) -> Result<(HeaderName, HeaderValue), Problem> {
    let help = "write {\"name\":\"x-canary\",\"value\":\"always\"}";
    let name = HeaderName::from_bytes(field.name.as_bytes());
    let name = name.map_err(|error| wrong(&format!("/headers/{at}/name"), error, help))?;
    let value = HeaderValue::from_str(&field.value);
    Ok((name, value.map_err(|error| wrong(&format!("/headers/{at}/value"), error, help))?))
}

fn wrong(pointer: &str, what: impl std::fmt::Display, help: &str) -> Problem {
    let part = pointer.split('/').nth(1).unwrap_or_default();
    Problem::field(pointer, format!("`{part}` cannot be read: {what}"), help)
}

const EXAMPLE: &str = "{\"method\":\"GET\",\"url\":\"http://shop.example.com/cart\"}";

/// Routes that are told of beside the one that was found.
const MOST_PASSED: usize = 20;
