//! What `/metrics` says.

use std::net::SocketAddr;

use super::Client;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrape {
    text: String,
}

impl Scrape {
    #[track_caller]
    pub fn of(admin: SocketAddr) -> Scrape {
        let ask = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n\r\n");
        Scrape { text: Client::connect(admin).ask(&ask).text() }
    }

    /// The sum of a metric's samples with these labels (or parts of them).
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let samples = self.text.lines().filter_map(|line| line.strip_prefix(name));
        let samples = samples.filter(|line| line.starts_with(['{', ' ']) && labels.iter().all(|l| line.contains(l)));
        samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }
}
