//! Which endpoint gets a request: by turns, by weight, by key; and not the one that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Act, Client, Load, Origin, Penstock, Setup, eventually};

fn three() -> [Origin; 3] {
    ["e1", "e2", "e3"].map(Origin::start)
}

fn of(origins: &[Origin; 3]) -> Setup {
    Setup::of(&origins.each_ref())
}

/// The endpoint that a request with these header lines meets.
#[track_caller]
fn met(client: &mut Client, lines: &str) -> String {
    let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: shop\r\n{lines}\r\n"));
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer.header("x-version").expect("the endpoint's name").to_owned()
}

fn ejected(penstock: &Penstock, origin: &Origin) -> bool {
    let shop: Value = serde_json::from_str(&penstock.read("/v1/services/shop")).unwrap();
    let endpoints = shop["versions"][0]["endpoints"].as_array().unwrap();
    let address = origin.address.to_string();
    let endpoint = endpoints.iter().find(|endpoint| endpoint["authority"] == address.as_str()).unwrap();
    endpoint["ejected_until"].is_string()
}

fn ejections(penstock: &Penstock, origin: &Origin) -> u64 {
    let of = format!(
        "penstock_endpoint_ejections_total{{service=\"shop\",version=\"v1\",endpoint=\"{}\"}} ",
        origin.address
    );
    let metrics = penstock.read("/metrics");
    metrics.lines().find_map(|line| line.strip_prefix(&of)).unwrap().parse().unwrap()
}

#[test]
fn endpoints_take_turns_over_all_workers() {
    let origins = three();
    let penstock = of(&origins).service("balance = \"round-robin\"").start();
    let mut clients = [penstock.client(), penstock.client()]; // one on each worker
    for n in 0..30 {
        clients[n % 2].get("/");
    }
    assert_eq!(origins.each_ref().map(Origin::requests), [10, 10, 10]);
}

#[test]
fn a_weight_is_a_share_however_it_is_balanced() {
    for (balance, slack) in [("round-robin", 3), ("power-of-two", 60), ("least-connections", 60)] {
        let origins = three();
        let service: &'static str = format!("balance = \"{balance}\"").leak();
        let penstock = of(&origins).weights(&[3, 2, 1]).service(service).start();
        let mut client = penstock.client();
        for _ in 0..600 {
            client.get("/");
        }
        // Six standard deviations where luck is in it.
        for (origin, due) in origins.iter().zip([300, 200, 100]) {
            assert!(origin.requests().abs_diff(due) <= slack, "{balance}: {} instead of {due}", origin.requests());
        }
    }
}

#[test]
fn a_key_meets_the_same_endpoint_while_that_is_there() {
    for (service, field) in [
        ("balance = { header_hash = \"x-user\" }\nejection = false", "X-User: "),
        ("balance = { cookie_hash = \"session\" }\nejection = false", "Cookie: a=b; session="),
    ] {
        let origins = three();
        let penstock = of(&origins).service(service).start();
        let mut clients = [penstock.client(), penstock.client()];
        let mut homes: BTreeMap<usize, String> = BTreeMap::new();
        for n in 0..120 {
            let (user, line) = (n % 30, format!("{field}user-{}\r\n", n % 30));
            let endpoint = met(&mut clients[n % 7 % 2], &line);
            let home = homes.entry(user).or_insert_with(|| endpoint.clone());
            assert_eq!(*home, endpoint, "user {user}");
        }
        let used: BTreeSet<&String> = homes.values().collect();
        assert_eq!(used.len(), 3, "thirty users are spread over all: {homes:?}");
        origins[0].stop();
        for (user, home) in &homes {
            let endpoint = met(&mut clients[0], &format!("{field}user-{user}\r\n"));
            assert!(
                if home == "e1" { endpoint != "e1" } else { endpoint == *home },
                "only whose endpoint is gone moves"
            );
        }
        origins[0].restart();
        for (user, home) in &homes {
            let line = format!("{field}user-{user}\r\n");
            eventually("everybody is back home", || met(&mut penstock.client(), &line) == *home);
        }
    }
}

