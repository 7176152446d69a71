//! A bounded load: so many connections in a closed loop, counting what came back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Client;

/// A load ends by itself after this, whatever the test does.
const LONGEST: Duration = Duration::from_secs(40);

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub statuses: BTreeMap<u16, u64>,
    /// By the `X-Version` of the answer.
    pub versions: BTreeMap<String, u64>,
    /// Requests without a whole answer.
    pub broken: u64,
    /// Examples of what went wrong.
    pub wrong: Vec<String>,
}

impl Report {
    pub fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    pub fn version(&self, version: &str) -> u64 {
        self.versions.get(version).copied().unwrap_or(0)
    }

    /// Everything but a whole 200.
    pub fn failed(&self) -> u64 {
        self.answered() - self.status(200) + self.broken
    }
}

/// A running load; ends when dropped.
pub struct Load {
    report: Arc<Mutex<Report>>,
    ended: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    /// GETs over keep-alive connections, each of which pauses between two requests.
    pub fn start(address: SocketAddr, connections: usize, pause: Duration) -> Load {
        let (report, ended) = (Arc::<Mutex<Report>>::default(), Arc::<AtomicBool>::default());
        let begun = Instant::now();
        let threads = (0..connections).map(|_| {
            let (report, ended) = (report.clone(), ended.clone());
            thread::spawn(move || {
                let mut client = None;
                while !ended.load(Ordering::Relaxed) && begun.elapsed() < LONGEST {
                    one(address, &mut client, &report);
                    thread::sleep(pause);
                }
            })
        });
        Load { threads: threads.collect(), report, ended }
    }

    pub fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn answered(&self) -> u64 {
        self.report().answered()
    }

    pub fn stop(mut self) -> Report {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn one(address: SocketAddr, kept: &mut Option<Client>, report: &Mutex<Report>) {
    let asked = kept.take().map_or_else(|| Client::try_connect(address), Ok).and_then(|mut client| {
        let response = client.try_ask("GET /load HTTP/1.1\r\nHost: shop\r\n\r\n")?;
        Ok((client, response))
    });
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    match asked {
        Ok((client, response)) if response.whole => {
            *report.statuses.entry(response.status).or_default() += 1;
            if let Some(version) = response.header("x-version") {
                *report.versions.entry(version.to_owned()).or_default() += 1;
            } else if report.wrong.len() < 5 {
                report.wrong.push(response.head.clone());
            }
            if response.header("connection") != Some("close") {
                *kept = Some(client);
            }
        }
        Ok((_, response)) => {
            report.broken += 1;
            report.wrong.push(format!("cut short after {} bytes: {}", response.body_length, response.head));
        }
        Err(error) => {
            report.broken += 1;
            report.wrong.push(error.to_string());
        }
    }
    report.wrong.truncate(5);
}
