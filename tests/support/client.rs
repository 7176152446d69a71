//! A client that sends exactly what it is told and says exactly what came back.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::DEADLINE;

/// Bytes of a body kept; the rest is counted.
const KEPT: usize = 1024 * 1024;

/// One connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// A response as far as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub body_length: u64,
    /// Whether the message ended as its framing says.
    pub whole: bool,
}

impl Response {
    /// The value of a field that is there at most once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "more than one {name}: {all:?}");
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The error of RFC 9209 in an answer that the proxy made itself.
    pub fn fault(&self) -> &str {
        self.header("proxy-status").and_then(|status| status.strip_prefix("penstock; error=")).unwrap_or("none")
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).unwrap()
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Client::over(stream, 128 * 1024))
    }

    /// On a connection that is there already, reading at most so many bytes ahead.
    pub fn over(stream: TcpStream, ahead: usize) -> Client {
        Client { stream: BufReader::with_capacity(ahead, stream) }
    }

    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Sends a request without a body, and waits for the response.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n"))
    }

    #[track_caller]
    pub fn post(&mut self, path: &str, body: &str) -> Response {
        self.ask(&format!("POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// Sends exactly this, and waits for the response.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> Response {
        self.send(request).unwrap();
        let head = request.starts_with("HEAD");
        self.receive(head).unwrap()
    }

    pub fn try_ask(&mut self, request: &str) -> io::Result<Response> {
        self.send(request)?;
        self.receive(false)
    }

    /// The next response. An error: there was none.
    pub fn receive(&mut self, to_head: bool) -> io::Result<Response> {
        let mut response = self.receive_head()?;
        if !to_head && response.status != 204 && response.status != 304 {
            response.whole = self.receive_body(&mut response)?;
        }
        Ok(response)
    }

    /// The next response's head; its body is still to come.
    pub fn receive_head(&mut self) -> io::Result<Response> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(head.clone()))?;
        if status == 100 {
            return self.receive_head();
        }
        Ok(Response { status, head, body: Vec::new(), body_length: 0, whole: true })
    }

    /// Whether the body came whole. A reset is a body cut short; a timeout is an error.
    pub fn receive_body(&mut self, response: &mut Response) -> io::Result<bool> {
        match self.framed_body(response) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(_) => Ok(false),
            Ok(()) => Ok(true),
        }
    }

    fn framed_body(&mut self, response: &mut Response) -> io::Result<()> {
        if let Some(length) = response.header("content-length").and_then(|length| length.parse().ok()) {
            return self.bytes(length, response);
        }
        if response.header("transfer-encoding") != Some("chunked") {
            let rest = io::copy(&mut self.stream, &mut response.body)?;
            response.body_length += rest;
            return Ok(());
        }
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            self.bytes(length, response)?;
            let mut end = [0; 2];
            self.stream.read_exact(&mut end)?;
            if length == 0 {
                return Ok(());
            }
        }
    }

    fn bytes(&mut self, length: u64, response: &mut Response) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let piece = self.stream.fill_buf()?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let room = KEPT - response.body.len().min(KEPT);
            response.body.extend_from_slice(&piece[..taken.min(room)]);
            self.stream.consume(taken);
            response.body_length += taken as u64;
            left -= taken as u64;
        }
        Ok(())
    }

    /// Exactly so many bytes, as they came.
    #[track_caller]
    pub fn read_exact(&mut self, bytes: &mut [u8]) {
        self.stream.read_exact(bytes).unwrap();
    }

    /// Whether the proxy closes this connection within the deadline, without saying anything more.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(rest) => rest.is_empty(),
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Whether the connection is still open after a while.
    pub fn is_open_after(&mut self, wait: Duration) -> bool {
        self.socket().set_read_timeout(Some(wait)).unwrap();
        let open = self.stream.fill_buf().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.socket().set_read_timeout(Some(DEADLINE)).unwrap();
        open
    }
}
