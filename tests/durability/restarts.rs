//! What a restart makes of a file that was edited meanwhile, and of a store that is in use.

use std::net::TcpListener;

use penstock::admin::wire::Weight;

use crate::world::{Ended, Proxy, Stands, World, changed, percent, serves};

/// Its weight was set to 20 % by a person; then it was killed and its file edited.
fn edited(edit: impl FnOnce(String) -> String) -> World {
    let world = World::new();
    let proxy = world.start();
    let fields = "If-Match: *\r\nPenstock-Actor: alice\r\n";
    changed(proxy.api().ask("PATCH", "/v1/services/shop/split", fields, "{\"weight\":\"20%\"}"));
    proxy.kill();
    world.write(edit);
    world
}

/// And sealed.
fn sealed(edit: impl FnOnce(String) -> String) -> World {
    let world = edited(|text| text);
    changed(world.start().api().abort());
    world.write(edit);
    world
}

#[track_caller]
fn refused(world: &World) -> Ended {
    Proxy::start(world.serve()).err().expect("refused")
}

fn third(text: &str) -> String {
    let endpoints = text.split("versions.v2]\nendpoints = ").nth(1).unwrap().lines().next().unwrap();
    format!("{text}\n[services.shop.versions.v3]\nendpoints = {endpoints}\n")
}

fn without(text: &str, version: &str) -> String {
    let (before, after) = text.split_once(&format!("[services.shop.versions.{version}]\n")).unwrap();
    format!("{before}{}", after.split_once('\n').unwrap().1)
}

#[test]
fn the_files_weight_is_only_the_first_one() {
    let world = edited(|text| text);
    let proxy = world.start();
    assert_eq!(proxy.api().split().weight, percent(20));
    assert!(!proxy.log().contains("is ignored"), "nobody edited it: {}", proxy.log());
}

#[test]
fn an_edited_weight_is_ignored_with_a_warning_once() {
    let world = edited(|text| text.replace("35%", "60%"));
    let proxy = world.start();
    assert_eq!(proxy.api().split().weight, percent(20));
    let log = proxy.log();
    let warning = log.lines().find(|line| line.contains("is ignored")).unwrap_or_else(|| panic!("no warning: {log}"));
    for part in ["alice", "60%", "20%", "penstock weights shop 60%", "\"WARN\""] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    proxy.kill();
    assert!(!world.start().log().contains("is ignored"));
}

#[test]
fn another_canary_begins_at_the_files_weight() {
    let world = edited(|text| third(&text.replace("canary = \"v2\"", "canary = \"v3\"").replace("35%", "60%")));
    let split = world.start().api().split();
    assert_eq!((split.canary.unwrap().to_string(), split.weight), ("v3".to_owned(), percent(60)));
}

#[test]
fn another_canary_after_a_seal_begins_at_the_files_weight_and_the_seal_stays() {
    let world = sealed(|text| third(&text.replace("canary = \"v2\"", "canary = \"v3\"")));
    let split = world.start().api().split();
    assert_eq!((split.canary.unwrap().to_string(), split.weight), ("v3".to_owned(), percent(35)));
    assert_eq!(split.sealed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["v2"]);
}

#[test]
fn the_canary_named_as_stable_is_stable() {
    let world = edited(|text| {
        third(&text.replace("stable = \"v1\"", "stable = \"v2\"").replace("canary = \"v2\"", "canary = \"v3\""))
    });
    let split = world.start().api().split();
    let (stable, canary) = (split.stable.to_string(), split.canary.unwrap().to_string());
    assert_eq!((stable.as_str(), canary.as_str(), split.weight), ("v2", "v3", percent(35)));
}

#[test]
fn the_same_name_stays_sealed() {
    let world = sealed(|text| text.replace("35%", "60%"));
    let stands = Stands::of(&world.start().api().split());
    assert_eq!(stands, Stands { weight: Weight::ZERO, sealed: true });
    // Also when another version was the canary meanwhile.
    world.write(|text| third(&text.replace("canary = \"v2\"", "canary = \"v3\"")));
    world.start().kill();
    world.write(|text| third(&text.replace("35%", "60%")));
    let proxy = world.start();
    let split = proxy.api().split();
    assert_eq!((split.canary.as_ref().unwrap().to_string(), split.weight), ("v2".to_owned(), Weight::ZERO));
    assert_eq!(proxy.api().weight("5%", "*").unwrap().status, 409);
}

