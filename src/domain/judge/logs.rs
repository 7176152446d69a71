//! Sums of numbers that are kept as logarithms: a bankroll may be as small as e^-100000 and must still add up.

/// `ln(e^x + e^y)`.
#[must_use]
pub fn add(x: f64, y: f64) -> f64 {
    let (high, low) = if x >= y { (x, y) } else { (y, x) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// `ln(sum of e^x)`; minus infinity when there is nothing to sum.
#[must_use]
pub fn sum(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let high = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if high == f64::NEG_INFINITY { high } else { high + terms.map(|term| (term - high).exp()).sum::<f64>().ln() }
}

/// A count as a number to calculate with.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_very_small_numbers_do_not_vanish() {
        assert!((add(-100_000.0, -100_000.0) - (2f64.ln() - 100_000.0)).abs() < 1e-9);
        assert!((sum([-100_000.0; 4].into_iter()) - (4f64.ln() - 100_000.0)).abs() < 1e-9);
    }

    #[test]
    fn nothing_adds_nothing() {
        assert_eq!(add(f64::NEG_INFINITY, -1.0).to_bits(), (-1.0f64).to_bits());
        assert!(sum(std::iter::empty()).is_infinite());
    }
}
