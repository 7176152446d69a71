//! A request of which nothing was written may go elsewhere; one of which anything was written only if it may be
//! repeated, once, and out of a budget.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Act, Load, Origin, Penstock, Response, Setup, eventually};

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

/// POSTs from so many connections until told to stop; returns how many were sent, and how many were not answered well.
fn orders<'s>(
    scope: &'s thread::Scope<'s, '_>,
    penstock: &'s Penstock,
    ended: &'s AtomicBool,
    pause: Duration,
) -> thread::ScopedJoinHandle<'s, (u64, u64)> {
    scope.spawn(move || {
        let (mut sent, mut failed, mut client) = (0, 0, penstock.client());
        while !ended.load(Ordering::Relaxed) {
            let answer = client.post("/order", "one, please");
            (sent, failed) = (sent + 1, failed + u64::from(answer.status != 200));
            thread::sleep(pause);
        }
        (sent, failed)
    })
}

#[test]
fn an_endpoint_that_closes_after_every_answer_fails_no_get_and_takes_no_order_twice() {
    let origin = Origin::start("v1");
    origin.always(Act::AnswerThenClose);
    let penstock = Setup::of(&[&origin]).start();
    let ended = AtomicBool::new(false);
    let (orders, report) = thread::scope(|scope| {
        let load = Load::start(penstock.address(), 4, Duration::ZERO);
        let orders = orders(scope, &penstock, &ended, Duration::from_millis(1));
        eventually("two thousand requests", || load.answered() > 2_000);
        let report = load.stop();
        ended.store(true, Ordering::Relaxed);
        (orders.join().unwrap(), report)
    });
    let idle = penstock.version("v1").all.classes.ours;
    println!(
        "of {} GETs, {} failed, and {idle} met the closing of their connection; of {} POSTs, {} failed",
        report.answered(),
        report.failed(),
        orders.0,
        orders.1
    );
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(origin.of_method("POST") <= orders.0, "{} of {} orders", origin.of_method("POST"), orders.0);
}

#[test]
fn an_order_does_not_go_over_a_connection_that_was_idle_for_long() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    for _ in 0..3 {
        assert_eq!(client.post("/", "hi").status, 200);
    }
    assert_eq!(origin.connections(), 1);
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(client.get("/").status, 200);
    assert_eq!(origin.connections(), 1, "a GET may take it");
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(client.post("/", "hi").status, 200);
    assert_eq!(origin.connections(), 2);
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
    assert_eq!(load.stop().failed(), 0);
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

/// Two endpoints of one version: `bad` does this, and `good` answers.
struct Pair {
    bad: Origin,
    good: Origin,
    penstock: Penstock,
}

fn pair(act: Act, upstream: &'static str, retries: &'static str) -> Pair {
    let (bad, good) = (Origin::start("bad"), Origin::start("good"));
    bad.always(act);
    // It is to be met again, and again.
    let setup = Setup::of(&[&bad, &good]).service("ejection = false");
    let penstock = setup.upstream(upstream).more(retries).start();
    Pair { bad, good, penstock }
}

impl Pair {
    /// Asks until the bad endpoint was met, and returns what came of that.
    #[track_caller]
    fn met(&self, request: &str) -> Response {
        for _ in 0..200 {
            let before = self.bad.requests();
            let answer = self.penstock.client().ask(request);
            if self.bad.requests() > before {
                return answer;
            }
        }
        panic!("the bad endpoint was never met");
    }
}

