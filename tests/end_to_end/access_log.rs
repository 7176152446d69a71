//! One JSON object per request, in a file of its own: complete, without secrets, and movable while in use.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Act, Load, Origin, Process, Setup, eventually};

fn process(setup: &Setup, log: &Path) -> Process {
    Process::serve_with(setup, &[("PENSTOCK_LOG_ACCESS", log.to_str().unwrap())])
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[track_caller]
fn line(path: &Path, index: usize) -> Value {
    eventually("the line", || lines(path).len() > index);
    lines(path).swap_remove(index)
}

#[test]
fn a_line_says_what_was_asked_who_answered_and_how_long_it_took() {
    let (origin, folder) = (Origin::start("v1"), tempfile::tempdir().unwrap());
    let path = folder.path().join("access.log");
    let process = process(&Setup::of(&[&origin]), &path);
    let mut client = process.client();
    let port = client.socket().local_addr().unwrap().port();
    let answer = client.ask(
        "POST /a/b?token=secret HTTP/1.1\r\nHost: shop:80\r\nContent-Length: 5\r\nUser-Agent: te\"st\r\n\
         Referer: http://u:secret@else/where?secret#secret\r\nAuthorization: Bearer secret\r\nCookie: a=secret\r\n\r\nhello",
    );
    assert_eq!(answer.status, 200);
    let line = line(&path, 0);
    let expected = serde_json::json!({
        "request_id": answer.header("x-request-id").map_or(line["request_id"].clone(), Value::from),
        "client_ip": "127.0.0.1", "client_port": port, "method": "POST", "scheme": "http", "host": "shop:80",
        "path": "/a/b", "proto": "HTTP/1.1", "service": "shop", "version": "v1", "role": "stable",
        "selected": "weight", "endpoint": origin.address.to_string(), "attempts": 1, "status": 200,
        "upstream_status": 200, "bytes_in": 5, "bytes_out": answer.body_length, "whole": true,
        "user_agent": "te\"st", "referer": "http://else/where",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} in {line}");
    }
    assert!(line["ts"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
    let (whole, first, connect) =
        (line["dur_ms"].as_f64().unwrap(), line["ttfb_ms"].as_f64().unwrap(), line["connect_ms"].as_f64().unwrap());
    assert!(connect > 0.0 && connect < first && first <= whole, "{line}");
    let names: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let timed = ["ts", "dur_ms", "ttfb_ms", "connect_ms"];
    let known: BTreeSet<&str> = expected.as_object().unwrap().keys().map(String::as_str).chain(timed).collect();
    assert_eq!(names, known);
    assert!(!fs::read_to_string(&path).unwrap().contains("secret"));
}

#[test]
fn failures_say_what_they_are() {
    let (stable, folder) = (Origin::start("v1"), tempfile::tempdir().unwrap());
    let path = folder.path().join("access.log");
    let canary = Origin::absent("v2");
    stable.script(|request| match request.target() {
        "/cut" => Act::raw_then_close("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        "/hang" => Act::Hang,
        _ => Act::Answer,
    });
    let setup = Setup::of(&[&stable])
        .canary(&[&canary], "0%")
        .routes("{ host = \"shop\" }")
        .pins("{ header = \"x\", version = \"canary\" }");
    let process = process(&setup, &path);
    process.client().ask("GET / HTTP/1.1\r\nHost: elsewhere\r\n\r\n");
    assert_eq!(line(&path, 0)["error"], "destination_not_found");
    assert_eq!(line(&path, 0)["status"], 404);
    assert_eq!(line(&path, 0).get("service"), None);
    let mut cut = process.client();
    cut.send("GET /cut HTTP/1.1\r\nHost: shop\r\n\r\n").unwrap();
    let _broken_off = cut.receive(false);
    let seen = line(&path, 1);
    assert_eq!((&seen["error"], &seen["whole"]), (&"http_response_incomplete".into(), &false.into()), "{seen}");
    let mut leaver = process.client();
    leaver.send("GET /hang HTTP/1.1\r\nHost: shop\r\n\r\n").unwrap();
    eventually("the request at the endpoint", || stable.requests() == 2);
    drop(leaver);
    let seen = line(&path, 2);
    assert_eq!((&seen["status"], seen.get("upstream_status")), (&499.into(), None), "{seen}");
    assert_eq!(process.client().ask("GET / HTTP/1.1\r\nHost: shop\r\nx: 1\r\n\r\n").status, 200);
    let seen = line(&path, 3);
    assert_eq!((&seen["version"], &seen["selected"]), (&"v1".into(), &"fallback".into()), "{seen}");
    assert!(seen["attempts"].as_u64() >= Some(2), "{seen}");
}

#[test]
fn moving_the_file_away_under_load_loses_no_line() {
    let (origin, folder) = (Origin::start("v1"), tempfile::tempdir().unwrap());
    let path = folder.path().join("access.log");
    let mut process = process(&Setup::of(&[&origin]).stopping("0s", "5s"), &path);
    let load = Load::start(process.address, 4, Duration::from_millis(1));
    let mut moved = Vec::new();
    for turn in 0..4 {
        let before = load.answered();
        eventually("traffic", || load.answered() > before + 200);
        let away = folder.path().join(format!("access.log.{turn}"));
        fs::rename(&path, &away).unwrap();
        process.signal("USR1");
        eventually("a new file", || path.exists());
        moved.push(away);
    }
    let before = load.answered();
    eventually("traffic", || load.answered() > before + 200);
    let report = load.stop();
    process.terminate();
    assert!(process.ended().success());
    moved.push(path);
    let all: Vec<Value> = moved.iter().flat_map(|path| lines(path)).collect();
    assert!(moved.iter().all(|path| lines(path).len() > 100), "each file has its part");
    let answered = all.iter().filter(|line| line["status"] == 200).count() as u64;
    assert!(answered >= report.answered() && answered <= origin.requests(), "{answered} of {}", report.answered());
    let ids: BTreeSet<&str> = all.iter().map(|line| line["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "no line twice");
}

#[test]
fn among_the_other_lines_it_is_json_like_them() {
    let origin = Origin::start("v1");
    let mut process =
        Process::serve_with(&Setup::of(&[&origin]).stopping("0s", "1s"), &[("PENSTOCK_LOG_ACCESS", "true")]);
    process.client().get("/among?them");
    process.terminate();
    let log = process.rest_of_log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = lines.iter().find(|line| line["target"] == "penstock::access").expect("a line");
    assert_eq!(
        (&line["path"], &line["level"], &line["message"]),
        (&"/among".into(), &"INFO".into(), &"request".into())
    );
}

#[test]
fn without_it_rotating_harms_nobody() {
    let origin = Origin::start("v1");
    let mut process = Process::serve(&Setup::of(&[&origin]).stopping("0s", "1s"));
    process.signal("USR1");
    assert_eq!(process.client().get("/").status, 200);
    process.terminate();
    let log = process.rest_of_log();
    assert!(!log.contains("penstock::access"), "{log}");
}

#[test]
fn what_stable_answered_for_the_canary_is_told() {
    let (stable, canary, folder) = (Origin::start("v1"), Origin::start("v2"), tempfile::tempdir().unwrap());
    canary.always(Act::Status(503));
    let path = folder.path().join("access.log");
    let process = process(&Setup::of(&[&stable]).canary(&[&canary], "100%").rollback("mode = \"observe\""), &path);
    assert_eq!(process.client().get("/").status, 200);
    let line = line(&path, 0);
    let expected = serde_json::json!({
        "version": "v2", "role": "canary", "selected": "weight", "attempts": 2, "shielded": true,
        "endpoint": stable.address.to_string(), "status": 200, "upstream_status": 200,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} in {line}");
    }
}
