//! How a service stands: who is stable, who is the canary and at what weight, and which versions are sealed.
//!
//! ```text
//!              person: weight            judge: probe (weight > 50 %)
//!   weight 0 ───────────────▶ exposed ───────────────────────────────▶ probing at 50 %
//!      ▲    ◀─────────────── │   │  ◀──────────────────────────────── │  30 s over, or a person sets a weight
//!      │     person: weight 0 │   │ judge: worse                       │ judge: worse
//!      │                      │   ▼                                    ▼
//!      └── person: unseal ─── │  sealed at weight 0 ◀──────────────────┘
//!                             └──▶ (person: abort) sealed;  (person: promote) the canary is the stable version
//! ```
//!
//! Persons may do anything but raise what is sealed. The machine may lower at any time; the only thing it ever raises is
//! a weight that it lowered itself for a probe, and not once a person has touched the weight since.
//!
//! [`Standing::handle`] decides and returns changes; [`Standing::apply`] is the only way that a standing changes. The live
//! path and a replay of the journal run the same `apply`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::judge::{Conviction, Hold, Mode, Verdict};
use super::names::{Exposure, VersionName};
use super::split::{Role, Weight};
use super::time::Moment;

/// How long a probe may keep the canary at half weight.
pub const PROBE: Duration = Duration::from_secs(30);
/// How long after a probe that convicted nobody the next one may begin.
pub const PROBE_AGAIN: Duration = Duration::from_mins(5);

/// One service's runtime state.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub stable: VersionName,
    pub canary: Option<VersionName>,
    pub weight: Weight,
    /// The running stretch of the canary's exposure; `None` at weight 0.
    pub exposure: Option<Exposure>,
    pub seals: BTreeMap<VersionName, Seal>,
    pub probe: Option<Probe>,
    pub hold: Option<Hold>,
    /// In mode `observe`: what the machine would have done in this exposure.
    pub would_roll_back: Option<Conviction>,
    /// No probe before this moment.
    probe_again: Moment,
}

/// Why a version gets no traffic until a person unseals it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Seal {
    Judge(Conviction),
    Person,
}

/// The canary at half weight, so that there is a stable version to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub back_to: Weight,
    pub until: Moment,
}

/// What may happen to a standing.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Person(Request),
    Judged(Verdict),
    /// Time has passed: ends a probe that convicted nobody.
    Passed,
}

/// What a person may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Weight(Weight),
    Promote,
    Abort,
    Unseal(VersionName),
}

/// What happened to a standing; the journal is made of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    WeightSet { version: VersionName, from: Weight, to: Weight },
    Promoted { version: VersionName, replaced: VersionName },
    Aborted { version: VersionName, from: Weight },
    RolledBack { version: VersionName, from: Weight, conviction: Conviction },
    WouldRollBack { version: VersionName, conviction: Conviction },
    Unsealed { version: VersionName },
    ProbeBegan { version: VersionName, from: Weight, to: Weight, until: Moment },
    ProbeEnded { version: VersionName, from: Weight, to: Weight },
    HoldBegan { reason: Hold },
    HoldEnded,
}

impl Change {
    /// Whether it can only take traffic from the canary: published first, journaled afterwards. All else waits for the journal.
    #[must_use]
    pub fn lowers(&self) -> bool {
        match self {
            Change::WeightSet { from, to, .. } => to < from,
            Change::Aborted { .. } | Change::RolledBack { .. } | Change::ProbeBegan { .. } => true,
            Change::Promoted { .. }
            | Change::WouldRollBack { .. }
            | Change::Unsealed { .. }
            | Change::ProbeEnded { .. }
            | Change::HoldBegan { .. }
            | Change::HoldEnded => false,
        }
    }

    /// Whether it changes what a person may base a request on: weights, roles, seals. The rest is commentary.
    #[must_use]
    pub fn moves(&self) -> bool {
        !matches!(self, Change::HoldBegan { .. } | Change::HoldEnded | Change::WouldRollBack { .. })
    }
}

/// Why a person's request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("version `{0}` is sealed and gets no traffic; unseal it first")]
    Sealed(VersionName),
    #[error("there is no canary to give a weight to or to promote")]
    NoCanary,
}

impl Standing {
    /// A service as the file declares it, with nothing decided yet. `exposure` is used if the first weight is above 0.
    #[must_use]
    pub fn new(stable: VersionName, canary: Option<VersionName>, weight: Weight, exposure: Exposure) -> Standing {
        let weight = if canary.is_some() { weight } else { Weight::ZERO };
        Standing {
            stable,
            canary,
            weight,
            exposure: (!weight.is_zero()).then_some(exposure),
            seals: BTreeMap::new(),
            probe: None,
            hold: None,
            would_roll_back: None,
            probe_again: Moment::default(),
        }
    }