fn request(method: &str, fields: &str, body: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: shop\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

const GET: &str = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";

#[test]
fn a_get_that_an_endpoint_failed_is_answered_by_another() {
    for act in [Act::Reset, Act::RawThenClose(Vec::new()), Act::Status(502), Act::Status(503), Act::Status(504)] {
        let pair = pair(act, "", "");
        let answer = pair.met(GET);
        assert_eq!((answer.status, answer.header("x-version")), (200, Some("good")));
        assert_eq!(pair.good.last_request().header("penstock-attempt"), Some("2"));
        assert_eq!(pair.bad.last_request().header("penstock-attempt"), None, "absent from the first");
        let (bad, good) = (pair.bad.requests(), pair.good.requests());
        let classes = pair.penstock.settled("v1", bad + good);
        assert_eq!((classes.failure, classes.success), (bad, good));
        let all = pair.penstock.version("v1").all;
        assert_eq!((all.exposed, all.shielded), (0, 0), "no client saw it");
    }
}

#[test]
fn an_answer_is_an_answer() {
    let wait = "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
    for (act, status) in [
        (Act::Status(500), 500),
        (Act::Status(404), 404),
        (Act::Status(429), 429),
        (Act::Status(501), 501),
        (Act::raw(wait), 503),
    ] {
        let pair = pair(act, "", "");
        assert_eq!(pair.met(GET).status, status);
        assert_eq!(pair.met(&request("OPTIONS", "", "")).status, status);
    }
    let pair = pair(Act::Status(500), "", "[services.shop.retries]\non = [\"500\"]\n");
    assert_eq!(pair.met(GET).status, 200, "unless the service says otherwise");
}

#[test]
fn what_must_not_be_repeated_is_not() {
    let key = "Idempotency-Key: 7\r\n";
    for act in [Act::Reset, Act::Status(503), Act::RawThenClose(Vec::new())] {
        let pair = pair(act, "", "");
        for asked in
            [request("POST", key, "x"), request("PUT", "", "x"), request("DELETE", "", ""), request("PATCH", "", "x")]
        {
            let before = pair.good.requests();
            let mut met = 0;
            while met < 3 {
                let seen = pair.bad.requests();
                let status = pair.penstock.client().ask(&asked).status;
                let at_bad = pair.bad.requests() - seen;
                met += at_bad;
                assert_eq!(status, if at_bad == 0 { 200 } else { status });
                assert!(at_bad == 0 || status >= 502, "{asked}: {status}");
            }
            assert!(pair.good.requests() >= before);
        }
        let seen = pair.bad.requests() + pair.good.requests();
        assert_eq!(pair.penstock.settled("v1", seen).total(), seen);
        assert_eq!(pair.good.last_request().header("penstock-attempt"), None);
    }
}

#[test]
fn what_the_service_lets_be_repeated_is_with_its_body() {
    let retries = "[services.shop.retries]\nidempotent_methods = true\nidempotency_key = true\n";
    let key = "Idempotency-Key: 7\r\n";
    for act in [Act::Reset, Act::Status(503), Act::RawThenClose(Vec::new())] {
        let pair = pair(act, "", retries);
        // Nine of them: the reserve is ten.
        for length in [0, 5_000, 64 * 1024] {
            let body = "0123456789abcdef".repeat(4_096)[..length].to_owned();
            for asked in [request("PUT", "", &body), request("DELETE", "", &body), request("POST", key, &body)] {
                assert_eq!(pair.met(&asked).status, 200, "{length}");
                let last = pair.good.last_request();
                assert_eq!((last.body_length, last.header("penstock-attempt")), (length as u64, Some("2")));
                assert_eq!(last.body, body.as_bytes());
            }
        }
        assert_eq!(pair.bad.requests(), 9);
        assert!(pair.met(&request("POST", "", "x")).status >= 502, "without a key it is not");
    }
}

#[test]
fn a_chunked_body_is_repeated_as_it_came() {
    let pair = pair(Act::Status(503), "", "[services.shop.retries]\nidempotent_methods = true\n");
    let asked =
        "PUT / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    assert_eq!(pair.met(asked).status, 200);
    assert_eq!(pair.good.last_request().body, b"hello world");
}

#[test]
fn a_body_beyond_the_bound_is_sent_once() {
    let pair = pair(Act::Status(503), "", "[services.shop.retries]\nidempotent_methods = true\n");
    let body = "x".repeat(64 * 1024 + 1);
    assert_eq!(pair.met(&request("PUT", "", &body)).status, 503);
    let seen = pair.bad.requests() + pair.good.requests();
    assert_eq!(pair.penstock.settled("v1", seen).total(), seen);
}

#[test]
fn an_endpoint_that_hangs_is_left_for_another_after_a_while() {
    let pair = pair(Act::Hang, "per_try = \"300ms\"", "");
    let begun = Instant::now();
    assert_eq!(pair.met(GET).status, 200);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let seen = pair.bad.requests() + pair.good.requests();
    assert_eq!(pair.penstock.settled("v1", seen).failure, 1);
}

#[test]
fn who_alone_can_answer_is_waited_for() {
    let origin = Origin::start("v1");
    origin.always(Act::Late(Duration::from_millis(900)));
    let penstock = Setup::of(&[&origin]).upstream("per_try = \"200ms\"").start();
    assert_eq!(penstock.get("/").status, 200, "there is nobody else");
    let pair = pair(Act::Late(Duration::from_millis(900)), "per_try = \"200ms\"", "");
    assert_eq!(pair.met(&request("POST", "", "x")).status, 200, "nobody else may be asked");
}

#[test]
fn a_request_has_so_long_and_no_longer() {
    let origin = Origin::start("v1");
    origin.always(Act::Hang);
    let penstock = Setup::of(&[&origin]).upstream("total = \"1s\"").start();
    let begun = Instant::now();
    let answer = penstock.get("/");
    assert_eq!((answer.status, answer.fault()), (504, "http_response_timeout"));
    assert!(begun.elapsed() < Duration::from_secs(6));
    let slow = |head: &str| {
        let body = [b'x'; 2_000];
        let head = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n", body.len());
        Act::Trickle(head.bytes().chain(body).collect(), Duration::from_millis(1))
    };
    origin.always(slow(""));
    let answer = penstock.get("/");
    assert!(!answer.whole && answer.body_length < 2_000, "cut short after {} bytes", answer.body_length);
    origin.always(slow("Content-Type: text/event-stream; charset=utf-8\r\n"));
    let answer = penstock.get("/");
    assert!(answer.whole && answer.body_length == 2_000, "after {} bytes", answer.body_length);
}

#[test]
fn in_a_full_outage_the_budget_bounds_what_arrives() {
    let (one, other) = (Origin::start("v1"), Origin::start("v1"));
    one.always(Act::Status(503));
    other.always(Act::Status(503));
    // With one of two ejected there would be nobody else to ask.
    let penstock = Setup::of(&[&one, &other]).service("ejection = false").start();
    let begun = Instant::now();
    let load = Load::start(penstock.address(), 8, Duration::from_millis(2));
    eventually("two thousand requests", || load.answered() > 2_000);
    let report = load.stop();
    let seconds = begun.elapsed().as_secs_f64();
    let (asked, arrived) = (report.answered() + report.broken, one.requests() + other.requests());
    println!("{asked} requests in {seconds:.1} s, {arrived} arrived: {:.2} each", arrived as f64 / asked as f64);
    assert_eq!(report.status(503), asked, "{report:?}");
    assert!(arrived as f64 <= 1.2 * asked as f64 + 10.0 * (seconds + 1.0), "{arrived} of {asked}");
    assert!(arrived > asked + asked / 10, "{arrived} of {asked}: the budget is there to be used");
    eventually("it is counted", || penstock.version("v1").all.retried.exhausted > 0);
}

#[test]
fn an_order_is_never_taken_twice_whatever_endpoints_do() {
    let (one, other) = (Origin::start("v1"), Origin::start("v1"));
    let turn = AtomicU64::new(0);
    let chaos = move |_: &crate::support::Request| match turn.fetch_add(1, Ordering::Relaxed) % 7 {
        0 => Act::Reset,
        1 => Act::AnswerThenClose,
        2 => Act::Status(503),
        3 => Act::RawThenClose(Vec::new()),
        4 => Act::raw_then_close("garbage\r\n\r\n"),
        _ => Act::Answer,
    };
    let chaos = std::sync::Arc::new(chaos);
    for origin in [&one, &other] {
        let chaos = chaos.clone();
        origin.script(move |request| chaos(request));
    }
    let penstock = Setup::of(&[&one, &other]).start();
    let (ended, begun) = (AtomicBool::new(false), Instant::now());
    let sent: u64 = thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|n| orders(scope, &penstock, &ended, Duration::from_millis(n))).collect();
        while one.of_method("POST") + other.of_method("POST") < 1_500 && begun.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(10));
        }
        ended.store(true, Ordering::Relaxed);
        all.into_iter().map(|one| one.join().unwrap().0).sum()
    });
    let taken = one.of_method("POST") + other.of_method("POST");
    println!("{taken} of {sent} orders arrived");
    assert!(taken <= sent, "{taken} of {sent}");
}
