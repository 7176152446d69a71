//! The configuration changes all the time, and no request notices.

use std::net::SocketAddr;

use crate::support::{Client, Process, Setup};
use crate::world::{Plan, World, pause};

pub fn endpoints_and_weights_changing(seed: u64) {
    let world = World::relayed(&vec![Plan::nothing(); 5], seed);
    let (mut random, addresses) = (world.random(), world.addresses());
    let process = Process::serve(&some(&addresses, &mut random));
    let (mut reloads, mut weights) = (0_u32, 0_u32);
    let report = world.load(&process).during(|| {
        process.rewrite(&some(&addresses, &mut random));
        ask(&process, "POST", "/v1/config:reload", "{}");
        reloads += 1;
        for _ in 0..3 {
            pause(&mut random, 5..25);
            let weight = format!("{{\"weight\":\"{}%\"}}", random.u8(0..=100));
            ask(&process, "PATCH", "/v1/services/shop/split", &weight);
            weights += 1;
        }
    });
    let changes = format!("{reloads} reloads and {weights} weights");
    let books = world.close("endpoints and weights changing", &process, &report, &changes);
    books.balance_exactly(&report, &world.ledger);
    assert_eq!(report.failed(), 0, "{report:?}");
}

/// Some of the endpoints, at least one for each version.
fn some(addresses: &[SocketAddr], random: &mut fastrand::Rng) -> Setup {
    let mut addresses = addresses.to_vec();
    random.shuffle(&mut addresses);
    let stable = random.usize(1..addresses.len());
    let canary = random.usize(stable + 1..=addresses.len());
    let setup = Setup::at(addresses[..stable].iter().copied());
    setup.canary_at(addresses[stable..canary].iter().copied(), "35%")
}

#[track_caller]
fn ask(process: &Process, method: &str, path: &str, body: &str) {
    let (admin, length) = (process.admin, body.len());
    let answer = Client::connect(admin).ask(&format!(
        "{method} {path} HTTP/1.1\r\nHost: {admin}\r\nIf-Match: *\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    ));
    assert_eq!(answer.status, 200, "{}", answer.text());
}
