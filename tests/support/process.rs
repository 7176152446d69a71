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
    child: Child,
    /// Read no further, and not closed: it may go on logging.
    _log: BufReader<ChildStderr>,
    _turn: Turn,
}

impl Process {
    pub fn serve(setup: &Setup) -> Process {
        let turn = Turn::among();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{}\n[log]\nformat = \"json\"\n", setup.text()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(["serve".as_ref(), file.path().as_os_str()])
            .env_remove("PENSTOCK_LOG")
            .env_remove("PENSTOCK_WORKERS")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = log.by_ref().lines().map_while(Result::ok).find_map(|line| listening(&line));
        Process { address: address.expect("it says where it listens"), child, _log: log, _turn: turn }
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

    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status().unwrap().success());
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

fn listening(line: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line["message"] == "listening").then(|| line["address"].as_str()?.parse().ok())?
}
