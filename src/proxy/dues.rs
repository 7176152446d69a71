//! What is owed for a request: an outcome for each attempt, and one charge for the version that the coin drew.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;

use super::forward::Call;
use super::permits::Permit;
use super::recorder::{Charge, Met, Owed, Reach};
use super::worker::Worker;
use crate::domain::names::EndpointId;
use crate::domain::outcome::Class;
use crate::domain::retry::{Guest, Reason};
use crate::domain::service::Timeouts;
use crate::domain::snapshot::{Service, Version};
use crate::domain::split::Selected;
use crate::domain::window::{Coin, Drawn};

/// An attempt under way.
#[derive(Debug)]
struct Attempt {
    owed: Owed,
    permit: Permit,
    /// Gateway failures in a row that eject an endpoint; `None`: nothing does.
    many: Option<u32>,
    answered: Option<StatusCode>,
}

impl Attempt {
    /// Counts for or against its endpoint; see [`ejection`](crate::domain::ejection) for what counts.
    fn count(&self, class: Class) {
        let Some(many) = self.many else { return };
        let error_of_its_own = self.answered.is_some_and(|status| status.is_server_error() && !is_gateway(status));
        match class {
            Class::Failure if !error_of_its_own => self.permit.endpoint().failed(many),
            Class::Success | Class::Failure | Class::Rejected => self.permit.endpoint().answered(),
            Class::Abandoned | Class::Ours => {}
        }
    }
}

/// What a gateway answers that got no answer itself.
fn is_gateway(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// What is owed for a request and for its attempt under way. Pays on drop: a future or body that is dropped unsettled
/// means that the client has left. Only a panic leaves debts unpaid, and they are counted.
#[derive(Debug)]
pub struct Dues {
    worker: Rc<Worker>,
    service: Arc<Service>,
    chosen: usize,
    attempt: Option<Attempt>,
    charge: Option<Charge>,
    /// What the chosen version is charged with before the request is over: a failure, or that it had no room.
    first: Option<Class>,
    asked: Asked,
    /// Whether it has been counted that a client saw the chosen version fail, or that it did not.
    seen: bool,
    head_micros: Option<u64>,
    guest: Option<Guest>,
}

/// Whose attempts these are. Those at another version than the chosen one count for neither version's evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Chosen,
    /// Stable, because nothing could be written to the chosen version.
    Instead,
    /// Stable, because the chosen version had no room.
    Full,
    /// Stable, because the canary failed.
    Shield,
    /// The other version, for what the chosen one does not have.
    Rescue,
}

impl Dues {
    #[must_use]
    pub fn of(call: &Call) -> Dues {
        Dues {
            worker: call.worker.clone(),
            service: call.service.clone(),
            chosen: call.choice.version,
            attempt: None,
            charge: charge(call),
            first: None,
            asked: Asked::Chosen,
            seen: false,
            head_micros: None,
            guest: None,
        }
    }

    #[must_use]
    pub fn timeouts(&self) -> &Timeouts {
        &self.service.timeouts
    }

    /// An attempt begins.
    pub fn owe(&mut self, version: &Version, permit: Permit) {
        let owed = self.worker.recorder.owe(version.id, self.worker.now());
        let many = version.pool.balancing.ejection.map(|rule| rule.consecutive_failures);
        self.attempt = Some(Attempt { owed, permit, many, answered: None });
    }

    /// Whether it counts against its endpoint depends on what that said.
    pub fn said(&mut self, status: StatusCode) {
        if let Some(attempt) = &mut self.attempt {
            attempt.answered = Some(status);
        }
    }

    /// Whom the attempt under way is at.
    #[must_use]
    pub fn endpoint(&self) -> Option<EndpointId> {
        self.attempt.as_ref().map(|attempt| attempt.permit.endpoint().id)
    }

    /// Whether it is still the chosen version that is asked.
    #[must_use]
    pub fn at_chosen(&self) -> bool {
        self.asked == Asked::Chosen
    }

    pub fn head(&mut self, micros: u64) {
        if let Some(attempt) = &mut self.attempt {
            attempt.owed.head(micros);
        }
        if self.at_chosen() {
            self.head_micros = Some(micros);
        }
    }

