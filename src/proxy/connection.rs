//! One client connection: TLS if its listener has it, then HTTP/1.1 or HTTP/2, until it ends, is idle for too long,
//! sends its head too slowly, or is drained.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::activity::{Activity, Busy, Watched};
use super::body::Outgoing;
use super::handle::handle;
use super::headers::{Client, Proof};
use super::listener::Rules;
use super::stall::{self, Stall};
use super::tls::Tls;
use super::worker::Worker;

/// Request heads up to this size; larger ones are answered with 431.
const LARGEST_HEAD: usize = 64 * 1024;
const MOST_HEADERS: usize = 100;

/// TLS handshakes of one worker at a time: each costs as much as a hundred requests, and a flood of them must leave
/// time for those.
const HANDSHAKES: u32 = 256;

/// HTTP/2 as an edge should offer it: what one client may have us hold is bounded by streams times window.
const STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that a client resets before we have seen them (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// Streams that we reset for a client's errors (CVE-2025-8671) before the connection ends.
const OWN_RESETS: usize = 100;
/// A client that does not answer a ping is gone.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);

/// Every HTTP/2 connection begins with it (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A preface that comes in pieces is looked at this often.
const LOOK: Duration = Duration::from_millis(5);

/// Serves one client until its connection is over. Errors are the client's and end nothing else.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, rules: Arc<Rules>) {
    let Ok(local) = stream.local_addr() else { return };
    let _counted = worker.load.connection();
    let activity = Activity::new(worker.now());
    let client = Client::new(peer, local, rules.clone());
    let ended = match &rules.tls {
        Some(tls) => encrypted(&worker, activity, client, tls, stream).await,
        None if rules.h2c && begins_http2(&worker, &activity, &stream).await => {
            http2(&worker, activity, client, stream).await
        }
        None => http1(&worker, activity, client, stream).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "client connection ended");
    }
}

/// Why a connection ended otherwise than by its own will.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("TLS: {0}")]
    Handshake(io::Error),
    #[error("the TLS handshake took too long")]
    HandshakeLate,
    #[error("too many TLS handshakes at once")]
    HandshakesFull,
}

/// TLS, then the protocol that was negotiated, never another.
async fn encrypted(
    worker: &Rc<Worker>,
    activity: Rc<Activity>,
    client: Client,
    tls: &Tls,
    stream: TcpStream,
) -> Result<(), Ended> {
    let stream = Box::new(handshake(worker, tls, stream).await?);
    let session = stream.get_ref().1;
    let h2 = session.alpn_protocol() == Some(b"h2");
    let proof = session.peer_certificates().and_then(|chain| Proof::of(chain.first()?));
    let client = client.secured(session.server_name().map(Into::into), proof);
    if h2 { http2(worker, activity, client, stream).await } else { http1(worker, activity, client, stream).await }
}

async fn handshake(worker: &Worker, tls: &Tls, stream: TcpStream) -> Result<TlsStream<TcpStream>, Ended> {
    let limits = worker.limits.get();
    let _one_of_few = worker.handshakes.enter(HANDSHAKES).ok_or(Ended::HandshakesFull)?;
    let deadline = worker.deadlines.deadline();
    deadline.set(worker.now().plus(limits.tls_handshake));
    let accepted = deadline.race(TlsAcceptor::from(tls.config.clone()).accept(stream)).await;
    accepted.map_err(|_| Ended::HandshakeLate)?.map_err(Ended::Handshake)
}

/// Whether a client on a plain port speaks HTTP/2 without having asked (RFC 9113 §3.3). Waits for no more bytes than it
/// takes to tell, and no longer than for a request head.
async fn begins_http2(worker: &Worker, activity: &Activity, stream: &TcpStream) -> bool {
    let deadline = worker.deadlines.deadline();
    let mut seen = [0; PREFACE.len()];
    loop {
        match activity.due(worker) {
            Some(due) => deadline.set(due),
            None => deadline.clear(),
        }
        let Ok(Ok(length)) = deadline.race(stream.peek(&mut seen)).await else { return false };
        match seen[..length] {
            [] => return false,
            _ if length == PREFACE.len() => return seen == *PREFACE,
            _ if !PREFACE.starts_with(&seen[..length]) => return false,
            _ if deadline.race(tokio::time::sleep(LOOK)).await.is_err() => return false,
            _ => {}
        }
    }
}

async fn http1<S: AsyncRead + AsyncWrite + Unpin>(
    worker: &Rc<Worker>,
    activity: Rc<Activity>,
    client: Client,
    stream: S,
) -> Result<(), Ended> {
    let io = Watched::new(stream, worker, &activity);
    let client = Rc::new(client);
    let service = {
        let (worker, activity) = (worker.clone(), activity.clone());
        service_fn(move |request| answer(worker.clone(), client.clone(), activity.begin(&worker), request))
    };
    let mut builder = http1::Builder::new();
    builder.max_headers(MOST_HEADERS).max_header_size(LARGEST_HEAD).half_close(false);
    let mut connection = pin!(builder.serve_connection(io, service));
    let deadline = worker.deadlines.deadline();
    poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended.map_err(Ended::Http));
        }
        match activity.due(worker) {
            Some(due) => deadline.set(due),
            None => deadline.clear(),
        }
        deadline.poll(cx).map(|_late| Ok(()))
    })
    .await
}

async fn http2<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    worker: &Rc<Worker>,
    activity: Rc<Activity>,
    client: Client,
    stream: S,
) -> Result<(), Ended> {
    let io = Watched::new(stream, worker, &activity);
    let client = Rc::new(client);
    let service = {
        let (worker, activity) = (worker.clone(), activity.clone());
        service_fn(move |request| answer(worker.clone(), client.clone(), activity.begin(&worker), request))
    };
    let mut builder = http2::Builder::new(Streams(worker.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(OWN_RESETS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let mut connection = pin!(builder.serve_connection(io, service));
    let deadline = worker.deadlines.deadline();
    let mut leaving = false;
    poll_fn(|cx| {
        if worker.draining().is_some() && !leaving {
            leaving = true;
            connection.as_mut().graceful_shutdown(); // GOAWAY, and no stream that was begun is lost
        }
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended.map_err(Ended::Http));
        }
        match activity.due(worker) {
            Some(due) => deadline.set(due),
            None => deadline.clear(),
        }
        deadline.poll(cx).map(|_late| Ok(()))
    })
    .await
}

/// Streams are tasks of the worker's own thread.
#[derive(Debug, Clone)]
struct Streams(Rc<Worker>);

impl<F: Future + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(stall::watched(self.0.clone(), stream));
    }
}

async fn answer(
    worker: Rc<Worker>,
    client: Rc<Client>,
    busy: Busy,
    request: Request<Incoming>,
) -> Result<Response<Outgoing>, Infallible> {
    let version = request.version();
    let mut response = handle(&worker, &client, request).await.map(|body| body.holding(busy, Stall::current()));
    let headers = response.headers_mut();
    if version == Version::HTTP_2 {
        headers.remove(header::CONNECTION); // RFC 9113 §8.2.2: no stream may say what becomes of the connection
    } else if worker.draining().is_some() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(hsts) = client.hsts() {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    Ok(response)
}
