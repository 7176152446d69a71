//! Bounds: what a client may ask for, what waits while a service is paused, what a canary may cost, what it can carry.

use std::net::Shutdown;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use penstock::domain::judge::Trigger;
use penstock::domain::split::Weight;
use penstock::domain::standing::Change;

use crate::support::{Act, Client, Load, Origin, Penstock, Response, Setup, eventually, throughout};

fn held(penstock: &Penstock) -> u32 {
    penstock.shop().held.requests()
}

#[track_caller]
fn pause(penstock: &Penstock, body: &str) {
    let response = penstock.post("/v1/services/shop:pause", body);
    assert_eq!(response.status, 200, "{}", response.text());
    // Every worker has taken it up.
    let published = penstock.view().published;
    eventually("the pause is in force", || penstock.view().applied >= published);
}

#[track_caller]
fn resume(penstock: &Penstock) {
    let response = penstock.post("/v1/services/shop:resume", "");
    assert_eq!(response.status, 200, "{}", response.text());
}

/// The value of a line of `/metrics`.
fn metric(penstock: &Penstock, line: &str) -> u64 {
    let text = penstock.read("/metrics");
    let found = text.lines().find_map(|metric| metric.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {line} in {text}")).parse().unwrap()
}

/// A client whose request has been sent, and not answered.
fn asking(penstock: &Penstock, path: &str) -> Client {
    let mut client = penstock.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")).unwrap();
    client
}

/// Clients that are held, in this order.
fn asking_in_turn(penstock: &Penstock, clients: u32) -> Vec<Client> {
    let before = held(penstock);
    let ask = |number| {
        let client = asking(penstock, &format!("/{number}"));
        eventually("it is held", || held(penstock) == before + number + 1);
        client
    };
    (0..clients).map(ask).collect()
}

#[test]
fn a_client_gets_its_burst_and_is_then_told_when_to_come_again() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).more("[services.shop.rate_limit]\nrate = \"1/m\"\nburst = 5\n").start();
    let mut client = penstock.client();
    let answers: Vec<Response> = (0..20).map(|_| client.get("/")).collect();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [vec![200; 5], vec![429; 15]].concat(), "exactly so many, on one connection");
    let refused = &answers[5];
    assert_eq!(
        (refused.fault(), refused.header("content-type")),
        ("http_request_denied", Some("application/problem+json"))
    );
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(penstock.get("/").status, 429, "another connection of the same client");
    assert_eq!(penstock.settled("v1", 5).total(), 5, "what is refused is no attempt");
    eventually("it is counted", || metric(&penstock, "penstock_rate_limited_requests_total{service=\"shop\"}") == 16);
    assert_eq!(origin.requests(), 5);
}

#[test]
fn workers_share_a_client_s_bucket() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).more("[services.shop.rate_limit]\nrate = \"1/h\"\nburst = 100\n").start();
    let address = penstock.address();
    let threads = (0..8).map(|_| {
        thread::spawn(move || {
            let mut client = Client::connect(address);
            (0..40).filter(|_| client.get("/").status == 200).count()
        })
    });
    let threads: Vec<_> = threads.collect();
    let passed: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!((passed, origin.requests()), (100, 100));
}

#[test]
fn a_header_tells_clients_apart() {
    let origin = Origin::start("v1");
    let limit = "[services.shop.rate_limit]\nheader = \"x-api-key\"\nrate = \"1/h\"\nburst = 2\n";
    let penstock = Setup::of(&[&origin]).more(limit).start();
    let mut client = penstock.client();
    let mut ask = |key: &str| client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n")).status;
    assert_eq!(["one", "one", "one", "two", "two", "two"].map(&mut ask), [200, 200, 429, 200, 200, 429]);
    assert_eq!([(); 3].map(|()| penstock.get("/").status), [200, 200, 429], "without it, by address");
}

