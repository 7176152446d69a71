//! Listening sockets, and one acceptor that hands every accepted socket to the least busy worker.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Phase;
use super::worker::Load;

/// Connections the kernel keeps for us while we are busy.
const BACKLOG: u32 = 4_096;
/// A pause after an accept that failed for want of descriptors or memory: trying again at once would spin.
const PAUSE: Duration = Duration::from_millis(50);

/// A client's socket on its way to a worker's thread.
#[derive(Debug)]
pub struct Accepted {
    pub stream: std::net::TcpStream,
    pub peer: SocketAddr,
}

/// A worker, as the acceptor sees it.
#[derive(Debug, Clone)]
pub struct Desk {
    pub sockets: mpsc::Sender<Accepted>,
    pub load: Arc<Load>,
}

/// Binds an address. Done for all addresses before anything is served.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Starts the acceptor's thread. It ends, and closes its sockets, when the phase leaves [`Phase::Serving`].
pub fn start(
    listeners: Vec<std::net::TcpListener>,
    desks: Vec<Desk>,
    phase: watch::Receiver<Phase>,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listeners = {
        let _inside = runtime.enter();
        listeners.into_iter().map(TcpListener::from_std).collect::<io::Result<Vec<_>>>()?
    };
    thread::Builder::new().name("acceptor".to_owned()).spawn(move || runtime.block_on(run(listeners, desks, phase)))
}

async fn run(listeners: Vec<TcpListener>, desks: Vec<Desk>, mut phase: watch::Receiver<Phase>) {
    let desks = Arc::new(desks);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, desks.clone()));
    }
    let _closed = phase.wait_for(|phase| *phase != Phase::Serving).await;
}

async fn accept(listener: TcpListener, desks: Arc<Vec<Desk>>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => hand_over(stream, peer, &desks).await,
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again shortly");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The client was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

async fn hand_over(stream: TcpStream, peer: SocketAddr, desks: &[Desk]) {
    let ready = stream.set_nodelay(true).and_then(|()| stream.into_std());
    let (Ok(stream), Some(desk)) = (ready, desks.iter().min_by_key(|desk| desk.load.weight())) else { return };
    let _worker_ended = desk.sockets.send(Accepted { stream, peer }).await;
}
