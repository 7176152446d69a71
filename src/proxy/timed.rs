//! One request's time, from its arrival until its answer is out of our hands.

use std::rc::Rc;

use http::Response;
use http::request::Parts;

use super::headers::Client;
use super::reply::Fault;
use super::worker::Worker;
use crate::domain::duration::Kind;
use crate::domain::names::VersionId;
use crate::domain::time::Moment;

/// The client did not wait for the answer's end, or was cut off by our own.
const LEFT: &str = "client_left";
const BROKEN: &str = "http_response_incomplete";

/// Owes the metrics one request; pays on drop.
#[derive(Debug)]
pub struct Timed {
    worker: Rc<Worker>,
    arrived: Moment,
    /// The version chosen for it, whoever answers in the end.
    version: Option<VersionId>,
    kind: Kind,
    ended: bool,
}

impl Timed {
    pub fn begin(worker: &Rc<Worker>, client: &Client, parts: &Parts, arrived: Moment) -> Timed {
        let kind = Kind::asked(&parts.method, parts.version, client.scheme());
        Timed { worker: worker.clone(), arrived, version: None, kind, ended: false }
    }

    pub fn chosen(&mut self, version: VersionId) {
        self.version = Some(version);
    }

    pub fn answered<B>(&mut self, response: &Response<B>) {
        self.kind.answer(response.status());
        if let Some(fault) = response.extensions().get::<Fault>() {
            self.kind.fail(fault.error());
        }
    }

    /// The answer came to its end.
    pub fn ended(&mut self) {
        self.ended = true;
    }

    /// The answer broke off at its source.
    pub fn broken(&mut self) {
        self.kind.fail(BROKEN);
        self.ended = true;
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if !self.ended {
            self.kind.fail(LEFT);
        }
        let micros = self.worker.now().0.saturating_sub(self.arrived.0);
        self.worker.recorder.answered(self.version, self.kind, micros);
    }
}
