//! What survives: the journal's entries on disk, written by a thread of their own.
//!
//! ```text
//!  engine ──▶ Keeper ──▶ (thread) Store::append ──▶ Stored ──▶ engine
//!             jobs, in order                        announces, or raises
//! ```
//!
//! The engine never waits for the disk. What raises a canary's exposure takes effect when its entry is kept; what
//! lowers it has taken effect already, and is announced when its entry is kept. An entry that lowers and cannot be kept
//! waits here, in front of everything else, and is tried again every second: the disk may come back.

mod broken;
mod memory;
mod sqlite;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::{io, thread};

use tokio::sync::mpsc;

pub use broken::Broken;
pub use memory::Memory;
pub use sqlite::{OpenError, Sqlite};

use super::journal::Entry;
use crate::domain::state::Saved;

/// Entries after which the state is saved whole and older ones are let go.
pub const COMPACT_AFTER: usize = 1_000;
/// Between two tries at a store that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Entries that wait for a failing store, at most; the oldest of them hold, since what lowers is idempotent.
const BACKLOG: usize = 4_096;

/// Where entries are kept.
pub trait Store: Send + std::fmt::Debug {
    /// Keeps entries, all or none, so that they survive a power cut once this returns.
    fn append(&mut self, entries: &[Entry]) -> Result<(), StoreError>;
    /// Keeps a whole state, and lets entries go that are old and no longer needed for it.
    fn compact(&mut self, saved: &Saved) -> Result<(), StoreError>;
}

/// What a store had kept.
#[derive(Debug, Default, PartialEq)]
pub struct Kept {
    pub saved: Saved,
    /// Those after `saved`, and before them some that are only history.
    pub entries: Vec<Entry>,
    /// What was found damaged, if anything: then nothing kept may raise a canary.
    pub damage: Option<String>,
}

impl Kept {
    /// The newest revision in it.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.revision).max(self.saved.revision)
    }

    /// Entries that the saved state does not include yet, without those that were overtaken by a lowering.
    pub fn news(&self) -> impl Iterator<Item = &Entry> {
        let overtaken: Vec<u64> = self.entries.iter().flat_map(|entry| entry.overtakes.iter().copied()).collect();
        let since = self.saved.revision;
        self.entries.iter().filter(move |entry| entry.revision > since && !overtaken.contains(&entry.revision))
    }
}

/// Why something could not be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// What the engine hands over.
#[derive(Debug)]
enum Job {
    Append { entries: Vec<Entry>, insist: Insist },
    Compact(Box<Saved>),
}

/// What becomes of entries that could not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insist {
    /// They describe what has happened already: tried again until they are kept.
    Yes,
    /// They describe what may happen once they are kept: given up.
    No,
}

/// What became of the entries up to a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub revision: u64,
    pub result: Result<(), StoreError>,
    /// Entries that still wait for the store.
    pub waiting: usize,
}

/// The engine's hold on the store's thread; the thread ends when it is dropped.
#[derive(Debug)]
pub struct Keeper {
    jobs: Sender<Job>,
    appended: usize,
}

impl Keeper {
    /// Starts the thread. `stored` tells the engine, in the order of the jobs.
    pub fn start(
        store: Box<dyn Store>,
        stored: mpsc::UnboundedSender<Stored>,
    ) -> io::Result<(Keeper, thread::JoinHandle<()>)> {
        let (jobs, work) = channel();
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || run(store, &work, &stored))?;
        Ok((Keeper { jobs, appended: 0 }, thread))
    }

    pub fn append(&mut self, entries: Vec<Entry>, insist: Insist) {
        self.appended += entries.len();
        let _ended = self.jobs.send(Job::Append { entries, insist });
    }

    /// Whether it is time to save the whole state.
    #[must_use]
    pub fn wants_compaction(&self) -> bool {
        self.appended >= COMPACT_AFTER
    }

    pub fn compact(&mut self, saved: Saved) {
        self.appended = 0;
        let _ended = self.jobs.send(Job::Compact(Box::new(saved)));
    }
}

