//! Counts and histograms of one version: as tallied by a worker, on the way up, and over time.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;

use super::duration::Timings;
use super::names::{Exposure, ServiceName, VersionId};
use super::outcome::{Class, Classes};
use super::retry::Retried;
use super::split::{Role, Weight};
use super::time::Tick;

/// Latencies in microseconds, two significant digits: 20 KiB when full, 4 ns a record, quantiles within 1 %.
pub type Latencies = Histogram<u32>;

/// The slowest latency told apart: longer than any timeout of ours.
const SLOWEST_MICROS: u64 = 3_600_000_000;

/// An empty latency histogram; grows with what it is given.
#[must_use]
pub fn latencies() -> Latencies {
    let mut empty = Histogram::new(2).expect("two significant digits are within hdrhistogram's range");
    empty.auto(true);
    empty
}

/// Records a latency, capped at one hour.
pub fn record(latencies: &mut Latencies, micros: u64) {
    latencies.record(micros.clamp(1, SLOWEST_MICROS)).expect("an auto-resizing histogram takes any capped value");
}

fn merge(into: &mut Latencies, from: &Latencies) {
    into.add(from).expect("an auto-resizing histogram takes any other");
}

/// Every attempt of one version: feeds metrics, never the verdict.
#[derive(Debug, Clone)]
pub struct Tally {
    pub classes: Classes,
    /// Requests of this version whose failure another version's answer hid from the client.
    pub shielded: u64,
    /// Failures that a client saw.
    pub exposed: u64,
    pub retried: Retried,
    /// From the request written on a ready connection to the response head.
    pub head: Latencies,
    /// From the request's arrival to the response's last byte.
    pub total: Latencies,
}

impl Default for Tally {
    fn default() -> Tally {
        let (classes, retried) = (Classes::default(), Retried::default());
        Tally { classes, shielded: 0, exposed: 0, retried, head: latencies(), total: latencies() }
    }
}

impl Tally {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.total() == 0 && self.shielded == 0 && self.exposed == 0 && self.retried == Retried::default()
    }

    /// Forgets everything and keeps the histograms' memory.
    pub fn clear(&mut self) {
        self.head.reset();
        self.total.reset();
        self.classes = Classes::default();
        (self.shielded, self.exposed, self.retried) = (0, 0, Retried::default());
    }

    pub fn merge(&mut self, other: &Tally) {
        self.classes.merge(&other.classes);
        self.shielded += other.shielded;
        self.exposed += other.exposed;
        self.retried.merge(&other.retried);
        merge(&mut self.head, &other.head);
        merge(&mut self.total, &other.total);
    }
}

/// The serial of a group of requests of the outage guard; see `judge`. Zero is "none open".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u32);

/// Whether a request's coin fell for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Coin {
    /// A toss of its own.
    #[default]
    Tossed,
    /// With stickiness: it had fallen before, at the first request of the session.
    Known,
}

/// What was true when a request's coin fell. Evidence is kept by these, whenever the request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Drawn {
    pub exposure: Exposure,
    pub tick: Tick,
    pub weight: Weight,
    pub generation: Generation,
    pub coin: Coin,
}

/// Counts of coin-drawn requests of one arm, for one [`Drawn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arm {
    /// Drawn since the last batch.
    pub routed: u64,
    /// Ended since the last batch, charged to the version that the coin drew, by the class of its first attempt there.
    pub ended: Classes,
    /// Of those ended well (success or rejected): slower to the head than the service's latency limit.
    pub over: u64,
    /// Of the abandoned: the client left before the response head.
    pub unanswered: u64,
    /// Failed requests whose failure the client saw.
    pub exposed: u64,
    /// Of the failures: no endpoint of the version accepted a connection.
    pub unreachable: u64,
    /// Of the unreachable: the stable version answered instead, and not with a failure.
    pub rescued: u64,
    /// Of the failures: the client did not see them, because a later attempt was answered; the rescued among them.
    pub hidden: u64,
    /// Of the failures: of sessions that had failed before.
    pub failed_again: u64,
    /// Of the rejected: of sessions that had been rejected before.
    pub rejected_again: u64,
    /// Sessions that broke down in this tick; not of what was routed in it.
    pub broken: u64,
}

impl Arm {
    pub fn merge(&mut self, other: &Arm) {
        self.routed += other.routed;
        self.ended.merge(&other.ended);
        self.over += other.over;
        self.unanswered += other.unanswered;
        self.exposed += other.exposed;
        self.unreachable += other.unreachable;
        self.rescued += other.rescued;
        self.hidden += other.hidden;
        self.failed_again += other.failed_again;
        self.rejected_again += other.rejected_again;
        self.broken += other.broken;
    }
}

/// Both arms of one [`Drawn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    pub stable: Arm,
    pub canary: Arm,
}