    #[must_use]
    pub fn seal(&self, version: &VersionName) -> Option<&Seal> {
        self.seals.get(version)
    }

    #[must_use]
    pub fn role(&self, version: &VersionName) -> Option<Role> {
        match version {
            stable if *stable == self.stable => Some(Role::Stable),
            canary if Some(canary) == self.canary.as_ref() => Some(Role::Canary),
            _ => None,
        }
    }

    /// Decides. Changes are to be applied in order; none means that everything already is as asked for.
    pub fn handle(&self, now: Moment, mode: Mode, input: Input) -> Result<Vec<Change>, Refusal> {
        match input {
            Input::Person(request) => self.request(request),
            Input::Judged(verdict) => Ok(self.judged(now, mode, verdict)),
            Input::Passed => Ok(self.passed(now)),
        }
    }

    fn request(&self, request: Request) -> Result<Vec<Change>, Refusal> {
        match (request, &self.canary) {
            (Request::Unseal(version), _) if self.seals.contains_key(&version) => {
                Ok(vec![Change::Unsealed { version }])
            }
            (Request::Unseal(_), _) => Ok(vec![]),
            (Request::Abort, None) => Ok(vec![]),
            (Request::Weight(to), None) if to.is_zero() => Ok(vec![]),
            (Request::Weight(_) | Request::Promote, None) => Err(Refusal::NoCanary),
            (Request::Abort, Some(canary)) if self.seals.contains_key(canary) => Ok(vec![]),
            (Request::Abort, Some(canary)) => Ok(vec![Change::Aborted { version: canary.clone(), from: self.weight }]),
            (Request::Weight(to), Some(_)) if to == self.weight && self.probe.is_none() => Ok(vec![]),
            (Request::Weight(to), Some(canary)) if !to.is_zero() && self.seals.contains_key(canary) => {
                Err(Refusal::Sealed(canary.clone()))
            }
            (Request::Weight(to), Some(canary)) => {
                Ok(vec![Change::WeightSet { version: canary.clone(), from: self.weight, to }])
            }
            (Request::Promote, Some(canary)) if self.seals.contains_key(canary) => Err(Refusal::Sealed(canary.clone())),
            (Request::Promote, Some(canary)) => {
                Ok(vec![Change::Promoted { version: canary.clone(), replaced: self.stable.clone() }])
            }
        }
    }

    fn judged(&self, now: Moment, mode: Mode, verdict: Verdict) -> Vec<Change> {
        let Some(version) = self.canary.clone().filter(|_| self.exposure.is_some()) else { return vec![] };
        let from = self.weight;
        match (verdict, mode) {
            (Verdict::Worse(conviction), Mode::AbortOnly) => vec![Change::RolledBack { version, from, conviction }],
            (Verdict::Worse(_), Mode::Observe) if self.would_roll_back.is_some() => vec![],
            (Verdict::Worse(conviction), Mode::Observe) => vec![Change::WouldRollBack { version, conviction }],
            (Verdict::Probe, Mode::AbortOnly)
                if self.probe.is_none() && from > Weight::HALF && now >= self.probe_again =>
            {
                vec![Change::ProbeBegan { version, from, to: Weight::HALF, until: now.plus(PROBE) }]
            }
            (Verdict::Probe, _) => self.held(Some(Hold::CanaryOverLimit)),
            (Verdict::Hold(reason), _) => self.held(Some(reason)),
            (Verdict::Undecided, _) => self.held(None),
        }
    }

    fn held(&self, hold: Option<Hold>) -> Vec<Change> {
        match (self.hold, hold) {
            (before, after) if before == after => vec![],
            (_, Some(reason)) => vec![Change::HoldBegan { reason }],
            (_, None) => vec![Change::HoldEnded],
        }
    }

    fn passed(&self, now: Moment) -> Vec<Change> {
        match (&self.canary, self.probe) {
            (Some(version), Some(probe)) if now >= probe.until => {
                vec![Change::ProbeEnded { version: version.clone(), from: self.weight, to: probe.back_to }]
            }
            _ => vec![],
        }
    }

    /// Makes a change. `next` is the serial of the exposure that begins, if one does; returns whether it was used.
    pub fn apply(&mut self, change: &Change, next: Exposure) -> bool {
        match change {
            Change::WeightSet { to, .. } => {
                self.probe = None;
                return self.weigh(*to, next);
            }
            Change::ProbeBegan { from, to, until, .. } => {
                self.probe = Some(Probe { back_to: *from, until: *until });
                return self.weigh(*to, next);
            }
            Change::ProbeEnded { to, .. } => {
                if let Some(probe) = self.probe.take() {
                    self.probe_again = probe.until.plus(PROBE_AGAIN);
                }
                return self.weigh(*to, next);
            }
            Change::Promoted { version, .. } => {
                self.stable = version.clone();
                self.canary = None;
                self.end_exposure();
            }
            Change::Aborted { version, .. } => self.seal_off(version, Seal::Person),
            Change::RolledBack { version, conviction, .. } => self.seal_off(version, Seal::Judge(conviction.clone())),
            Change::WouldRollBack { conviction, .. } => self.would_roll_back = Some(conviction.clone()),
            Change::Unsealed { version } => {
                self.seals.remove(version);
            }
            Change::HoldBegan { reason } => self.hold = Some(*reason),
            Change::HoldEnded => self.hold = None,
        }
        false
    }

