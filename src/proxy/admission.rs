//! What stands between a request's service and its version: the rate limit, then the hold queue.

use http::header::HeaderMap;

use super::headers::Client;
use super::hold;
use super::reply::Fault;
use super::worker::Worker;
use crate::domain::snapshot::Service;

/// Whether a request went on at once. One that was held chooses again: it may be here because its version went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    AtOnce,
    Held,
}

/// Lets a request in, now or later, or not at all. Nothing is charged to any version for what is refused here.
pub async fn admit(
    worker: &Worker,
    client: &Client,
    headers: &HeaderMap,
    service: &Service,
) -> Result<Admitted, Fault> {
    if let Some(rule) = &service.gate.rate_limit {
        worker.limiters.check(&service.name, rule, client.ip(), headers).map_err(|wait| {
            worker.recorder.turned(&service.name, |turned| turned.rate_limited += 1);
            Fault::rate_limited(wait)
        })?;
    }
    if service.gate.paused.is_none() || !service.gate.is_paused(worker.now()) {
        return Ok(Admitted::AtOnce);
    }
    hold::wait(worker, service).await.map(|()| Admitted::Held)
}
