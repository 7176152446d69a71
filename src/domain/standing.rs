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
//! Persons may do anything but raise what is sealed. The machine may lower at any time; the only thing it ever raises
//! is a weight that it lowered itself for a probe, and not once a person has touched the weight since.
//!
//! [`Standing::handle`] decides and returns changes; [`Standing::apply`] is the only way that a standing changes. The
//! live path and a replay of the journal run the same `apply`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::amendments::{Amendments, Listed, Settled};
use super::authority::Authority;
use super::health::{Administrative, Operational};
use super::judge::{Conviction, Hold, Mode, Verdict};
use super::names::{Exposure, VersionName};
use super::split::{Role, Weight};
use super::time::Moment;

/// How long a probe may keep the canary at half weight.
pub const PROBE: Duration = Duration::from_secs(30);
/// How long after a probe that convicted nobody the next one may begin.
pub const PROBE_AGAIN: Duration = Duration::from_mins(5);

/// One service's runtime state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// What the file said when it was last read: only what it says differently is news.
    pub declared: Declared,
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
    /// How often the judgement of this exposure was begun: once, and again at every restart.
    pub trials: u32,
    /// Until when new requests wait. Not kept: a restart serves at once, for a forgotten pause would be an outage.
    #[serde(skip)]
    pub paused: Option<Moment>,
    /// What persons changed of versions and endpoints at run time.
    #[serde(default, skip_serializing_if = "Amendments::is_empty")]
    pub amendments: Amendments,
    /// No probe before this moment.
    #[serde(skip)]
    probe_again: Moment,
}

/// Roles and first weight, as the file declares them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    pub stable: VersionName,
    pub canary: Option<VersionName>,
    pub weight: Weight,
}

/// Why a version gets no traffic until a person unseals it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Seal {
    Judge(Conviction),
    Person,
}

/// The canary at half weight, so that there is a stable version to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub back_to: Weight,
    pub until: Moment,
}

/// What may happen to a standing.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Person(Request),
    Judged(Verdict),
    /// Time has passed: ends a probe that convicted nobody, and a pause.
    Passed,
}

/// What a person may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Weight(Weight),
    Promote,
    Abort,
    Unseal(VersionName),
    /// New requests wait for so long, or until somebody resumes.
    Pause(Duration),
    Resume,
    /// Names the canary.
    Canary(VersionName),
}

/// What happened to a standing; the journal is made of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    /// The file says something new. `exposure`: whether one begins, at `weight`.
    Declared {
        declared: Declared,
        stable: VersionName,
        canary: Option<VersionName>,
        weight: Weight,
        exposure: Begins,
    },
    /// The process was started again within an exposure: its judgement begins anew.
    Resumed,
    WeightSet {
        version: VersionName,
        from: Weight,
        to: Weight,
    },
    Promoted {
        version: VersionName,
        replaced: VersionName,
    },
    Aborted {
        version: VersionName,
        from: Weight,
    },
    RolledBack {
        version: VersionName,
        from: Weight,
        conviction: Conviction,
    },
    WouldRollBack {
        version: VersionName,
        conviction: Conviction,
    },
    Unsealed {
        version: VersionName,
    },
    ProbeBegan {
        version: VersionName,
        from: Weight,
        to: Weight,
        until: Moment,
    },
    ProbeEnded {
        version: VersionName,
        from: Weight,
        to: Weight,
    },
    HoldBegan {
        reason: Hold,
    },
    HoldEnded,
    /// New requests wait.
    TrafficPaused {
        for_ms: u64,
        until: Moment,
    },
    /// What waited goes on.
    TrafficResumed,
    /// A person named another canary; it begins at weight 0.
    CanaryNamed {
        version: VersionName,
        replaced: Option<VersionName>,
    },
    /// A person wants something else of an endpoint.
    EndpointSet {
        version: VersionName,
        endpoint: Authority,
        from: Administrative,
        to: Administrative,
    },
    /// Added, or given another weight.
    EndpointPut {
        version: VersionName,
        endpoint: Authority,
        weight: u32,
    },
    EndpointRemoved {
        version: VersionName,
        endpoint: Authority,
    },
    VersionAdded {
        version: VersionName,
        endpoints: Vec<Listed>,
    },
    VersionRemoved {
        version: VersionName,
    },
    /// What was changed at run time is the file's now, or means nothing any more.
    AmendmentsSettled {
        settled: Vec<Settled>,
    },
    /// What checks say of an endpoint.
    EndpointHealth {
        version: VersionName,
        endpoint: Authority,
        address: SocketAddr,
        from: Operational,
        to: Operational,
        because: String,
    },
}

