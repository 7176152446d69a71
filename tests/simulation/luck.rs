//! Counts drawn at once where a loop over requests would draw them one by one: the same distributions, exactly.

/// Above this a mean is drawn in parts, so that the first term of the search is still a number.
const PART: f64 = 100.0;

/// How many of `n` independent requests come out as something that happens to each with probability `p`.
pub fn binomial(luck: &mut fastrand::Rng, n: u64, p: f64) -> u64 {
    if n == 0 || p <= 0.0 {
        return 0;
    }
    if p >= 1.0 {
        return n;
    }
    if p > 0.5 {
        return n - binomial(luck, n, 1.0 - p);
    }
    let part = part_of(p);
    (0..n.div_ceil(part)).map(|i| search(luck, part.min(n - i * part), p)).sum()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number, cut off")]
fn part_of(p: f64) -> u64 {
    ((PART / p) as u64).clamp(1, 400)
}

/// Inversion, term by term from zero.
fn search(luck: &mut fastrand::Rng, n: u64, p: f64) -> u64 {
    let mut left = luck.f64();
    let mut term = (real(n) * (-p).ln_1p()).exp();
    let odds = p / (1.0 - p);
    let mut k = 0;
    while left > term && k < n {
        left -= term;
        term *= odds * real(n - k) / real(k + 1);
        k += 1;
    }
    k
}

/// How many requests arrive in a stretch of time in which `mean` are expected.
pub fn poisson(luck: &mut fastrand::Rng, mean: f64) -> u64 {
    if mean > PART {
        return poisson(luck, PART) + poisson(luck, mean - PART);
    }
    let mut left = luck.f64();
    let mut term = (-mean).exp();
    let mut k = 0;
    while left > term && k < 1_000 {
        left -= term;
        k += 1;
        term *= mean / real(k);
    }
    k
}

pub fn pick<T: Copy>(luck: &mut fastrand::Rng, from: &[T]) -> T {
    from[luck.usize(..from.len())]
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub fn real(count: u64) -> f64 {
    count as f64
}

#[test]
fn counts_have_the_mean_and_the_spread_that_single_draws_would_have() {
    let mut luck = fastrand::Rng::with_seed(1);
    for (n, p) in [(1, 0.3), (20, 0.05), (100, 0.5), (2_000, 0.5), (2_000, 0.001), (700, 0.95)] {
        spread(20_000, real(n) * p, real(n) * p * (1.0 - p), || binomial(&mut luck, n, p));
    }
    for mean in [0.1, 1.0, 30.0, 250.0] {
        spread(20_000, mean, mean, || poisson(&mut luck, mean));
    }
}

/// Mean within five standard errors, variance within a tenth.
fn spread(draws: u64, mean: f64, variance: f64, mut draw: impl FnMut() -> u64) {
    let (mut sum, mut squares) = (0.0, 0.0);
    for _ in 0..draws {
        let value = real(draw());
        sum += value;
        squares += value * value;
    }
    let seen = sum / real(draws);
    assert!((seen - mean).abs() < 5.0 * (variance / real(draws)).sqrt(), "mean {seen}, not {mean}");
    let spread = squares / real(draws) - seen * seen;
    assert!((spread / variance - 1.0).abs() < 0.1, "variance {spread}, not {variance}");
}
