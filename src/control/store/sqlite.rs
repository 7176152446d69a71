//! The embedded store: one SQLite file, readable by anybody with `sqlite3` while Penstock runs.
//!
//! SQLite takes care of torn writes; it does not notice a bit that flips inside a text. So every row carries a
//! checksum, and a store in which anything is damaged is moved aside, whole, and what was readable goes into a new one.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

use super::{Kept, Store, StoreError};
use crate::control::journal::Entry;
use crate::domain::state::Saved;

const FILE: &str = "penstock.sqlite";
const LOCK: &str = "lock";
/// Of an SQLite file.
const HEADER: u64 = 100;
/// Of the tables; a store of a newer one is not touched.
const TABLES: i64 = 1;
/// Of the entries' and the state's JSON, per row, so that old rows can be read by newer releases.
const SCHEMA: i64 = 1;
/// Entries kept as history, at most, and for how long.
const HISTORY: u64 = 10_000;
const HISTORY_DAYS: i64 = 90;

/// The store in a directory.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    /// Held as long as the process lives.
    lock: Lock,
}

/// The lock file says three things: that a process has the store, that there has been a store here (SQLite takes a file
/// that was cut to nothing for a new one), and the newest revision kept (SQLite takes a log that was cut short for one
/// whose last writes never happened). It is written after the store is, so it never promises more than was kept.
#[derive(Debug)]
struct Lock(File);

/// Begins a lock file; the newest revision follows.
const MARK: &str = "penstock\n";
/// More than any store has: until something new is kept, what is in the store is not to be trusted.
const DISTRUSTED: u64 = u64::MAX;

impl Lock {
    /// `None`: there has been no store here yet.
    fn witness(&self) -> io::Result<Option<u64>> {
        let mut text = Vec::new();
        (&self.0).take(64).read_to_end(&mut text)?;
        let revision = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse().ok();
        Ok(match text.strip_prefix(MARK.as_bytes()) {
            _ if text.is_empty() => None,
            Some(b"") => Some(0), // of an earlier release
            Some(text) => Some(revision(text).unwrap_or(DISTRUSTED)),
            None => Some(DISTRUSTED),
        })
    }

    fn attest(&self, revision: u64) -> io::Result<()> {
        self.0.write_all_at(format!("{MARK}{revision:020}\n").as_bytes(), 0)
    }
}

/// Why a store is not used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store `{0}` is in use by another process")]
    Locked(PathBuf),
    #[error(
        "the store `{0}` was written by a newer release (its tables are of version {1}, this release knows {TABLES})"
    )]
    Newer(PathBuf, i64),
    #[error("the store `{0}` cannot be opened: {1}")]
    Unusable(PathBuf, String),
}

impl Sqlite {
    /// Opens, and makes it when missing. A damaged store is moved aside; what could be read of it is returned.
    pub fn open(directory: &Path) -> Result<(Sqlite, Kept), OpenError> {
        let unusable = |error: String| OpenError::Unusable(directory.to_owned(), error);
        fs::create_dir_all(directory).map_err(|error| unusable(error.to_string()))?;
        let lock = lock(directory)?;
        let file = directory.join(FILE);
        let witness = lock.witness().map_err(|error| unusable(error.to_string()))?;
        let distrust = |revision| lock.attest(revision).and_then(|()| lock.0.sync_all());
        let (connection, kept, moved) = match found(&file, witness) {
            Ok(Found::Newer(version)) => return Err(OpenError::Newer(directory.to_owned(), version)),
            Ok(Found::Whole(connection, kept)) => (connection, kept, false),
            // Until the caller has kept what it makes of it: it may be killed before that.
            Ok(Found::Damaged(kept)) => {
                distrust(DISTRUSTED).map_err(|error| unusable(error.to_string()))?;
                (replace(&file).map_err(unusable)?, kept, true)
            }
            Err(error) => return Err(unusable(error.to_string())),
        };
        if witness.is_none() && kept.damage.is_none() {
            distrust(kept.newest()).map_err(|error| unusable(error.to_string()))?;
        }
        let mut store = Sqlite { connection, lock };
        if moved {
            store.take_over(&kept).map_err(|error| unusable(error.to_string()))?;
        }
        Ok((store, kept))
    }

