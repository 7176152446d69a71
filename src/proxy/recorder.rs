//! What one worker counted since its last batch, and the obligations that make sure every outcome is counted once.
//!
//! There are two tallies. *Attempts* feed metrics: one outcome for every try at an endpoint ([`Owed`]). *Requests* feed
//! the evidence: one outcome for every request whose version the coin drew ([`Charge`]), charged to the drawn version
//! by the class of its first attempt there, whoever answered in the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use crate::domain::duration::Kind;
use crate::domain::names::{ServiceName, VersionId};
use crate::domain::outcome::Class;
use crate::domain::pool::Endpoint;
use crate::domain::retry::{Reason, Retried};
use crate::domain::sessions::{Ending, Meaning};
use crate::domain::snapshot::Service;
use crate::domain::split::Role;
use crate::domain::sticky::{Assigned, Sticky};
use crate::domain::time::{Moment, Tick};
use crate::domain::window::{Arm, Batch, Coin, Drawn, Turned, tally};

/// One worker's counts.
#[derive(Debug, Default)]
pub struct Recorder {
    batch: RefCell<Batch>,
}

/// Owes one attempt's outcome. Dropped unsettled it is counted as lost, which is a bug of ours.
#[derive(Debug)]
#[must_use = "an outcome is owed"]
pub struct Owed {
    recorder: Rc<Recorder>,
    version: VersionId,
    started: Moment,
    head_micros: Option<u64>,
    settled: bool,
}

/// Owes the evidence of one coin-drawn request.
#[derive(Debug)]
#[must_use = "evidence is owed"]
pub struct Charge {
    recorder: Rc<Recorder>,
    drawn: Drawn,
    role: Role,
    over_micros: Option<u64>,
    exposed: bool,
    /// `None`: the coin fell for this request alone.
    met: Option<Met>,
    settled: bool,
}

/// A request of a session: what it does again is no evidence.
#[derive(Debug)]
pub struct Met {
    sticky: Arc<Sticky>,
    client: Assigned,
    pub coin: Coin,
}

impl Met {
    /// Notes that a client was met; `None` if the service is not sticky.
    pub fn begin(service: &Service, client: Assigned) -> Option<Met> {
        let sticky = service.split.sticky.clone()?;
        let coin = sticky.sessions.meet(&client);
        Some(Met { sticky, client, coin })
    }
}

/// Whether the drawn version could be tried at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Reached,
    /// And failed, but a later attempt's answer hid that from the client.
    Hidden,
    /// None of its endpoints accepted a connection.
    Unreachable,
    /// And the stable version answered instead, not with a failure.
    Rescued,
}

impl Recorder {
    pub fn owe(self: &Rc<Self>, version: VersionId, started: Moment) -> Owed {
        Owed { recorder: self.clone(), version, started, head_micros: None, settled: false }
    }

    /// Counts a coin-drawn request as routed. `None`: left out of the evidence (see [`Drawn`]).
    pub fn charge(self: &Rc<Self>, drawn: Drawn, role: Role, over_micros: Option<u64>) -> Option<Charge> {
        let mut batch = self.batch.borrow_mut();
        let Some(row) = batch.requests.row(drawn) else {
            batch.left_out += 1;
            return None;
        };
        row.arm(role).routed += 1;
        Some(Charge { recorder: self.clone(), drawn, role, over_micros, exposed: false, met: None, settled: false })
    }

    /// A request of a client who was known again.
    pub fn sticky(&self, version: VersionId) {
        *self.batch.borrow_mut().sticky.entry(version).or_default() += 1;
    }

    pub fn drawn(&self, version: VersionId) {
        *self.batch.borrow_mut().drawn.entry(version).or_default() += 1;
    }

    pub fn forced(&self, version: VersionId) {
        *self.batch.borrow_mut().forced.entry(version).or_default() += 1;
    }

    /// A request of `service` that did not go where it would have gone.
    pub fn turned(&self, service: &ServiceName, count: impl FnOnce(&mut Turned)) {
        let mut batch = self.batch.borrow_mut();
        match batch.turned.get_mut(service) {
            Some(turned) => count(turned),
            None => count(batch.turned.entry(service.clone()).or_default()),
        }
    }

    /// A failure of `version` that another version's answer hid from the client.
    pub fn shielded(&self, version: VersionId) {
        self.batch.borrow_mut().attempts.entry(version).or_default().shielded += 1;
    }

    /// A failure of `version` that the client saw.
    pub fn exposed(&self, version: VersionId) {
        self.batch.borrow_mut().attempts.entry(version).or_default().exposed += 1;
    }

    /// A request is over; `None`: it never had a version.
    pub fn answered(&self, version: Option<VersionId>, kind: Kind, micros: u64) {
        self.batch.borrow_mut().timings.request(version, kind, micros);
    }

    /// An attempt at `version` that ended so was followed by another.
    pub fn retried(&self, version: VersionId, reason: Reason) {
        self.retries(version, |retried| retried.add(reason));
    }

    /// One that could have been was not, because the budget had no room.
    pub fn exhausted(&self, version: VersionId) {
        self.retries(version, |retried| retried.exhausted += 1);
    }

    /// The other version had what `version` does not.
    pub fn skew_rescued(&self, version: VersionId) {
        self.retries(version, |retried| retried.skew_rescues += 1);
    }

    fn retries(&self, version: VersionId, count: impl FnOnce(&mut Retried)) {
        count(&mut self.batch.borrow_mut().attempts.entry(version).or_default().retried);
    }

