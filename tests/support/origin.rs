//! A server that does as it is told, right or wrong, and remembers what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::relay::{Passing, forward};
use super::{Client, DEADLINE};

/// Requests kept word for word.
const KEPT: usize = 512;
/// Bytes of a body kept.
const KEPT_BODY: usize = 64 * 1024;
const BACKLOG: i32 = 1_024;

/// What to do about one request.
#[derive(Debug, Clone)]
pub enum Act {
    /// 200, with the server's name as body.
    Answer,
    /// This status, with the server's name as body.
    Status(u16),
    /// Exactly these bytes; the connection is kept.
    Raw(Vec<u8>),
    /// Exactly these bytes, then the connection is closed.
    RawThenClose(Vec<u8>),
    /// These bytes at once, and nothing more.
    RawThenHang(Vec<u8>),
    /// These bytes, one piece at a time.
    Trickle(Vec<u8>, Duration),
    /// Answers before reading the request's body, and never reads it.
    Early(u16),
    /// Answers well, then closes without having said so.
    AnswerThenClose,
    /// So many bytes, stated as a length.
    Stream(u64),
    /// Answers after a while.
    Late(Duration),
    /// Closes the connection in the way that tells the other side at once.
    Reset,
    Hang,
    /// Asks another server, and passes its answer on.
    Forward(SocketAddr, Passing),
    /// Leaves the request's body in the socket until [`Origin::release`], then goes on.
    Stall,
}

impl Act {
    pub fn raw(text: &str) -> Act {
        Act::Raw(text.into())
    }

    pub fn raw_then_close(text: &str) -> Act {
        Act::RawThenClose(text.into())
    }

    fn is_good(&self) -> bool {
        matches!(
            self,
            Act::Answer | Act::Forward(..) | Act::Stream(_) | Act::Late(_) | Act::AnswerThenClose | Act::Stall
        )
    }

    /// Done without looking at the body.
    fn ignores_body(&self) -> bool {
        matches!(self, Act::Early(_) | Act::Reset | Act::Hang)
    }
}

/// One request as it came over the wire.
#[derive(Debug, Clone)]
pub struct Request {
    /// Everything up to the empty line, byte for byte.
    pub head: String,
    /// The first part of the body, without its framing.
    pub body: Vec<u8>,
    pub body_length: u64,
    /// The serial of the connection it came on.
    pub connection: u64,
}

impl Request {
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// Every value of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    /// The value of a field that is there at most once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "more than one {name}: {all:?}");
        all.first().copied()
    }
}

/// What a server has seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: u64,
    pub connections: u64,
    pub methods: BTreeMap<String, u64>,
    /// Bytes of request bodies read, of all requests.
    pub received: u64,
    /// Bytes of response bodies written by [`Act::Stream`].
    pub sent: u64,
    /// Request bodies that broke off.
    pub broken_bodies: u64,
    pub first_bad: Option<Instant>,
    pub last_request: Option<Instant>,
    kept: VecDeque<Request>,
}

type Script = dyn Fn(&Request) -> Act + Send + Sync;

struct Shared {
    name: String,
    listener: Socket,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    script: Arc<Script>,
    listening: bool,
    ended: bool,
    released: bool,
    open: BTreeMap<u64, TcpStream>,
    seen: Seen,
}