    /// The chosen version has failed this request, whatever becomes of it.
    pub fn charge_first(&mut self) {
        if self.at_chosen() {
            self.first.get_or_insert(Class::Failure);
        }
    }

    /// The chosen version's limits kept this request from it. That is ours; but a canary that has no room where stable
    /// has some and answers is charged, or it would look healthy for holding requests up.
    pub fn found_no_room(&mut self) {
        if self.at_chosen() {
            self.first.get_or_insert(Class::Ours);
        }
    }

    fn only_wanted_room(&self) -> bool {
        self.first == Some(Class::Ours)
    }

    pub fn settle_attempt(&mut self, class: Class) {
        if let Some(attempt) = self.attempt.take() {
            attempt.count(class);
            let Attempt { owed, permit, .. } = attempt;
            owed.settle(permit.endpoint(), class, self.worker.now());
        }
    }

    /// The attempt failed and another may do better, but the version is charged for this one.
    pub fn fail(&mut self) {
        self.charge_first();
        self.settle_attempt(Class::Failure);
    }

    /// The attempt met a connection that had died while it was idle: nobody's fault, and worth a fresh one to the same
    /// endpoint.
    pub fn found_dead(&mut self) -> Option<Permit> {
        let Attempt { owed, permit, .. } = self.attempt.take()?;
        owed.settle(permit.endpoint(), Class::Ours, self.worker.now());
        Some(permit)
    }

    /// Stable is asked, because the chosen version takes no connection, or has no room.
    pub fn fall_back(&mut self) {
        self.asked = if self.only_wanted_room() { Asked::Full } else { Asked::Instead };
    }

    /// Stable is asked, because the canary failed.
    pub fn shield(&mut self, guest: Guest) {
        (self.asked, self.guest) = (Asked::Shield, Some(guest));
    }

    /// The other version is asked for what the chosen one does not have.
    pub fn ask_other(&mut self) {
        self.settle_attempt(Class::Rejected);
        self.asked = Asked::Rescue;
    }

    /// And does not have it either: the chosen version's answer stands.
    pub fn other_has_not(&mut self, class: Class) {
        self.settle_attempt(class);
        self.asked = Asked::Chosen;
    }

    /// An answer is passed on. If it is not the chosen version's first, the charge is known by now, and is paid.
    /// Returns whether it hid a failure of the chosen version behind the answer of another.
    pub fn answered(&mut self, class: Class) -> bool {
        let good = class != Class::Failure;
        match self.asked {
            Asked::Chosen => {
                if let Some(first) = self.first {
                    self.settle_charge(first, if good { Reach::Hidden } else { Reach::Reached });
                }
                false
            }
            Asked::Instead => {
                self.see(good);
                self.settle_charge(Class::Failure, if good { Reach::Rescued } else { Reach::Unreachable });
                good
            }
            // Where stable has no room either, or does no good, we caused it.
            Asked::Full if !good => {
                self.settle_charge(Class::Ours, Reach::Reached);
                false
            }
            // It is there, and that is what the health rule asks.
            Asked::Full | Asked::Shield => {
                self.see(good);
                self.settle_charge(Class::Failure, if good { Reach::Hidden } else { Reach::Reached });
                good
            }
            // It is no fault of a version not to have another's assets, and the client got them.
            Asked::Rescue => {
                self.settle_charge(Class::Success, Reach::Reached);
                false
            }
        }
    }

    /// The request is over, and so is its attempt.
    pub fn settle(&mut self, class: Class) {
        self.settle_attempt(class);
        match self.asked {
            Asked::Chosen => {
                if class == Class::Failure {
                    self.see(false);
                }
                self.settle_charge(self.first.unwrap_or(class), Reach::Reached);
            }
            Asked::Instead => self.over(Reach::Unreachable),
            Asked::Full => self.settle_charge(Class::Ours, Reach::Reached),
            Asked::Shield => self.over(Reach::Reached),
            Asked::Rescue => self.settle_charge(Class::Rejected, Reach::Reached),
        }
    }

