//! Endpoints that are not there, for a while or for good.

use crate::load::CONNECTIONS;
use crate::support::{Process, Setup};
use crate::world::{Plan, World, pause};

/// One of three at a time, in the middle of whatever it is doing.
pub fn killed(seed: u64) {
    let world = World::bare(&["a", "b", "c"], seed);
    let process = Process::serve(&world.setup());
    let (mut random, mut kills) = (world.random(), 0);
    let report = world.load(&process).during(|| {
        pause(&mut random, 50..300);
        let victim = random.choice(&world.servers).unwrap();
        victim.kill();
        kills += 1;
        pause(&mut random, 0..150);
        victim.revive();
    });
    let books = world.close("killed", &process, &report, &format!("{kills} kills"));
    books.balance(&report, &world.ledger);
    books.timed_each();
    costs_at_most_what_was_under_way(&report, kills);
}

/// Of three, one was never there.
pub fn refusing(seed: u64) {
    let world = World::relayed(&[Plan::nothing(), Plan::nothing(), Plan::nothing()], seed);
    world.relays[0].stop();
    let process = Process::serve(&world.setup());
    let report = world.load(&process).during(|| std::thread::sleep(std::time::Duration::from_millis(20)));
    let books = world.close("refusing", &process, &report, "one of three endpoints");
    books.balance(&report, &world.ledger);
    books.timed_each();
    assert_eq!(report.failed(), 0, "{report:?}");
}

/// One of three comes and goes.
pub fn flapping(seed: u64) {
    let world = World::relayed(&[Plan::nothing(), Plan::nothing(), Plan::nothing()], seed);
    let process = Process::serve(&world.setup());
    let (mut random, mut falls) = (world.random(), 0);
    let report = world.load(&process).during(|| {
        world.relays[0].stop();
        falls += 1;
        pause(&mut random, 50..250);
        world.relays[0].restart();
        pause(&mut random, 50..250);
    });
    let books = world.close("flapping", &process, &report, &format!("{falls} falls"));
    books.balance(&report, &world.ledger);
    books.timed_each();
    costs_at_most_what_was_under_way(&report, falls);
}

/// No endpoint of the canary is there: stable answers for it, and nobody notices.
pub fn canary_gone(seed: u64) {
    let world = World::relayed(&[Plan::nothing(), Plan::nothing(), Plan::nothing()], seed);
    let [stable, other, canary] = world.addresses()[..] else { unreachable!("three") };
    world.relays[2].stop();
    let process = Process::serve(&Setup::at([stable, other]).canary_at([canary], "30%").rollback("mode = \"observe\""));
    let report = world.load(&process).during(|| std::thread::sleep(std::time::Duration::from_millis(20)));
    let books = world.close("canary gone", &process, &report, "30 % of the traffic");
    books.balance(&report, &world.ledger);
    books.timed_each();
    assert_eq!((report.failed(), books.exposed), (0, 0), "{report:?}");
    assert!(books.shielded > report.total() / 5, "{books:?}");
}

/// An endpoint that goes takes with it at most what it was busy with, and of that nothing that may be repeated.
#[track_caller]
fn costs_at_most_what_was_under_way(report: &crate::load::Report, falls: u64) {
    assert!(report.failed() <= falls * CONNECTIONS as u64, "{report:?}");
    assert_eq!(report.safe(), 0, "{report:?}");
}
