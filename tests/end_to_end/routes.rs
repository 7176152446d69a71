//! Which route a request takes, and what the route does with it beside passing it on.

use std::net::TcpListener;

use crate::support::{Act, Client, Origin, Penstock, Response, Setup};

fn penstock(origin: &Origin, routes: &'static str) -> Penstock {
    Setup::of(&[origin]).routes(routes).start()
}

#[track_caller]
fn ask(penstock: &Penstock, method: &str, target: &str, fields: &str) -> Response {
    penstock.client().ask(&format!("{method} {target} HTTP/1.1\r\nHost: shop\r\n{fields}\r\n"))
}

/// What the endpoint was asked last, by path and query.
fn target(origin: &Origin) -> String {
    origin.last_request().target().to_owned()
}

#[test]
fn conditions_decide_between_routes_of_one_path() {
    let origin = Origin::start("v1");
    let routes = r#"
        { path_prefix = "/a", rewrite_prefix = "/plain" },
        { path_prefix = "/a", methods = ["POST", "PURGE"], rewrite_prefix = "/method" },
        { path_prefix = "/a", headers = [{ name = "x-beta", value = "1" }], rewrite_prefix = "/header" },
        { path_prefix = "/a", query = [{ name = "debug" }], rewrite_prefix = "/query" },
        { path = "/a/exact", rewrite_prefix = "/exact" },
        { path_prefix = "/a/first", priority = -1, rewrite_prefix = "/never" }"#;
    let penstock = penstock(&origin, routes);
    for (method, path, fields, sent) in [
        ("GET", "/a/x", "", "/plain/x"),
        ("PURGE", "/a/x", "", "/method/x"),
        ("PURGE", "/a/x", "X-Beta: 1\r\n", "/method/x"),
        ("GET", "/a/x?debug=0", "X-Beta: 0\r\nX-Beta: 1\r\n", "/header/x?debug=0"),
        ("GET", "/a/x?debug=0", "X-Beta: 11\r\n", "/query/x?debug=0"),
        ("GET", "/a/x?debugger", "", "/plain/x?debugger"),
        ("GET", "/a/exact", "", "/exact"),
        ("GET", "/a/exact/", "", "/plain/exact/"),
        ("GET", "/a/first", "", "/plain/first"),
    ] {
        let answer = ask(&penstock, method, path, fields);
        assert_eq!((answer.status, target(&origin)), (200, sent.to_owned()), "{method} {path} {fields}");
    }
    assert_eq!(ask(&penstock, "GET", "/b", "").fault(), "destination_not_found");
}