/// A server on a port of its own. Ends when dropped.
pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    /// Starts a server that answers everything with its name.
    pub fn start(name: &str) -> Origin {
        let listener = bound();
        listener.listen(BACKLOG).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let state = State {
            script: Arc::new(|_| Act::Answer),
            listening: true,
            ended: false,
            released: false,
            open: BTreeMap::new(),
            seen: Seen::default(),
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Shared { name: name.to_owned(), listener, state, changed });
        thread::spawn({
            let shared = shared.clone();
            move || shared.accept()
        });
        Origin { address, shared }
    }

    /// An address that nobody listens on, held so that nobody else can have it.
    pub fn absent(name: &str) -> Origin {
        let origin = Origin::start(name);
        origin.stop();
        origin
    }

    /// From now on does this about every request.
    pub fn always(&self, act: Act) -> &Origin {
        self.script(move |_| act.clone())
    }

    /// From now on decides by the request.
    pub fn script(&self, script: impl Fn(&Request) -> Act + Send + Sync + 'static) -> &Origin {
        self.shared.state().script = Arc::new(script);
        self
    }

    /// Ends like a killed process: refuses connections, and those it has are closed.
    pub fn stop(&self) {
        let mut state = self.shared.state();
        state.listening = false;
        let _stopped_already = self.shared.listener.shutdown(Shutdown::Both);
        for stream in std::mem::take(&mut state.open).into_values() {
            let _gone_already = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens again, at the same address.
    pub fn restart(&self) {
        self.shared.listener.listen(BACKLOG).unwrap();
        self.shared.state().listening = true;
        self.shared.changed.notify_all();
    }

    /// Closes every connection it has, and goes on listening.
    pub fn close_connections(&self) {
        for stream in std::mem::take(&mut self.shared.state().open).into_values() {
            let _gone_already = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets those go on that stall.
    pub fn release(&self) {
        self.shared.state().released = true;
        self.shared.changed.notify_all();
    }

    pub fn seen<T>(&self, look: impl Fn(&Seen) -> T) -> T {
        look(&self.shared.state().seen)
    }

    pub fn requests(&self) -> u64 {
        self.seen(|seen| seen.requests)
    }

    pub fn connections(&self) -> u64 {
        self.seen(|seen| seen.connections)
    }

    pub fn of_method(&self, method: &str) -> u64 {
        self.seen(|seen| seen.methods.get(method).copied().unwrap_or(0))
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.state().open.len()
    }

    /// The only request so far.
    #[track_caller]
    pub fn the_request(&self) -> Request {
        let state = self.shared.state();
        assert_eq!(state.seen.requests, 1, "requests at {}", self.shared.name);
        state.seen.kept[0].clone()
    }

    pub fn last_request(&self) -> Request {
        self.shared.state().seen.kept.back().expect("a request").clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.stop();
        self.release();
    }
}

/// Bound to a port that stays ours while nobody listens on it: the system gives away only ports that it chose itself.
pub fn bound() -> Socket {
    loop {
        let chosen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        if socket.bind(&chosen.into()).is_ok() {
            return socket;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Shared>) {
        loop {
            let accepted = self.listener.accept();
            let mut state = self.state();
            if state.ended {
                return;
            }
            match accepted {
                Ok((socket, _)) if state.listening => {
                    let stream = TcpStream::from(socket);
                    let _gone_already = stream.set_nodelay(true);
                    state.seen.connections += 1;
                    let connection = state.seen.connections;
                    let Ok(kept) = stream.try_clone() else { continue };
                    state.open.insert(connection, kept);
                    let shared = self.clone();
                    thread::spawn(move || {
                        let _peer_left = shared.serve(connection, stream);
                        if let Some(stream) = shared.state().open.remove(&connection) {
                            let _gone_already = stream.shutdown(Shutdown::Both);
                        }
                    });
                }
                Ok(_) => {}
                Err(_) if state.listening => drop(self.changed.wait_timeout(state, Duration::from_millis(1))),
                Err(_) => drop(self.changed.wait_timeout(state, Duration::from_secs(1))),
            }
        }
    }

    fn serve(&self, connection: u64, mut stream: TcpStream) -> io::Result<()> {
        let mut onward = None;
        while let Some(mut request) = next_head(&stream, connection)? {
            let act = self.note(&request);
            if act.ignores_body() {
                return self.without_body(&act, connection, &mut stream);
            }
            stream.read_exact(&mut vec![0; request.head.len()])?;
            if matches!(act, Act::Stall) {
                self.wait_for_release();
            }
            if let Err(error) = self.read_body(&mut request, &mut stream) {
                self.state().seen.broken_bodies += 1;
                return Err(error);
            }
            if let Some(kept) = self.state().seen.kept.back_mut().filter(|kept| kept.connection == connection) {
                *kept = request.clone();
            }
            if matches!(act, Act::Forward(_, Passing::Broken)) {
                self.state().open.remove(&connection); // it would keep the connection open
            }
            if !self.act(&act, &request, &mut stream, &mut onward)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn note(&self, request: &Request) -> Act {
        let script = self.state().script.clone();
        let act = script(request);
        let mut state = self.state();
        let (seen, now) = (&mut state.seen, Instant::now());
        seen.requests += 1;
        *seen.methods.entry(request.method().to_owned()).or_default() += 1;
        seen.last_request = Some(now);
        if !act.is_good() {
            seen.first_bad.get_or_insert(now);
        }
        if seen.kept.len() == KEPT {
            seen.kept.pop_front();
        }
        seen.kept.push_back(request.clone());
        act
    }

    fn without_body(&self, act: &Act, connection: u64, stream: &mut TcpStream) -> io::Result<()> {
        match act {
            Act::Early(status) => {
                stream.write_all(&self.answer(*status))?;
                thread::sleep(Duration::from_millis(300)); // or the reset would overtake the answer
            }
            Act::Reset => {
                self.state().open.remove(&connection); // it would keep the connection open
                SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
            }
            _ => hang(stream)?,
        }
        Ok(())
    }

    fn wait_for_release(&self) {
        let state = self.state();
        drop(self.changed.wait_timeout_while(state, DEADLINE, |state| !state.released));
    }

    fn read_body(&self, request: &mut Request, stream: &mut TcpStream) -> io::Result<()> {
        if let Some(length) = request.header("content-length").and_then(|length| length.parse().ok()) {
            self.read_bytes(length, request, stream)
        } else if request.header("transfer-encoding") == Some("chunked") {
            loop {
                let length = u64::from_str_radix(line(stream)?.trim(), 16).map_err(io::Error::other)?;
                self.read_bytes(length, request, stream)?;
                line(stream)?;
                if length == 0 {
                    return Ok(());
                }
            }
        } else {
            Ok(())
        }
    }

    fn read_bytes(&self, length: u64, request: &mut Request, stream: &mut TcpStream) -> io::Result<()> {
        let (mut left, mut buffer) = (length, vec![0; 256 * 1024]);
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = stream.read(&mut buffer[..most])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let room = KEPT_BODY - request.body.len();
            request.body.extend_from_slice(&buffer[..read.min(room)]);
            request.body_length += read as u64;
            self.state().seen.received += read as u64;
            left -= read as u64;
        }
        Ok(())
    }

    fn answer(&self, status: u16) -> Vec<u8> {
        let name = &self.name;
        format!("HTTP/1.1 {status} Told\r\nX-Version: {name}\r\nContent-Length: {}\r\n\r\n{name}", name.len())
            .into_bytes()
    }

    /// Whether the connection goes on.
    fn act(
        &self,
        act: &Act,
        request: &Request,
        stream: &mut TcpStream,
        onward: &mut Option<Client>,
    ) -> io::Result<bool> {
        match act {
            Act::Forward(to, passing) => return forward(request, stream, *to, *passing, onward),
            Act::Answer | Act::Stall | Act::AnswerThenClose | Act::Status(_) | Act::Late(_) => {
                if let Act::Late(after) = act {
                    thread::sleep(*after);
                }
                let mut answer = self.answer(if let Act::Status(status) = act { *status } else { 200 });
                if request.method() == "HEAD" {
                    answer.truncate(answer.len() - self.name.len());
                }
                stream.write_all(&answer)?;
                return Ok(!matches!(act, Act::AnswerThenClose));
            }
            Act::Raw(bytes) => {
                stream.write_all(bytes)?;
                return Ok(true);
            }
            Act::RawThenClose(bytes) => stream.write_all(bytes)?,
            Act::RawThenHang(bytes) => {
                stream.write_all(bytes)?;
                hang(stream)?;
            }
            Act::Trickle(bytes, pause) => {
                for byte in bytes {
                    stream.write_all(&[*byte])?;
                    thread::sleep(*pause);
                }
                return Ok(true);
            }
            Act::Stream(length) => {
                self.stream(*length, stream)?;
                return Ok(true);
            }
            Act::Early(_) | Act::Reset | Act::Hang => unreachable!("done before the body"),
        }
        Ok(false)
    }

    fn stream(&self, length: u64, stream: &mut TcpStream) -> io::Result<()> {
        write!(stream, "HTTP/1.1 200 OK\r\nX-Version: {}\r\nContent-Length: {length}\r\n\r\n", self.name)?;
        let (mut left, piece) = (length, vec![b'x'; 64 * 1024]);
        while left > 0 {
            let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let written = stream.write(&piece[..most])?;
            self.state().seen.sent += written as u64;
            left -= written as u64;
        }
        Ok(())
    }
}

/// Waits for the other side to give up.
fn hang(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(4 * DEADLINE))?;
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// The next request's head, left in the socket: to reset a connection, something must be left unread. `None`: the end.
fn next_head(stream: &TcpStream, connection: u64) -> io::Result<Option<Request>> {
    let mut buffer = vec![0; 4 * 1024];
    loop {
        let length = stream.peek(&mut buffer)?;
        if length == 0 {
            return Ok(None);
        }
        if let Some(end) = buffer[..length].windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end + 4]).into_owned();
            return Ok(Some(Request { head, body: Vec::new(), body_length: 0, connection }));
        }
        if length == buffer.len() {
            buffer.resize(2 * length, 0);
        } else {
            thread::sleep(Duration::from_millis(1)); // the rest of the head is on its way
        }
    }
}

fn line(stream: &mut TcpStream) -> io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
