//! Clients who stay where they were sent: over ramps, rollbacks, restarts and processes; and the cookie that does it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use penstock::domain::standing::Change;
use serde_json::Value;

use crate::support::{Act, Client, Origin, Penstock, Process, Response, Setup, eventually, throughout};

const OWN: &str = "[services.shop.sticky]\n";
const BY_USER: &str = "[services.shop.sticky]\nheader = \"x-user-id\"\nsecret_env = \"STICKY_SECRET\"\n";
const SECRET: (&str, &str) = ("STICKY_SECRET", "the secret of these tests");
const NAME: &str = "penstock-shop";

fn pair() -> (Origin, Origin) {
    (Origin::start("v1"), Origin::start("v2"))
}

fn setup(origins: &(Origin, Origin), weight: &'static str, more: &'static str) -> Setup {
    Setup::of(&[&origins.0]).canary(&[&origins.1], weight).more(more)
}

#[track_caller]
fn ask(client: &mut Client, fields: &str) -> Response {
    client.ask(&format!("GET / HTTP/1.1\r\nHost: shop\r\n{fields}\r\n"))
}

/// `name=value` of our cookie, if the response gives one.
fn given(response: &Response) -> Option<String> {
    let all = response.all("set-cookie");
    let ours: Vec<&&str> = all.iter().filter(|field| field.starts_with(NAME)).collect();
    assert!(ours.len() <= 1, "{all:?}");
    ours.first().map(|field| field.split(';').next().unwrap().to_owned())
}

/// What is answered has been published, and a worker looks before every request.
fn weight(penstock: &Penstock, weight: &str) {
    penstock.set_weight(&mut Client::connect(penstock.admin()), weight);
}

/// Where every one of so many new browsers ends up, and the cookie it holds.
fn browsers(client: &mut Client, many: usize) -> Vec<(String, String)> {
    let visit = |_| {
        let first = ask(client, "");
        (given(&first).expect("a cookie"), first.text())
    };
    (0..many).map(visit).collect()
}

#[test]
fn a_client_stays_on_the_canary_while_the_weight_grows() {
    let origins = pair();
    let penstock = setup(&origins, "1%", OWN).start();
    let mut client = penstock.client();
    let mut visitors = browsers(&mut client, 150);
    for next in ["10%", "50%", "99.99%", "100%"] {
        weight(&penstock, next);
        for (cookie, version) in &mut visitors {
            let again = ask(&mut client, &format!("Cookie: {cookie}\r\n"));
            assert!(again.text() == "v2" || version == "v1", "{cookie} left the canary at {next}");
            assert_eq!(given(&again), None, "it has one");
            *version = again.text();
        }
    }
    assert!(visitors.iter().all(|(_, version)| version == "v2"));
    for (cookie, _) in &visitors {
        assert_eq!(ask(&mut client, &format!("Cookie: {cookie}\r\n")).text(), "v2");
    }
}

#[test]
fn who_came_last_leaves_first() {
    let origins = pair();
    let penstock = setup(&origins, "50%", OWN).start();
    let mut client = penstock.client();
    let bucket = |cookie: &str| cookie.split('.').nth(2).unwrap().parse::<u16>().unwrap();
    let visitors = browsers(&mut client, 100);
    assert!(visitors.iter().all(|(cookie, version)| (bucket(cookie) < 5_000) == (version == "v2")), "{visitors:?}");
    weight(&penstock, "20%");
    for (cookie, _) in &visitors {
        let expected = if bucket(cookie) < 2_000 { "v2" } else { "v1" };
        assert_eq!(ask(&mut client, &format!("Cookie: {cookie}\r\n")).text(), expected);
    }
}

#[test]
fn a_rollback_moves_everybody_at_the_next_request() {
    let origins = pair();
    let penstock = setup(&origins, "90%", OWN).start();
    let mut client = penstock.client();
    let visitors = browsers(&mut client, 40);
    assert!(visitors.iter().filter(|(_, version)| version == "v2").count() > 20);
    let aborted = penstock.post("/v1/services/shop:abort", "{}");
    assert_eq!(aborted.status, 200, "{}", aborted.text());
    for (cookie, _) in &visitors {
        let again = ask(&mut client, &format!("Cookie: {cookie}\r\n"));
        assert_eq!((again.text().as_str(), given(&again)), ("v1", None));
    }
}

