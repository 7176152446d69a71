//! What goes wrong between a proxy and its endpoints, done to the real binary over real sockets, under load.
//!
//! ```text
//!  clients ──▶ penstock serve ──▶ relays ──▶ servers        all on loopback, the servers in processes of their own
//!  (count what      (a child       (break what    (can be
//!   they saw)        process)       they are told) killed)
//! ```
//!
//! Every request has a number, so that whoever sees it can say whether it came twice. Each scenario prints a line: the
//! load that was held, what clients saw fail, what came twice, and whether every attempt begun has an outcome.
//!
//! `PENSTOCK_SEED` repeats a run's choices (not its timing), `PENSTOCK_FAULTS_SECONDS` makes every scenario longer.

#![expect(clippy::print_stdout, reason = "what was measured is for people to read")]
#![expect(clippy::unwrap_used, reason = "what a test relies on and does not get fails it")]
#![expect(clippy::disallowed_methods, reason = "these tests run in real time, against deadlines")]

#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with tests that need more of it")]
mod support;

mod books;
mod changes;
mod endpoints;
mod in_flight;
mod ledger;
mod load;
mod relays;
mod server;
mod world;

use std::env;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

/// How long each scenario lasts in plain `cargo test`.
const SECONDS: u64 = 2;
/// Set for the process that has all the file descriptors it may.
const RAISED: &str = "PENSTOCK_FAULTS_RAISED";

fn main() {
    if let Some([name, port]) = server::told(env::args()) {
        return server::serve(&name, port.parse().unwrap());
    }
    if env::var_os(RAISED).is_none() {
        raise_limit();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1); // each has the machine to itself
    let seed = number("PENSTOCK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let scenario = |name: &str, run: fn(u64)| {
        let replay = format!("PENSTOCK_SEED={seed} cargo test --test faults -- {name}");
        Trial::test(name, move || {
            println!();
            catch_unwind(AssertUnwindSafe(|| run(seed))).map_err(|_| Failed::from(format!("again: {replay}")))
        })
    };
    let all = vec![
        scenario("nothing_goes_wrong", relays::nothing_goes_wrong),
        scenario("killed", endpoints::killed),
        scenario("hanging", relays::hanging),
        scenario("refusing", endpoints::refusing),
        scenario("resetting_before_the_head", relays::resetting_before_the_head),
        scenario("resetting_mid_body", relays::resetting_mid_body),
        scenario("slow", relays::slow),
        scenario("flapping", endpoints::flapping),
        scenario("garbage", relays::garbage),
        scenario("answers_nobody_asked_for", relays::answers_nobody_asked_for),
        scenario("canary_gone", endpoints::canary_gone),
        scenario("canary_resetting", relays::canary_resetting),
        scenario("everything_at_once", relays::everything_at_once),
        scenario("endpoints_and_weights_changing", changes::endpoints_and_weights_changing),
        scenario("rollback_in_full_flight", in_flight::rollback_in_full_flight),
    ];
    println!("PENSTOCK_SEED={seed}");
    libtest_mimic::run(&arguments, all).exit();
}

/// Begins again with as many file descriptors as the system allows; children inherit them.
fn raise_limit() {
    let script = "ulimit -n \"$(ulimit -H -n)\"; exec \"$0\" \"$@\"";
    let mut again = Command::new("sh");
    again.args(["-c", script]).arg(env::current_exe().unwrap()).args(env::args().skip(1)).env(RAISED, "1");
    panic!("{}", again.exec());
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// How long a scenario lasts.
fn length() -> Duration {
    Duration::from_secs(number("PENSTOCK_FAULTS_SECONDS").unwrap_or(SECONDS))
}
