//! The API from outside: requests in, answers out, in front of a small engine.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::caller::Peer;
use super::guard::Hosts;
use super::server::{BindError, bind, router, serve};
use super::testing::{Engine, conviction, percent, shop, version};
use super::wire::{
    Administrative, Changed, EndpointChanged, Endpoints, Problem, Service, Services, Split, Version, VersionChanged,
    Versions,
};
use super::{Outside, Readiness};
use crate::control::command::Control;
use crate::domain::judge::{Hold, Mode, Verdict};
use crate::domain::split::Role;

struct World {
    engine: Arc<Engine>,
    readiness: Arc<Readiness>,
    closing: CancellationToken,
    router: TowerToHyperService<axum::Router>,
}

/// An answer, read whole.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status and type; asserts that it is a problem in full.
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem: Problem = self.json();
        assert_eq!(problem.status, self.status);
        assert!(!problem.title.is_empty() && !problem.detail.is_empty() && !problem.help.is_empty(), "{problem:?}");
        (problem.status, problem.kind.trim_start_matches("/problems/").to_owned())
    }

    fn pointers(&self) -> Vec<String> {
        self.json::<Problem>().errors.into_iter().map(|error| error.pointer).collect()
    }
}

fn is(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}

fn world() -> World {
    let (engine, control) = Engine::start([shop()]);
    world_of(engine, control)
}

fn world_of(engine: Arc<Engine>, control: Control) -> World {
    let (readiness, closing) = (Arc::<Readiness>::default(), CancellationToken::new());
    let api = Api::new(control, readiness.clone(), closing.clone());
    let bound = SocketAddr::from(([127, 0, 0, 2], 9900));
    World { engine, readiness, closing, router: TowerToHyperService::new(router(api, Hosts::of(bound))) }
}

impl World {
    async fn open(&self, request: Request<Body>) -> Response {
        self.router.call(request).await.unwrap()
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.open(request).await.into_parts();
        Answer { status: head.status.as_u16(), headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, &[], "")).await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(request("POST", path, &[], body)).await
    }

    async fn patch(&self, body: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(request("PATCH", "/v1/services/shop/split", headers, body)).await
    }
}

fn peer() -> Peer {
    Peer { address: ([127, 0, 0, 1], 5).into(), hang_up: CancellationToken::new() }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).extension(peer());
    let own = headers.iter().any(|(name, _)| *name == "host");
    if !own {
        request = request.header("host", "localhost:9900");
    }
    if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/json");
    }
    request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::from(body.to_owned())).unwrap()
}

#[tokio::test]
async fn a_service_is_shown_as_it_stands() {
    let world = world();
    world.engine.saw("v2", 90, 10, 2_000);
    world.engine.stands(Some(0.11), 212.0);
    let answer = world.get("/v1/services/shop").await;
    assert_eq!((answer.status, &answer.headers["etag"]), (200, &"\"0\"".parse().unwrap()));
    assert_eq!(answer.headers["cache-control"], "no-store");
    let shop: Service = answer.json();
    assert_eq!((shop.weight, shop.share, shop.evidence.towards_1000), (percent(10), Some(0.11), 212.0));
    let roles: Vec<_> = shop.versions.iter().map(|version| (version.role, version.weight)).collect();
    assert_eq!(roles, [(Some(Role::Stable), percent(90)), (Some(Role::Canary), percent(10)), (None, percent(0))]);
    let v2 = &shop.versions[1];
    assert_eq!((v2.error_rate, v2.counts.last_minute.failure, v2.counts.exposed), (Some(0.1), 10, 10));
    assert!((v2.latency_ms.unwrap().p99 - 2.0).abs() < 0.03);
    assert_eq!(v2.endpoints[0].addresses, ["127.0.0.1:9002"]);
    assert_eq!((shop.versions[0].error_rate, shop.versions[0].latency_ms), (None, None));
    assert_eq!(world.get("/v1/services").await.json::<Services>().services, [shop]);
}

