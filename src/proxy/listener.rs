//! Listening sockets, and one acceptor that hands every accepted socket to the least busy worker.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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

/// Sockets to listen on from now on, and addresses to listen on no longer.
#[derive(Debug)]
pub struct Sockets {
    pub add: Vec<std::net::TcpListener>,
    pub remove: Vec<SocketAddr>,
}

/// Starts the acceptor's thread. It ends, and closes its sockets, when the phase leaves [`Phase::Serving`]; by then it
/// has handed over every connection that the kernel had taken for it.
pub fn start(
    listeners: Vec<std::net::TcpListener>,
    changes: mpsc::UnboundedReceiver<Sockets>,
    desks: Vec<Desk>,
    phase: watch::Receiver<Phase>,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let mut acceptor = Acceptor { desks: Arc::new(desks), accepting: JoinSet::new(), sockets: BTreeMap::new() };
    {
        let _inside = runtime.enter();
        listeners.into_iter().try_for_each(|listener| acceptor.listen(listener))?;
    }
    let run = move || runtime.block_on(acceptor.run(changes, phase));
    thread::Builder::new().name("acceptor".to_owned()).spawn(run)
}

struct Acceptor {
    desks: Arc<Vec<Desk>>,
    accepting: JoinSet<()>,
    sockets: BTreeMap<SocketAddr, CancellationToken>,
}

impl Acceptor {
    /// Wants to be inside its runtime.
    fn listen(&mut self, listener: std::net::TcpListener) -> io::Result<()> {
        let (address, closing) = (listener.local_addr()?, CancellationToken::new());
        self.accepting.spawn(accept(TcpListener::from_std(listener)?, self.desks.clone(), closing.clone()));
        self.sockets.insert(address, closing);
        Ok(())
    }

    async fn run(mut self, mut changes: mpsc::UnboundedReceiver<Sockets>, mut phase: watch::Receiver<Phase>) {
        loop {
            tokio::select! {
                _left = phase.wait_for(|phase| *phase != Phase::Serving) => break,
                Some(Sockets { add, remove }) = changes.recv() => {
                    for listener in add {
                        if let Err(error) = self.listen(listener) {
                            tracing::error!(%error, "a new listener could not be used");
                        }
                    }
                    for address in remove {
                        if let Some(closing) = self.sockets.remove(&address) {
                            closing.cancel();
                        }
                    }
                }
            }
        }
        self.sockets.values().for_each(CancellationToken::cancel);
        while self.accepting.join_next().await.is_some() {}
    }
}

/// Accepts until told to close. A client that the kernel has accepted by then believes to be connected: it is served.
async fn accept(listener: TcpListener, desks: Arc<Vec<Desk>>, closing: CancellationToken) {
    while let Some(accepted) = closing.run_until_cancelled(listener.accept()).await {
        match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok((stream, peer)) => hand_over(stream, peer, &desks).await,
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again shortly");
                closing.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
    }
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok() {
            hand_over(stream, peer, &desks).await;
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

async fn hand_over(stream: std::net::TcpStream, peer: SocketAddr, desks: &[Desk]) {
    let (Ok(()), Some(desk)) = (stream.set_nodelay(true), desks.iter().min_by_key(|desk| desk.load.weight())) else {
        return;
    };
    let _worker_ended = desk.sockets.send(Accepted { stream, peer }).await;
}