fn run(mut store: Box<dyn Store>, jobs: &Receiver<Job>, stored: &mpsc::UnboundedSender<Stored>) {
    let mut backlog: Vec<Entry> = Vec::new();
    loop {
        let job = if backlog.is_empty() {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(AGAIN)
        };
        let told = match job {
            Ok(Job::Append { entries, insist }) => append(store.as_mut(), &mut backlog, entries, insist),
            Ok(Job::Compact(saved)) => {
                if let Err(error) = store.compact(&saved) {
                    tracing::warn!(%error, "the journal could not be compacted; trying again later");
                }
                continue;
            }
            Err(RecvTimeoutError::Timeout) => append(store.as_mut(), &mut backlog, Vec::new(), Insist::Yes),
            Err(RecvTimeoutError::Disconnected) => {
                let _last_try = append(store.as_mut(), &mut backlog, Vec::new(), Insist::Yes);
                return;
            }
        };
        if stored.send(told).is_err() && backlog.is_empty() {
            return;
        }
    }
}

/// Keeps what waits and what is new, in order.
fn append(store: &mut dyn Store, backlog: &mut Vec<Entry>, entries: Vec<Entry>, insist: Insist) -> Stored {
    let waited = backlog.len();
    backlog.extend(entries);
    let revision = backlog.last().map_or(0, |entry| entry.revision);
    let result = if backlog.is_empty() { Ok(()) } else { store.append(backlog) };
    match (&result, insist) {
        (Ok(()), _) => backlog.clear(),
        (Err(_), Insist::Yes) => backlog.truncate(BACKLOG),
        (Err(_), Insist::No) => backlog.truncate(waited),
    }
    Stored { revision, result, waiting: backlog.len() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::control::journal::Actor;
    use crate::domain::names::{ServiceName, VersionName};
    use crate::domain::standing::Change;
    use crate::domain::state::Event;

    pub fn entry(revision: u64) -> Entry {
        let change = Change::Unsealed { version: VersionName::new("v2").unwrap() };
        let event = Event { service: ServiceName::new("shop").unwrap(), change };
        Entry::new(revision, event, Actor::judge())
    }

    /// A store that fails as long as it is told to.
    #[derive(Debug, Default)]
    struct Moody {
        kept: Vec<u64>,
        failing: bool,
    }

    impl Store for Moody {
        fn append(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
            if self.failing {
                return Err(StoreError("disk full".into()));
            }
            self.kept.extend(entries.iter().map(|entry| entry.revision));
            Ok(())
        }

        fn compact(&mut self, _: &Saved) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[test]
    fn what_has_happened_waits_in_front_of_what_may() {
        let (mut store, mut backlog) = (Moody { failing: true, ..Moody::default() }, Vec::new());
        assert!(append(&mut store, &mut backlog, vec![entry(1)], Insist::Yes).result.is_err());
        assert!(append(&mut store, &mut backlog, vec![entry(2)], Insist::No).result.is_err());
        assert_eq!(append(&mut store, &mut backlog, vec![entry(3)], Insist::Yes).waiting, 2);
        store.failing = false;
        let stored = append(&mut store, &mut backlog, vec![entry(4)], Insist::No);
        assert_eq!((stored.result, stored.revision, stored.waiting), (Ok(()), 4, 0));
        assert_eq!(store.kept, [1, 3, 4]);
    }

    #[test]
    fn an_overtaken_raise_is_not_replayed() {
        let lowering = Entry { overtakes: vec![2], ..entry(3) };
        let kept = Kept { entries: vec![entry(1), entry(2), lowering], ..Kept::default() };
        assert_eq!(kept.news().map(|entry| entry.revision).collect::<Vec<_>>(), [1, 3]);
    }
}
