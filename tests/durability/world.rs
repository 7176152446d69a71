//! Two origins, a store that outlives the processes that use it, and the real binary between them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use penstock::admin::wire::{Change, Changed, Entry, Services, Split, Weight};
use serde_json::Value;

use crate::support::{Client, DEADLINE, Origin, Response, Setup, eventually};

/// A start takes no longer, even on a machine that is busy with other things.
const START: Duration = Duration::from_secs(10);

pub struct World {
    pub directory: tempfile::TempDir,
    pub stable: Origin,
    pub canary: Origin,
}

impl World {
    /// The file's weight is 35 %, which no test sets.
    pub fn new() -> World {
        let (stable, canary) = (Origin::start("v1"), Origin::start("v2"));
        let world = World { directory: tempfile::tempdir().unwrap(), stable, canary };
        world.write(|text| text);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("data")
    }

    pub fn text(&self) -> String {
        let text = Setup::of(&[&self.stable]).canary(&[&self.canary], "35%").stopping("0s", "1s").text();
        format!("{text}[store]\npath = \"{}\"\n[log]\nformat = \"json\"\n", self.store().display())
    }

    /// Writes the file, edited.
    pub fn write(&self, edit: impl FnOnce(String) -> String) {
        fs::write(self.path("penstock.toml"), edit(self.text())).unwrap();
    }

    pub fn serve(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.args(["serve".as_ref(), self.path("penstock.toml").as_os_str()]);
        command
    }

    #[track_caller]
    pub fn start(&self) -> Proxy {
        started(self.serve())
    }
}

#[track_caller]
pub fn started(command: Command) -> Proxy {
    Proxy::start(command).unwrap_or_else(|ended| panic!("{ended:?}"))
}

/// A proxy that did not start.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub log: String,
}

