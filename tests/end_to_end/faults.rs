//! Endpoints that refuse, reset, hang, send garbage or stop halfway: what the client is told, and who is blamed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock::domain::outcome::Classes;
use socket2::{Domain, Socket, Type};

use crate::support::{Act, Origin, Response, Setup};

const SHORT: &str = "connect = \"300ms\"\nresponse_head = \"300ms\"\nbody_idle = \"400ms\"";

/// The answers to one request for each of what an endpoint does. Everything is recorded when they are returned.
#[track_caller]
fn answers(acts: &[Act]) -> (Vec<io::Result<Response>>, Classes) {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).upstream(SHORT).start();
    let ask = |act: &Act| {
        origin.always(act.clone());
        penstock.client().try_ask("GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
    };
    let answers = acts.iter().map(ask).collect();
    let classes = penstock.settled("v1", acts.len() as u64);
    assert_eq!((origin.requests(), classes.total()), (acts.len() as u64, acts.len() as u64), "nothing is sent twice");
    (answers, classes)
}

/// Whichever of these an endpoint does, this is the answer, and the version's failure.
#[track_caller]
fn answered_with(acts: &[Act], status: u16, fault: &str) {
    let (answers, classes) = answers(acts);
    for (answer, act) in answers.into_iter().zip(acts) {
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.fault()), (status, fault), "{act:?}: {}", answer.head);
    }
    assert_eq!(classes.failure, acts.len() as u64);
}

/// Whichever of these an endpoint does, the client can tell that something is missing. It is the version's failure.
#[track_caller]
fn cut_short(acts: &[Act]) {
    let (answers, classes) = answers(acts);
    for (answer, act) in answers.into_iter().zip(acts) {
        // The connection may end before the head is out.
        assert!(answer.map_or(true, |answer| answer.status == 200 && !answer.whole), "{act:?}");
    }
    assert_eq!(classes.failure, acts.len() as u64);
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
    let half = Act::raw_then_close("HTTP/1.1 200 OK\r\nContent-");
    answered_with(&[Act::Reset, Act::RawThenClose(Vec::new()), half], 502, "connection_terminated");
}

#[test]
fn garbage_is_a_bad_gateway() {
    let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "x".repeat(100 * 1024));
    let garbage = [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "<html>hello</html>\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A : 1\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        &"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17),
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        &large,
    ];
    answered_with(&garbage.map(Act::raw_then_close), 502, "http_protocol_error");
}

#[test]
fn switching_protocols_unasked_is_a_bad_gateway() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw";
    answered_with(&[Act::raw(switch), Act::raw_then_close(switch)], 502, "http_protocol_error");
}

#[test]
fn no_answer_in_time_is_a_gateway_timeout() {
    let begun = Instant::now();
    let acts = [
        Act::Hang,
        Act::Late(Duration::from_secs(2)),
        Act::RawThenHang("HTTP/1.1 200 OK\r\nX-".into()),
        Act::Trickle("HTTP/1.1 200 OK\r\n".repeat(9).into(), Duration::from_millis(20)),
    ];
    answered_with(&acts, 504, "http_response_timeout");
    assert!(begun.elapsed() >= Duration::from_millis(4 * 300));
}

#[test]
fn a_body_cut_short_stays_cut_short() {
    let cut = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ];
    cut_short(&cut.map(Act::raw_then_close));
}

#[test]
fn a_body_that_turns_to_garbage_is_cut_short() {
    let garbage = [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    ];
    cut_short(&garbage.map(Act::raw_then_close));
}

#[test]
fn a_body_that_stops_is_cut_short() {
    let stopping = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ];
    cut_short(&stopping.map(|text| Act::RawThenHang(text.into())));
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
    let (mut answers, classes) = answers(&[Act::raw_then_close("HTTP/1.1 200 OK\r\n\r\nhello")]);
    let answer = answers.remove(0).unwrap();
    assert_eq!((answer.status, answer.whole, answer.text().as_str()), (200, true, "hello"));
    assert_eq!(classes.success, 1);
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

/// A length that is none, or two of them (RFC 9110 §8.6): the next in line might read it otherwise.
#[test]
fn a_length_that_is_none_is_malformed_in_an_answer_to_head_too() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).upstream(SHORT).start();
    for lengths in ["Content-Length: -1", "Content-Length: 2\r\nContent-Length: 3"] {
        origin.always(Act::raw(&format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\n")));
        let answer = penstock.client().ask("HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n");
        assert_eq!((answer.status, answer.fault()), (502, "http_protocol_error"), "{lengths}: {}", answer.head);
    }
    assert_eq!(penstock.settled("v1", 2).failure, 2);
}

/// It had just been used: it did not die of idleness, but of the request.
#[test]
#[ignore = "whatever dies on a connection that was used before is taken for one that died while it was idle"]
fn a_version_that_resets_now_and_then_is_blamed_for_every_reset() {
    let (origin, resets) = (Origin::start("v1"), Arc::<AtomicU64>::default());
    origin.script({
        let (turn, resets) = (AtomicU64::new(1), resets.clone());
        move |_| {
            let reset = turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(4);
            resets.fetch_add(u64::from(reset), Ordering::Relaxed);
            if reset { Act::Reset } else { Act::Answer }
        }
    });
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    (0..40).for_each(|_| drop(client.get("/")));
    let classes = penstock.settled("v1", 40);
    assert_eq!(classes.failure, resets.load(Ordering::Relaxed), "{classes:?}");
}
