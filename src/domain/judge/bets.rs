//! One betting kernel, and the family of bets that it places on errors.
//!
//! The proxy's own coin sends a request to the canary with a probability that we know (`coin` below). If the canary is
//! no worse than stable, then, *given that an error happened now*, the chance that it happened on the canary is at most
//! what the coin says, whatever the error rate of the day. A bet on "the canary is fine" at those odds cannot be
//! expected to win: for a stake `a`, a reference level `m` and `k = coin / (1 - coin)` the four factors of [`Factors`]
//! have mean `1 + a coin (p_canary - ratio p_stable - margin) <= 1` for **every** error rate of stable and every `m`.
//! So the baseline may drift, burst or fail altogether: both arms get their share of it, and nobody earns by it.
//!
//! **Tick bets.** Fifty streams that die with one connection are one piece of evidence, not fifty. [`ErrorFamily`]
//! therefore makes one toss of everything that was drawn in one slot: only the mean of the canary's net share of the
//! errors matters, and any dependence inside the slot is allowed.

use super::logs::real;

/// What a canary may do before it counts as worse: `p_canary <= ratio * p_stable + margin`, at every moment. The sum is
/// the tightest *linear* line, which is what keeps it valid while stable's rate moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    pub ratio: f64,
    pub margin: f64,
}

impl Tolerance {
    /// Ten percent more failures, and five more in ten thousand requests.
    pub const ERRORS: Tolerance = Tolerance { ratio: 1.1, margin: 0.0005 };
    /// Rejected (4xx) say more about clients than about versions: twice as many, and one more in a hundred.
    pub const REJECTED: Tolerance = Tolerance { ratio: 2.0, margin: 0.01 };
    /// Above a declared limit nothing more is tolerated.
    pub const NONE: Tolerance = Tolerance { ratio: 1.0, margin: 0.0 };

    /// Canary errors per stable error that this tolerates under a coin.
    fn odds(self, coin: f64) -> f64 {
        self.ratio * coin / (1.0 - coin)
    }

    /// The stake that earns most if the canary fails `times` as often as tolerated and failures are rare.
    #[must_use]
    pub fn rare_stake(self, times: f64, coin: f64) -> f64 {
        let stake = (times - 1.0) / (1.0 + times * self.odds(coin));
        if self.margin > 0.0 { stake.min(0.5 / self.margin) } else { stake }
    }

    /// The largest stake at which no outcome can ruin the bettor.
    #[must_use]
    pub fn largest_stake(self, level: f64, coin: f64) -> f64 {
        let k = coin / (1.0 - coin);
        (1.0 / (self.margin + level)).min(1.0 / (k * (self.ratio - level)))
    }

    #[must_use]
    pub fn factors(self, stake: f64, level: f64, coin: f64) -> Factors {
        let k = coin / (1.0 - coin);
        Factors {
            canary_bad: (stake * (1.0 - self.margin - level)).ln_1p(),
            canary_ok: (-stake * (self.margin + level)).ln_1p(),
            stable_bad: (-stake * k * (self.ratio - level)).ln_1p(),
            stable_ok: (stake * k * level).ln_1p(),
        }
    }
}

/// What each event does to a bankroll, as logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factors {
    pub canary_bad: f64,
    pub canary_ok: f64,
    pub stable_bad: f64,
    pub stable_ok: f64,
}

impl Factors {
    /// What all of them together do.
    #[must_use]
    pub fn of(&self, counts: &Counts) -> f64 {
        real(counts.canary_bad) * self.canary_bad
            + real(counts.canary_ok) * self.canary_ok
            + real(counts.stable_bad) * self.stable_bad
            + real(counts.stable_ok) * self.stable_ok
    }
}

/// Requests of both arms, by whether they went badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub canary_bad: u64,
    pub canary_ok: u64,
    pub stable_bad: u64,
    pub stable_ok: u64,
}

impl Counts {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.canary_bad + self.canary_ok + self.stable_bad + self.stable_ok
    }

    fn bad(&self) -> u64 {
        self.canary_bad + self.stable_bad
    }
}

/// How many bets a family places.
pub const BETS: usize = 7;
/// Each bets on the canary failing so many times as often as tolerated.
pub const TIMES: [f64; BETS] = [1.3, 1.8, 3.0, 6.0, 20.0, 100.0, 1000.0];
/// The share of the family's money behind each.
pub const SHARES: [f64; BETS] = [0.15, 0.15, 0.15, 0.10, 0.10, 0.10, 0.25];

/// One canary error must weigh at most a fiftieth of what the margin lets through in a slot, or the margin would grow
/// with the traffic.
const ERRORS_PER_MARGIN: f64 = 50.0;
/// How much the last slot moves the mean number of errors per slot.
const MEMORY: f64 = 0.1;

