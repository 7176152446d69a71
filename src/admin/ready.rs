//! Whether traffic may be sent here, told by whoever brings the parts up.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by `app` as the parts come up and go down; `/ready` answers from it.
#[derive(Debug, Default)]
pub struct Readiness {
    listening: AtomicBool,
    published: AtomicBool,
    stopping: AtomicBool,
}

impl Readiness {
    /// All listeners are bound.
    pub fn listening(&self) {
        self.listening.store(true, Ordering::Release);
    }

    /// The workers have a first snapshot to route by.
    pub fn published(&self) {
        self.published.store(true, Ordering::Release);
    }

    /// Shutting down: balancers should look elsewhere from now on.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// What keeps it from being ready; nothing, once it is.
    #[must_use]
    pub fn reasons(&self) -> Vec<&'static str> {
        let reasons = [
            (!self.listening.load(Ordering::Acquire), "the listeners are not bound yet"),
            (!self.published.load(Ordering::Acquire), "the first snapshot is not published yet"),
            (self.stopping.load(Ordering::Acquire), "the proxy is shutting down"),
        ];
        reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
    }
}
