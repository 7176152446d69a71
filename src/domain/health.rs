//! Whether an endpoint is wanted (administrative) and whether it works (operational): two facts, kept apart.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::HealthCheck;
use super::time::{Moment, micros};

/// What a person wants of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Administrative {
    /// It may take requests.
    #[default]
    Ready,
    /// It takes no new requests; those under way finish.
    Draining,
    /// It is being worked on, and takes no requests.
    Maintenance,
}

impl Administrative {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Administrative::Ready => "ready",
            Administrative::Draining => "draining",
            Administrative::Maintenance => "maintenance",
        }
    }
}

/// What health checks say of an endpoint. Without a check, every endpoint counts as healthy from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operational {
    /// Not checked often enough yet to say.
    Unproven,
    #[default]
    Healthy,
    Unhealthy,
}

impl Operational {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Operational::Unproven => "unproven",
            Operational::Healthy => "healthy",
            Operational::Unhealthy => "unhealthy",
        }
    }
}

/// The one word for both facts that people are shown: what a person wants stands before what checks say.
#[must_use]
pub fn shown(administrative: Administrative, operational: Operational) -> &'static str {
    match (administrative, operational) {
        (Administrative::Ready, Operational::Unproven) => "deploying",
        (Administrative::Ready, operational) => operational.as_str(),
        (administrative, _) => administrative.as_str(),
    }
}

/// All words of [`shown`].
pub const SHOWN: [&str; 5] = ["deploying", "healthy", "unhealthy", "draining", "maintenance"];

/// An endpoint's health as all workers see it: one writer, read by every pick.
#[derive(Debug)]
pub struct Health {
    operational: AtomicU8,
    /// When it became healthy last (microseconds of [`Moment`]); zero for "long ago".
    since: AtomicU64,
}

impl Health {
    #[must_use]
    pub fn new(operational: Operational) -> Health {
        Health { operational: AtomicU8::new(operational as u8), since: AtomicU64::new(0) }
    }

    #[must_use]
    pub fn operational(&self) -> Operational {
        match self.operational.load(Ordering::Relaxed) {
            0 => Operational::Unproven,
            1 => Operational::Healthy,
            _ => Operational::Unhealthy,
        }
    }

    /// Becoming healthy begins the slow start.
    pub fn set(&self, operational: Operational, now: Moment) {
        if operational == Operational::Healthy && self.operational() != Operational::Healthy {
            self.begin(now);
        }
        self.operational.store(operational as u8, Ordering::Release);
    }

    /// Begins the slow start.
    pub fn begin(&self, now: Moment) {
        self.since.store(now.0, Ordering::Relaxed);
    }

    /// When it became healthy last.
    #[must_use]
    pub fn since(&self) -> Moment {
        Moment(self.since.load(Ordering::Relaxed))
    }
}

/// The course of one endpoint's checks: what they say so far, and when the next one is due.
///
/// ```text
///               `rise` checks pass in a row              `fall` checks fail in a row
///   Unproven ───────────────────────────────▶ Healthy ───────────────────────────────▶ Unhealthy
///   (asked every second)                         ◀─────────────────────────────────────────
///                                                      `rise` checks pass in a row
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    operational: Operational,
    /// Checks in a row that speak against what is believed.
    against: u32,
    due: Moment,
}

/// What came of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Passed,
    Failed,
}

impl Examination {
    /// Begins with what is believed of the endpoint; the first check is due at once.
    #[must_use]
    pub fn begin(operational: Operational, now: Moment) -> Examination {
        Examination { operational, against: 0, due: now }
    }

    #[must_use]
    pub fn operational(&self) -> Operational {
        self.operational
    }

    /// When the next check is due.
    #[must_use]
    pub fn due(&self) -> Moment {
        self.due
    }

    /// Takes a check's answer in. Returns what is believed from now on, if that is news. `draw`, uniform over `u64`,
    /// spreads the next check over a tenth of the interval to either side, so that proxies and endpoints do not march
    /// in step.
    pub fn observe(&mut self, now: Moment, answer: Answer, check: &HealthCheck, draw: u64) -> Option<Operational> {
        let (speaks_against, enough, other) = match self.operational {
            Operational::Healthy => (answer == Answer::Failed, check.fall, Operational::Unhealthy),
            Operational::Unproven | Operational::Unhealthy => {
                (answer == Answer::Passed, check.rise, Operational::Healthy)
            }
        };
        self.against = if speaks_against { self.against + 1 } else { 0 };
        let turned = self.against >= enough;
        if turned {
            (self.operational, self.against) = (other, 0);
        }
        self.due = now.plus(jittered(self.interval(check), draw));
        turned.then_some(other)
    }

    fn interval(&self, check: &HealthCheck) -> Duration {
        match self.operational {
            Operational::Unproven => check.interval.min(NEW),
            Operational::Healthy | Operational::Unhealthy => check.interval,
        }
    }
}

