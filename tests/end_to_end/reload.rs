//! The file read again while requests run: all of it or nothing, and never against what was decided.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use penstock::domain::split::Weight;

use crate::support::{Client, Load, Origin, Penstock, Process, Setup, eventually};

/// A Penstock, its two origins and its file.
struct World {
    stable: Origin,
    canary: Origin,
    file: PathBuf,
    penstock: Penstock,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(weight: &'static str) -> World {
        let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("penstock.toml");
        let penstock = Setup::of(&[&stable]).canary(&[&canary], weight).start_from(&file);
        World { stable, canary, file, penstock, _folder: folder }
    }

    fn edit(&self, from: &str, to: &str) -> &World {
        let text = fs::read_to_string(&self.file).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&self.file, text.replace(from, to)).unwrap();
        self
    }

    #[track_caller]
    fn reload(&self) -> String {
        let response = self.penstock.reload();
        assert_eq!(response.status, 200, "{}", response.text());
        response.text()
    }

    fn stands(&self) -> (String, Option<String>, String) {
        let shop = self.penstock.shop();
        (shop.stable.to_string(), shop.canary.as_ref().map(ToString::to_string), shop.weight.to_string())
    }

    fn weigh(&self, weight: &str) {
        self.penstock.set_weight(&mut Client::connect(self.penstock.admin()), weight);
    }
}

fn stands(stable: &str, canary: Option<&str>, weight: &str) -> (String, Option<String>, String) {
    (stable.to_owned(), canary.map(str::to_owned), weight.to_owned())
}

#[test]
fn a_hundred_reloads_under_load_fail_no_request() {
    let world = World::new("30%");
    let load = Load::start(world.penstock.address(), 8, Duration::from_millis(1));
    for round in 0..100 {
        let (from, to) = if round % 2 == 0 { ("response_head", "connect") } else { ("connect", "response_head") };
        let text = fs::read_to_string(&world.file).unwrap();
        let line = format!("[services.shop.timeouts]\n{to} = \"5s\"\n");
        let old = format!("[services.shop.timeouts]\n{from} = \"5s\"\n");
        let base = text.replace(&old, "[services.shop.timeouts]\n");
        fs::write(&world.file, base.replace("[services.shop.timeouts]\n", &line)).unwrap();
        world.reload();
    }
    eventually("a thousand answers", || load.answered() >= 1_000);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report:?}");
    println!("100 reloads, {} requests, none failed", report.answered());
}

#[test]
fn a_faulty_file_changes_nothing_and_every_fault_is_named() {
    let world = World::new("10%");
    world.edit("weight = \"10%\"", "weight = 10\ncannary = \"v2\"");
    let response = world.penstock.reload();
    assert_eq!(response.status, 422);
    assert!(response.text().contains("cannary") && response.text().contains("penstock.toml:"), "{}", response.text());
    assert_eq!(world.stands(), stands("v1", Some("v2"), "10%"));
    assert_eq!(world.penstock.get("/").status, 200);
    let config = world.penstock.read("/v1/config");
    assert!(config.contains("\"successful\":false"), "{config}");
    world.edit("weight = 10\ncannary = \"v2\"", "weight = \"10%\"");
    world.reload();
    let config = world.penstock.read("/v1/config");
    assert!(config.contains("\"successful\":true"), "{config}");
}

#[test]
fn an_edited_weight_is_ignored_where_a_person_has_set_one() {
    let world = World::new("10%");
    world.weigh("40%");
    world.edit("weight = \"10%\"", "weight = \"70%\"").reload();
    assert_eq!(world.stands(), stands("v1", Some("v2"), "40%"));
}

#[test]
fn another_canary_begins_at_the_files_weight() {
    let world = World::new("10%");
    world.weigh("40%");
    let v3 = format!("\n[services.shop.versions.v3]\nendpoints = [\"{}\"]\n", world.canary.address);
    let text = fs::read_to_string(&world.file).unwrap().replace("canary = \"v2\"", "canary = \"v3\"");
    fs::write(&world.file, text + &v3).unwrap();
    // v2 has traffic: it stays listed until it has none.
    world.reload();
    assert_eq!(world.stands(), stands("v1", Some("v3"), "10%"));
}

