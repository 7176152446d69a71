//! One log line per request, for those who ask for it: off by default.

use std::rc::Rc;

use http::header::HeaderValue;
use http::request::Parts;
use http::uri::Authority;
use http::{Method, StatusCode};

use super::headers::Client;
use super::worker::Worker;
use crate::domain::snapshot::Service;
use crate::domain::split::{Choice, Selected};
use crate::domain::time::{Moment, micros};

/// What a line is made of; written when dropped, which is when the response is out of our hands. No query strings: they
/// hold secrets.
#[derive(Debug)]
pub struct Access {
    worker: Rc<Worker>,
    arrived: Moment,
    client: HeaderValue,
    request_id: HeaderValue,
    method: Method,
    host: String,
    path: String,
    chosen: Option<Chosen>,
    status: Option<StatusCode>,
    bytes_out: u64,
    /// Whether the response came to its end; otherwise the client left, or it broke off.
    whole: bool,
}

#[derive(Debug)]
struct Chosen {
    service: String,
    version: String,
    role: &'static str,
    selected: Selected,
}

impl Access {
    /// `None` if nobody asked for a log.
    #[must_use]
    pub fn begin(
        worker: &Rc<Worker>,
        client: &Client,
        parts: &Parts,
        arrived: Moment,
        request_id: &HeaderValue,
    ) -> Option<Box<Access>> {
        worker.access_log.then(|| {
            Box::new(Access {
                worker: worker.clone(),
                arrived,
                client: client.address().clone(),
                request_id: request_id.clone(),
                method: parts.method.clone(),
                host: String::new(),
                path: parts.uri.path().to_owned(),
                chosen: None,
                status: None,
                bytes_out: 0,
                whole: false,
            })
        })
    }

    pub fn chosen(&mut self, authority: Option<&Authority>, service: &Service, choice: Choice) {
        self.host = authority.map(ToString::to_string).unwrap_or_default();
        self.chosen = Some(Chosen {
            service: service.name.to_string(),
            version: service.versions[choice.version].name.to_string(),
            role: service.split.role(choice.version).map_or("none", crate::domain::split::Role::as_str),
            selected: choice.selected,
        });
    }

    /// `empty`: there is no body whose end could be noted.
    pub fn answered(&mut self, status: StatusCode, empty: bool) {
        self.status = Some(status);
        self.whole = empty;
    }

    pub fn sent(&mut self, bytes: u64) {
        self.bytes_out += bytes;
    }

    pub fn ended(&mut self) {
        self.whole = true;
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let chosen = self.chosen.as_ref();
        #[expect(clippy::cast_precision_loss, reason = "a request does not take 285 years")]
        let dur_ms = micros(self.worker.now().since(self.arrived)) as f64 / 1_000.0;
        tracing::info!(
            target: "penstock::access",
            request_id = self.request_id.to_str().unwrap_or_default(),
            client_ip = self.client.to_str().unwrap_or_default(),
            method = %self.method,
            host = self.host,
            path = self.path,
            service = chosen.map(|chosen| chosen.service.as_str()),
            version = chosen.map(|chosen| chosen.version.as_str()),
            role = chosen.map(|chosen| chosen.role),
            selected = chosen.map(|chosen| chosen.selected.as_str()),
            // 499: the client left before there was an answer
            status = self.status.map_or(499, |status| status.as_u16()),
            bytes_out = self.bytes_out,
            whole = self.whole,
            dur_ms,
            "request"
        );
    }
}
