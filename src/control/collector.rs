//! From batches to windows: what the workers counted, put together by tick and by version.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::duration::{Durations, Kinds, Timings};
use crate::domain::names::{ServiceName, VersionId};
use crate::domain::time::{TICK, Tick};
use crate::domain::window::{Batch, Rows, Tally, Turned, Window};

/// How far back "recent" reaches: a minute.
const RECENT_TICKS: u64 = 600;

/// Everything reported so far.
#[derive(Debug)]
pub struct Collector {
    workers: Vec<Reported>,
    /// Evidence of ticks that are not closed yet.
    waiting: Vec<(Tick, Rows)>,
    versions: BTreeMap<VersionId, Figures>,
    turned: BTreeMap<ServiceName, Turned>,
    /// Requests that never had a version.
    pub unrouted: Kinds,
    pub lost: u64,
    pub left_out: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Reported {
    tick: Option<Tick>,
    revision: u64,
}

/// One version's figures.
#[derive(Debug)]
pub struct Figures {
    pub window: Window,
    pub drawn: Window,
    pub forced: u64,
    pub sticky: u64,
    /// Requests that it was chosen for.
    pub requests: Kinds,
    /// Attempts at it, by endpoint as the file names it.
    pub attempts: BTreeMap<Arc<str>, Durations>,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures {
            window: Window::new(RECENT_TICKS),
            drawn: Window::new(RECENT_TICKS),
            forced: 0,
            sticky: 0,
            requests: Kinds::default(),
            attempts: BTreeMap::new(),
        }
    }
}

impl Collector {
    #[must_use]
    pub fn new(workers: usize) -> Collector {
        Collector {
            workers: vec![Reported::default(); workers],
            waiting: Vec::new(),
            versions: BTreeMap::new(),
            turned: BTreeMap::new(),
            unrouted: Kinds::default(),
            lost: 0,
            left_out: 0,
        }
    }

    pub fn absorb(&mut self, batch: Batch) {
        if let Some(worker) = self.workers.get_mut(batch.worker) {
            *worker = Reported { tick: Some(batch.tick), revision: batch.revision };
        }
        if !batch.requests.is_empty() {
            self.waiting.push((batch.tick, batch.requests));
        }
        for (version, tally) in &batch.attempts {
            self.figures(*version).window.add(batch.tick, tally);
        }
        for (version, count) in batch.forced {
            self.figures(version).forced += count;
        }
        for (version, count) in batch.sticky {
            self.figures(version).sticky += count;
        }
        for (version, count) in batch.drawn {
            self.figures(version).drawn.add(batch.tick, &draws(count));
        }
        for (service, turned) in batch.turned {
            self.turned.entry(service).or_default().merge(&turned);
        }
        self.time(batch.timings);
        self.lost += batch.lost;
        self.left_out += batch.left_out;
    }

    fn time(&mut self, timings: Timings) {
        for ((version, kind), durations) in timings.requests {
            match version {
                Some(version) => self.figures(version).requests.merge(kind, &durations),
                None => self.unrouted.merge(kind, &durations),
            }
        }
        for attempts in timings.attempts.into_values() {
            let figures = self.figures(attempts.version);
            figures.attempts.entry(attempts.authority).or_default().merge(&attempts.durations);
        }
    }

    /// Whether every worker has reported this tick.
    #[must_use]
    pub fn complete(&self, tick: Tick) -> bool {
        self.workers.iter().all(|worker| worker.tick.is_some_and(|reported| reported >= tick))
    }

    /// The snapshot that every worker routes by, at least.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.workers.iter().map(|worker| worker.revision).min().unwrap_or(0)
    }

    /// The evidence up to a tick: latecomers of earlier ticks with it, early birds of the next one not.
    pub fn close(&mut self, tick: Tick) -> Rows {
        let (due, early) = std::mem::take(&mut self.waiting).into_iter().partition(|(reported, _)| *reported <= tick);
        self.waiting = early;
        let mut rows = Rows::default();
        let due: Vec<(Tick, Rows)> = due;
        for (_, some) in due {
            rows.merge(some);
        }
        rows
    }

    /// Requests turned away since the process started.
    #[must_use]
    pub fn turned(&self, service: &ServiceName) -> Turned {
        self.turned.get(service).copied().unwrap_or_default()
    }

    /// Coin-drawn requests of some versions per second, over the last minute, or as long as there has been.
    pub fn rate(&mut self, versions: impl Iterator<Item = VersionId>, now: Tick) -> f64 {
        let drawn: u64 = versions.map(|version| self.figures(version).drawn.recent(now).classes.success).sum();
        let ticks = Window::new(RECENT_TICKS).covers(now);
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let (drawn, ticks) = (drawn as f64, ticks.max(1) as f64);
        drawn / (ticks * TICK.as_secs_f64())
    }

    pub fn figures(&mut self, version: VersionId) -> &mut Figures {
        self.versions.entry(version).or_default()
    }
}

/// Draws are counted as successes of a tally of their own: the window only has to age them.
fn draws(count: u64) -> Tally {
    let mut tally = Tally::default();
    tally.classes.success = count;
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::Exposure;
    use crate::domain::split::Weight;
    use crate::domain::window::{Coin, Drawn, Generation};

    fn batch(worker: usize, tick: u64) -> Batch {
        let mut batch = Batch { worker, tick: Tick(tick), revision: tick, ..Batch::default() };
        let drawn = Drawn {
            exposure: Exposure(1),
            tick: Tick(tick),
            weight: Weight::HALF,
            generation: Generation(0),
            coin: Coin::Tossed,
        };
        batch.requests.row(drawn).unwrap().canary.routed += 1;
        batch
    }

    fn routed(rows: &Rows) -> u64 {
        rows.iter().map(|(_, row)| row.canary.routed).sum()
    }

    #[test]
    fn a_tick_is_complete_when_every_worker_has_reported_it() {
        let mut collector = Collector::new(2);
        collector.absorb(batch(0, 3));
        assert!(!collector.complete(Tick(3)));
        collector.absorb(batch(1, 4));
        assert!(collector.complete(Tick(3)));
        assert!(!collector.complete(Tick(4)));
        assert_eq!(collector.applied(), 3);
    }

    #[test]
    fn one_workers_next_tick_waits_for_the_others() {
        let mut collector = Collector::new(2);
        for batch in [batch(0, 3), batch(0, 4), batch(1, 3)] {
            collector.absorb(batch);
        }
        assert_eq!(routed(&collector.close(Tick(3))), 2);
        assert_eq!(routed(&collector.close(Tick(3))), 0, "once");
        collector.absorb(batch(1, 3));
        assert_eq!(routed(&collector.close(Tick(4))), 2, "with the latecomer");
    }
}
