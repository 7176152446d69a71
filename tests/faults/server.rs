//! An endpoint in a process of its own, so that it can be killed: answers well, unless told otherwise.
//!
//! The test binary is the server's program too. It says which requests came in lines of its standard output, at once,
//! so that what it said survives it, and is told what to do by lines of its standard input; at their end it ends.

use std::convert::Infallible;
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::Socket;
use tokio::net::TcpSocket;
use tokio::sync::watch;

use crate::ledger::{Ledger, NUMBER};
use crate::support::{Client, eventually, origin};

const ROLE: &str = "--be-a-server";
const BACKLOG: u32 = 16 * 1024;

/// What the arguments say when this process is to be a server: its name and its port.
pub fn told(arguments: impl Iterator<Item = String>) -> Option<[String; 2]> {
    let mut arguments = arguments.skip(1);
    (arguments.next()? == ROLE).then(|| [arguments.next().unwrap(), arguments.next().unwrap()])
}

/// A server's process, as its owner sees it. Killed when dropped.
pub struct Server {
    pub name: String,
    pub address: SocketAddr,
    /// Holds the port while nobody listens there.
    _port: Socket,
    ledger: Option<Arc<Ledger>>,
    running: Mutex<Option<(Child, ChildStdin)>>,
}

impl Server {
    /// One whose requests are noted, unless somebody before it does.
    pub fn start(name: &str, ledger: Option<&Arc<Ledger>>) -> Server {
        let port = origin::bound();
        let address = port.local_addr().unwrap().as_socket().unwrap();
        let (name, ledger) = (name.to_owned(), ledger.cloned());
        let server = Server { name, address, _port: port, ledger, running: Mutex::default() };
        server.revive();
        server
    }

    /// Kill -9.
    pub fn kill(&self) {
        if let Some((mut child, _)) = self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again, at the same address; returns when it accepts connections.
    pub fn revive(&self) {
        self.kill();
        let mut child = Command::new(env::current_exe().unwrap())
            .args([ROLE, &self.name, &self.address.port().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, told) = (BufReader::new(child.stdout.take().unwrap()), child.stdin.take().unwrap());
        let (name, ledger) = (self.name.clone(), self.ledger.clone());
        thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if let (Some(ledger), Some((number, method))) = (&ledger, line.split_once(' ')) {
                    ledger.note(&name, number.parse().unwrap(), method);
                }
            }
        });
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((child, told));
        eventually("a server that listens", || Client::try_connect(self.address).is_ok());
    }

    /// From now on fails every request that is not held.
    pub fn fail(&self) {
        self.tell("fail");
    }

    /// Answers the requests that it holds.
    pub fn release(&self) {
        self.tell("release");
    }

    fn tell(&self, what: &str) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(running.as_mut().unwrap().1, "{what}").unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a server was told.
struct Orders {
    name: String,
    failing: AtomicBool,
    released: watch::Sender<bool>,
}

/// The server's side: serves until its standard input ends.
pub fn serve(name: &str, port: u16) {
    let orders = Orders { name: name.to_owned(), failing: AtomicBool::new(false), released: watch::Sender::new(false) };
    let orders = Arc::new(orders);
    let listening = accept(port, orders.clone());
    thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(listening).unwrap();
    });
    for line in io::stdin().lines().map_while(Result::ok) {
        match line.as_str() {
            "fail" => orders.failing.store(true, Ordering::Relaxed),
            "release" => drop(orders.released.send_replace(true)),
            other => panic!("{other}"),
        }
    }
}

async fn accept(port: u16, orders: Arc<Orders>) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    let listener = socket.listen(BACKLOG)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let orders = orders.clone();
        tokio::spawn(async move {
            let _small_answers = stream.set_nodelay(true);
            let service = service_fn(|request| answer(request, &orders));
            let _peer_left = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// `/BYTES` asks for a body of so many; `/hold` waits to be released.
async fn answer(request: Request<Incoming>, orders: &Orders) -> Result<Response<Full<Bytes>>, Infallible> {
    let number = request.headers().get(NUMBER).map(|number| number.to_str().unwrap().to_owned()).unwrap_or_default();
    let _nobody_listens = writeln!(io::stdout(), "{number} {}", request.method());
    let (head, body) = request.into_parts();
    let received = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let held = head.uri.path() == "/hold";
    if held {
        let mut released = orders.released.subscribe();
        let _told = released.wait_for(|released| *released).await;
    }
    let length = head.uri.path().trim_start_matches('/').parse().unwrap_or(2);
    let mut response = Response::new(Full::new(Bytes::from(vec![b'x'; length])));
    if orders.failing.load(Ordering::Relaxed) && !held {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    let mut say = |name, value: String| response.headers_mut().insert(name, value.parse().unwrap());
    say("x-number", number);
    say("x-received", received.to_string());
    say("x-version", orders.name.clone());
    Ok(response)
}
