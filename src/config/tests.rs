//! Whole files: the ones we ship, and faulty ones with everything that is said of them.

use std::time::Duration;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::domain::admission::Admission;
use crate::domain::balance::{Balance, Balancing};
use crate::domain::breaker::Limits;
use crate::domain::check::HealthCheck;
use crate::domain::judge::{ErrorLimit, ExposureBudget, LatencyLimit, Mode, Policy, Unit};
use crate::domain::names::VersionName;
use crate::domain::retry::{Reason, Reasons};
use crate::domain::service::{Target, Timeouts};
use crate::domain::split::{Matcher, Weight};
use crate::domain::sticky::{Key, OwnCookie};

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
        assert_eq!(check(&file, &Overrides::none()).to_string(), "");
    }
}

#[test]
fn the_minimal_file_says_what_it_says() {
    let settings = minimal();
    assert_eq!(settings.listeners[0].address, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(settings.listeners.len(), 1);
    assert_eq!(settings.admin, "127.0.0.1:9900".parse().unwrap());
    let [shop] = &settings.services[..] else { panic!("{:?}", settings.services) };
    assert_eq!((shop.name.as_str(), shop.stable.as_str()), ("shop", "v1"));
    assert_eq!(shop.canary.as_ref().map(VersionName::as_str), Some("v2"));
    assert_eq!(shop.weight, Weight::from_basis_points(1_000).unwrap());
    assert_eq!(shop.versions.len(), 2);
    assert_eq!(shop.pins[0].target, Target::Canary);
    let expected = Matcher::Header { name: "x-canary".parse().unwrap(), value: Some("never".into()) };
    assert_eq!(shop.pins[1].matcher, expected);
    let error_rate = Some(ErrorLimit { above: 0.05, window: Duration::from_secs(10) });
    let (above, window) = (Duration::from_secs(5), Duration::from_secs(30));
    let latency = Some(LatencyLimit { quantile: 0.99, above, window });
    assert_eq!(shop.policy, Policy { mode: Mode::AbortOnly, error_rate, latency, ..Policy::default() });
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
    assert_eq!(shop.retries, plain.retries);
    assert_eq!(shop.admission.hold, plain.admission.hold);
    let limited = with("", "rate_limit = { header = \"x-api-key\", rate = \"100/s\" }", "");
    assert_eq!(shop.admission.rate_limit, parse("limited", &limited).unwrap().services[0].admission.rate_limit);
    assert_eq!(shop.health_check, Some(HealthCheck::default()));
    assert_eq!(shop.balancing, plain.balancing);
    let bare = with("", "canary = \"v2\"\nrollback.latency = { above = \"5s\" }", V2);
    assert_eq!(shop.policy.latency, parse("bare", &bare).unwrap().services[0].policy.latency);
}

#[test]
fn stickiness_is_by_our_own_cookie_unless_another_key_is_named() {
    let sticky = |lines: &str| {
        let settings = parse("sticky.toml", &with("", &format!("sticky = {{ {lines} }}"), "")).unwrap();
        let service = settings.services[0].clone();
        (service.sticky.unwrap().key.clone(), service.policy.unit)
    };
    assert_eq!(sticky(""), (Key::Own(OwnCookie::default()), Unit::Session));
    assert_eq!(sticky("by = \"cookie\", cohort = \"fixed\""), (Key::Own(OwnCookie::default()), Unit::None));
    assert_eq!(sticky("by = \"client-address\"").0, Key::ClientAddress);
    assert_eq!(sticky("header = \"X-User-Id\"").0, Key::Header("x-user-id".parse().unwrap()));
    assert_eq!(sticky("cookie = \"Session\"").0, Key::Cookie("Session".into()));
    assert_eq!(parse("plain.toml", &with("", "", "")).unwrap().services[0].sticky, None);
}

#[test]
fn stickiness_in_every_bad_form() {
    let tables = [
        "by = \"header\"\ncohort = \"volunteers\"\nsame_site = \"Lax\"\nsecure = \"on\"\nmax_age = \"8d\"",
        "header = \"x user\"\ncookie = \"session\"",
        "header = \"x user\"\nsecret = \"hush\"",
        "cookie = \"a=b\"\ncookie_name = \"ours\"\nsecure = true",
        "by = \"client-address\"\nmax_age = \"1h\"",
        "same_site = \"none\"\nmax_age = \"1s\"",
        "cookie_name = \"__Host-ours\"\nsecret_file = \"a\"\nsecret_env = \"B\"",
        "secret_env = \"hush, this is the secret itself\"",
        "secret_env = \"PENSTOCK_SECRET\"\nsecret_file = \"\"",
    ];
    let table = |lines| with("", "", &format!("[services.shop.sticky]\n{lines}\n"));
    let twice = "[services.shop.sticky]\ncookie_name = \"ours\"\n[services.site]\nroutes = [{ path_prefix = \"/site\" }]\n\
                 stable = \"v1\"\nversions.v1.endpoints = [\"a:1\"]\nsticky.cookie_name = \"ours\"\n";
    let all = tables.map(table).into_iter().chain([with("", "", twice)]);
    assert_snapshot!(all.map(|text| refused(&text)).collect::<Vec<_>>().join("\n\n"));
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
    assert_eq!(*policy, Policy { mode: Mode::Observe, error_rate: None, latency: None, ..Policy::default() });
}

#[test]
fn endpoints_are_balanced_and_limited_as_told() {
    let balancing = |service: &str| parse("x", &with("", service, "")).unwrap().services[0].balancing.clone();
    for (text, balance) in [
        ("\"power-of-two\"", Balance::PowerOfTwo),
        ("\"round-robin\"", Balance::RoundRobin),
        ("\"weighted-round-robin\"", Balance::RoundRobin),
        ("\"least-connections\"", Balance::LeastConnections),
        ("\"client-address-hash\"", Balance::ClientAddressHash),
        ("{ header_hash = \"X-User\" }", Balance::HeaderHash("x-user".parse().unwrap())),
        ("{ cookie_hash = \"Session\" }", Balance::CookieHash("Session".to_owned())),
    ] {
        let read = balancing(&format!("balance = {text}"));
        assert_eq!(read, Balancing { balance: balance.clone(), ..Balancing::default() });
        assert_eq!(balancing(&format!("balance = {}", balance::shown(&balance))).balance, balance);
    }
    assert_eq!(balancing("ejection = false").ejection, None);
    let limits = balancing("limits = { in_flight = 4, pending = 2, pending_time = \"2s\" }").limits;
    let pending_time = Duration::from_secs(2);
    assert_eq!(limits, Limits { in_flight: Some(4), pending: 2, pending_time, ..Limits::default() });
    let weighed = with("", "", "").replace("endpoints = [", "endpoints = [{ address = \"a:1\", weight = 3 }, ");
    let weights: Vec<u32> =
        parse("x", &weighed).unwrap().services[0].versions[0].endpoints.iter().map(|e| e.weight).collect();
    assert_eq!(weights, [3, 1]);
}

#[test]
fn balancing_in_every_bad_form() {
    let services = [
        "balance = \"round_robbin\"\nslow_start = \"2h\"\npanic_threshold = 50\nejection = true",
        "balance = \"header-hash\"\nejection = { consecutive_failures = 0, tiem = \"30s\", max_share = \"0%\" }",
        "balance = { header_hash = \"a b\", cookie_hash = \"c\" }\nlimits = { in_flight = 0, connections = \"9\" }",
        "balance = { header_hash = \"a b\" }\nlimits = { pending = 5 }",
        "balance = {}\nlimits = { pending = -1, pending_time = \"1ms\", in_fligth = 3 }\nejection = 5",
        "balance = 7\nconnections = 9",
    ];
    let endpoints = [
        "{ address = \"a:1\", weight = 0 }",
        "{ weight = 2 }",
        "{ address = \"a\", weight = 2000, wieght = 1 }",
        "\"a:1\", { address = \"a:1\", weight = 2 }",
    ];
    let services = services.map(|service| with("", service, ""));
    let endpoints = endpoints.map(|endpoint| with("", "", "").replace("\"127.0.0.1:9001\"", endpoint));
    assert_snapshot!(services.iter().chain(&endpoints).map(|text| refused(text)).collect::<Vec<_>>().join("\n"));
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
    assert_eq!(parse("x", &text).unwrap().services[0].routes[0].path.as_str(), "/api");
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
fn what_bounds_nothing_is_not_there() {
    let shop = &parse("x", &with("", "rate_limit = false\nrollback.exposure = false", "")).unwrap().services[0];
    assert_eq!((&shop.admission, shop.policy.exposure), (&Admission::default(), ExposureBudget::default()));
    assert_eq!(shop.versions[0].capacity, None);
}

#[test]
fn bounds_in_every_bad_form() {
    let services = [
        "rate_limit = true",
        "rate_limit = {}",
        "rate_limit = { rate = 100 }",
        "rate_limit = { rate = \"100\", burst = 0 }",
        "rate_limit = { rate = \"0/s\", keys = \"many\" }",
        "rate_limit = { rate = \"1/s\", header = \"x y\" }",
        "rate_limit = { rate = \"1/s\", header = \"x\", cookie = \"y\", requests = 1 }",
        "hold = { requests = 0, time = \"1h\" }",
        "hold = 5",
        "rollback.exposure = true",
        "rollback.exposure = { failures = -1, requests_per_second = 1.5 }",
        "rollback.exposure = { keys = 10 }",
        "capacity = 10",
    ];
    let said = services.map(|service| refused(&with("", service, "")));
    let versions = ["capacity = 0", "capacity = \"500/s\""].map(|version| refused(&with("", "", version)));
    assert_snapshot!(said.into_iter().chain(versions).collect::<Vec<_>>().join("\n\n"));
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

/// What is said of each of these routes.
fn refused_routes<const N: usize>(routes: [&str; N]) -> String {
    routes.map(|route| refused(&with("", "", "").replace("[{}]", &format!("[{route}]")))).join("\n\n")
}

#[test]
fn routes_and_their_conditions_in_every_bad_form() {
    assert_snapshot!(refused_routes([
        "{ path = \"/a\", path_prefix = \"/a\" }",
        "{ path = \"a?b\", pathh = 1 }",
        "{ methods = [\"get\", \"G T\", \"PURGE\", \"PURGE\", \"CONNECT\"] }",
        "{ methods = [], headers = [{ nam = \"x\" }], query = [\"debug\"] }",
        "{ headers = [{ name = \"x y\", value = \" a\" }, { name = \"x\", value = 1 }] }",
        "{ query = [{ name = \"a&b\", value = \"c#d\" }, { value = \"1\" }] }",
        "{ priority = \"high\" }",
        "{ priority = 10000000000 }",
    ]));
}

#[test]
fn actions_of_routes_in_every_bad_form() {
    assert_snapshot!(refused_routes([
        "{ strip_prefix = true }",
        "{ path_prefix = \"/a\", strip_prefix = true, rewrite_prefix = \"/b\" }",
        "{ path_prefix = \"/a\", rewrite_prefix = \"b\", strip_prefix = \"yes\" }",
        "{ path_prefix = \"/a\", rewrite_prefix = \"/a/\" }",
        "{ redirect = \"https://a/\" }",
        "{ redirect = { to = \"{path}\", status = 200 } }",
        "{ redirect = { status = 301 } }",
        "{ redirect = { to = \"https://a{path}\" }, request_headers = { remove = [\"x\"] } }",
        "{ request_headers = { set = { host = \"a\", X-A = \"1\", x-a = \"2\" }, add = { x-b = \"é\" } } }",
        "{ response_headers = { remove = [\"content-length\", \"connection\", \"penstock-x\", \"x x\"] } }",
        "{ response_headers = { set = { x-a = \"1\" }, remove = [\"X-A\"] }, request_headers = {} }",
        "{ allow = [\"10.0.0.1/8\", \"localhost\", \"::/129\"], deny = \"10.0.0.0/8\" }",
        "{ allow = [], deny = [\"::1\", \"::1/128\"] }",
    ]));
}

#[test]
fn routes_that_only_conditions_tell_apart_are_two() {
    let routes =
        "[{}, { methods = [\"GET\"] }, { methods = [\"GET\"], headers = [{ name = \"x\" }] }, { path = \"/\" }]";
    let settings = parse("x", &with("", "", "").replace("[{}]", routes)).unwrap();
    assert_eq!((settings.services[0].routes.len(), settings.warnings.is_empty()), (4, true));
    let twins = "[{ methods = [\"GET\", \"PUT\"] }, { methods = [\"PUT\", \"GET\"] }]";
    assert!(refused(&with("", "", "").replace("[{}]", twins)).contains("taken already"));
}

#[test]
fn a_route_that_another_hides_is_a_warning() {
    let routes = "[{ priority = 1 }, { methods = [\"GET\"] }, {}]";
    assert_snapshot!(parse("penstock.toml", &with("", "", "").replace("[{}]", routes)).unwrap().warnings);
}

#[test]
fn a_route_knows_its_line_and_moving_it_changes_nothing() {
    let text = with("", "", "");
    let (before, after) = (parse("a.toml", &text).unwrap(), parse("b.toml", &format!("\n\n{text}")).unwrap());
    let line = |settings: &Settings| settings.services[0].routes[0].line.clone();
    assert_eq!((&*line(&before).place, &*line(&before).text), ("a.toml:6", "{}"));
    assert_eq!(&*line(&after).place, "b.toml:8");
    assert_eq!(before.services, after.services);
}

#[test]
fn error_pages_are_read_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let page = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let sorry = page("sorry.html", b"<h1>sorry</h1>");
    let text = with("", &format!("error_pages = {{ \"502\" = \"{sorry}\", \"4xx\" = \"{sorry}\" }}"), "");
    let effective = parse_with("x", &text, &Overrides::none()).unwrap();
    let pages = &effective.settings.services[0].error_pages;
    assert_eq!(pages.of(http::StatusCode::NOT_FOUND).unwrap().html, "<h1>sorry</h1>");
    assert_eq!(pages.of(http::StatusCode::GATEWAY_TIMEOUT), None);
    round_trips(&effective);
    let (large, odd) = (page("large", &vec![b' '; 300 << 10]), page("odd", b"\xff"));
    let bad = format!(
        "error_pages = {{ \"200\" = \"{sorry}\", \"5xx\" = \"{large}\", \"404\" = \"{odd}\", \"500\" = \"nowhere\" }}"
    );
    let said = refused(&with("", &bad, "")).replace(&folder.path().display().to_string(), "FOLDER");
    for part in [
        "`200` is not the status",
        "FOLDER/large` is larger than",
        "FOLDER/odd` is not UTF-8",
        "`nowhere` cannot be read",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
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

/// The file of `with("", "", "")` with a canary, and variables.
fn environment(pairs: &[(&str, &str)]) -> Result<Effective, Problems> {
    let service = "canary = \"v2\"\npins = [{ header = \"x-canary\", version = \"canary\" }]";
    parse_with("shop.toml", &with("workers = 2", service, V2), &Overrides::environment(pairs.iter().copied()))
}

fn refused_environment(pairs: &[(&str, &str)]) -> String {
    environment(pairs).unwrap_err().to_string()
}

#[test]
fn a_flag_beats_the_environment_and_that_beats_the_file() {
    let file = with("workers = 2", "", "");
    let workers = |overrides: Overrides| parse_with("x", &file, &overrides).unwrap().settings.workers;
    let variable = || Overrides::environment([("PENSTOCK_WORKERS", "3")]);
    assert_eq!(workers(Overrides::none()), Some(2));
    assert_eq!(workers(variable()), Some(3));
    assert_eq!(workers(variable().flag("--workers", Some(4))), Some(4));
    assert_eq!(workers(variable().flag("--workers", None::<u16>)), Some(3));
    assert_eq!(workers(Overrides::environment([("PENSTOCK_WORKERS", ""), ("OTHER_WORKERS", "9")])), Some(2));
}

/// Each with a value other than the default.
const VARIABLES: [(&str, &str); 98] = [
    ("PENSTOCK_WORKERS", "7"),
    ("PENSTOCK_LISTENERS_0_ADDRESS", "127.0.0.1:7001"),
    ("PENSTOCK_LISTENERS_1_ADDRESS", "127.0.0.1:7002"),
    ("PENSTOCK_ADMIN_ADDRESS", "127.0.0.1:7003"),
    ("PENSTOCK_TIMEOUTS_REQUEST_HEAD", "7s"),
    ("PENSTOCK_TIMEOUTS_CLIENT_IDLE", "8s"),
    ("PENSTOCK_TIMEOUTS_CLIENT_WRITE", "5s"),
    ("PENSTOCK_TIMEOUTS_TLS_HANDSHAKE", "6s"),
    ("PENSTOCK_LISTENERS_0_H2C", "true"),
    ("PENSTOCK_LISTENERS_1_REDIRECT_TO_HTTPS", "true"),
    ("PENSTOCK_SHUTDOWN_LINGER", "9s"),
    ("PENSTOCK_SHUTDOWN_DRAIN", "11s"),
    ("PENSTOCK_LOG_LEVEL", "debug"),
    ("PENSTOCK_LOG_FORMAT", "json"),
    ("PENSTOCK_LOG_ACCESS", "true"),
    ("PENSTOCK_STORE_PATH", "/var/lib/penstock"),
    ("PENSTOCK_RELOAD_POLL", "1500ms"),
    ("PENSTOCK_SERVICES_SHOP_ROUTES_1_HOST", "www.example.com"),
    ("PENSTOCK_SERVICES_SHOP_ROUTES_1_PATH_PREFIX", "/w"),
    ("PENSTOCK_SERVICES_API_ROUTES_0_PATH", "/v1/health"),
    ("PENSTOCK_SERVICES_API_ROUTES_0_METHODS", "POST, PURGE"),
    ("PENSTOCK_SERVICES_API_ROUTES_0_HEADERS_0_NAME", "x-other"),
    ("PENSTOCK_SERVICES_API_ROUTES_0_HEADERS_0_VALUE", "2"),
    ("PENSTOCK_SERVICES_API_ROUTES_0_QUERY_0_NAME", "loud"),
    ("PENSTOCK_SERVICES_API_ROUTES_0_QUERY_0_VALUE", "3"),
    ("PENSTOCK_SERVICES_API_ROUTES_0_PRIORITY", "-7"),
    ("PENSTOCK_SERVICES_API_ROUTES_0_REWRITE_PREFIX", "/elsewhere"),
    ("PENSTOCK_SERVICES_API_ROUTES_1_STRIP_PREFIX", "false"),
    ("PENSTOCK_SERVICES_API_ROUTES_1_ALLOW", "10.1.0.0/16,::1"),
    ("PENSTOCK_SERVICES_API_ROUTES_1_DENY", "10.1.2.3"),
    ("PENSTOCK_SERVICES_API_ROUTES_1_REQUEST_HEADERS_SET_X_FORWARDED_PROTO", "http"),
    ("PENSTOCK_SERVICES_API_ROUTES_1_REQUEST_HEADERS_ADD_X_TAG", "other"),
    ("PENSTOCK_SERVICES_API_ROUTES_1_REQUEST_HEADERS_REMOVE", "referer"),
    ("PENSTOCK_SERVICES_API_ROUTES_1_RESPONSE_HEADERS_SET_STRICT_TRANSPORT_SECURITY", "max-age=0"),
    ("PENSTOCK_SERVICES_API_ROUTES_1_RESPONSE_HEADERS_ADD_VARY", "cookie"),
    ("PENSTOCK_SERVICES_API_ROUTES_1_RESPONSE_HEADERS_REMOVE", "x-powered-by"),
    ("PENSTOCK_SERVICES_API_ROUTES_2_HOST", "older.example.com"),
    ("PENSTOCK_SERVICES_API_ROUTES_2_REDIRECT_TO", "/new{path}"),
    ("PENSTOCK_SERVICES_API_ROUTES_2_REDIRECT_STATUS", "307"),
    ("PENSTOCK_SERVICES_SHOP_STABLE", "v2"),
    ("PENSTOCK_SERVICES_SHOP_CANARY", "v1"),
    ("PENSTOCK_SERVICES_SHOP_WEIGHT", "2.25%"),
    ("PENSTOCK_SERVICES_SHOP_PINS_0_HEADER", "x-other"),
    ("PENSTOCK_SERVICES_SHOP_PINS_0_VALUE", "always"),
    ("PENSTOCK_SERVICES_SHOP_PINS_0_VERSION", "v2"),
    ("PENSTOCK_SERVICES_SHOP_PINS_2_COOKIE", "alpha"),
    ("PENSTOCK_SERVICES_SHOP_PINS_3_QUERY", "look"),
    ("PENSTOCK_SERVICES_SHOP_VERSIONS_V1_ENDPOINTS", "10.0.0.1:80, shop:81,"),
    ("PENSTOCK_SERVICES_SHOP_ROLLBACK_ERROR_RATE_ABOVE", "7.5%"),
    ("PENSTOCK_SERVICES_SHOP_ROLLBACK_ERROR_RATE_WINDOW", "20s"),
    ("PENSTOCK_SERVICES_SHOP_ROLLBACK_LATENCY_QUANTILE", "99.9%"),
    ("PENSTOCK_SERVICES_SHOP_ROLLBACK_LATENCY_ABOVE", "1500us"),
    ("PENSTOCK_SERVICES_SHOP_ROLLBACK_LATENCY_WINDOW", "1m30s"),
    ("PENSTOCK_SERVICES_SHOP_ROLLBACK_MODE", "observe"),
    ("PENSTOCK_SERVICES_SHOP_STICKY_COOKIE_NAME", "there"),
    ("PENSTOCK_SERVICES_SHOP_STICKY_SAME_SITE", "strict"),
    ("PENSTOCK_SERVICES_SHOP_STICKY_MAX_AGE", "25h"),
    ("PENSTOCK_SERVICES_SHOP_STICKY_SECURE", "true"),
    ("PENSTOCK_SERVICES_SHOP_STICKY_COHORT", "fixed"),
    ("PENSTOCK_SERVICES_SHOP_STICKY_SECRET_ENV", "MINE"),
    ("PENSTOCK_SERVICES_SHOP_BALANCE", "round-robin"),
    ("PENSTOCK_SERVICES_SHOP_SLOW_START", "10s"),
    ("PENSTOCK_SERVICES_SHOP_PANIC_THRESHOLD", "30%"),
    ("PENSTOCK_SERVICES_SHOP_EJECTION_CONSECUTIVE_FAILURES", "7"),
    ("PENSTOCK_SERVICES_SHOP_EJECTION_TIME", "20s"),
    ("PENSTOCK_SERVICES_SHOP_EJECTION_MAX_SHARE", "25%"),
    ("PENSTOCK_SERVICES_SHOP_LIMITS_CONNECTIONS", "90"),
    ("PENSTOCK_SERVICES_SHOP_LIMITS_IN_FLIGHT", "80"),
    ("PENSTOCK_SERVICES_SHOP_LIMITS_VERSION_IN_FLIGHT", "200"),
    ("PENSTOCK_SERVICES_SHOP_LIMITS_PENDING", "50"),
    ("PENSTOCK_SERVICES_SHOP_LIMITS_PENDING_TIME", "500ms"),
    ("PENSTOCK_SERVICES_SHOP_TIMEOUTS_CONNECT", "1s"),
    ("PENSTOCK_SERVICES_SHOP_TIMEOUTS_RESPONSE_HEAD", "31s"),
    ("PENSTOCK_SERVICES_SHOP_TIMEOUTS_BODY_IDLE", "32s"),
    ("PENSTOCK_SERVICES_SHOP_TIMEOUTS_PER_TRY", "1s"),
    ("PENSTOCK_SERVICES_SHOP_TIMEOUTS_TOTAL", "33s"),
    ("PENSTOCK_SERVICES_SHOP_RETRIES_ON", "reset, 500"),
    ("PENSTOCK_SERVICES_SHOP_RETRIES_IDEMPOTENT_METHODS", "true"),
    ("PENSTOCK_SERVICES_SHOP_RETRIES_IDEMPOTENCY_KEY", "true"),
    ("PENSTOCK_SERVICES_SHOP_RETRIES_BUFFER", "1MiB"),
    ("PENSTOCK_SERVICES_SHOP_SHIELDING_ON", "500"),
    ("PENSTOCK_SERVICES_SHOP_SKEW_RESCUE_PATH_PREFIXES", "/assets/, /static"),
    ("PENSTOCK_SERVICES_SHOP_VERSIONS_V2_CAPACITY", "700"),
    ("PENSTOCK_SERVICES_SHOP_ROLLBACK_EXPOSURE_FAILURES", "70"),
    ("PENSTOCK_SERVICES_SHOP_RATE_LIMIT_HEADER", "x-client"),
    ("PENSTOCK_SERVICES_SHOP_RATE_LIMIT_RATE", "72/m"),
    ("PENSTOCK_SERVICES_SHOP_RATE_LIMIT_BURST", "73"),
    ("PENSTOCK_SERVICES_SHOP_RATE_LIMIT_KEYS", "74"),
    ("PENSTOCK_SERVICES_SHOP_HOLD_REQUESTS", "75"),
    ("PENSTOCK_SERVICES_SHOP_HOLD_TIME", "33s"),
    ("PENSTOCK_SERVICES_SHOP_HEALTH_CHECK_PATH", "/up"),
    ("PENSTOCK_SERVICES_SHOP_HEALTH_CHECK_HOST", "shop:80"),
    ("PENSTOCK_SERVICES_SHOP_HEALTH_CHECK_INTERVAL", "3s"),
    ("PENSTOCK_SERVICES_SHOP_HEALTH_CHECK_TIMEOUT", "1s"),
    ("PENSTOCK_SERVICES_SHOP_HEALTH_CHECK_RISE", "4"),
    ("PENSTOCK_SERVICES_SHOP_HEALTH_CHECK_FALL", "5"),
    ("PENSTOCK_SERVICES_SHOP_HEALTH_CHECK_EXPECT_STATUS", "200, 204"),
    ("PENSTOCK_SERVICES_SHOP_HEALTH_CHECK_EXPECT_BODY", "ok"),
];

/// The tour, with what overrides it.
fn tour(overrides: &Overrides) -> Result<Effective, Problems> {
    parse_with("penstock.toml", TOUR, overrides)
}

#[test]
fn every_value_can_be_set_by_environment() {
    let effective = tour(&Overrides::environment(VARIABLES)).unwrap();
    assert_snapshot!(effective.toml(Origins::Hidden));
    round_trips(&effective);
    let plain = tour(&Overrides::none()).unwrap();
    for (variable, value) in VARIABLES {
        let told = Origin::Environment { variable: variable.to_owned() };
        assert!(effective.written_by(&told), "{variable}");
        if !["LATENCY_ABOVE", "STABLE", "CANARY", "VERSIONS"].iter().any(|part| variable.contains(part)) {
            let one = tour(&Overrides::environment([(variable, value)]));
            assert_ne!(
                one.map(|one| Settings { warnings: plain.settings.warnings.clone(), ..one.settings }).as_ref(),
                Ok(&plain.settings),
                "{variable}"
            );
        }
    }
}

/// The shape that names are matched against knows what the file's reader knows: all keys of the tour, and no others.
#[test]
fn a_variable_exists_for_every_key_and_no_other() {
    let effective = tour(&Overrides::none()).unwrap();
    let text = effective.toml(Origins::Hidden);
    let document: toml::Table = text.parse().unwrap();
    let mut paths = Vec::new();
    leaves(String::new(), &toml::Value::Table(document), &mut paths);
    for path in paths {
        let variable = format!("PENSTOCK{}", path.to_ascii_uppercase().replace(['.', '-'], "_"));
        let said = tour(&Overrides::environment([(&variable, "\u{1}")])).unwrap_err();
        assert!(said.has_errors() && said.to_string().contains(&variable), "{variable}: {said}");
    }
}

const TLS: &str = r#"
[listeners.tls]
certificates = [{ certificate = "a.crt", key = "a.key" }, { certificate = "b.crt", key = "b.key" }]
minimum_version = "1.3"
client_certificates = "optional"
client_ca = "clients.crt"
hsts = "8760h"
h2 = false
"#;

fn with_tls(tls: &str) -> String {
    with("", "", "").replacen("8080\"", &format!("8080\"\n{tls}"), 1)
}

#[test]
fn a_listener_may_speak_tls() {
    let effective = parse_with("x", &with_tls(TLS), &Overrides::none()).unwrap();
    let tls = effective.settings.listeners[0].tls.clone().unwrap();
    assert_eq!((tls.certificates.len(), tls.minimum_version, tls.h2), (2, TlsVersion::Tls13, false));
    assert_eq!(tls.client_certificates, ClientCertificates::Optional);
    assert_eq!(tls.hsts, Some(Duration::from_hours(8_760)));
    round_trips(&effective);
}

#[test]
fn what_tls_lacks_or_does_not_need_is_said() {
    for (written, instead, said) in [
        ("client_ca = \"clients.crt\"", "", "nobody is said to sign them"),
        ("client_certificates = \"optional\"", "", "not asked for certificates"),
        ("minimum_version = \"1.3\"", "minimum_version = \"1.1\"", "`1.1` is not a known minimum_version"),
        (", key = \"b.key\"", "", "has no `key`"),
        ("[listeners.tls]", "h2c = true\n[listeners.tls]", "`h2c` is for listeners without TLS"),
        ("[listeners.tls]", "redirect_to_https = 443\n[listeners.tls]", "`redirect_to_https` is for listeners without"),
        ("hsts = \"8760h\"", "hst = \"8760h\"", "did you mean `hsts`?"),
    ] {
        let text = with_tls(&TLS.replacen(written, instead, 1));
        let problems = parse("x", &text).unwrap_err().to_string();
        assert!(problems.contains(said), "{written}: {problems}");
    }
    let port = with("", "", "").replacen("8080\"", "8080\"\nredirect_to_https = 70000", 1);
    assert!(parse("x", &port).unwrap_err().to_string().contains("`70000` is not a port"));
}

fn leaves(path: String, value: &toml::Value, into: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| leaves(format!("{path}_{key}"), value, into)),
        toml::Value::Array(items) if items.iter().all(|item| !item.is_str()) => {
            items.iter().enumerate().for_each(|(index, item)| leaves(format!("{path}_{index}"), item, into));
        }
        _ => into.push(path),
    }
}

#[test]
fn a_variable_makes_the_table_it_needs() {
    let effective =
        environment(&[("PENSTOCK_LOG_LEVEL", "warn"), ("PENSTOCK_SERVICES_SHOP_ROLLBACK_LATENCY_ABOVE", "2s")]);
    let settings = effective.unwrap().settings;
    assert_eq!(settings.log.level, LogLevel::Warn);
    let policy = Policy { latency: settings.services[0].policy.latency, ..Policy::default() };
    assert_eq!(settings.services[0].policy, policy);
    assert_eq!(policy.latency.unwrap().above, Duration::from_secs(2));
}

#[test]
fn a_limit_is_switched_off_and_on_by_environment() {
    let policy = |file: &str, name: &str, value: &str| {
        let variable = format!("PENSTOCK_SERVICES_SHOP_ROLLBACK_ERROR_RATE{name}");
        let text = with("", &format!("rollback.error_rate = {file}"), "");
        parse_with("x", &text, &Overrides::environment([(variable, value)])).unwrap().settings.services[0]
            .policy
            .clone()
    };
    assert_eq!(policy("{ above = \"1%\" }", "", "false").error_rate, None);
    assert!((policy("false", "_ABOVE", "1%").error_rate.unwrap().above - 0.01).abs() < 1e-12);
}

#[test]
fn listeners_are_added_and_changed_by_environment() {
    let variables = [("PENSTOCK_LISTENERS_1_ADDRESS", "0.0.0.0:82"), ("PENSTOCK_LISTENERS_0_ADDRESS", "0.0.0.0:81")];
    let listeners = environment(&variables).unwrap().settings.listeners;
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(addresses, ["0.0.0.0:81", "0.0.0.0:82"]);
}

#[test]
fn names_are_found_however_they_are_spelled() {
    let text =
        with("", "", "").replace("services.shop", "services.\"Shop.eu-1\"").replace("versions.v1", "versions.\"V1.0\"");
    let text = text.replace("\"v1\"", "\"V1.0\"");
    let variables = [
        ("PENSTOCK_SERVICES_SHOP_EU_1_TIMEOUTS_CONNECT", "9s"),
        ("PENSTOCK_SERVICES_shop.eu-1_VERSIONS_v1_0_ENDPOINTS", "a:1"),
    ];
    let settings = parse_with("x", &text, &Overrides::environment(variables)).unwrap().settings;
    assert_eq!(settings.services[0].timeouts.connect, Duration::from_secs(9));
    assert_eq!(&*settings.services[0].versions[0].endpoints[0].authority, "a:1");
}

#[test]
fn penstock_log_beats_the_level_when_it_is_one() {
    let level =
        |value| environment(&[("PENSTOCK_LOG", value), ("PENSTOCK_LOG_LEVEL", "warn")]).unwrap().settings.log.level;
    assert_eq!(level("debug"), LogLevel::Debug);
    assert_eq!(level("penstock::proxy=debug,info"), LogLevel::Warn);
}

#[test]
fn invalid_variables_are_refused_like_invalid_lines() {
    assert_snapshot!(refused_environment(&[
        ("PENSTOCK_WORKERS", "many"),
        ("PENSTOCK_LISTENERS_0_ADDRESS", ":80"),
        ("PENSTOCK_LISTENERS_3_ADDRESS", "0.0.0.0:83"),
        ("PENSTOCK_ADMIN_ADDRESS", "0.0.0.0:9900"),
        ("PENSTOCK_LOG_LEVEL", "verbose"),
        ("PENSTOCK_LOG_ACCESS", "yes"),
        ("PENSTOCK_RELOAD_POLL", "2"),
        ("PENSTOCK_SHUTDOWN_DRAIN", "2h"),
        ("PENSTOCK_STORE_PATH", "a\nb"),
        ("PENSTOCK_SERVICES_SHOP_WEIGHT", "10"),
        ("PENSTOCK_SERVICES_SHOP_STABLE", "v9"),
        ("PENSTOCK_SERVICES_SHOP_ROLLBACK_LATENCY", "true"),
        ("PENSTOCK_SERVICES_SHOP_ROLLBACK_ERROR_RATE", "5%"),
        ("PENSTOCK_SERVICES_SHOP_VERSIONS_V1_ENDPOINTS", "10.0.0.1:80,http://x/, ,0.0.0.0:1"),
    ]));
}

#[test]
fn a_variable_and_the_file_can_contradict_each_other() {
    assert_snapshot!(refused_environment(&[
        ("PENSTOCK_ADMIN_ADDRESS", "127.0.0.1:8080"),
        ("PENSTOCK_SERVICES_SHOP_STABLE", "v2"),
    ]));
}

#[test]
fn variables_can_contradict_each_other() {
    assert_snapshot!(refused_environment(&[
        ("PENSTOCK_WORKERS", "3"),
        ("PENSTOCK_workers", "3"),
        ("PENSTOCK_SERVICES_SHOP_ROLLBACK_ERROR_RATE", "false"),
        ("PENSTOCK_SERVICES_SHOP_ROLLBACK_ERROR_RATE_ABOVE", "2%"),
    ]));
}

#[test]
fn a_variable_that_could_mean_two_things_is_refused() {
    let twin = "[services.\"SHOP\"]\nroutes = [{ host = \"b\" }]\nstable = \"v1\"\nversions.v1.endpoints = [\"c:1\"]\n";
    let text = with("", "", twin);
    assert!(parse("x", &text).is_ok());
    let variables = Overrides::environment([("PENSTOCK_SERVICES_SHOP_TIMEOUTS_CONNECT", "1s")]);
    assert_snapshot!(parse_with("shop.toml", &text, &variables).unwrap_err());
}

#[test]
fn a_variable_that_seems_to_be_meant_for_us_is_a_warning() {
    let said = environment(&[
        ("PENSTOCK_LOGLEVEL", "hidden"),
        ("PENSTOCK_LOG_FILE", "hidden"),
        ("PENSTOCK_SHOP_WEIGHT", "hidden"),
        ("PENSTOCK_SERVICES_SHOP_WIEGHT", "hidden"),
        ("PENSTOCK_SERVICES_CHECKOUT_WEIGHT", "hidden"),
    ]);
    assert_snapshot!(said.unwrap().settings.warnings);
}

#[test]
fn what_other_tools_set_is_left_alone() {
    let theirs = [
        ("PENSTOCK_VERSION", "1.2"),
        ("PENSTOCK_ADMIN", "127.0.0.1:1"),
        ("PENSTOCK_LOG", "penstock=debug"),
        ("PENSTOCK_PORT", "tcp://10.0.0.1:80"),
        ("PENSTOCK_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("PENSTOCK_SERVICE_HOST", "10.0.0.1"),
        ("PENSTOCK_SERVICE_PORT_HTTP", "80"),
        ("PENSTOCK_ADMIN_SERVICE_HOST", "10.0.0.1"),
        ("PENSTOCK_ADMIN_PORT", "tcp://10.0.0.1:9900"),
        ("PENSTOCK_ADMIN_PORT_9900_TCP_PROTO", "tcp"),
        ("PENSTOCK_", "x"),
        ("PENSTOCK", "x"),
    ];
    assert_eq!(environment(&theirs).unwrap().settings.warnings.to_string(), "");
}

#[test]
fn a_value_that_is_no_text_is_refused_where_it_matters() {
    use std::os::unix::ffi::OsStrExt;
    let bytes = std::ffi::OsStr::from_bytes(b"data\xff");
    let said =
        |name: &str| tour(&Overrides::environment([(name, bytes)])).map(|tour| tour.settings.warnings.is_empty());
    assert!(said("PENSTOCK_STORE_PATH").unwrap_err().to_string().contains("`PENSTOCK_STORE_PATH` is not UTF-8"));
    assert_eq!(said("PENSTOCK_SOMETHING_ELSE"), Ok(true));
}

#[test]
fn a_fault_in_the_file_is_not_hidden_by_a_variable_below_it() {
    let text = with("log = false", "", "");
    let said = parse_with("x", &text, &Overrides::environment([("PENSTOCK_LOG_LEVEL", "warn")])).unwrap_err();
    assert!(said.to_string().contains("expected a table, found `false`"), "{said}");
}

#[test]
fn in_a_file_that_is_broken_variables_are_checked_and_nothing_is_made_up() {
    let text = with("", "", "").replace("[services.shop]", "[services.shop");
    let variables = [
        ("PENSTOCK_WORKERS", "0"),
        ("PENSTOCK_SERVICES_SHOP_TIMEOUTS_CONNECT", "1s"),
        ("PENSTOCK_LISTENERS_7_ADDRESS", "a"),
    ];
    assert_snapshot!(parse_with("x", &text, &Overrides::environment(variables)).unwrap_err());
}

#[test]
fn variables_are_told_to_scripts_by_name() {
    let problems = environment(&[("PENSTOCK_SERVICES_SHOP_WEIGHT", "10")]).unwrap_err();
    assert_snapshot!(serde_json::to_string_pretty(&problems).unwrap());
}

#[test]
fn every_line_says_where_it_comes_from() {
    let variables = [("PENSTOCK_SERVICES_SHOP_WEIGHT", "5%"), ("PENSTOCK_SERVICES_SHOP_PINS_0_VALUE", "always")];
    let service = "canary = \"v2\"\npins = [{ header = \"x-canary\", version = \"canary\" }]";
    let overrides = Overrides::environment(variables).flag("--workers", Some(4));
    let effective = parse_with("shop.toml", &with("workers = 2", service, V2), &overrides).unwrap();
    assert_snapshot!(effective.toml(Origins::Shown));
    let json = effective.json(Origins::Shown).unwrap();
    assert_eq!(json["settings"]["services"]["shop"]["weight"], "5%");
    assert_eq!(json["origins"]["workers"], serde_json::json!({ "from": "flag", "flag": "--workers" }));
    assert_eq!(json["origins"]["listeners[0].address"]["line"], 3);
}

#[test]
fn a_file_s_name_cannot_break_out_of_its_comment() {
    let effective = parse_with("a\nworkers = 9 #", &with("", "", ""), &Overrides::none()).unwrap();
    assert_eq!(parse("x", &effective.toml(Origins::Shown)).unwrap().workers, None);
}

/// What is shown must mean the same when it is read.
fn round_trips(effective: &Effective) {
    for origins in [Origins::Hidden, Origins::Shown] {
        let text = effective.toml(origins);
        let again =
            parse_with("shown.toml", &text, &Overrides::none()).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let expected = Settings { warnings: again.settings.warnings.clone(), ..effective.settings.clone() };
        assert_eq!(again.settings, expected, "{text}");
        assert_eq!(again.toml(Origins::Hidden), effective.toml(Origins::Hidden));
    }
    effective.json(Origins::Shown).unwrap();
}

/// Good values for every variable.
fn variable() -> impl Strategy<Value = (String, String)> {
    let percentage =
        |points: std::ops::Range<u32>| points.prop_map(|points| format!("{}.{:02}%", points / 100, points % 100));
    let duration = |least: u64, most: u64| (least..most).prop_map(|us| format!("{us}us"));
    let named = |name: &'static str, value: BoxedStrategy<String>| {
        value.prop_map(move |value| (format!("PENSTOCK_{name}"), value))
    };
    prop_oneof![
        named("WORKERS", (1..=512u32).prop_map(|n| n.to_string()).boxed()),
        named("SHUTDOWN_LINGER", duration(0, 300_000_000).boxed()),
        named("TIMEOUTS_CLIENT_IDLE", duration(100_000, 3_600_000_000).boxed()),
        named("LOG_LEVEL", prop::sample::select(vec!["off", "trace", "info"]).prop_map(str::to_owned).boxed()),
        named("LOG_ACCESS", prop_oneof!["true", "false", "[a-zA-Z/\\\\\"'#é ]{2,20}[./]"].boxed()),
        named("STORE_PATH", "[^\\p{C}]{1,20}".prop_map(|path| format!("/{path}")).boxed()),
        named("RELOAD_POLL", prop_oneof![Just("off".to_owned()), duration(100_000, 3_600_000_000)].boxed()),
        named("LISTENERS_0_ADDRESS", (1u16..=9_000).prop_map(|port| format!("[::]:{port}")).boxed()),
        named("SERVICES_SHOP_WEIGHT", percentage(0..10_001).boxed()),
        named("SERVICES_SHOP_PINS_0_VALUE", "[!-~]([ -~]{0,8}[!-~])?".boxed()),
        named("SERVICES_SHOP_PINS_4_COOKIE", "[a-z]{1,9}".boxed()),
        named(
            "SERVICES_SHOP_PINS_4_VERSION",
            prop::sample::select(vec!["v3", "stable"]).prop_map(str::to_owned).boxed()
        ),
        named("SERVICES_SHOP_ROUTES_2_PATH_PREFIX", "/[!-~&&[^?#*/]]{1,9}".boxed()),
        named("SERVICES_SHOP_VERSIONS_V2_ENDPOINTS", "[a-z]{1,9}:8[0-9]{1,3}, 10\\.0\\.0\\.[1-9]:80,?".boxed()),
        named("SERVICES_SHOP_ROLLBACK_ERROR_RATE", Just("false".to_owned()).boxed()),
        named("SERVICES_SITE_ROLLBACK_ERROR_RATE_ABOVE", percentage(1..10_000).boxed()),
        named("SERVICES_SITE_ROLLBACK_LATENCY_ABOVE", duration(1_000, 60_000_000).boxed()),
        named("SERVICES_SHOP_ROLLBACK_LATENCY_QUANTILE", percentage(5_000..10_000).boxed()),
        named("SERVICES_SHOP_ROLLBACK_MODE", Just("observe".to_owned()).boxed()),
        named("SERVICES_SITE_TIMEOUTS_CONNECT", duration(1_000, 60_000_000).boxed()),
    ]
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))] // each reads the tour three times over

    #[test]
    fn what_is_shown_of_a_changed_tour_means_the_same(variables in prop::collection::vec(variable(), 0..12)) {
        let variables: std::collections::BTreeMap<_, _> = variables.into_iter().collect();
        match tour(&Overrides::environment(variables)) {
            Ok(effective) => round_trips(&effective),
            // A pin that was added in part only, or a listener in the way.
            Err(problems) => prop_assert!(problems.has_errors()),
        }
    }

    #[test]
    fn what_is_shown_of_a_tour_with_slips_means_the_same(
        slips in prop::collection::vec((0..TOUR.len(), 0usize..3, "[0-9a-z]{0,2}"), 1..3)
    ) {
        let text = slips.iter().fold(TOUR.to_owned(), |text, (at, count, other)| mutated(&text, *at, *count, other));
        if let Ok(effective) = parse_with("tour", &text, &Overrides::none()) {
            round_trips(&effective);
        }
    }

    #[test]
    fn no_environment_is_too_strange(pairs in prop::collection::vec(
        ("PENSTOCK_(SERVICES_SHOP|LISTENERS|SERVICES|LOG|[A-Za-z0-9_.=é-]{0,9}){1,3}(_[0-9]{1,5}|_ADDRESS|_WEIGHT|_ROLLBACK_LATENCY)?", "(?s).{0,20}"), 0..6)
    ) {
        match tour(&Overrides::environment(pairs)) {
            Ok(effective) => {
                let _said = effective.settings.warnings.render(Colour::Ansi);
                round_trips(&effective);
            }
            Err(problems) => {
                prop_assert!(problems.has_errors());
                prop_assert!(!problems.render(Colour::Ansi).is_empty());
                serde_json::to_string(&problems).unwrap();
            }
        }
    }

    /// Whatever a service is called, its variable finds it; and what folds alike is refused, never guessed.
    #[test]
    fn a_name_is_found_by_its_folded_form(one in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,9}", other in "[a-bA-B][a-b._-]{0,3}") {
        let fold = |name: &str| name.to_ascii_uppercase().replace(['.', '-'], "_");
        let service = |name: &str, host: &str| format!(
            "[services.\"{name}\"]\nroutes = [{{ host = \"{host}\" }}]\nstable = \"v1\"\nversions.v1.endpoints = [\"{host}:1\"]\n"
        );
        prop_assume!(one != other);
        let text = format!("listeners = [{{ address = \"127.0.0.1:1\" }}]\n{}{}", service(&one, "a"), service(&other, "b"));
        let variable = format!("PENSTOCK_SERVICES_{}_TIMEOUTS_CONNECT", fold(&one));
        match parse_with("x", &text, &Overrides::environment([(variable, "7s")])) {
            Ok(effective) => {
                let services = effective.settings.services.iter();
                let connect: Vec<_> = services.map(|service| service.timeouts.connect.as_secs()).collect();
                prop_assert_eq!(connect, [7, 2]);
                prop_assert_ne!(fold(&one), fold(&other));
            }
            Err(problems) => {
                prop_assert_eq!(fold(&one), fold(&other), "{}", problems);
            }
        }
    }
}

