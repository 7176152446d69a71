//! Nothing is kept: for those who declare no store. What is decided lives as long as the process.

use super::{Store, StoreError};
use crate::control::journal::Entry;
use crate::domain::state::Saved;

#[derive(Debug, Default)]
pub struct Memory;

impl Store for Memory {
    fn append(&mut self, _: &[Entry]) -> Result<(), StoreError> {
        Ok(())
    }

    fn compact(&mut self, _: &Saved) -> Result<(), StoreError> {
        Ok(())
    }
}
