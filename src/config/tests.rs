//! Whole files: the ones we ship, and faulty ones with everything that is said of them.

use std::time::Duration;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::domain::judge::{ErrorLimit, LatencyLimit, Mode, Policy};
use crate::domain::service::{Target, Timeouts};
use crate::domain::split::{Matcher, Weight};

const MINIMAL: &str = include_str!("../../config/minimal.toml");
const TOUR: &str = include_str!("../../config/penstock.toml");

/// What is said of `text`, which must be refused.
fn refused(text: &str) -> String {
    parse("penstock.toml", text).unwrap_err().to_string()
}

/// A good file with one service, to which a test adds its fault.
fn with(top: &str, service: &str, below: &str) -> String {
    format!(
        r#"{top}
[[listeners]]
address = "0.0.0.0:8080"

[services.shop]
routes = [{{}}]
stable = "v1"
{service}

[services.shop.versions.v1]
endpoints = ["127.0.0.1:9001"]
{below}"#
    )
}

/// A second version, for services with a canary.
const V2: &str = "[services.shop.versions.v2]\nendpoints = [\"127.0.0.1:9002\"]\n";

fn minimal() -> Settings {
    parse("minimal.toml", MINIMAL).unwrap()
}

#[test]
fn every_file_we_ship_is_without_problems() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        assert_eq!(check(&file).to_string(), "");
    }
}

#[test]
fn the_minimal_file_says_what_it_says() {
    let settings = minimal();
    assert_eq!(settings.listeners, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(settings.admin, "127.0.0.1:9900".parse().unwrap());
    let [shop] = &settings.services[..] else { panic!("{:?}", settings.services) };
    assert_eq!((shop.name.as_str(), shop.stable.as_str()), ("shop", "v1"));
    assert_eq!(shop.canary.as_ref().map(|canary| canary.as_str()), Some("v2"));
    assert_eq!(shop.weight, Weight::from_basis_points(1_000).unwrap());
    assert_eq!(shop.versions.len(), 2);
    assert_eq!(shop.pins[0].target, Target::Canary);
    let expected = Matcher::Header { name: "x-canary".parse().unwrap(), value: Some("never".into()) };
    assert_eq!(shop.pins[1].matcher, expected);
    let error_rate = Some(ErrorLimit { above: 0.05, window: Duration::from_secs(10) });
    let (above, window) = (Duration::from_secs(5), Duration::from_secs(30));
    let latency = Some(LatencyLimit { quantile: 0.99, above, window });
    assert_eq!(shop.policy, Policy { mode: Mode::AbortOnly, error_rate, latency });
}

#[test]
fn what_the_file_leaves_out_has_a_default() {
    let settings = parse("short.toml", &with("", "", "")).unwrap();
    assert_eq!(settings.admin, "127.0.0.1:9900".parse().unwrap());
    assert_eq!((settings.workers, settings.log), (None, LogSettings::default()));
    let shop = &settings.services[0];
    assert_eq!((shop.weight, &shop.canary), (Weight::ZERO, &None));
    assert_eq!((&shop.policy, shop.timeouts), (&Policy::default(), Timeouts::default()));
}

/// The tour shows the defaults as values; this keeps it true.
#[test]
fn the_tour_shows_the_defaults() {
    let (tour, short) = (parse("tour", TOUR).unwrap(), parse("short", &with("", "", "")).unwrap());
    assert_eq!((tour.admin, tour.workers, &tour.log), (short.admin, short.workers, &short.log));
    assert_eq!((tour.request_head, tour.client_idle), (short.request_head, short.client_idle));
    assert_eq!((tour.linger, tour.drain), (short.linger, short.drain));
    assert_eq!((&tour.store, tour.poll), (&short.store, short.poll));
    let (shop, plain) = (&tour.services[0], &short.services[0]);
    assert_eq!(shop.policy.error_rate, plain.policy.error_rate);
    assert_eq!((shop.policy.mode, shop.timeouts), (plain.policy.mode, plain.timeouts));
    let bare = with("", "canary = \"v2\"\nrollback.latency = { above = \"5s\" }", V2);
    assert_eq!(shop.policy.latency, parse("bare", &bare).unwrap().services[0].policy.latency);
}

#[test]
fn services_and_versions_keep_the_order_of_the_file() {
    let below = "[services.shop.versions.a1]\nendpoints = [\"a:1\"]\n\
                 [services.art]\nroutes = [{ path_prefix = \"/art\" }]\nstable = \"x\"\nversions.x.endpoints = [\"x:1\"]\n";
    let settings = parse("order.toml", &with("", "canary = \"a1\"", below)).unwrap();
    let names: Vec<_> = settings.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["shop", "art"]);
    let versions: Vec<_> = settings.services[0].versions.iter().map(|version| version.name.as_str()).collect();
    assert_eq!(versions, ["v1", "a1"]);
}

