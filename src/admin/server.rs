//! The listener: loopback only, bounded, and ending when told to.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::Api;
use super::body::LARGEST;
use super::caller::Peer;
use super::guard::{Hosts, guard};
use super::metrics::Outside;
use super::ready::Readiness;
use crate::control::command::Control;

/// Connections at a time; further ones wait in the backlog. Loopback clients are people and scrapers.
const MOST_CONNECTIONS: usize = 256;

/// For a request head, and for the next one on an idle connection.
const HEAD: Duration = Duration::from_secs(10);

/// For requests under way at shutdown: the engine answers within a tick.
const FAREWELL: Duration = Duration::from_secs(2);

/// After a failed accept (out of descriptors): time for some to come free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why the admin listener was not opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("the admin address `{0}` is not a loopback address, and there is no authentication yet")]
    NotLoopback(SocketAddr),
    #[error("cannot listen on the admin address `{0}`: {1}")]
    Bind(SocketAddr, #[source] io::Error),
}

/// Opens the listener, which refuses to be reachable from other machines.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    let listen = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|error| BindError::Bind(address, error))
}

/// Serves until `shutdown`, then lets requests under way end. Wants a runtime of its own, so that a flood of requests
/// to the proxy cannot keep an abort waiting.
pub async fn serve(
    listener: TcpListener,
    control: Control,
    readiness: Arc<Readiness>,
    outside: Outside,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let closing = CancellationToken::new();
    let hosts = Hosts::of(listener.local_addr()?);
    let router = router(Api::new(control, readiness, closing.clone()).seeing(outside), hosts);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = TaskTracker::new();
    tokio::select! {
        () = accept(listener, router, &connections, &closing) => {}
        () = shutdown => {}
    }
    closing.cancel();
    connections.close();
    if timeout(FAREWELL, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "admin requests still under way were left behind");
    }
    Ok(())
}

/// The whole API behind its guard.
pub fn router(api: Api, hosts: Hosts) -> Router {
    api.router().layer(DefaultBodyLimit::max(LARGEST)).layer(from_fn_with_state(hosts, guard))
}

/// Never ends by itself.
async fn accept(
    listener: tokio::net::TcpListener,
    router: Router,
    connections: &TaskTracker,
    closing: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, router.clone(), closing.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, address: SocketAddr, router: Router, closing: CancellationToken) {
    let router = TowerToHyperService::new(router);
    let peer = Peer { address, hang_up: CancellationToken::new() };
    let hang_up = peer.hang_up.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = hang_up.cancelled() => return,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %address, %error, "an admin connection ended early");
    }
}
