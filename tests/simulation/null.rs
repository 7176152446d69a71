//! Healthy half-hours: how many of them end in a rollback although the canary is no worse than tolerated.
//!
//! Everything that is on by default is on together: the comparison of failures and rejected, the outage guard, health,
//! the error limit with its comparison that tolerates nothing; in every other run a latency limit too. At most ten of
//! ten thousand may be convicted. `PENSTOCK_NULL_RUNS=10000` runs that many (in release mode, on all cores);
//! `PENSTOCK_SEED=n` runs one.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use penstock::domain::judge::{Conviction, LatencyLimit, Policy};
use penstock::domain::split::{Role, Weight};
use penstock::domain::time::Tick;
use penstock::domain::window::Drawn;

use super::counts::{Answers, Pair};
use super::luck::pick;
use super::sweep;

const HALF_HOUR: u64 = 18_000;
/// At most one in so many may be convicted: none of the number that plain `cargo test` runs.
const ONE_IN: u64 = 1_000;
const USUAL_RUNS: u64 = 240;

const RATES: [f64; 5] = [10.0, 30.0, 100.0, 300.0, 1_000.0];
const BASELINES: [f64; 2] = [0.001, 0.01];
const STANDING: [u16; 6] = [100, 500, 1_000, 2_500, 5_000, 7_500];
const RAMP: [u16; 7] = [500, 1_000, 2_500, 5_000, 7_500, 9_500, 10_000];
const HIGH: [u16; 3] = [7_500, 9_500, 10_000];

/// What makes a half-hour hard to judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    /// Nothing but chance.
    None,
    /// The canary is as bad as tolerated: 1.1 times stable's rate, and five in ten thousand more. Without a latency
    /// limit: where failures alone come near to that, it is worse, and nothing is tolerated.
    Edge,
    /// Both arms fail everything for 20 to 60 s, at once or one of them 5 s later.
    Outage,
    /// Both fail three of ten.
    PartOutage,
    /// An outage of which the slower arm's failures are seen by few: clients leave before.
    Impatience,
    /// Both are over the latency limit, one of them 5 s slower than the other.
    Slowness,
    /// Twenty requests of one tick fail together; no other failures.
    Clusters,
    /// Answers of half a second, and every 30 s a connection dies with half of what an arm has under way.
    Dying,
    /// Every ten seconds.
    DyingOften,
    /// Both arms fail about as much as the limit allows, and wander about it.
    AtLimit,
    /// The same with the canary at 75 to 100 %: probes.
    Probes,
    /// Outages, clusters and dying connections at once.
    All,
}

const TROUBLES: [Trouble; 12] = [
    Trouble::None,
    Trouble::Edge,
    Trouble::Outage,
    Trouble::PartOutage,
    Trouble::Impatience,
    Trouble::Slowness,
    Trouble::Clusters,
    Trouble::Dying,
    Trouble::DyingOften,
    Trouble::AtLimit,
    Trouble::Probes,
    Trouble::All,
];

/// One half-hour, as drawn from its seed.
#[derive(Debug)]
struct Scenario {
    seed: u64,
    trouble: Trouble,
    baseline: f64,
    rate: f64,
    policy: Policy,
    ramp: bool,
    first: u16,
    /// Ticks in which something is wrong with both arms, and ticks by which canary and stable notice it late.
    incidents: Vec<Incident>,
    over: f64,
    /// The share of clients who do not wait for the slower arm.
    impatient: f64,
}

#[derive(Debug, Clone, Copy)]
struct Incident {
    from: u64,
    to: u64,
    canary_after: usize,
    stable_after: usize,
}

#[derive(Debug, Default)]
struct Ended {
    convicted: Option<(f64, Conviction)>,
    probes: u64,
}

impl Scenario {
    fn of(seed: u64) -> Scenario {
        let mut luck = fastrand::Rng::with_seed(seed ^ 0x6e75_6c6c);
        let trouble = TROUBLES[usize::try_from(seed).expect("64 bits") % TROUBLES.len()];
        let limited = luck.bool() && trouble != Trouble::Edge || trouble == Trouble::Slowness;
        let latency = limited.then_some(LatencyLimit {
            quantile: 0.99,
            above: Duration::from_millis(500),
            window: Duration::from_secs(10),
        });
        let ramp = trouble != Trouble::Probes && luck.bool();
        let first = match trouble {
            Trouble::Probes => pick(&mut luck, &HIGH),
            _ if ramp => RAMP[0],
            _ => pick(&mut luck, &STANDING),
        };
        Scenario {
            seed,
            trouble,
            baseline: pick(&mut luck, &BASELINES),
            rate: pick(&mut luck, &RATES),
            policy: Policy { latency, ..Policy::default() },
            ramp,
            first,
            incidents: (0..luck.u64(1..=3)).map(|_| Incident::drawn(&mut luck)).collect(),
            over: pick(&mut luck, &[0.002, 0.009, 0.012]),
            impatient: pick(&mut luck, &[0.05, 0.2, 0.5, 1.0]),
        }
    }

    fn run(&self) -> Ended {
        let mut pair = Pair::new(self.seed, weight(self.first), self.rate, &self.policy);
        let mut ended = Ended::default();
        let mut wandering = self.baseline;
        let (mut step, mut next_step) = (1, pair.luck.u64(300..3_000));
        while pair.now() < Tick(HALF_HOUR) {
            let tick = pair.now().0 + 1;
            if self.ramp && tick == next_step && step < RAMP.len() {
                pair.weigh(weight(RAMP[step]));
                (step, next_step) = (step + 1, tick + pair.luck.u64(300..3_000));
            }
            if tick % 600 == 1 && matches!(self.trouble, Trouble::AtLimit | Trouble::Probes) {
                wandering = 0.03 + 0.05 * pair.luck.f64();
            }
            let (canary, stable) = self.answers(tick, wandering);
            let convicted = pair.tick(&canary, &stable, |pair, drawn| self.accident(pair, drawn));
            if let Some(conviction) = convicted {
                ended.convicted = Some((pair.now().end().since(Tick(0).begin()).as_secs_f64(), conviction));
                break;
            }
        }
        ended.probes = pair.probes;
        ended
    }