#[test]
fn a_limit_can_be_switched_off() {
    let service = "rollback = { error_rate = false, latency = false, mode = \"observe\" }";
    let policy = &parse("off.toml", &with("", service, "")).unwrap().services[0].policy;
    assert_eq!(*policy, Policy { mode: Mode::Observe, error_rate: None, latency: None });
}

#[test]
fn a_store_a_look_at_the_file_and_an_access_log_can_be_asked_for() {
    let top = "store.path = \"data\"\nreload.poll = \"2s\"\nlog.access = \"logs/access.log\"";
    let settings = parse("x", &with(top, "", "")).unwrap();
    assert_eq!((settings.store, settings.poll), (Some("data".into()), Some(Duration::from_secs(2))));
    assert_eq!(settings.log.access, AccessLog::File("logs/access.log".into()));
    let settings = parse("x", &with("reload.poll = \"off\"\nlog.access = true", "", "")).unwrap();
    assert_eq!((settings.store, settings.poll, settings.log.access), (None, None, AccessLog::Log));
}

#[test]
fn paths_and_polls_in_every_bad_form() {
    let tops = [
        "store.path = \"\"\nlog.access = \"\"",
        "store = {}\nlog.access = 1",
        "store.path = \"data\"\nlog.access = \"data\"",
        "store.path = \"a\\u0000b\"\nreload.poll = \"1ms\"",
        "store.path = true\nreload.poll = false",
        "poll = \"2s\"\nreload.pol = \"never\"\nstore.path = \"data\"",
        "reload.poll = \"never\"",
    ];
    assert_snapshot!(tops.map(|top| refused(&with(top, "", ""))).join("\n\n"));
}

