//! What the canary fails, stable answers, and the canary is charged; what one version lacks, the other may have.

use std::time::{Duration, Instant};

use penstock::domain::split::Weight;

use crate::support::{Act, Load, Origin, Penstock, Setup, eventually};

const OBSERVE: &str = "mode = \"observe\"";

/// Everything goes to a canary that does this, first.
fn canary_does(act: Act, upstream: &'static str, more: &'static str) -> (Origin, Origin, Penstock) {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    canary.always(act);
    let setup = Setup::of(&[&stable]).canary(&[&canary], "100%").rollback(OBSERVE).upstream(upstream).more(more);
    let penstock = setup.pins("{ header = \"x-canary\", version = \"canary\" }").start();
    (stable, canary, penstock)
}

const HANGS: &str = "per_try = \"300ms\"";

fn failures() -> [Act; 7] {
    let garbage = Act::raw_then_close("garbage\r\n\r\n");
    let statuses = [502, 503, 504].map(Act::Status);
    let [bad, busy, late] = statuses;
    [Act::Reset, Act::RawThenClose(Vec::new()), garbage, bad, busy, late, Act::Hang]
}

#[test]
fn a_failing_canary_s_gets_are_answered_by_stable_and_it_is_charged() {
    for act in failures() {
        let (stable, canary, penstock) = canary_does(act.clone(), HANGS, "");
        for method in ["GET", "HEAD", "OPTIONS"] {
            let answer = penstock.client().ask(&format!("{method} /x HTTP/1.1\r\nHost: shop\r\n\r\n"));
            assert_eq!((answer.status, answer.header("x-version")), (200, Some("v1")), "{act:?}");
        }
        assert_eq!(stable.last_request().header("penstock-attempt"), Some("2"));
        assert_eq!((stable.requests(), canary.requests()), (3, 3), "{act:?}");
        assert_eq!(penstock.settled("v2", 3).failure, 3, "{act:?}");
        let charged = penstock.version("v2").all;
        assert_eq!((charged.shielded, charged.exposed), (3, 0), "{act:?}");
        eventually("the evidence", || penstock.shop().reading.canary.failed == 3);
        assert_eq!(penstock.shop().reading.stable.finished, 0, "the answer that hid it is nobody's evidence");
    }
}

#[test]
fn what_may_have_been_executed_is_not_asked_of_stable() {
    for act in failures() {
        let retries = "[services.shop.retries]\nidempotent_methods = true\nidempotency_key = true\n";
        let (stable, _canary, penstock) =
            canary_does(act.clone(), "per_try = \"200ms\"\nresponse_head = \"400ms\"", retries);
        for fields in ["POST / HTTP/1.1", "PUT / HTTP/1.1", "POST / HTTP/1.1\r\nIdempotency-Key: 1"] {
            let asked = format!("{fields}\r\nHost: shop\r\nContent-Length: 1\r\n\r\nx");
            assert!(penstock.client().ask(&asked).status >= 502, "{act:?}");
        }
        assert_eq!(stable.requests(), 0, "{act:?}");
        eventually("they were seen", || penstock.version("v2").all.exposed == 3);
    }
}

#[test]
fn who_asks_for_the_canary_is_told_what_it_said() {
    let (stable, _canary, penstock) = canary_does(Act::Status(503), "", "");
    let answer = penstock.client().ask("GET / HTTP/1.1\r\nHost: shop\r\nX-Canary: 1\r\n\r\n");
    assert_eq!((answer.status, stable.requests()), (503, 0));
}

#[test]
fn a_500_is_an_answer_unless_the_service_says_otherwise() {
    let (_stable, _canary, penstock) = canary_does(Act::Status(500), "", "");
    assert_eq!(penstock.get("/").status, 500);
    let (_stable, _canary, penstock) = canary_does(Act::Status(500), "", "[services.shop.shielding]\non = [\"500\"]\n");
    assert_eq!(penstock.get("/").status, 200);
}

#[test]
fn shielding_can_be_switched_off() {
    let (_stable, _canary, penstock) = canary_does(Act::Status(503), "", "[services.shop.shielding]\non = []\n");
    assert_eq!(penstock.get("/").status, 503);
}

