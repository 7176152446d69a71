//! One check over the wire: a connection of its own each time, so that an endpoint which accepts none is found out.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::domain::check::{Ask, HealthCheck, HttpCheck};

/// What servers see in their logs.
const AGENT: HeaderValue = HeaderValue::from_static("penstock-health");
/// Of a body that is looked through for a text.
const LOOKED_THROUGH: usize = 64 * 1024;
/// Of a response's head.
const LARGEST_HEAD: usize = 64 * 1024;

/// Asks once; `Ok` is a pass. Either way with what people are told, in a few words.
pub async fn ask(check: &HealthCheck, authority: &str, address: SocketAddr) -> Result<String, String> {
    let asked = async {
        match &check.ask {
            Ask::Tcp => connect(address).await.map(|_accepted| "connected".to_owned()),
            Ask::Http(http) => over_http(http, authority, address).await,
        }
    };
    timeout(check.timeout, asked).await.unwrap_or_else(|_| Err(format!("no answer within {:?}", check.timeout)))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| said(&error))
}

/// The kind is what people know; the text has numbers in it.
fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}

async fn over_http(check: &HttpCheck, authority: &str, address: SocketAddr) -> Result<String, String> {
    let stream = connect(address).await?;
    let handshake = http1::Builder::new().max_buf_size(LARGEST_HEAD).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
    let request = request(check, authority)?;
    let mut exchange = pin!(async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        judge(check, response).await
    });
    // Driven from here, not by a task: a check that is over, or out of time, leaves nothing behind.
    tokio::select! {
        judged = &mut exchange => judged,
        _ended = connection => exchange.await,
    }
}

fn request(check: &HttpCheck, authority: &str) -> Result<Request<Empty<Bytes>>, String> {
    let host = check.host.as_deref().unwrap_or(authority);
    let request = Request::builder().method(Method::GET).uri(&check.path).header(HOST, host);
    let request = request.header(USER_AGENT, AGENT).header(ACCEPT, "*/*").header(CONNECTION, "close");
    request.body(Empty::new()).map_err(|error| format!("cannot be asked: {error}"))
}

fn broken(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause {
        _ if error.is_parse() => "the answer is not HTTP".to_owned(),
        Some(cause) => said(cause),
        None => "the connection ended before the answer".to_owned(),
    }
}

/// A redirect is an answer like any other.
async fn judge(check: &HttpCheck, response: Response<Incoming>) -> Result<String, String> {
    let status = response.status().as_u16();
    if !check.expect_status.contain(status) {
        return Err(format!("status {status}"));
    }
    let Some(text) = &check.expect_body else { return Ok(format!("status {status}")) };
    if contains(response.into_body(), text.as_bytes()).await? {
        return Ok(format!("status {status}"));
    }
    Err(format!("status {status}, and the body does not have the expected text"))
}

/// Looks through the first part of a body.
async fn contains(mut body: Incoming, text: &[u8]) -> Result<bool, String> {
    let mut read: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Some(piece) = frame.data_ref() else { continue };
        let fresh = read.len().saturating_sub(text.len());
        read.extend_from_slice(&piece[..piece.len().min(LOOKED_THROUGH - read.len())]);
        if read[fresh..].windows(text.len()).any(|window| window == text) {
            return Ok(true);
        }
        if read.len() == LOOKED_THROUGH {
            return Ok(false);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::domain::check::Statuses;

    fn http(edit: impl FnOnce(&mut HttpCheck)) -> HealthCheck {
        let mut http = HttpCheck::default();
        edit(&mut http);
        HealthCheck { ask: Ask::Http(http), timeout: Duration::from_millis(300), ..HealthCheck::default() }
    }

    /// Asks a server that says exactly this; returns what was asked, and what came of it.
    async fn asked(check: &HealthCheck, answer: &'static str) -> (String, Result<String, String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            stream.write_all(answer.as_bytes()).await.unwrap();
            request.truncate(read);
            if answer.is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            String::from_utf8(request).unwrap()
        };
        let (request, result) = tokio::join!(server, ask(check, "shop:80", address));
        (request, result)
    }

    #[tokio::test]
    async fn a_check_says_who_it_is_and_takes_every_status_but_errors() {
        let check = http(|_| {});
        let (request, passed) = asked(&check, "HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(passed, Ok("status 204".to_owned()));
        for line in ["GET /health HTTP/1.1\r\n", "user-agent: penstock-health\r\n", "host: shop:80\r\n"] {
            assert!(request.contains(line), "{request}");
        }
        let moved = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(asked(&check, moved).await.1, Ok("status 302".to_owned()), "it is not followed");
        let broken = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(asked(&check, broken).await.1, Err("status 503".to_owned()));
    }

    #[tokio::test]
    async fn another_host_path_status_and_body_can_be_asked_for() {
        let check = http(|http| {
            http.path = "/up?full".to_owned();
            http.host = Some("shop.example.com".to_owned());
            http.expect_status = Statuses::parse("503").unwrap();
            http.expect_body = Some("all well".to_owned());
        });
        let chunked = "HTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nit is a\r\n7\r\nll well\r\n0\r\n\r\n";
        let (request, passed) = asked(&check, chunked).await;
        assert_eq!(passed, Ok("status 503".to_owned()));
        assert!(request.contains("GET /up?full HTTP/1.1\r\n") && request.contains("host: shop.example.com\r\n"));
        let other = "HTTP/1.1 503 x\r\nContent-Length: 8\r\n\r\nall ill!";
        assert!(asked(&check, other).await.1.unwrap_err().contains("expected text"));
    }

    #[tokio::test]
    async fn what_is_no_answer_fails_in_words() {
        let check = http(|_| {});
        assert_eq!(asked(&check, "SSH-2.0-x\r\n\r\n").await.1, Err("the answer is not HTTP".to_owned()));
        assert_eq!(asked(&check, "").await.1, Err("no answer within 300ms".to_owned()));
        assert_eq!(asked(&check, "HTTP/1.1 200").await.1, Err("the connection ended before the answer".to_owned()));
        let tcp = HealthCheck { ask: Ask::Tcp, ..HealthCheck::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(ask(&tcp, "x:1", address).await, Ok("connected".to_owned()));
        drop(listener);
        assert_eq!(ask(&tcp, "x:1", address).await, Err("connection refused".to_owned()));
    }
}
