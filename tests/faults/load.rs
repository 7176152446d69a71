//! Clients in a closed loop that know what they are owed: the answer to their own request, whole.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::ledger::NUMBER;
use crate::support::{Client, Response};

/// Connections, each with one request at a time.
pub const CONNECTIONS: usize = 12;
/// A load ends by itself this much later than asked for, whatever the test does.
const GRACE: Duration = Duration::from_mins(1);

/// The next request's number, over all scenarios.
static NEXT: AtomicU64 = AtomicU64::new(1);

pub fn number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What clients saw.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Requests by method.
    pub requests: BTreeMap<&'static str, u64>,
    /// Those without a whole 200.
    pub failures: BTreeMap<&'static str, u64>,
    /// What they looked like.
    pub kinds: BTreeMap<String, u64>,
    /// Answers to something that nobody asked: never.
    pub mistaken: Vec<String>,
    pub took: Duration,
}

impl Report {
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }

    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Failures of requests that may be repeated without asking.
    pub fn safe(&self) -> u64 {
        self.failures.iter().filter(|(method, _)| matches!(**method, "GET" | "HEAD")).map(|(_, count)| count).sum()
    }

    /// Requests a second.
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    pub fn rate(&self) -> f64 {
        self.total() as f64 / self.took.as_secs_f64()
    }
}

/// A running load; ends when dropped.
pub struct Load {
    report: Arc<Mutex<Report>>,
    ended: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    begun: Instant,
}

impl Load {
    pub fn start(address: SocketAddr, seed: u64) -> Load {
        let (report, ended, begun) = (Arc::<Mutex<Report>>::default(), Arc::<AtomicBool>::default(), Instant::now());
        let longest = crate::length() + GRACE;
        let client = |index| {
            let (report, ended) = (report.clone(), ended.clone());
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(index));
            thread::spawn(move || {
                let mut client = None;
                while !ended.load(Ordering::Relaxed) && begun.elapsed() < longest {
                    let asked = Asked::any(&mut random);
                    let answer = asked.send(address, &mut client);
                    asked.judge(answer, &mut client, &mut open(&report));
                }
            })
        };
        let threads = (0..CONNECTIONS as u64).map(client).collect();
        Load { report, ended, threads, begun }
    }

    /// Does something again and again for the scenario's length, and ends the load then.
    pub fn during(mut self, mut disturb: impl FnMut()) -> Report {
        let (begun, length) = (Instant::now(), crate::length());
        while begun.elapsed() < length {
            disturb();
        }
        self.end()
    }

    pub fn report(&self) -> Report {
        open(&self.report).clone()
    }

    pub fn end(&mut self) -> Report {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        Report { took: self.begun.elapsed(), ..self.report() }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn open(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What did not come, and to which request if it was waited for in vain.
fn said(what: &str, number: u64, error: &io::Error) -> io::Error {
    let late = error.kind() == io::ErrorKind::WouldBlock;
    io::Error::other(if late { format!("{what} of {number} in time") } else { format!("{what}: {error}") })
}

/// A request, and what its answer has to be like.
#[derive(Debug)]
struct Asked {
    number: u64,
    method: &'static str,
    wanted: usize,
    sent: usize,
}

impl Asked {
    fn any(random: &mut fastrand::Rng) -> Asked {
        let method = match random.u8(0..20) {
            0..=10 => "GET",
            11 => "HEAD",
            12..=13 => "PUT",
            _ => "POST",
        };
        let wanted = *random.choice(&[1, 200, 200, 5_000, 100_000]).unwrap();
        let sent = if matches!(method, "PUT" | "POST") { *random.choice(&[0, 10, 2_000, 40_000]).unwrap() } else { 0 };
        Asked { number: number(), method, wanted, sent }
    }

    fn send(&self, address: SocketAddr, kept: &mut Option<Client>) -> io::Result<Response> {
        let Asked { number, method, wanted, sent } = *self;
        let client = match kept {
            Some(client) => client,
            None => kept.insert(Client::try_connect(address)?),
        };
        let length = if sent > 0 { format!("Content-Length: {sent}\r\n") } else { String::new() };
        let length = if method == "POST" && sent == 0 { "Content-Length: 0\r\n".to_owned() } else { length };
        let head = format!("{method} /{wanted} HTTP/1.1\r\nHost: shop\r\n{NUMBER}: {number}\r\n{length}\r\n");
        // A server may answer before it has read everything, and close: the answer counts.
        let _said_enough = client.send([head.as_bytes(), &vec![b'y'; sent]].concat());
        let mut answer = client.receive_head().map_err(|error| said("no head", number, &error))?;
        if method != "HEAD" {
            let whole = client.receive_body(&mut answer);
            answer.whole = whole.map_err(|error| said("no end of the body", number, &error))?;
        }
        Ok(answer)
    }

    fn judge(&self, answer: io::Result<Response>, kept: &mut Option<Client>, report: &mut Report) {
        *report.requests.entry(self.method).or_default() += 1;
        let wrong = match answer {
            Ok(answer) => {
                if !answer.whole || answer.header("connection") == Some("close") {
                    *kept = None;
                }
                if answer.status == 200 && !self.is_answered_by(&answer) {
                    report.mistaken.push(format!("{self:?}: {answer:?}"));
                }
                let whole = if answer.whole { "" } else { " cut short" };
                let why = format!("{} {}{whole}", answer.status, answer.fault());
                (answer.status != 200 || !answer.whole).then_some(why)
            }
            Err(error) => {
                *kept = None;
                Some(error.to_string())
            }
        };
        if let Some(wrong) = wrong {
            *report.failures.entry(self.method).or_default() += 1;
            *report.kinds.entry(wrong).or_default() += 1;
        }
    }

    /// It answers this request, and says as much as it should, as far as it came.
    fn is_answered_by(&self, answer: &Response) -> bool {
        let same = |name: &str, number: u64| answer.header(name) == Some(number.to_string().as_str());
        let length = if self.method == "HEAD" { 0 } else { self.wanted as u64 };
        let complete = answer.body_length == length || (!answer.whole && answer.body_length < length);
        same("x-number", self.number) && same("x-received", self.sent as u64) && complete
    }
}
