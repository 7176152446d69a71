//! Many seeds on all cores, in an order that does not matter.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// A number that may be asked for by an environment variable.
pub fn asked(variable: &str, usual: u64) -> u64 {
    std::env::var(variable)
        .map_or(usual, |number| number.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{number}`")))
}

/// Runs seeds `0..seeds`, or the one in `PENSTOCK_SEED`; results in the order of the seeds.
pub fn over<T: Send>(seeds: u64, run: impl Fn(u64) -> T + Sync) -> Vec<(u64, T)> {
    if std::env::var_os("PENSTOCK_SEED").is_some() {
        let seed = asked("PENSTOCK_SEED", 0);
        return vec![(seed, run(seed))];
    }
    let (next, done) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    let result = run(seed);
                    done.lock().expect("a failing run ends the sweep").push((seed, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("a failing run ends the sweep");
    done.sort_by_key(|(seed, _)| *seed);
    done
}
