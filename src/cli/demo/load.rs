//! The demo's clients: a steady, bounded stream of requests over real sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

/// Clients at work at the same time.
pub const CLIENTS: u32 = 32;

/// What the clients got.
#[derive(Debug, Default)]
pub struct Got {
    pub answers: AtomicU64,
    pub failures: AtomicU64,
}

/// Starts clients that together send `rate` requests a second to `proxy`, until each has sent its part of `rate *
/// at_most`.
pub fn start(proxy: SocketAddr, rate: u32, at_most: Duration) -> Arc<Got> {
    let got = Arc::new(Got::default());
    let pause = Duration::from_secs(1) * CLIENTS / rate.max(1);
    let requests = at_most.as_micros() / pause.as_micros().max(1);
    for _ in 0..CLIENTS {
        tokio::spawn(client(proxy, pause, requests, got.clone()));
    }
    got
}

async fn client(proxy: SocketAddr, pause: Duration, requests: u128, got: Arc<Got>) {
    tokio::time::sleep(pause.mul_f64(fastrand::f64())).await; // not all at once
    let mut due = interval(pause);
    due.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut connection = None;
    for _ in 0..requests {
        due.tick().await;
        let answered = ask(&mut connection, proxy).await;
        got.answers.fetch_add(1, Ordering::Relaxed);
        if !answered.unwrap_or(false) {
            got.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether the answer was a good one. A connection that failed is not used again.
async fn ask(connection: &mut Option<SendRequest<Empty<Bytes>>>, proxy: SocketAddr) -> io::Result<bool> {
    let mut sender = match connection.take() {
        Some(sender) if sender.is_ready() => sender,
        _ => dial(proxy).await?,
    };
    let request = Request::get("/").header("host", "shop.example").body(Empty::new()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let good = !response.status().is_server_error();
    response.into_body().collect().await.map_err(io::Error::other)?;
    sender.ready().await.map_err(io::Error::other)?;
    *connection = Some(sender);
    Ok(good)
}

async fn dial(proxy: SocketAddr) -> io::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}
