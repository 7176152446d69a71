//! Circuit breaking: what is limited is never exceeded, who waits gets room in time, and who does not is told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use penstock::domain::judge::Trigger;
use penstock::domain::standing::Change;

use crate::support::{Act, Load, Origin, Penstock, Response, Setup, eventually};

/// Counts how many requests meet in it, each of which takes a while.
fn counting(name: &str, takes: Duration) -> (Origin, Arc<AtomicU32>) {
    let (origin, peak) = (Origin::start(name), Arc::new(AtomicU32::new(0)));
    let (inside, most) = (AtomicU32::new(0), peak.clone());
    origin.script(move |_| {
        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(takes);
        inside.fetch_sub(1, Ordering::SeqCst);
        Act::Answer
    });
    (origin, peak)
}

/// A request on its way in the background.
fn asking(penstock: &Penstock) -> thread::JoinHandle<Response> {
    let mut client = penstock.client();
    thread::spawn(move || client.get("/"))
}

fn waiting(penstock: &Penstock, version: &str) -> u32 {
    penstock.version(version).shared.waiting()
}

fn refusals(penstock: &Penstock, version: &str) -> u64 {
    penstock.version(version).shared.refusals()
}

/// Nothing in flight, nobody waiting: the counts are true however it went.
#[track_caller]
fn at_rest(penstock: &Penstock) {
    eventually("nothing in flight", || penstock.in_flight() == 0);
    for version in &penstock.shop().versions {
        assert_eq!((version.shared.in_flight(), version.shared.waiting()), (0, 0), "{}", version.name);
    }
    assert_eq!(penstock.view().lost_outcomes, 0);
}

#[test]
fn an_endpoint_never_has_more_in_flight_than_it_may() {
    let (one, most_of_one) = counting("v1", Duration::from_millis(3));
    let (other, most_of_other) = counting("v1", Duration::from_millis(3));
    let limits = "in_flight = 3\npending = 100\npending_time = \"10s\"";
    let penstock = Setup::of(&[&one, &other]).limits(limits).start();
    let load = Load::start(penstock.address(), 16, Duration::ZERO);
    eventually("a thousand requests", || load.answered() > 1_000);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "everybody gets room in time: {report:?}");
    let peaks = [most_of_one, most_of_other].map(|most| most.load(Ordering::SeqCst));
    assert_eq!(peaks, [3, 3], "the limit is reached, and not exceeded");
    at_rest(&penstock);
}

#[test]
fn a_version_never_has_more_in_flight_than_it_may() {
    let (one, most_of_one) = counting("v1", Duration::from_millis(3));
    let (other, most_of_other) = counting("v1", Duration::from_millis(3));
    let limits = "version_in_flight = 3\npending = 100\npending_time = \"10s\"";
    let penstock = Setup::of(&[&one, &other]).limits(limits).start();
    let load = Load::start(penstock.address(), 12, Duration::ZERO);
    eventually("a thousand requests", || load.answered() > 1_000);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(most_of_one.load(Ordering::SeqCst) <= 3 && most_of_other.load(Ordering::SeqCst) <= 3);
    at_rest(&penstock);
}

#[test]
fn connections_are_limited_over_all_workers_and_change_hands() {
    let (origin, most) = counting("v1", Duration::from_millis(1));
    let limits = "connections = 3\npending = 100\npending_time = \"10s\"";
    let penstock = Setup::of(&[&origin]).limits(limits).start();
    let load = Load::start(penstock.address(), 12, Duration::ZERO);
    let connections = || penstock.version("v1").endpoints[0].connections();
    let peak = AtomicU64::new(0);
    eventually("a thousand requests", || {
        peak.fetch_max(connections(), Ordering::SeqCst);
        load.answered() > 1_000
    });
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(most.load(Ordering::SeqCst) <= 3 && peak.load(Ordering::SeqCst) <= 3, "{most:?} {peak:?}");
    at_rest(&penstock);
}

#[test]
fn a_worker_makes_room_for_another_at_once() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).limits("connections = 1").start();
    let mut first = penstock.client();
    first.get("/"); // its worker is known to have a client, so the next one goes to the other worker
    let mut clients = [first, penstock.client()];
    let begun = Instant::now();
    for n in 0..100 {
        assert_eq!(clients[n % 2].get("/").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "a tick for each: {:?}", begun.elapsed());
    assert!(origin.connections() > 1, "they did change hands: {}", origin.connections());
}

