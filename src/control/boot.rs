//! From what the store kept and what the file says to a state to begin with.

use std::path::Path;

use super::command::Force;
use super::journal::{Actor, Entry};
use super::store::{Broken, Kept, Memory, OpenError, Sqlite, Store, StoreError};
use crate::domain::service::Definition;
use crate::domain::split::Weight;
use crate::domain::standing::{Begins, Change};
use crate::domain::state::{Event, InUse, State};

/// What the engine begins with.
#[derive(Debug)]
pub struct Beginning {
    pub state: State,
    pub store: Box<dyn Store>,
    /// The journal so far.
    pub entries: Vec<Entry>,
    /// Why canaries begin at weight 0, or what is wrong with the store.
    pub trouble: Option<StoreError>,
}

/// Why nothing is begun.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    InUse(Vec<InUse>),
}

/// Reads what was kept, and puts the file on top of it. A store that is damaged or cannot be reached does not keep the
/// proxy from serving; but since it may have forgotten a rollback, every canary then begins at weight 0.
pub fn boot(directory: Option<&Path>, definitions: Vec<Definition>, force: Force) -> Result<Beginning, BootError> {
    let (store, kept) = open(directory)?;
    let mut beginning =
        Beginning { state: State::resume(kept.saved.clone()), store, entries: Vec::new(), trouble: None };
    for entry in kept.news() {
        beginning.state.apply(entry.revision, &entry.event);
    }
    beginning.entries = kept.entries;
    let in_use = beginning.state.in_use(&definitions);
    if force == Force::No && !in_use.is_empty() {
        return Err(BootError::InUse(in_use));
    }
    if let Some(damage) = kept.damage {
        beginning.distrust(&damage);
    }
    beginning.declare(definitions);
    Ok(beginning)
}

fn open(directory: Option<&Path>) -> Result<(Box<dyn Store>, Kept), OpenError> {
    match directory.map(Sqlite::open) {
        None => Ok((Box::new(Memory), Kept::default())),
        Some(Ok((store, kept))) => Ok((Box::new(store), kept)),
        Some(Err(OpenError::Unusable(path, error))) => {
            let error = StoreError(OpenError::Unusable(path, error).to_string());
            Ok((Box::new(Broken(error.clone())), Kept { damage: Some(error.0), ..Kept::default() }))
        }
        Some(Err(refused)) => Err(refused),
    }
}

impl Beginning {
    /// Takes every canary's traffic away.
    fn distrust(&mut self, damage: &str) {
        let message = format!("{damage}; canaries begin at weight 0");
        tracing::error!(damage, "the store is damaged or out of reach: every canary begins at weight 0");
        let saved = self.state.saved();
        let exposed = saved.standings.into_iter().filter_map(|(service, standing)| {
            let (version, from) = (standing.canary?, standing.weight);
            let change = Change::WeightSet { version, from, to: Weight::ZERO };
            (!from.is_zero()).then_some(Event { service, change })
        });
        let events: Vec<Event> = exposed.collect();
        self.trouble = Some(StoreError(message));
        self.enact(&events, "store");
    }

    fn declare(&mut self, definitions: Vec<Definition>) {
        let mut news = self.state.news(&definitions);
        if self.trouble.is_some() {
            news.iter_mut().for_each(hold_back);
        }
        if !self.keep(&news, "file") {
            news.iter_mut().for_each(hold_back);
        }
        self.apply(&news);
        self.state.define(definitions);
        let resumed = self.state.services().filter_map(|service| {
            let change = service.standing.resume().filter(|_| !begun_now(&news, &service.definition))?;
            Some(Event { service: service.definition.name.clone(), change })
        });
        let resumed: Vec<Event> = resumed.collect();
        self.enact(&resumed, "judge");
    }

    fn enact(&mut self, events: &[Event], actor: &str) {
        self.keep(events, actor);
        self.apply(events);
    }

    /// Whether the store has kept them.
    fn keep(&mut self, events: &[Event], actor: &str) -> bool {
        let first = self.state.revision() + 1;
        let actor = Actor { name: actor.to_owned(), reason: None };
        let entries: Vec<Entry> =
            (first..).zip(events).map(|(revision, event)| Entry::new(revision, event.clone(), actor.clone())).collect();
        if entries.is_empty() {
            return true;
        }
        let kept = self.store.append(&entries);
        self.entries.extend(entries);
        if let Err(error) = &kept {
            tracing::error!(%error, "the store keeps nothing: what raises a canary will be refused");
            self.trouble.get_or_insert(error.clone());
        }
        kept.is_ok()
    }

    fn apply(&mut self, events: &[Event]) {
        for event in events {
            let revision = self.state.revision() + 1;
            self.state.apply(revision, event);
        }
    }
}

/// A first weight that cannot be trusted, or not be kept, is none.
fn hold_back(event: &mut Event) {
    if let Change::Declared { weight, exposure: Begins::Anew, .. } = &mut event.change {
        *weight = Weight::ZERO;
    }
}

fn begun_now(news: &[Event], definition: &Definition) -> bool {
    let begins = |change: &Change| matches!(change, Change::Declared { exposure: Begins::Anew, .. });
    news.iter().any(|event| event.service == definition.name && begins(&event.change))
}