    /// No endpoint took anything of the request.
    pub fn refused(&mut self) {
        self.settle_attempt(Class::Failure);
        if self.only_wanted_room() {
            return self.settle_charge(Class::Ours, Reach::Reached);
        }
        self.over(if self.asked == Asked::Shield { Reach::Reached } else { Reach::Unreachable });
    }

    /// Nobody answered for the chosen version.
    fn over(&mut self, reach: Reach) {
        self.see(false);
        self.settle_charge(Class::Failure, reach);
    }

    /// Counts a failure of the chosen version once, by whether the client was spared it.
    fn see(&mut self, spared: bool) {
        let chosen = self.service.versions[self.chosen].id;
        match std::mem::replace(&mut self.seen, true) {
            true => {}
            false if spared => self.worker.recorder.shielded(chosen),
            false => {
                self.worker.recorder.exposed(chosen);
                self.charge.iter_mut().for_each(Charge::expose);
            }
        }
    }

    fn settle_charge(&mut self, class: Class, reach: Reach) {
        if let Some(charge) = self.charge.take() {
            charge.settle(class, self.head_micros, reach, || self.worker.now());
        }
    }

    pub fn retried(&self, version: &Version, reason: Reason) {
        self.worker.recorder.retried(version.id, reason);
    }

    pub fn exhausted(&self, version: &Version) {
        self.worker.recorder.exhausted(version.id);
    }

    pub fn skew_rescued(&self) {
        self.worker.recorder.skew_rescued(self.service.versions[self.chosen].id);
    }
}

impl Drop for Dues {
    fn drop(&mut self) {
        let unpaid = self.attempt.is_some() || self.charge.is_some();
        if unpaid && !std::thread::panicking() {
            self.settle_attempt(Class::Abandoned);
            let class = match self.asked {
                Asked::Rescue => Class::Rejected,
                _ => self.first.unwrap_or(Class::Abandoned),
            };
            let reach = if self.asked == Asked::Instead { Reach::Unreachable } else { Reach::Reached };
            self.settle_charge(class, reach);
        }
    }
}