#[test]
fn a_reload_gives_nobody_a_fresh_allowance_unless_the_rule_has_changed() {
    let (origin, folder) = (Origin::start("v1"), tempfile::tempdir().unwrap());
    let file = folder.path().join("penstock.toml");
    let limit = "[services.shop.rate_limit]\nrate = \"1/h\"\nburst = 3\n";
    let penstock = Setup::of(&[&origin]).more(limit).start_from(&file);
    let asked = || (0..6).filter(|_| penstock.get("/").status == 200).count();
    assert_eq!(asked(), 3);
    let text = std::fs::read_to_string(&file).unwrap();
    let reloaded = |text: &str| {
        std::fs::write(&file, text).unwrap();
        assert_eq!(penstock.reload().status, 200);
    };
    reloaded(&text.replace("[services.shop.timeouts]\n", "[services.shop.timeouts]\nconnect = \"5s\"\n"));
    assert_eq!(asked(), 0, "the same rule");
    reloaded(&text.replace("burst = 3", "burst = 4"));
    assert_eq!(asked(), 4, "another rule");
    reloaded(&text.replace(limit, ""));
    assert_eq!(asked(), 6, "no rule");
}

#[test]
fn a_cut_over_behind_a_pause_is_noticed_by_nobody() {
    let (old, new) = (Origin::start("v1"), Origin::start("v2"));
    let penstock = Setup::of(&[&old]).canary(&[&new], "0%").start();
    let load = Load::start(penstock.address(), 12, Duration::from_millis(1));
    eventually("traffic", || load.answered() > 500);
    pause(&penstock, "{\"for\":\"20s\"}");
    eventually("all of them wait", || held(&penstock) == 12 && penstock.in_flight() == 0);
    let before = (old.requests(), load.answered());
    throughout(Duration::from_millis(300), "nothing moves", || (old.requests(), load.answered()) == before);
    assert_eq!(metric(&penstock, "penstock_held_requests{service=\"shop\"}"), 12);
    old.stop();
    assert_eq!(penstock.post("/v1/services/shop:promote", "").status, 200);
    resume(&penstock);
    eventually("traffic goes on", || load.answered() > before.1 + 500);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert_eq!(old.requests(), before.0, "none of those that waited went to the version that was there before");
    assert_eq!(held(&penstock), 0);
}

#[test]
fn who_waited_longest_goes_first_and_soon() {
    let origin = Origin::start("v1");
    let arrived = Arc::<Mutex<Vec<(u64, u32)>>>::default();
    origin.script({
        let arrived = arrived.clone();
        move |request| {
            arrived.lock().unwrap().push((request.connection, request.target()[1..].parse().unwrap()));
            Act::Answer
        }
    });
    let penstock = Setup::of(&[&origin]).workers(1).alone().start();
    pause(&penstock, "");
    let clients = asking_in_turn(&penstock, 60);
    let begun = Instant::now();
    resume(&penstock);
    let answered = begun.elapsed();
    for mut client in clients {
        assert_eq!(client.receive(false).unwrap().status, 200);
    }
    println!("60 held requests answered {:?} after the call to resume, which took {answered:?}", begun.elapsed());
    // Fresh connections, accepted in the order in which they were made.
    let mut order = arrived.lock().unwrap().clone();
    order.sort_unstable();
    assert_eq!(order.into_iter().map(|(_, number)| number).collect::<Vec<_>>(), (0..60).collect::<Vec<_>>());
}

#[test]
fn a_full_queue_refuses_at_once_and_those_in_it_are_served() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).more("[services.shop.hold]\nrequests = 3\n").start();
    pause(&penstock, "");
    let waiting = asking_in_turn(&penstock, 3);
    for _ in 0..4 {
        let refused = penstock.get("/");
        assert_eq!((refused.status, refused.fault()), (503, "destination_unavailable"));
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    resume(&penstock);
    for mut client in waiting {
        assert_eq!(client.receive(false).unwrap().status, 200);
    }
    let line = "penstock_hold_refused_requests_total{service=\"shop\",reason=\"full\"}";
    eventually("it is counted", || metric(&penstock, line) == 4);
    assert_eq!(penstock.settled("v1", 3).total(), 3);
}

