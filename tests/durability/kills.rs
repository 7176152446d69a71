//! Kill -9 at random moments, in the middle of changes and of requests, and start again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, io};

use penstock::admin::wire::{Change, Changed, Entry, Weight};

use crate::support::{Act, Load, Response, eventually};
use crate::world::{Api, Proxy, Stands, World, percent, serves, watch};

/// Kills in plain `cargo test`.
const KILLS: u64 = 20;
/// A process lives no longer than this before it is killed.
const LIFE: u64 = 220;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// How the canary may stand: as last acknowledged, or with what is on its way in it.
#[derive(Debug, Clone)]
struct Ledger {
    possible: Vec<Stands>,
    /// Of the last answer, for `If-Match`.
    revision: u64,
    requests: u64,
    acknowledged: u64,
}

type Shared = Arc<Mutex<Ledger>>;

fn open(ledger: &Shared) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes what is about to be asked for; afterwards what was answered.
fn ask(ledger: &Shared, possible: &[Stands], request: impl FnOnce() -> io::Result<Response>) -> io::Result<u16> {
    {
        let mut ledger = open(ledger);
        ledger.requests += 1;
        ledger.possible.extend(possible);
    }
    answered(ledger, &request()?)
}

fn answered(ledger: &Shared, response: &Response) -> io::Result<u16> {
    let mut ledger = open(ledger);
    match response.status {
        200 => {
            let changed: Changed = serde_json::from_slice(&response.body)?;
            assert!(changed.durable, "the store is well: {changed:?}");
            ledger.revision = changed.split.revision;
            ledger.possible = vec![Stands::of(&changed.split)];
            ledger.acknowledged += u64::from(changed.changed);
        }
        // Refused: nothing has changed.
        409 | 412 => ledger.possible.truncate(1),
        other => panic!("{other}: {}", response.text()),
    }
    Ok(response.status)
}

/// One random change. An error: the proxy is gone.
fn change(api: Api, ledger: &Shared, random: &mut fastrand::Rng) -> io::Result<()> {
    let Ledger { possible, revision, .. } = open(ledger).clone();
    let now = possible[0];
    let sealed = Stands { weight: Weight::ZERO, sealed: true };
    let current = now.weight.basis_points() / 100;
    let raised = percent(random.u16(current.min(99) + 1..=100));
    // 35 % is the file's: never asked for, so that it would be seen.
    let raised = if raised == percent(35) { percent(36) } else { raised };
    let raise = move || api.weight(&raised.to_string(), &format!("\"{revision}\""));
    match random.u8(0..10) {
        0..=4 if now.sealed => {
            ask(ledger, &[Stands { sealed: false, ..now }], || api.unseal("v2"))?;
        }
        5 if now.sealed => assert_eq!(ask(ledger, &[], raise)?, 409),
        _ if now.sealed => {
            ask(ledger, &[sealed], || api.abort())?;
        }
        0 => {
            ask(ledger, &[sealed], || api.abort())?;
        }
        // Taken back while it is on its way.
        1 if current < 100 => {
            open(ledger).possible.extend([Stands { weight: raised, ..now }, sealed]);
            let raising = thread::spawn(raise);
            let aborted = api.abort();
            if let Ok(response) = aborted {
                answered(ledger, &response)?;
            }
            // Its answer says nothing about how things stand after the abort.
            raising.join().expect("no panic")?;
            open(ledger).revision = api.try_split()?.revision;
        }
        2..=6 if current < 100 => {
            ask(ledger, &[Stands { weight: raised, ..now }], raise)?;
        }
        _ => {
            let lowered = percent(random.u16(0..=current));
            let lowered = if lowered == percent(35) { percent(34) } else { lowered };
            ask(ledger, &[Stands { weight: lowered, ..now }], || api.weight(&lowered.to_string(), "\"0\""))?;
        }
    }
    Ok(())
}

/// What was seen of a process before it was killed.
#[derive(Default)]
struct Seen {
    events: BTreeMap<u64, Entry>,
    /// By revision, in the status view.
    views: BTreeMap<u64, Stands>,
}

/// Lets a process live for a while, with load and changes and watchers; kills it, and returns what was seen.
fn life(mut proxy: Proxy, ledger: &Shared, random: &mut fastrand::Rng) -> (Seen, u64) {
    let api = proxy.api();
    let load = Load::start(proxy.address, 2, Duration::from_millis(1));
    let ended = Arc::<AtomicBool>::default();
    let seen = Arc::<Mutex<Seen>>::default();
    let watcher = thread::spawn({
        let seen = seen.clone();
        move || {
            watch(api.admin, None, |entry| {
                seen.lock().unwrap().events.insert(entry.revision, entry);
                true
            });
        }
    });
    let looker = thread::spawn({
        let (seen, ended) = (seen.clone(), ended.clone());
        move || {
            while !ended.load(Ordering::Relaxed) {
                let Ok(split) = api.try_split() else { return };
                seen.lock().unwrap().views.insert(split.revision, Stands::of(&split));
                thread::sleep(Duration::from_millis(3));
            }
        }
    });
    let changer = thread::spawn({
        let (ledger, ended, mut random) = (ledger.clone(), ended.clone(), random.fork());
        move || while !ended.load(Ordering::Relaxed) && change(api, &ledger, &mut random).is_ok() {}
    });
    thread::sleep(Duration::from_micros(random.u64(0..LIFE * 1_000)));
    proxy.kill_now();
    ended.store(true, Ordering::Relaxed);
    for thread in [watcher, looker, changer] {
        thread.join().expect("no panic");
    }
    let report = load.stop();
    assert_eq!(report.answered(), report.status(200), "{report:?}");
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (seen, report.answered())
}

