//! How many requests a bad canary costs before its weight is zero: medians over seeds.

use penstock::domain::judge::Policy;
use penstock::domain::split::Weight;
use penstock::domain::time::Tick;

use super::counts::{Answers, Pair};
use super::luck::real;
use super::sweep;

/// `PENSTOCK_POWER_RUNS=n` takes the medians of another number.
const USUAL_RUNS: u64 = 21;
const LONGEST: Tick = Tick(36_000);
const RATES: [f64; 4] = [10.0, 100.0, 1_000.0, 20_000.0];

/// Weight in basis points, and what the design's simulator measured at each rate (canary requests).
const DEAD: [(u16, Option<[u64; 4]>); 5] = [
    (500, None),
    (2_500, Some([9, 17, 104, 2_000])),
    (5_000, Some([15, 29, 201, 4_004])),
    (9_500, Some([19, 56, 391, 7_726])),
    (10_000, Some([20, 61, 502, 10_002])),
];

/// The middle of canary requests and seconds of one cell.
fn medians(points: u16, rate: f64, canary: &Answers, stable: &Answers, runs: u64) -> Option<(u64, f64)> {
    let weight = Weight::from_basis_points(points).expect("at most everything");
    let run = |seed| {
        let mut pair = Pair::new(seed, weight, rate, &Policy::default());
        while pair.now() < LONGEST {
            if pair.tick(canary, stable, |_, _| {}).is_some() {
                return Some((pair.exposed, real(pair.now().0) / 10.0));
            }
        }
        None
    };
    let mut cost: Vec<u64> = Vec::new();
    let mut time: Vec<f64> = Vec::new();
    for (exposed, seconds) in (0..runs).filter_map(run) {
        cost.push(exposed);
        time.push(seconds);
    }
    cost.sort_unstable();
    time.sort_by(f64::total_cmp);
    let middle = usize::try_from(runs / 2).expect("few");
    Some((*cost.get(middle)?, *time.get(middle)?))
}

#[test]
fn a_dead_canary_costs_about_what_the_design_measured() {
    let runs = sweep::asked("PENSTOCK_POWER_RUNS", USUAL_RUNS);
    let stable = Answers { failing: 0.001, ..Answers::WELL };
    println!(
        "dead canary, stable fails 1 of 1000: canary requests (seconds), medians of {runs}; in brackets the design's"
    );
    for (points, design) in DEAD {
        let mut line = vec![Weight::from_basis_points(points).expect("a weight").to_string()];
        for (at, rate) in RATES.into_iter().enumerate() {
            let (exposed, seconds) = medians(points, rate, &Answers::DEAD, &stable, runs).expect("the dead are found");
            let measured = design.map_or_else(String::new, |design| format!(" [{}]", design[at]));
            line.push(format!("{exposed} ({seconds} s){measured}"));
            if let Some(design) = design {
                assert!(exposed <= 2 * design[at] + 10, "{points}, {rate}/s: {exposed} canary requests");
            }
        }
        println!("{}", line.join(" | "));
    }
}

#[test]
fn a_partly_bad_canary_is_found_too() {
    let runs = sweep::asked("PENSTOCK_POWER_RUNS", USUAL_RUNS);
    let stable = Answers { failing: 0.001, ..Answers::WELL };
    println!("1000/s, stable fails 1 of 1000: canary requests (seconds), medians of {runs}");
    for failing in [0.5, 0.2, 0.05] {
        let canary = Answers { failing, ..Answers::WELL };
        let mut line = vec![format!("{} % bad", failing * 100.0)];
        for points in [500, 2_500, 5_000] {
            let (exposed, seconds) = medians(points, 1_000.0, &canary, &stable, runs).expect("it is found");
            line.push(format!("{} %: {exposed} ({seconds} s)", points / 100));
        }
        println!("{}", line.join(" | "));
    }
}
