//! What a request costs: the same load through Penstock, HAProxy and nginx, in one interleaved run.
//!
//! ```text
//!   core 1: wrk ──▶ core 0: the proxy ──▶ core 1: nginx, two ports: 90 % to one, 10 % to the other
//! ```
//!
//! The figure is the CPU time that a proxy's process took, all its threads together, by requests completed. Rounds
//! go through all proxies one after the other, and a ratio is taken within a round: what else the machine does then
//! hits all of them. Each proxy has one worker, keeps its connections to the origin and writes no access log. Penstock
//! judges the split meanwhile, and adds its forwarding fields; the others add nothing.
//!
//! A report, not a test: nothing fails on a slow machine, and what is not installed is left out with a message.
//!
//! ```text
//!   cargo bench --bench end_to_end -- [--rounds 5] [--seconds 2] [--only w1,w3] [--binary PATH ...]
//! ```
//!
//! `--binary` measures other builds of Penstock than this tree's, several beside one another if it is repeated.

#![expect(clippy::print_stdout, reason = "a report is for people to read")]
#![expect(clippy::disallowed_methods, reason = "it waits for processes that it started")]

mod machine;
mod peers;
mod report;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use machine::{Folder, Load, Tools, on_core};
use peers::{Origin, Peer};
use report::{Sample, Samples};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The core of the proxy under measurement, and that of everything else.
const PROXY_CORE: usize = 0;
const OTHER_CORE: usize = 1;

/// One kind of request.
struct Workload {
    name: &'static str,
    what: &'static str,
    path: &'static str,
    connections: usize,
    post: bool,
    /// Of HAProxy's CPU time per request, at most.
    goal: f64,
}

const WORKLOADS: [Workload; 4] = [
    Workload { name: "w1", what: "GET 100 B", path: "/100", connections: 64, post: false, goal: 0.95 },
    Workload { name: "w2", what: "GET 10 KB", path: "/10k", connections: 64, post: false, goal: 0.95 },
    Workload { name: "w3", what: "GET 1 MiB", path: "/1m", connections: 16, post: false, goal: 0.6 },
    Workload { name: "w4", what: "POST 10 KB", path: "/post", connections: 64, post: true, goal: 0.95 },
];

/// Sizes of what the origin answers with.
const SMALL: usize = 100;
const MEDIUM: usize = 10 * 1024;
const LARGE: usize = 1024 * 1024;

/// What is asked for on the command line.
struct Options {
    rounds: usize,
    seconds: u64,
    only: Vec<String>,
    binaries: Vec<PathBuf>,
}

impl Options {
    /// `None`: this is not `cargo bench`, and there is nothing to do.
    fn read(mut arguments: impl Iterator<Item = String>) -> Outcome<Option<Options>> {
        let mut options = Options { rounds: 5, seconds: 2, only: Vec::new(), binaries: Vec::new() };
        let mut bench = false;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--bench" => bench = true,
                "--rounds" => options.rounds = value()?.parse::<usize>()?.clamp(1, 100),
                "--seconds" => options.seconds = value()?.parse::<u64>()?.clamp(1, 60),
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--binary" => options.binaries.push(value()?.into()),
                other => return Err(format!("{other} is not known here").into()),
            }
        }
        Ok(bench.then_some(options))
    }

    fn workloads(&self) -> impl Iterator<Item = &'static Workload> {
        WORKLOADS.iter().filter(|workload| self.only.is_empty() || self.only.iter().any(|name| name == workload.name))
    }
}

