//! What was decided since the process started, in numbers. The journal forgets its oldest entries; these stay.

use std::collections::BTreeMap;

use super::journal::{Actor, Entry};
use crate::domain::judge::Hold;
use crate::domain::names::ServiceName;
use crate::domain::standing::Change;
use crate::domain::window::{Latencies, latencies, record};

/// Counts of decisions, and how long rollbacks took.
#[derive(Debug, Clone, Default)]
pub struct Decisions {
    pub counts: BTreeMap<Decision, u64>,
    /// From the canary's first failure of the incident to weight zero, in microseconds.
    pub detections: BTreeMap<ServiceName, Latencies>,
    /// From the begin of the tick whose outcomes decided to weight zero, in microseconds.
    pub rollbacks: BTreeMap<ServiceName, Latencies>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    pub service: ServiceName,
    pub decision: &'static str,
    /// What convicted the canary, why a verdict is held, or whoever asked for it: `person`, `file`, `judge`.
    pub trigger: String,
}

impl Decisions {
    pub fn count(&mut self, entry: &Entry) {
        let service = entry.event.service.clone();
        if let (Change::RolledBack { .. }, Some(incident)) = (&entry.event.change, &entry.incident) {
            took(&mut self.detections, &service, incident.detection_ms);
            took(&mut self.rollbacks, &service, incident.decision_ms);
        }
        let (decision, trigger) = spelt(&entry.event.change, entry.actor == Actor::judge());
        *self.counts.entry(Decision { service, decision, trigger }).or_default() += 1;
    }
}

fn took(durations: &mut BTreeMap<ServiceName, Latencies>, service: &ServiceName, ms: Option<u64>) {
    if let Some(ms) = ms {
        record(durations.entry(service.clone()).or_insert_with(latencies), ms.saturating_mul(1_000));
    }
}

fn spelt(change: &Change, by_judge: bool) -> (&'static str, String) {
    let (decision, trigger) = match change {
        Change::RolledBack { conviction, .. } => return ("rollback", conviction.trigger.to_string()),
        Change::WouldRollBack { conviction, .. } => return ("would_roll_back", conviction.trigger.to_string()),
        Change::HoldBegan { reason: Hold::SharedDegradation } => ("hold", "shared_degradation"),
        Change::HoldBegan { reason: Hold::CanaryOverLimit } => ("hold", "canary_over_limit"),
        Change::HoldBegan { reason: Hold::FewSessions } => ("hold", "few_sessions"),
        Change::HoldEnded => ("hold_ended", "judge"),
        Change::TrafficPaused { .. } => ("pause", "person"),
        Change::TrafficResumed => ("resume_traffic", if by_judge { "time" } else { "person" }),
        Change::ProbeBegan { .. } => ("probe", "limit"),
        Change::ProbeEnded { .. } => ("probe_ended", "judge"),
        Change::Resumed => ("resume", "restart"),
        Change::Declared { .. } => ("declare", "file"),
        Change::WeightSet { .. } => ("weight", "person"),
        Change::Promoted { .. } => ("promote", "person"),
        Change::Aborted { .. } => ("abort", "person"),
        Change::Unsealed { .. } => ("unseal", "person"),
        Change::CanaryNamed { .. } => ("canary", "person"),
        Change::EndpointSet { to, .. } => return ("endpoint_state", to.as_str().to_owned()),
        Change::EndpointPut { .. } => ("endpoint_put", "person"),
        Change::EndpointRemoved { .. } => ("endpoint_removed", "person"),
        Change::VersionAdded { .. } => ("version_added", "person"),
        Change::VersionRemoved { .. } => ("version_removed", "person"),
        Change::AmendmentsSettled { .. } => ("amendments_settled", "file"),
        Change::EndpointHealth { to, .. } => return ("endpoint_health", to.as_str().to_owned()),
    };
    (decision, trigger.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::journal::{Incident, Journal};
    use crate::domain::judge::{Conviction, Trigger};
    use crate::domain::names::VersionName;
    use crate::domain::split::Weight;
    use crate::domain::state::Event;

    #[test]
    fn what_the_journal_forgets_stays_counted() {
        let (journal, service) = (Journal::default(), ServiceName::new("shop").unwrap());
        let version = VersionName::new("v2").unwrap();
        for revision in 1..=3_000 {
            let conviction = Conviction { trigger: Trigger::Outage, ..Conviction::default() };
            let change = Change::RolledBack { version: version.clone(), from: Weight::HALF, conviction };
            let incident = Incident { detection_ms: Some(400), decision_ms: Some(120), ..Incident::default() };
            let entry = Entry::new(revision, Event { service: service.clone(), change }, Actor::judge());
            journal.append(Entry { incident: Some(incident), ..entry });
        }
        let decisions = journal.decisions();
        let rollback = Decision { service: service.clone(), decision: "rollback", trigger: "outage".to_owned() };
        assert_eq!(decisions.counts, BTreeMap::from([(rollback, 3_000)]));
        let detection = &decisions.detections[&service];
        assert_eq!(detection.len(), 3_000);
        assert!((396_000..=404_000).contains(&detection.max()));
        assert!((118_000..=122_000).contains(&decisions.rollbacks[&service].max()));
    }
}
