//! Talks to one proxy's admin listener: a connection per request, everything bounded in time and size.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::failure::{Exit, Failure};
use crate::admin::wire::Problem;

const CONNECT: Duration = Duration::from_secs(2);
/// From the first byte to the last, connecting included.
const TOTAL: Duration = Duration::from_secs(10);
/// Silence on an event stream after which it is taken for dead: three heartbeats.
const SILENCE: Duration = Duration::from_secs(45);
/// An answer is some KiB per service.
const LARGEST: usize = 64 << 20;
/// One event.
const LARGEST_EVENT: usize = 1 << 20;
const PORT: u16 = 9900;

#[derive(Debug)]
pub struct Client {
    admin: Authority,
}

impl Client {
    pub fn new(admin: Authority) -> Client {
        Client { admin }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }

    /// Sends a request and reads the answer, or the problem.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<T, Failure> {
        let exchange = async {
            let response = self.send(method, path, headers, body).await?;
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|error| self.unreachable(error))?;
            Ok(serde_json::from_slice(&body.to_bytes())?)
        };
        timeout(TOTAL, exchange).await.unwrap_or_else(|_| Err(self.unreachable("no answer in time")))
    }

    /// Follows the events that come after a revision; without one, those from now on.
    pub async fn watch(&self, after: Option<u64>) -> Result<Feed, Failure> {
        let headers = after.map(|after| (header::HeaderName::from_static("last-event-id"), after.into()));
        let response = self.send(Method::GET, "/v1/events", headers.into_iter().collect(), Bytes::new());
        let response = timeout(TOTAL, response).await.unwrap_or_else(|_| Err(self.unreachable("no answer in time")))?;
        Ok(Feed { body: response.into_body(), text: Vec::new() })
    }

    /// The response's head; an error status is a failure already.
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::new(Full::new(body));
        (*request.method_mut(), *request.headers_mut()) = (method, headers);
        *request.uri_mut() = path.parse().map_err(|_| Failure::new(Exit::Usage, format!("`{path}` is not a path")))?;
        let host = self.admin.as_str().parse().map_err(|_| Failure::new(Exit::Usage, "the admin address is odd"))?;
        request.headers_mut().insert(header::HOST, host);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect().await?)).await.map_err(|error| self.unreachable(error))?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.problem(response).await) }
    }

    async fn connect(&self) -> Result<TcpStream, Failure> {
        let host = self.admin.host().trim_start_matches('[').trim_end_matches(']');
        let connect = TcpStream::connect((host, self.admin.port_u16().unwrap_or(PORT)));
        match timeout(CONNECT, connect).await {
            Ok(connected) => connected.map_err(|error| self.unreachable(error)),
            Err(_) => Err(self.unreachable("no connection in time")),
        }
    }

    async fn problem(&self, response: Response<Incoming>) -> Failure {
        let status = response.status();
        match Limited::new(response.into_body(), LARGEST).collect().await {
            Ok(body) => {
                serde_json::from_slice::<Problem>(&body.to_bytes()).map_or_else(|_| self.odd(status), Failure::from)
            }
            Err(error) => self.unreachable(error),
        }
    }

    fn odd(&self, status: StatusCode) -> Failure {
        Failure::new(Exit::Error, format!("`{}` answered {status}, and not as Penstock would", self.admin))
            .help("is this really the proxy's admin address? set it with `--admin` or `PENSTOCK_ADMIN`")
    }

    fn unreachable(&self, error: impl Display) -> Failure {
        Failure::new(Exit::Unreachable, format!("cannot reach the admin listener at `{}`: {error}", self.admin))
            .help("is the proxy running? set its address with `--admin` or `PENSTOCK_ADMIN`")
    }
}

/// An open event stream.
pub struct Feed {
    body: Incoming,
    text: Vec<u8>,
}

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub id: u64,
    pub event: String,
    pub data: String,
}

impl Feed {
    /// The next event; `None` when the stream has ended, or nothing was heard for too long.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            while let Some(block) = take_block(&mut self.text) {
                if let Some(message) = Message::read(&block) {
                    return Some(message);
                }
            }
            let frame = timeout(SILENCE, self.body.frame()).await.ok()??.ok()?;
            self.text.extend(frame.into_data().ok()?);
            if self.text.len() > LARGEST_EVENT {
                return None;
            }
        }
    }
}

/// Takes what stands before the first empty line.
fn take_block(text: &mut Vec<u8>) -> Option<String> {
    let end = text.windows(2).position(|pair| pair == b"\n\n")?;
    let block = text.drain(..end + 2).collect();
    String::from_utf8(block).ok()
}

impl Message {
    /// Comments are not messages, and neither is anything without an id.
    fn read(block: &str) -> Option<Message> {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let (event, data) = (field("event:")?.to_owned(), field("data:")?.to_owned());
        Some(Message { id: field("id:")?.parse().ok()?, event, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let mut text = Vec::new();
        let mut read = Vec::new();
        for byte in b": hello\nretry: 1000\n\nid: 7\nevent: aborted\ndata: {}\n\nid: 8\n" {
            text.push(*byte);
            read.extend(take_block(&mut text).and_then(|block| Message::read(&block)));
        }
        assert_eq!(read, [Message { id: 7, event: "aborted".to_owned(), data: "{}".to_owned() }]);
        assert_eq!(text, b"id: 8\n");
    }
}