#[test]
fn the_next_rollout_has_other_buckets_and_other_cookies() {
    let origins = pair();
    let penstock = setup(&origins, "50%", OWN).start();
    let mut client = penstock.client();
    let (cookie, _) = browsers(&mut client, 1).remove(0);
    weight(&penstock, "0%");
    assert_eq!(given(&ask(&mut client, "")), None, "nothing to stick to");
    weight(&penstock, "50%");
    let again = given(&ask(&mut client, &format!("Cookie: {cookie}\r\n"))).expect("a new one");
    let salt = |cookie: &str| cookie.split('.').nth(1).unwrap().to_owned();
    assert_ne!(salt(&again), salt(&cookie));
    assert_eq!(given(&ask(&mut client, &format!("Cookie: {again}\r\n"))), None);
}

#[test]
fn the_cookie_is_the_clients_own_and_no_script_reads_it() {
    let origins = pair();
    let penstock = setup(&origins, "50%", OWN).start();
    let answer = penstock.get("/");
    let field = answer.header("set-cookie").unwrap();
    let attributes: Vec<&str> = field.split("; ").skip(1).collect();
    assert_eq!(attributes, ["Path=/", "HttpOnly", "SameSite=Lax"], "{field}");
    assert_eq!(answer.header("cache-control"), Some("private"));
    let secure = "[services.shop.sticky]\nsecure = true\nmax_age = \"1h\"\n";
    let penstock = setup(&origins, "50%", secure).start();
    let answer = penstock.get("/");
    let field = answer.header("set-cookie").unwrap();
    assert!(field.starts_with("__Host-penstock-shop=v1."), "{field}");
    assert!(field.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=3600"), "{field}");
}

#[test]
fn what_a_shared_cache_would_keep_gets_no_cookie() {
    let origins = pair();
    let answer = |field: &str| Act::raw(&format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{field}\r\nok"));
    let (shared, mine) = (answer("Cache-Control: max-age=60, public\r\n"), answer("Cache-Control: no-store\r\n"));
    for origin in [&origins.0, &origins.1] {
        let (shared, mine) = (shared.clone(), mine.clone());
        origin.script(move |request| if request.target() == "/shared" { shared.clone() } else { mine.clone() });
    }
    let penstock = setup(&origins, "50%", OWN).start();
    assert!(penstock.get("/shared").all("set-cookie").is_empty());
    let own = penstock.get("/");
    assert!(given(&own).is_some());
    assert_eq!(own.all("cache-control"), ["no-store"], "what the origin said stays");
}

#[test]
fn pinned_requests_get_no_cookie_and_nobody_gets_one_at_zero_or_at_full_weight() {
    let origins = pair();
    let pin = "{ header = \"x-canary\", version = \"canary\" }";
    let penstock = setup(&origins, "50%", OWN).pins(pin).start();
    let mut client = penstock.client();
    let pinned = ask(&mut client, "X-Canary: 1\r\n");
    assert_eq!((pinned.text().as_str(), given(&pinned), pinned.header("cache-control")), ("v2", None, None));
    for (all, version) in [("0%", "v1"), ("100%", "v2")] {
        weight(&penstock, all);
        let answer = ask(&mut client, "");
        assert_eq!((answer.text().as_str(), given(&answer), answer.header("cache-control")), (version, None, None));
    }
}

#[test]
fn no_endpoint_sees_the_cookie_and_the_others_arrive_as_they_were_sent() {
    let origins = pair();
    let penstock = setup(&origins, "50%", OWN).start();
    let mut client = penstock.client();
    let ours = given(&ask(&mut client, "")).unwrap();
    let mut seen = |fields: &str| {
        let version = ask(&mut client, fields).text();
        let origin = if version == "v1" { &origins.0 } else { &origins.1 };
        origin.last_request().all("cookie").iter().map(|field| (*field).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(seen(&format!("Cookie: {ours}\r\n")), Vec::<String>::new());
    assert_eq!(seen(&format!("Cookie: a=\"b\";c=d;  {ours}; e\r\n")), ["a=\"b\";c=d; e"]);
    assert_eq!(seen(&format!("Cookie: a=b\r\nCookie: {ours}\r\nCookie: c=d; a=b\r\n")), ["a=b", "c=d; a=b"]);
    assert_eq!(seen(&format!("Cookie: {NAME}=forged; x=y\r\n")), ["x=y"]);
    assert_eq!(seen("Cookie: a=b;  c=d ;e\r\n"), ["a=b;  c=d ;e"], "without ours, not a byte changes");
}

#[test]
fn nobody_chooses_his_version_by_editing_the_cookie() {
    let origins = pair();
    let penstock = setup(&origins, "1%", OWN).start();
    let mut client = penstock.client();
    let (cookie, _) = loop {
        let (cookie, version) = browsers(&mut client, 1).remove(0);
        if version == "v1" {
            break (cookie, version);
        }
    };
    let parts: Vec<&str> = cookie.split('.').collect();
    let forged = format!("{}.{}.0.{}", parts[0], parts[1], parts[3]);
    let on_canary = (0..300).filter(|_| ask(&mut client, &format!("Cookie: {forged}\r\n")).text() == "v2").count();
    assert!(on_canary < 20, "{on_canary} of 300: each is a draw of its own, at one percent");
    assert!(given(&ask(&mut client, &format!("Cookie: {forged}\r\n"))).is_some(), "a new one takes its place");
}

/// Where everybody is sent.
fn users(client: &mut Client) -> BTreeMap<usize, String> {
    (0..200).map(|user| (user, ask(client, &format!("X-User-Id: user-{user}\r\n")).text())).collect()
}

#[test]
fn two_processes_with_one_secret_agree_about_everybody() {
    let origins = pair();
    let setup = setup(&origins, "30%", BY_USER);
    let [one, other] = [1, 2].map(|_| Process::serve_with(&setup, &[SECRET]));
    let on_one = users(&mut one.client());
    assert_eq!(on_one, users(&mut other.client()));
    let canary = on_one.values().filter(|version| *version == "v2").count();
    assert!((35..85).contains(&canary), "{canary} of 200 at 30%");
    let strange = Process::serve_with(&setup, &[("STICKY_SECRET", "another secret of these tests")]);
    assert_ne!(on_one, users(&mut strange.client()));
}

fn stored(folder: &Path) -> (String, String) {
    ("PENSTOCK_STORE_PATH".to_owned(), folder.join("store").to_str().unwrap().to_owned())
}

#[test]
fn a_restart_keeps_everybody_where_he_is() {
    let (origins, folder) = (pair(), tempfile::tempdir().unwrap());
    let (name, path) = stored(folder.path());
    let with_store = "[store]\npath = \"replaced\"\n[services.shop.sticky]\n";
    let setup = setup(&origins, "50%", with_store).stopping("0s", "1s");
    let serve = || Process::serve_with(&setup, &[(&name, &path)]);
    let mut before = serve();
    let visitors = browsers(&mut before.client(), 40);
    before.terminate();
    assert!(before.ended().success());
    let after = serve();
    let mut client = after.client();
    for (cookie, version) in &visitors {
        let again = ask(&mut client, &format!("Cookie: {cookie}\r\n"));
        assert_eq!((&again.text(), given(&again)), (version, None));
    }
}

#[test]
fn a_secret_is_changed_without_moving_anybody() {
    let (origins, folder) = (pair(), tempfile::tempdir().unwrap());
    let (secret, file) = (folder.path().join("secret"), folder.path().join("penstock.toml"));
    std::fs::write(&secret, "the first secret of these tests\n").unwrap();
    let table = format!("[services.shop.sticky]\nsecret_file = {secret:?}\n");
    let penstock = setup(&origins, "50%", table.leak()).start_from(&file);
    let mut client = penstock.client();
    let visitors = browsers(&mut client, 20);
    std::fs::write(&secret, "the second secret of these tests\nthe first secret of these tests\n").unwrap();
    assert_eq!(penstock.reload().status, 200);
    for (cookie, version) in &visitors {
        let again = ask(&mut client, &format!("Cookie: {cookie}\r\n"));
        assert_eq!(&again.text(), version);
        let renewed = given(&again).expect("one that the new secret signed");
        assert_eq!(renewed.split('.').nth(2), cookie.split('.').nth(2));
        let last = ask(&mut client, &format!("Cookie: {renewed}\r\n"));
        assert_eq!((&last.text(), given(&last)), (version, None));
    }
    std::fs::write(&secret, "short").unwrap();
    let refused = penstock.reload();
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.text().contains("16 characters") && !refused.text().contains("\"short"), "{}", refused.text());
    assert_eq!(&ask(&mut client, &format!("Cookie: {}\r\n", visitors[0].0)).text(), &visitors[0].1, "as before");
}

#[test]
fn the_log_and_the_figures_say_who_was_known_again() {
    let (origins, folder) = (pair(), tempfile::tempdir().unwrap());
    let log = folder.path().join("access.log");
    let process = Process::serve_with(&setup(&origins, "50%", OWN), &[("PENSTOCK_LOG_ACCESS", log.to_str().unwrap())]);
    let mut client = process.client();
    let cookie = given(&ask(&mut client, "")).unwrap();
    ask(&mut client, &format!("Cookie: {cookie}\r\n"));
    let lines = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    eventually("both lines", || lines().len() == 2);
    let seen: Vec<_> = lines().iter().map(|line| (line["selected"].clone(), line["bucket"].to_string())).collect();
    let bucket = cookie.split('.').nth(2).unwrap().to_owned();
    assert_eq!(seen, [("weight".into(), bucket.clone()), ("sticky".into(), bucket)]);
    let metrics = || {
        let mut admin = Client::connect(process.admin);
        admin.ask(&format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", process.admin)).text()
    };
    let counted = |text: &str| {
        let lines = text.lines().filter(|line| line.starts_with("penstock_sticky_requests_total{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    eventually("it is counted", || counted(&metrics()) >= 1.0);
    let config = {
        let mut admin = Client::connect(process.admin);
        admin.ask(&format!("GET /v1/services/shop HTTP/1.1\r\nHost: {}\r\n\r\n", process.admin)).text()
    };
    assert!(!config.contains("secret"), "{config}");
}

/// Users who ask again and again, each under his own id.
fn crowd(penstock: &Penstock, many: usize) -> (Arc<AtomicBool>, Vec<thread::JoinHandle<()>>) {
    let ended = Arc::new(AtomicBool::new(false));
    let address = penstock.address();
    let threads = (0..4).map(|worker| {
        let ended = ended.clone();
        thread::spawn(move || {
            let mut client = Client::connect(address);
            let mut user = worker;
            while !ended.load(Ordering::Relaxed) {
                ask(&mut client, &format!("X-User-Id: user-{user}\r\n"));
                user = (user + 4) % many;
                thread::sleep(Duration::from_millis(2));
            }
        })
    });
    let threads = threads.collect();
    (ended, threads)
}

fn end((ended, threads): (Arc<AtomicBool>, Vec<thread::JoinHandle<()>>)) {
    ended.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
}

const BY_USER_HERE: &str = "[services.shop.sticky]\nheader = \"x-user-id\"\n";

#[test]
fn a_canary_that_dies_under_sticky_users_is_rolled_back() {
    let origins = pair();
    let penstock = setup(&origins, "25%", BY_USER_HERE).alone().start();
    let crowd = crowd(&penstock, 200);
    eventually("everybody was here", || origins.0.requests() + origins.1.requests() > 600);
    assert!(penstock.rollback().is_none());
    origins.1.always(Act::Status(500));
    eventually("a rollback", || penstock.rollback().is_some());
    let Change::RolledBack { conviction, .. } = penstock.rollback().unwrap().event.change else { unreachable!() };
    let served = origins.1.requests();
    println!("rolled back by {} after {} canary requests: {}", conviction.trigger, served, conviction.because);
    end(crowd);
}

#[test]
fn users_who_always_fail_do_not_roll_a_healthy_canary_back() {
    let origins = pair();
    for origin in [&origins.0, &origins.1] {
        // One user in seven, on whichever version.
        origin.script(|request| {
            let user: usize = request.header("x-user-id").unwrap()["user-".len()..].parse().unwrap();
            if user.is_multiple_of(7) { Act::Status(500) } else { Act::Answer }
        });
    }
    let penstock = setup(&origins, "25%", "[services.shop.sticky]\nheader = \"x-user-id\"\n").start();
    let crowd = crowd(&penstock, 60);
    throughout(Duration::from_secs(4), "no rollback", || penstock.rollback().is_none());
    end(crowd);
    assert!(penstock.classes("v1").failure > 20, "they did fail");
}

#[test]
fn a_fixed_cohort_is_held_by_its_limit_and_not_convicted_by_chance() {
    let origins = pair();
    origins.1.always(Act::Status(500));
    let fixed = "[services.shop.sticky]\nheader = \"x-user-id\"\ncohort = \"fixed\"\n";
    let penstock = setup(&origins, "50%", fixed).start();
    let crowd = crowd(&penstock, 100);
    let held = |change: &Change| matches!(change, Change::HoldBegan { .. });
    eventually("it is held", || penstock.journal(held).is_some());
    throughout(Duration::from_secs(2), "no rollback", || penstock.rollback().is_none());
    end(crowd);
}

#[test]
fn a_fixed_cohort_that_cannot_be_reached_is_rolled_back() {
    let origins = (Origin::start("v1"), Origin::absent("v2"));
    let fixed = "[services.shop.sticky]\nheader = \"x-user-id\"\ncohort = \"fixed\"\n";
    let penstock = setup(&origins, "50%", fixed).start();
    let crowd = crowd(&penstock, 100);
    eventually("a rollback", || penstock.rollback().is_some());
    end(crowd);
}

#[test]
fn a_proxy_without_its_secret_does_not_start() {
    let origins = pair();
    let setup = setup(&origins, "50%", "[services.shop.sticky]\nsecret_file = \"/nowhere/at/all\"\n");
    let settings = penstock::config::parse("test.toml", &setup.text()).unwrap();
    let error = penstock::app::start(settings).unwrap_err();
    assert!(error.to_string().contains("`/nowhere/at/all` cannot be read"), "{error}");
    assert!(error.help().contains("openssl rand"));
}
