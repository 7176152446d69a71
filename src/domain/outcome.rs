//! What an attempt came to, and who is to blame for it.

use serde::{Deserialize, Serialize};

/// The class of an outcome. Exactly one is owed for every attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The version answered, and not with an error.
    Success,
    /// 5xx, refused, reset, timed out, cut short: the version's fault.
    Failure,
    /// 4xx: the client's fault, or that of a version that refuses everybody.
    Rejected,
    /// The client left before the end.
    Abandoned,
    /// We caused it: a limit, a descriptor, our closing, an idle connection found dead.
    Ours,
}

impl Class {
    pub const ALL: [Class; 5] = [Class::Success, Class::Failure, Class::Rejected, Class::Abandoned, Class::Ours];

    /// The class of a response that arrived whole.
    #[must_use]
    pub fn of_status(status: http::StatusCode) -> Class {
        match status.as_u16() {
            500..=599 => Class::Failure,
            400..=499 => Class::Rejected,
            _ => Class::Success,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Success => "success",
            Class::Failure => "failure",
            Class::Rejected => "rejected",
            Class::Abandoned => "abandoned",
            Class::Ours => "ours",
        }
    }
}

/// How many of each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Classes {
    pub success: u64,
    pub failure: u64,
    pub rejected: u64,
    pub abandoned: u64,
    pub ours: u64,
}

impl Classes {
    pub fn add(&mut self, class: Class) {
        *self.slot(class) += 1;
    }

    pub fn merge(&mut self, other: &Classes) {
        for class in Class::ALL {
            *self.slot(class) += other.get(class);
        }
    }

    #[must_use]
    pub fn get(&self, class: Class) -> u64 {
        match class {
            Class::Success => self.success,
            Class::Failure => self.failure,
            Class::Rejected => self.rejected,
            Class::Abandoned => self.abandoned,
            Class::Ours => self.ours,
        }
    }

    /// Everything that ended, however.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.judged() + self.abandoned + self.ours
    }

    /// What says something about the version: neither abandoned nor ours.
    #[must_use]
    pub fn judged(&self) -> u64 {
        self.success + self.failure + self.rejected
    }

    /// Failures among the judged; `None` without any.
    #[must_use]
    pub fn error_rate(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        (self.judged() > 0).then(|| self.failure as f64 / self.judged() as f64)
    }

    fn slot(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Success => &mut self.success,
            Class::Failure => &mut self.failure,
            Class::Rejected => &mut self.rejected,
            Class::Abandoned => &mut self.abandoned,
            Class::Ours => &mut self.ours,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_server_errors_are_the_versions_failure() {
        for (status, class) in [
            (200, Class::Success),
            (304, Class::Success),
            (404, Class::Rejected),
            (429, Class::Rejected),
            (500, Class::Failure),
            (504, Class::Failure),
        ] {
            assert_eq!(Class::of_status(http::StatusCode::from_u16(status).unwrap()), class);
        }
    }

    #[test]
    fn an_abandoned_request_is_not_an_error() {
        let mut classes = Classes::default();
        classes.add(Class::Abandoned);
        classes.add(Class::Ours);
        assert_eq!(classes.error_rate(), None);
        classes.add(Class::Success);
        classes.add(Class::Failure);
        assert_eq!(classes.error_rate(), Some(0.5));
        assert_eq!(classes.total(), 4);
    }
}
