//! Endpoints that fail their checks, that are drained, added and removed while requests run: no client notices.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use penstock::admin::wire::{Endpoint, EndpointChanged, Endpoints, Version};
use penstock::domain::judge::Trigger;
use penstock::domain::standing::Change;
use serde::de::DeserializeOwned;

use crate::support::{Act, Client, Load, Origin, Penstock, Response, Setup, eventually, throughout};

const CHECKED: &str = "[services.shop.health_check]\ninterval = \"100ms\"\ntimeout = \"100ms\"\n";
/// Several checks long.
const WHILE: Duration = Duration::from_millis(600);

/// An origin whose health can be switched.
struct Patient {
    origin: Origin,
    well: Arc<AtomicBool>,
}

impl Patient {
    fn start(name: &str, well: bool) -> Patient {
        let (origin, well) = (Origin::start(name), Arc::new(AtomicBool::new(well)));
        origin.script({
            let well = well.clone();
            move |request| match request.target() {
                "/health" if !well.load(Ordering::Relaxed) => Act::Status(503),
                _ => Act::Answer,
            }
        });
        Patient { origin, well }
    }

    fn is_well(&self, well: bool) {
        self.well.store(well, Ordering::Relaxed);
    }
}

fn load(penstock: &Penstock) -> Load {
    Load::start(penstock.address(), 8, Duration::from_millis(2))
}

#[track_caller]
fn ask(penstock: &Penstock, method: &str, path: &str, fields: &str, body: &str) -> Response {
    Client::connect(penstock.admin()).ask(&format!(
        "{method} /v1/services/shop{path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{fields}\
         Content-Length: {}\r\n\r\n{body}",
        penstock.admin(),
        body.len()
    ))
}

#[track_caller]
fn done<T: DeserializeOwned>(response: &Response) -> T {
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_slice(&response.body).unwrap()
}

#[track_caller]
fn set(penstock: &Penstock, version: &str, endpoint: &Origin, state: &str) -> EndpointChanged {
    let path = format!("/versions/{version}/endpoints/{}", endpoint.address);
    let body = format!("{{\"state\":\"{state}\"}}");
    done(&ask(penstock, "PATCH", &path, "If-Match: *\r\n", &body))
}

#[track_caller]
fn endpoint(penstock: &Penstock, version: &str, endpoint: &Origin) -> Endpoint {
    let path = format!("/versions/{version}/endpoints/{}", endpoint.address);
    done(&ask(penstock, "GET", &path, "", ""))
}

#[test]
fn an_endpoint_that_fails_its_check_gets_nothing_and_comes_back() {
    let (a, b) = (Patient::start("a", true), Patient::start("b", true));
    let penstock = Setup::of(&[&a.origin, &b.origin]).more(CHECKED).start();
    let load = load(&penstock);
    eventually("both are healthy", || {
        [&a, &b].iter().all(|patient| endpoint(&penstock, "v1", &patient.origin).state == "healthy")
    });
    a.is_well(false);
    eventually("it is unhealthy", || endpoint(&penstock, "v1", &a.origin).state == "unhealthy");
    let sick = endpoint(&penstock, "v1", &a.origin);
    assert_eq!(sick.checks[0].result, "status 503");
    thread::sleep(Duration::from_millis(100)); // for what was under way
    let at_b = load.report().version("b");
    let at_a = load.report().version("a");
    eventually("the other takes it all", || load.report().version("b") > at_b + 100);
    assert_eq!(load.report().version("a"), at_a);
    a.is_well(true);
    eventually("it is back", || load.report().version("a") > at_a + 100);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    let said = penstock.journal(|change| matches!(change, Change::EndpointHealth { .. })).unwrap();
    assert_eq!(said.actor.name, "check");
}

#[test]
fn a_canary_that_never_was_healthy_gets_nothing_until_it_is_and_is_not_blamed() {
    let (stable, canary) = (Patient::start("v1", true), Patient::start("v2", false));
    let penstock = Setup::of(&[&stable.origin]).canary(&[&canary.origin], "50%").more(CHECKED).start();
    let load = load(&penstock);
    eventually("traffic", || load.answered() > 100);
    throughout(WHILE, "nothing for the canary", || load.report().version("v2") == 0);
    assert_eq!(endpoint(&penstock, "v2", &canary.origin).state, "deploying");
    assert_eq!(penstock.classes("v2").total(), 0);
    assert!(penstock.rollback().is_none());
    // Raising is intent, and is answered with what stands in the way; promoting is refused.
    let answer = ask(&penstock, "PATCH", "/split", "If-Match: *\r\n", "{\"weight\":\"60%\"}");
    assert!(answer.status == 200 && answer.text().contains("v2 gets nothing for now"), "{}", answer.text());
    let promote = penstock.post("/v1/services/shop:promote", "");
    assert!(promote.status == 409 && promote.text().contains("version-closed"), "{}", promote.text());
    canary.is_well(true);
    eventually("its share", || load.report().version("v2") > 100);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(penstock.rollback().is_none());
}

