//! Store files with flipped bits or cut short: it starts with what is left of them, or with the canary at weight 0.

use std::fs;
use std::path::Path;

use penstock::admin::wire::Weight;

use crate::support::Origin;
use crate::world::{Stands, World, changed, copy, percent, serves, started};

/// Files of a store, and how many places of each are damaged, in both ways.
const SAMPLE: [(&str, usize); 3] = [("penstock.sqlite", 6), ("penstock.sqlite-wal", 8), ("lock", 2)];

/// Its weight was 40 % for a while, and was lowered to 10 % last. Killed, so that much is in the log still.
fn used() -> World {
    let world = World::new();
    let proxy = world.start();
    for weight in ["36%", "40%", "10%"] {
        changed(proxy.api().weight(weight, "*"));
    }
    proxy.kill();
    world
}

/// Starts on a copy of the store that was damaged: the canary has 10 % or nothing; never more.
fn start_on(world: &World, damage: impl FnOnce(&Path), what: &str) -> bool {
    let copied = tempfile::tempdir().unwrap();
    copy(&world.store(), copied.path());
    damage(copied.path());
    let mut command = world.serve();
    command.env("PENSTOCK_STORE_PATH", copied.path());
    let proxy = match crate::world::Proxy::start(command) {
        Ok(proxy) => proxy,
        // Not ours to touch: the number of a newer release.
        Err(ended) => {
            assert!(ended.code == Some(1) && ended.log.contains("newer release"), "{what}: {ended:?}");
            return false;
        }
    };
    serves(&proxy);
    let stands = Stands::of(&proxy.api().split());
    let loud = proxy.log().contains("every canary begins at weight 0");
    assert!(!proxy.log().contains("panicked"), "{what}: {}", proxy.log());
    let expected = if loud { Weight::ZERO } else { percent(10) };
    assert_eq!(stands, Stands { weight: expected, sealed: false }, "{what}: {}", proxy.log());
    let store = proxy.api().services().store.expect("a store");
    assert!(store.keeps && store.trouble.is_some() == loud, "{what}: {store:?}");
    // What is decided from now on is kept, and the damage is not met again.
    changed(proxy.api().weight("3%", "*"));
    proxy.kill();
    let mut command = world.serve();
    command.env("PENSTOCK_STORE_PATH", copied.path());
    let again = started(command);
    assert_eq!(again.api().split().weight, percent(3), "{what}: {}", again.log());
    assert!(!again.log().contains("damaged"), "{what}: {}", again.log());
    loud
}

#[test]
fn a_damaged_store_never_gives_a_canary_more() {
    let world = used();
    let (mut loud, mut all) = (0, 0);
    for (name, samples) in SAMPLE {
        let bytes = fs::read(world.store().join(name)).unwrap();
        for sample in 0..samples {
            // Odd places, so that it is not the same part of every page.
            let place = (bytes.len() * sample / samples + sample * 37).min(bytes.len() - 1);
            let flip = |directory: &Path| {
                let mut bytes = bytes.clone();
                bytes[place] ^= 1 << (sample % 8);
                fs::write(directory.join(name), bytes).unwrap();
            };
            let cut = |directory: &Path| fs::write(directory.join(name), &bytes[..place]).unwrap();
            loud += usize::from(start_on(&world, flip, &format!("bit {place} of {name} flipped")));
            loud += usize::from(start_on(&world, cut, &format!("{name} cut to {place} of {} bytes", bytes.len())));
            all += 2;
        }
    }
    println!("{all} damaged stores: {loud} times the canary began at weight 0, else as it was");
    assert!(loud > 0);
}

#[test]
fn a_seal_in_a_log_cut_short_is_not_forgotten_in_silence() {
    let world = used();
    let proxy = world.start();
    assert!(changed(proxy.api().abort()).durable);
    proxy.kill();
    let log = fs::read(world.store().join("penstock.sqlite-wal")).unwrap();
    let cut = |directory: &Path| fs::write(directory.join("penstock.sqlite-wal"), &log[..log.len() / 2]).unwrap();
    assert!(start_on(&world, cut, "the log's newest half is missing"));
}

#[test]
fn a_kill_after_damage_was_found_does_not_make_it_trusted() {
    let world = used();
    fs::write(world.store().join("penstock.sqlite-wal"), "").unwrap();
    // As if it had been killed before it could keep anything: the origins' ports are somebody else's now.
    let taken = Origin::start("v3");
    world.write(|text| text.replacen("127.0.0.1:0", &taken.address.to_string(), 1));
    let ended = crate::world::Proxy::start(world.serve()).err().expect("the address is in use");
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    world.write(|text| text);
    let proxy = world.start();
    assert_eq!(proxy.api().split().weight, Weight::ZERO, "{}", proxy.log());
}
