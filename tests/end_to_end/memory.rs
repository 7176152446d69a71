//! Bodies are not kept: what a large one adds to the memory of a Penstock in a process of its own.
//!
//! The process is this test binary once more, running [`in_a_process_of_its_own`] alone. `PENSTOCK_TEST_BODY_MIB` sets
//! the size of the bodies; the is 1024.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::penstock::Turn;
use crate::support::{Act, Client, Origin, Setup, eventually};

/// What one connection may add.
const MOST_KIB: u64 = 4 * 1024;
const ENDPOINT: &str = "PENSTOCK_TEST_ENDPOINT";

fn body_length() -> u64 {
    let mebibytes = std::env::var("PENSTOCK_TEST_BODY_MIB").ok().and_then(|text| text.parse().ok());
    mebibytes.unwrap_or(256_u64) << 20
}

/// The child's part of the tests below: serves until its standard input ends.
#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn in_a_process_of_its_own() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let mut origin = Origin::absent("v1");
    origin.address = endpoint.parse().unwrap();
    let penstock = Setup::of(&[&origin]).start();
    println!("\nlistening on {}", penstock.address());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

struct Process {
    child: Child,
    address: SocketAddr,
    /// Read no further, and not closed: the child is to end in peace.
    _output: BufReader<ChildStdout>,
    _turn: Turn,
}

impl Process {
    fn start(origin: &Origin) -> Process {
        let turn = Turn::among();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::in_a_process_of_its_own", "--ignored", "--nocapture"])
            .env(ENDPOINT, origin.address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output.by_ref().lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("listening on ")?.parse().ok()).expect("an address");
        let process = Process { child, address, _output: output, _turn: turn };
        for _ in 0..20 {
            assert_eq!(Client::connect(address).post("/warm", "up").status, 200);
        }
        process
    }

    /// Resident memory now.
    fn kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident memory");
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The most that is resident beyond what was, while something is going on.
    fn growth_while(&self, before: u64, going_on: impl Fn() -> bool) -> u64 {
        let mut most = 0;
        while going_on() {
            most = most.max(self.kib().saturating_sub(before));
            thread::sleep(Duration::from_millis(2));
        }
        most
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

fn steady(count: impl Fn() -> u64) {
    eventually("everything is held back", || {
        let before = count();
        thread::sleep(Duration::from_millis(300));
        count() == before
    });
}

#[test]
fn a_large_answer_is_not_kept() {
    let (origin, length) = (Origin::start("v1"), body_length());
    let process = Process::start(&origin);
    origin.always(Act::Stream(length));
    let before = process.kib();
    let mut client = Client::connect(process.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = client.receive_head().unwrap();
    steady(|| origin.seen(|seen| seen.sent));
    let stalled = process.kib().saturating_sub(before);
    let reading = thread::spawn(move || (client.receive_body(&mut answer).unwrap(), answer.body_length));
    let flowing = process.growth_while(before, || !reading.is_finished());
    assert_eq!(reading.join().unwrap(), (true, length));
    println!(
        "answer of {} MiB: {stalled} KiB with a stalled reader, {flowing} KiB at most while it flows",
        length >> 20
    );
    assert!(stalled.max(flowing) < MOST_KIB, "{stalled} KiB stalled, {flowing} KiB flowing");
}

#[test]
fn a_large_upload_is_not_kept() {
    let (origin, length) = (Origin::start("v1"), body_length());
    let process = Process::start(&origin);
    origin.always(Act::Stall);
    let before = process.kib();
    let mut client = Client::connect(process.address);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).unwrap();
    let mut socket = client.socket().try_clone().unwrap();
    let piece = vec![b'x'; 1 << 20];
    let sending = thread::spawn(move || (0..length >> 20).try_for_each(|_| socket.write_all(&piece)));
    eventually("the request at the endpoint", || origin.requests() > 20);
    let stalled = process.growth_while(before, {
        let begun = std::time::Instant::now();
        move || begun.elapsed() < Duration::from_secs(1)
    });
    origin.release();
    let flowing = process.growth_while(before, || !sending.is_finished());
    sending.join().unwrap().unwrap();
    assert_eq!(client.receive(false).unwrap().status, 200);
    assert_eq!(origin.last_request().body_length, length);
    println!(
        "upload of {} MiB: {stalled} KiB with a stalled endpoint, {flowing} KiB at most while it flows",
        length >> 20
    );
    assert!(stalled.max(flowing) < MOST_KIB, "{stalled} KiB stalled, {flowing} KiB flowing");
}
