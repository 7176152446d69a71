//! Relays that break some requests of one endpoint, while the others are well.

use crate::support::{Process, Setup};
use crate::world::{Fault, Plan, Repeatable, World};

/// Two endpoints that are well, and one before which a relay breaks something.
fn beside_two_that_are_well(plan: Plan, seed: u64) -> World {
    World::relayed(&[plan, Plan::nothing(), Plan::nothing()], seed)
}

pub fn nothing_goes_wrong(seed: u64) {
    let world = beside_two_that_are_well(Plan::nothing(), seed);
    let process = Process::serve(&world.setup());
    let report = world.load(&process).during(pass);
    let books = world.close("nothing goes wrong", &process, &report, "");
    books.balance_exactly(&report, &world.ledger);
    books.timed_each();
    assert_eq!(report.failed(), 0, "{report:?}");
}

pub fn hanging(seed: u64) {
    let world = beside_two_that_are_well(Plan::always(Fault::Hang), seed);
    let process = Process::serve(&world.setup().upstream("response_head = \"1s\"\nper_try = \"200ms\""));
    let report = world.load(&process).during(pass);
    let books = world.close("hanging", &process, &report, "");
    books.balance_exactly(&report, &world.ledger);
    books.timed_each();
    costs_at_most_what_was_broken(&world, &report);
}

pub fn resetting_before_the_head(seed: u64) {
    let world = beside_two_that_are_well(Plan::in_part(&[Fault::ResetBeforeHead], 0.3), seed);
    let process = Process::serve(&world.setup());
    let report = world.load(&process).during(pass);
    let books = world.close("resetting before the head", &process, &report, "");
    books.balance_exactly(&report, &world.ledger);
    books.timed_each();
    costs_at_most_what_was_broken(&world, &report);
}

/// What was begun cannot be taken back: each of these is seen by its client, and by no other.
pub fn resetting_mid_body(seed: u64) {
    let world = beside_two_that_are_well(Plan::in_part(&[Fault::ResetMidBody], 0.3), seed);
    let process = Process::serve(&world.setup());
    let report = world.load(&process).during(pass);
    let books = world.close("resetting mid-body", &process, &report, "");
    books.balance_exactly(&report, &world.ledger);
    books.timed_each();
    assert!(report.failed() <= world.injected(|_, _| true), "{report:?}");
}

pub fn slow(seed: u64) {
    let world = beside_two_that_are_well(Plan::always(Fault::Slow), seed);
    let process = Process::serve(&world.setup());
    let report = world.load(&process).during(pass);
    let books = world.close("slow", &process, &report, "");
    books.balance_exactly(&report, &world.ledger);
    books.timed_each();
    assert_eq!(report.failed(), 0, "{report:?}");
}

pub fn garbage(seed: u64) {
    let world = beside_two_that_are_well(Plan::in_part(&[Fault::Garbage], 0.3), seed);
    let process = Process::serve(&world.setup());
    let report = world.load(&process).during(pass);
    let books = world.close("garbage", &process, &report, "");
    books.balance_exactly(&report, &world.ledger);
    books.timed_each();
    costs_at_most_what_was_broken(&world, &report);
}

/// What an endpoint sends behind its answer is nobody's: the connection is not used again, and no request fails.
pub fn answers_nobody_asked_for(seed: u64) {
    let world = beside_two_that_are_well(Plan::in_part(&[Fault::Trailer], 0.3), seed);
    let process = Process::serve(&world.setup());
    let report = world.load(&process).during(pass);
    let books = world.close("answers nobody asked for", &process, &report, "");
    books.balance_exactly(&report, &world.ledger);
    books.timed_each();
    assert_eq!(report.failed(), 0, "{report:?}");
}

/// A canary that answers nothing: what may be repeated is answered by stable, and charged to the canary.
pub fn canary_resetting(seed: u64) {
    let plans = [Plan::nothing(), Plan::nothing(), Plan::always(Fault::ResetBeforeHead)];
    let world = World::relayed(&plans, seed);
    let [stable, other, canary] = world.addresses()[..] else { unreachable!("three") };
    let setup = Setup::at([stable, other]).canary_at([canary], "10%").rollback("mode = \"observe\"");
    let process = Process::serve(&setup);
    let report = world.load(&process).during(pass);
    let books = world.close("canary resetting", &process, &report, "");
    books.balance_exactly(&report, &world.ledger);
    books.timed_each();
    costs_at_most_what_was_broken(&world, &report);
    assert!(books.shielded > 0, "{books:?}");
}

/// Everything, everywhere: only what must always hold.
pub fn everything_at_once(seed: u64) {
    let all = [
        Fault::ResetBeforeHead,
        Fault::ResetMidBody,
        Fault::Hang,
        Fault::Slow,
        Fault::Slow,
        Fault::Garbage,
        Fault::Trailer,
    ];
    let world = World::relayed(&[0.05, 0.1, 0.3, 0.6].map(|share| Plan::in_part(&all, share)), seed);
    let addresses = world.addresses();
    let setup = Setup::at(addresses[..2].iter().copied())
        .canary_at(addresses[2..].iter().copied(), "30%")
        .upstream("response_head = \"200ms\"");
    let process = Process::serve(&setup);
    let mut random = world.random();
    let report = world.load(&process).during(|| {
        crate::world::pause(&mut random, 50..200);
        let relay = &world.relays[random.usize(..world.relays.len())];
        relay.stop();
        crate::world::pause(&mut random, 10..60);
        relay.restart();
    });
    let books = world.close("everything at once", &process, &report, "");
    books.balance(&report, &world.ledger);
    books.timed_each();
}

fn pass() {
    std::thread::sleep(std::time::Duration::from_millis(20));
}

/// Nobody fails whose request was let through; and of those that were not, nobody whose request may be repeated.
#[track_caller]
fn costs_at_most_what_was_broken(world: &World, report: &crate::load::Report) {
    assert_eq!(report.safe(), 0, "{report:?}");
    assert!(report.failed() <= world.injected(|_, repeatable| repeatable == Repeatable::No), "{report:?}");
}
