//! Which requests reached an endpoint, and how often. What sees a request's head notes it, before anything else.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The field that carries a request's number there, and back in the answer.
pub const NUMBER: &str = "X-Number";

#[derive(Debug, Default)]
pub struct Ledger {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// How often each request came, and whether it must not come twice.
    requests: BTreeMap<u64, (u64, bool)>,
    by: BTreeMap<String, u64>,
}

impl Ledger {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's head has come to an endpoint.
    pub fn note(&self, by: &str, number: u64, method: &str) {
        let mut seen = self.seen();
        let (times, _) = seen.requests.entry(number).or_insert((0, method == "POST"));
        *times += 1;
        *seen.by.entry(by.to_owned()).or_default() += 1;
    }

    /// Heads that came, each as often as it came.
    pub fn total(&self) -> u64 {
        self.seen().by.values().sum()
    }

    pub fn by(&self, name: &str) -> u64 {
        self.seen().by.get(name).copied().unwrap_or(0)
    }

    /// POSTs that came more than once.
    pub fn duplicates(&self) -> Vec<u64> {
        let seen = self.seen();
        seen.requests.iter().filter(|(_, (times, once))| *once && *times > 1).map(|(number, _)| *number).collect()
    }

    /// Requests of the other methods that came more than once.
    pub fn repeated(&self) -> usize {
        self.seen().requests.values().filter(|(times, once)| !once && *times > 1).count()
    }
}