impl Change {
    /// Whether it changes which versions and endpoints there are, or what is wanted of them.
    #[must_use]
    pub fn amends(&self) -> bool {
        matches!(
            self,
            Change::EndpointSet { .. }
                | Change::EndpointPut { .. }
                | Change::EndpointRemoved { .. }
                | Change::VersionAdded { .. }
                | Change::VersionRemoved { .. }
                | Change::AmendmentsSettled { .. }
        )
    }

    /// Whether it can only take traffic from a version or an endpoint: published first, journaled afterwards. All else
    /// waits for the journal.
    #[must_use]
    pub fn lowers(&self) -> bool {
        match self {
            Change::WeightSet { from, to, .. } => to < from,
            Change::Aborted { .. }
            | Change::RolledBack { .. }
            | Change::ProbeBegan { .. }
            | Change::EndpointRemoved { .. }
            | Change::VersionRemoved { .. } => true,
            Change::EndpointSet { to, .. } => *to != Administrative::Ready,
            Change::Declared { .. }
            | Change::Resumed
            | Change::Promoted { .. }
            | Change::WouldRollBack { .. }
            | Change::Unsealed { .. }
            | Change::ProbeEnded { .. }
            | Change::HoldBegan { .. }
            | Change::HoldEnded
            | Change::TrafficPaused { .. }
            | Change::TrafficResumed
            | Change::CanaryNamed { .. }
            | Change::EndpointPut { .. }
            | Change::VersionAdded { .. }
            | Change::AmendmentsSettled { .. }
            | Change::EndpointHealth { .. } => false,
        }
    }

    /// Whether it changes what a person may base a request on: weights, roles, seals. The rest is commentary.
    #[must_use]
    pub fn moves(&self) -> bool {
        !matches!(self, Change::Resumed | Change::WouldRollBack { .. }) && self.is_kept()
    }

    /// Whether it is part of what must survive: all but the holds, which come and go with the traffic, the pauses,
    /// which end by themselves, and health, which is asked anew after a restart.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !matches!(
            self,
            Change::HoldBegan { .. }
                | Change::HoldEnded
                | Change::TrafficPaused { .. }
                | Change::TrafficResumed
                | Change::EndpointHealth { .. }
        )
    }
}

/// Whether an exposure begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begins {
    Anew,
    /// What runs goes on.
    No,
}

/// Why a person's request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("version `{0}` is sealed and gets no traffic; unseal it first")]
    Sealed(VersionName),
    #[error("there is no canary to give a weight to or to promote")]
    NoCanary,
    #[error("`{0}` has {1} of the requests as the canary; another one can be named at 0% only")]
    Exposed(VersionName, Weight),
    #[error("version `{0}` is the stable one already")]
    IsStable(VersionName),
}

impl Standing {
    /// A service as the file declares it, with nothing decided yet. `exposure` is used if the first weight is above 0.
    #[must_use]
    pub fn new(declared: Declared, exposure: Exposure) -> Standing {
        let weight = if declared.canary.is_some() { declared.weight } else { Weight::ZERO };
        Standing {
            stable: declared.stable.clone(),
            canary: declared.canary.clone(),
            declared,
            weight,
            exposure: (!weight.is_zero()).then_some(exposure),
            seals: BTreeMap::new(),
            probe: None,
            hold: None,
            would_roll_back: None,
            trials: 1,
            paused: None,
            amendments: Amendments::default(),
            probe_again: Moment::default(),
        }
    }