    fn seal_off(&mut self, version: &VersionName, seal: Seal) {
        self.seals.insert(version.clone(), seal);
        self.end_exposure();
    }

    fn weigh(&mut self, weight: Weight, next: Exposure) -> bool {
        if weight.is_zero() {
            self.end_exposure();
            return false;
        }
        self.weight = weight;
        let begins = self.exposure.is_none();
        if begins {
            self.exposure = Some(next);
        }
        begins
    }

    /// Evidence, holds and probes belong to an exposure and end with it.
    fn end_exposure(&mut self) {
        self.weight = Weight::ZERO;
        self.exposure = None;
        self.probe = None;
        self.hold = None;
        self.would_roll_back = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::judge::Trigger;

    fn name(text: &str) -> VersionName {
        VersionName::new(text).unwrap()
    }

    fn percent(points: u16) -> Weight {
        Weight::from_basis_points(points * 100).unwrap()
    }

    fn standing(weight: Weight) -> Standing {
        Standing::new(name("v1"), Some(name("v2")), weight, Exposure(1))
    }

    fn conviction() -> Conviction {
        Conviction {
            trigger: Trigger::Evidence,
            log_e: 9.0,
            threshold: 7.0,
            because: "too many errors".into(),
            ..Conviction::default()
        }
    }

    fn worse() -> Input {
        Input::Judged(Verdict::Worse(conviction()))
    }

    impl Standing {
        fn after(mut self, now: Moment, input: Input) -> Standing {
            for change in self.handle(now, Mode::AbortOnly, input).unwrap() {
                self.apply(&change, Exposure(9));
            }
            self
        }
    }

    const NOW: Moment = Moment(1_000_000);

    #[test]
    fn a_bad_canary_goes_to_zero_and_is_sealed() {
        let after = standing(percent(50)).after(NOW, worse());
        assert_eq!((after.weight, after.exposure), (Weight::ZERO, None));
        assert_eq!(after.seal(&name("v2")), Some(&Seal::Judge(conviction())));
    }

    #[test]
    fn a_sealed_version_is_raised_only_after_a_person_unsealed_it() {
        let sealed = standing(percent(50)).after(NOW, worse());
        let raise = || Input::Person(Request::Weight(percent(1)));
        assert_eq!(sealed.handle(NOW, Mode::AbortOnly, raise()), Err(Refusal::Sealed(name("v2"))));
        assert_eq!(
            sealed.handle(NOW, Mode::AbortOnly, Input::Person(Request::Promote)),
            Err(Refusal::Sealed(name("v2")))
        );
        let unsealed = sealed.after(NOW, Input::Person(Request::Unseal(name("v2"))));
        assert_eq!(unsealed.weight, Weight::ZERO);
        let raised = unsealed.after(NOW, raise());
        assert_eq!((raised.weight, raised.exposure), (percent(1), Some(Exposure(9))));
    }

    #[test]
    fn a_probe_halves_the_weight_and_gives_it_back() {
        let probing = standing(Weight::FULL).after(NOW, Input::Judged(Verdict::Probe));
        assert_eq!(probing.weight, Weight::HALF);
        assert_eq!(probing.clone().after(NOW.plus(PROBE / 2), Input::Passed).weight, Weight::HALF);
        let after = probing.after(NOW.plus(PROBE), Input::Passed);
        assert_eq!((after.weight, after.exposure), (Weight::FULL, Some(Exposure(1))));
        let again = after.handle(NOW.plus(PROBE * 2), Mode::AbortOnly, Input::Judged(Verdict::Probe)).unwrap();
        assert_eq!(again, vec![Change::HoldBegan { reason: Hold::CanaryOverLimit }]);
        assert_eq!(after.after(NOW.plus(PROBE + PROBE_AGAIN), Input::Judged(Verdict::Probe)).weight, Weight::HALF);
    }

    #[test]
    fn a_weight_that_a_person_lowered_during_a_probe_is_not_given_back() {
        let probing = standing(Weight::FULL).after(NOW, Input::Judged(Verdict::Probe));
        let lowered = probing.after(NOW, Input::Person(Request::Weight(percent(10))));
        assert_eq!(lowered.after(NOW.plus(PROBE * 2), Input::Passed).weight, percent(10));
    }

    #[test]
    fn keeping_the_probes_weight_is_a_persons_decision_too() {
        let probing = standing(Weight::FULL).after(NOW, Input::Judged(Verdict::Probe));
        let kept = probing.after(NOW, Input::Person(Request::Weight(Weight::HALF)));
        assert_eq!(kept.after(NOW.plus(PROBE * 2), Input::Passed).weight, Weight::HALF);
    }

    #[test]
    fn in_mode_observe_the_weight_stays_and_the_verdict_is_recorded_once() {
        let mut standing = standing(percent(50));
        let changes = standing.handle(NOW, Mode::Observe, worse()).unwrap();
        assert_eq!(changes, vec![Change::WouldRollBack { version: name("v2"), conviction: conviction() }]);
        standing.apply(&changes[0], Exposure(2));
        assert_eq!(standing.weight, percent(50));
        assert_eq!(standing.handle(NOW, Mode::Observe, worse()), Ok(vec![]));
        assert_eq!(
            standing
                .handle(NOW, Mode::Observe, Input::Judged(Verdict::Probe))
                .unwrap()
                .iter()
                .filter(|c| c.lowers())
                .count(),
            0
        );
    }

    #[test]
    fn promoting_makes_the_canary_stable() {
        let after = standing(percent(50)).after(NOW, Input::Person(Request::Promote));
        assert_eq!((after.stable, after.canary, after.weight), (name("v2"), None, Weight::ZERO));
    }

    #[test]
    fn aborting_twice_is_fine_and_aborting_nothing_too() {
        let aborted = standing(percent(50)).after(NOW, Input::Person(Request::Abort));
        assert_eq!(aborted.handle(NOW, Mode::AbortOnly, Input::Person(Request::Abort)), Ok(vec![]));
        let alone = Standing::new(name("v1"), None, Weight::ZERO, Exposure(1));
        assert_eq!(alone.handle(NOW, Mode::AbortOnly, Input::Person(Request::Abort)), Ok(vec![]));
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            1 => (0u16..=100).prop_map(|w| Input::Person(Request::Weight(percent(w)))),
            1 => Just(Input::Person(Request::Weight(Weight::FULL))),
            1 => Just(Input::Person(Request::Abort)),
            1 => Just(Input::Person(Request::Unseal(name("v2")))),
            1 => Just(Input::Person(Request::Promote)),
            1 => Just(worse()),
            4 => Just(Input::Judged(Verdict::Probe)),
            1 => Just(Input::Judged(Verdict::Undecided)),
            1 => Just(Input::Judged(Verdict::Hold(Hold::SharedDegradation))),
            4 => Just(Input::Passed),
        ]
    }

