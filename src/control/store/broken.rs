//! A store that could not be opened: says so whenever it is asked to keep something.

use super::{Store, StoreError};
use crate::control::journal::Entry;
use crate::domain::state::Saved;

#[derive(Debug)]
pub struct Broken(pub StoreError);

impl Store for Broken {
    fn append(&mut self, _: &[Entry]) -> Result<(), StoreError> {
        Err(self.0.clone())
    }

    fn compact(&mut self, _: &Saved) -> Result<(), StoreError> {
        Err(self.0.clone())
    }
}
