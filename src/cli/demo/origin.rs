//! The demo's two versions: small HTTP servers with an adjustable temper.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// A version that answers on a loopback port of its own.
#[derive(Debug)]
pub struct Origin {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Failing answers in a thousand.
    failing: AtomicU64,
    /// Added to every answer's time.
    slow_ms: AtomicU64,
    seen: Mutex<Seen>,
}

/// What the origin itself saw: the demo's independent witness.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    pub first_bad: Option<SystemTime>,
    pub last_request: Option<SystemTime>,
}

impl Origin {
    /// Starts serving on the current runtime.
    pub async fn start(name: &'static str) -> io::Result<Origin> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, state) = (listener.local_addr()?, Arc::new(State::default()));
        tokio::spawn(accept(listener, name, state.clone()));
        Ok(Origin { address, state })
    }

    pub fn fail(&self, per_mille: u64) {
        self.state.failing.store(per_mille, Ordering::Relaxed);
    }

    pub fn slow_down(&self, by: Duration) {
        self.state.slow_ms.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    #[must_use]
    pub fn seen(&self) -> Seen {
        *self.state.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, name: &'static str, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, name, state.clone()));
    }
}

async fn serve(stream: TcpStream, name: &'static str, state: Arc<State>) {
    let _small_answers = stream.set_nodelay(true);
    let service = service_fn(move |_request| answer(name, state.clone()));
    let _client_left = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(name: &'static str, state: Arc<State>) -> Result<Response<Full<Bytes>>, Infallible> {
    let slow = state.slow_ms.load(Ordering::Relaxed);
    let bad = slow > 0 || fastrand::u64(..1_000) < state.failing.load(Ordering::Relaxed);
    state.note(|seen, now| seen.last_request = Some(now));
    tokio::time::sleep(work() + Duration::from_millis(slow)).await;
    if bad {
        state.note(|seen, now| seen.first_bad = seen.first_bad.or(Some(now)));
    }
    let mut response = Response::new(Full::new(Bytes::from(format!("hello from {name}\n"))));
    if bad && slow == 0 {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}

/// One to five milliseconds, now and then more: something like a real service.
fn work() -> Duration {
    let tail = if fastrand::u8(..50) == 0 { 10_000 } else { 0 };
    Duration::from_micros(1_000 + fastrand::u64(..4_000) + fastrand::u64(..=tail))
}

impl State {
    fn note(&self, what: impl FnOnce(&mut Seen, SystemTime)) {
        what(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner), SystemTime::now());
    }
}