    /// Whether there has been a store here, as far as can be told.
    #[must_use]
    pub fn is_used(directory: &Path) -> bool {
        let length = |name| fs::metadata(directory.join(name)).map_or(0, |file| file.len());
        length(LOCK) > 0
    }

    /// Copies what was saved from a damaged store.
    fn take_over(&mut self, kept: &Kept) -> Result<(), StoreError> {
        self.insert(&kept.entries)?;
        self.save(&kept.saved)
    }

    /// Not being able to only means that a log cut short would not be noticed.
    fn attest(&self, revision: u64) {
        if let Err(error) = self.lock.attest(revision) {
            tracing::warn!(%error, "the newest revision could not be noted beside the store");
        }
    }

    fn insert(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for entry in entries {
            let (body, checksum) = sealed(entry.revision, entry)?;
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO entries (revision, schema, at, body, checksum) VALUES (?, ?, ?, ?, ?)",
                )?
                .execute(params![entry.revision.cast_signed(), SCHEMA, entry.at.as_second(), body, checksum])?;
        }
        Ok(transaction.commit()?)
    }

    fn save(&mut self, saved: &Saved) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (body, checksum) = sealed(saved.revision, saved)?;
        transaction.execute(
            "INSERT OR REPLACE INTO state (id, revision, schema, body, checksum) VALUES (0, ?, ?, ?, ?)",
            params![saved.revision.cast_signed(), SCHEMA, body, checksum],
        )?;
        let oldest = Timestamp::now().as_second() - HISTORY_DAYS * 24 * 3_600;
        let first = saved.revision.saturating_sub(HISTORY).cast_signed();
        transaction.execute(
            "DELETE FROM entries WHERE revision <= ? AND (revision <= ? OR at < ?)",
            params![saved.revision.cast_signed(), first, oldest],
        )?;
        Ok(transaction.commit()?)
    }
}

impl Store for Sqlite {
    fn append(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        self.insert(entries)?;
        if let Some(newest) = entries.last() {
            self.attest(newest.revision);
        }
        Ok(())
    }

    fn compact(&mut self, saved: &Saved) -> Result<(), StoreError> {
        self.save(saved)?;
        self.attest(saved.revision);
        Ok(())
    }
}

/// Two processes on one store would each undo what the other decided.
fn lock(directory: &Path) -> Result<Lock, OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable(directory.to_owned(), error.to_string());
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(directory.join(LOCK))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// What is in the file.
enum Found {
    Whole(Connection, Kept),
    Damaged(Kept),
    Newer(i64),
}

fn found(file: &Path, witness: Option<u64>) -> rusqlite::Result<Found> {
    let damaged = |damage: String| Found::Damaged(Kept { damage: Some(damage), ..Kept::default() });
    let length = fs::metadata(file).map_or(0, |file| file.len());
    if witness.is_some() && length < HEADER {
        return Ok(damaged("the store's file is missing or empty, and there was one".to_owned()));
    }
    if length > 0 && length < HEADER {
        return Ok(damaged("the store's file was cut short".to_owned()));
    }
    match open(file).and_then(|connection| Ok((read(&connection)?, connection))) {
        Ok((Read::Newer(version), _)) => Ok(Found::Newer(version)),
        Ok((Read::Kept(mut kept), connection)) => {
            if kept.damage.is_none() && witness == Some(DISTRUSTED) {
                // Whole, and moved aside already if it had to be: not once more at each start that ends early.
                kept.damage = Some("the store was damaged, or its lock file is".to_owned());
                return Ok(Found::Whole(connection, kept));
            }
            if witness.is_some_and(|witness| kept.newest() < witness) {
                kept.damage.get_or_insert_with(|| "the newest entries are missing from the store".to_owned());
            }
            if kept.damage.is_none() { Ok(Found::Whole(connection, kept)) } else { Ok(Found::Damaged(kept)) }
        }
        Err(error) if is_damage(&error) => Ok(damaged(error.to_string())),
        Err(error) => Err(error),
    }
}

