//! `penstock serve` as people run it: the real binary, in a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::penstock::Turn;
use super::{Client, DEADLINE, Setup};

/// A running `penstock serve`; killed when dropped.
pub struct Process {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
    file: tempfile::NamedTempFile,
    /// Not closed: it may go on logging.
    log: BufReader<ChildStderr>,
    _turn: Turn,
}

impl Process {
    pub fn serve(setup: &Setup) -> Process {
        Process::serve_with(setup, &[])
    }

    /// As [`Process::serve`], with variables in its environment.
    pub fn serve_with(setup: &Setup, variables: &[(&str, &str)]) -> Process {
        let turn = Turn::among();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{}", text(setup)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(["serve".as_ref(), file.path().as_os_str()])
            .env_remove("PENSTOCK_LOG")
            .env_remove("PENSTOCK_WORKERS")
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut listening = |what: &str| {
            let mut lines = log.by_ref().lines().map_while(Result::ok);
            lines.find_map(|line| listening(&line, what)).expect("it says where it listens")
        };
        let (address, admin) = (listening("listening"), listening("admin API listening"));
        Process { address, admin, child, file, log, _turn: turn }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Resident memory now.
    pub fn kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident memory");
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Writes another file in the place of its own.
    pub fn rewrite(&self, setup: &Setup) {
        std::fs::write(self.file.path(), text(setup)).unwrap();
    }

    /// Changes its file.
    pub fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.file.path()).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(self.file.path(), text.replace(from, to)).unwrap();
    }

    pub fn terminate(&self) {
        self.signal("TERM");
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", "kill -$1 \"$0\"", &pid, name]).status().unwrap().success());
    }

    /// What else it logged until it ended.
    pub fn rest_of_log(&mut self) -> String {
        self.ended();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        rest
    }

    /// How it ended.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None if begun.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(5)),
                None => panic!("still running after {DEADLINE:?}"),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

fn text(setup: &Setup) -> String {
    format!("{}\n[log]\nformat = \"json\"\n", setup.text())
}

fn listening(line: &str, what: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line["message"] == what).then(|| line["address"].as_str()?.parse().ok())?
}
