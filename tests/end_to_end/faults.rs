//! Endpoints that refuse, reset, hang, send garbage or stop halfway: what the client is told, and who is blamed.

use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::{Act, Origin, Penstock, Response, Setup};

/// The answer to one request to an endpoint that does this, and the proxy to ask about it.
fn asked(act: Act) -> (Response, Penstock, Origin) {
    let (answer, penstock, origin) = try_asked(act);
    (answer.expect("an answer"), penstock, origin)
}

fn try_asked(act: Act) -> (Option<Response>, Penstock, Origin) {
    let origin = Origin::start("v1");
    origin.always(act);
    let penstock =
        Setup::of(&[&origin]).upstream("connect = \"300ms\"\nresponse_head = \"300ms\"\nbody_idle = \"400ms\"").start();
    let answer = penstock.client().try_ask("GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    (answer.ok(), penstock, origin)
}

#[track_caller]
fn answers_with(act: Act, status: u16, fault: &str) {
    let (answer, penstock, origin) = asked(act);
    assert_eq!((answer.status, answer.fault()), (status, fault), "{}", answer.head);
    let classes = penstock.settled("v1", 1);
    assert_eq!((classes.failure, classes.total()), (1, 1));
    assert_eq!(origin.requests(), 1, "it was written, so it is not sent again");
}

#[track_caller]
fn is_cut_short(act: Act) {
    let (answer, penstock, _origin) = try_asked(act);
    // The connection may end before the head is out.
    assert!(answer.as_ref().is_none_or(|answer| (answer.status, answer.whole) == (200, false)), "{answer:?}");
    let classes = penstock.settled("v1", 1);
    assert_eq!((classes.failure, classes.total()), (1, 1));
}

#[test]
fn a_refused_connection_is_a_bad_gateway() {
    let absent = Origin::absent("v1");
    let penstock = Setup::of(&[&absent]).start();
    let mut client = penstock.client();
    let answer = client.get("/");
    assert_eq!((answer.status, answer.fault()), (502, "connection_refused"));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("date").is_some());
    let id = answer.header("x-request-id").expect("an id").to_owned();
    let problem: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!((problem["status"].as_u64(), problem["request_id"].as_str()), (Some(502), Some(id.as_str())));
    assert!(!answer.text().contains("v1") && !answer.text().contains("127.0.0.1"), "{}", answer.text());
    assert_eq!(client.get("/again").status, 502, "the client's connection is kept");
    assert_eq!(penstock.settled("v1", 2).failure, 2);
}

#[test]
fn our_answers_take_the_form_that_was_asked_for() {
    let absent = Origin::absent("v1");
    let penstock = Setup::of(&[&absent]).start();
    let mut client = penstock.client();
    for (accept, form, text) in [
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8", "<h1>502 Bad Gateway</h1>"),
        ("text/plain", "text/plain; charset=utf-8", "502 Bad Gateway: "),
        ("application/json", "application/problem+json", "\"title\":\"Bad Gateway\""),
        ("*/*", "application/problem+json", "\"status\":502"),
    ] {
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n"));
        assert_eq!((answer.status, answer.header("content-type")), (502, Some(form)));
        assert!(answer.text().contains(text), "{}", answer.text());
    }
    let head = client.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.status, head.fault()), (502, "connection_refused"));
    assert_eq!(client.get("/").status, 502, "nothing followed the head");
}

#[test]
fn a_connection_that_is_not_accepted_in_time_is_a_gateway_timeout() {
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let waiting: Vec<Socket> = (0..8)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _in_progress = socket.connect(&address);
            socket
        })
        .collect();
    let mut origin = Origin::absent("v1");
    origin.address = address.as_socket().unwrap();
    let penstock = Setup::of(&[&origin]).upstream("connect = \"300ms\"").start();
    let answer = penstock.get("/");
    assert_eq!((answer.status, answer.fault()), (504, "connection_timeout"));
    drop(waiting);
}

#[test]
fn a_reset_before_the_head_is_a_bad_gateway() {
    answers_with(Act::Reset, 502, "connection_terminated");
    answers_with(Act::RawThenClose(Vec::new()), 502, "connection_terminated");
    answers_with(Act::raw_then_close("HTTP/1.1 200 OK\r\nContent-"), 502, "connection_terminated");
}

#[test]
fn garbage_is_a_bad_gateway() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "<html>hello</html>\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ] {
        answers_with(Act::raw_then_close(garbage), 502, "http_protocol_error");
    }
}

#[test]
fn a_response_head_without_end_is_a_bad_gateway() {
    let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "x".repeat(100 * 1024));
    answers_with(Act::raw_then_close(&large), 502, "http_protocol_error");
}

#[test]
fn switching_protocols_unasked_is_a_bad_gateway() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw";
    answers_with(Act::raw(switch), 502, "http_protocol_error");
}

#[test]
fn no_answer_in_time_is_a_gateway_timeout() {
    let begun = Instant::now();
    answers_with(Act::Hang, 504, "http_response_timeout");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    answers_with(Act::Late(Duration::from_secs(2)), 504, "http_response_timeout");
    answers_with(Act::RawThenHang("HTTP/1.1 200 OK\r\nX-".into()), 504, "http_response_timeout");
    answers_with(
        Act::Trickle("HTTP/1.1 200 OK\r\n".repeat(9).into(), Duration::from_millis(20)),
        504,
        "http_response_timeout",
    );
}

#[test]
fn a_body_cut_short_stays_cut_short() {
    is_cut_short(Act::raw_then_close("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"));
    is_cut_short(Act::raw_then_close("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"));
    is_cut_short(Act::raw_then_close("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"));
    is_cut_short(Act::raw_then_close("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"));
    is_cut_short(Act::raw_then_close("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"));
}

#[test]
fn a_body_that_turns_to_garbage_is_cut_short() {
    is_cut_short(Act::raw_then_close("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"));
    is_cut_short(Act::raw_then_close("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n"));
}

#[test]
fn a_body_that_stops_is_cut_short() {
    is_cut_short(Act::RawThenHang("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".into()));
    is_cut_short(Act::RawThenHang("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".into()));
}

#[test]
fn a_body_that_trickles_arrives_whole() {
    let body = "HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n".to_owned() + &"x".repeat(60);
    let origin = Origin::start("v1");
    origin.always(Act::Trickle(body.into(), Duration::from_millis(15)));
    let penstock = Setup::of(&[&origin]).upstream("response_head = \"3s\"\nbody_idle = \"700ms\"").start();
    let answer = penstock.get("/");
    assert_eq!((answer.whole, answer.body_length), (true, 60));
    assert_eq!(penstock.settled("v1", 1).success, 1);
}

#[test]
fn a_body_ended_by_closing_is_passed_on() {
    let (answer, penstock, _origin) = asked(Act::raw_then_close("HTTP/1.1 200 OK\r\n\r\nhello"));
    assert_eq!((answer.status, answer.whole, answer.text().as_str()), (200, true, "hello"));
    assert_eq!(penstock.settled("v1", 1).success, 1);
}

#[test]
fn bytes_behind_an_answer_are_not_the_next_answer() {
    let origin = Origin::start("v1");
    origin.script(|request| match request.target() {
        "/first" => {
            Act::raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        }
        _ => Act::Answer,
    });
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    assert_eq!(client.get("/first").text(), "ok");
    assert_eq!(client.get("/second").text(), "v1");
}
