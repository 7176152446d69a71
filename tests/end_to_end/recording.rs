//! Exactly one outcome for every attempt, whatever happens to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{Act, Client, Load, Origin, Penstock, Setup, eventually};

/// A bit of everything that goes wrong and right, evenly.
fn chaotic(origin: &Origin) {
    let turn = AtomicU64::new(0);
    origin.script(move |_| match turn.fetch_add(1, Ordering::Relaxed) % 13 {
        0 => Act::Status(500),
        1 => Act::Status(404),
        2 => Act::Reset,
        3 => Act::raw_then_close("garbage\r\n\r\n"),
        4 => Act::raw_then_close("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        5 => Act::raw_then_close("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        6 => Act::Late(Duration::from_millis(30)),
        7 => Act::Stream(300_000),
        8 => Act::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        _ => Act::Answer,
    });
}

fn recorded(penstock: &Penstock) -> u64 {
    penstock.shop().versions.iter().map(|version| version.all.classes.total()).sum()
}

fn ours(penstock: &Penstock) -> u64 {
    penstock.shop().versions.iter().map(|version| version.all.classes.ours).sum()
}

/// When nothing is under way any more, the origins have seen and the proxy has recorded this.
fn at_rest(penstock: &Penstock, origins: &[&Origin]) -> (u64, u64) {
    let seen = || origins.iter().map(|origin| origin.requests()).sum::<u64>();
    eventually("rest", || {
        let before = (seen(), recorded(penstock));
        thread::sleep(Duration::from_millis(700));
        penstock.in_flight() == 0 && before == (seen(), recorded(penstock))
    });
    (seen(), recorded(penstock))
}

#[test]
fn what_the_endpoints_saw_is_what_is_recorded() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    chaotic(&stable);
    chaotic(&canary);
    let unshielded = "[services.shop.shielding]\non = []\n";
    let penstock =
        Setup::of(&[&stable]).canary(&[&canary], "50%").rollback("mode = \"observe\"").more(unshielded).start();
    let load = Load::start(penstock.address(), 8, Duration::from_millis(2));
    eventually("fifteen hundred requests", || stable.requests() + canary.requests() > 1_500);
    let report = load.stop();
    let (seen, recorded) = at_rest(&penstock, &[&stable, &canary]);
    // Dead after a long idleness is an attempt of ours, which an endpoint may or may not have seen.
    let ours = ours(&penstock);
    assert!((recorded - ours..=recorded).contains(&seen), "{seen} seen, {recorded} recorded, {ours} ours");
    let asked = report.answered() + report.broken;
    assert!((seen - ours..=seen).contains(&asked), "{asked} asked, {seen} seen: no request was tried twice");
    assert_eq!(penstock.view().lost_outcomes, 0);
    let evidence = &penstock.shop().reading;
    let judged: u64 = penstock.shop().versions.iter().map(|version| version.all.classes.judged()).sum();
    assert_eq!(evidence.canary.finished + evidence.stable.finished, judged, "every judged attempt is evidence once");
}

#[test]
fn a_request_of_many_attempts_is_evidence_once() {
    let (one, other, canary) = (Origin::start("v1"), Origin::start("v1"), Origin::start("v2"));
    [&one, &other, &canary].into_iter().for_each(chaotic);
    let penstock = Setup::of(&[&one, &other]).canary(&[&canary], "50%").rollback("mode = \"observe\"").start();
    let load = Load::start(penstock.address(), 8, Duration::from_millis(2));
    eventually("fifteen hundred requests", || load.answered() > 1_500);
    let report = load.stop();
    let (seen, recorded) = at_rest(&penstock, &[&one, &other, &canary]);
    let ours = ours(&penstock);
    assert!((recorded - ours..=recorded).contains(&seen), "{seen} seen, {recorded} recorded, {ours} ours");
    assert_eq!(penstock.view().lost_outcomes, 0);
    let (asked, evidence) = (report.answered() + report.broken, &penstock.shop().reading);
    assert_eq!(evidence.canary.finished + evidence.stable.finished, asked, "every request is evidence once");
    assert!(seen > asked, "{seen} seen, {asked} asked: some were sent again");
    println!("{asked} requests, {recorded} attempts, {} of them failures for a client", report.failed());
}

#[test]
fn refused_attempts_are_recorded_too() {
    let (stable, canary) = (Origin::start("v1"), Origin::absent("v2"));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").rollback("mode = \"observe\"").start();
    let load = Load::start(penstock.address(), 4, Duration::from_millis(2));
    eventually("a thousand requests", || load.answered() > 1_000);
    let report = load.stop();
    at_rest(&penstock, &[&stable]);
    let (v1, v2) = (penstock.version("v1").all, penstock.version("v2").all);
    assert_eq!((v1.classes.success, v1.classes.total()), (report.answered(), stable.requests()));
    assert_eq!((v2.classes.failure, v2.classes.total()), (v2.shielded, v2.shielded));
    let share = penstock.shop().observed_share.unwrap();
    assert!((share * report.answered() as f64 - v2.shielded as f64).abs() < 0.5, "one refusal for every coin");
}

#[test]
fn clients_that_leave_at_any_time_lose_no_outcome() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    chaotic(&stable);
    chaotic(&canary);
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").rollback("mode = \"observe\"").start();
    let address = penstock.address();
    let leaving: Vec<_> = (0..6)
        .map(|seed| thread::spawn(move || (0..150).for_each(|turn| leave_somewhere(address, seed * 7 + turn))))
        .collect();
    for leaving in leaving {
        leaving.join().unwrap();
    }
    let (seen, recorded) = at_rest(&penstock, &[&stable, &canary]);
    assert_eq!(penstock.view().lost_outcomes, 0);
    assert!(recorded >= seen, "{recorded} recorded, {seen} seen");
    assert!(recorded - ours(&penstock) <= 6 * 150, "{recorded} recorded");
    let abandoned: u64 = penstock.shop().versions.iter().map(|version| version.all.classes.abandoned).sum();
    assert!(abandoned > 50, "{abandoned} abandoned");
}

/// One request, whose client leaves at a point that depends on the turn.
fn leave_somewhere(address: SocketAddr, turn: u64) {
    let mut client = Client::connect(address);
    if turn.is_multiple_of(3) {
        let _sent = client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
        thread::sleep(Duration::from_micros(500 * (turn % 11)));
        return;
    }
    let _sent = client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    match turn % 4 {
        0 => {}
        1 => thread::sleep(Duration::from_micros(200 * (turn % 11))),
        2 => drop(client.receive_head()),
        _ => drop(client.receive(false)),
    }
}
