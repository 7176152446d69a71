//! What must hold after every step, whoever did what and whatever arrived late.

use std::collections::{BTreeMap, BTreeSet};

use penstock::domain::names::{Exposure, VersionName};
use penstock::domain::outcome::Class;
use penstock::domain::service::Definition;
use penstock::domain::snapshot::Snapshot;
use penstock::domain::split::{Choice, Selected, Weight};
use penstock::domain::standing::{Change, Standing};
use penstock::domain::state::{Event, ServiceState, State};
use penstock::domain::window::{Arm, Drawn, Row, Rows};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Person,
    Machine,
}

/// Keeps books of its own beside the state.
pub struct Ledger {
    definition: Definition,
    /// The events as a journal would give them back.
    pub journal: Vec<String>,
    /// Follows by replaying the journal.
    replica: State,
    /// The most that the machine may give the canary: what a person gave it last.
    pub granted: Weight,
    sealed: BTreeSet<VersionName>,
    exposures: Vec<Exposure>,
    /// What each snapshot must not send anything to, and its weight.
    pictures: BTreeMap<u64, (BTreeSet<VersionName>, Weight)>,
    /// Evidence as it reached the judge.
    pub judged: BTreeMap<Drawn, Row>,
    pub rolled_back: Vec<String>,
    pub probes: u64,
}

impl Ledger {
    pub fn new(definition: &Definition, state: &State) -> Ledger {
        let standing = standing(state);
        Ledger {
            definition: definition.clone(),
            journal: Vec::new(),
            replica: State::of([definition.clone()]),
            granted: standing.weight,
            sealed: BTreeSet::new(),
            exposures: standing.exposure.into_iter().collect(),
            pictures: BTreeMap::new(),
            judged: BTreeMap::new(),
            rolled_back: Vec::new(),
            probes: 0,
        }
    }

    /// A change was made.
    pub fn enacted(&mut self, before: &State, after: &State, event: &Event, by: By) {
        let (was, is) = (standing(before), standing(after));
        assert_eq!(after.revision(), before.revision() + 1, "every event is a revision");
        weight_moved_as_declared(was, is, &event.change);
        if by == By::Person {
            self.granted = is.weight;
        } else {
            self.machine_kept_its_rules(was, is, &event.change);
        }
        self.seals_moved_as_declared(is, &event.change, by);
        self.exposure_is_fresh(was, is);
        let text = serde_json::to_string(event).expect("an event can be written");
        self.replica.apply(after.revision(), &serde_json::from_str(&text).expect("what was written can be read"));
        self.journal.push(text);
        self.check(after);
    }

    fn machine_kept_its_rules(&mut self, was: &Standing, is: &Standing, change: &Change) {
        assert!(is.weight <= self.granted, "the machine gives no more than a person gave: {change:?}");
        let returned = was.probe.is_some_and(|probe| probe.back_to == is.weight);
        assert!(is.weight <= was.weight || returned, "the machine raises only what it lowered for a probe: {change:?}");
        match change {
            Change::RolledBack { conviction, .. } => self.rolled_back.push(conviction.because.clone()),
            Change::ProbeBegan { .. } => self.probes += 1,
            Change::Promoted { .. } | Change::WeightSet { .. } | Change::Aborted { .. } | Change::Unsealed { .. } => {
                panic!("only a person does that: {change:?}")
            }
            _ => {}
        }
    }

    fn seals_moved_as_declared(&mut self, is: &Standing, change: &Change, by: By) {
        match change {
            Change::Aborted { version, .. } | Change::RolledBack { version, .. } => {
                self.sealed.insert(version.clone());
            }
            Change::Unsealed { version } => {
                assert_eq!(by, By::Person, "only a person unseals");
                self.sealed.remove(version);
            }
            _ => {}
        }
        assert!(is.seals.keys().eq(&self.sealed), "seals come and go by events: {change:?}");
    }

    fn exposure_is_fresh(&mut self, was: &Standing, is: &Standing) {
        if let Some(exposure) = is.exposure.filter(|_| was.exposure != is.exposure) {
            assert!(was.exposure.is_none(), "an exposure ends at weight 0");
            assert!(self.exposures.iter().all(|known| *known < exposure), "an exposure's serial is new");
            self.exposures.push(exposure);
        }
    }

    /// After every step.
    pub fn check(&self, state: &State) {
        let standing = standing(state);
        assert!(standing.weight <= self.granted, "{standing:?} is above what a person granted");
        assert_eq!(standing.exposure.is_some(), !standing.weight.is_zero(), "exposed is what has a weight");
        for sealed in &self.sealed {
            assert!(standing.seals.contains_key(sealed), "sealed stays sealed until a person unseals");
            assert!(
                standing.canary.as_ref() != Some(sealed) || standing.weight.is_zero(),
                "what is sealed gets nothing"
            );
            assert_ne!(standing.stable, *sealed, "what is sealed is not stable");
        }
        assert!(standing.exposure.is_some() || standing.probe.is_none(), "probes end with their exposure");
        same(state, &self.replica);
    }