#[tokio::test]
async fn a_question_about_a_request_is_answered_or_pointed_at() {
    let world = world();
    let answer = world.post("/v1/route", r#"{"method":"GET","url":"http://any/x"}"#).await;
    let said: Value = answer.json();
    assert_eq!((answer.status, &said["outcome"], &said["route"]["pattern"]), (200, &json!("forwarded"), &json!("*/")));
    assert_eq!(said["candidates"][1]["endpoints"], json!(["127.0.0.1:9002"]));
    for (body, pointer) in [
        (r#"{"method":"G T","url":"/"}"#, "/method"),
        (r#"{"method":"GET","url":"http://a b/"}"#, "/url"),
        (r#"{"method":"GET","url":"shop/x"}"#, "/url"),
        (
            r#"{"method":"GET","url":"/","headers":[{"name":"a","value":"b"},{"name":"a b","value":"c"}]}"#,
            "/headers/1/name",
        ),
        (r#"{"method":"GET","url":"/","headers":[{"name":"a","value":"\n"}]}"#, "/headers/0/value"),
        (r#"{"method":"GET","url":"/","client_address":"localhost"}"#, "/client_address"),
        (r#"{"method":"GET","url":"/","body":"x"}"#, "/body"),
    ] {
        let answer = world.post("/v1/route", body).await;
        assert_eq!(
            (answer.problem(), answer.pointers()),
            (is(422, "invalid-field"), vec![pointer.to_owned()]),
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_wire_is_snake_case_and_says_null_for_unknown() {
    let shop: Value = world().get("/v1/services/shop").await.json();
    for key in ["share", "hold", "probe", "would_roll_back"] {
        assert_eq!(shop[key], Value::Null, "{key}");
    }
    assert_eq!((&shop["weight"], &shop["mode"]), (&json!("10%"), &json!("abort-only")));
    assert_eq!(shop["evidence"]["towards_1000"], json!(0.0));
    assert_eq!(shop["versions"][1]["counts"]["last_minute"]["failure"], json!(0));
}

#[tokio::test]
async fn raising_needs_the_newest_revision() {
    let world = world();
    let body = r#"{"weight":"25%"}"#;
    assert_eq!(world.patch(body, &[]).await.problem(), is(428, "precondition-required"));
    assert_eq!(world.patch(body, &[("if-match", "\"9\"")]).await.problem(), is(412, "precondition-failed"));
    assert_eq!(world.patch(body, &[("if-match", "W/\"0\"")]).await.problem(), is(412, "precondition-failed"));
    let raised = world.patch(body, &[("if-match", "\"0\"")]).await;
    assert_eq!((raised.status, &raised.headers["etag"]), (200, &"\"1\"".parse().unwrap()));
    let Changed { changed, split, .. } = raised.json();
    assert_eq!((changed, split.weight, split.revision), (true, percent(25), 1));
    assert_eq!(world.patch(r#"{"weight":"30%"}"#, &[("if-match", "*")]).await.status, 200);
    assert_eq!(world.get("/v1/services/shop/split").await.json::<Split>().weight, percent(30));
}

#[tokio::test]
async fn lowering_needs_nothing_and_staying_changes_nothing() {
    let world = world();
    let same = world.patch(r#"{"weight":"10%"}"#, &[]).await;
    assert_eq!((same.status, same.json::<Changed>().changed), (200, false));
    let lowered = world.patch(r#"{"weight":"0.5%"}"#, &[("if-match", "\"77\"")]).await;
    assert_eq!((lowered.status, lowered.json::<Changed>().split.weight.basis_points()), (200, 50));
}

#[tokio::test]
async fn a_dry_run_is_answered_like_a_real_one_and_changes_nothing() {
    let world = world();
    let dry = async |percent: &str, headers: &[(&str, &str)]| {
        let body = format!("{{\"weight\":\"{percent}\"}}");
        world.send(request("PATCH", "/v1/services/shop/split?dry_run=true", headers, &body)).await
    };
    assert_eq!(dry("25%", &[]).await.problem(), is(428, "precondition-required"));
    assert_eq!(dry("25%", &[("if-match", "\"9\"")]).await.problem(), is(412, "precondition-failed"));
    for (weight, changes) in [("25%", true), ("0%", true), ("10%", false)] {
        let answer: Changed = dry(weight, &[("if-match", "*")]).await.json();
        assert_eq!((answer.changed, answer.dry_run, answer.split.weight), (changes, true, percent(10)), "{weight}");
    }
    let aborted: Changed = world.post("/v1/services/shop:abort?dry_run=true", "").await.json();
    assert_eq!((aborted.changed, aborted.dry_run, aborted.split.sealed.len()), (true, true, 0));
}

#[tokio::test]
async fn a_dry_run_leaves_versions_and_endpoints_as_they_are() {
    let world = world();
    let ask = async |method, path: &str, body: &str| {
        world.send(request(method, &format!("{path}?dry_run=true"), &[("if-match", "*")], body)).await
    };
    let drained: EndpointChanged = ask("PATCH", V2, "{\"state\":\"draining\"}").await.json();
    assert!(drained.changed && drained.dry_run && !drained.durable);
    assert_eq!(drained.endpoint.unwrap().administrative, Administrative::Ready);
    let added = ask("PUT", "/v1/services/shop/versions/v9", "{\"endpoints\":[\"127.0.0.1:9009\"]}").await;
    let added: VersionChanged = added.json();
    assert!(added.changed && added.dry_run && added.version.is_none());
    assert_eq!(added.revision, 0);
}

#[tokio::test]
async fn pausing_and_resuming_state_their_target() {
    let world = world();
    let paused: Changed = world.post("/v1/services/shop:pause", "{\"for\":\"10s\"}").await.json();
    assert!(paused.changed && paused.split.paused.is_some());
    assert_eq!(paused.split.revision, 0, "nothing that a person bases a request on has changed");
    let resumed: Changed = world.post("/v1/services/shop:resume", "").await.json();
    assert!(resumed.changed && resumed.split.paused.is_none());
    let again: Changed = world.post("/v1/services/shop:resume", "{}").await.json();
    assert!(!again.changed);
    for (verb, body) in [("pause", "{\"for\":\"0s\"}"), ("pause", "{\"for\":\"11m\"}"), ("resume", "{\"now\":true}")] {
        let answer = world.post(&format!("/v1/services/shop:{verb}"), body).await;
        assert_eq!(answer.problem(), is(422, "invalid-field"), "{body}");
        assert_eq!(answer.pointers().len(), 1);
    }
}

#[tokio::test]
async fn a_wrong_field_is_pointed_at() {
    let world = world();
    for (body, pointer) in [
        (r#"{"weight":"25.125%"}"#, "/weight"),
        (r#"{"weight":"101%"}"#, "/weight"),
        (r#"{"weight":25}"#, "/weight"),
        (r#"{"weight":"1%","wait":5}"#, "/wait"),
        (r#"{"weight":"1%","a/b~":5}"#, "/a~1b~0"),
        (r#"{"weight":"1%","weight":"90%"}"#, ""),
        (r"{}", ""),
    ] {
        let answer = world.patch(body, &[("if-match", "*")]).await;
        assert_eq!(answer.problem().0, 422, "{body}");
        let pointers = answer.pointers();
        assert_eq!(pointers, [pointer], "{body}");
        assert!(!answer.json::<Problem>().detail.contains(" line "), "{body}");
    }
    for body in ["{", "", "[\"1%\"]", "null", "{\"weight\":\"1%\"} x", "\u{0}"] {
        let request = request("PATCH", "/v1/services/shop/split", &[("content-type", "application/json")], body);
        assert_eq!(world.send(request).await.problem(), is(400, "bad-body"), "{body}");
    }
    assert_eq!(world.get("/v1/services/shop/split").await.json::<Split>().revision, 0);
}

#[tokio::test]
async fn a_rolled_back_canary_is_raised_only_after_unsealing() {
    let world = world();
    world.engine.judged("shop", Mode::AbortOnly, Verdict::Worse(conviction()));
    let raise = r#"{"weight":"10%"}"#;
    assert_eq!(world.patch(raise, &[("if-match", "\"1\"")]).await.problem(), is(409, "sealed"));
    assert_eq!(world.patch(raise, &[]).await.problem(), is(409, "sealed"));
    assert_eq!(world.post("/v1/services/shop:promote", "").await.problem(), is(409, "sealed"));
    let shop: Service = world.get("/v1/services/shop").await.json();
    let sealed = shop.versions[1].sealed.clone().unwrap();
    assert_eq!(
        (sealed.by.as_str(), sealed.why, sealed.conviction),
        ("judge", conviction().because, Some(conviction()))
    );

    let unsealed = world.post("/v1/services/shop:unseal", "").await;
    assert_eq!((unsealed.status, unsealed.json::<Changed>().split.weight), (200, percent(0)));
    assert!(!world.post("/v1/services/shop:unseal", "").await.json::<Changed>().changed);
    assert!(!world.post("/v1/services/shop:unseal", r#"{"version":"v2"}"#).await.json::<Changed>().changed);
    assert_eq!(world.patch(raise, &[("if-match", "\"2\"")]).await.status, 200);
}

#[tokio::test]
async fn unsealing_names_a_version_of_the_service() {
    let world = world();
    let unknown = world.post("/v1/services/shop:unseal", r#"{"version":"v9"}"#).await;
    assert_eq!((unknown.problem(), unknown.pointers()), (is(422, "invalid-field"), vec!["/version".to_owned()]));
    let misspelt = world.post("/v1/services/shop:unseal", r#"{"verson":"v2"}"#).await;
    assert_eq!((misspelt.problem().0, misspelt.pointers()), (422, vec!["/verson".to_owned()]));
}

#[tokio::test]
async fn aborting_is_never_refused_and_tells_who_and_why() {
    let world = world();
    let headers = [("penstock-actor", "alice"), ("penstock-reason", "checkout läuft nicht"), ("if-match", "\"77\"")];
    for changed in [true, false] {
        let answer = world.send(request("POST", "/v1/services/shop:abort", &headers, "{}")).await;
        // `If-Match` is stale both times: abort ignores it.
        assert_eq!((answer.status, answer.json::<Changed>().changed), (200, changed));
    }
    let shop: Service = world.get("/v1/services/shop").await.json();
    let sealed = shop.versions[1].sealed.clone().unwrap();
    assert_eq!((sealed.by.as_str(), sealed.why.as_str()), ("alice", "checkout läuft nicht"));
}

#[tokio::test]
async fn promoting_makes_the_canary_stable_and_honours_if_match() {
    let world = world();
    let stale = world.send(request("POST", "/v1/services/shop:promote", &[("if-match", "\"5\"")], "")).await;
    assert_eq!(stale.problem(), is(412, "precondition-failed"));
    assert_eq!(world.post("/v1/services/shop:promote", r#"{"version":"v2"}"#).await.problem().0, 422);
    let Changed { changed, split, .. } = world.post("/v1/services/shop:promote", "").await.json();
    assert_eq!((changed, split.stable, split.canary), (true, version("v2"), None));
    assert_eq!(world.patch(r#"{"weight":"5%"}"#, &[("if-match", "*")]).await.problem(), is(409, "no-canary"));
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let world = world();
    for path in ["/", "/v1", "/v2/services", "/v1/services/", "/v1/services/shop/verdicts"] {
        assert_eq!(world.get(path).await.problem(), is(404, "no-such-path"), "{path}");
    }
    for path in ["/v1/services/cart", "/v1/services/cart/split", "/v1/services/a%20b", "/v1/services/shop:abort"] {
        assert_eq!(world.get(path).await.problem(), is(404, "no-such-service"), "{path}");
    }
    assert_eq!(world.get("/v1/services/%ff").await.problem(), is(400, "bad-path"));
    assert_eq!(world.post("/v1/services/cart:abort", "").await.problem(), is(404, "no-such-service"));
    assert_eq!(world.post("/v1/services/shop:explode", "").await.problem(), is(404, "no-such-path"));
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let world = world();
    for (method, path, allowed) in [
        ("DELETE", "/v1/services", "GET,HEAD"),
        ("PUT", "/v1/services/shop/split", "GET,HEAD,PATCH"),
        ("POST", "/v1/services/shop", "GET,HEAD"),
        ("POST", "/metrics", "GET,HEAD"),
    ] {
        let answer = world.send(request(method, path, &[], "")).await;
        assert_eq!(answer.problem(), is(405, "method-not-allowed"), "{method} {path}");
        assert_eq!(answer.headers["allow"], allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn only_known_hosts_are_answered() {
    let world = world();
    let asked = async |host: &'static str| world.send(request("GET", "/health", &[("host", host)], "")).await;
    for host in ["localhost", "LOCALHOST:9900", "127.0.0.1", "127.0.0.1:9900", "[::1]:9900", "127.0.0.2:9900"] {
        assert_eq!(asked(host).await.status, 200, "{host}");
    }
    for host in ["evil.example", "localhost:9901", "localhost.evil.example", "localhost@evil.example", ""] {
        assert_eq!(asked(host).await.problem(), is(421, "unknown-host"), "{host}");
    }
    let absolute = request("GET", "http://evil.example/health", &[], "");
    assert_eq!(world.send(absolute).await.problem(), is(421, "unknown-host"));
    let twice = request("GET", "/health", &[("host", "localhost"), ("host", "localhost")], "");
    assert_eq!(world.send(twice).await.problem(), is(400, "bad-header"));
}

#[tokio::test]
async fn foreign_pages_are_refused() {
    let world = world();
    let asked = async |headers: &'static [(&'static str, &'static str)]| {
        world.send(request("POST", "/v1/services/shop:abort", headers, "")).await
    };
    for headers in [
        &[("origin", "https://evil.example")][..],
        &[("origin", "null")],
        &[("origin", "http://localhost:3000")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "http://localhost:9900"), ("sec-fetch-site", "cross-site")],
    ] {
        assert_eq!(asked(headers).await.problem(), is(403, "foreign-origin"), "{headers:?}");
    }
    assert_eq!(asked(&[("origin", "http://localhost:9900"), ("sec-fetch-site", "same-origin")]).await.status, 200);
    assert_eq!(asked(&[("sec-fetch-site", "none")]).await.status, 200);
}

#[tokio::test]
async fn a_body_is_json_and_not_too_large() {
    let world = world();
    for form in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"] {
        let answer = world.patch(r#"{"weight":"1%"}"#, &[("content-type", form)]).await;
        assert_eq!(answer.problem(), is(415, "not-json"), "{form}");
    }
    let patch = world.patch(r#"{"weight":"1%"}"#, &[("content-type", "application/merge-patch+json; charset=utf-8")]);
    assert_eq!(patch.await.status, 200);
    let large = format!("{{\"weight\":\"{}\"}}", "1".repeat(1 << 20));
    assert_eq!(world.patch(&large, &[]).await.problem(), is(413, "body-too-large"));
}

#[tokio::test]
async fn a_reason_is_one_bounded_line() {
    let world = world();
    let long = "x".repeat(513);
    for reason in [long.as_str(), "a\tb", "esc\u{9b}x"] {
        let answer = world.patch(r#"{"weight":"1%"}"#, &[("penstock-reason", reason)]).await;
        assert_eq!(answer.problem(), is(400, "bad-header"), "{reason}");
    }
}

#[tokio::test]
async fn ready_says_what_is_missing_and_health_does_not_mind() {
    let world = world();
    assert_eq!(world.get("/health").await.status, 200);
    let early = world.get("/ready").await;
    assert_eq!(early.problem(), is(503, "not-ready"));
    assert!(early.json::<Problem>().detail.contains("snapshot"));
    world.readiness.listening();
    world.readiness.published();
    assert_eq!(world.get("/ready").await.status, 200);
    world.readiness.stopping();
    assert!(world.get("/ready").await.json::<Problem>().detail.contains("shutting down"));
    assert_eq!(world.get("/health").await.status, 200);
}

/// The events of a stream, until the server ends it.
async fn events(world: &World, last: Option<&str>, meanwhile: impl AsyncFnOnce()) -> Vec<(String, String, Value)> {
    let headers: Vec<_> = last.map(|last| ("last-event-id", last)).into_iter().collect();
    let answer = world.open(request("GET", "/v1/events", &headers, "")).await;
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (StatusCode::OK, &"text/event-stream".parse().unwrap())
    );
    meanwhile().await;
    // Let the follower take what is on the way before the end.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    world.closing.cancel();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&text).unwrap().to_owned();
    let event = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        Some((field("id: ")?, field("event: ")?, serde_json::from_str(&field("data: ")?).unwrap()))
    };
    text.split("\n\n").filter_map(event).collect()
}

#[tokio::test]
async fn a_watcher_hears_what_happens_from_now_on() {
    let world = world();
    world.post("/v1/services/shop:abort", "").await;
    let heard = events(&world, None, async || {
        world.post("/v1/services/shop:unseal", "").await;
    });
    let heard = heard.await;
    assert_eq!(heard.len(), 1);
    let (id, name, data) = &heard[0];
    assert_eq!((id.as_str(), name.as_str()), ("2", "unsealed"));
    assert_eq!((&data["service"], &data["version"]), (&json!("shop"), &json!("v2")));
    assert_eq!(data["actor"]["name"], json!("api 127.0.0.1"));
}

#[tokio::test]
async fn a_watcher_that_comes_back_misses_nothing() {
    let world = world();
    world.engine.judged("shop", Mode::AbortOnly, Verdict::Hold(Hold::CanaryOverLimit));
    world.engine.judged("shop", Mode::AbortOnly, Verdict::Worse(conviction()));
    let heard = events(&world, Some("1"), async || {
        world.post("/v1/services/shop:unseal", "").await;
    });
    let names: Vec<_> = heard.await.into_iter().map(|(id, name, _)| (id, name)).collect();
    assert_eq!(names, [("2".into(), "rolled_back".into()), ("3".into(), "unsealed".into())]);
}

#[tokio::test]
async fn a_watcher_from_before_a_restart_is_told_to_read_again() {
    let world = world();
    world.post("/v1/services/shop:abort", "").await;
    let heard = events(&world, Some("18446744073709551615"), async || {}).await;
    assert_eq!(heard, [("1".to_owned(), "reset".to_owned(), json!({"revision": 1}))]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_hears_a_heartbeat_when_nothing_happens() {
    let world = world();
    let mut body = world.open(request("GET", "/v1/events", &[], "")).await.into_body();
    let began = tokio::time::Instant::now();
    let mut heard = async || body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(heard().await, ": watching\nretry: 1000\n\n");
    assert_eq!(heard().await, ": still here\n\n");
    assert_eq!(began.elapsed().as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_takes_nothing_is_dropped() {
    let (world, peer) = (world(), peer());
    let mut watch = request("GET", "/v1/events", &[], "");
    watch.extensions_mut().insert(peer.clone());
    let body = world.open(watch).await.into_body();
    for _ in 0..50 {
        world.post("/v1/services/shop:abort", "").await;
        world.post("/v1/services/shop:unseal", "").await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert!(peer.hang_up.is_cancelled());
    let taken = body.collect().await.unwrap().to_bytes();
    let taken = std::str::from_utf8(&taken).unwrap().matches("event: ").count();
    assert!((1..100).contains(&taken), "{taken}");
}

#[tokio::test]
async fn watchers_cannot_take_every_connection() {
    let world = world();
    let mut watching = Vec::new();
    for _ in 0..64 {
        watching.push(world.open(request("GET", "/v1/events", &[], "")).await);
    }
    assert_eq!(world.get("/v1/events").await.problem(), is(503, "too-many-watchers"));
}

#[tokio::test]
async fn without_an_engine_reading_goes_on() {
    let (engine, control, commands) = Engine::new([shop()]);
    drop(commands);
    let world = world_of(engine, control);
    assert_eq!(world.post("/v1/services/shop:abort", "").await.problem(), is(503, "unavailable"));
    assert_eq!(world.get("/v1/services/shop").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_does_not_hang_the_caller() {
    let (engine, control, _commands) = Engine::new([shop()]);
    let world = world_of(engine, control);
    assert_eq!(world.post("/v1/services/shop:abort", "").await.problem(), is(503, "unavailable"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_is_not_waited_for() {
    let world = world();
    let mut patch = request("PATCH", "/v1/services/shop/split", &[("content-type", "application/json")], "");
    let (_silent, body) = http_body_util::channel::Channel::<Bytes>::new(1);
    *patch.body_mut() = Body::new(body);
    assert_eq!(world.send(patch).await.problem(), is(408, "timeout"));
}

#[tokio::test]
async fn at_shutdown_streams_end_and_the_listener_closes() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (_engine, control) = Engine::start([shop()]);
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving =
        tokio::spawn(serve(listener, control, Arc::default(), Outside::default(), async { stopped.await.unwrap() }));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stop.send(()).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    serving.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_metrics_are_open_metrics() {
    let world = world();
    world.engine.saw("v2", 90, 10, 2_000);
    world.engine.saw("v1", 1, 0, 20_000_000);
    world.engine.stands(Some(0.11), 1_000.0);
    let answer = world.get("/metrics").await;
    assert!(
        answer.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text; version=1.0.0")
    );
    let text = std::str::from_utf8(&answer.body).unwrap();
    assert!(text.ends_with("# EOF\n"));
    for line in [
        "penstock_build_info{version=\"0.1.0\"} 1",
        "penstock_lost_outcomes_total 0",
        "penstock_log_dropped_total 0",
        "http_server_active_requests 0",
        "penstock_split_weight_ratio{service=\"shop\",version=\"v2\"} 0.1",
        "penstock_split_weight_ratio{service=\"shop\",version=\"v1\"} 0.9",
        "penstock_split_observed_ratio{service=\"shop\",version=\"v2\"} 0.11",
        "penstock_attempts_total{service=\"shop\",version=\"v2\",class=\"failure\"} 10",
        "penstock_exposed_failures_total{service=\"shop\",version=\"v2\"} 10",
        "penstock_shielded_requests_total{service=\"shop\",version=\"v2\"} 0",
        "penstock_endpoint_in_flight{service=\"shop\",version=\"v1\",endpoint=\"127.0.0.1:9001\"} 0",
        "http_server_request_duration_seconds_count{penstock_service=\"shop\",penstock_version=\"v2\",penstock_role=\"canary\",http_request_method=\"GET\",url_scheme=\"http\",http_response_status_code=\"500\",network_protocol_version=\"1.1\",error_type=\"500\"} 10",
        "http_server_request_duration_seconds_bucket{le=\"0.005\",penstock_service=\"shop\",penstock_version=\"v2\",penstock_role=\"canary\",http_request_method=\"GET\",url_scheme=\"http\",http_response_status_code=\"200\",network_protocol_version=\"1.1\"} 90",
        "http_server_request_duration_seconds_bucket{le=\"10.0\",penstock_service=\"shop\",penstock_version=\"v1\",penstock_role=\"stable\",http_request_method=\"GET\",url_scheme=\"http\",http_response_status_code=\"200\",network_protocol_version=\"1.1\"} 0",
        "http_server_request_duration_seconds_sum{penstock_service=\"shop\",penstock_version=\"v1\",penstock_role=\"stable\",http_request_method=\"GET\",url_scheme=\"http\",http_response_status_code=\"200\",network_protocol_version=\"1.1\"} 20.0005",
        "http_client_request_duration_seconds_count{penstock_service=\"shop\",penstock_version=\"v1\",penstock_role=\"stable\",server_address=\"127.0.0.1\",server_port=\"9001\"} 0",
        "penstock_endpoint_ejections_total{service=\"shop\",version=\"v1\",endpoint=\"127.0.0.1:9001\"} 0",
        "penstock_endpoint_ejected{service=\"shop\",version=\"v1\",endpoint=\"127.0.0.1:9001\"} 0",
        "penstock_upstream_connections{service=\"shop\",version=\"v1\",endpoint=\"127.0.0.1:9001\",state=\"idle\"} 0",
        "penstock_requests_waiting{service=\"shop\",version=\"v2\"} 0",
        "penstock_limit_refusals_total{service=\"shop\",version=\"v2\"} 0",
    ] {
        assert!(text.lines().any(|seen| seen == line), "{line}\n\n{text}");
    }
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert!((value("penstock_analysis_evidence{") - value("penstock_analysis_threshold{")).abs() < 1e-9);
    every_sample_belongs_to_a_family(text);
}

/// Every line is a comment or `name{labels} value`, of a family announced above it.
fn every_sample_belongs_to_a_family(text: &str) {
    let mut family = "";
    for line in text.lines() {
        if let Some(announced) = line.strip_prefix("# TYPE ") {
            family = announced.split_once(' ').unwrap().0;
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(family) && value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[test]
fn other_machines_are_kept_out() {
    for address in ["0.0.0.0:0", "192.0.2.1:9900", "[::]:0"] {
        assert!(matches!(bind(address.parse().unwrap()), Err(BindError::NotLoopback(_))), "{address}");
    }
    assert!(bind("127.0.0.1:0".parse().unwrap()).is_ok());
}

const V1: &str = "/v1/services/shop/versions/v1/endpoints/127.0.0.1:9001";
const V2: &str = "/v1/services/shop/versions/v2/endpoints/127.0.0.1:9002";

#[tokio::test]
async fn taking_an_endpoint_away_needs_no_revision_and_giving_it_back_does() {
    let world = world();
    let set =
        |state: &str, fields: &[(&str, &str)]| request("PATCH", V2, fields, &format!("{{\"state\":\"{state}\"}}"));
    let drained: EndpointChanged = world.send(set("draining", &[("if-match", "\"77\"")])).await.json();
    assert_eq!((drained.changed, drained.revision, drained.endpoint.unwrap().state.as_str()), (true, 1, "draining"));
    assert!(!world.send(set("draining", &[])).await.json::<EndpointChanged>().changed);
    assert_eq!(world.send(set("ready", &[])).await.problem(), is(428, "precondition-required"));
    assert_eq!(world.send(set("ready", &[("if-match", "\"0\"")])).await.problem(), is(412, "precondition-failed"));
    let ready = world.send(set("ready", &[("if-match", "\"1\"")])).await;
    assert_eq!(ready.headers["etag"], "\"2\"");
    assert_eq!(ready.json::<EndpointChanged>().endpoint.unwrap().state, "healthy");
    assert_eq!(world.send(request("DELETE", V2, &[], "")).await.status, 200);
    assert_eq!(world.get(V2).await.problem(), is(404, "no-such-endpoint"));
    let again: EndpointChanged = world.send(request("DELETE", V2, &[], "")).await.json();
    assert!(!again.changed && again.endpoint.is_none());
}

#[tokio::test]
async fn the_last_endpoint_of_stable_goes_by_force_only() {
    let world = world();
    let body = "{\"state\":\"maintenance\"}";
    assert_eq!(world.send(request("PATCH", V1, &[], body)).await.problem(), is(409, "last-endpoint"));
    assert_eq!(world.send(request("DELETE", V1, &[], "")).await.problem(), is(409, "last-endpoint"));
    let odd = world.send(request("PATCH", &format!("{V1}?froce=true"), &[], body)).await;
    assert_eq!(odd.problem(), is(400, "bad-path"));
    let forced: EndpointChanged = world.send(request("PATCH", &format!("{V1}?force=true"), &[], body)).await.json();
    assert_eq!(forced.endpoint.unwrap().administrative, Administrative::Maintenance);
}

#[tokio::test]
async fn versions_and_endpoints_are_listed_added_and_removed() {
    let world = world();
    let any = [("if-match", "*")];
    let put = |path: &str, body: &str| request("PUT", &format!("/v1/services/shop/versions/{path}"), &any, body);
    let body = "{\"endpoints\":[\"127.0.0.1:9004\",{\"address\":\"127.0.0.1:9005\",\"weight\":3}]}";
    let added: VersionChanged = world.send(put("v4", body)).await.json();
    let weights = |version: &Version| version.endpoints.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>();
    assert_eq!(weights(&added.version.unwrap()), [1, 3]);
    assert_eq!(world.send(put("v4", "{\"endpoints\":[]}")).await.problem(), is(409, "exists"));
    let put_endpoint = put("v4/endpoints/127.0.0.1:9006", "{\"weight\":7}");
    assert!(world.send(put_endpoint).await.json::<EndpointChanged>().changed);
    let versions: Versions = world.get("/v1/services/shop/versions").await.json();
    assert_eq!(weights(versions.versions.last().unwrap()), [1, 3, 7]);
    let endpoints: Endpoints = world.get("/v1/services/shop/versions/v4/endpoints").await.json();
    assert_eq!((endpoints.endpoints.len(), endpoints.revision), (3, 2));
    for (path, body, pointer) in [
        ("v5", "{\"endpoints\":[\"127.0.0.1:1\",\"http://x/\"]}", "/endpoints/1"),
        ("v5", "{\"endpoints\":[\"127.0.0.1:1\",\"127.0.0.1:1\"]}", "/endpoints/1"),
        ("stable", "{\"endpoints\":[]}", ""),
        ("v4/endpoints/127.0.0.1:9007", "{\"weight\":0}", "/weight"),
        ("v4/endpoints/0.0.0.0:9007", "", ""),
        ("v4/endpoints/nowhere.invalid:80", "", ""),
    ] {
        let refused = world.send(put(path, body)).await;
        assert_eq!(refused.problem(), is(422, "invalid-field"), "{path} {body}");
        assert_eq!(refused.pointers(), [pointer], "{path} {body}");
    }
    let remove = |version: &str| request("DELETE", &format!("/v1/services/shop/versions/{version}"), &[], "");
    assert_eq!(world.send(remove("v1")).await.problem(), is(409, "version-in-use"));
    assert_eq!(world.send(remove("v2")).await.problem(), is(409, "version-in-use"));
    assert!(world.send(remove("v4")).await.json::<VersionChanged>().version.is_none());
    assert_eq!(world.get("/v1/services/shop/versions/v4").await.problem(), is(404, "no-such-version"));
}

#[tokio::test]
async fn another_canary_is_named_at_weight_zero_only() {
    let world = world();
    let name = |version: &str| format!("{{\"version\":\"{version}\"}}");
    let exposed = world.post("/v1/services/shop:canary", &name("v3")).await;
    assert_eq!(exposed.problem(), is(409, "version-in-use"));
    world.patch("{\"weight\":\"0%\"}", &[]).await;
    let changed: Changed = world.post("/v1/services/shop:canary", &name("v3")).await.json();
    assert_eq!(changed.split.canary, Some(version("v3")));
    assert_eq!(world.post("/v1/services/shop:canary", &name("v1")).await.problem(), is(409, "version-in-use"));
    assert_eq!(world.post("/v1/services/shop:canary", &name("v9")).await.problem(), is(422, "invalid-field"));
}