#[test]
fn a_request_waits_for_so_long_and_no_longer() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).more("[services.shop.hold]\ntime = \"400ms\"\n").start();
    pause(&penstock, "{\"for\":\"1m\"}");
    let begun = Instant::now();
    let refused = penstock.get("/");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(begun.elapsed() >= Duration::from_millis(390), "{:?}", begun.elapsed());
    let line = "penstock_hold_refused_requests_total{service=\"shop\",reason=\"time\"}";
    eventually("it is counted", || metric(&penstock, line) == 1);
    assert_eq!((held(&penstock), origin.requests()), (0, 0));
}

#[test]
fn a_client_that_leaves_gives_its_place_to_another() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).more("[services.shop.hold]\nrequests = 1\n").start();
    pause(&penstock, "");
    let leaving = asking_in_turn(&penstock, 1);
    leaving[0].socket().shutdown(Shutdown::Both).unwrap();
    drop(leaving);
    eventually("its place is free", || held(&penstock) == 0);
    let mut staying = asking_in_turn(&penstock, 1);
    resume(&penstock);
    assert_eq!(staying[0].receive(false).unwrap().status, 200);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_pause_ends_by_itself_and_says_so() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    let begun = Instant::now();
    pause(&penstock, "{\"for\":\"500ms\"}");
    assert_eq!(penstock.get("/").status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(490), "{:?}", begun.elapsed());
    eventually("the end is noted", || penstock.journal(|change| *change == Change::TrafficResumed).is_some());
    eventually("and shown", || penstock.shop().paused.is_none());
}

#[test]
fn requests_in_flight_at_a_pause_come_to_their_end() {
    let origin = Origin::start("v1");
    origin.always(Act::Late(Duration::from_millis(600)));
    let penstock = Setup::of(&[&origin]).start();
    let mut client = asking(&penstock, "/");
    eventually("the request at the endpoint", || origin.requests() == 1);
    pause(&penstock, "");
    assert_eq!(client.receive(false).unwrap().status, 200);
    assert!(penstock.shop().paused.is_some());
}

#[test]
fn who_waits_when_the_proxy_stops_is_told_at_once() {
    let origin = Origin::start("v1");
    let mut penstock = Setup::of(&[&origin]).stopping("0s", "20s").start();
    pause(&penstock, "");
    let mut clients = asking_in_turn(&penstock, 5);
    let (app, begun) = (penstock.take(), Instant::now());
    let stopping = thread::spawn(move || app.stop(|| false));
    for client in &mut clients {
        let refused = client.receive(false).unwrap();
        assert_eq!((refused.status, refused.header("connection")), (503, Some("close")));
    }
    stopping.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn what_cannot_be_a_pause_is_refused() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    for body in ["{\"for\":\"0s\"}", "{\"for\":\"-1s\"}", "{\"for\":\"11m\"}", "{\"for\":30}", "{\"time\":\"30s\"}"] {
        let refused = penstock.post("/v1/services/shop:pause", body);
        assert_eq!(refused.status, 422, "{body}: {}", refused.text());
    }
    assert!(penstock.shop().paused.is_none());
    assert!(penstock.post("/v1/services/shop:resume", "").text().contains("\"changed\":false"), "nothing to resume");
}