fn open(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(Duration::from_secs(5))?; // somebody may be reading with `sqlite3`
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS entries (
             revision INTEGER PRIMARY KEY, schema INTEGER NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER NOT NULL
         ) STRICT;
         CREATE TABLE IF NOT EXISTS state (
             id INTEGER PRIMARY KEY CHECK (id = 0), revision INTEGER NOT NULL, schema INTEGER NOT NULL, body TEXT NOT NULL,
             checksum INTEGER NOT NULL
         ) STRICT;",
    )?;
    Ok(connection)
}

enum Read {
    Kept(Kept),
    Newer(i64),
}

fn read(connection: &Connection) -> rusqlite::Result<Read> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        0 => connection.pragma_update(None, "user_version", TABLES)?,
        TABLES => {}
        newer => return Ok(Read::Newer(newer)),
    }
    let check: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    let mut damage = (check != "ok").then_some(check);
    let saved = connection
        .query_row("SELECT revision, body, checksum FROM state", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let saved = match saved.map(|(revision, body, checksum): Row| opened(revision, &body, checksum)) {
        Some(Some(saved)) => saved,
        Some(None) => {
            damage = Some("the saved state does not match its checksum".to_owned());
            Saved::default()
        }
        None => Saved::default(),
    };
    let entries = entries(connection, &mut damage)?;
    Ok(Read::Kept(Kept { saved, entries, damage }))
}

type Row = (i64, String, i64);

fn entries(connection: &Connection, damage: &mut Option<String>) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = connection.prepare("SELECT revision, body, checksum FROM entries ORDER BY revision")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let mut entries = Vec::new();
    for row in rows {
        let (revision, body, checksum): Row = row?;
        match opened(revision, &body, checksum) {
            Some(entry) => entries.push(entry),
            None => *damage = Some(format!("entry {revision} does not match its checksum")),
        }
    }
    Ok(entries)
}

/// A row's text, and the checksum over it and its revision.
fn sealed<T: Serialize>(revision: u64, value: &T) -> Result<(String, i64), StoreError> {
    let body = serde_json::to_string(value).map_err(|error| StoreError(error.to_string()))?;
    let checksum = checksum(revision.cast_signed(), &body);
    Ok((body, checksum))
}

fn opened<T: DeserializeOwned>(revision: i64, body: &str, expected: i64) -> Option<T> {
    (checksum(revision, body) == expected).then(|| serde_json::from_str(body).ok()).flatten()
}

fn checksum(revision: i64, body: &str) -> i64 {
    xxh3_64(format!("{revision}:{body}").as_bytes()).cast_signed()
}

/// Moves a damaged store aside, for people to look at, and begins a new one.
fn replace(file: &Path) -> Result<Connection, String> {
    let stamp = Timestamp::now().as_millisecond();
    for suffix in ["", "-wal", "-shm"] {
        let part = |path: &Path, more: &str| PathBuf::from(format!("{}{more}", path.display()));
        let (from, to) = (part(file, suffix), part(file, &format!(".damaged-{stamp}{suffix}")));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
    }
    let connection = open(file).map_err(|error| error.to_string())?;
    connection.pragma_update(None, "user_version", TABLES).map_err(|error| error.to_string())?;
    Ok(connection)
}

