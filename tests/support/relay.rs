//! Between the proxy and a server: passes requests on as they came, and answers as told.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::origin::Request;
use super::{Client, Response};

/// A slow answer comes in so many pieces, so far apart.
const PIECES: usize = 6;
const PAUSE: Duration = Duration::from_millis(4);
const TRAILER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Version: forged\r\n\r\nforged";

/// How an answer is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    Whole,
    /// In pieces.
    Slowly,
    /// Half of it, then the connection is reset.
    Broken,
    /// And behind it an answer that nobody asked for.
    Trailed,
}

/// Whether the connection may be used again.
pub fn forward(
    request: &Request,
    stream: &mut TcpStream,
    to: SocketAddr,
    passing: Passing,
    onward: &mut Option<Client>,
) -> io::Result<bool> {
    assert_eq!(request.body.len() as u64, request.body_length, "longer than what is kept");
    let mut client = onward.take().map_or_else(|| Client::try_connect(to), Ok)?;
    client.send([request.head.as_bytes(), &request.body].concat())?;
    let answer = client.receive(request.method() == "HEAD")?;
    if !answer.whole {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    *onward = Some(client);
    pass(&answer, stream, passing)
}

fn pass(answer: &Response, stream: &mut TcpStream, passing: Passing) -> io::Result<bool> {
    let bytes = [answer.head.as_bytes(), &answer.body].concat();
    match passing {
        Passing::Whole => stream.write_all(&bytes)?,
        Passing::Slowly => {
            for piece in bytes.chunks(bytes.len().div_ceil(PIECES)) {
                stream.write_all(piece)?;
                thread::sleep(PAUSE);
            }
        }
        Passing::Broken => {
            stream.write_all(&bytes[..bytes.len() - answer.body.len().div_ceil(2)])?;
            SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
        }
        Passing::Trailed => stream.write_all(&[bytes.as_slice(), TRAILER].concat())?,
    }
    Ok(passing != Passing::Broken)
}