    /// What a file that is read again changes. Its roles count if they are news; its weight is only the first one of an
    /// exposure, so that an edited weight alone changes nothing that runs. `listed`: whether the file still lists the
    /// versions that have a role; if not, its own roles are taken.
    #[must_use]
    pub fn declare(&self, file: &Declared, listed: bool) -> Option<Change> {
        let same = |declared: &Declared| declared.stable == file.stable && declared.canary == file.canary;
        let running = self.stable == file.stable && self.canary == file.canary;
        let declared = |stable: &VersionName, canary: &Option<VersionName>, weight, exposure| Change::Declared {
            declared: file.clone(),
            stable: stable.clone(),
            canary: canary.clone(),
            weight,
            exposure,
        };
        if *file == self.declared && listed {
            None
        } else if listed && (same(&self.declared) || running) {
            Some(declared(&self.stable, &self.canary, self.weight, Begins::No))
        } else {
            Some(declared(&file.stable, &file.canary, self.first_weight(file), Begins::Anew))
        }
    }

    /// The weight of the exposure that new roles begin: none for what is sealed, and a canary that stays keeps its own.
    fn first_weight(&self, file: &Declared) -> Weight {
        match &file.canary {
            None => Weight::ZERO,
            Some(canary) if self.seals.contains_key(canary) => Weight::ZERO,
            Some(canary) if self.canary.as_ref() == Some(canary) => self.weight,
            Some(_) => file.weight,
        }
    }

