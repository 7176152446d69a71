//! A request of which nothing was written may go elsewhere; one of which anything was written never does.

use std::thread;
use std::time::Duration;

use crate::support::{Act, Load, Origin, Setup, eventually};

#[test]
fn an_idle_connection_that_was_closed_meanwhile_costs_nobody_anything() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    for round in 1..=5 {
        assert_eq!(client.get("/").status, 200);
        assert_eq!(client.post("/", "hi").status, 200);
        eventually("the endpoint's connection", || origin.open() == 1);
        origin.close_connections();
        thread::sleep(Duration::from_millis(20)); // for the proxy's kernel to hear of it
        assert_eq!(origin.connections(), round);
    }
    let classes = penstock.settled("v1", 10);
    assert_eq!((classes.success, classes.failure), (10, 0));
}

#[test]
fn an_endpoint_that_closes_after_every_answer_does_not_fail_requests() {
    let origin = Origin::start("v1");
    origin.always(Act::AnswerThenClose);
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    for n in 0..30 {
        assert_eq!(client.get("/").status, 200, "request {n}");
        eventually("the endpoint's closing", || origin.open() == 0);
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(penstock.settled("v1", 30).failure, 0);
}

#[test]
fn an_endpoint_that_closes_after_every_answer_fails_few_requests_under_load() {
    let origin = Origin::start("v1");
    origin.always(Act::AnswerThenClose);
    let penstock = Setup::of(&[&origin]).start();
    let load = Load::start(penstock.address(), 4, Duration::ZERO);
    eventually("a thousand requests", || load.answered() > 1_000);
    let report = load.stop();
    // What was written to a connection in the moment of its closing cannot be told from what was read there.
    let share = report.failed() as f64 / report.answered() as f64;
    println!("{:.1} % of {} requests met the closing of their connection", 100.0 * share, report.answered());
    assert!(report.broken == 0 && report.failed() == report.status(502), "{report:?}");
}

#[test]
fn an_endpoint_that_is_gone_is_made_up_for_by_the_other() {
    let (dead, alive) = (Origin::absent("v1"), Origin::start("v1"));
    let penstock = Setup::of(&[&dead, &alive]).start();
    let mut client = penstock.client();
    for n in 0..40 {
        let answer = if n % 2 == 0 { client.get("/") } else { client.post("/", "hello") };
        assert_eq!(answer.status, 200);
    }
    assert_eq!(alive.requests(), 40);
    assert_eq!(alive.last_request().body, b"hello", "whole, although it was offered elsewhere first");
    // Before it is ejected, the one that is gone is offered as many requests as the other, until they are too many.
    eventually("all of them in the picture", || penstock.classes("v1").success == 40);
    let classes = penstock.settled("v1", 41);
    assert_eq!(classes.failure + 40, classes.total(), "refusals are attempts that failed");
}

#[test]
fn an_endpoint_that_goes_while_another_stays_fails_no_idle_clients() {
    let (one, other) = (Origin::start("v1"), Origin::start("v1"));
    let penstock = Setup::of(&[&one, &other]).service("ejection.time = \"1s\"").start();
    let load = Load::start(penstock.address(), 6, Duration::from_millis(4));
    eventually("traffic at both", || one.requests() > 100 && other.requests() > 100);
    one.stop();
    eventually("traffic at the other", || load.answered() > 1_500);
    one.restart();
    let before = one.requests();
    eventually("traffic at both again", || one.requests() > before + 100);
    let report = load.stop();
    // At most what was on its way when the endpoint went: one request a connection.
    assert!(report.failed() <= 6, "{report:?}");
}

#[test]
fn an_upload_is_never_sent_twice() {
    let (one, other) = (Origin::start("v1"), Origin::start("v1"));
    let penstock = Setup::of(&[&one, &other]).start();
    for act in [Act::Reset, Act::RawThenClose(Vec::new()), Act::AnswerThenClose, Act::Status(503), Act::Answer] {
        one.always(act.clone());
        other.always(act);
        let before = one.of_method("POST") + other.of_method("POST");
        for _ in 0..10 {
            penstock.client().post("/order", "one, please");
        }
        let sent = one.of_method("POST") + other.of_method("POST") - before;
        assert!(sent <= 10, "{sent} orders instead of 10");
    }
}

#[test]
fn nothing_that_was_written_is_sent_twice() {
    let origin = Origin::start("v1");
    origin.always(Act::Reset);
    let penstock = Setup::of(&[&origin]).start();
    assert!((0..10).all(|_| penstock.get("/").status == 502));
    assert_eq!(origin.requests(), 10);
}