#[test]
fn what_finds_no_room_is_told_to_come_again() {
    let origin = Origin::start("v1");
    origin.always(Act::Stall);
    let penstock = Setup::of(&[&origin]).limits("in_flight = 1").start();
    let first = asking(&penstock);
    eventually("it is there", || origin.requests() == 1);
    let refused = penstock.get("/");
    assert_eq!((refused.status, refused.fault()), (503, "connection_limit_reached"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    origin.release();
    assert_eq!(first.join().unwrap().status, 200);
    assert_eq!(penstock.get("/").status, 200, "there is room again");
    let classes = penstock.settled("v1", 2);
    assert_eq!((classes.success, classes.total()), (2, 2), "a refusal is no attempt, and nobody's failure");
    assert_eq!(refusals(&penstock, "v1"), 1);
    at_rest(&penstock);
}

#[test]
fn who_may_wait_waits_and_one_too_many_does_not() {
    let origin = Origin::start("v1");
    origin.always(Act::Stall);
    let penstock = Setup::of(&[&origin]).limits("in_flight = 1\npending = 1\npending_time = \"10s\"").start();
    let first = asking(&penstock);
    eventually("it is there", || origin.requests() == 1);
    let second = asking(&penstock);
    eventually("it waits", || waiting(&penstock, "v1") == 1);
    let third = penstock.get("/");
    assert_eq!((third.status, third.fault()), (503, "connection_limit_reached"));
    origin.release();
    assert_eq!((first.join().unwrap().status, second.join().unwrap().status), (200, 200));
    at_rest(&penstock);
}

#[test]
fn nobody_waits_longer_than_was_said() {
    let origin = Origin::start("v1");
    origin.always(Act::Stall);
    let penstock = Setup::of(&[&origin]).limits("in_flight = 1\npending = 9\npending_time = \"400ms\"").start();
    let first = asking(&penstock);
    eventually("it is there", || origin.requests() == 1);
    let begun = Instant::now();
    assert_eq!(penstock.get("/").status, 503);
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    origin.release();
    assert_eq!(first.join().unwrap().status, 200);
    at_rest(&penstock);
}

#[test]
fn who_leaves_the_queue_leaves_no_gap() {
    let origin = Origin::start("v1");
    origin.always(Act::Stall);
    let penstock = Setup::of(&[&origin]).limits("in_flight = 1\npending = 9\npending_time = \"10s\"").start();
    let first = asking(&penstock);
    eventually("it is there", || origin.requests() == 1);
    let mut impatient = penstock.client();
    impatient.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").unwrap();
    eventually("it waits", || waiting(&penstock, "v1") == 1);
    let third = asking(&penstock);
    eventually("both wait", || waiting(&penstock, "v1") == 2);
    drop(impatient);
    eventually("one left", || waiting(&penstock, "v1") == 1);
    origin.release();
    assert_eq!((first.join().unwrap().status, third.join().unwrap().status), (200, 200));
    assert_eq!(origin.requests(), 2);
    at_rest(&penstock);
}

#[test]
fn a_canary_without_room_is_charged_while_stable_answers() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").limits("in_flight = 8").alone().start();
    let load = Load::start(penstock.address(), 12, Duration::from_millis(4));
    eventually("traffic that goes well", || load.answered() > 500);
    let before = load.report();
    canary.always(Act::Stall); // far below any timeout: only the limit tells
    eventually("a rollback", || penstock.rollback().is_some());
    canary.release();
    let report = load.stop();
    let Change::RolledBack { conviction, .. } = penstock.rollback().unwrap().event.change else { unreachable!() };
    assert_ne!(conviction.trigger, Trigger::Health, "it is there: {conviction:?}");
    assert_eq!(report.failed(), before.failed(), "who found no room at the canary was answered by stable: {report:?}");
    assert!(refusals(&penstock, "v2") > 0);
    at_rest(&penstock);
}

#[test]
fn where_both_are_full_nobody_is_blamed() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").limits("in_flight = 2").start();
    stable.always(Act::Stall);
    canary.always(Act::Stall);
    let load = Load::start(penstock.address(), 8, Duration::from_millis(4));
    eventually("many refusals", || load.report().status(503) > 500);
    assert!(penstock.rollback().is_none());
    assert_eq!(penstock.shop().reading.canary.failed, 0, "{:?}", penstock.shop().reading.canary);
    stable.release();
    canary.release();
    load.stop();
    at_rest(&penstock);
}

#[test]
fn counts_are_true_after_every_kind_of_fault() {
    let origins = [Origin::start("v1"), Origin::start("v1"), Origin::start("v1")];
    for origin in &origins {
        let turn = AtomicU64::new(0);
        origin.script(move |_| match turn.fetch_add(1, Ordering::Relaxed) % 7 {
            0 => Act::Reset,
            1 => Act::Status(503),
            2 => Act::raw_then_close("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"),
            3 => Act::Hang,
            4 => Act::AnswerThenClose,
            _ => Act::Answer,
        });
    }
    let limits = "connections = 4\nin_flight = 4\nversion_in_flight = 9\npending = 20\npending_time = \"2s\"";
    let upstream = "connect = \"300ms\"\nresponse_head = \"100ms\"";
    let setup = Setup::of(&origins.each_ref()).limits(limits).upstream(upstream);
    let penstock = setup.service("ejection.time = \"1s\"\nbalance = \"least-connections\"").start();
    let load = Load::start(penstock.address(), 16, Duration::ZERO);
    eventually("a thousand answers", || load.answered() > 1_000);
    drop(load);
    at_rest(&penstock);
    for endpoint in &penstock.version("v1").endpoints {
        assert!(endpoint.connections() <= 4, "{}", endpoint.connections());
    }
}