    /// What a restart changes: a probe that ran is over, and its lower weight stays.
    #[must_use]
    pub fn resume(&self) -> Option<Change> {
        self.exposure.map(|_| Change::Resumed)
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
            Input::Person(request) => self.request(now, request),
            Input::Judged(verdict) => Ok(self.judged(now, mode, verdict)),
            Input::Passed => Ok(self.passed(now)),
        }
    }

    fn request(&self, now: Moment, request: Request) -> Result<Vec<Change>, Refusal> {
        match (request, &self.canary) {
            (Request::Pause(time), _) => {
                let for_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                Ok(vec![Change::TrafficPaused { for_ms, until: now.plus(time) }])
            }
            (Request::Resume, _) => Ok(self.paused.map(|_| Change::TrafficResumed).into_iter().collect()),
            (Request::Unseal(version), _) if self.seals.contains_key(&version) => {
                Ok(vec![Change::Unsealed { version }])
            }
            (Request::Unseal(_), _) | (Request::Abort, None) => Ok(vec![]),
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
            (Request::Canary(version), _) if version == self.stable => Err(Refusal::IsStable(version)),
            (Request::Canary(version), Some(canary)) if version == *canary => Ok(vec![]),
            (Request::Canary(_), Some(canary)) if !self.weight.is_zero() => {
                Err(Refusal::Exposed(canary.clone(), self.weight))
            }
            (Request::Canary(version), canary) => Ok(vec![Change::CanaryNamed { version, replaced: canary.clone() }]),
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
        let resumed = self.paused.filter(|until| now >= *until).map(|_| Change::TrafficResumed);
        resumed.into_iter().chain(self.probe_passed(now)).collect()
    }

    fn probe_passed(&self, now: Moment) -> Option<Change> {
        match (&self.canary, self.probe) {
            (Some(version), Some(probe)) if now >= probe.until => {
                Some(Change::ProbeEnded { version: version.clone(), from: self.weight, to: probe.back_to })
            }
            _ => None,
        }
    }

    /// Makes a change. `next` is the serial of the exposure that begins, if one does; returns whether it was used.
    pub fn apply(&mut self, change: &Change, next: Exposure) -> bool {
        match change {
            Change::Declared { declared, stable, canary, weight, exposure } => {
                self.declared = declared.clone();
                (self.stable, self.canary) = (stable.clone(), canary.clone());
                if *exposure == Begins::Anew {
                    self.end_exposure();
                    return self.weigh(*weight, next);
                }
            }
            Change::Resumed => {
                self.trials += 1;
                self.probe = None;
                self.hold = None;
            }
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
            Change::TrafficPaused { until, .. } => self.paused = Some(*until),
            Change::TrafficResumed => self.paused = None,
            Change::CanaryNamed { version, .. } => {
                self.canary = Some(version.clone());
                self.end_exposure();
            }
            Change::VersionRemoved { version } => {
                self.amendments.apply(change);
                if self.canary.as_ref() == Some(version) {
                    self.canary = None;
                    self.end_exposure();
                }
            }
            Change::EndpointSet { .. }
            | Change::EndpointPut { .. }
            | Change::EndpointRemoved { .. }
            | Change::VersionAdded { .. }
            | Change::AmendmentsSettled { .. } => self.amendments.apply(change),
            Change::EndpointHealth { .. } => {}
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
            self.trials = 1;
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

    fn declared(stable: &str, canary: Option<&str>, weight: Weight) -> Declared {
        Declared { stable: name(stable), canary: canary.map(name), weight }
    }

    fn standing(weight: Weight) -> Standing {
        Standing::new(declared("v1", Some("v2"), weight), Exposure(1))
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

    fn pause(seconds: u64) -> Input {
        Input::Person(Request::Pause(Duration::from_secs(seconds)))
    }

    #[test]
    fn a_pause_moves_nothing_and_ends_by_time_or_by_a_person() {
        let paused = standing(percent(50)).after(NOW, pause(2));
        assert_eq!(paused.paused, Some(Moment(3_000_000)));
        assert_eq!(Standing { paused: None, ..paused.clone() }, standing(percent(50)));
        assert_eq!(paused.clone().after(Moment(2_999_999), Input::Passed), paused);
        assert_eq!(paused.clone().after(Moment(3_000_000), Input::Passed).paused, None);
        assert_eq!(paused.clone().after(NOW, Input::Person(Request::Resume)).paused, None);
        assert_eq!(paused.after(NOW, pause(9)).paused, Some(Moment(10_000_000)), "the last word counts");
    }

    #[test]
    fn a_pause_does_not_outlive_the_process_and_is_not_kept() {
        let paused = standing(percent(50)).after(NOW, pause(2));
        let kept = serde_json::to_string(&paused).unwrap();
        assert_eq!(serde_json::from_str::<Standing>(&kept).unwrap().paused, None);
        let changes = paused.handle(NOW, Mode::AbortOnly, Input::Person(Request::Resume)).unwrap();
        assert!(changes.iter().all(|change| !change.is_kept() && !change.moves() && !change.lowers()));
    }

    #[test]
    fn a_paused_service_is_judged_and_rolled_back() {
        let after = standing(percent(50)).after(NOW, pause(9)).after(NOW, worse());
        assert_eq!((after.weight, after.seals.len()), (Weight::ZERO, 1));
        assert!(after.paused.is_some());
    }

    #[test]
    fn aborting_twice_is_fine_and_aborting_nothing_too() {
        let aborted = standing(percent(50)).after(NOW, Input::Person(Request::Abort));
        assert_eq!(aborted.handle(NOW, Mode::AbortOnly, Input::Person(Request::Abort)), Ok(vec![]));
        let alone = Standing::new(declared("v1", None, Weight::ZERO), Exposure(1));
        assert_eq!(alone.handle(NOW, Mode::AbortOnly, Input::Person(Request::Abort)), Ok(vec![]));
    }

    fn read_again(standing: &Standing, file: &Declared) -> Standing {
        let mut after = standing.clone();
        if let Some(change) = standing.declare(file, true) {
            after.apply(&change, Exposure(9));
        }
        after
    }

    #[test]
    fn a_file_that_says_nothing_new_changes_nothing() {
        let raised = standing(percent(10)).after(NOW, Input::Person(Request::Weight(percent(40))));
        assert_eq!(raised.declare(&declared("v1", Some("v2"), percent(10)), true), None);
        let edited = read_again(&raised, &declared("v1", Some("v2"), percent(1)));
        assert_eq!(
            (edited.weight, edited.exposure),
            (percent(40), raised.exposure),
            "the file's weight is the first one only"
        );
    }

    #[test]
    fn another_canary_begins_a_new_exposure_at_the_files_weight() {
        let after = read_again(&standing(percent(40)), &declared("v1", Some("v3"), percent(5)));
        assert_eq!(
            (after.canary.clone(), after.weight, after.exposure),
            (Some(name("v3")), percent(5), Some(Exposure(9)))
        );
    }

    #[test]
    fn the_canary_named_as_stable_is_stable() {
        let after = read_again(&standing(percent(40)), &declared("v2", Some("v3"), percent(5)));
        assert_eq!(
            (after.stable.clone(), after.canary.clone(), after.weight),
            (name("v2"), Some(name("v3")), percent(5))
        );
        let alone = read_again(&standing(percent(40)), &declared("v2", None, Weight::ZERO));
        assert_eq!((alone.stable.clone(), alone.canary.clone(), alone.weight), (name("v2"), None, Weight::ZERO));
    }

    #[test]
    fn what_was_promoted_stays_promoted_until_the_file_says_something_new() {
        let promoted = standing(percent(40)).after(NOW, Input::Person(Request::Promote));
        assert_eq!(promoted.declare(&declared("v1", Some("v2"), percent(40)), true), None);
        let caught_up = read_again(&promoted, &declared("v2", None, Weight::ZERO));
        assert_eq!((caught_up.stable, caught_up.canary), (name("v2"), None));
    }

    #[test]
    fn a_sealed_version_that_is_declared_again_stays_sealed() {
        let sealed = standing(percent(40)).after(NOW, worse());
        let other = read_again(&sealed, &declared("v1", Some("v3"), percent(5)));
        assert_eq!(other.weight, percent(5));
        let back = read_again(&other, &declared("v1", Some("v2"), percent(5)));
        assert_eq!((back.weight, back.exposure), (Weight::ZERO, None));
        assert!(back.seal(&name("v2")).is_some());
    }

    #[test]
    fn a_restart_keeps_the_exposure_and_counts_the_trial() {
        let mut probing = standing(Weight::FULL).after(NOW, Input::Judged(Verdict::Probe));
        let change = probing.resume().unwrap();
        probing.apply(&change, Exposure(9));
        assert_eq!((probing.weight, probing.exposure, probing.trials), (Weight::HALF, Some(Exposure(1)), 2));
        assert_eq!(
            probing.after(NOW.plus(PROBE * 2), Input::Passed).weight,
            Weight::HALF,
            "a probe cut short gives nothing back"
        );
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            1 => (0u16..=100).prop_map(|w| Input::Person(Request::Weight(percent(w)))),
            1 => Just(Input::Person(Request::Weight(Weight::FULL))),
            1 => Just(Input::Person(Request::Abort)),
            1 => Just(Input::Person(Request::Unseal(name("v2")))),
            1 => Just(pause(5)),
            1 => Just(Input::Person(Request::Resume)),
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
                let lowering = match &input {
                    Input::Person(Request::Abort) => true,
                    Input::Person(Request::Weight(to)) => *to <= standing.weight,
                    _ => false,
                };
                let before = standing.clone();
                let result = standing.handle(now, mode, input.clone());
                prop_assert!(!lowering || result.is_ok(), "lowering always succeeds");
                for change in result.unwrap_or_default() {
                    let used = standing.apply(&change, Exposure(serial));
                    prop_assert_eq!(used, replayed.apply(&change, Exposure(serial)));
                    serial += u32::from(used);
                    prop_assert!(!change.lowers() || standing.weight <= before.weight);
                    if person && change.is_kept() { granted = standing.weight; }
                }
                prop_assert_eq!(&standing, &replayed, "the journal replays to the same state");
                prop_assert!(standing.weight <= granted, "the machine never goes above what a person granted");
                prop_assert!(
                    person || before.probe.is_some() || standing.weight <= before.weight,
                    "the machine raises only what it lowered"
                );
                prop_assert_eq!(standing.exposure.is_some(), !standing.weight.is_zero());
                if let Some(canary) = &standing.canary {
                    prop_assert!(
                        !standing.seals.contains_key(canary) || standing.weight.is_zero(),
                        "what is sealed gets nothing"
                    );
                }
                if !person {
                    prop_assert!(
                        before.seals.keys().all(|sealed| standing.seals.contains_key(sealed)),
                        "only a person unseals"
                    );
                    prop_assert!(
                        mode == Mode::AbortOnly || standing.weight == before.weight || before.probe.is_some(),
                        "observe leaves the weight alone"
                    );
                }
            }
        }
    }
}
