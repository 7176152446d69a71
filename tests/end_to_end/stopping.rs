//! Stopping loses no request that was accepted.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Act, Client, Load, Origin, Process, Setup, eventually};

#[test]
fn a_request_in_flight_is_finished_and_the_idle_are_let_go() {
    let origin = Origin::start("v1");
    origin.script(|request| match request.target() {
        "/slow" => Act::Late(Duration::from_millis(1_200)),
        _ => Act::Answer,
    });
    let mut penstock = Setup::of(&[&origin]).stopping("0s", "10s").start();
    let address = penstock.address();
    let (mut idle, mut busy) = (penstock.client(), penstock.client());
    idle.get("/");
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the slow request at the endpoint", || origin.requests() == 2);
    let app = penstock.take();
    let (stopping, begun) = (thread::spawn(move || app.stop(|| false)), Instant::now());
    assert!(idle.is_closed());
    assert!(begun.elapsed() < Duration::from_millis(1_100), "without waiting for the busy one");
    eventually("connections are refused", || TcpStream::connect(address).is_err());
    let answer = busy.receive(false).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(busy.is_closed());
    stopping.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "it does not wait for longer than it must");
}

#[test]
fn a_request_that_does_not_end_is_cut_off_after_the_drain() {
    let origin = Origin::start("v1");
    origin.always(Act::RawThenHang("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".into()));
    let mut penstock = Setup::of(&[&origin]).stopping("0s", "400ms").start();
    let mut client = penstock.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = client.receive_head().unwrap();
    let begun = Instant::now();
    penstock.stop();
    assert!((Duration::from_millis(390)..Duration::from_secs(6)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(!client.receive_body(&mut answer).unwrap(), "cut, not completed");
}

#[test]
fn while_it_lingers_it_serves_and_says_that_it_is_not_ready() {
    let origin = Origin::start("v1");
    let mut penstock = Setup::of(&[&origin]).stopping("1500ms", "300ms").start();
    let (address, admin) = (penstock.address(), penstock.admin());
    let ready = || Client::connect(admin).ask(&format!("GET /ready HTTP/1.1\r\nHost: {admin}\r\n\r\n")).status;
    assert_eq!(ready(), 200);
    let app = penstock.take();
    let stopping = thread::spawn(move || app.stop(|| false));
    eventually("not ready", || ready() == 503);
    assert_eq!(Client::connect(address).get("/").status, 200, "new connections are still served");
    stopping.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let origin = Origin::start("v1");
    origin.always(Act::Hang);
    let mut penstock = Setup::of(&[&origin]).stopping("10s", "10s").start();
    let mut client = penstock.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the request at the endpoint", || origin.requests() == 1);
    let begun = Instant::now();
    penstock.take().stop(|| true);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn stopping_under_load_fails_no_request_that_was_taken() {
    let origin = Origin::start("v1");
    let mut penstock = Setup::of(&[&origin]).stopping("0s", "5s").start();
    let load = Load::start(penstock.address(), 6, Duration::from_millis(2));
    eventually("traffic", || load.answered() > 300);
    penstock.stop();
    let answered = load.answered();
    assert_eq!(origin.requests(), answered, "whatever reached the endpoint was answered");
    let report = load.stop();
    assert_eq!(report.answered(), report.status(200), "{report:?}");
}

#[test]
fn a_client_that_keeps_asking_is_told_to_go_and_never_cut_off() {
    let origin = Origin::start("v1");
    let mut penstock = Setup::of(&[&origin]).stopping("0s", "5s").start();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = penstock.client();
            thread::spawn(move || while client.get("/").header("connection") != Some("close") {})
        })
        .collect();
    eventually("traffic", || origin.requests() > 300);
    penstock.stop();
    for client in clients {
        client.join().expect("every request was answered, the last one with `Connection: close`");
    }
}

#[test]
fn sigterm_ends_the_process_well_and_no_request_badly() {
    let origin = Origin::start("v1");
    origin.always(Act::Late(Duration::from_millis(600)));
    let mut process = Process::serve(&Setup::of(&[&origin]).stopping("0s", "10s"));
    let mut client = process.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the request at the endpoint", || origin.requests() == 1);
    process.terminate();
    assert_eq!(client.receive(false).unwrap().status, 200);
    assert!(process.ended().success());
}

#[test]
fn a_second_sigterm_ends_the_process_at_once() {
    let origin = Origin::start("v1");
    origin.always(Act::Hang);
    let mut process = Process::serve(&Setup::of(&[&origin]).stopping("60s", "60s"));
    let mut client = process.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the request at the endpoint", || origin.requests() == 1);
    process.terminate();
    thread::sleep(Duration::from_millis(300)); // two at once may count as one
    process.terminate();
    process.ended();
    assert!(client.is_closed());
}