    proptest! {
        #[test]
        fn the_machine_and_persons_keep_their_rules(
            first in 0u16..=100,
            steps in prop::collection::vec((input(), 0u64..40, any::<bool>()), 1..60),
        ) {
            let mut standing = standing(percent(first));
            let mut replayed = standing.clone();
            let (mut now, mut serial) = (NOW, 2);
            // The most that the machine may give the canary: what a person gave it last.
            let mut granted = standing.weight;
            for (input, seconds, observe) in steps {
                now = now.plus(Duration::from_secs(seconds));
                let mode = if observe { Mode::Observe } else { Mode::AbortOnly };
                let person = matches!(input, Input::Person(_));
                let lowering = matches!(&input, Input::Person(Request::Abort)) || matches!(&input, Input::Person(Request::Weight(w)) if *w <= standing.weight);
                let before = standing.clone();
                let result = standing.handle(now, mode, input.clone());
                prop_assert!(!lowering || result.is_ok(), "lowering always succeeds");
                for change in result.unwrap_or_default() {
                    let used = standing.apply(&change, Exposure(serial));
                    prop_assert_eq!(used, replayed.apply(&change, Exposure(serial)));
                    serial += u32::from(used);
                    prop_assert!(!change.lowers() || standing.weight <= before.weight);
                    if person { granted = standing.weight; }
                }
                prop_assert_eq!(&standing, &replayed, "the journal replays to the same state");
                prop_assert!(standing.weight <= granted, "the machine never goes above what a person granted");
                prop_assert!(person || before.probe.is_some() || standing.weight <= before.weight, "the machine raises only what it lowered");
                prop_assert_eq!(standing.exposure.is_some(), !standing.weight.is_zero());
                if let Some(canary) = &standing.canary {
                    prop_assert!(!standing.seals.contains_key(canary) || standing.weight.is_zero(), "what is sealed gets nothing");
                }
                if !person {
                    prop_assert!(before.seals.keys().all(|sealed| standing.seals.contains_key(sealed)), "only a person unseals");
                    prop_assert!(mode == Mode::AbortOnly || standing.weight == before.weight || before.probe.is_some(), "observe leaves the weight alone");
                }
            }
        }
    }
}