#[test]
fn a_canary_that_says_when_to_come_back_is_shielded_too() {
    let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
    let (_stable, _canary, penstock) = canary_does(Act::raw(busy), "", "");
    assert_eq!(penstock.get("/").header("x-version"), Some("v1"));
}

#[test]
fn stable_is_asked_within_the_same_deadline() {
    let (stable, _canary, penstock) = canary_does(Act::Hang, "per_try = \"300ms\"\ntotal = \"900ms\"", "");
    stable.always(Act::Hang);
    let begun = Instant::now();
    assert_eq!(penstock.get("/").status, 504);
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(stable.requests(), 1);
    assert_eq!(penstock.settled("v1", 1).failure, 0, "it was not given the time");
}

#[test]
fn a_canary_that_dies_under_load_costs_no_get_anything() {
    for act in [None, Some(Act::Reset), Some(Act::Status(503))] {
        let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
        let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").start();
        let load = Load::start(penstock.address(), 12, Duration::from_millis(6));
        eventually("traffic at both", || canary.requests() > 300 && stable.requests() > 300);
        let seen = canary.requests();
        match &act {
            None => canary.stop(),
            Some(act) => drop(canary.always(act.clone())),
        }
        eventually("a rollback", || penstock.shop().weight == Weight::ZERO);
        let report = load.stop();
        eventually("it is recorded", || penstock.in_flight() == 0);
        let charged = penstock.version("v2").all;
        println!(
            "{act:?}: {} requests, {} failed; {} shielded, {} at the canary meanwhile",
            report.answered(),
            report.failed(),
            charged.shielded,
            canary.requests() - seen
        );
        assert_eq!(report.failed(), 0, "{act:?}: {report:?}");
        assert_eq!(charged.exposed, 0);
        assert!(charged.shielded > 0);
    }
}

#[test]
fn when_stable_fails_as_well_the_budget_bounds_what_arrives() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    stable.always(Act::Status(503));
    canary.always(Act::Status(503));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").rollback(OBSERVE).start();
    let begun = Instant::now();
    let load = Load::start(penstock.address(), 8, Duration::from_millis(2));
    eventually("two thousand requests", || load.answered() > 2_000);
    let report = load.stop();
    let seconds = begun.elapsed().as_secs_f64();
    let (asked, arrived) = (report.answered() + report.broken, stable.requests() + canary.requests());
    println!("{asked} requests in {seconds:.1} s, {arrived} arrived: {:.2} each", arrived as f64 / asked as f64);
    assert!(arrived as f64 <= 1.2 * asked as f64 + 10.0 * (seconds + 1.0), "{arrived} of {asked}");
    assert_eq!(penstock.version("v2").all.shielded, 0);
}

#[test]
fn an_asset_of_the_other_version_is_found_there() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let has = |own: &'static str| {
        move |request: &crate::support::Request| {
            let target = request.target();
            if target.contains(own) || target == "/" { Act::Answer } else { Act::Status(404) }
        }
    };
    stable.script(has("old.js"));
    canary.script(has("new.js"));
    let rescue = "[services.shop.skew_rescue]\npath_prefixes = [\"/assets/\"]\n";
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").rollback(OBSERVE).more(rescue).start();
    let mut client = penstock.client();
    for _ in 0..20 {
        let old = client.get("/assets/old.js");
        assert_eq!((old.status, old.header("x-version")), (200, Some("v1")));
        let new = client.get("/assets/new.js");
        assert_eq!((new.status, new.header("x-version")), (200, Some("v2")));
        assert_eq!(client.ask("HEAD /assets/new.js HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    }
    eventually("all is evidence", || {
        let reading = &penstock.shop().reading;
        reading.canary.finished + reading.stable.finished == 60
    });
    let rescues = penstock.version("v1").all.retried.skew_rescues + penstock.version("v2").all.retried.skew_rescues;
    assert!(rescues > 10, "{rescues}");
    assert_eq!(client.get("/assets/none.js").status, 404, "nobody has it");
    assert_eq!(client.post("/assets/old.js/x", "x").status, if stable.of_method("POST") == 1 { 200 } else { 404 });
    let asked = stable.requests() + canary.requests();
    let elsewhere = client.get("/elsewhere/old.js.map").status;
    assert!(matches!(elsewhere, 200 | 404));
    assert_eq!(stable.requests() + canary.requests(), asked + 1, "not below the prefix");
}
