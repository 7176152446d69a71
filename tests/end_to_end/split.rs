//! Who gets which version: weights by an honest coin, pins, and weights that change under load.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Act, Client, Load, Origin, Report, Setup, eventually};

const PINS: &str = r#"
    { header = "x-canary", value = "never", version = "stable" },
    { header = "x-canary", value = "always", version = "canary" },
    { cookie = "beta", value = "1", version = "canary" },
    { query = "preview", version = "canary" },
"#;

/// The canary's part is what a coin of this bias may give: five standard deviations, one in a million.
#[track_caller]
fn shared_as(report: &Report, weight: f64) {
    let (all, canary) = (report.answered() as f64, report.version("v2") as f64);
    let deviation = (all * weight * (1.0 - weight)).sqrt();
    assert!((canary - all * weight).abs() <= 5.0 * deviation, "{canary} of {all} at {weight}");
}

#[test]
fn the_share_is_the_weight() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "20%").start();
    let load = Load::start(penstock.address(), 4, Duration::from_millis(1));
    eventually("three thousand requests", || load.answered() > 3_000);
    let report = load.stop();
    shared_as(&report, 0.2);
    assert_eq!(report.failed(), 0, "{report:?}");
    assert_eq!((report.version("v1"), report.version("v2")), (stable.requests(), canary.requests()));
    let shares = || {
        let (all, canary) = (report.answered() as f64, report.version("v2") as f64);
        penstock.shop().observed_share.is_some_and(|share| (share - canary / all).abs() < 1e-9)
    };
    eventually("the observed share is shown", shares);
}

#[test]
fn zero_is_none_and_all_is_all() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "0%").start();
    let mut client = penstock.client();
    assert!((0..200).all(|_| client.get("/").text() == "v1"));
    penstock.set_weight(&mut Client::connect(penstock.admin()), "100%");
    assert!((0..200).all(|_| client.get("/").text() == "v2"));
}

#[test]
fn pins_choose_whatever_the_weight() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "0%").pins(PINS).start();
    let mut client = penstock.client();
    let mut asked =
        |path: &str, fields: &str| client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).text();
    assert_eq!(asked("/", ""), "v1");
    assert_eq!(asked("/", "X-Canary: always\r\n"), "v2");
    assert_eq!(asked("/", "X-Canary: perhaps\r\n"), "v1");
    assert_eq!(asked("/", "Cookie: a=b; beta=1\r\n"), "v2");
    assert_eq!(asked("/?x=y&preview", ""), "v2");
    assert_eq!(asked("/?preview", "Cookie: beta=1\r\nX-Canary: never\r\n"), "v1", "in the order of the file");
    eventually("they are counted", || (penstock.version("v1").forced, penstock.version("v2").forced) == (1, 3));
    assert!(penstock.shop().observed_share.is_none_or(|share| share == 0.0), "no coin gave the canary anything");
}

#[test]
fn pinned_requests_are_never_evidence() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    canary.always(Act::Status(500));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "0.01%").pins(PINS).start();
    let mut client = penstock.client();
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Canary: always\r\n\r\n").status, 500);
        asked += 1;
    }
    eventually("all are recorded", || penstock.version("v2").forced == asked);
    assert!(asked > 100);
    assert_eq!(penstock.classes("v2").failure, asked, "but they are counted");
    let shop = penstock.shop();
    assert_eq!((shop.reading.canary.finished, shop.reading.canary.failed), (0, 0));
    assert!(penstock.rollback().is_none());
}

#[test]
fn weights_that_change_a_hundred_times_a_second_fail_nothing() {
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let penstock = Setup::of(&[&stable]).canary(&[&canary], "50%").start();
    let load = Load::start(penstock.address(), 4, Duration::from_millis(1));
    let mut admin = Client::connect(penstock.admin());
    let begun = Instant::now();
    for change in 0..300 {
        penstock.set_weight(&mut admin, ["0%", "10%", "50%", "100%", "33.33%"][change % 5]);
        let next = begun + Duration::from_millis(10) * (u32::try_from(change).unwrap() + 1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let rate = 300.0 / begun.elapsed().as_secs_f64();
    penstock.set_weight(&mut admin, "0%");
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    assert!(report.version("v1") > 100 && report.version("v2") > 100);
    assert_eq!((report.version("v1"), report.version("v2")), (stable.requests(), canary.requests()));
    println!("{rate:.0} changes a second, {} requests, none failed", report.answered());
}
