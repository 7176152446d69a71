//! What an endpoint is asked, and what a client is told.

use crate::support::{Act, Origin, Setup};

#[test]
fn many_requests_of_many_clients_share_few_connections() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    let mut clients: Vec<_> = (0..4).map(|_| penstock.client()).collect();
    for _ in 0..50 {
        assert!(clients.iter_mut().all(|client| client.get("/").status == 200));
    }
    assert_eq!(origin.requests(), 200);
    assert!(origin.connections() <= 4, "{} connections", origin.connections());
}

#[test]
fn requests_sent_without_waiting_are_answered_in_order() {
    let origin = Origin::start("v1");
    origin.script(|request| {
        let path = request.target();
        Act::raw(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()))
    });
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    let paths: Vec<String> = (0..20).map(|n| format!("/{n}")).collect();
    let requests: Vec<String> = paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")).collect();
    client.send(requests.concat()).unwrap();
    assert!(paths.iter().all(|path| client.receive(false).unwrap().text() == *path));
}

#[test]
fn a_request_arrives_as_it_was_sent() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    let answer = penstock.client().ask(
        "POST /a/%2e%2e//b;c?d=e%20f&g HTTP/1.1\r\nHost: Shop.Example.com:81\r\nX-One: a\r\nX-One: b\r\n\
         Cookie: a=b; c=d\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!((answer.status, answer.text().as_str()), (200, "v1"));
    let request = origin.the_request();
    assert!(request.head.starts_with("POST /a/%2e%2e//b;c?d=e%20f&g HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("host"), Some("Shop.Example.com:81"));
    assert_eq!(request.all("x-one"), ["a", "b"]);
    assert_eq!(request.header("cookie"), Some("a=b; c=d"));
    assert_eq!(request.body, b"hello");
}

#[test]
fn the_endpoint_is_told_who_asks_and_nobody_else_is_believed() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    penstock.client().ask(
        "GET / HTTP/1.1\r\nHost: shop:1\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil\r\nX-Forwarded-Port: 9\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: mine\r\n\
         Forwarded: for=6.6.6.6\r\nPenstock-Version: canary\r\npenstock-other: x\r\nVia: 1.1 edge\r\n\r\n",
    );
    let request = origin.the_request();
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(request.header("x-forwarded-proto"), Some("http"));
    assert_eq!(request.header("x-forwarded-host"), Some("shop:1"));
    assert_eq!(request.header("x-forwarded-port"), Some(penstock.address().port().to_string().as_str()));
    assert_eq!(request.all("via").join(", "), "1.1 edge, 1.1 penstock");
    assert_eq!(request.header("x-request-id").map(str::len), Some(36), "a UUID of ours");
    assert!(request.header("forwarded").is_none() && !request.head.to_lowercase().contains("penstock-"));
}

#[test]
fn what_belongs_to_one_hop_stays_there_on_the_way_up() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    penstock.client().ask(
        "GET / HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, X-Private, Host, X-Forwarded-For\r\nX-Private: 1\r\n\
         Keep-Alive: timeout=5\r\nTE: gzip, trailers\r\nUpgrade: h2c\r\nProxy-Connection: keep-alive\r\n\
         Proxy-Authorization: Basic x\r\nX-Public: 1\r\n\r\n",
    );
    let request = origin.the_request();
    for gone in ["x-private", "keep-alive", "upgrade", "proxy-connection", "proxy-authorization"] {
        assert_eq!(request.header(gone), None, "{}", request.head);
    }
    assert_eq!(request.header("te"), Some("trailers"));
    assert_eq!(request.header("host"), Some("shop"));
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("x-public"), Some("1"));
}

