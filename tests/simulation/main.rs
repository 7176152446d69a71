//! The pure core under simulation: virtual time, one seed per run, and everything that may go wrong between a request
//! and a verdict.
//!
//! `world` is event by event, with workers, late batches and persons; the `ledger` checks it after every step. `null`
//! and `power` are tick by tick, by counts, and measure what the judge costs. A failure prints the line that replays
//! it; `PENSTOCK_SEEDS=n` sweeps more worlds.

mod backend;
mod counts;
mod engine;
mod interval;
mod ledger;
mod luck;
mod null;
mod power;
mod sessions;
mod sweep;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Story, World};

const USUAL_SEEDS: u64 = 256;
/// The guarantee is one good canary in a thousand, and none of the usual number.
const ONE_IN: u64 = 1_000;

#[test]
fn bad_canaries_reach_zero_and_good_ones_are_left_alone() {
    let seeds = sweep::asked("PENSTOCK_SEEDS", USUAL_SEEDS);
    if std::env::var_os("PENSTOCK_SEED").is_some() {
        println!("{}", World::new(sweep::asked("PENSTOCK_SEED", 0)).describe());
    }
    let ran = sweep::over(seeds, |seed| catch_unwind(AssertUnwindSafe(|| World::new(seed).run())).ok());
    let (stories, broken): (Vec<_>, Vec<_>) = ran.iter().partition(|(_, story)| story.is_some());
    let stories: Vec<(u64, &Story)> = stories.into_iter().filter_map(|(seed, s)| Some((*seed, s.as_ref()?))).collect();
    let good = stories.iter().filter(|(_, story)| story.good).count() as u64;
    let wronged: Vec<_> = stories.iter().filter(|(_, s)| s.good && !s.rolled_back.is_empty()).collect();
    for (seed, _) in &broken {
        println!("{}", replay(*seed));
    }
    for (seed, story) in &wronged {
        println!("{}   # a good canary rolled back: {}", replay(*seed), story.rolled_back[0]);
    }
    if let [(_, only)] = stories[..] {
        only.events.iter().for_each(|event| println!("{event}"));
    }
    let sum = |count: fn(&Story) -> u64| stories.iter().map(|(_, story)| count(story)).sum::<u64>();
    println!(
        "{} worlds, {good} with a good canary: {} requests, {} events, {} rollbacks, {} probes",
        stories.len(),
        sum(|story| story.requests),
        sum(|story| story.events.len() as u64),
        sum(|story| story.rolled_back.len() as u64),
        sum(|story| story.probes),
    );
    assert!(broken.is_empty(), "{} of {} worlds broke a rule, first: {}", broken.len(), ran.len(), replay(broken[0].0));
    assert!(wronged.len() as u64 <= good / ONE_IN, "{} of {good} good canaries were rolled back", wronged.len());
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..4 {
        let [one, two] = [World::new(seed).run(), World::new(seed).run()];
        assert_eq!((one.requests, one.events), (two.requests, two.events));
    }
}

fn replay(seed: u64) -> String {
    format!("PENSTOCK_SEED={seed} cargo test --test simulation canaries -- --nocapture")
}