/// A running proxy; killed when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// From the start of the process to both addresses being known.
    pub took: Duration,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Proxy {
    pub fn start(mut command: Command) -> Result<Proxy, Ended> {
        let begun = Instant::now();
        let command = command.env_remove("PENSTOCK_LOG").env_remove("PENSTOCK_WORKERS");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let reader = BufReader::new(child.stderr.take().unwrap());
        thread::spawn({
            let log = log.clone();
            move || {
                for line in reader.lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let text = || log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        while begun.elapsed() < START {
            let ended = child.try_wait().unwrap();
            if let (Some(address), Some(admin)) = (said(&text(), "listening"), said(&text(), "admin API listening")) {
                return Ok(Proxy { address, admin, took: begun.elapsed(), child, log });
            }
            if let Some(status) = ended {
                thread::sleep(Duration::from_millis(50)); // for the rest of what it said
                return Err(Ended { code: status.code(), log: text() });
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ended_meanwhile = child.kill();
        let _ended_meanwhile = child.wait();
        panic!("it neither serves nor ends: {}", text())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(mut self) {
        self.kill_now();
    }

    /// SIGKILL, and on with it.
    pub fn strike(&mut self) {
        let _ended_already = self.child.kill();
    }

    pub fn kill_now(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }

    pub fn api(&self) -> Api {
        Api { admin: self.admin }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill_now();
    }
}

fn said(log: &str, message: &str) -> Option<SocketAddr> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).find_map(|line| line["address"].as_str()?.parse().ok())
}

/// The admin API: a connection per request. An error: the proxy went away meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    pub admin: SocketAddr,
}

impl Api {
    pub fn ask(self, method: &str, path: &str, fields: &str, body: &str) -> io::Result<Response> {
        let mut client = Client::try_connect(self.admin)?;
        let (admin, length) = (self.admin, body.len());
        let media = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let response = client.try_ask(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {admin}\r\n{fields}{media}Content-Length: {length}\r\n\r\n{body}"
        ))?;
        if response.whole { Ok(response) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    pub fn weight(self, weight: &str, if_match: &str) -> io::Result<Response> {
        let fields = format!("If-Match: {if_match}\r\n");
        self.ask("PATCH", "/v1/services/shop/split", &fields, &format!("{{\"weight\":\"{weight}\"}}"))
    }

    pub fn abort(self) -> io::Result<Response> {
        self.ask("POST", "/v1/services/shop:abort", "", "")
    }

    pub fn unseal(self, version: &str) -> io::Result<Response> {
        self.ask("POST", "/v1/services/shop:unseal", "", &format!("{{\"version\":\"{version}\"}}"))
    }

    pub fn try_split(self) -> io::Result<Split> {
        let response = self.ask("GET", "/v1/services/shop/split", "", "")?;
        Ok(serde_json::from_slice(&response.body)?)
    }

    #[track_caller]
    pub fn split(self) -> Split {
        self.try_split().unwrap()
    }

    #[track_caller]
    pub fn services(self) -> Services {
        serde_json::from_slice(&self.ask("GET", "/v1/services", "", "").unwrap().body).unwrap()
    }

    /// The value of a metric without labels.
    #[track_caller]
    pub fn metric(self, name: &str) -> Option<u64> {
        let text = self.ask("GET", "/metrics", "", "").unwrap().text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// What was announced after a revision, up to now.
    #[track_caller]
    pub fn journal(self, after: u64) -> BTreeMap<u64, Entry> {
        let newest = self.metric("penstock_state_revision").expect("a revision");
        let mut entries = BTreeMap::new();
        if newest > after {
            watch(self.admin, Some(after), |entry| {
                let last = entry.revision >= newest;
                entries.insert(entry.revision, entry);
                !last
            });
        }
        entries
    }
}

/// Follows the events for as long as there are any, and `go_on` wants more.
pub fn watch(admin: SocketAddr, after: Option<u64>, mut go_on: impl FnMut(Entry) -> bool) {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::net::TcpStream::connect(admin) else { return };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let after = after.map(|after| format!("Last-Event-ID: {after}\r\n")).unwrap_or_default();
    if stream.write_all(format!("GET /v1/events HTTP/1.1\r\nHost: {admin}\r\n{after}\r\n").as_bytes()).is_err() {
        return;
    }
    let (mut text, mut piece) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(length) => text.extend_from_slice(&piece[..length]),
        }
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = text.drain(..end + 2).collect();
            let block = String::from_utf8_lossy(&block).into_owned();
            let data = block.lines().find_map(|line| line.strip_prefix("data: "));
            let Some(entry) = data.and_then(|data| serde_json::from_str(data).ok()) else { continue };
            if !go_on(entry) {
                return;
            }
        }
    }
}

#[track_caller]
pub fn changed(response: io::Result<Response>) -> Changed {
    let response = response.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_slice(&response.body).unwrap()
}

/// How the canary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stands {
    pub weight: Weight,
    pub sealed: bool,
}

impl Stands {
    pub fn of(split: &Split) -> Stands {
        Stands { weight: split.weight, sealed: !split.sealed.is_empty() }
    }

    /// With an announced change in it.
    pub fn after(self, change: &Change) -> Stands {
        match change {
            Change::WeightSet { to, .. } | Change::ProbeBegan { to, .. } | Change::ProbeEnded { to, .. } => {
                Stands { weight: *to, ..self }
            }
            Change::Declared { weight, .. } => Stands { weight: *weight, ..self },
            Change::Aborted { .. } | Change::RolledBack { .. } => Stands { weight: Weight::ZERO, sealed: true },
            Change::Unsealed { .. } => Stands { sealed: false, ..self },
            _ => self,
        }
    }
}

pub fn percent(points: u16) -> Weight {
    Weight::from_basis_points(points * 100).unwrap()
}

/// Requests are answered, by a proxy that has just been started.
#[track_caller]
pub fn serves(proxy: &Proxy) {
    eventually("an answer", || {
        let asked = Client::try_connect(proxy.address)
            .and_then(|mut client| client.try_ask("GET / HTTP/1.1\r\nHost: shop\r\n\r\n"));
        asked.is_ok_and(|response| response.status == 200)
    });
}

/// A command that is there and did well.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let line = format!("{program} {}", arguments.join(" "));
    match Command::new(program).args(arguments).output() {
        Err(error) => Err(format!("{line}: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
