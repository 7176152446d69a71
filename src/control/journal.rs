//! What was decided, by whom and when: the newest entries, for those who ask and those who watch.

use std::collections::VecDeque;
use std::sync::Mutex;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::decisions::Decisions;
use crate::domain::health::Operational;
use crate::domain::standing::Change;
use crate::domain::state::Event;

/// Entries kept for `Last-Event-ID`; a watcher further behind is told to read the state again.
const KEPT: usize = 1_024;
/// The part of them that may be commentary: holds, and the health of endpoints.
const COMMENTS: usize = 4;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The state's revision with this event in it.
    pub revision: u64,
    pub at: Timestamp,
    pub actor: Actor,
    #[serde(flatten)]
    pub event: Event,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub incident: Option<Incident>,
    /// Entries of this service that had not taken effect yet, and do not any more.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub overtakes: Vec<u64>,
    /// False: announced before the store had kept it. A crash might forget it.
    #[serde(skip_serializing_if = "is_true", default = "yes")]
    pub durable: bool,
}

impl Entry {
    #[must_use]
    pub fn new(revision: u64, event: Event, actor: Actor) -> Entry {
        let at = Timestamp::now();
        Entry { revision, at, actor, event, incident: None, overtakes: Vec::new(), durable: true }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_true(flag: &bool) -> bool {
    *flag
}

fn yes() -> bool {
    true
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// `judge`, or the person's name as the caller gave it, or where the call came from.
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

impl Actor {
    #[must_use]
    pub fn judge() -> Actor {
        Actor { name: "judge".to_owned(), reason: None }
    }

    /// The health checks.
    #[must_use]
    pub fn checks() -> Actor {
        Actor { name: "check".to_owned(), reason: None }
    }
}

/// What a rollback cost, counted from the exposure's begin.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Incident {
    /// Requests that the coin sent to the canary.
    pub canary_requests: u64,
    pub canary_failures: u64,
    /// Failures of the canary that a client saw.
    pub exposed_failures: u64,
    /// From the tick of the canary's first failure in the run that led here, to weight zero published.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detection_ms: Option<u64>,
    /// From the begin of the tick whose outcomes decided, to weight zero published: at most this long after the outcome
    /// that decided, the last request was sent to the canary.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub decision_ms: Option<u64>,
}

/// The newest entries in memory, and a feed of those to come.
#[derive(Debug)]
pub struct Journal {
    entries: Mutex<VecDeque<Entry>>,
    feed: broadcast::Sender<Entry>,
    decisions: Mutex<Decisions>,
}

impl Default for Journal {
    fn default() -> Journal {
        Journal { entries: Mutex::default(), feed: broadcast::channel(KEPT).0, decisions: Mutex::default() }
    }
}

impl Journal {
    /// Begins with what was kept.
    #[must_use]
    pub fn of(entries: Vec<Entry>) -> Journal {
        let newest = entries.len().saturating_sub(KEPT);
        let entries = Mutex::new(entries.into_iter().skip(newest).collect());
        Journal { entries, ..Journal::default() }
    }

    /// Appends and announces. Called by the engine alone.
    pub fn append(&self, entry: Entry) {
        log(&entry);
        self.decisions.lock().unwrap_or_else(std::sync::PoisonError::into_inner).count(&entry);
        let mut entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        make_room(&mut entries);
        entries.push_back(entry.clone());
        // Announced under the lock, so that `watch` can neither miss an entry nor see it twice.
        let _nobody_watching = self.feed.send(entry);
    }

    /// Entries after a revision, and everything from now on.
    #[must_use]
    pub fn watch(&self, after: u64) -> (Vec<Entry>, broadcast::Receiver<Entry>) {
        let entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let missed = entries.iter().filter(|entry| entry.revision > after).cloned().collect();
        (missed, self.feed.subscribe())
    }

    /// What was decided since the process started, in numbers.
    #[must_use]
    pub fn decisions(&self) -> Decisions {
        self.decisions.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The newest entry that satisfies a condition.
    pub fn newest(&self, wanted: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        entries.iter().rev().find(|entry| wanted(entry)).cloned()
    }
}

/// Commentary comes as often as endpoints flap: beyond its share it goes before what was decided does.
fn make_room(entries: &mut VecDeque<Entry>) {
    if entries.len() < KEPT {
        return;
    }
    let comments = entries.iter().filter(|entry| !entry.event.change.is_kept()).count();
    let comment = entries.iter().position(|entry| !entry.event.change.is_kept());
    entries.remove(comment.filter(|_| comments > KEPT / COMMENTS).unwrap_or(0));
}

/// Says in the log what was decided.
fn log(entry: &Entry) {
    let (service, actor) = (&entry.event.service, &entry.actor.name);
    match &entry.event.change {
        Change::RolledBack { version, from, conviction } => {
            let incident = entry.incident.clone().unwrap_or_default();
            tracing::error!(
                %service, %version, %from, trigger = %conviction.trigger, because = conviction.because,
                canary_requests = incident.canary_requests, exposed_failures = incident.exposed_failures,
                detection_ms = incident.detection_ms, "rolled back and sealed"
            );
        }
        Change::WouldRollBack { version, conviction } => {
            tracing::warn!(
                %service, %version, trigger = %conviction.trigger, because = conviction.because,
                "would have rolled back, if not only observing"
            );
        }
        Change::Declared { stable, canary, weight, .. } => {
            let canary = canary.as_ref().map(tracing::field::display);
            tracing::info!(%service, %stable, canary, %weight, actor, "declared");
        }
        Change::Resumed => tracing::info!(%service, "judging anew after a restart"),
        Change::HoldBegan { reason } => tracing::warn!(%service, ?reason, "verdict held"),
        Change::HoldEnded => tracing::info!(%service, "verdict no longer held"),
        Change::TrafficPaused { for_ms, .. } => tracing::warn!(%service, for_ms, actor, "paused: new requests wait"),
        Change::TrafficResumed => tracing::info!(%service, actor, "resumed"),
        Change::WeightSet { version, from, to } => tracing::info!(%service, %version, %from, %to, actor, "weight set"),
        Change::ProbeBegan { version, from, to, .. } => tracing::warn!(%service, %version, %from, %to, "probe began"),
        Change::ProbeEnded { version, from, to } => tracing::warn!(%service, %version, %from, %to, "probe ended"),
        Change::Promoted { version, replaced } => tracing::info!(%service, %version, %replaced, actor, "promoted"),
        Change::Aborted { version, from } => tracing::warn!(%service, %version, %from, actor, "aborted and sealed"),
        Change::Unsealed { version } => tracing::warn!(%service, %version, actor, "unsealed"),
        Change::CanaryNamed { version, .. } => tracing::info!(%service, %version, actor, "canary named"),
        Change::EndpointSet { version, endpoint, from, to } => {
            let (from, to) = (from.as_str(), to.as_str());
            tracing::info!(%service, %version, %endpoint, from, to, actor, "endpoint set");
        }
        Change::EndpointPut { version, endpoint, weight } => {
            tracing::info!(%service, %version, %endpoint, weight, actor, "endpoint added or weighed anew");
        }
        Change::EndpointRemoved { version, endpoint } => {
            tracing::warn!(%service, %version, %endpoint, actor, "endpoint removed");
        }
        Change::VersionAdded { version, .. } => tracing::info!(%service, %version, actor, "version added"),
        Change::VersionRemoved { version } => tracing::warn!(%service, %version, actor, "version removed"),
        Change::AmendmentsSettled { settled } => {
            let settled = settled.len();
            tracing::info!(%service, settled, "changes made at run time are the file's now, or mean nothing any more");
        }
        Change::EndpointHealth { version, endpoint, to: Operational::Healthy, because, .. } => {
            tracing::info!(%service, %version, %endpoint, because, "endpoint healthy");
        }
        Change::EndpointHealth { version, endpoint, because, .. } => {
            tracing::warn!(%service, %version, %endpoint, because, "endpoint unhealthy");
        }
    }
}
