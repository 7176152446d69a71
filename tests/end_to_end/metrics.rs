//! A real Prometheus scrapes the real binary, and answers questions about it.

use std::fmt::Write as _;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Act, Client, Origin, Penstock, Process, Scrape, Setup, eventually};

/// The server may be busy with other tests' load for a while.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running `prometheus`; killed when dropped.
struct Prometheus {
    address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

/// Where a program is, or why the test is skipped; `TESTS_REQUIRE_PROMETHEUS` forbids that.
fn installed(name: &str) -> bool {
    let there = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        assert!(std::env::var_os("TESTS_REQUIRE_PROMETHEUS").is_none(), "{name} is not installed");
        println!("skipped: {name} is not installed (Debian: `apt-get install prometheus`)");
    }
    there
}

impl Prometheus {
    /// Another program may take the port that was free: then once more.
    fn scraping(target: SocketAddr) -> Prometheus {
        (0..3).find_map(|_| Prometheus::start(target)).expect("prometheus starts")
    }

    fn start(target: SocketAddr) -> Option<Prometheus> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms }}\nscrape_configs:\n  - job_name: penstock\n    \
             static_configs:\n      - targets: [\"{target}\"]\n"
        );
        std::fs::write(&config, text).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut prometheus = Prometheus { address, child, _folder: folder };
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if prometheus.child.try_wait().unwrap().is_some() {
                return None;
            }
            if Client::try_connect(address).is_ok() {
                return Some(prometheus);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// The values of a query's series, if it is ready to answer.
    fn ask(&self, query: &str) -> Vec<Value> {
        let mut encoded = String::new();
        for byte in query.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => encoded.push(byte.into()),
                _ => write!(encoded, "%{byte:02X}").unwrap(),
            }
        }
        let ask = format!(
            "GET /api/v1/query?query={encoded} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        );
        let answer = Client::try_connect(self.address).and_then(|mut client| client.try_ask(&ask));
        let answer = answer.ok().and_then(|answer| serde_json::from_slice::<Value>(&answer.body).ok());
        let result = answer.and_then(|answer| answer["data"]["result"].as_array().cloned()).unwrap_or_default();
        result.into_iter().map(|series| series["value"][1].clone()).collect()
    }

    #[track_caller]
    fn answers(&self, query: &str, wanted: impl Fn(f64) -> bool) {
        let begun = Instant::now();
        loop {
            let values = self.ask(query);
            let number = |value: &Value| value.as_str().and_then(|value| value.parse().ok());
            if values.len() == 1 && values.iter().filter_map(number).all(&wanted) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{query}: {values:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

#[expect(clippy::float_cmp, reason = "what was written as 0.25 is read as 0.25")]
fn is(wanted: f64) -> impl Fn(f64) -> bool {
    move |value| value == wanted
}

#[test]
fn prometheus_scrapes_it_and_knows_what_happened() {
    if !installed("prometheus") {
        return;
    }
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let process = Process::serve(&Setup::of(&[&stable]).canary(&[&canary], "25%"));
    let prometheus = Prometheus::scraping(process.admin);
    prometheus.answers("up{job=\"penstock\"}", is(1.0));
    prometheus.answers("penstock_split_weight_ratio{service=\"shop\",version=\"v2\"}", is(0.25));
    prometheus.answers("penstock_build_info", is(1.0));
    prometheus.answers("penstock_log_dropped_total", is(0.0));
    let mut client = process.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
    prometheus.answers("sum(penstock_attempts_total{service=\"shop\",class=\"success\"})", is(20.0));
    assert_eq!(client.ask("BREW / HTTP/1.1\r\nHost: shop\r\n\r\n").status, 200);
    stable.always(Act::Status(500));
    canary.always(Act::Status(500));
    assert_eq!(client.post("/", "order").status, 500);
    prometheus.answers("sum(http_server_request_duration_seconds_count)", is(22.0));
    let of_requests = "http_request_method=\"GET\",http_response_status_code=\"200\",error_type=\"\",url_scheme=\"http\",\
                       network_protocol_version=\"1.1\",penstock_service=\"shop\",penstock_role=~\"stable|canary\"";
    prometheus.answers(&format!("sum(http_server_request_duration_seconds_count{{{of_requests}}})"), is(20.0));
    let counts = |labels: &str| format!("sum(http_server_request_duration_seconds_count{{{labels}}})");
    prometheus.answers(&counts("http_request_method=\"_OTHER\""), is(1.0));
    prometheus.answers(&counts("http_request_method=\"POST\",error_type=\"500\""), is(1.0));
    let quantile = "histogram_quantile(0.5, sum by (le) (http_server_request_duration_seconds_bucket))";
    prometheus.answers(quantile, |seconds| seconds > 0.0 && seconds < 10.0);
    let port = stable.address.port();
    let attempts = format!(
        "http_client_request_duration_seconds_count{{server_address=\"127.0.0.1\",server_port=\"{port}\"}} \
         + ignoring(server_port,penstock_version,penstock_role) http_client_request_duration_seconds_count{{server_port!=\"{port}\"}}"
    );
    prometheus.answers(&attempts, is(22.0));
    prometheus.answers("http_server_active_requests", is(0.0));
    let abort =
        format!("POST /v1/services/shop:abort HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", process.admin);
    assert_eq!(Client::connect(process.admin).ask(&abort).status, 200);
    prometheus.answers("penstock_decision_total{service=\"shop\",decision=\"abort\",trigger=\"person\"}", is(1.0));
    prometheus.answers("penstock_split_weight_ratio{service=\"shop\",version=\"v2\"}", is(0.0));
}

/// The exposition in the older form, which is all that this promtool reads: there a counter's family has its samples'
/// name, and there is no type for information.
fn older(text: &str) -> String {
    let older = |line: &str| {
        let mut words: Vec<&str> = line.splitn(4, ' ').collect();
        let family = *words.get(2).unwrap_or(&"");
        let suffix = match text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {family} "))) {
            Some("counter") => "_total",
            Some("info") => "_info",
            _ => "",
        };
        let name = format!("{family}{suffix}");
        match words.as_mut_slice() {
            ["#", "HELP" | "TYPE", ..] if !suffix.is_empty() => {
                words[2] = &name;
                words.join(" ").replace("_info info", "_info gauge")
            }
            _ => line.to_owned(),
        }
    };
    text.lines().map(|line| older(line) + "\n").collect()
}

#[test]
fn promtool_finds_nothing_to_say_against_a_name() {
    if !installed("promtool") {
        return;
    }
    let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
    let process = Process::serve(&Setup::of(&[&stable]).canary(&[&canary], "25%"));
    let scrape =
        Client::connect(process.admin).ask(&format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", process.admin));
    let text = older(&scrape.text());
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
}

#[test]
fn requests_under_way_are_counted() {
    let origin = Origin::start("v1");
    origin.always(Act::Hang);
    let penstock = Setup::of(&[&origin]).start();
    let active = || Scrape::of(penstock.admin()).sum("http_server_active_requests", &[]);
    assert_eq!(active(), 0);
    let mut clients = [penstock.client(), penstock.client(), penstock.client()];
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    eventually("three under way", || active() == 3);
    drop(clients);
    eventually("none under way", || active() == 0);
}

/// The count of requests with these labels.
fn counted(penstock: &Penstock, labels: &[&str]) -> u64 {
    Scrape::of(penstock.admin()).sum("http_server_request_duration_seconds_count", labels)
}

#[test]
fn a_request_is_counted_once_however_often_it_is_tried() {
    let (dead, alive) = (Origin::absent("v1"), Origin::start("v1"));
    let penstock = Setup::of(&[&dead, &alive]).start();
    let mut client = penstock.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
    eventually("twenty requests", || counted(&penstock, &["penstock_version=\"v1\""]) == 20);
    assert!(penstock.settled("v1", 21).failure > 0, "tried elsewhere first");
    assert_eq!(counted(&penstock, &["status_code=\"200\""]), 20);
}

#[test]
fn requests_that_did_not_end_well_say_why() {
    let origin = Origin::start("v1");
    let penstock = Setup::of(&[&origin]).routes("{ host = \"shop\", path_prefix = \"/\" }").start();
    let counts = |labels: &[&str], wanted| {
        eventually(&format!("{labels:?}"), || counted(&penstock, labels) == wanted);
    };
    assert_eq!(penstock.client().ask("GET / HTTP/1.1\r\nHost: elsewhere\r\n\r\n").status, 404);
    counts(&["{http_request_method=\"GET\"", "status_code=\"404\"", "error_type=\"destination_not_found\""], 1);
    origin.always(Act::Reset);
    assert_eq!(penstock.client().ask("HEAD / HTTP/1.0\r\nHost: shop\r\n\r\n").status, 502);
    counts(&["method=\"HEAD\"", "code=\"502\"", "error_type=\"connection_terminated\"", "version=\"1.0\""], 1);
    origin.always(Act::raw_then_close("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"));
    let answer = penstock.client().try_ask("GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert!(answer.is_err() || answer.is_ok_and(|answer| !answer.whole), "it broke off");
    counts(&["status_code=\"200\"", "error_type=\"http_response_incomplete\""], 1);
    origin.always(Act::Hang);
    let mut impatient = penstock.client();
    impatient.send("PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n").unwrap();
    eventually("its attempt", || origin.of_method("PUT") == 1);
    drop(impatient);
    counts(&["method=\"PUT\"", "error_type=\"client_left\""], 1);
    origin.always(Act::Stream(300_000));
    assert!(penstock.get("/").whole);
    counts(&["method=\"GET\"", "status_code=\"200\""], 2);
    counts(&["error_type=\"client_left\""], 1);
}
