//! Verbs from outside: arguments in, text and exit codes out, against a real listener with a small engine behind it.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::error::ErrorKind;
use serde_json::Value;

use super::*;
use crate::admin::testing::{Engine, Hold, Mode, Verdict, conviction, served, shop};
use crate::admin::wire::{Service, Weight};

struct World {
    engine: Arc<Engine>,
    address: SocketAddr,
}

fn world() -> World {
    let (engine, address) = served([shop()]);
    World { engine, address }
}

impl World {
    /// What a verb prints, without colours.
    fn penstock(&self, line: &str) -> Result<String, Failure> {
        penstock(&format!("--admin {} {line}", self.address))
    }

    fn refused(&self, line: &str) -> (Exit, String) {
        let failure = self.penstock(line).unwrap_err();
        (failure.exit, failure.message)
    }
}

/// An argument ends at a space; `_` stands for a space in one.
fn arguments(line: &str) -> Result<Arguments, clap::Error> {
    let words = line.split(' ').map(|word| word.replace('_', " "));
    Arguments::try_parse_from(std::iter::once("penstock".to_owned()).chain(words))
}

fn penstock(line: &str) -> Result<String, Failure> {
    let mut printed = Vec::new();
    run(arguments(line).unwrap(), &mut printed, false)?;
    Ok(anstream::adapter::strip_str(std::str::from_utf8(&printed).unwrap()).to_string())
}

#[test]
fn the_arguments_are_consistent() {
    use clap::CommandFactory;
    Arguments::command().debug_assert();
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    for (line, kind) in [
        ("weights shop 25", ErrorKind::ValueValidation),
        ("weights shop 100.5%", ErrorKind::ValueValidation),
        ("abort shop/v2", ErrorKind::ValueValidation),
        ("unseal shop", ErrorKind::MissingRequiredArgument),
        ("weights shop --if-match 3", ErrorKind::MissingRequiredArgument),
        ("explode shop", ErrorKind::InvalidSubcommand),
    ] {
        let error = arguments(line).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}");
    }
}