/// Bets on the share of bad requests: one toss per slot and weight.
#[derive(Debug, Clone)]
pub struct ErrorFamily {
    tolerance: Tolerance,
    /// Moving mean of errors per slot, of past slots only: what is known before the toss cannot bias it.
    usual: f64,
    /// Errors of the slot that is being tossed.
    current: u64,
}

impl ErrorFamily {
    #[must_use]
    pub fn new(tolerance: Tolerance) -> ErrorFamily {
        ErrorFamily { tolerance, usual: 0.0, current: 0 }
    }

    /// What every single one of independent tosses does to each bet: the kernel at level zero.
    #[must_use]
    pub fn tosses(&self, coin: f64, counts: &Counts) -> [f64; BETS] {
        if !fair(coin) {
            return [0.0; BETS];
        }
        TIMES.map(|times| self.tolerance.factors(self.tolerance.rare_stake(times, coin), 0.0, coin).of(counts))
    }

    /// What one group of requests, all drawn under the same coin, does to each bet.
    ///
    /// One error in a quiet slot is exactly the kernel at level zero. The more errors are usual, the less one says:
    /// `full` is how many make up one full toss. `tax` pays for the margin: extra canary errors up to it are free on
    /// average, however they cluster.
    pub fn toss(&mut self, coin: f64, counts: &Counts) -> [f64; BETS] {
        if !fair(coin) || counts.total() == 0 {
            return [0.0; BETS];
        }
        let (odds, errors) = (self.tolerance.odds(coin), real(counts.bad()));
        let margin = self.tolerance.margin;
        let full = 1f64.max(self.usual).max(ERRORS_PER_MARGIN * margin * coin * real(counts.total()));
        let net = (real(counts.canary_bad) - odds * real(counts.stable_bad)) / full.max(errors);
        let tax = (1.0 + odds) * margin * real(counts.canary_bad + counts.canary_ok) / full;
        self.current += counts.bad();
        let stakes = Tolerance { margin: 0.0, ..self.tolerance };
        TIMES.map(|times| {
            let stake = stakes.rare_stake(times, coin);
            (stake * net).ln_1p() - (stake * tax).ln_1p()
        })
    }

    /// Ends the slot: its errors now belong to the past.
    pub fn end_slot(&mut self) {
        self.usual = (1.0 - MEMORY) * self.usual + MEMORY * real(std::mem::take(&mut self.current));
    }
}

/// Whether a coin can land on both sides. Without a concurrent control there is no evidence.
#[must_use]
pub fn fair(coin: f64) -> bool {
    0.0 < coin && coin < 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(canary_bad: u64, canary_ok: u64, stable_bad: u64, stable_ok: u64) -> Counts {
        Counts { canary_bad, canary_ok, stable_bad, stable_ok }
    }

    fn first_toss(coin: f64, counts: Counts) -> [f64; BETS] {
        ErrorFamily::new(Tolerance::ERRORS).toss(coin, &counts)
    }

    #[test]
    fn no_bet_is_expected_to_win_against_a_canary_within_the_tolerance() {
        for coin in [0.01, 0.05, 0.5, 0.95] {
            for stable in [0.0, 0.001, 0.3, 0.85] {
                let canary = 1.1 * stable + 0.0005;
                for times in TIMES {
                    let stake = Tolerance::ERRORS.rare_stake(times, coin);
                    let factors = Tolerance::ERRORS.factors(stake, 0.0, coin);
                    let mean = coin * (canary * factors.canary_bad.exp() + (1.0 - canary) * factors.canary_ok.exp())
                        + (1.0 - coin) * (stable * factors.stable_bad.exp() + (1.0 - stable) * factors.stable_ok.exp());
                    assert!(mean <= 1.0 + 1e-12, "coin {coin}, stable {stable}, times {times}: {mean}");
                }
            }
        }
    }

    #[test]
    fn fifty_errors_of_one_dying_connection_weigh_no_more_than_one() {
        let one = first_toss(0.05, errors(1, 0, 0, 0));
        let fifty = first_toss(0.05, errors(50, 0, 0, 0));
        assert!(one.iter().zip(fifty).all(|(one, fifty)| fifty <= *one));
    }

    #[test]
    fn an_outage_of_both_arms_earns_nothing() {
        let both = first_toss(0.1, errors(10, 0, 90, 0));
        assert!(both.iter().all(|gain| *gain < 0.0), "{both:?}");
    }

    #[test]
    fn a_coin_that_always_lands_on_one_side_says_nothing() {
        for coin in [0.0, 1.0] {
            assert!(first_toss(coin, errors(9, 0, 0, 9)).iter().all(|gain| gain.abs() < f64::EPSILON));
        }
    }
}