    /// A snapshot is about to reach the workers.
    pub fn published(&mut self, state: &State, snapshot: &Snapshot) {
        let service = state.services().next().expect("the only service");
        let standing = &service.standing;
        let shown = &snapshot.services[0];
        assert_eq!(shown.split.weight, standing.weight, "a snapshot shows the weight as it stands");
        assert_eq!((shown.exposure, shown.generation), (standing.exposure, service.generation));
        assert_eq!(shown.stable().name, standing.stable);
        let newest = self.pictures.last_key_value().map_or(0, |(revision, _)| *revision);
        assert_eq!(snapshot.revision, newest + 1, "snapshots are numbered one by one");
        let sealed: BTreeSet<VersionName> = standing.seals.keys().cloned().collect();
        let canary = shown.split.canary.map(|at| &shown.versions[at].name);
        assert!(canary.is_none_or(|canary| !sealed.contains(canary)), "a sealed version is no canary of a split");
        for pin in &shown.split.pins {
            assert!(!sealed.contains(&shown.versions[pin.version].name), "no pin leads to a sealed version");
        }
        self.pictures.insert(snapshot.revision, (sealed, standing.weight));
    }

    /// A worker chose a version by the snapshot that it had then.
    pub fn routed(&self, snapshot: &Snapshot, choice: Choice) {
        let service = &snapshot.services[0];
        let version = &service.versions[choice.version].name;
        let (sealed, weight) = &self.pictures[&snapshot.revision];
        assert!(!sealed.contains(version), "`{version}` is sealed in snapshot {}", snapshot.revision);
        let by_coin = choice.selected == Selected::Weight && Some(choice.version) == service.split.canary;
        assert!(!by_coin || !weight.is_zero(), "the coin gives nothing at weight 0");
    }

    /// Evidence reached the judge.
    pub fn closed(&mut self, rows: &Rows) {
        for (drawn, row) in rows.iter() {
            let all = self.judged.entry(*drawn).or_default();
            all.merge(row);
            for arm in [&all.canary, &all.stable] {
                assert!(arm.routed >= arm.ended.total(), "more ended than were drawn: {drawn:?} {arm:?}");
                conserved(arm);
            }
            assert!(self.exposures.contains(&drawn.exposure), "evidence of an exposure that never was");
        }
    }

    /// At the end, when nothing is under way any more: the books agree with the world's.
    pub fn closes(&self, state: &State, truth: &BTreeMap<Drawn, Row>) {
        assert_eq!(&self.judged, truth, "what was drawn and ended reached the judge, once");
        let mut replayed = State::of([self.definition.clone()]);
        for (revision, line) in (1..).zip(&self.journal) {
            replayed.apply(revision, &serde_json::from_str(line).expect("what was written can be read"));
        }
        same(state, &replayed);
    }
}

fn weight_moved_as_declared(was: &Standing, is: &Standing, change: &Change) {
    let declared = match change {
        Change::WeightSet { from, to, .. }
        | Change::ProbeBegan { from, to, .. }
        | Change::ProbeEnded { from, to, .. } => Some((*from, *to)),
        Change::Aborted { from, .. } | Change::RolledBack { from, .. } => Some((*from, Weight::ZERO)),
        Change::Promoted { .. } => Some((was.weight, Weight::ZERO)),
        _ => None,
    };
    let (from, to) = declared.unwrap_or((was.weight, was.weight));
    assert_eq!((was.weight, is.weight), (from, to), "a weight moves as its event says: {change:?}");
    if change.lowers() {
        assert!(is.weight <= was.weight, "what is said to lower lowers: {change:?}");
    }
}

fn conserved(arm: &Arm) {
    assert!(arm.rescued <= arm.unreachable && arm.unreachable <= arm.ended.get(Class::Failure), "{arm:?}");
    assert!(arm.unanswered <= arm.ended.abandoned, "{arm:?}");
    assert!(arm.over <= arm.ended.success + arm.ended.rejected, "{arm:?}");
}

pub fn standing(state: &State) -> &Standing {
    &state.services().next().expect("the only service").standing
}

/// A replay leads to the same state, but for what means nothing after a restart: addresses and generations.
fn same(live: &State, replayed: &State) {
    assert_eq!(live.revision(), replayed.revision());
    for (live, replayed) in live.services().zip(replayed.services()) {
        let of = |service: &ServiceState| (service.standing.clone(), service.revision);
        assert_eq!(of(live), of(replayed), "the journal replays to the same state");
    }
}