/// Repeating requests, in every bad form.
#[test]
fn retries_in_every_bad_form() {
    let services = [
        "retries = false",
        "retries = { on = \"reset\", buffer = \"64\" }",
        "retries = { on = [\"resett\", \"429\"], buffer = \"2MiB\", idempotency_key = \"yes\", methods = [] }",
        "shielding = 1",
        "shielding = { on = [\"connect\"], of = \"20%\" }",
        "skew_rescue = {}",
        "skew_rescue.path_prefixes = [\"assets\", \"/a/*\"]",
        "timeouts = { per_try = \"1ms\", total = false }",
    ];
    assert_snapshot!(services.map(|service| refused(&with("", service, ""))).join("\n\n"));
}

#[test]
fn shielding_is_switched_off_and_on() {
    let policy = |file: &str, variables: &[(&str, &str)]| {
        let text = with("", file, "");
        let read = parse_with("x", &text, &Overrides::environment(variables.iter().copied()));
        read.unwrap().settings.services[0].retries.shielding
    };
    let words = |reasons: Reasons| reasons.iter().map(Reason::as_str).collect::<Vec<_>>();
    assert_eq!(policy("shielding = false", &[]), None);
    assert_eq!(policy("shielding = true", &[]), policy("", &[]));
    let on = ("PENSTOCK_SERVICES_SHOP_SHIELDING_ON", "502,500");
    assert_eq!(policy("shielding = false", &[on]).map(words), Some(vec!["500", "502"]));
    assert_eq!(policy("", &[("PENSTOCK_SERVICES_SHOP_SHIELDING", "false")]), None);
}
