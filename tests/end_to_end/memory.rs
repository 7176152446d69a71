//! Bodies are not kept: what a large one adds to the memory of a `penstock serve`.
//!
//! `PENSTOCK_TEST_BODY_MIB` sets the size of the bodies; the is 1024.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Act, Origin, Process, Setup, eventually};

/// What one connection may add.
const MOST_KIB: u64 = 4 * 1024;

fn body_length() -> u64 {
    let mebibytes = std::env::var("PENSTOCK_TEST_BODY_MIB").ok().and_then(|text| text.parse().ok());
    mebibytes.unwrap_or(256_u64) << 20
}

/// Serving, and warm: what every connection needs is there.
fn warm(origin: &Origin) -> Process {
    warm_with(origin, "")
}

fn warm_with(origin: &Origin, more: &'static str) -> Process {
    let process = Process::serve(&Setup::of(&[origin]).more(more));
    for _ in 0..20 {
        assert_eq!(process.client().post("/warm", "up").status, 200);
    }
    process
}

/// The most that is resident beyond what was, while something is going on.
fn growth_while(process: &Process, before: u64, going_on: impl Fn() -> bool) -> u64 {
    let mut most = 0;
    while going_on() {
        most = most.max(process.kib().saturating_sub(before));
        thread::sleep(Duration::from_millis(2));
    }
    most
}

fn steady(count: impl Fn() -> u64) {
    eventually("everything is held back", || {
        let before = count();
        thread::sleep(Duration::from_millis(300));
        count() == before
    });
}

#[test]
fn a_large_answer_is_not_kept() {
    let (origin, length) = (Origin::start("v1"), body_length());
    let process = warm(&origin);
    origin.always(Act::Stream(length));
    let before = process.kib();
    let mut client = process.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = client.receive_head().unwrap();
    steady(|| origin.seen(|seen| seen.sent));
    let stalled = process.kib().saturating_sub(before);
    let reading = thread::spawn(move || (client.receive_body(&mut answer).unwrap(), answer.body_length));
    let flowing = growth_while(&process, before, || !reading.is_finished());
    assert_eq!(reading.join().unwrap(), (true, length));
    println!(
        "answer of {} MiB: {stalled} KiB with a stalled reader, {flowing} KiB at most while it flows",
        length >> 20
    );
    assert!(stalled.max(flowing) < MOST_KIB, "{stalled} KiB stalled, {flowing} KiB flowing");
}

#[test]
fn a_large_upload_is_not_kept() {
    upload("POST", "");
}

/// But its beginning, until it turns out to be too long.
#[test]
fn a_large_upload_that_may_be_repeated_is_not_kept_either() {
    upload("PUT", "[services.shop.retries]\nidempotent_methods = true\nbuffer = \"1MiB\"\n");
}

fn upload(method: &str, more: &'static str) {
    let (origin, length) = (Origin::start("v1"), body_length());
    let process = warm_with(&origin, more);
    origin.always(Act::Stall);
    let before = process.kib();
    let mut client = process.client();
    client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).unwrap();
    let mut socket = client.socket().try_clone().unwrap();
    let piece = vec![b'x'; 1 << 20];
    let sending = thread::spawn(move || (0..length >> 20).try_for_each(|_| socket.write_all(&piece)));
    eventually("the request at the endpoint", || origin.requests() > 20);
    let stalled = growth_while(&process, before, {
        let begun = Instant::now();
        move || begun.elapsed() < Duration::from_secs(1)
    });
    origin.release();
    let flowing = growth_while(&process, before, || !sending.is_finished());
    sending.join().unwrap().unwrap();
    assert_eq!(client.receive(false).unwrap().status, 200);
    assert_eq!(origin.last_request().body_length, length);
    println!(
        "upload of {} MiB: {stalled} KiB with a stalled endpoint, {flowing} KiB at most while it flows",
        length >> 20
    );
    assert!(stalled.max(flowing) < MOST_KIB, "{stalled} KiB stalled, {flowing} KiB flowing");
}
