//! What the proxy recorded, held against what clients and endpoints saw.

use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::load::Report;
use crate::support::{DEADLINE, Scrape};

/// Pictures of a service are drawn once a second: two that are equal, further apart, are of the same rest.
const REST: Duration = Duration::from_millis(1_200);

/// The proxy's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Books {
    pub requests: u64,
    /// Attempts with an outcome.
    pub recorded: u64,
    /// Of them, connections that died while they were idle: an endpoint may or may not have seen the request.
    pub ours: u64,
    pub failures: u64,
    timed: u64,
    lost: u64,
    under_way: u64,
    pub shielded: u64,
    pub exposed: u64,
    /// Attempts that were not followed by another because the budget had no room.
    pub exhausted: u64,
}

impl Books {
    pub fn read(admin: SocketAddr) -> Books {
        let scrape = Scrape::of(admin);
        Books {
            requests: scrape.sum("http_server_request_duration_seconds_count", &[]),
            recorded: scrape.sum("penstock_attempts_total", &[]),
            ours: scrape.sum("penstock_attempts_total", &["class=\"ours\""]),
            failures: scrape.sum("penstock_attempts_total", &["class=\"failure\""]),
            timed: scrape.sum("http_client_request_duration_seconds_count", &[]),
            lost: scrape.sum("penstock_lost_outcomes_total", &[]),
            under_way: scrape.sum("penstock_endpoint_in_flight", &[]) + scrape.sum("http_server_active_requests", &[]),
            shielded: scrape.sum("penstock_shielded_requests_total", &[]),
            exposed: scrape.sum("penstock_exposed_failures_total", &[]),
            exhausted: scrape.sum("penstock_retry_budget_exhausted_total", &[]),
        }
    }

    /// Once nothing is under way and nothing changes any more.
    #[track_caller]
    pub fn at_rest(admin: SocketAddr) -> Books {
        let begun = Instant::now();
        let mut books = Books::read(admin);
        loop {
            thread::sleep(REST);
            let now = Books::read(admin);
            if now == books && now.under_way == 0 {
                return books;
            }
            assert!(begun.elapsed() < 2 * DEADLINE, "it does not come to rest: {now:?}");
            books = now;
        }
    }

    /// Every request and every attempt has exactly one outcome.
    #[track_caller]
    pub fn balance(&self, report: &Report, ledger: &Ledger) {
        assert_eq!(self.lost, 0, "outcomes lost: {self:?}");
        assert_eq!(self.requests, report.total(), "requests recorded and sent: {self:?}");
        let seen = ledger.total();
        // What never arrived is a failure of connecting, or a connection that died while it was idle.
        let arrived = self.recorded - self.ours - self.failures..=self.recorded;
        assert!(arrived.contains(&seen), "{seen} attempts seen by endpoints: {self:?}");
        assert_eq!(ledger.duplicates(), Vec::<u64>::new(), "POSTs that came twice");
        assert_eq!(report.mistaken, Vec::<String>::new(), "answers to another request");
    }

    /// As [`Books::balance`]; and since every endpoint took every connection, what was begun was seen, one by one.
    #[track_caller]
    pub fn balance_exactly(&self, report: &Report, ledger: &Ledger) {
        self.balance(report, ledger);
        let seen = ledger.total();
        assert!((self.recorded - self.ours..=self.recorded).contains(&seen), "{seen} attempts seen: {self:?}");
    }

    /// No endpoint was removed, so that none was forgotten: every attempt was timed.
    #[track_caller]
    pub fn timed_each(&self) {
        assert_eq!(self.timed, self.recorded, "attempts timed and recorded: {self:?}");
    }
}

/// The line that a scenario prints.
pub struct Line<'a> {
    pub name: &'a str,
    pub report: &'a Report,
    pub books: Books,
    pub ledger: &'a Ledger,
    pub injected: String,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { name, report, books, ledger, injected } = self;
        write!(f, "{name}: {:.0} requests/s held, {} requests", report.rate(), report.total())?;
        write!(f, ", {} failed {:?}", report.failed(), report.failures)?;
        write!(f, " of {injected}")?;
        write!(f, ", POSTs twice {}, others twice {}", ledger.duplicates().len(), ledger.repeated())?;
        write!(f, ", attempts recorded {} seen {} lost {}", books.recorded, ledger.total(), books.lost)?;
        let Books { failures, ours, shielded, exhausted, .. } = books;
        write!(f, " (failures {failures}, ours {ours}, shielded {shielded}, no room in the budget {exhausted})")
    }
}