    fn answers(&self, tick: u64, wandering: f64) -> (Answers, Answers) {
        let failing = if self.trouble == Trouble::Clusters { 0.0 } else { wandering };
        let usual = Answers {
            failing,
            rejected: 0.02,
            abandoned: 0.002,
            over: self.over,
            after: if self.connections_die() { 5 } else { 0 },
            ..Answers::WELL
        };
        let (mut canary, mut stable) = (usual, usual);
        if self.trouble == Trouble::Edge {
            canary.failing = 1.1 * failing + 0.0005;
        }
        let Some(incident) = self.incidents.iter().find(|incident| (incident.from..incident.to).contains(&tick)) else {
            return (canary, stable);
        };
        for (arm, after) in [(&mut canary, incident.canary_after), (&mut stable, incident.stable_after)] {
            match self.trouble {
                Trouble::Outage | Trouble::All => (arm.failing, arm.fails_after) = (1.0, after),
                Trouble::Impatience => {
                    (arm.failing, arm.fails_after) = (1.0, after);
                    arm.unseen = if after > 20 { self.impatient } else { 0.0 };
                }
                Trouble::PartOutage => (arm.failing, arm.fails_after) = (0.3, after),
                Trouble::Slowness => (arm.over, arm.over_after) = (1.0, after.max(6)),
                _ => {}
            }
        }
        (canary, stable)
    }

    fn connections_die(&self) -> bool {
        matches!(self.trouble, Trouble::Dying | Trouble::DyingOften | Trouble::All)
    }

    fn accident(&self, pair: &mut Pair, drawn: Drawn) {
        if matches!(self.trouble, Trouble::Clusters | Trouble::All) {
            // As often as makes the baseline out of clusters alone.
            let chance = self.baseline * (self.rate * 0.1).max(1.0) / (self.rate * 0.1).clamp(1.0, 20.0);
            if pair.luck.f64() < chance {
                let role = pair.struck(drawn);
                pair.cluster(drawn, role, 20);
            }
        }
        let every = if self.trouble == Trouble::Dying { 300 } else { 100 };
        if self.connections_die() && pair.luck.u64(..every) == 0 {
            let role: Role = pair.struck(drawn);
            pair.connection_dies(role);
        }
    }
}

impl Incident {
    fn drawn(luck: &mut fastrand::Rng) -> Incident {
        let from = luck.u64(100..HALF_HOUR - 1_000);
        let (canary_after, stable_after) = pick(luck, &[(0, 50), (50, 0), (0, 0)]);
        Incident { from, to: from + luck.u64(200..=600), canary_after, stable_after }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let split = if self.ramp { "ramp".to_owned() } else { weight(self.first).to_string() };
        let limit = if self.policy.latency.is_some() { ", latency limit" } else { "" };
        write!(f, "{:?}, {} of 100 failing, {}/s, {split}{limit}", self.trouble, self.baseline * 100.0, self.rate)
    }
}

fn weight(points: u16) -> Weight {
    Weight::from_basis_points(points).expect("at most everything")
}

#[derive(Default)]
struct Row {
    runs: u64,
    convicted: u64,
    probes: u64,
}

#[test]
fn healthy_half_hours_end_without_a_rollback() {
    let runs = sweep::asked("PENSTOCK_NULL_RUNS", USUAL_RUNS);
    let ended = sweep::over(runs, |seed| Scenario::of(seed).run());
    let mut table: BTreeMap<String, Row> = BTreeMap::new();
    for (seed, ended) in &ended {
        let scenario = Scenario::of(*seed);
        let keys = [
            format!("  {:?}", scenario.trouble),
            format!(" {} of 1000 failing", scenario.baseline * 1_000.0),
            format!(" {:>4} requests/s", scenario.rate),
            format!(" {}", if scenario.ramp { "ramps" } else { "standing splits" }),
            format!(" {}", if scenario.policy.latency.is_some() { "with a latency limit" } else { "defaults alone" }),
            "all".to_owned(),
        ];
        for key in keys {
            let row = table.entry(key).or_default();
            row.runs += 1;
            row.convicted += u64::from(ended.convicted.is_some());
            row.probes += ended.probes;
        }
        if let Some((seconds, conviction)) = &ended.convicted {
            println!("PENSTOCK_SEED={seed} cargo test --test simulation healthy -- --nocapture");
            println!("    # {scenario}, {seconds} s: {}, {}", conviction.trigger, conviction.because);
        }
    }
    println!(
        "{:<26}{:>10}{:>8}{:>12}   95 % interval, in 10 000",
        "healthy half-hours", "runs", "probes", "rolled back"
    );
    for (key, row) in &table {
        let (low, high) = super::interval::of_95_percent(row.convicted, row.runs);
        let (runs, probes, convicted) = (row.runs, row.probes, row.convicted);
        println!("{key:<26}{runs:>10}{probes:>8}{convicted:>12}   {:.1} to {:.1}", low * 1e4, high * 1e4);
    }
    let all = &table["all"];
    assert!(all.convicted <= all.runs / ONE_IN, "{} of {} healthy half-hours rolled back", all.convicted, all.runs);
}