impl Row {
    pub fn arm(&mut self, role: Role) -> &mut Arm {
        match role {
            Role::Stable => &mut self.stable,
            Role::Canary => &mut self.canary,
        }
    }

    pub fn merge(&mut self, other: &Row) {
        self.stable.merge(&other.stable);
        self.canary.merge(&other.canary);
    }
}

/// Weights of one exposure kept apart within one tick; more than that in 100 ms is left out of the evidence.
const WEIGHTS_PER_TICK: usize = 8;

/// Coin-drawn requests by what was true when their coin fell. An ordered map: replays see the same order.
#[derive(Debug, Clone, Default)]
pub struct Rows(BTreeMap<Drawn, Row>);

impl Rows {
    /// The row to count in; `None` when this tick already keeps as many weights of the exposure apart as it may.
    pub fn row(&mut self, drawn: Drawn) -> Option<&mut Row> {
        if !self.0.contains_key(&drawn) && self.full(&drawn) {
            return None;
        }
        Some(self.0.entry(drawn).or_default())
    }

    fn full(&self, drawn: &Drawn) -> bool {
        let first = Drawn { weight: Weight::ZERO, generation: Generation(0), coin: Coin::Tossed, ..*drawn };
        let last = Drawn { weight: Weight::FULL, generation: Generation(u32::MAX), coin: Coin::Known, ..*drawn };
        self.0.range(first..=last).filter(|(other, _)| other.coin == drawn.coin).count() >= WEIGHTS_PER_TICK
    }

    pub fn merge(&mut self, other: Rows) {
        for (drawn, row) in other.0 {
            self.0.entry(drawn).or_default().merge(&row);
        }
    }