/// Notes a coin-drawn request as routed, if its coin is evidence.
fn charge(call: &Call) -> Option<Charge> {
    let (service, recorder) = (&call.service, &call.worker.recorder);
    let version = service.versions[call.choice.version].id;
    if call.choice.selected == Selected::Forced {
        recorder.forced(version);
        return None;
    }
    recorder.drawn(version);
    if call.choice.selected == Selected::Capped {
        recorder.turned(&service.name, |turned| turned.capped += 1);
        return None;
    }
    if call.choice.selected == Selected::Sticky {
        recorder.sticky(version);
    }
    let role = service.split.role(call.choice.version)?;
    let (weight, generation) = (service.split.weight, service.generation);
    let (exposure, tick) = (service.exposure?, call.arrived.tick());
    let met = call.choice.assigned.and_then(|assigned| Met::begin(service, assigned));
    let coin = met.as_ref().map_or(Coin::Tossed, |met| met.coin);
    let drawn = Drawn { exposure, tick, weight, generation, coin };
    Some(recorder.charge(drawn, role, service.over_micros)?.of_session(met))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::super::permits::Picking;
    use super::super::reply::Form;
    use super::*;
    use crate::domain::balance::Balancing;
    use crate::domain::judge::Policy;
    use crate::domain::names::{ServiceName, VersionName};
    use crate::domain::outcome::Classes;
    use crate::domain::pool::Ask;
    use crate::domain::retry::RetryPolicy;
    use crate::domain::service::{Definition, VersionDefinition};
    use crate::domain::snapshot::Snapshot;
    use crate::domain::split::{Choice, Weight};
    use crate::domain::state::State;
    use crate::domain::time::Tick;
    use crate::domain::window::{Arm, Batch};
    use crate::link::snapshots;

    const CANARY: usize = 1;

    fn shop() -> Snapshot {
        let name = |text: &str| VersionName::new(text).unwrap();
        let version = |text: &str| VersionDefinition { name: name(text), endpoints: vec![text.into()], capacity: None };
        let definition = Definition {
            error_pages: crate::domain::error_pages::ErrorPages::default(),
            name: ServiceName::new("shop").unwrap(),
            routes: vec![],
            versions: vec![version("v1"), version("v2")],
            stable: name("v1"),
            canary: Some(name("v2")),
            weight: Weight::HALF,
            pins: vec![],
            policy: Policy::default(),
            sticky: None,
            timeouts: Timeouts::default(),
            retries: RetryPolicy::default(),
            admission: crate::domain::admission::Admission::default(),
            health_check: None,
            balancing: Balancing::default(),
        };
        let mut state = State::of([definition]);
        for (version, port) in [("v1", 1), ("v2", 2)] {
            state.resolve(&version.into(), vec![([127, 0, 0, 1], port).into()]);
        }
        Snapshot::of(&state, &Snapshot::default())
    }

    /// A request that the coin sent to the canary.
    fn call(selected: Selected) -> Call {
        let worker = Worker::idle(snapshots(shop()).1);
        let service = worker.with_snapshot(|snapshot| snapshot.services[0].clone());
        let (choice, arrived) = (Choice { version: CANARY, selected, assigned: None }, worker.now());
        let request_id = HeaderValue::from_static("1");
        Call {
            worker,
            service,
            choice,
            picking: Picking::default(),
            arrived,
            request_id,
            form: Form::Text,
            access: None,
        }
    }

    fn flushed(call: &Call) -> Batch {
        call.worker.recorder.flush(0, Tick(0), 1)
    }

    fn canary(batch: &Batch) -> Arm {
        batch.requests.iter().map(|(_, row)| row.canary).next().unwrap_or_default()
    }

    /// What a request goes through, as `forward` has it.
    struct Story {
        call: Call,
        dues: Dues,
        version: usize,
        attempts: u64,
    }

    impl Story {
        fn begin(selected: Selected) -> Story {
            let call = call(selected);
            let dues = Dues::of(&call);
            let mut story = Story { call, dues, version: CANARY, attempts: 0 };
            story.attempt();
            story
        }

        fn attempt(&mut self) {
            let version = &self.call.service.versions[self.version];
            let in_flight = version.pool.pick(&Ask::default()).unwrap();
            self.dues.owe(version, Permit::new(&self.call.worker, version, in_flight));
            self.attempts += 1;
        }

        fn at_stable(&mut self) {
            self.version = 0;
            self.attempt();
        }

        fn shield(&mut self) {
            self.dues.fail();
            let guest = self.call.service.stable().allowance.invite(0).unwrap();
            self.dues.shield(guest);
            self.at_stable();
        }

        fn fall_back_for_room(&mut self) {
            self.dues.settle_attempt(Class::Ours);
            self.dues.found_no_room();
            self.dues.fall_back();
            self.at_stable();
        }

        fn answer(&mut self, class: Class) {
            self.dues.head(1_000);
            self.dues.answered(class);
            self.dues.settle(class);
        }
    }

    #[test]
    fn a_shielded_failure_is_the_canarys_and_hidden() {
        let mut story = Story::begin(Selected::Weight);
        story.shield();
        story.answer(Class::Success);
        let batch = flushed(&story.call);
        let arm = canary(&batch);
        assert_eq!((arm.ended, arm.hidden), (Classes { failure: 1, ..Classes::default() }, 1));
        assert_eq!((arm.unreachable, arm.rescued), (0, 0), "it was reached");
        let [stable, canary] = [0, CANARY].map(|version| &batch.attempts[&story.call.service.versions[version].id]);
        assert_eq!((canary.classes.failure, canary.shielded, canary.exposed), (1, 1, 0));
        assert_eq!((stable.classes.success, stable.shielded, stable.exposed), (1, 0, 0));
    }

    #[test]
    fn a_failure_that_stable_cannot_hide_is_seen_once() {
        let mut story = Story::begin(Selected::Weight);
        story.shield();
        story.answer(Class::Failure);
        let batch = flushed(&story.call);
        assert_eq!((canary(&batch).ended.failure, canary(&batch).hidden), (1, 0));
        let of_canary = &batch.attempts[&story.call.service.versions[CANARY].id];
        assert_eq!((of_canary.shielded, of_canary.exposed), (0, 1));
    }

    #[test]
    fn a_canary_without_room_is_charged_where_stable_does_better_and_is_never_unreachable() {
        for (class, charged) in [(Class::Success, Class::Failure), (Class::Failure, Class::Ours)] {
            let mut story = Story::begin(Selected::Weight);
            story.fall_back_for_room();
            story.answer(class);
            let arm = canary(&flushed(&story.call));
            assert_eq!((arm.ended.get(charged), arm.ended.total(), arm.unreachable), (1, 1, 0));
        }
    }

    #[test]
    fn who_was_refused_before_there_was_no_room_is_unreachable() {
        let mut story = Story::begin(Selected::Weight);
        story.dues.fail();
        story.fall_back_for_room();
        story.dues.refused();
        let arm = canary(&flushed(&story.call));
        assert_eq!((arm.ended.failure, arm.unreachable), (1, 1));
    }

    #[test]
    fn an_idle_connection_found_dead_is_not_held_against_anybody() {
        let mut story = Story::begin(Selected::Weight);
        assert!(story.dues.found_dead().is_some());
        story.attempt();
        story.answer(Class::Success);
        assert_eq!(canary(&flushed(&story.call)).ended, Classes { success: 1, ..Classes::default() });
    }

    #[test]
    fn a_rescued_asset_is_no_rejection() {
        for (has, class) in [(true, Class::Success), (false, Class::Rejected)] {
            let mut story = Story::begin(Selected::Weight);
            story.dues.ask_other();
            story.at_stable();
            if has {
                story.answer(Class::Success);
            } else {
                story.dues.other_has_not(Class::Rejected);
                story.dues.settle(Class::Rejected);
            }
            let ended = canary(&flushed(&story.call)).ended;
            assert_eq!((ended.get(class), ended.total()), (1, 1));
        }
    }

    fn class() -> impl Strategy<Value = Class> {
        prop::sample::select(Class::ALL.to_vec())
    }

    proptest! {
        /// Wherever the client leaves, and whatever the attempts come to.
        #[test]
        fn every_attempt_has_one_outcome_and_every_request_one_charge(
            steps in prop::collection::vec((0u8..9, class()), 0..8),
            forced in any::<bool>(),
        ) {
            let mut story = Story::begin(if forced { Selected::Forced } else { Selected::Weight });
            let mut over = false;
            for (step, class) in steps {
                let at_chosen = story.dues.at_chosen();
                match step {
                    0 => drop(story.dues.found_dead()),
                    1 => story.dues.fail(),
                    2 if at_chosen => {
                        story.shield();
                        continue;
                    }
                    3 if at_chosen => {
                        story.dues.fail();
                        story.dues.fall_back();
                        story.at_stable();
                        continue;
                    }
                    8 if at_chosen => {
                        story.fall_back_for_room();
                        continue;
                    }
                    4 => story.dues.charge_first(),
                    5 => story.dues.refused(),
                    6 => story.dues.settle(class),
                    _ => story.answer(class),
                }
                over = step >= 5 || matches!(step, 2 | 3);
                if over {
                    break;
                }
                if step < 2 {
                    story.attempt();
                }
            }
            let Story { call, dues, attempts, .. } = story;
            drop(dues);
            let batch = flushed(&call);
            let recorded: u64 = batch.attempts.values().map(|tally| tally.classes.total()).sum();
            let (shielded, exposed) =
                batch.attempts.values().fold((0, 0), |(s, e), tally| (s + tally.shielded, e + tally.exposed));
            let arm = canary(&batch);
            prop_assert_eq!((recorded, batch.lost), (attempts, 0));
            prop_assert_eq!((arm.routed, arm.ended.total()), if forced { (0, 0) } else { (1, 1) });
            prop_assert!(arm.hidden <= arm.ended.failure && shielded + exposed <= 1);
            prop_assert!(over || exposed == 0);
            let endpoints = call.service.versions.iter().flat_map(|version| version.pool.endpoints());
            let active: u32 = endpoints.map(|endpoint| endpoint.in_flight()).sum();
            prop_assert_eq!(active, 0);
        }
    }
}
