//! What a count of rare events says about their rate: the interval of Clopper and Pearson, by bisection.

use super::luck::real;

/// Bounds that are both right in 95 of 100 repetitions at least.
pub fn of_95_percent(events: u64, runs: u64) -> (f64, f64) {
    let low = if events == 0 { 0.0 } else { solve(|p| 1.0 - at_most(events - 1, runs, p), 0.025, true) };
    let high = if events == runs { 1.0 } else { solve(|p| at_most(events, runs, p), 0.025, false) };
    (low, high)
}

/// The rate at which a monotone probability takes a value.
fn solve(probability: impl Fn(f64) -> f64, value: f64, rising: bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if (probability(middle) < value) == rising { low = middle } else { high = middle }
    }
    low
}

/// The chance of at most `events` in `runs` at rate `p`.
fn at_most(events: u64, runs: u64, p: f64) -> f64 {
    let odds = (p / (1.0 - p)).ln();
    let mut log_term = real(runs) * (-p).ln_1p();
    let mut sum = log_term.exp();
    for k in 0..events {
        log_term += (real(runs - k) / real(k + 1)).ln() + odds;
        sum += log_term.exp();
    }
    sum
}

#[test]
fn bounds_agree_with_tables() {
    for (events, runs, low, high) in [(0, 10, 0.0, 0.3085), (1, 10, 0.0025, 0.4450), (5, 10, 0.1871, 0.8129)] {
        let (a, b) = of_95_percent(events, runs);
        assert!((a - low).abs() < 1e-4 && (b - high).abs() < 1e-4, "{events} of {runs}: {a} to {b}");
    }
    let (_, none) = of_95_percent(0, 10_000);
    assert!((none - 3.688e-4).abs() < 1e-6);
}