#[test]
fn what_belongs_to_one_hop_stays_there_on_the_way_down() {
    let origin = Origin::start("v1");
    origin.always(Act::raw(
        "HTTP/1.1 200 OK\r\nConnection: X-Private, close\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Public: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
         Content-Length: 2\r\n\r\nok",
    ));
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    let answer = client.get("/");
    for gone in ["x-private", "keep-alive", "proxy-authenticate", "upgrade", "connection"] {
        assert_eq!(answer.header(gone), None, "{}", answer.head);
    }
    assert_eq!((answer.header("x-public"), answer.all("set-cookie")), (Some("1"), vec!["a", "b"]));
    assert_eq!(client.get("/").status, 200, "the endpoint's closing is not the client's");
}

#[test]
fn an_endpoints_error_passes_unchanged() {
    let origin = Origin::start("v1");
    origin.always(Act::raw("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy"));
    let penstock = Setup::of(&[&origin]).start();
    let answer = penstock.get("/");
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
    assert_eq!((answer.header("retry-after"), answer.fault()), (Some("7"), "none"));
}

#[test]
fn answers_without_a_body_are_answers() {
    let origin = Origin::start("v1");
    origin.script(|request| match request.target() {
        "/none" => Act::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/same" => Act::raw("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 9\r\n\r\n"),
        "/empty" => Act::raw("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        _ => Act::Answer,
    });
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    for (path, status) in [("/none", 204), ("/same", 304), ("/empty", 200)] {
        assert_eq!(client.get(path).status, status);
    }
    let head = client.ask("HEAD /head HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!((head.status, head.header("content-length")), (200, Some("2")));
    assert_eq!(client.get("/after").text(), "v1");
    assert_eq!(origin.connections(), 1, "each of them ends where it should");
}

#[test]
fn interim_answers_do_not_get_in_the_way() {
    let origin = Origin::start("v1");
    origin.always(Act::raw(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ));
    let penstock = Setup::of(&[&origin]).start();
    let answer =
        penstock.client().ask("POST / HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(origin.the_request().body, b"hi");
}

#[test]
fn a_client_of_an_older_version_is_served() {
    let origin = Origin::start("v1");
    origin.always(Act::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"));
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    let answer = client.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.header("transfer-encoding"), None, "HTTP/1.0 knows no chunks");
    assert!(client.is_closed());
}

#[test]
fn an_older_client_may_ask_to_keep_its_connection() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    for _ in 0..2 {
        let answer = client.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("keep-alive")));
    }
}

#[test]
fn a_client_that_asks_to_close_is_closed_and_the_endpoint_is_not() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).canary(&[&origin], "0%").start();
    for _ in 0..10 {
        let mut client = penstock.client();
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status, 200);
        assert!(client.is_closed());
    }
    assert!(origin.connections() <= 2, "one for each worker, not {}", origin.connections());
}

#[test]
fn targets_of_other_forms_reach_the_endpoint_in_its_own() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    for (target, method, path, host) in [
        ("http://real.example:81/x?y", "GET", "/x?y", "real.example:81"),
        ("http://real.example", "GET", "/", "real.example"),
        ("*", "OPTIONS", "*", "other"),
    ] {
        let answer = client.ask(&format!("{method} {target} HTTP/1.1\r\nHost: other\r\n\r\n"));
        let request = origin.last_request();
        assert_eq!((answer.status, request.target(), request.header("host")), (200, path, Some(host)));
    }
}

#[test]
fn the_head_of_an_answer_in_chunks_has_no_body() {
    let origin = Origin::start("v1");
    origin.always(Act::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
    let penstock = Setup::of(&[&origin]).start();
    let mut client = penstock.client();
    for _ in 0..3 {
        assert_eq!(client.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    }
    assert_eq!(penstock.settled("v1", 3).success, 3);
}

#[test]
fn no_route_is_said_to_be_none() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).routes("{ host = \"shop\", path_prefix = \"/in\" }").start();
    let mut client = penstock.client();
    assert_eq!(client.get("/in/x").status, 200);
    let answer = client.get("/out");
    assert_eq!((answer.status, answer.fault()), (404, "destination_not_found"));
    assert_eq!(client.ask("GET /in HTTP/1.1\r\nHost: other\r\n\r\n").status, 404);
    assert_eq!(origin.requests(), 1);
}