    /// Takes everything counted so far. The histograms' memory stays here: it is used again at once.
    pub fn flush(&self, worker: usize, tick: Tick, revision: u64) -> Batch {
        let mut batch = self.batch.borrow_mut();
        let mut full = Batch { worker, tick, revision, ..std::mem::take(&mut *batch) };
        for (version, tally) in &mut full.attempts {
            let mut kept = tally.clone();
            kept.clear();
            batch.attempts.insert(*version, kept);
        }
        full.attempts.retain(|_, tally| !tally.is_empty());
        full
    }
}

impl Owed {
    /// Notes the time from the written request to the response head.
    pub fn head(&mut self, micros: u64) {
        self.head_micros = Some(micros);
    }

    pub fn settle(mut self, endpoint: &Endpoint, class: Class, now: Moment) {
        self.settled = true;
        let total = now.0.saturating_sub(self.started.0);
        let mut batch = self.recorder.batch.borrow_mut();
        tally(batch.attempts.entry(self.version).or_default(), class, self.head_micros, total);
        batch.timings.attempt(self.version, endpoint.id, &endpoint.authority, total);
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.settled {
            self.recorder.batch.borrow_mut().lost += 1;
            debug_assert!(thread::panicking(), "an attempt's outcome was lost");
        }
    }
}

impl Charge {
    /// The client sees that it failed.
    pub fn expose(&mut self) {
        self.exposed = true;
    }

    #[must_use = "evidence is owed"]
    pub fn of_session(mut self, met: Option<Met>) -> Charge {
        self.met = met;
        self
    }

    pub fn settle(mut self, class: Class, head_micros: Option<u64>, reach: Reach, now: impl FnOnce() -> Moment) {
        self.settled = true;
        let unanswered = class == Class::Abandoned && head_micros.is_none();
        let meaning = self.met.as_ref().map(|met| {
            let (role, routed, ended) = (self.role, self.drawn.tick, now().tick());
            met.sticky.sessions.end(&met.client, &Ending { role, class, unanswered, routed, ended })
        });
        let Meaning { again, broken } = meaning.unwrap_or_default();
        let exposed = self.exposed;
        let late = head_micros.zip(self.over_micros).is_some_and(|(head, limit)| head > limit);
        self.end(self.drawn, |arm| {
            arm.ended.add(class);
            arm.over += u64::from(late && matches!(class, Class::Success | Class::Rejected));
            arm.unanswered += u64::from(unanswered);
            arm.exposed += u64::from(exposed);
            arm.unreachable += u64::from(matches!(reach, Reach::Unreachable | Reach::Rescued));
            arm.rescued += u64::from(reach == Reach::Rescued);
            arm.hidden += u64::from(matches!(reach, Reach::Rescued | Reach::Hidden));
            arm.failed_again += u64::from(again && class == Class::Failure);
            arm.rejected_again += u64::from(again && class == Class::Rejected);
        });
        if let Some(tick) = broken {
            self.end(Drawn { tick, ..self.drawn }, |arm| arm.broken += 1);
        }
    }

    fn end(&self, drawn: Drawn, count: impl FnOnce(&mut Arm)) {
        let mut batch = self.recorder.batch.borrow_mut();
        match batch.requests.row(drawn) {
            Some(row) => count(row.arm(self.role)),
            None => batch.left_out += 1,
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.settled {
            self.recorder.batch.borrow_mut().lost += 1;
            debug_assert!(thread::panicking(), "a request's evidence was lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::{EndpointId, Exposure};
    use crate::domain::split::Weight;
    use crate::domain::window::Generation;

    fn drawn() -> Drawn {
        Drawn {
            exposure: Exposure(1),
            tick: Tick(0),
            weight: Weight::HALF,
            generation: Generation(0),
            coin: Coin::Tossed,
        }
    }

    #[test]
    fn every_attempt_is_counted_once() {
        let recorder = Rc::new(Recorder::default());
        let mut owed = recorder.owe(VersionId(1), Moment(0));
        owed.head(500);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9001));
        owed.settle(&Endpoint::new(EndpointId(3), "a:1".into(), address), Class::Success, Moment(900));
        let batch = recorder.flush(0, Tick(0), 1);
        let tally = &batch.attempts[&VersionId(1)];
        assert_eq!((tally.classes.success, tally.classes.total(), batch.lost), (1, 1, 0));
        assert_eq!((tally.head.len(), tally.total.len()), (1, 1));
        assert_eq!(batch.timings.attempts[&EndpointId(3)].durations.sum_micros, 900);
        assert!(recorder.flush(0, Tick(1), 1).attempts.is_empty(), "and not again");
    }

    #[test]
    fn a_request_is_charged_to_the_drawn_version() {
        let recorder = Rc::new(Recorder::default());
        let charge = recorder.charge(drawn(), Role::Canary, Some(1_000)).unwrap();
        charge.settle(Class::Failure, None, Reach::Rescued, Moment::default);
        let late = recorder.charge(drawn(), Role::Canary, Some(1_000)).unwrap();
        late.settle(Class::Success, Some(1_001), Reach::Reached, Moment::default);
        let batch = recorder.flush(0, Tick(0), 1);
        let (_, row) = batch.requests.of(Exposure(1)).next().unwrap();
        assert_eq!((row.canary.routed, row.canary.ended.failure, row.canary.over), (2, 1, 1));
        assert_eq!((row.canary.unreachable, row.canary.rescued), (1, 1));
    }

    #[test]
    fn an_outcome_lost_to_a_panic_is_noticed() {
        let recorder = Rc::new(Recorder::default());
        let owed = recorder.owe(VersionId(1), Moment(0));
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _owed = owed;
            panic!("on purpose");
        }));
        assert!(unwound.is_err());
        assert_eq!(recorder.flush(0, Tick(0), 1).lost, 1);
    }
}
