//! From what the store kept and what the file says to a state to begin with.

use std::path::Path;

use super::command::Force;
use super::journal::{Actor, Entry};
use super::store::{Broken, COMPACT_AFTER, Kept, Memory, OpenError, Sqlite, Store, StoreError};
use super::view::StoreView;
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
    /// Those of them that the store could not keep: without them, what follows them could not be replayed.
    pub unsaved: Vec<Entry>,
    /// How the store is; `None` when none is declared.
    pub health: Option<StoreView>,
}

/// A store that nobody else uses from now on, and what it had kept.
#[derive(Debug)]
pub struct Opened {
    store: Box<dyn Store>,
    kept: Kept,
    declared: bool,
}

/// Why nothing is begun.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    InUse(Vec<InUse>),
}

/// Puts the file on top of what was kept. A store that is damaged or cannot be reached does not keep the proxy from
/// serving; but since it may have forgotten a rollback, every canary then begins at weight 0.
pub fn boot(opened: Opened, definitions: Vec<Definition>, force: Force) -> Result<Beginning, BootError> {
    let Opened { store, kept, declared } = opened;
    let health = declared.then(|| StoreView { keeps: true, ..StoreView::default() });
    let state = State::resume(kept.saved.clone());
    let mut beginning = Beginning { state, store, entries: Vec::new(), unsaved: Vec::new(), health };
    let mut replayed = 0;
    for entry in kept.news() {
        beginning.state.apply(entry.revision, &entry.event);
        replayed += 1;
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
    if replayed >= COMPACT_AFTER && beginning.unsaved.is_empty() {
        // A process that never lives long would leave a longer replay to each that comes after it.
        if let Err(error) = beginning.store.compact(&beginning.state.saved()) {
            tracing::warn!(%error, "the journal could not be compacted; trying again later");
        }
    }
    Ok(beginning)
}

/// Opens the store, and holds it against every other process. Done before anything is bound or decided.
pub fn open(directory: Option<&Path>) -> Result<Opened, BootError> {
    let opened = |store: Box<dyn Store>, kept| Opened { store, kept, declared: directory.is_some() };
    match directory.map(Sqlite::open) {
        None => Ok(opened(Box::new(Memory), Kept::default())),
        Some(Ok((store, kept))) => Ok(opened(Box::new(store), kept)),
        Some(Err(OpenError::Unusable(path, error))) => {
            let broken = Broken::new(path.clone(), StoreError(OpenError::Unusable(path, error).to_string()));
            let damage = Some(broken.error.to_string());
            Ok(opened(Box::new(broken), Kept { damage, ..Kept::default() }))
        }
        Some(Err(refused)) => Err(refused.into()),
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
        if let Some(health) = &mut self.health {
            health.trouble = Some(StoreError(message));
        }
        self.enact(&events, "store");
        // Until this is kept, the store distrusts itself.
        if self.unsaved.is_empty()
            && let Err(error) = self.store.compact(&self.state.saved())
        {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: StoreError) {
        if let Some(health) = &mut self.health {
            if health.keeps {
                tracing::error!(%error, "the store keeps nothing: what raises a canary will be refused");
            }
            health.keeps = false;
            health.unsaved = self.unsaved.len();
            health.trouble.get_or_insert(error);
        }
    }

    fn declare(&mut self, definitions: Vec<Definition>) {
        let mut news = self.state.news(&definitions);
        warn_of_ignored_weights(&self.state, &news, |wanted| {
            self.entries.iter().rev().find(|entry| wanted(entry)).cloned()
        });
        if self.health.as_ref().is_some_and(|health| health.trouble.is_some()) {
            news.iter_mut().for_each(hold_back);
        }
        let before = self.entries.len();
        if !self.keep(&news, "file") {
            // What is to be kept later is what has happened: nothing was raised.
            let entries = self.entries[before..].iter_mut().chain(&mut self.unsaved).map(|entry| &mut entry.event);
            news.iter_mut().chain(entries).for_each(hold_back);
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
        // In order, or a replay would miss what they are based on.
        let kept = if self.unsaved.is_empty() {
            self.store.append(&entries)
        } else {
            Err(StoreError("earlier changes are not kept yet".to_owned()))
        };
        self.entries.extend(entries.iter().cloned());
        let Err(error) = kept else { return true };
        self.unsaved.extend(entries);
        self.fail(error);
        false
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

/// The weight in a file is only the first one of an exposure. Who edits it is told who set the present one, and how to
/// change that.
pub(super) fn warn_of_ignored_weights(
    state: &State,
    news: &[Event],
    newest: impl Fn(&dyn Fn(&Entry) -> bool) -> Option<Entry>,
) {
    for event in news {
        let Change::Declared { declared, canary: Some(_), weight: present, exposure: Begins::No, .. } = &event.change
        else {
            continue;
        };
        let service = &event.service;
        if state.standing(service).is_none_or(|standing| standing.declared.weight == declared.weight) {
            continue;
        }
        let set = newest(&|entry| entry.event.service == *service && sets_a_weight(&entry.event.change));
        let (by, at) = set.map_or(("an earlier run".to_owned(), None), |entry| (entry.actor.name, Some(entry.at)));
        tracing::warn!(
            %service, file = %declared.weight, %present, by, at = at.map(tracing::field::display),
            "the weight in the file is only the first one of an exposure and is ignored; \
             `penstock weights {service} {}` changes the present one", declared.weight
        );
    }
}

fn sets_a_weight(change: &Change) -> bool {
    matches!(
        change,
        Change::WeightSet { .. }
            | Change::Aborted { .. }
            | Change::RolledBack { .. }
            | Change::ProbeBegan { .. }
            | Change::ProbeEnded { .. }
            | Change::Declared { exposure: Begins::Anew, .. }
    )
}

fn begun_now(news: &[Event], definition: &Definition) -> bool {
    let begins = |change: &Change| matches!(change, Change::Declared { exposure: Begins::Anew, .. });
    news.iter().any(|event| event.service == definition.name && begins(&event.change))
}
