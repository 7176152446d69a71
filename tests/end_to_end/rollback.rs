//! A bad canary loses its traffic by itself and soon; an outage that both versions share rolls nothing back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use penstock::control::journal::Entry;
use penstock::domain::judge::{Conviction, Trigger};
use penstock::domain::split::Weight;
use penstock::domain::standing::Change;

use crate::support::{Act, Load, Origin, Penstock, Setup, eventually, throughout};

/// Far above what is expected, for a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(12);

fn pair() -> (Origin, Origin) {
    (Origin::start("v1"), Origin::start("v2"))
}

fn load(penstock: &Penstock) -> Load {
    Load::start(penstock.address(), 12, Duration::from_millis(6))
}

#[track_caller]
fn rolled_back(penstock: &Penstock) -> Entry {
    eventually("a rollback", || penstock.rollback().is_some());
    eventually("the picture of it", || penstock.shop().sealed().count() == 1);
    assert_eq!(penstock.shop().weight, Weight::ZERO);
    penstock.rollback().unwrap()
}

fn conviction(entry: &Entry) -> &Conviction {
    match &entry.event.change {
        Change::RolledBack { conviction, .. } => conviction,
        other => panic!("{other:?}"),
    }
}

/// A canary that turns bad under load loses all of its traffic soon; prints the time from its first bad response to the
/// last request routed to it.
#[track_caller]
fn time_to_zero(weight: &'static str, act: Act) {
    time_to_zero_when(weight, &format!("{act:?}"), move |_| act.clone());
}

#[track_caller]
fn time_to_zero_when(weight: &'static str, what: &str, turns: impl Fn(u64) -> Act + Send + Sync + 'static) {
    let (stable, canary) = pair();
    let penstock =
        Setup::of(&[&stable]).canary(&[&canary], weight).upstream("response_head = \"500ms\"").alone().start();
    let load = load(&penstock);
    eventually("traffic that goes well", || load.answered() > 800);
    assert!(penstock.rollback().is_none());
    let turn = AtomicU64::new(0);
    canary.script(move |_| turns(turn.fetch_add(1, Ordering::Relaxed)));
    let entry = rolled_back(&penstock);
    let stable_only = stable.requests();
    eventually("traffic goes on", || stable.requests() > stable_only + 200);
    let report = load.stop();
    let (first_bad, last) = canary.seen(|seen| (seen.first_bad.unwrap(), seen.last_request.unwrap()));
    let taken = last.saturating_duration_since(first_bad);
    let incident = entry.incident.clone().unwrap();
    println!(
        "at {weight}, {what}: {} ms from the first bad response to the last request at the canary; by {} after {} canary \
         requests, {} exposed failures; detection {:?} ms, decision {:?} ms; {} requests in all",
        taken.as_millis(),
        conviction(&entry).trigger,
        incident.canary_requests,
        incident.exposed_failures,
        incident.detection_ms,
        incident.decision_ms,
        report.answered(),
    );
    assert!(taken < SOON, "{taken:?}");
    assert_eq!(report.broken, 0, "{report:?}");
}

#[test]
fn at_five_percent_a_canary_that_fails_is_gone_soon() {
    time_to_zero("5%", Act::Status(500));
}

#[test]
fn at_half_a_canary_that_fails_is_gone_soon() {
    time_to_zero("50%", Act::Status(500));
}

#[test]
fn at_all_a_canary_that_fails_is_gone_soon() {
    time_to_zero("100%", Act::Status(500));
}

#[test]
fn at_half_a_canary_that_resets_is_gone_soon() {
    time_to_zero("50%", Act::Reset);
}

#[test]
fn at_half_a_canary_that_hangs_is_gone_soon() {
    time_to_zero("50%", Act::Hang);
}

#[test]
fn at_half_a_canary_that_fails_now_and_then_is_gone_soon() {
    let fifth = |turn: u64| if turn.is_multiple_of(5) { Act::Status(500) } else { Act::Answer };
    time_to_zero_when("50%", "every fifth Status(500)", fifth);
}

#[test]
fn an_upload_to_a_canary_that_refuses_arrives_whole_at_stable() {
    let (stable, canary) = (Origin::start("v1"), Origin::absent("v2"));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "100%").rollback("mode = \"observe\"").start();
    let answer = penstock.client().post("/", &"x".repeat(1 << 20));
    assert_eq!((answer.status, answer.text().as_str()), (200, "v1"));
    assert_eq!(stable.the_request().body_length, 1 << 20);
}