fn main() -> ExitCode {
    let ran = Options::read(std::env::args().skip(1)).and_then(|options| options.map_or(Ok(()), |it| run(&it)));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("not measured: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let tools = Tools::find();
    let (Some(nginx), Some(wrk)) = (&tools.nginx, &tools.wrk) else {
        println!("skipped: nginx (the origin) and wrk (the load) are needed: apt-get install nginx-light wrk haproxy");
        return Ok(());
    };
    let binaries = if options.binaries.is_empty() { vec![built()?] } else { options.binaries.clone() };
    let folder = Folder::new()?;
    let origin = Origin::start(&tools, nginx, &folder)?;
    let peers = started(&tools, &binaries, &folder, &origin)?;
    describe(options, &tools, &peers);
    let post = folder.write("post.lua", &format!("wrk.method = 'POST'\nwrk.body = string.rep('x', {MEDIUM})\n"))?;
    for workload in options.workloads() {
        let mut samples = Samples::new(peers.len());
        for _ in 0..options.rounds {
            for (index, peer) in peers.iter().enumerate() {
                samples.push(index, measured(options, &tools, wrk, peer, workload, &post)?);
            }
        }
        samples.print(workload, &peers);
    }
    println!("\npeak memory (VmHWM), after all of it:");
    for peer in &peers {
        println!("  {:<12} {:>7.1} MiB", peer.name, peer.process.peak_kib()? / 1024.0);
    }
    Ok(())
}

/// What is shipped. `cargo bench` builds with what the tests need of the libraries, and leaves that in this place.
fn built() -> Outcome<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--release", "--bin", "penstock"]).current_dir(root).status()?;
    if !status.success() {
        return Err("cargo build --release failed".into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/penstock"))
}

/// Every proxy that is there, started; the first HAProxy is what the others are held against.
fn started(tools: &Tools, binaries: &[PathBuf], folder: &Folder, origin: &Origin) -> Outcome<Vec<Peer>> {
    let mut peers = Vec::new();
    for (index, binary) in binaries.iter().enumerate() {
        let name = if index == 0 { "penstock".to_owned() } else { format!("penstock/{index}") };
        peers.push(Peer::penstock(tools, name, &fs::canonicalize(binary)?, folder, origin)?);
    }
    match &tools.haproxy {
        Some(haproxy) => peers.push(Peer::haproxy(tools, haproxy, folder, origin)?),
        None => println!("haproxy is not installed: no ratios (apt-get install haproxy)"),
    }
    if let Some(nginx) = &tools.nginx {
        peers.push(Peer::nginx(tools, nginx, folder, origin)?);
    }
    Ok(peers)
}

fn describe(options: &Options, tools: &Tools, peers: &[Peer]) {
    for peer in peers {
        println!("{:<12} {}", peer.name, peer.version);
    }
    let pinned =
        if tools.taskset.is_some() { "pinned: proxy core 0, the rest core 1" } else { "not pinned: no taskset" };
    println!("{} rounds of {} s each; {pinned}", options.rounds, options.seconds);
}

fn measured(
    options: &Options,
    tools: &Tools,
    wrk: &Path,
    peer: &Peer,
    workload: &Workload,
    post: &Path,
) -> Outcome<Sample> {
    let mut command = on_core(tools, OTHER_CORE, wrk);
    command.args(["-t1", "--timeout", "10s"]);
    command.arg(format!("-c{}", workload.connections)).arg(format!("-d{}s", options.seconds));
    for field in FIELDS {
        command.args(["-H", field]);
    }
    if workload.post {
        command.arg("-s").arg(post);
    }
    command.arg(format!("http://127.0.0.1:{}{}", peer.port, workload.path));
    let before = peer.process.cpu()?;
    let load = Load::run(&mut command)?;
    let after = peer.process.cpu()?;
    let cpu = after.saturating_sub(before);
    Ok(Sample { micros: cpu.as_secs_f64() * 1e6 / load.requests.max(1.0), requests: load.requests, bad: load.bad })
}

/// What a browser sends: a request head of some 590 bytes.
const FIELDS: [&str; 10] = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Referer: http://shop.example.com/category/water?page=2",
    "Cookie: session=9f1c2b7ad4e84b6c8d0f3a5e7b9c1d2e; theme=dark; seen=1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Upgrade-Insecure-Requests: 1",
];
