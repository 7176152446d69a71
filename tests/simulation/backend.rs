//! Versions that answer as a function of time.

use std::time::Duration;

use penstock::domain::outcome::Class;
use penstock::domain::time::Moment;

use super::luck::pick;

/// What an endpoint does with one attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    /// The connection is refused: nothing was sent.
    Refused,
    After(Duration, Class),
    Never,
}

/// What is wrong with a version for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Fails this share, after so long.
    Fails(f64, Duration),
    /// Answers 4xx to everybody.
    Rejects,
    RefusesConnections,
    Hangs,
    /// Answers well, but only after so long.
    Slow(Duration),
}

#[derive(Debug, Clone)]
pub struct Backend {
    pub failing: f64,
    pub rejected: f64,
    pub usual: Duration,
    /// `[from, to)`, in order; the first that holds counts.
    pub faults: Vec<(Moment, Moment, Fault)>,
}

impl Backend {
    pub fn healthy(luck: &mut fastrand::Rng) -> Backend {
        Backend {
            failing: pick(luck, &[0.0, 0.001, 0.01]),
            rejected: pick(luck, &[0.0, 0.02]),
            usual: Duration::from_millis(luck.u64(1..150)),
            faults: Vec::new(),
        }
    }

    pub fn answer(&self, luck: &mut fastrand::Rng, now: Moment) -> Answer {
        let fault = self.faults.iter().find(|(from, to, _)| (*from..*to).contains(&now)).map(|(.., fault)| *fault);
        match fault {
            Some(Fault::RefusesConnections) => Answer::Refused,
            Some(Fault::Hangs) => Answer::Never,
            Some(Fault::Rejects) => Answer::After(self.usual, Class::Rejected),
            Some(Fault::Fails(share, after)) if luck.f64() < share => Answer::After(after, Class::Failure),
            Some(Fault::Slow(after)) => self.usually(luck, after),
            Some(Fault::Fails(..)) | None => self.usually(luck, self.usual),
        }
    }

    fn usually(&self, luck: &mut fastrand::Rng, about: Duration) -> Answer {
        let class = match luck.f64() {
            draw if draw < self.failing => Class::Failure,
            draw if draw < self.failing + self.rejected => Class::Rejected,
            _ => Class::Success,
        };
        Answer::After(about.mul_f64(0.5 + luck.f64()), class)
    }
}
