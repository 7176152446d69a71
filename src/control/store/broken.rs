//! A store that could not be opened: says so whenever it is asked to keep something, and looks whether it can be now.

use std::path::PathBuf;

use super::{Kept, Sqlite, Store, StoreError};
use crate::control::journal::Entry;
use crate::domain::state::Saved;

#[derive(Debug)]
pub struct Broken {
    directory: PathBuf,
    /// Why it could not be opened.
    pub error: StoreError,
    mended: Option<Sqlite>,
}

impl Broken {
    #[must_use]
    pub fn new(directory: PathBuf, error: StoreError) -> Broken {
        Broken { directory, error, mended: None }
    }

    /// What was decided without it can only go into a store that has nothing in it: what is in another one is newer, or
    /// older, or both, and only a start can put the two together.
    fn mended(&mut self) -> Result<&mut Sqlite, StoreError> {
        let store = match self.mended.take() {
            Some(store) => store,
            None if Sqlite::is_used(&self.directory) => {
                let path = self.directory.display();
                let message = format!("the store `{path}` can hold earlier decisions: restart once it can be opened");
                return Err(StoreError(format!("{message} ({})", self.error)));
            }
            None => match Sqlite::open(&self.directory) {
                Ok((store, kept)) if kept == Kept::default() => store,
                Ok(_) => return Err(self.error.clone()),
                Err(error) => return Err(StoreError(error.to_string())),
            },
        };
        Ok(self.mended.insert(store))
    }
}

impl Store for Broken {
    fn append(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        self.mended()?.append(entries)
    }

    fn compact(&mut self, saved: &Saved) -> Result<(), StoreError> {
        self.mended()?.compact(saved)
    }
}
