//! A canary is rolled back while as many requests are under way as the system has file descriptors for.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use serde_json::Value;

use crate::ledger::NUMBER;
use crate::load::{Report, number};
use crate::support::{Client, Process, Scrape, Setup};
use crate::world::World;

const WANTED: u64 = 10_000;
/// Descriptors that the proxy needs for other things.
const OTHERS: u64 = 200;
/// Threads that open connections.
const HANDS: u64 = 4;
/// Until all of them are under way, and until the verdict: a machine that is busy with other things gets there.
const PATIENCE: Duration = Duration::from_mins(1);

/// A request that waits for its answer.
struct Held {
    number: u64,
    stream: TcpStream,
}

impl Held {
    fn ask(address: SocketAddr) -> io::Result<Held> {
        let number = number();
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Client::over(stream.try_clone()?, 1);
        client.send(format!("GET /hold HTTP/1.1\r\nHost: shop\r\n{NUMBER}: {number}\r\n\r\n"))?;
        Ok(Held { number, stream })
    }

    fn answered(self) -> bool {
        let answer = Client::over(self.stream, 4 * 1024).receive(false);
        answer.is_ok_and(|answer| {
            answer.status == 200 && answer.whole && answer.header("x-number") == Some(&self.number.to_string())
        })
    }
}

pub fn rollback_in_full_flight(seed: u64) {
    let world = World::bare(&["v1", "v2"], seed);
    let [stable, canary] = world.addresses()[..] else { unreachable!("two") };
    let setup = Setup::at([stable]).canary_at([canary], "50%").upstream("response_head = \"10m\"");
    let process = Process::serve(&setup);
    // Each request takes two descriptors of the proxy's: one for its client, one for its endpoint.
    let room = descriptors().saturating_sub(OTHERS) / 2;
    let held = hold(process.address, WANTED.min(room));
    let count = held.len() as u64;
    wait("all of them under way", || world.ledger.total() == count);
    let at_canary = world.ledger.by("v2");

    world.servers[1].fail();
    let mut load = world.load(&process);
    wait("a rollback", || sealed(process.admin));
    let under_way = Scrape::of(process.admin).sum("http_server_active_requests", &[]);
    thread::sleep(Duration::from_millis(500)); // for what was sent to the canary before
    let afterwards = world.ledger.by("v2");
    wait("traffic after the rollback", || load.report().total() > 500 + afterwards);
    assert_eq!(world.ledger.by("v2"), afterwards, "nothing is sent to the canary any more");
    world.servers.iter().for_each(crate::server::Server::release);
    let answered = held.into_iter().map(Held::answered).filter(|answered| *answered).count() as u64;
    let mut report = load.end();
    *report.requests.entry("GET").or_default() += count;
    let books = world.close("rollback in full flight", &process, &report, "a canary that fails everything");
    let Report { failures, .. } = &report;
    println!(
        "    {under_way} requests under way at the rollback, {at_canary} of {count} held by the canary, {answered} answered"
    );
    assert!(under_way >= count, "none was cut off");
    assert_eq!(answered, count, "of those under way at the rollback");
    assert_eq!(failures.values().sum::<u64>(), books.exposed, "what clients saw fail is what the canary failed");
    books.balance_exactly(&report, &world.ledger);
    books.timed_each();
}

/// The soft limit of this process, which its children inherit.
fn descriptors() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap_or(u64::MAX)
}

fn hold(address: SocketAddr, count: u64) -> Vec<Held> {
    if count < WANTED {
        println!("    {count} requests instead of {WANTED}: `ulimit -n` allows no more");
    }
    let hands = (0..HANDS).map(|hand| {
        let share = count / HANDS + u64::from(hand < count % HANDS);
        thread::spawn(move || (0..share).map(|_| Held::ask(address).unwrap()).collect::<Vec<Held>>())
    });
    let hands: Vec<_> = hands.collect();
    hands.into_iter().flat_map(|hand| hand.join().unwrap()).collect()
}

fn sealed(admin: SocketAddr) -> bool {
    let ask = format!("GET /v1/services/shop/split HTTP/1.1\r\nHost: {admin}\r\n\r\n");
    let split: Value = serde_json::from_slice(&Client::connect(admin).ask(&ask).body).unwrap();
    split["sealed"].as_array().is_some_and(|sealed| !sealed.is_empty())
}

#[track_caller]
fn wait(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