/// An endpoint that has not proven itself is asked this often, if not more often anyway: a deployment waits for it.
const NEW: Duration = Duration::from_secs(1);

/// From nine to eleven tenths.
fn jittered(interval: Duration, draw: u64) -> Duration {
    let whole = micros(interval);
    let spread = (u128::from(whole / 5) * u128::from(draw)) >> 64;
    Duration::from_micros(whole - whole / 10 + u64::try_from(spread).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_becoming_healthy_begins_a_slow_start() {
        let health = Health::new(Operational::Unproven);
        assert_eq!((health.operational(), health.since()), (Operational::Unproven, Moment(0)));
        health.set(Operational::Healthy, Moment(5));
        health.set(Operational::Healthy, Moment(9));
        assert_eq!((health.operational(), health.since()), (Operational::Healthy, Moment(5)));
        health.set(Operational::Unhealthy, Moment(12));
        assert_eq!((health.operational(), health.since()), (Operational::Unhealthy, Moment(5)));
        health.set(Operational::Healthy, Moment(20));
        assert_eq!(health.since(), Moment(20));
    }

    use Answer::{Failed, Passed};
    use proptest::prelude::*;

    /// What is believed after each answer, beginning with an endpoint that is new.
    fn course(answers: &[Answer]) -> Vec<Operational> {
        let (check, mut examination) = (HealthCheck::default(), Examination::begin(Operational::Unproven, Moment(0)));
        let mut observe = |answer| {
            examination.observe(Moment(0), answer, &check, 0);
            examination.operational()
        };
        answers.iter().map(|answer| observe(*answer)).collect()
    }

    #[test]
    fn an_endpoint_is_unproven_until_it_has_passed_twice_in_a_row() {
        let believed = course(&[Passed, Failed, Failed, Failed, Failed, Passed, Passed]);
        assert!(believed[..6].iter().all(|believed| *believed == Operational::Unproven), "{believed:?}");
        assert_eq!(believed[6], Operational::Healthy);
    }

    #[test]
    fn a_healthy_endpoint_may_fail_twice_in_a_row_but_not_three_times() {
        let believed = course(&[Passed, Passed, Failed, Failed, Passed, Failed, Failed, Failed, Passed, Passed]);
        assert!(believed[1..7].iter().all(|believed| *believed == Operational::Healthy), "{believed:?}");
        assert_eq!(believed[7..], [Operational::Unhealthy, Operational::Unhealthy, Operational::Healthy]);
    }

    #[test]
    fn what_a_person_wants_is_shown_before_what_checks_say() {
        assert_eq!(shown(Administrative::Ready, Operational::Unproven), "deploying");
        assert_eq!(shown(Administrative::Ready, Operational::Unhealthy), "unhealthy");
        assert_eq!(shown(Administrative::Draining, Operational::Unhealthy), "draining");
        assert_eq!(shown(Administrative::Maintenance, Operational::Healthy), "maintenance");
    }

    fn answers() -> impl Strategy<Value = Vec<Answer>> {
        prop::collection::vec(prop::sample::select(vec![Passed, Failed]), 0..60)
    }

    proptest! {
        /// The rule, told from the end: what is believed depends on the last run that was long enough, on nothing else.
        #[test]
        fn the_last_run_that_is_long_enough_decides(answers in answers(), rise in 1u32..5, fall in 1u32..5) {
            let check = HealthCheck { rise, fall, ..HealthCheck::default() };
            let mut examination = Examination::begin(Operational::Unproven, Moment(0));
            let (mut expected, mut run, mut last) = (Operational::Unproven, 0, None);
            for answer in answers {
                run = if last == Some(answer) { run + 1 } else { 1 };
                last = Some(answer);
                let before = expected;
                expected = match (answer, expected) {
                    (Passed, _) if run >= rise => Operational::Healthy,
                    (Failed, Operational::Healthy) if run >= fall => Operational::Unhealthy,
                    _ => expected,
                };
                let news = examination.observe(Moment(0), answer, &check, 0);
                prop_assert_eq!(examination.operational(), expected);
                prop_assert_eq!(news, (expected != before).then_some(expected));
            }
        }

        #[test]
        fn the_next_check_is_a_tenth_of_the_interval_off_at_most(
            draw: u64,
            seconds in 1u64..100,
            proven: bool,
            now: u32,
        ) {
            let check = HealthCheck { interval: Duration::from_secs(seconds), ..HealthCheck::default() };
            let believed = if proven { Operational::Healthy } else { Operational::Unproven };
            let now = Moment(now.into());
            let mut examination = Examination::begin(believed, now);
            prop_assert_eq!(examination.due(), now, "the first one at once");
            examination.observe(now, Failed, &check, draw);
            let wait = examination.due().since(now).as_secs_f64();
            let interval = if proven { Duration::from_secs(seconds).as_secs_f64() } else { 1.0 };
            prop_assert!((0.9 * interval - 1e-5..=1.1 * interval).contains(&wait), "{} of {}", wait, interval);
        }
    }
}