#[test]
fn a_client_address_meets_one_endpoint_and_a_request_without_a_key_any() {
    let origins = three();
    let penstock = of(&origins).service("balance = \"client-address-hash\"").start();
    let homes: BTreeSet<String> = (0..20).map(|_| met(&mut penstock.client(), "")).collect();
    assert_eq!(homes.len(), 1);
    let penstock = of(&origins).service("balance = { header_hash = \"x-user\" }").start();
    let met: BTreeSet<String> = (0..60).map(|_| met(&mut penstock.client(), "")).collect();
    assert_eq!(met.len(), 3);
}

/// Under load, an endpoint that begins to do this is ejected; the others carry on, and it comes back when it is well.
#[track_caller]
fn is_ejected_and_returns(origins: &[Origin; 3], fail: impl FnOnce(&Origin), recover: impl FnOnce(&Origin)) {
    let upstream = "connect = \"300ms\"\nresponse_head = \"100ms\"";
    let penstock = of(origins).service("ejection.time = \"1s\"").upstream(upstream).start();
    let load = Load::start(penstock.address(), 8, Duration::from_millis(2));
    eventually("traffic at all", || origins.iter().all(|origin| origin.requests() > 50));
    fail(&origins[0]);
    eventually("an ejection", || ejected(&penstock, &origins[0]));
    assert!(!ejected(&penstock, &origins[1]) && !ejected(&penstock, &origins[2]));
    assert!(ejections(&penstock, &origins[0]) >= 1);
    recover(&origins[0]);
    let before = origins[0].requests();
    eventually("it is back", || !ejected(&penstock, &origins[0]) && origins[0].requests() > before + 50);
    let report = load.stop();
    assert_eq!(report.broken, 0, "{report:?}");
    eventually("nothing in flight", || penstock.in_flight() == 0);
    assert_eq!(penstock.view().lost_outcomes, 0);
}

fn does(act: Act) -> impl FnOnce(&Origin) {
    move |origin| {
        origin.always(act);
    }
}

#[test]
fn an_endpoint_that_refuses_is_ejected_and_returns() {
    is_ejected_and_returns(&three(), Origin::stop, Origin::restart);
}

#[test]
fn so_is_one_that_answers_as_a_gateway_in_trouble_does() {
    for status in [502, 503, 504] {
        is_ejected_and_returns(&three(), does(Act::Status(status)), does(Act::Answer));
    }
}

#[test]
fn so_is_one_that_resets_hangs_or_talks_nonsense() {
    for act in [Act::Reset, Act::Hang, Act::raw_then_close("nonsense\r\n\r\n")] {
        is_ejected_and_returns(&three(), does(act), does(Act::Answer));
    }
}

#[test]
fn an_error_of_its_own_ejects_nobody() {
    let origins = three();
    origins[0].always(Act::Status(500));
    let penstock = of(&origins).start();
    let load = Load::start(penstock.address(), 4, Duration::ZERO);
    eventually("enough of them", || origins[0].requests() > 300);
    drop(load);
    assert_eq!(ejections(&penstock, &origins[0]), 0);
}

#[test]
fn half_of_a_version_stays_whatever_it_does() {
    let origins: Vec<Origin> = (0..4).map(|_| Origin::absent("gone")).collect();
    let penstock = Setup::of(&origins.iter().collect::<Vec<_>>()).start();
    let load = Load::start(penstock.address(), 4, Duration::ZERO);
    let count = || origins.iter().filter(|origin| ejected(&penstock, origin)).count();
    eventually("two ejections", || count() == 2);
    let answered = load.answered();
    eventually("many more failures", || load.answered() > answered + 300);
    assert_eq!(count(), 2);
}

#[test]
fn one_endpoint_alone_is_never_ejected() {
    let origin = Origin::start("v1");
    origin.always(Act::Status(503));
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    for _ in 0..40 {
        client.get("/");
    }
    origin.always(Act::Answer);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(ejections(&penstock, &origin), 0);
}