#[test]
fn the_canary_named_as_stable_is_stable() {
    let world = World::new("10%");
    world.edit("stable = \"v1\"", "stable = \"v2\"").edit("canary = \"v2\"\nweight = \"10%\"", "").reload();
    assert_eq!(world.stands(), stands("v2", None, "0%"));
    eventually("requests at v2", || world.penstock.get("/").header("x-version") == Some("v2"));
    assert!(world.stable.requests() == 0 || world.penstock.get("/").header("x-version") == Some("v2"));
}

#[test]
fn a_sealed_version_stays_sealed_whatever_the_file_says() {
    let world = World::new("10%");
    assert_eq!(world.penstock.post("/v1/services/shop:abort", "").status, 200);
    world.edit("weight = \"10%\"", "weight = \"50%\"").reload();
    assert_eq!(world.stands(), stands("v1", Some("v2"), "0%"));
    assert!(world.penstock.version("v2").seal.is_some());
    assert_eq!(world.penstock.shop().weight, Weight::ZERO);
}

#[test]
fn a_version_with_traffic_is_not_removed_unless_forced() {
    let world = World::new("50%");
    let text = fs::read_to_string(&world.file).unwrap();
    let listed = format!("[services.shop.versions.v2]\nendpoints = [\"{}\"]\n", world.canary.address);
    fs::write(&world.file, text.replace("canary = \"v2\"\nweight = \"50%\"\n", "").replace(&listed, "")).unwrap();
    let refused = world.penstock.reload();
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("v2"), "{}", refused.text());
    assert_eq!(world.stands(), stands("v1", Some("v2"), "50%"));
    assert_eq!(world.penstock.post("/v1/config:reload", "{\"force_drain\":true}").status, 200);
    assert_eq!(world.stands(), stands("v1", None, "0%"));
    assert_eq!(world.penstock.get("/").header("x-version"), Some("v1"));
}

#[test]
fn a_new_listener_comes_before_the_old_one_goes_and_connections_stay() {
    let world = World::new("0%");
    let mut before = world.penstock.client();
    assert_eq!(before.get("/").status, 200);
    let free: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = format!("[[listeners]]\naddress = \"{free}\"\n[admin]");
    world.edit("[admin]", &more).reload();
    eventually("the new listener", || Client::try_connect(free).is_ok());
    assert_eq!(Client::connect(free).get("/").status, 200);
    assert_eq!(before.get("/").status, 200, "a connection from before goes on");
    world.edit(&more, "[admin]").reload();
    eventually("the listener closed", || Client::try_connect(free).is_err());
}

#[test]
fn a_file_whose_content_changes_is_read_again_if_asked_for() {
    let origin = Origin::start("v1");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("penstock.toml");
    let penstock = Setup::of(&[&origin]).more("[reload]\npoll = \"100ms\"\n").start_from(&file);
    assert_eq!(penstock.get("/").status, 200);
    let text = fs::read_to_string(&file).unwrap();
    // As a ConfigMap is swapped: another file takes the name.
    fs::write(folder.path().join("next"), text.replace("path_prefix = \"/\"", "path_prefix = \"/only\"")).unwrap();
    fs::rename(folder.path().join("next"), &file).unwrap();
    eventually("the new routes", || penstock.get("/").status == 404);
    assert_eq!(penstock.get("/only/this").status, 200);
}

#[test]
fn a_hangup_has_the_file_read_again() {
    let (stable, other) = (Origin::start("v1"), Origin::start("other"));
    let process = Process::serve(&Setup::of(&[&stable]));
    assert_eq!(process.client().get("/").header("x-version"), Some("v1"));
    process.edit(&stable.address.to_string(), &other.address.to_string());
    process.signal("HUP");
    eventually("the other endpoint", || process.client().get("/").header("x-version") == Some("other"));
}

#[test]
fn validating_changes_nothing() {
    let world = World::new("10%");
    world.edit("canary = \"v2\"\nweight = \"10%\"", "canary = \"v2\"\nweight = \"11%\"");
    let answer = world.penstock.post("/v1/config:validate", "{}");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.stands(), stands("v1", Some("v2"), "10%"));
}