#[test]
fn a_prefix_is_stripped_and_the_rest_is_left_as_it_was_sent() {
    let origin = Origin::start("v1");
    let penstock = penstock(&origin, r#"{ path_prefix = "/api", strip_prefix = true }, { path_prefix = "/" }"#);
    for (path, sent) in [
        ("/api", "/"),
        ("/api?x=%20", "/?x=%20"),
        ("/api/", "/"),
        ("/api/a%2Fb//c/../d?e", "/a%2Fb//c/../d?e"),
        ("/apis", "/apis"),
        ("//api", "//api"),
        ("/%61pi/x", "/%61pi/x"),
        ("/x/../api/y", "/x/../api/y"),
    ] {
        assert_eq!(penstock.get(path).status, 200);
        assert_eq!(target(&origin), sent, "{path}");
    }
    let answer = penstock.client().ask("OPTIONS * HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!((answer.status, target(&origin).as_str()), (200, "*"));
}

#[test]
fn a_path_that_becomes_too_long_is_refused() {
    let origin = Origin::start("v1");
    let to: &'static str = format!("{{ path_prefix = \"/a\", rewrite_prefix = \"/{}\" }}", "b".repeat(1_000)).leak();
    let penstock = penstock(&origin, to);
    let answer = penstock.get(&format!("/a/{}", "c".repeat(64_700)));
    assert_eq!((answer.status, answer.fault()), (414, "http_request_error"));
    assert_eq!((penstock.get("/a/c").status, origin.requests()), (200, 1));
}

#[test]
fn a_redirect_keeps_method_path_and_query_and_asks_no_endpoint() {
    let origin = Origin::start("v1");
    let routes = r#"
        { path_prefix = "/old", redirect = { to = "https://new.example.com{path}{query}" } },
        { path_prefix = "/moved", rewrite_prefix = "/there", redirect = { to = "http://{host}{path}", status = 302 } },
        { path = "/login", redirect = { to = "/sign-in?from=app", status = 303 } }, {}"#;
    let penstock = penstock(&origin, routes);
    let mut client = penstock.client();
    for (request, status, location) in [
        ("GET /old/a%2F//b?c=d&e HTTP/1.1\r\nHost: shop:81\r\n\r\n", 308, "https://new.example.com/old/a%2F//b?c=d&e"),
        ("POST /old HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi", 308, "https://new.example.com/old"),
        ("GET http://shop:81/moved/x?y HTTP/1.1\r\nHost: other\r\n\r\n", 302, "http://shop/there/x"),
        ("GET /login?x HTTP/1.1\r\nHost: shop\r\n\r\n", 303, "/sign-in?from=app"),
    ] {
        let answer = client.ask(request);
        assert_eq!((answer.status, answer.header("location")), (status, Some(location)), "{request}");
        assert_eq!((answer.body_length, answer.fault()), (0, "none"));
        assert_eq!(answer.header("x-request-id").map(str::len), Some(36));
    }
    assert_eq!((client.get("/older").status, origin.requests()), (200, 1), "the connection goes on");
    assert_eq!(penstock.settled("v1", 1).total(), 1);
}

#[test]
fn no_path_makes_a_redirect_lead_off_its_host() {
    let origin = Origin::start("v1");
    let penstock = penstock(&origin, r#"{ redirect = { to = "/new{path}{query}" } }"#);
    for path in ["//evil.example/", "/\\evil.example", "/.evil.example", "/@evil.example"] {
        let answer = penstock.get(path);
        assert_eq!((answer.status, answer.header("location")), (308, Some(&*format!("/new{path}"))));
    }
}

#[test]
fn header_fields_are_changed_on_the_way_there_and_back() {
    let origin = Origin::start("v1");
    origin.always(Act::raw(
        "HTTP/1.1 200 OK\r\nServer: secret\r\nVary: origin\r\nCache-Control: private\r\nContent-Length: 2\r\n\r\nok",
    ));
    let routes = r#"{
        request_headers = { set = { x-forwarded-proto = "https", X-Mode = "new" }, add = { x-tag = "b" }, remove = ["Cookie", "x-real-ip"] },
        response_headers = { set = { cache-control = "no-cache" }, add = { vary = "accept" }, remove = ["server"] } }"#;
    let penstock = penstock(&origin, routes.replace('\n', " ").leak());
    let answer = ask(&penstock, "GET", "/", "Cookie: a=b\r\nX-Mode: old\r\nX-Mode: older\r\nX-Tag: a\r\n");
    let request = origin.the_request();
    assert_eq!((request.header("cookie"), request.header("x-real-ip")), (None, None), "ours as well");
    assert_eq!((request.header("x-mode"), request.all("x-tag")), (Some("new"), vec!["a", "b"]));
    assert_eq!(request.header("x-forwarded-proto"), Some("https"), "the file knows better than the socket");
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("host"), Some("shop"));
    assert_eq!((answer.header("server"), answer.header("cache-control")), (None, Some("no-cache")));
    assert_eq!((answer.all("vary"), answer.text().as_str()), (vec!["origin", "accept"], "ok"));
}

#[test]
fn our_own_answers_are_not_changed() {
    let origin = Origin::absent("v1");
    let penstock = penstock(&origin, r#"{ response_headers = { set = { cache-control = "public" } } }"#);
    let answer = penstock.get("/");
    assert_eq!((answer.status, answer.header("cache-control")), (502, Some("no-store")));
}

const LISTS: &str = r#"{ path_prefix = "/" },
    { path_prefix = "/office", allow = ["10.0.0.0/8", "2001:db8::/32"] },
    { path_prefix = "/home", allow = ["127.0.0.0/8", "::1"], deny = ["127.0.0.9"] },
    { path_prefix = "/closed", deny = ["127.0.0.1", "::1"], allow = ["0.0.0.0/0", "::/0"] }"#;

#[test]
fn who_may_not_ask_is_refused_by_address() {
    let origin = Origin::start("v1");
    let penstock = penstock(&origin, LISTS.replace('\n', " ").leak());
    let mut client = penstock.client();
    for path in ["/office", "/office/x?y", "/closed"] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.fault()), (403, "http_request_denied"), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    let answer = ask(&penstock, "GET", "/office", "X-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\n");
    assert_eq!(answer.status, 403, "nobody is believed");
    assert_eq!(origin.requests(), 0);
    for path in ["/", "/home", "/home/x", "/officer"] {
        assert_eq!(client.get(path).status, 200, "{path}");
    }
    let classes = penstock.settled("v1", 4);
    assert_eq!((classes.success, classes.total()), (4, 4), "a refusal says nothing about a version");
}

#[test]
fn no_spelling_of_a_path_leads_around_a_list() {
    let origin = Origin::start("v1");
    let penstock = penstock(&origin, LISTS.replace('\n', " ").leak());
    let mut client = penstock.client();
    for path in [
        "/x/../office",
        "/home/../office",
        "/./office",
        "//office",
        "/%6Fffice",
        "/%256fffice",
        "/x/%2e%2E/office/y",
        "/x%2f..%2foffice",
        "/x\\..\\office",
        "/x/..;/office",
        "/;a/office",
        "/office/../x",
        "/y/../%6fffice/..;/z",
    ] {
        assert_eq!(client.get(path).status, 403, "{path}");
    }
    assert_eq!(origin.requests(), 0);
    for path in ["/x/../y", "//x", "/%20", "/a;b", "/x/%2e%2e/y"] {
        assert_eq!(client.get(path).status, 200, "{path}");
        assert_eq!(target(&origin), path, "as it was sent");
    }
}

#[test]
fn clients_over_ipv6_are_told_apart_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return;
    }
    let origin = Origin::start("v1");
    let more = "[[listeners]]\naddress = \"[::1]:0\"\n[[listeners]]\naddress = \"[::]:0\"\n";
    let penstock = Setup::of(&[&origin]).routes(LISTS.replace('\n', " ").leak()).more(more).start();
    let [_, v6, both] = penstock.addresses()[..] else { panic!("three listeners") };
    let statuses = |mut client: Client| ["/", "/home", "/office", "/closed"].map(|path| client.get(path).status);
    assert_eq!(statuses(Client::connect(v6)), [200, 200, 403, 403]);
    assert_eq!(origin.last_request().header("x-forwarded-for"), Some("::1"));
    // An IPv4 client of a socket that takes both.
    if let Ok(client) = Client::try_connect(([127, 0, 0, 1], both.port()).into()) {
        assert_eq!(statuses(client), [200, 200, 403, 403]);
        assert_eq!(origin.last_request().header("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[test]
fn a_services_own_pages_are_for_those_who_want_to_see_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("busy.html"), "<h1>Back in a minute</h1>").unwrap();
    std::fs::write(folder.path().join("no.html"), "<h1>Not for you</h1>").unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let pages =
        format!("[services.shop.error_pages]\n\"5xx\" = {:?}\n403 = {:?}\n", path("busy.html"), path("no.html"));
    let (origin, absent) = (Origin::start("v1"), Origin::absent("v1"));
    origin.always(Act::raw("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"));
    let routes = r#"{ }, { path_prefix = "/closed", deny = ["127.0.0.1"] }"#;
    let html = "Accept: text/html,*/*;q=0.8\r\n";

    let down = Setup::of(&[&absent]).routes(routes).more(pages.clone().leak()).start();
    let answer = ask(&down, "GET", "/", html);
    assert_eq!((answer.status, answer.text().as_str()), (502, "<h1>Back in a minute</h1>"));
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!((answer.fault(), answer.header("cache-control")), ("connection_refused", Some("no-store")));
    assert_eq!(ask(&down, "GET", "/closed", html).text(), "<h1>Not for you</h1>");
    assert_eq!(ask(&down, "HEAD", "/", html).header("content-length"), Some("25"));
    assert!(down.get("/").text().contains("\"status\":502"), "programs get what they always get");

    let up = Setup::of(&[&origin]).routes(routes).more(pages.leak()).start();
    assert_eq!(ask(&up, "GET", "/", html).text(), "busy", "an endpoint's errors pass unchanged");
}

#[test]
fn a_running_proxy_says_what_would_become_of_a_request() {
    let (v1, v2) = (Origin::start("v1"), Origin::start("v2"));
    let routes = r#"{ path_prefix = "/" }, { path_prefix = "/api", methods = ["POST"] },
        { path_prefix = "/api", strip_prefix = true, deny = ["192.0.2.0/24"] }"#;
    let pins = r#"{ header = "x-canary", value = "always", version = "canary" }"#;
    let setup = Setup::of(&[&v1]).canary(&[&v2], "25%").pins(pins).routes(routes.replace('\n', " ").leak());
    let penstock = setup.start();
    let explained = |body: &str| -> serde_json::Value {
        let answer = penstock.post("/v1/route", body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_str(&answer.text()).unwrap()
    };
    let answer = explained(r#"{"method":"GET","url":"http://shop/api/x?y"}"#);
    assert_eq!((&answer["outcome"], &answer["sent_as"]), (&"forwarded".into(), &"/x?y".into()));
    assert_eq!((&answer["route"]["index"], &answer["route"]["pattern"]), (&2.into(), &"*/api".into()));
    assert!(answer["route"]["place"].as_str().unwrap().starts_with("test.toml:"), "{answer}");
    let shares: Vec<_> =
        answer["candidates"].as_array().unwrap().iter().map(|c| (&c["version"], &c["share"])).collect();
    assert_eq!(shares, [(&"v1".into(), &"75%".into()), (&"v2".into(), &"25%".into())]);
    assert_eq!(answer["candidates"][0]["endpoints"], serde_json::json!([v1.address.to_string()]));
    assert_eq!(answer["passed_over"][0]["why"], "its method is not POST");
    let pinned = explained(r#"{"method":"GET","url":"http://shop/","headers":[{"name":"x-canary","value":"always"}]}"#);
    assert_eq!(pinned["candidates"].as_array().unwrap().len(), 1);
    assert_eq!(pinned["candidates"][0]["pin"], "header x-canary=always");
    let denied = explained(r#"{"method":"GET","url":"http://shop/x/../api","client_address":"192.0.2.7"}"#);
    assert_eq!((&denied["outcome"], &denied["status"]), (&"denied".into(), &403.into()));
    assert_eq!(v1.requests() + v2.requests(), 0, "nobody was asked");
}
