//! This worker's connections to endpoints, and our HTTP/1.1 client (RFC 9112): strict in what it reads, and with all of
//! what it writes for a small request in one piece.
//!
//! ```text
//!   request ──▶ head, sending ──▶ outbox ──▶ ┐        ┌ wire: one exchange at a time on one stream
//!               (upload, chunked)            │ stream ┤ channel: a wire to an endpoint, and since when it is idle
//!   download ◀─ head, framing ◀── inbox ◀─── ┘        └ Upstreams: the idle channels
//!               (chunked)
//! ```
//!
//! Everything is polled inside the request's task, by [`Channel::exchange`] and then by [`Download::poll_frame`], never
//! in a task of its own: no wake-ups between tasks, and dropping the request drops the connection. A connection is used
//! again only when both sides of the last exchange are complete and nothing else has come.

mod channel;
mod chunked;
mod download;
mod framing;
mod head;
mod inbox;
mod outbox;
mod sending;
#[cfg(test)]
mod testing;
mod upload;
mod wire;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::domain::names::EndpointId;
use crate::domain::time::Moment;

pub use channel::{Channel, Failed};
pub use download::{Damaged, Download};
pub use upload::{Progress, Upload, UploadState};

/// Idle connections kept per endpoint and worker; the oldest goes first.
const IDLE_PER_ENDPOINT: usize = 256;
/// Kept below the idle limits that servers commonly have (nginx 75 s, Apache 5 s closes on its own and is noticed).
const IDLE_FOR: Duration = Duration::from_secs(30);

/// A connection that was idle for longer may be about to be closed: common servers do so after some seconds.
const YOUNG: Duration = Duration::from_secs(1);
/// For so long an endpoint that closed a connection after one exchange is taken to do so with others.
const HASTY_FOR: Duration = Duration::from_secs(10);

/// Idle connections, most recently used last.
#[derive(Debug, Default)]
pub struct Upstreams {
    idle: RefCell<BTreeMap<EndpointId, Vec<Channel>>>,
    /// Endpoints that closed a young connection after its first exchange, and when.
    hasty: RefCell<BTreeMap<EndpointId, Moment>>,
}

/// Which idle connections will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    Any,
    /// For what must not be sent twice: what is written to a connection in the moment of its closing is lost.
    Young,
}

impl Upstreams {
    /// The most recently used connection that still lives.
    pub async fn take(&self, endpoint: EndpointId, trust: Trust, now: Moment) -> Option<Channel> {
        poll_fn(|cx| {
            while let Some(mut channel) = self.newest(endpoint, trust, now) {
                if channel.lives(cx) {
                    return Poll::Ready(Some(channel));
                }
                self.found_dead(&channel, now);
            }
            Poll::Ready(None)
        })
        .await
    }

    fn newest(&self, endpoint: EndpointId, trust: Trust, now: Moment) -> Option<Channel> {
        let will_do = |newest: &mut Channel| {
            let hasty = || self.hasty.borrow().get(&endpoint).is_some_and(|seen| now.since(*seen) < HASTY_FOR);
            trust == Trust::Any || (newest.idle_for(now) < YOUNG && !hasty())
        };
        self.idle.borrow_mut().get_mut(&endpoint)?.pop_if(will_do)
    }

    /// Learns from a connection that died while it was idle, or as it was used again.
    pub fn found_dead(&self, channel: &Channel, now: Moment) {
        if channel.exchanges() == 1 && channel.idle_for(now) < YOUNG {
            self.hasty.borrow_mut().insert(channel.endpoint(), now);
        }
    }

    /// Keeps a connection whose exchange is over for the next one.
    pub fn give_back(&self, mut channel: Channel, now: Moment) {
        channel.rest(now);
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry(channel.endpoint()).or_default();
        if kept.len() == IDLE_PER_ENDPOINT {
            kept.remove(0);
        }
        kept.push(channel);
    }

    /// Closes the idle connections to endpoints that get nothing new any more.
    pub fn keep(&self, open: impl Fn(EndpointId) -> bool) {
        self.idle.borrow_mut().retain(|endpoint, _| open(*endpoint));
    }

    /// Closes the oldest connection to every endpoint that somebody waits for room at; says whether there was one.
    pub fn close_wanted(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let wanted = idle.values_mut().filter(|kept| kept.first().is_some_and(|oldest| oldest.slot().wanted()));
        wanted.map(|kept| kept.remove(0)).count() > 0
    }

    /// Drops what was closed by the other side, or has been idle for too long.
    pub fn reap(&self, now: Moment) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut idle = self.idle.borrow_mut();
        for kept in idle.values_mut() {
            kept.retain_mut(|channel| channel.idle_for(now) < IDLE_FOR && channel.lives(&mut cx));
        }
        idle.retain(|_, kept| !kept.is_empty());
        self.hasty.borrow_mut().retain(|_, seen| now.since(*seen) < HASTY_FOR);
    }
}
