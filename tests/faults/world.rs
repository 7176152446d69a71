//! Servers in processes of their own, relays before them that break what they are told, and the real binary.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::books::{Books, Line};
use crate::ledger::{Ledger, NUMBER};
use crate::load::{Load, Report};
use crate::server::Server;
use crate::support::relay::Passing;
use crate::support::{Act, Origin, Process, Request, Setup, eventually};

/// What a relay does to a request or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    ResetBeforeHead,
    ResetMidBody,
    Hang,
    Slow,
    /// Instead of an answer.
    Garbage,
    /// Behind a good answer.
    Trailer,
}

/// Requests earn retries tick by tick: a process that has just started has only a few to begin with.
const WARM: Duration = Duration::from_millis(300);

const GARBAGE: [&str; 7] = [
    "garbage\r\n\r\n",
    "\0\u{1}\u{2}\u{3}",
    "HTTP/1.1 2000 OK\r\n\r\n",
    "HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
    "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
];
type Injected = Arc<Mutex<BTreeMap<(Fault, Repeatable), u64>>>;

/// Whether a request may be sent again without asking: a safe method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repeatable {
    Yes,
    No,
}

/// What a relay breaks: these faults, in this share of the requests.
#[derive(Debug, Clone)]
pub struct Plan {
    pub faults: Vec<Fault>,
    pub share: f64,
}

impl Plan {
    pub fn nothing() -> Plan {
        Plan { faults: Vec::new(), share: 0.0 }
    }

    pub fn always(fault: Fault) -> Plan {
        Plan::in_part(&[fault], 1.0)
    }

    pub fn in_part(faults: &[Fault], share: f64) -> Plan {
        Plan { faults: faults.to_vec(), share }
    }
}

pub struct World {
    pub ledger: Arc<Ledger>,
    pub servers: Vec<Server>,
    pub relays: Vec<Origin>,
    pub seed: u64,
    injected: Injected,
    /// Whether relays break anything yet.
    armed: Arc<AtomicBool>,
}

impl World {
    /// Endpoints that clients reach directly, so that what kills them is all that happens.
    pub fn bare(names: &[&str], seed: u64) -> World {
        let ledger = Arc::<Ledger>::default();
        let servers = names.iter().map(|name| Server::start(name, Some(&ledger))).collect();
        World { ledger, servers, relays: Vec::new(), seed, injected: Arc::default(), armed: Arc::default() }
    }

    /// Endpoints behind a relay each.
    pub fn relayed(plans: &[Plan], seed: u64) -> World {
        let (ledger, injected, armed) = (Arc::<Ledger>::default(), Injected::default(), Arc::<AtomicBool>::default());
        let servers: Vec<Server> = (0..plans.len()).map(|n| Server::start(&format!("server-{n}"), None)).collect();
        let relay = |(plan, server): (&Plan, &Server)| {
            let relay = Origin::start(&server.name);
            let mut random = fastrand::Rng::with_seed(seed ^ u64::from(server.address.port()));
            let (ledger, injected, armed, salt) = (ledger.clone(), injected.clone(), armed.clone(), random.u64(..));
            let (plan, to, name) = (plan.clone(), server.address, server.name.clone());
            relay.script(move |request| {
                let number = number(request);
                ledger.note(&name, number, request.method());
                let act = fault(&plan, salt ^ number, request).filter(|_| armed.load(Ordering::Relaxed));
                if let Some((fault, _)) = &act {
                    let repeatable = if request.method() == "POST" || request.method() == "PUT" {
                        Repeatable::No
                    } else {
                        Repeatable::Yes
                    };
                    let mut injected = injected.lock().unwrap_or_else(PoisonError::into_inner);
                    *injected.entry((*fault, repeatable)).or_default() += 1;
                }
                act.map_or(Act::Forward(to, Passing::Whole), |(fault, draw)| fault.act(to, draw))
            });
            relay
        };
        let relays = plans.iter().zip(&servers).map(relay).collect();
        World { ledger, servers, relays, seed, injected, armed }
    }

    /// What the proxy takes for the endpoints.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        if self.relays.is_empty() {
            self.servers.iter().map(|server| server.address).collect()
        } else {
            self.relays.iter().map(|relay| relay.address).collect()
        }
    }

    /// All of them serve the stable version.
    pub fn setup(&self) -> Setup {
        Setup::at(self.addresses())
    }

    pub fn random(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed)
    }

    pub fn injected(&self, wanted: impl Fn(Fault, Repeatable) -> bool) -> u64 {
        let injected = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
        injected.iter().filter(|((fault, repeatable), _)| wanted(*fault, *repeatable)).map(|(_, times)| times).sum()
    }

    /// A load under way, and relays that begin to break what they are told.
    pub fn load(&self, process: &Process) -> Load {
        let load = Load::start(process.address, self.seed);
        eventually("traffic", || load.report().total() > 100);
        thread::sleep(WARM);
        self.armed.store(true, Ordering::Relaxed);
        load
    }

    /// Reads the books at rest, and prints the scenario's line.
    #[track_caller]
    pub fn close(&self, name: &str, process: &Process, report: &Report, injected: &str) -> Books {
        let books = Books::at_rest(process.admin);
        let by_relays = self.injected(|_, _| true);
        let injected = if injected.is_empty() { format!("{by_relays} faults") } else { injected.to_owned() };
        println!("    {}", Line { name, report, books, ledger: &self.ledger, injected });
        if report.failed() > 0 {
            println!("    they were {:?}", report.kinds);
        }
        books
    }
}

fn number(request: &Request) -> u64 {
    request.header(NUMBER).and_then(|number| number.parse().ok()).expect("every request has a number")
}

/// What is to be done to a request, if anything: the same for the same seed and number. And a draw, to choose by.
fn fault(plan: &Plan, seed: u64, request: &Request) -> Option<(Fault, usize)> {
    let mut random = fastrand::Rng::with_seed(seed);
    if random.f64() >= plan.share {
        return None;
    }
    let fault = *random.choice(&plan.faults)?;
    // Without a body there is no middle of it.
    let possible = fault != Fault::ResetMidBody || request.method() != "HEAD";
    possible.then(|| (fault, random.usize(..)))
}

impl Fault {
    fn act(self, to: SocketAddr, draw: usize) -> Act {
        match self {
            Fault::ResetBeforeHead => Act::Reset,
            Fault::ResetMidBody => Act::Forward(to, Passing::Broken),
            Fault::Hang => Act::Hang,
            Fault::Slow => Act::Forward(to, Passing::Slowly),
            Fault::Garbage => Act::raw_then_close(GARBAGE[draw % GARBAGE.len()]),
            Fault::Trailer => Act::Forward(to, Passing::Trailed),
        }
    }
}

/// A pause of the test's own, between two disturbances.
pub fn pause(random: &mut fastrand::Rng, millis: std::ops::Range<u64>) {
    thread::sleep(Duration::from_millis(random.u64(millis)));
}