    /// Those of one exposure, oldest tick first.
    pub fn of(&self, exposure: Exposure) -> impl Iterator<Item = (&Drawn, &Row)> {
        let first =
            Drawn { exposure, tick: Tick(0), weight: Weight::ZERO, generation: Generation(0), coin: Coin::Tossed };
        let (weight, generation) = (Weight::FULL, Generation(u32::MAX));
        let last = Drawn { exposure, tick: Tick(u64::MAX), weight, generation, coin: Coin::Known };
        self.0.range(first..=last)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Drawn, &Row)> {
        self.0.iter()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Requests of one service that were turned away before they had a version, or to stable by a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turned {
    /// Refused by the rate limit.
    pub rate_limited: u64,
    /// Refused by the hold queue, because it was full.
    pub hold_full: u64,
    /// Refused by the hold queue, after its time.
    pub hold_late: u64,
    /// Given to stable without a toss, because the canary had as many requests as it may.
    pub capped: u64,
}

impl Turned {
    pub fn merge(&mut self, other: &Turned) {
        self.rate_limited += other.rate_limited;
        self.hold_full += other.hold_full;
        self.hold_late += other.hold_late;
        self.capped += other.capped;
    }
}

/// What one worker counted since its last batch.
#[derive(Debug, Default)]
pub struct Batch {
    pub worker: usize,
    /// The tick that has just ended for this worker; everything routed up to its end is in this batch or in an earlier
    /// one.
    pub tick: Tick,
    /// The snapshot that the worker now routes by.
    pub revision: u64,
    pub attempts: BTreeMap<VersionId, Tally>,
    pub requests: Rows,
    /// Pinned requests, by version.
    pub forced: BTreeMap<VersionId, u64>,
    /// Requests of clients who were known again, by version.
    pub sticky: BTreeMap<VersionId, u64>,
    /// Requests drawn by the coin or by a bucket, by version (also of services without an exposure): what the observed
    /// share is made of.
    pub drawn: BTreeMap<VersionId, u64>,
    /// Requests that did not go where they would have gone, by service.
    pub turned: BTreeMap<ServiceName, Turned>,
    /// What was timed, for metrics.
    pub timings: Timings,
    /// Outcomes owed and never settled: our bug.
    pub lost: u64,
    /// Requests left out of the evidence because a tick had more weights than are kept apart.
    pub left_out: u64,
}

impl Batch {
    /// Puts a later batch of the same worker behind this one: for when the way up is full.
    pub fn merge(&mut self, later: Batch) {
        self.tick = later.tick;
        self.revision = later.revision;
        for (version, tally) in later.attempts {
            self.attempts.entry(version).or_default().merge(&tally);
        }
        self.requests.merge(later.requests);
        for (version, count) in later.forced {
            *self.forced.entry(version).or_default() += count;
        }
        for (version, count) in later.sticky {
            *self.sticky.entry(version).or_default() += count;
        }
        for (version, count) in later.drawn {
            *self.drawn.entry(version).or_default() += count;
        }
        for (service, turned) in later.turned {
            self.turned.entry(service).or_default().merge(&turned);
        }
        self.timings.merge(later.timings);
        self.lost += later.lost;
        self.left_out += later.left_out;
    }
}

/// How many slices a window ages by: its far edge is that fine.
const SLICES: u64 = 6;

/// One version's tallies over the last while and over all time.
#[derive(Debug)]
pub struct Window {
    slice_ticks: u64,
    slices: VecDeque<(u64, Tally)>,
    all: Tally,
}

impl Window {
    /// A window of `ticks`, at least six.
    #[must_use]
    pub fn new(ticks: u64) -> Window {
        Window { slice_ticks: (ticks / SLICES).max(1), slices: VecDeque::new(), all: Tally::default() }
    }

    pub fn add(&mut self, now: Tick, tally: &Tally) {
        self.age(now);
        let slice = now.0 / self.slice_ticks;
        match self.slices.back_mut() {
            Some((newest, sum)) if *newest >= slice => sum.merge(tally),
            _ => self.slices.push_back((slice, tally.clone())),
        }
        self.all.merge(tally);
    }

    /// What is still within the window.
    pub fn recent(&mut self, now: Tick) -> Tally {
        self.age(now);
        let mut sum = Tally::default();
        for (_, tally) in &self.slices {
            sum.merge(tally);
        }
        sum
    }

    /// Ticks that [`Window::recent`] reaches back at present; the newest of its slices is still growing.
    #[must_use]
    pub fn covers(&self, now: Tick) -> u64 {
        now.0 - (now.0 / self.slice_ticks).saturating_sub(SLICES - 1) * self.slice_ticks
    }

    /// Everything since the window was made.
    #[must_use]
    pub fn all(&self) -> &Tally {
        &self.all
    }

    fn age(&mut self, now: Tick) {
        let oldest = (now.0 / self.slice_ticks).saturating_sub(SLICES - 1);
        while self.slices.front().is_some_and(|(slice, _)| *slice < oldest) {
            self.slices.pop_front();
        }
    }
}

/// Adds one outcome to a tally: the class, and the latencies of what says something about the version.
pub fn tally(tally: &mut Tally, class: Class, head_micros: Option<u64>, total_micros: u64) {
    tally.classes.add(class);
    if let Some(micros) = head_micros {
        record(&mut tally.head, micros);
    }
    record(&mut tally.total, total_micros);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(class: Class) -> Tally {
        let mut one = Tally::default();
        tally(&mut one, class, Some(1_000), 2_000);
        one
    }

    fn drawn(weight: u16) -> Drawn {
        let weight = Weight::from_basis_points(weight).unwrap();
        Drawn { exposure: Exposure(1), tick: Tick(7), weight, generation: Generation(0), coin: Coin::Tossed }
    }

    #[test]
    fn a_window_forgets_and_the_total_does_not() {
        let mut window = Window::new(60);
        window.add(Tick(0), &one(Class::Failure));
        window.add(Tick(30), &one(Class::Success));
        assert_eq!(window.recent(Tick(59)).classes.total(), 2);
        assert_eq!(window.recent(Tick(60)).classes, Classes { success: 1, ..Classes::default() });
        assert_eq!(window.recent(Tick(90)).classes.total(), 0);
        assert_eq!(window.all().classes.total(), 2);
    }

    #[test]
    fn a_ninth_weight_in_one_tick_is_left_out() {
        let mut rows = Rows::default();
        assert!((0..8).all(|weight| rows.row(drawn(weight)).is_some()));
        assert!(rows.row(drawn(8)).is_none());
        assert!(rows.row(drawn(3)).is_some());
        assert!(rows.row(Drawn { tick: Tick(8), ..drawn(8) }).is_some());
    }

    #[test]
    fn a_batch_that_had_to_wait_loses_nothing() {
        let batch = |tick| {
            let mut batch = Batch { tick: Tick(tick), lost: 1, ..Batch::default() };
            batch.attempts.insert(VersionId(1), one(Class::Success));
            batch.requests.row(drawn(1)).unwrap().canary.routed += 1;
            batch.forced.insert(VersionId(1), 2);
            batch
        };
        let mut waiting = batch(3);
        waiting.merge(batch(4));
        assert_eq!((waiting.tick, waiting.lost), (Tick(4), 2));
        assert_eq!(waiting.attempts[&VersionId(1)].total.len(), 2);
        assert_eq!(waiting.requests.of(Exposure(1)).next().unwrap().1.canary.routed, 2);
        assert_eq!(waiting.forced[&VersionId(1)], 4);
    }

    #[test]
    fn latencies_of_any_length_are_taken() {
        let mut histogram = latencies();
        for micros in [0, 1, 5_000_000, u64::MAX] {
            record(&mut histogram, micros);
        }
        assert_eq!(histogram.len(), 4);
    }
}