#[test]
fn kill_loop() {
    let kills = number("PENSTOCK_KILLS").unwrap_or(KILLS);
    let seed = number("PENSTOCK_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{kills} kills, PENSTOCK_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new();
    let first = Stands { weight: percent(35), sealed: false };
    let ledger: Shared =
        Arc::new(Mutex::new(Ledger { possible: vec![first], revision: 0, requests: 0, acknowledged: 0 }));
    let (begun, mut seen, mut starts, mut answers) = (Instant::now(), Seen::default(), Vec::new(), 0);
    let (mut in_flight, mut in_flight_kept, mut sealed) = (0, 0, 0);
    let mut newest = 0;
    for round in 0..=kills {
        let proxy = world.start();
        serves(&proxy);
        starts.push(proxy.took);
        let (split, journal) = (proxy.api().split(), proxy.api().journal(newest));
        let (stands, ledger_was) = (Stands::of(&split), open(&ledger).clone());
        let possible = &ledger_was.possible;
        let what = format!("round {round} of seed {seed}: {stands:?}, of {possible:?}; {journal:?}");
        assert!(possible.contains(&stands), "{what}");
        let folded = journal.values().fold(possible[0], |stands, entry| stands.after(&entry.event.change));
        assert_eq!(folded, stands, "the journal tells another story: {what}");
        for (revision, event) in seen.events.iter().filter(|(revision, event)| **revision > newest && is_kept(event)) {
            let kept = journal.get(revision).map(|entry| &entry.event);
            assert_eq!(kept, Some(&event.event), "an announced event was forgotten; {what}");
        }
        for (revision, view) in seen.views.iter().filter(|(revision, _)| **revision > newest) {
            assert!(journal.contains_key(revision), "revision {revision}, seen as {view:?}, was forgotten; {what}");
        }
        if possible.len() > 1 {
            in_flight += 1;
            in_flight_kept += u64::from(stands != possible[0]);
        }
        sealed += u64::from(stands.sealed);
        {
            let mut ledger = open(&ledger);
            ledger.possible = vec![stands];
            ledger.revision = split.revision;
        }
        newest = journal.keys().last().copied().unwrap_or(newest).max(split.revision);
        if round == kills {
            break;
        }
        let (of_this_life, answered) = life(proxy, &ledger, &mut random);
        seen = of_this_life;
        answers += answered;
    }
    starts.sort_unstable();
    let ledger = open(&ledger);
    println!(
        "{kills} kills in {:.0} s: {} changes asked for, {} made and acknowledged; a change in flight at {in_flight} kills, \
         kept at {in_flight_kept}; sealed at {sealed} starts; {answers} answers under load, each a 200; a start took {:?} \
         in the middle, {:?} at most",
        begun.elapsed().as_secs_f64(),
        ledger.requests,
        ledger.acknowledged,
        starts[starts.len() / 2],
        starts[starts.len() - 1],
    );
}

fn is_kept(entry: &Entry) -> bool {
    entry.event.change.is_kept()
}

#[test]
fn a_rollback_that_was_announced_survives_a_kill_at_once() {
    for round in 0..3 {
        let world = World::new();
        world.canary.always(Act::Status(500));
        let mut proxy = world.start();
        let load = Load::start(proxy.address, 8, Duration::from_millis(1));
        let (mut announced, admin) = (None, proxy.admin);
        watch(admin, Some(0), |entry| {
            if !matches!(entry.event.change, Change::RolledBack { .. }) {
                return true;
            }
            let heard = Instant::now();
            proxy.strike();
            announced = Some((entry, heard.elapsed()));
            proxy.kill_now();
            false
        });
        drop(load);
        let (entry, struck_after) = announced.expect("a rollback");
        assert!(entry.durable, "the store is well");
        let again = world.start();
        serves(&again);
        let stands = Stands::of(&again.api().split());
        assert_eq!(stands, Stands { weight: Weight::ZERO, sealed: true }, "round {round}");
        assert!(again.api().journal(entry.revision - 1).contains_key(&entry.revision));
        let canary = world.canary.requests();
        eventually("traffic", || {
            serves(&again);
            world.stable.requests() > 20
        });
        assert_eq!(world.canary.requests(), canary);
        println!("killed {struck_after:?} after the rollback was heard of; sealed after the restart");
    }
}