#[test]
fn a_healthy_service_at_a_glance() {
    let world = world();
    world.engine.saw("v1", 10_796, 4, 1_240);
    world.engine.saw("v2", 1_190, 10, 13_700);
    world.engine.stands(Some(0.1), 212.0);
    insta::assert_snapshot!(world.penstock("status").unwrap(), @r"
    shop  */  revision 0
      VERSION  ROLE    WEIGHT  SHARE  REQ/MIN  ERRORS      P50      P99  IN FLIGHT
      v1       stable     90%  90.0%    10800   0.04%  1.25 ms  1.25 ms          0
      v2       canary     10%  10.0%     1200   0.83%  13.8 ms  13.8 ms          0
      v3       -           0%     0%        0       -        -        -          0
      evidence against v2: 212 (1000 rolls back)
    ");
}

#[test]
fn a_rolled_back_service_at_a_glance() {
    let world = world();
    world.engine.saw("v2", 88, 12, 250_000);
    world.engine.stands(None, 1_339.0);
    world.engine.judged("shop", Mode::AbortOnly, Verdict::Worse(conviction()));
    insta::assert_snapshot!(world.penstock("status shop").unwrap(), @r"
    shop  */  revision 1
      VERSION  ROLE    WEIGHT  SHARE  REQ/MIN  ERRORS     P50     P99  IN FLIGHT
      v1       stable    100%      -        0       -       -       -          0
      v2       canary      0%      -      100   12.0%  251 ms  251 ms          0
      v3       -           0%      -        0       -       -       -          0
      evidence against v2: 1339 (1000 rolls back)
      v2 is sealed by judge: v2 fails 12% of its requests, v1 0.1%
        `penstock unseal shop v2` lets it take traffic again
    ");
}

#[test]
fn a_held_service_says_why() {
    let world = world();
    world.engine.judged("shop", Mode::AbortOnly, Verdict::Hold(Hold::SharedDegradation));
    let status = world.penstock("status").unwrap();
    assert!(status.contains("holding: stable is over the limit as well"), "{status}");
}

#[test]
fn a_paused_service_says_so_and_can_be_resumed() {
    let world = world();
    let waits = "paused until 1970-01-01T00:00:00Z: new requests wait, 0 of them now";
    assert_eq!(world.penstock("pause shop --for 1m --actor ann").unwrap(), format!("shop: {waits}\n"));
    let status = world.penstock("status").unwrap();
    assert!(status.contains(waits), "{status}");
    let event = world.penstock("events --after 0 --count 1").unwrap();
    assert!(event.ends_with("shop  paused: new requests wait, for 1m at most  (ann)\n"), "{event}");
    assert_eq!(world.penstock("resume shop").unwrap(), "shop: requests go on\n");
    assert_eq!(world.penstock("resume shop").unwrap(), "shop: requests go on (it was so already)\n");
    assert_eq!(world.refused("pause shop --for 1h").0, Exit::Error);
    assert_eq!(arguments("pause shop --for soon").unwrap_err().exit_code(), 2);
}

#[test]
fn a_weight_can_be_tried_without_setting_it() {
    let world = world();
    let tried = world.penstock("weights shop 25% --dry-run --force").unwrap();
    assert_eq!(tried, "shop: v1 90%, v2 10%; revision 0 (nothing has changed; it would)\n");
    assert_eq!(world.penstock("weights shop 25% --force").unwrap(), "shop: v1 75%, v2 25%; revision 1\n");
}

#[test]
fn json_is_the_wire() {
    let world = world();
    let status: Value = serde_json::from_str(&world.penstock("status --json").unwrap()).unwrap();
    let shop: Service = serde_json::from_value(status["services"][0].clone()).unwrap();
    assert_eq!(serde_json::to_value(shop).unwrap(), status["services"][0]);
    let changed: Value = serde_json::from_str(&world.penstock("--json weights shop 5%").unwrap()).unwrap();
    assert_eq!((&changed["changed"], &changed["weight"]), (&Value::Bool(true), &Value::from("5%")));
}

#[test]
fn the_weight_is_raised_lowered_and_shown() {
    let world = world();
    assert_eq!(world.penstock("weights shop 25%").unwrap(), "shop: v1 75%, v2 25%; revision 1\n");
    let same = world.penstock("weights shop 25%").unwrap();
    assert_eq!(same, "shop: v1 75%, v2 25%; revision 1 (it was so already)\n");
    assert_eq!(world.penstock("weights shop 0.5% --if-match 0").unwrap(), "shop: v1 99.5%, v2 0.5%; revision 2\n");
    world.engine.stands(Some(0.004), 0.0);
    assert_eq!(world.penstock("weights shop").unwrap(), "shop: v1 99.5%, v2 0.5% (really 0.40%); revision 2\n");
}

#[test]
fn a_stale_revision_is_a_conflict() {
    let world = world();
    let (exit, message) = world.refused("weights shop 25% --if-match 7");
    assert_eq!(exit, Exit::Refused);
    assert_eq!(message, "the service is now at revision 0, which `If-Match` does not name");
}

#[test]
fn aborting_seals_and_ends_well_however_often() {
    let world = world();
    let sealed = "shop: v1 100%, v2 0%, v2 sealed; revision 1";
    assert_eq!(world.penstock("abort shop --reason too_slow --actor alice").unwrap(), format!("{sealed}\n"));
    assert_eq!(world.penstock("cancel shop").unwrap(), format!("{sealed} (it was so already)\n"));
    assert!(world.penstock("status").unwrap().contains("v2 is sealed by alice: too slow"));
    let (exit, message) = world.refused("weights shop 1%");
    assert_eq!(exit, Exit::Refused);
    assert_eq!(message, "version `v2` is sealed and gets no traffic; unseal it first");
    assert_eq!(world.penstock("unseal shop v2").unwrap(), "shop: v1 100%, v2 0%; revision 2\n");
    assert_eq!(world.penstock("weights shop 1%").unwrap(), "shop: v1 99%, v2 1%; revision 3\n");
}

#[test]
fn promoting_leaves_no_canary() {
    let world = world();
    assert_eq!(world.penstock("promote shop").unwrap(), "shop: v2 100%; revision 1\n");
    assert_eq!(world.refused("promote shop").0, Exit::Refused);
}

#[test]
fn unknown_names_are_errors() {
    let world = world();
    assert_eq!(world.refused("abort cart"), (Exit::Error, "there is no service `cart`".to_owned()));
    let unknown = "service `shop` has no version `v9`".to_owned();
    assert_eq!(world.refused("unseal shop v9"), (Exit::Error, unknown));
    assert_eq!(world.refused("abort shop --reason a\nb").0, Exit::Usage);
}

/// The file that a test passes to a verb, in a folder of its own.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("penstock.toml");
    std::fs::write(&path, text).unwrap();
    let line = path.display().to_string();
    (folder, line)
}

#[test]
fn what_takes_effect_is_shown_as_a_file_that_is_fine() {
    let (_tour, tour) = file(include_str!("../../config/penstock.toml"));
    let shown = penstock(&format!("config show --no-environment --workers 4 {tour}")).unwrap();
    assert!(shown.starts_with("workers = 4\n"), "{shown}");
    let (_again, again) = file(&shown);
    assert!(penstock(&format!("check --no-environment {again}")).unwrap().ends_with("is fine\n"));
    let told = penstock(&format!("config show --origin --no-environment --workers 4 {tour}")).unwrap();
    assert!(told.lines().next().unwrap().ends_with("# flag --workers"), "{told}");
    let json = penstock(&format!("config show --json --origin --no-environment {tour}")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["settings"]["services"]["shop"]["weight"], "10%");
    assert_eq!(json["origins"]["services.shop.weight"]["from"], "file");
}

#[test]
fn what_is_refused_has_no_effect_to_show() {
    let (_folder, empty) = file("");
    assert_eq!(penstock(&format!("config show --no-environment {empty}")).unwrap_err().exit, Exit::Error);
}

/// Two services: routes with conditions, a redirect, and a list of addresses.
const ROUTED: &str = r#"
[[listeners]]
address = "127.0.0.1:0"

[services.shop]
stable = "v1"
canary = "v2"
weight = "2.5%"
pins = [{ cookie = "beta", value = "1", version = "canary" }]
routes = [
    { host = "shop.example.com" },
    { host = "shop.example.com", path_prefix = "/cart", headers = [{ name = "x-beta", value = "1" }] },
    { host = "old.example.com", redirect = { to = "https://shop.example.com{path}{query}" } },
]
versions.v1.endpoints = ["127.0.0.1:9001", "shop:80"]
versions.v2.endpoints = ["127.0.0.1:9002"]

[services.admin]
stable = "v1"
versions.v1.endpoints = ["127.0.0.1:9003"]
[[services.admin.routes]]
host = "shop.example.com"
path_prefix = "/admin"
strip_prefix = true
allow = ["10.0.0.0/8"]
"#;

fn routed(line: &str) -> (Exit, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("penstock.toml");
    std::fs::write(&file, ROUTED).unwrap();
    let mut printed = Vec::new();
    let exit = match run(arguments(&format!("{line} --config {}", file.display())).unwrap(), &mut printed, false) {
        Ok(()) => Exit::Done,
        Err(failure) => failure.exit,
    };
    let text = anstream::adapter::strip_str(std::str::from_utf8(&printed).unwrap()).to_string();
    (exit, text.replace(&folder.path().display().to_string(), "FOLDER"))
}

#[test]
fn what_would_become_of_a_request_is_said_with_the_reason() {
    let (exit, text) = routed("route GET http://shop.example.com/cart?item=1");
    assert_eq!(exit, Exit::Done);
    insta::assert_snapshot!(text, @r#"
    GET http://shop.example.com/cart?item=1
      route     shop, route 0: shop.example.com/
                FOLDER/penstock.toml:11  { host = "shop.example.com" }
      sent as   /cart?item=1
      version   v1 (stable): 97.5% of requests, by the coin
                  endpoints: 127.0.0.1:9001
                v2 (canary): 2.5% of requests, by the coin
                  endpoints: 127.0.0.1:9002
      not       shop, route 1: shop.example.com/cart header x-beta=1: it has no header `x-beta` of `1`
    "#);
    let (exit, text) = routed("route GET http://shop.example.com/cart -H X-Beta:_1 -H cookie:_a=b;_beta=1");
    assert_eq!(exit, Exit::Done);
    insta::assert_snapshot!(text, @r#"
    GET http://shop.example.com/cart
      route     shop, route 1: shop.example.com/cart header x-beta=1
                FOLDER/penstock.toml:12  { host = "shop.example.com", path_prefix = "/cart", headers = [{ name = "x-beta"…
      sent as   /cart
      version   v2 (canary): pinned by cookie beta=1
                  endpoints: 127.0.0.1:9002
      not       shop, route 0: shop.example.com/: another one comes first
    "#);
    let (exit, text) = routed("route POST http://old.example.com/a?b");
    assert_eq!(exit, Exit::Done);
    insta::assert_snapshot!(text, @r#"
    POST http://old.example.com/a?b
      route     shop, route 2: old.example.com/
                FOLDER/penstock.toml:13  { host = "old.example.com", redirect = { to = "https://shop.example.com{path}{qu…
      answer    308: https://shop.example.com/a?b
    "#);
}

#[test]
fn a_denied_request_and_one_without_a_route_have_exit_codes() {
    let (exit, text) = routed("route GET http://shop.example.com/x/../admin/y --client-address 192.0.2.7");
    assert_eq!(exit, Exit::Refused);
    insta::assert_snapshot!(text, @r#"
    GET http://shop.example.com/x/../admin/y
      route     shop, route 0: shop.example.com/
                FOLDER/penstock.toml:11  { host = "shop.example.com" }
      answer    403: denied
                an endpoint may read the path in another way, and the route shop.example.com/admin of `admin` does not let 192.0.2.7 in
    "#);
    let (exit, text) = routed("route GET http://elsewhere/");
    assert_eq!(exit, Exit::Error);
    insta::assert_snapshot!(text, @r#"
    GET http://elsewhere/
      answer    404: no route takes it
    "#);
    let (exit, text) = routed("--json route GET /admin -H host:shop.example.com --client-address 10.0.0.1");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((exit, &answer["outcome"], &answer["sent_as"]), (Exit::Done, &"forwarded".into(), &"/".into()));
}

#[test]
fn a_running_proxy_is_asked_for_its_routes() {
    let world = world();
    insta::assert_snapshot!(world.penstock("route GET http://any/x").unwrap(), @r#"
    GET http://any/x
      route     shop, route 0: */
      sent as   /x
      version   v1 (stable): 90% of requests, by the coin
                  endpoints: 127.0.0.1:9001
                v2 (canary): 10% of requests, by the coin
                  endpoints: 127.0.0.1:9002
    "#);
    world.penstock("abort shop").unwrap();
    let text = world.penstock("route GET http://any/x").unwrap();
    assert!(text.contains("v1 (stable): every request") && !text.contains("v2"), "{text}");
    assert_eq!(world.refused("route GET http://").0, Exit::Error);
    assert_eq!(arguments("route GET / -H nothing").unwrap_err().kind(), ErrorKind::ValueValidation);
}

#[test]
fn nobody_there_is_its_own_exit_code() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for verb in ["health", "status", "abort shop", "events"] {
        let failure = penstock(&format!("--admin {nobody} {verb}")).unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable, "{verb}");
        assert!(failure.help.unwrap().contains("PENSTOCK_ADMIN"));
    }
    assert_eq!(world().penstock("health").unwrap(), "alive\n");
}

#[test]
fn another_host_name_is_refused() {
    let world = world();
    let other = format!("--admin user@{} health", world.address);
    assert_eq!(penstock(&other).unwrap_err().exit, Exit::Refused);
}

#[test]
fn events_are_followed_in_words_and_as_json() {
    let world = world();
    world.engine.judged("shop", Mode::AbortOnly, Verdict::Worse(conviction()));
    world.penstock("unseal shop v2 --actor alice --reason fixed").unwrap();
    insta::assert_snapshot!(world.penstock("events --after 0 --count 2").unwrap(), @r"
    1970-01-01T00:00:00Z  shop  v2 rolled back from 10%, and sealed: v2 fails 12% of its requests, v1 0.1%  (judge)
    1970-01-01T00:00:00Z  shop  v2 unsealed  (alice: fixed)
    ");
    let json = world.penstock("events --after 1 --count 1 --json").unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["change"], Value::from("unsealed"));
    let lost = world.penstock("events --after 99 --count 1").unwrap();
    assert_eq!(lost, "some events are no longer known; `penstock status` shows how things stand\n");
}

#[test]
fn a_line_is_news_only_when_the_split_changes() {
    let world = world();
    let read = || -> Service {
        let status: Value = serde_json::from_str(&world.penstock("--json status").unwrap()).unwrap();
        serde_json::from_value(status["services"][0].clone()).unwrap()
    };
    let before = read();
    world.engine.saw("v2", 5, 0, 900);
    assert_eq!(render::line(&read()), render::line(&before));
    assert_eq!(render::line(&before), "shop: v1 stable, v2 10%");
    world.penstock("abort shop").unwrap();
    assert_eq!(render::line(&read()), "shop: v1 stable, v2 0%, v2 sealed");
    assert_eq!(read().weight, Weight::ZERO);
}

#[test]
fn a_failure_says_how_to_go_on() {
    let failure = Failure::new(Exit::Refused, "version `v2` is sealed").help("unseal it");
    let text = failure.to_string();
    assert_eq!(anstream::adapter::strip_str(&text).to_string(), "error: version `v2` is sealed\n help: unseal it\n");
    assert_eq!(Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).to_string(), "");
}

#[test]
fn endpoints_at_a_glance_and_what_becomes_of_them() {
    let world = world();
    insta::assert_snapshot!(world.penstock("endpoints shop").unwrap(), @r"
     VERSION  ENDPOINT        STATE    CHECKS   WEIGHT  IN FLIGHT  ORIGIN  LAST CHECK
     v1       127.0.0.1:9001  healthy  healthy       1          0  file    -
     v2       127.0.0.1:9002  healthy  healthy       1          0  file    -
     v3       127.0.0.1:9003  healthy  healthy       1          0  file    -
    ");
    assert_eq!(
        world.penstock("endpoints shop maintenance 127.0.0.1:9002").unwrap(),
        "shop: 127.0.0.1:9002 of v2 is maintenance, weight 1; revision 1\n"
    );
    assert_eq!(
        world.penstock("endpoints shop ready 127.0.0.1:9002").unwrap(),
        "shop: 127.0.0.1:9002 of v2 is healthy, weight 1; revision 2\n"
    );
    let added = world.penstock("endpoints shop add 127.0.0.1:9012 --of v2 --weight 3").unwrap();
    assert_eq!(added, "shop: 127.0.0.1:9012 of v2 is healthy, weight 3; revision 3\n");
    assert_eq!(world.penstock("endpoints shop remove 127.0.0.1:9012").unwrap(), "shop: gone from v2; revision 4\n");
    assert_eq!(world.refused("endpoints shop draining 127.0.0.1:9001").0, Exit::Refused);
    assert_eq!(world.refused("endpoints shop draining 127.0.0.1:1").0, Exit::Error);
    assert_eq!(world.refused("endpoints shop add 127.0.0.1:1").0, Exit::Usage);
    let (exit, message) = world.refused("drain shop v1");
    assert_eq!((exit, message.contains("nobody would be left")), (Exit::Refused, true), "{message}");
}

#[test]
fn what_is_not_drained_in_time_says_what_keeps_it() {
    let world = world();
    let (exit, message) = world.refused("drain shop 127.0.0.1:9002 --timeout 10ms");
    // Nobody publishes snapshots here, so no worker can know.
    assert_eq!((exit, message.contains("not drained within 10ms")), (Exit::TimedOut, true), "{message}");
}

#[test]
fn versions_at_a_glance_and_what_becomes_of_them() {
    let world = world();
    insta::assert_snapshot!(world.penstock("versions shop").unwrap(), @r"
     VERSION  ROLE    WEIGHT  ENDPOINTS       ORIGIN  SEAL
     v1       stable  90%     1 of 1 healthy  file    -
     v2       canary  10%     1 of 1 healthy  file    -
     v3       -       0%      1 of 1 healthy  file    -
    ");
    let added = world.penstock("versions shop add v4 127.0.0.1:9004 127.0.0.1:9005").unwrap();
    assert_eq!(added, "shop: v4 has 2 endpoints; revision 1\n");
    assert_eq!(world.penstock("versions shop remove v4").unwrap(), "shop: v4 is gone; revision 2\n");
    assert_eq!(world.refused("versions shop remove v2").0, Exit::Refused);
    world.penstock("weights shop 0%").unwrap();
    let named = world.penstock("versions shop canary v3").unwrap();
    assert_eq!(named, "shop: v1 100%, v3 0%; revision 4\n");
}