#[test]
fn a_path_prefix_is_normalised() {
    let text = with("", "", "").replace("[{}]", r#"[{ path_prefix = "/api/" }]"#);
    assert_eq!(parse("x", &text).unwrap().services[0].routes[0].path_prefix, "/api");
}

#[test]
fn a_version_that_no_request_can_reach_is_a_warning() {
    let settings = parse("penstock.toml", &with("", "", V2)).unwrap();
    assert_snapshot!(settings.warnings);
}

#[test]
fn the_same_endpoint_in_two_versions_is_a_warning() {
    let below = "[services.shop.versions.v2]\nendpoints = [\"127.0.0.1:9001\"]\n";
    assert_snapshot!(parse("penstock.toml", &with("", "canary = \"v2\"", below)).unwrap().warnings);
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion() {
    let below =
        "workers = 4\nversions = 1\n[services.shop.rollbak]\n[services.shop.versions.v1.2]\nendpoints = []\n[amdin]\n";
    assert_snapshot!(refused(&with("lisseners = 1", "wieght = \"10%\"\ntimeout = \"3s\"", below)));
}

#[test]
fn a_misspelt_required_key_is_reported_once() {
    assert_snapshot!(refused(&with("", "", "").replace("stable =", "stabel =")));
}

#[test]
fn weights_in_every_bad_form() {
    let weights = ["10", "0.5", "true", "\"10\"", "\"ten\"", "\"1.234%\"", "\"101%\"", "\"-1%\"", "[\"10%\"]"];
    let said = weights.map(|weight| refused(&with("", &format!("canary = \"v2\"\nweight = {weight}"), V2)));
    assert_snapshot!(said.join("\n\n"));
}

#[test]
fn durations_in_every_bad_form() {
    let windows = ["10", "\"10\"", "\"soon\"", "\"1 fortnight\"", "\"-1s\"", "\"500ms\"", "\"11m\"", "12:00:00"];
    let limit = |window: &str| format!("rollback.error_rate = {{ above = \"5%\", window = {window} }}");
    assert_snapshot!(windows.map(|window| refused(&with("", &limit(window), ""))).join("\n\n"));
}

#[test]
fn several_problems_come_at_once_in_the_order_of_the_file() {
    let text = r#"
workers = 0

[[listeners]]
address = "localhost:8080"

[timeouts]
request_head = 10

[log]
level = "verbose"
access = "yes"

[services.shop]
routes = [{ host = "shop.example.com:80", path_prefix = "api" }, { path_prefix = "/x?y" }, { path_prefix = "/a/*" }]
stable = "v3"
canary = "v2"
weight = "10"
pins = [
    { header = "x canary", version = "canary" },
    { header = "x-canary", cookie = "canary", version = "v2" },
    { value = "1", version = "canry" },
    { cookie = "beta", value = "a;b" },
]

[services.shop.versions.v1]
endpoints = ["http://127.0.0.1:9001/", "shop", "0.0.0.0:80", "::1"]

[services.shop.versions.v2]
endpoints = []

[services.shop.rollback]
error_rate = true
latency = { quantile = "10%", window = "1ms" }
mode = "abort_only"
"#;
    assert_snapshot!(refused(text));
}

#[test]
fn an_unterminated_text_hides_nothing_elsewhere() {
    assert_snapshot!(refused(&with("workers = \"4\"", "canary = \"v2\nweight = 10", V2)));
}

#[test]
fn what_is_not_quoted_is_shown_quoted() {
    assert_snapshot!(refused(
        &with("", "canary = v2\nweight = 10%\ntimeouts.connect = 2s", V2).replace("\"0.0.0.0:8080\"", "0.0.0.0:8080")
    ));
}

#[test]
fn behind_an_unclosed_header_nothing_is_believed() {
    assert_snapshot!(refused(&with("workers = 0", "weight = 10", "").replace("[services.shop]", "[services.shop")));
}

#[test]
fn an_unclosed_array_is_a_problem() {
    assert_snapshot!(refused(&with("", "", "").replace("[{}]", "[{}")));
}

#[test]
fn another_kind_of_file_is_told_so_briefly() {
    let said = refused(&"GET /index.html 200\n".repeat(20_000));
    assert!(said.contains("19900 more places are not TOML") && said.ends_with("101 errors in penstock.toml"), "{said}");
}

#[test]
fn a_missing_comma_spoils_its_line_only() {
    assert_snapshot!(refused(&with("workers = 0", "weight = 10", "").replace("[{}]", "[{} {}]")));
}

#[test]
fn what_is_wrong_with_a_canary_or_versions_is_said_once() {
    let service = "canary = 2\nweight = \"10%\"\npins = [{ query = \"a\", version = \"canary\" }]";
    assert_snapshot!(refused(&with("", service, V2)));
}

#[test]
fn the_same_version_twice_is_a_problem() {
    assert_snapshot!(refused(&with("", "", "[services.shop.versions.v1]\nendpoints = [\"a:1\"]")));
}

#[test]
fn wrong_types_are_shown_the_right_form() {
    let text = r#"
workers = "4"
listeners = ["127.0.0.1:8080", 8080]
admin = "127.0.0.1:9900"
log = false

[[services]]
name = "shop"
"#;
    let service = r#"
[listeners]
address = "127.0.0.1:8080"

[services]
blog = 3

[services.shop]
routes = "*"
stable = 1
pins = { header = "x-canary", version = "canary" }
versions = ["v1"]
rollback = "5%"
timeouts = "5s"
"#;
    assert_snapshot!([refused(text), refused(service)].join("\n\n"));
}

#[test]
fn an_admin_address_for_everybody_is_refused() {
    assert_snapshot!(refused(&with("admin.address = \"0.0.0.0:9900\"", "", "")));
}

#[test]
fn an_endpoint_must_not_be_ourselves() {
    let below = "[services.shop.versions.v2]\nendpoints = [\"localhost:8080\", \"127.0.0.1:9900\", \"[::1]:8080\"]\n";
    assert_snapshot!(refused(&with("admin.address = \"127.0.0.1:9900\"", "canary = \"v2\"", below)));
}

#[test]
fn sockets_must_not_collide() {
    let more = "[[listeners]]\naddress = \"127.0.0.1:8080\"\n[[listeners]]\naddress = \"0.0.0.0:9900\"";
    assert_snapshot!(refused(&with("", "", more)));
}

#[test]
fn a_port_of_the_system_s_choice_collides_with_nothing() {
    let text = MINIMAL.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9900", "127.0.0.1:0");
    assert!(parse("x", &text).is_ok());
}

#[test]
fn routes_are_taken_once() {
    let below = "[services.blog]\nroutes = [{ path_prefix = \"/blog\" }, { host = \"*\" }, { path_prefix = \"/blog/\" }]\n\
                 stable = \"v1\"\nversions.v1.endpoints = [\"a:1\"]\n";
    assert_snapshot!(refused(&with("", "", below)));
}

#[test]
fn roles_and_pins_must_name_what_is_listed() {
    let service =
        "canary = \"v1\"\npins = [{ query = \"a\", version = \"v22\" }, { query = \"b\", version = \"nightly\" }]";
    let no_canary = "weight = \"10%\"\npins = [{ query = \"a\", version = \"canary\" }]";
    let unlisted = "canary = \"v2.0\"";
    let below = V2.replace("v2", "\"v2.1\"");
    let said = [with("", service, V2), with("", no_canary, ""), with("", unlisted, &below)];
    assert_snapshot!(said.map(|text| refused(&text)).join("\n\n"));
}

#[test]
fn names_are_checked() {
    let below = "[services.shop.versions.canary]\nendpoints = [\"a:1\"]\n[services.\"a/b\"]\nroutes = [{ host = \"b\" }]\n\
                 stable = \"v1\"\nversions.v1.endpoints = [\"a:1\", \"A:1\"]\nversions.\"\".endpoints = [\"c:1\"]\n";
    assert_snapshot!(refused(&with("", "", below)));
}

#[test]
fn an_empty_file_says_what_to_begin_with() {
    assert_snapshot!([refused(""), refused("listeners = []\n[services]")].join("\n\n"));
}

#[test]
fn a_service_needs_versions() {
    assert_snapshot!(refused("[[listeners]]\naddress = \"127.0.0.1:1\"\n[services.shop]\n"));
}

#[test]
fn columns_are_characters_and_long_or_wild_text_is_tamed() {
    let wild = format!("\"größe\" = {{ wide = \"ü\" }}\n\"\\u001b[31m\" = 1\nweight = \"{}\"\r\n", "x".repeat(300));
    assert_snapshot!(refused(&with("", &wild, "")));
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let said = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        read(&path).unwrap_err().to_string()
    };
    assert!(read(&folder.path().join("absent")).unwrap_err().to_string().contains("cannot be read"));
    assert!(said("latin", b"a = \"\xff\"").contains("not UTF-8 at byte 5"));
    assert!(said("large", &vec![b'#'; 5 << 20]).contains("larger than"));
}

#[test]
fn scripts_get_the_same_as_json() {
    let problems = parse("penstock.toml", &with("x.\"wörkers\" = 4", "weight = 10", V2)).unwrap_err();
    assert_snapshot!(serde_json::to_string_pretty(&problems).unwrap());
}

#[test]
fn colours_are_only_for_terminals() {
    let problems = parse("penstock.toml", "").unwrap_err();
    assert!(problems.render(Colour::Ansi).contains('\u{1b}'));
    assert!(!problems.render(Colour::Plain).contains('\u{1b}'));
}

/// Reads and renders, in every way; what is refused must be refused for a reason.
fn survives(text: &str) {
    match parse("any.toml", text) {
        Ok(settings) => assert!(!settings.warnings.has_errors() && !settings.services.is_empty()),
        Err(problems) => {
            assert!(problems.has_errors());
            assert!(!problems.render(Colour::Ansi).is_empty());
            serde_json::to_string(&problems).unwrap();
        }
    }
}

/// `text` with `count` bytes from `at` replaced by `other`, at character boundaries.
fn mutated(text: &str, at: usize, count: usize, other: &str) -> String {
    let start = text.floor_char_boundary(at);
    let end = text.ceil_char_boundary(start + count).min(text.len());
    format!("{}{other}{}", &text[..start], &text[end..])
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in "(?s).{0,200}") {
        survives(&text);
    }

    #[test]
    fn no_toml_like_text_is_too_strange(text in "([\\[\\]{}=,.\"'\\\\#\r\n\t -]|services|v1|é|10%|listeners){0,60}") {
        survives(&text);
    }

    #[test]
    fn no_slip_in_the_tour_is_too_strange(
        slips in prop::collection::vec((0..TOUR.len(), 0usize..12, "[\\[\\]{}=,.\"'\\\\#\n a-z0-9%ü]{0,4}"), 1..6)
    ) {
        let text = slips.iter().fold(TOUR.to_owned(), |text, (at, count, other)| mutated(&text, *at, *count, other));
        survives(&text);
    }
}