#[test]
fn clients_are_spared_a_canary_whose_checks_fail_and_it_is_rolled_back() {
    let (stable, canary) = (Patient::start("v1", true), Patient::start("v2", true));
    let penstock = Setup::of(&[&stable.origin]).canary(&[&canary.origin], "30%").more(CHECKED).start();
    let load = load(&penstock);
    eventually("its share", || load.report().version("v2") > 50);
    canary.is_well(false);
    eventually("a rollback", || penstock.rollback().is_some());
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    let entry = penstock.rollback().unwrap();
    match &entry.event.change {
        // Both guards see it; which one comes first is a matter of ticks.
        Change::RolledBack { conviction, .. } => {
            assert!(matches!(conviction.trigger, Trigger::Health | Trigger::Outage), "{conviction:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(entry.incident.unwrap().exposed_failures, 0);
}

#[test]
fn at_the_start_stable_serves_before_it_has_proven_itself() {
    let stable = Patient::start("v1", false);
    let penstock = Setup::of(&[&stable.origin]).more(CHECKED).start();
    assert_eq!(penstock.get("/").status, 200);
    eventually("a check", || !endpoint(&penstock, "v1", &stable.origin).checks.is_empty());
    assert_eq!(penstock.get("/").status, 200);
    assert_eq!(endpoint(&penstock, "v1", &stable.origin).state, "deploying");
}

#[test]
fn an_endpoint_is_drained_when_its_last_request_is_over_and_not_before() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    for origin in [&a, &b] {
        origin.script(|request| if request.target() == "/slow" { Act::Stall } else { Act::Answer });
    }
    let penstock = Setup::of(&[&a, &b]).start();
    let load = load(&penstock);
    let mut slow = penstock.client();
    slow.send("POST /slow HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    let held = |origin: &Origin| origin.of_method("POST") == 1;
    eventually("the slow request", || held(&a) || held(&b));
    let (busy, name) = if held(&a) { (&a, "a") } else { (&b, "b") };
    assert!(!set(&penstock, "v1", busy, "draining").endpoint.unwrap().drained);
    let drain = |timeout: &str| {
        let admin = penstock.admin().to_string();
        let address = busy.address.to_string();
        run(&["--admin", &admin, "drain", "shop", &address, "--timeout", timeout])
    };
    assert_eq!(drain("500ms").status.code(), Some(4), "still under way");
    let before = load.report().version(name);
    throughout(WHILE, "the slow request holds it", || {
        let endpoint = endpoint(&penstock, "v1", busy);
        endpoint.in_flight == 1 && !endpoint.drained && endpoint.state == "draining"
    });
    assert_eq!(load.report().version(name), before, "nothing new");
    busy.release();
    assert_eq!(slow.receive(false).unwrap().status, 200);
    let ended = drain("20s");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    eventually("its idle connections are closed", || busy.open() == 0);
    assert_eq!(load.report().version(name), before, "nothing new");
    set(&penstock, "v1", busy, "ready");
    eventually("it is back", || load.report().version(name) > before + 50);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_penstock")).args(arguments).output().unwrap()
}

#[test]
fn the_last_endpoint_of_stable_is_taken_away_by_force_only() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let penstock = Setup::of(&[&a, &b]).start();
    set(&penstock, "v1", &a, "maintenance");
    let path = format!("/versions/v1/endpoints/{}", b.address);
    for (method, body) in [("PATCH", "{\"state\":\"draining\"}"), ("DELETE", "")] {
        let refused = ask(&penstock, method, &path, "", body);
        assert!(refused.status == 409 && refused.text().contains("last-endpoint"), "{}", refused.text());
    }
    let forced = ask(&penstock, "PATCH", &format!("{path}?force=true"), "", "{\"state\":\"draining\"}");
    assert_eq!(forced.status, 200, "{}", forced.text());
    let answer = penstock.get("/");
    assert_eq!((answer.status, answer.fault()), (503, "destination_unavailable"));
    set(&penstock, "v1", &b, "ready");
    assert_eq!(penstock.get("/").header("x-version"), Some("b"));
}

#[test]
fn endpoints_come_and_go_under_load_and_no_request_fails() {
    let (a, b, c) = (Origin::start("a"), Origin::start("b"), Origin::start("c"));
    let penstock = Setup::of(&[&a, &b]).start();
    let load = load(&penstock);
    let path = |origin: &Origin| format!("/versions/v1/endpoints/{}", origin.address);
    for round in 0..20 {
        let added: EndpointChanged = done(&ask(&penstock, "PUT", &path(&c), "If-Match: *\r\n", "{\"weight\":3}"));
        assert!(added.changed && added.endpoint.is_some_and(|endpoint| endpoint.weight == 3));
        let before = load.report().version("c");
        eventually("it takes its part", || load.report().version("c") > before);
        let gone: EndpointChanged = done(&ask(&penstock, "DELETE", &path(&c), "", ""));
        assert!(gone.changed && gone.endpoint.is_none(), "{round}");
        let file: EndpointChanged = done(&ask(&penstock, "DELETE", &path(&b), "", ""));
        assert!(file.changed);
        done::<EndpointChanged>(&ask(&penstock, "PUT", &path(&b), "If-Match: *\r\n", ""));
    }
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(report.answered() > 100, "{report:?}");
    eventually("no connection stays with what was removed", || c.open() == 0);
    let listed: Endpoints = done(&ask(&penstock, "GET", "/versions/v1/endpoints", "", ""));
    assert_eq!(listed.endpoints.len(), 2);
}

#[test]
fn a_version_is_added_made_the_canary_and_removed_while_requests_run() {
    let (stable, third) = (Origin::start("v1"), Origin::start("v3"));
    let penstock = Setup::of(&[&stable]).start();
    let load = load(&penstock);
    let body = format!("{{\"endpoints\":[\"{}\"]}}", third.address);
    assert_eq!(ask(&penstock, "PUT", "/versions/v3", "", &body).status, 428, "raising wants a revision");
    done::<serde_json::Value>(&ask(&penstock, "PUT", "/versions/v3", "If-Match: *\r\n", &body));
    let added: Version = done(&ask(&penstock, "GET", "/versions/v3", "", ""));
    assert!(added.open && added.role.is_none());
    assert_eq!(penstock.post("/v1/services/shop:canary", "{\"version\":\"v3\"}").status, 200);
    penstock.set_weight(&mut Client::connect(penstock.admin()), "50%");
    eventually("its share", || load.report().version("v3") > 50);
    let in_use = ask(&penstock, "DELETE", "/versions/v3", "", "");
    assert!(in_use.status == 409 && in_use.text().contains("version-in-use"), "{}", in_use.text());
    penstock.set_weight(&mut Client::connect(penstock.admin()), "0%");
    done::<serde_json::Value>(&ask(&penstock, "DELETE", "/versions/v3", "", ""));
    assert_eq!(ask(&penstock, "GET", "/versions/v3", "", "").status, 404);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert_eq!(penstock.shop().canary, None);
}

#[test]
fn an_endpoint_that_is_penstock_itself_is_refused() {
    let stable = Origin::start("v1");
    let penstock = Setup::of(&[&stable]).start();
    for own in [penstock.address(), penstock.admin()] {
        let path = format!("/versions/v1/endpoints/localhost:{}", own.port());
        let refused = ask(&penstock, "PUT", &path, "If-Match: *\r\n", "");
        assert!(refused.status == 422 && refused.text().contains("Penstock itself"), "{}", refused.text());
    }
}

#[test]
fn a_file_read_again_keeps_what_was_changed_at_run_time_and_forgets_what_it_made_true() {
    let (a, b, c, d) = (Origin::start("a"), Origin::start("b"), Origin::start("c"), Origin::start("d"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("penstock.toml");
    let penstock = Setup::of(&[&a, &b]).start_from(&file);
    let path = |origin: &Origin| format!("/versions/v1/endpoints/{}", origin.address);
    set(&penstock, "v1", &b, "maintenance");
    done::<EndpointChanged>(&ask(&penstock, "PUT", &path(&c), "If-Match: *\r\n", ""));
    let list = |origins: &[&Origin]| {
        let text = std::fs::read_to_string(&file).unwrap();
        let (before, rest) = text.split_once("[services.shop.versions.v1]\nendpoints = ").unwrap();
        let (_, after) = rest.split_once('\n').unwrap();
        let quoted: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
        let listed = format!("[services.shop.versions.v1]\nendpoints = [{}]\n", quoted.join(", "));
        std::fs::write(&file, format!("{before}{listed}{after}")).unwrap();
        let response = penstock.reload();
        assert_eq!(response.status, 200, "{}", response.text());
        response.text()
    };
    let states = || {
        let listed: Endpoints = done(&ask(&penstock, "GET", "/versions/v1/endpoints", "", ""));
        let states = listed.endpoints.into_iter();
        states.map(|endpoint| (endpoint.authority, endpoint.state)).collect::<Vec<_>>()
    };
    let is = |origin: &Origin, state: &str| (origin.address.to_string(), state.to_owned());
    let said = list(&[&a, &b, &d]);
    assert!(said.contains(&c.address.to_string()), "what stays is named: {said}");
    assert_eq!(states(), [is(&a, "healthy"), is(&b, "maintenance"), is(&d, "healthy"), is(&c, "healthy")]);
    // The file takes over what was added, and no longer has what a person wanted something of.
    list(&[&a, &c]);
    assert_eq!(states(), [is(&a, "healthy"), is(&c, "healthy")]);
    list(&[&a, &b]);
    assert_eq!(states(), [is(&a, "healthy"), is(&b, "healthy")]);
}
