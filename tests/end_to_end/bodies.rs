//! Bodies pass through both ways at the pace of the slower side, and neither side is told of an end that was none.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use crate::support::{Act, Origin, Setup, eventually, throughout};

#[test]
fn a_body_is_passed_on_before_it_is_complete() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").unwrap();
    eventually("the first chunk at the endpoint", || origin.seen(|seen| seen.received) == 5);
    client.send("6\r\n world\r\n0\r\n\r\n").unwrap();
    assert_eq!(client.receive(false).unwrap().status, 200);
    let request = origin.the_request();
    assert_eq!(request.header("transfer-encoding"), Some("chunked"));
    assert_eq!(request.body, b"hello world");
}

#[test]
fn an_answer_is_passed_on_before_it_is_complete() {
    let origin = Origin::start("v1");
    origin.always(Act::RawThenHang("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".into()));
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(client.receive_head().unwrap().status, 200);
    let mut first = [0; 10];
    client.read_exact(&mut first);
    assert_eq!(&first, b"5\r\nhello\r\n");
}

#[test]
fn a_length_stays_a_length() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    let body = "x".repeat(300_000);
    assert_eq!(penstock.client().post("/", &body).header("content-length"), Some("2"));
    let request = origin.the_request();
    assert_eq!((request.body_length, request.header("content-length")), (300_000, Some("300000")));
    assert_eq!(request.header("transfer-encoding"), None);
}

#[test]
fn trailers_of_an_answer_are_passed_on() {
    let origin = Origin::start("v1");
    origin.always(Act::raw(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
    ));
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").unwrap();
    let head = client.receive_head().unwrap();
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    let mut rest = vec![0; "2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n".len()];
    client.read_exact(&mut rest);
    assert!(String::from_utf8_lossy(&rest).to_lowercase().contains("x-sum: 1"), "{rest:?}");
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let origin = Origin::start("v1");
    origin.always(Act::Early(413));
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").unwrap();
    client.send(vec![b'x'; 10_000]).unwrap();
    assert_eq!(client.receive(false).unwrap().status, 413);
    assert_eq!(penstock.settled("v1", 1).rejected, 1);
}

#[test]
fn a_client_that_reads_slowly_holds_the_endpoint_back() {
    let origin = Origin::start("v1");
    origin.always(Act::Stream(64 << 20));
    let penstock = Setup::of(&[&origin]).upstream("body_idle = \"500ms\"").clients("client_idle = \"500ms\"").start();
    let mut client = penstock.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = client.receive_head().unwrap();
    let sent = || origin.seen(|seen| seen.sent);
    eventually("the endpoint is held back", || {
        let before = sent();
        thread::sleep(Duration::from_millis(300));
        sent() == before
    });
    assert!(sent() < 60 << 20, "{} bytes are buffered somewhere", sent());
    throughout(Duration::from_secs(1), "a slow reader is not an idle one", || origin.open() == 1);
    assert!(client.receive_body(&mut answer).unwrap());
    assert_eq!(answer.body_length, 64 << 20);
}

#[test]
fn the_last_piece_of_an_answer_waits_for_a_client_that_reads_slowly() {
    for mebibytes in 1..=12 {
        let origin = Origin::start("v1");
        origin.always(Act::Stream(mebibytes << 20));
        let penstock = Setup::of(&[&origin]).clients("client_idle = \"200ms\"").start();
        let mut client = penstock.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = client.receive_head().unwrap();
        thread::sleep(Duration::from_millis(700));
        assert!(client.receive_body(&mut answer).unwrap(), "cut at {} of {mebibytes} MiB", answer.body_length);
    }
}

#[test]
fn an_endpoint_that_reads_slowly_holds_the_client_back() {
    let origin = Origin::start("v1");
    origin.always(Act::Stall);
    let penstock = Setup::of(&[&origin]).start();
    let length: u64 = 64 << 20;
    let mut client = penstock.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).unwrap();
    let mut socket = client.socket().try_clone().unwrap();
    let sender = thread::spawn(move || socket.write_all(&vec![b'x'; 64 << 20]));
    eventually("the request at the endpoint", || origin.requests() == 1);
    throughout(Duration::from_millis(500), "the client is held back", || !sender.is_finished());
    origin.release();
    sender.join().unwrap().unwrap();
    assert_eq!(client.receive(false).unwrap().status, 200);
    assert_eq!(origin.the_request().body_length, length);
}

#[test]
fn an_endpoint_that_never_reads_is_to_blame() {
    let origin = Origin::start("v1");
    origin.always(Act::Stall);
    let penstock = Setup::of(&[&origin]).upstream("body_idle = \"300ms\"").start();
    let mut client = penstock.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 67108864\r\n\r\n").unwrap();
    let mut socket = client.socket().try_clone().unwrap();
    let sender = thread::spawn(move || socket.write_all(&vec![b'x'; 64 << 20]));
    let answer = client.receive(false).unwrap();
    assert_eq!((answer.status, answer.fault()), (504, "http_response_timeout"));
    assert_eq!(penstock.settled("v1", 1).failure, 1);
    let _cut = client.socket().shutdown(Shutdown::Both);
    let _cut = sender.join().unwrap();
}
