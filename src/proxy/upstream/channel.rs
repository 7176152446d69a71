//! One connection to an endpoint.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::net::TcpStream;

use super::download::Download;
use super::upload::Upload;
use super::wire::{Stopped, Wire};
use crate::domain::names::EndpointId;
use crate::domain::pool::Slot;
use crate::domain::time::Moment;

/// A connection that had been idle for at least this long and is found dead was closed for its idleness, not for the
/// request.
const IDLE_RACE: Duration = Duration::from_millis(500);

/// A connection to an endpoint, and since when it has been idle.
#[derive(Debug)]
pub struct Channel {
    /// Boxed: it moves with every request from the idle ones to the exchange, to the body, and back.
    wire: Box<Wire<TcpStream>>,
    endpoint: EndpointId,
    /// `None` on its first exchange.
    idle_since: Option<Moment>,
    /// That are over.
    exchanges: u32,
    /// Its place among the endpoint's connections.
    slot: Slot,
}

/// Why an exchange brought no response head.
#[derive(Debug)]
pub enum Failed {
    /// Nothing of the request was written: it is whole, and may go elsewhere.
    Unsent(Request<Upload>),
    /// The request's own body broke off.
    Upload,
    /// The connection ended.
    Terminated,
    /// What came back is not HTTP.
    Malformed,
    /// `patience` ran out.
    Late,
}

impl Channel {
    pub async fn connect(endpoint: EndpointId, address: SocketAddr, slot: Slot) -> io::Result<Channel> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Channel { wire: Box::new(Wire::new(stream)), endpoint, idle_since: None, exchanges: 0, slot })
    }

    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        self.endpoint
    }

    #[must_use]
    pub fn reused(&self) -> bool {
        self.idle_since.is_some()
    }

    /// Whether it had been idle for so long before this exchange that the other side may have closed it meanwhile.
    #[must_use]
    pub fn was_idle(&self, now: Moment) -> bool {
        self.idle_for(now) >= IDLE_RACE
    }

    #[must_use]
    pub fn idle_for(&self, now: Moment) -> Duration {
        self.idle_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Exchanges that are over.
    #[must_use]
    pub fn exchanges(&self) -> u32 {
        self.exchanges
    }

    /// Its exchange is over, until the next.
    pub fn rest(&mut self, now: Moment) {
        self.idle_since = Some(now);
        self.exchanges = self.exchanges.saturating_add(1);
    }

    /// Sends a request and waits for the response head, until `patience` says that it has been too long.
    pub async fn exchange(
        &mut self,
        request: Request<Upload>,
        mut patience: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<Response<Download>, Failed> {
        let wire = &mut *self.wire;
        wire.begin(request);
        let head = poll_fn(|cx| match wire.poll_head(cx) {
            Poll::Pending => patience(cx).map(|()| None),
            Poll::Ready(head) => Poll::Ready(Some(head)),
        });
        match head.await {
            Some(Ok(head)) => {
                let download = Download::new(head.ending, wire);
                Ok(head.response.map(|()| download))
            }
            Some(Err(Stopped::Upload)) => Err(Failed::Upload),
            Some(Err(Stopped::Closed)) => Err(wire.unsent().map_or(Failed::Terminated, Failed::Unsent)),
            Some(Err(Stopped::Malformed)) => Err(Failed::Malformed),
            None => Err(Failed::Late),
        }
    }

    /// Moves what is left of an upload. To be polled while a response body is waited for.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        // What fails here ends the connection; the answer is under way already.
        let _failed = self.wire.send(cx);
    }

    /// Whether it can carry another exchange: the last one is over, and the other side has not closed it.
    pub fn lives(&mut self, cx: &mut Context<'_>) -> bool {
        self.wire.lives(cx)
    }

    pub fn wire(&mut self) -> &mut Wire<TcpStream> {
        &mut self.wire
    }
}