#[test]
fn a_version_in_use_is_not_left_out_unless_forced() {
    let world = edited(|text| without(&third(&text.replace("canary = \"v2\"", "canary = \"v3\"")), "v2"));
    let ended = refused(&world);
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    for part in ["`v2`", "`shop`", "--force-drain"] {
        assert!(ended.log.contains(part), "{part}: {}", ended.log);
    }
    let mut command = world.serve();
    command.arg("--force-drain");
    let proxy = crate::world::started(command);
    serves(&proxy);
    let split = proxy.api().split();
    assert_eq!((split.canary.unwrap().to_string(), split.weight), ("v3".to_owned(), percent(35)));
}

#[test]
fn a_second_process_is_refused_before_it_binds_anything() {
    let world = World::new();
    let first = world.start();
    // Its listener's address is taken as well, which it would find out if it bound anything.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    world.write(|text| text.replacen("127.0.0.1:0", &taken.local_addr().unwrap().to_string(), 1));
    let ended = refused(&world);
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    for part in ["in use by another process", "data", "one store serves one proxy"] {
        assert!(ended.log.contains(part), "{part}: {}", ended.log);
    }
    serves(&first);
}

#[test]
fn without_a_store_nothing_is_promised() {
    let world = World::new();
    world.write(|text| text.replace("[store]\n", "").replace(&format!("path = \"{}\"\n", world.store().display()), ""));
    let proxy = world.start();
    assert_eq!(proxy.api().services().store, None);
    assert!(!changed(proxy.api().weight("20%", "*")).durable);
    assert_eq!(proxy.api().metric("penstock_store_up"), None);
}

/// What the API says of an endpoint of the canary: its state and who listed it; `None`: nobody.
fn endpoint(proxy: &Proxy, address: &str) -> Option<(String, String)> {
    let answer = proxy.api().ask("GET", "/v1/services/shop/versions/v2/endpoints", "", "").unwrap();
    let listed: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
    let listed = listed["endpoints"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let found = listed.into_iter().find(|endpoint| endpoint["authority"] == address);
    found.map(|endpoint| (text(&endpoint["state"]), text(&endpoint["origin"])))
}

#[test]
fn what_persons_want_of_endpoints_survives() {
    let world = World::new();
    let proxy = world.start();
    let own = world.canary.address.to_string();
    let path = |endpoint: &str| format!("/v1/services/shop/versions/v2/endpoints/{endpoint}");
    let ask = |method: &str, path: &str, body: &str| {
        let answer = proxy.api().ask(method, path, "If-Match: *\r\n", body).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains("\"durable\":true"), "{}", answer.text());
    };
    ask("PUT", &path("127.0.0.1:9"), "{\"weight\":3}");
    ask("PATCH", &path(&own), "{\"state\":\"maintenance\"}");
    ask("PUT", "/v1/services/shop/versions/v9", "{\"endpoints\":[\"127.0.0.1:9\"]}");
    proxy.kill();
    let proxy = world.start();
    let is = |state: &str, origin: &str| Some((state.to_owned(), origin.to_owned()));
    assert_eq!(endpoint(&proxy, &own), is("maintenance", "file"));
    assert_eq!(endpoint(&proxy, "127.0.0.1:9"), is("healthy", "runtime"));
    assert_eq!(proxy.api().ask("GET", "/v1/services/shop/versions/v9", "", "").unwrap().status, 200);
    let gone = proxy.api().ask("DELETE", &path("127.0.0.1:9"), "", "").unwrap();
    assert_eq!(gone.status, 200, "{}", gone.text());
    proxy.kill();
    let proxy = world.start();
    assert_eq!(endpoint(&proxy, "127.0.0.1:9"), None);
    assert_eq!(endpoint(&proxy, &own), is("maintenance", "file"));
    assert_eq!(proxy.api().split().weight, percent(35), "the intent stays");
}
