//! Active health checks: asks every endpoint of services that want it, and is the only one that writes their health.
//!
//! ```text
//!  link::Snapshot ──▶ prober ──▶ one check ──▶ domain::health ──▶ the endpoint (workers read it at the next pick)
//!  (who there is)        │        (`ask`)       (what to believe)       │
//!                        └──▶ Checks (for people)                       └──▶ engine: an event, and perhaps a new split
//! ```
//!
//! It runs beside the engine and is waited for by nobody. Endpoints of services without a check count as healthy. After
//! a restart everything is asked anew: what was believed before is not.

mod ask;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::checks::{Checks, LastCheck};
use super::engine::Checked;
use crate::domain::check::HealthCheck;
use crate::domain::health::{Answer, Examination, Operational};
use crate::domain::names::{EndpointId, ServiceName, VersionName};
use crate::domain::pool::Endpoint;
use crate::domain::snapshot::{Service, Snapshot};
use crate::link::{Clock, Subscriber};

/// How often it is looked who is due.
const ROUND: Duration = Duration::from_millis(50);
/// Checks under way at once; who is due beyond that waits for its turn.
const AT_ONCE: usize = 256;

/// What is watched, and with what.
#[derive(Debug)]
pub struct Prober {
    subscriber: Subscriber,
    clock: Clock,
    engine: mpsc::Sender<Checked>,
    checks: Arc<Checks>,
    watched: BTreeMap<EndpointId, Watched>,
    asking: JoinSet<Asked>,
    /// Of the snapshot that `watched` was made of.
    seen: u64,
    random: fastrand::Rng,
}

/// One endpoint.
#[derive(Debug)]
struct Watched {
    endpoint: Arc<Endpoint>,
    service: ServiceName,
    version: VersionName,
    check: Arc<HealthCheck>,
    examination: Examination,
    since: Timestamp,
    asking: bool,
}

#[derive(Debug)]
struct Asked {
    endpoint: EndpointId,
    answer: Result<String, String>,
    took: Duration,
}

impl Prober {
    #[must_use]
    pub fn new(subscriber: Subscriber, clock: Clock, engine: mpsc::Sender<Checked>, checks: Arc<Checks>) -> Prober {
        Prober {
            subscriber,
            clock,
            engine,
            checks,
            watched: BTreeMap::new(),
            asking: JoinSet::new(),
            seen: 0,
            random: fastrand::Rng::new(),
        }
    }

    /// Runs as long as the engine does.
    pub async fn run(mut self) {
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !self.engine.is_closed() {
            tokio::select! {
                Some(Ok(asked)) = self.asking.join_next() => self.note(asked).await,
                _ = round.tick() => {
                    self.look();
                    self.ask_who_is_due();
                }
            }
        }
    }

    /// Takes up who there is now.
    fn look(&mut self) {
        let snapshot = Arc::clone(self.subscriber.current());
        if snapshot.revision == self.seen {
            return;
        }
        self.seen = snapshot.revision;
        let mut listed = BTreeSet::new();
        for (service, version, endpoint) in endpoints(&snapshot) {
            if let Some(check) = &service.health_check {
                listed.insert(endpoint.id);
                self.watch(&service.name, version, endpoint, check);
            } else if endpoint.operational() != Operational::Healthy {
                endpoint.set_operational(Operational::Healthy, self.clock.now()); // its check is gone
            }
        }
        let before = self.watched.len();
        self.watched.retain(|id, _| listed.contains(id));
        if self.watched.len() < before {
            let versions = self.watched.values().map(|watched| (watched.service.clone(), watched.version.clone()));
            self.checks.keep(&listed, &versions.collect());
        }
    }

    fn watch(
        &mut self,
        service: &ServiceName,
        version: &VersionName,
        endpoint: &Arc<Endpoint>,
        check: &Arc<HealthCheck>,
    ) {
        let now = self.clock.now();
        let watched = self.watched.entry(endpoint.id).or_insert_with(|| Watched {
            endpoint: endpoint.clone(),
            service: service.clone(),
            version: version.clone(),
            check: check.clone(),
            examination: Examination::begin(endpoint.operational(), now),
            since: Timestamp::now(),
            asking: false,
        });
        if watched.check != *check {
            watched.check = check.clone();
            watched.examination = Examination::begin(endpoint.operational(), now);
        }
    }

    fn ask_who_is_due(&mut self) {
        let (now, clock) = (self.clock.now(), self.clock);
        let free = AT_ONCE.saturating_sub(self.asking.len());
        let due = self.watched.iter_mut().filter(|(_, watched)| !watched.asking && watched.examination.due() <= now);
        for (id, watched) in due.take(free) {
            watched.asking = true;
            let (id, check, endpoint) = (*id, watched.check.clone(), watched.endpoint.clone());
            self.asking.spawn(async move {
                let begun = clock.now();
                let answer = ask::ask(&check, &endpoint.authority, endpoint.address).await;
                Asked { endpoint: id, answer, took: clock.now().since(begun) }
            });
        }
    }

    async fn note(&mut self, asked: Asked) {
        let Asked { endpoint, answer, took } = asked;
        let Some(watched) = self.watched.get_mut(&endpoint) else { return };
        watched.asking = false;
        let now = self.clock.now();
        let from = watched.examination.operational();
        let passed = if answer.is_ok() { Answer::Passed } else { Answer::Failed };
        let turned = watched.examination.observe(now, passed, &watched.check, self.random.u64(..));
        let at = Timestamp::now();
        let result = match answer {
            Ok(said) | Err(said) => said,
        };
        if let Some(to) = turned {
            watched.since = at;
            watched.endpoint.set_operational(to, now);
        }
        let last = LastCheck { passed: passed == Answer::Passed, result: result.clone(), at, since: watched.since };
        self.checks.note(endpoint, last, (watched.service.clone(), watched.version.clone()), took);
        if let Some(to) = turned {
            let checked = Checked {
                service: watched.service.clone(),
                version: watched.version.clone(),
                endpoint: watched.endpoint.clone(),
                from,
                to,
                because: result,
            };
            let _the_engine_ended = self.engine.send(checked).await;
        }
    }
}

fn endpoints(snapshot: &Snapshot) -> impl Iterator<Item = (&Service, &VersionName, &Arc<Endpoint>)> {
    snapshot.services.iter().flat_map(|service| {
        let versions = service.versions.iter();
        versions.flat_map(move |version| version.pool.endpoints().map(move |e| (&**service, &version.name, e)))
    })
}