#[test]
fn a_canary_that_has_spent_its_exposure_budget_is_taken_away() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    canary.always(Act::Status(500));
    // At 100 % there is no coin, and without a limit nothing else that could convict.
    let rollback = "error_rate = false\nexposure = { failures = 5 }";
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "100%").rollback(rollback).start();
    let spend = |failures: u64| {
        for _ in 0..failures {
            assert_eq!(penstock.get("/").status, 500);
        }
    };
    spend(4);
    let seen = || penstock.shop().reading.exposure.failures;
    eventually("four are counted", || seen() == 4);
    throughout(Duration::from_millis(400), "four are not five", || penstock.rollback().is_none());
    spend(1);
    eventually("a rollback", || penstock.rollback().is_some());
    let entry = penstock.rollback().unwrap();
    let Change::RolledBack { conviction, .. } = &entry.event.change else { panic!("{entry:?}") };
    assert_eq!(conviction.trigger, Trigger::ExposureBudget);
    assert_eq!(penstock.get("/").status, 200, "stable answers");
    assert_eq!((canary.requests(), penstock.shop().weight, penstock.shop().sealed().count()), (5, Weight::ZERO, 1));
    let decided = "penstock_decision_total{service=\"shop\",decision=\"rollback\",trigger=\"exposure_budget\"}";
    assert_eq!(metric(&penstock, decided), 1);
}

#[test]
fn failures_that_stable_hides_are_not_on_the_budget() {
    let (stable, canary) = (Origin::start("v1"), Origin::absent("v2"));
    let rollback = "mode = \"observe\"\nexposure = { failures = 1 }";
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "100%").rollback(rollback).start();
    for _ in 0..10 {
        assert_eq!(penstock.get("/").status, 200);
    }
    eventually("they are counted", || penstock.version("v2").all.shielded == 10);
    assert_eq!(penstock.shop().reading.exposure.failures, 0);
}

#[test]
fn a_canary_gets_no_more_requests_per_second_than_it_may() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let rollback = "exposure = { requests_per_second = 40 }";
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").rollback(rollback).start();
    let (load, begun) = (Load::start(penstock.address(), 8, Duration::from_millis(2)), Instant::now());
    eventually("two seconds of traffic", || begun.elapsed() > Duration::from_secs(2) && canary.requests() > 60);
    let report = load.stop();
    let (seconds, requests) = (begun.elapsed().as_secs_f64(), canary.requests());
    assert_eq!(report.failed(), 0, "{report:?}");
    // A burst of a tenth of a second, and a request of the second worker.
    assert!(requests as f64 <= 40.0 * seconds + 6.0, "{requests} in {seconds:.2} s, of {}", report.answered());
    let capped = || metric(&penstock, "penstock_capped_requests_total{service=\"shop\"}");
    eventually("they are counted", || capped() > 0);
    println!("{requests} of {} requests at the canary in {seconds:.2} s; {} capped", report.answered(), capped());
    let entry = penstock.rollback();
    assert!(entry.is_none(), "{entry:?}");
}

#[test]
fn a_weight_that_the_canary_cannot_carry_is_refused_unless_somebody_insists() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "10%").capacity(1).start();
    let load = Load::start(penstock.address(), 4, Duration::from_millis(5));
    eventually("traffic", || load.answered() > 200);
    let patch = |query: &str, weight: &str| {
        let body = format!("{{\"weight\":\"{weight}\"}}");
        Client::connect(penstock.admin()).ask(&format!(
            "PATCH /v1/services/shop/split{query} HTTP/1.1\r\nHost: {}\r\nIf-Match: *\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            penstock.admin(),
            body.len()
        ))
    };
    let refused = patch("", "50%");
    assert_eq!(refused.status, 409, "{}", refused.text());
    for said in ["/problems/capacity", "`v2` at 50%", "1 endpoints can carry 1", "force=true", "choose"] {
        assert!(refused.text().contains(said), "{said} in {}", refused.text());
    }
    assert_eq!(penstock.post("/v1/services/shop:promote", "").status, 409, "promoting is raising");
    assert_eq!(penstock.shop().weight.to_string(), "10%");
    assert_eq!(patch("", "5%").status, 200, "lowering is never refused");
    assert_eq!(patch("?force=true", "50%").status, 200);
    assert_eq!(penstock.shop().weight.to_string(), "50%");
    load.stop();
}
