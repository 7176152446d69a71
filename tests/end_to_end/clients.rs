//! Clients that are slow, idle, or gone: what they may take their time with, and that no version is blamed for them.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::support::{Act, Origin, Setup, eventually};

#[test]
fn a_head_that_comes_too_slowly_ends_the_connection() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).clients("request_head = \"300ms\"").start();
    for beginning in ["", "G", "GET / HTTP/1.1\r\nHost: a\r\nX-"] {
        let (mut client, begun) = (penstock.client(), Instant::now());
        client.send(beginning).unwrap();
        assert!(client.is_closed(), "{beginning:?}");
        assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
    }
    let mut dripping = penstock.client();
    let dripped = (0..200).find(|_| {
        std::thread::sleep(Duration::from_millis(50));
        dripping.send("x").is_err()
    });
    assert!(dripped.is_some(), "a byte now and then does not help");
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_second_head_that_comes_too_slowly_ends_the_connection() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).clients("request_head = \"300ms\"").start();
    let mut client = penstock.client();
    client.get("/");
    assert!(client.is_open_after(Duration::from_millis(600)), "idle is something else");
    client.send("GET / HT").unwrap();
    assert!(client.is_closed());
}

#[test]
fn an_idle_client_is_let_go() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).clients("client_idle = \"400ms\"").start();
    let mut client = penstock.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
        assert!(client.is_open_after(Duration::from_millis(100)));
    }
    let begun = Instant::now();
    assert!(client.is_closed());
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[test]
fn a_client_that_waits_is_not_idle() {
    let origin = Origin::start("v1");
    origin.always(Act::Late(Duration::from_millis(900)));
    let penstock = Setup::of(&[&origin]).clients("client_idle = \"200ms\"\nrequest_head = \"200ms\"").start();
    assert_eq!(penstock.get("/").status, 200);
}

#[test]
fn an_upload_that_stops_times_out_and_is_the_clients_own() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).upstream("body_idle = \"300ms\"").start();
    let mut client = penstock.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").unwrap();
    let answer = client.receive(false).unwrap();
    assert_eq!((answer.status, answer.fault()), (408, "http_request_error"));
    assert!(client.is_closed());
    let classes = penstock.settled("v1", 1);
    assert_eq!((classes.abandoned, classes.total()), (1, 1));
    eventually("the endpoint is told", || origin.open() == 0);
    assert_eq!(origin.seen(|seen| seen.broken_bodies), 1, "never completed");
}

#[test]
fn an_upload_that_trickles_goes_through() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).upstream("body_idle = \"600ms\"\nresponse_head = \"600ms\"").start();
    let mut client = penstock.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").unwrap();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(150));
        client.send("x").unwrap();
    }
    assert_eq!(client.receive(false).unwrap().status, 200);
}

#[test]
fn an_upload_that_the_client_breaks_off_is_no_failure() {
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let origin = Origin::start("v1");
        let penstock = Setup::of(&[&origin]).start();
        let mut client = penstock.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}")).unwrap();
        eventually("half of it at the endpoint", || origin.seen(|seen| seen.received) == 5);
        drop(client);
        let classes = penstock.settled("v1", 1);
        assert_eq!((classes.abandoned, classes.total()), (1, 1));
        assert_eq!(origin.seen(|seen| seen.broken_bodies), 1, "never completed");
    }
}

#[test]
fn a_client_that_leaves_before_the_answer_has_abandoned_it() {
    let origin = Origin::start("v1");
    origin.always(Act::Hang);
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the request at the endpoint", || origin.requests() == 1);
    drop(client);
    let classes = penstock.settled("v1", 1);
    assert_eq!((classes.abandoned, classes.total()), (1, 1));
    eventually("the endpoint is let go", || origin.open() == 0);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_an_answer_has_abandoned_it() {
    for act in [
        Act::Stream(64 << 20),
        Act::RawThenHang("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".into()),
    ] {
        let origin = Origin::start("v1");
        origin.always(act);
        let penstock = Setup::of(&[&origin]).start();
        let mut client = penstock.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(client.receive_head().unwrap().status, 200);
        drop(client);
        let classes = penstock.settled("v1", 1);
        assert_eq!((classes.abandoned, classes.total()), (1, 1));
        eventually("the endpoint is let go", || origin.open() == 0);
    }
}

#[test]
fn a_client_that_says_nothing_more_is_taken_to_have_left() {
    let origin = Origin::start("v1");
    origin.always(Act::Late(Duration::from_millis(200)));
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the request at the endpoint", || origin.requests() == 1);
    client.socket().shutdown(Shutdown::Write).unwrap();
    assert!(client.receive(false).is_err());
    assert_eq!(penstock.settled("v1", 1).abandoned, 1);
}