#[test]
fn a_canary_that_refuses_connections_costs_no_client_anything() {
    let (stable, canary) = pair();
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "30%").start();
    canary.stop();
    let load = load(&penstock);
    let entry = rolled_back(&penstock);
    assert_eq!(conviction(&entry).trigger, Trigger::Health);
    eventually("traffic goes on", || load.answered() > 1_000);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert_eq!((report.version("v1"), canary.requests()), (report.answered(), 0));
    eventually("it is charged", || {
        let charged = penstock.version("v2").all;
        charged.shielded > 0 && charged.shielded == charged.classes.failure
    });
    let charged = penstock.version("v2").all;
    assert_eq!(charged.exposed, 0);
    println!("{} requests offered to a canary that refused them", charged.shielded);
}

#[test]
fn a_canary_that_stops_under_load_is_rolled_back() {
    let (stable, canary) = pair();
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").start();
    let load = load(&penstock);
    eventually("traffic at both", || canary.requests() > 200);
    canary.stop();
    rolled_back(&penstock);
    let report = load.stop();
    // What was on its way when it stopped, one request a connection; everything else is made up for.
    assert!(report.failed() <= 12, "{report:?}");
}

#[test]
fn a_good_canary_is_left_alone() {
    let (stable, canary) = pair();
    let flaky = |request: &crate::support::Request| {
        if request.connection.is_multiple_of(5) { Act::Status(404) } else { Act::Answer }
    };
    stable.script(flaky);
    canary.script(flaky);
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").start();
    let load = load(&penstock);
    throughout(Duration::from_secs(3), "the canary keeps its weight", || penstock.shop().weight == Weight::HALF);
    assert!(load.stop().broken == 0 && penstock.rollback().is_none());
}

#[test]
fn in_mode_observe_the_verdict_is_recorded_and_the_weight_left_alone() {
    let (stable, canary) = pair();
    canary.always(Act::Status(500));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").rollback("mode = \"observe\"").start();
    let load = load(&penstock);
    eventually("a verdict", || penstock.shop().would_roll_back.is_some());
    throughout(Duration::from_millis(700), "the weight is left alone", || penstock.shop().weight == Weight::HALF);
    load.stop();
    assert!(penstock.journal(|change| matches!(change, Change::WouldRollBack { .. })).is_some());
    assert!(penstock.rollback().is_none() && penstock.shop().sealed().count() == 0);
}

/// Something happens to both versions within a moment, lasts, and is over: the canary keeps its weight.
#[track_caller]
fn shared(weight: &'static str, begin: impl Fn(&Origin, &Origin), end: impl Fn(&Origin, &Origin)) {
    let (stable, canary) = pair();
    let upstream = "response_head = \"300ms\"\nconnect = \"300ms\"";
    let penstock = Setup::of(&[&stable]).canary(&[&canary], weight).upstream(upstream).start();
    let before = penstock.shop().weight;
    let load = load(&penstock);
    eventually("traffic that goes well", || load.answered() > 500);
    begin(&stable, &canary);
    let kept = || penstock.rollback().is_none() && penstock.shop().sealed().count() == 0;
    throughout(Duration::from_secs(3), "an outage of both convicts nobody", kept);
    end(&stable, &canary);
    let requests = canary.requests();
    eventually("traffic at the canary again", || kept() && canary.requests() > requests + 20);
    throughout(Duration::from_secs(1), "nor does its end", kept);
    let report = load.stop();
    assert!(report.failed() > 0, "there was an outage");
    assert!(penstock.shop().weight == before || penstock.shop().probe.is_some());
}

#[test]
fn both_versions_stopped_stable_first() {
    shared(
        "50%",
        |stable, canary| {
            stable.stop();
            canary.stop();
        },
        |stable, canary| {
            stable.restart();
            canary.restart();
        },
    );
}

#[test]
fn both_versions_stopped_canary_first() {
    shared(
        "20%",
        |stable, canary| {
            canary.stop();
            stable.stop();
        },
        |stable, canary| {
            canary.restart();
            stable.restart();
        },
    );
}

#[test]
fn stable_hangs_while_the_canary_refuses() {
    shared(
        "50%",
        |stable, canary| {
            stable.always(Act::Hang);
            canary.stop();
        },
        |stable, canary| {
            stable.always(Act::Answer);
            canary.restart();
        },
    );
}

#[test]
fn the_canary_hangs_while_stable_refuses() {
    shared(
        "50%",
        |stable, canary| {
            stable.stop();
            canary.always(Act::Hang);
        },
        |stable, canary| {
            canary.always(Act::Answer);
            stable.restart();
        },
    );
}

#[test]
fn a_shared_dependency_fails_both() {
    let act = |act: Act| {
        move |stable: &Origin, canary: &Origin| {
            stable.always(act.clone());
            canary.always(act.clone());
        }
    };
    shared("30%", act(Act::Status(503)), act(Act::Answer));
}