/// The file's content is wrong, as opposed to: it cannot be reached.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, TypeMismatch};
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            matches!(failure.code, DatabaseCorrupt | NotADatabase | TypeMismatch)
        }
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::SqlInputError { .. } => true, // the last: a table whose declaration was damaged
        _ => false,
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        StoreError(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::entry;
    use super::*;

    fn kept(directory: &Path) -> Kept {
        Sqlite::open(directory).unwrap().1
    }

    #[test]
    fn what_was_appended_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/data");
        let (mut store, empty) = Sqlite::open(&path).unwrap();
        assert_eq!(empty, Kept::default());
        store.append(&[entry(1), entry(2)]).unwrap();
        store.compact(&Saved { revision: 2, exposures: 7, ..Saved::default() }).unwrap();
        store.append(&[entry(3)]).unwrap();
        drop(store);
        let kept = kept(&path);
        let expected: Vec<Entry> =
            kept.entries.iter().map(|kept| Entry { at: kept.at, ..entry(kept.revision) }).collect();
        assert_eq!((kept.entries.len(), &kept.entries), (3, &expected));
        assert_eq!((kept.saved.exposures, kept.news().count(), kept.damage), (7, 1, None));
    }

    #[test]
    fn a_second_process_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Sqlite::open(directory.path()).unwrap();
        assert!(matches!(Sqlite::open(directory.path()), Err(OpenError::Locked(_))));
    }

    #[test]
    fn old_entries_go_when_the_state_is_saved() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Sqlite::open(directory.path()).unwrap();
        let old = Entry { at: Timestamp::from_second(1).unwrap(), ..entry(1) };
        store.append(&[old, entry(2), entry(3)]).unwrap();
        store.compact(&Saved { revision: 2, ..Saved::default() }).unwrap();
        drop(store);
        assert_eq!(kept(directory.path()).entries.iter().map(|e| e.revision).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed_or_harmless() {
        let original = tempfile::tempdir().unwrap();
        let (mut store, _) = Sqlite::open(original.path()).unwrap();
        store.append(&(1..40).map(entry).collect::<Vec<_>>()).unwrap();
        store.compact(&Saved { revision: 20, exposures: 3, ..Saved::default() }).unwrap();
        drop(store);
        let whole = kept(original.path());
        let bytes = fs::read(original.path().join(FILE)).unwrap();
        for position in (0..bytes.len()).step_by(97) {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << (position % 8);
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join(FILE), &damaged).unwrap();
            match Sqlite::open(directory.path()) {
                Ok((_, kept)) => assert!(kept.damage.is_some() || kept == whole, "byte {position}"),
                Err(OpenError::Newer(..)) => {} // the version itself was hit: refused, loudly
                Err(error) => panic!("byte {position}: {error}"),
            }
        }
    }

    #[test]
    fn a_log_without_its_newest_writes_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Sqlite::open(directory.path()).unwrap();
        store.append(&[entry(1)]).unwrap();
        let older = tempfile::tempdir().unwrap();
        for file in [FILE, "penstock.sqlite-wal"] {
            fs::copy(directory.path().join(file), older.path().join(file)).unwrap();
        }
        store.append(&[entry(2)]).unwrap();
        fs::copy(directory.path().join(LOCK), older.path().join(LOCK)).unwrap();
        let (mut store, kept) = Sqlite::open(older.path()).unwrap();
        assert_eq!((kept.newest(), kept.damage.is_some()), (1, true));
        drop(store);
        store = match Sqlite::open(older.path()).unwrap() {
            (store, kept) if kept.damage.is_some() => store, // not trusted before something new was kept
            (_, kept) => panic!("{kept:?}"),
        };
        store.append(&[entry(3)]).unwrap();
        drop(store);
        assert_eq!(self::kept(older.path()).damage, None);
    }

    #[test]
    fn a_store_that_was_cut_short_is_moved_aside() {
        let original = tempfile::tempdir().unwrap();
        let (mut store, _) = Sqlite::open(original.path()).unwrap();
        store.append(&(1..200).map(entry).collect::<Vec<_>>()).unwrap();
        drop(store);
        let bytes = fs::read(original.path().join(FILE)).unwrap();
        for length in [1, 100, 4_096, bytes.len() / 2, bytes.len() - 1] {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join(FILE), &bytes[..length]).unwrap();
            let (mut store, kept) = Sqlite::open(directory.path()).unwrap();
            assert!(kept.damage.is_some(), "{length}");
            store.append(&[entry(500)]).unwrap();
            assert!(
                fs::read_dir(directory.path()).unwrap().any(|f| f
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .contains("damaged"))
            );
        }
    }
}
