//! What is owed for a request: an outcome for each attempt, and one charge for the version that the coin drew.

use std::rc::Rc;
use std::sync::Arc;

use super::forward::Call;
use super::recorder::{Charge, Owed, Reach};
use super::worker::Worker;
use crate::domain::names::EndpointId;
use crate::domain::outcome::Class;
use crate::domain::pool::InFlight;
use crate::domain::retry::{Guest, Reason};
use crate::domain::service::Timeouts;
use crate::domain::snapshot::{Service, Version};
use crate::domain::split::Selected;
use crate::domain::window::Drawn;

/// What is owed for a request and for its attempt under way. Pays on drop: a future or body that is dropped unsettled
/// means that the client has left. Only a panic leaves debts unpaid, and they are counted.
#[derive(Debug)]
pub struct Dues {
    worker: Rc<Worker>,
    service: Arc<Service>,
    chosen: usize,
    attempt: Option<(Owed, InFlight)>,
    charge: Option<Charge>,
    /// The class of the first attempt at the chosen version that ended before the request did.
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
    pub fn owe(&mut self, version: &Version, in_flight: InFlight) {
        self.attempt = Some((self.worker.recorder.owe(version.id, self.worker.now()), in_flight));
    }

    /// Whom the attempt under way is at.
    #[must_use]
    pub fn endpoint(&self) -> Option<EndpointId> {
        self.attempt.as_ref().map(|(_, in_flight)| in_flight.endpoint().id)
    }

    /// Whether it is still the chosen version that is asked.
    #[must_use]
    pub fn at_chosen(&self) -> bool {
        self.asked == Asked::Chosen
    }

    pub fn head(&mut self, micros: u64) {
        if let Some((owed, _)) = &mut self.attempt {
            owed.head(micros);
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

    pub fn settle_attempt(&mut self, class: Class) {
        if let Some((owed, _in_flight)) = self.attempt.take() {
            owed.settle(class, self.worker.now());
        }
    }

    /// The attempt failed and another may do better, but the version is charged for this one.
    pub fn fail(&mut self) {
        self.charge_first();
        self.settle_attempt(Class::Failure);
    }

    /// The attempt met a connection that had died while it was idle: nobody's fault, and worth a fresh one to the same
    /// endpoint.
    pub fn found_dead(&mut self) -> Option<InFlight> {
        let (owed, in_flight) = self.attempt.take()?;
        owed.settle(Class::Ours, self.worker.now());
        Some(in_flight)
    }

    /// Stable is asked, because the chosen version takes no connection.
    pub fn fall_back(&mut self) {
        self.asked = Asked::Instead;
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
                self.settle_charge(Class::Failure, if good { Reach::Rescued } else { Reach::Unreachable });
                self.see(good);
                good
            }
            Asked::Shield => {
                self.settle_charge(Class::Failure, if good { Reach::Hidden } else { Reach::Reached });
                self.see(good);
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
            Asked::Shield => self.over(Reach::Reached),
            Asked::Rescue => self.settle_charge(Class::Rejected, Reach::Reached),
        }
    }

    /// No endpoint took anything of the request.
    pub fn refused(&mut self) {
        self.settle_attempt(Class::Failure);
        self.over(if self.asked == Asked::Shield { Reach::Reached } else { Reach::Unreachable });
    }

    /// Nobody answered for the chosen version.
    fn over(&mut self, reach: Reach) {
        self.settle_charge(Class::Failure, reach);
        self.see(false);
    }

    /// Counts a failure of the chosen version once, by whether the client was spared it.
    fn see(&mut self, spared: bool) {
        let chosen = self.service.versions[self.chosen].id;
        match std::mem::replace(&mut self.seen, true) {
            true => {}
            false if spared => self.worker.recorder.shielded(chosen),
            false => self.worker.recorder.exposed(chosen),
        }
    }

    fn settle_charge(&mut self, class: Class, reach: Reach) {
        if let Some(charge) = self.charge.take() {
            charge.settle(class, self.head_micros, reach);
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
    let role = service.split.role(call.choice.version)?;
    let (weight, generation) = (service.split.weight, service.generation);
    let drawn = Drawn { exposure: service.exposure?, tick: call.arrived.tick(), weight, generation };
    recorder.charge(drawn, role, service.over_micros)
}
