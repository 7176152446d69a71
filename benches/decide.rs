//! What deciding costs: the judge's tick, ten times a second for each service with a canary, and drawing the snapshot
//! that the workers route by, at every change.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use penstock::domain::admission::Admission;
use penstock::domain::balance::Balancing;
use penstock::domain::error_pages::ErrorPages;
use penstock::domain::judge::{Judge, LatencyLimit, Policy};
use penstock::domain::names::{Exposure, ServiceName, VersionName};
use penstock::domain::outcome::Classes;
use penstock::domain::retry::RetryPolicy;
use penstock::domain::route::{HostPattern, Route};
use penstock::domain::service::{Definition, Timeouts, VersionDefinition};
use penstock::domain::snapshot::Snapshot;
use penstock::domain::split::Weight;
use penstock::domain::standing::Change;
use penstock::domain::state::{Event, State};
use penstock::domain::time::Tick;
use penstock::domain::window::{Arm, Coin, Drawn, Generation, Row};

const WEIGHT: Weight = Weight::HALF;

/// What workers report in a tick: for each tick in which coins fell that have landed since, a healthy pair of arms.
fn rows(now: Tick, count: u64) -> Vec<(Drawn, Row)> {
    let ended = Classes { success: 45, failure: 1, rejected: 2, ..Classes::default() };
    let arm = Arm { routed: 48, ended, ..Arm::default() };
    let of = |ago| {
        let tick = Tick(now.0.saturating_sub(ago));
        let drawn =
            Drawn { exposure: Exposure(1), tick, weight: WEIGHT, generation: Generation(0), coin: Coin::Tossed };
        (drawn, Row { stable: arm, canary: arm })
    };
    (0..count).map(of).collect()
}

fn judging(c: &mut Criterion) {
    let quantile = LatencyLimit { quantile: 0.99, above: Duration::from_secs(1), window: Duration::from_secs(30) };
    for (name, policy) in
        [("errors", Policy::default()), ("errors_and_latency", Policy { latency: Some(quantile), ..Policy::default() })]
    {
        for count in [0, 2, 20] {
            let mut judge = Judge::new(&policy, Timeouts::default().response_head, 1);
            let mut now = Tick(0);
            for _ in 0..2_000 {
                now = now.next(); // every ring is full, every slot has something to settle
                let rows = rows(now, count);
                judge.tick(now, WEIGHT, rows.iter().map(|(drawn, row)| (drawn, row)));
            }
            c.bench_function(&format!("judge/{name}/{count}_rows"), |b| {
                b.iter_batched(
                    || {
                        now = now.next();
                        (now, rows(now, count))
                    },
                    |(now, rows)| judge.tick(now, WEIGHT, rows.iter().map(|(drawn, row)| (drawn, row))),
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

fn service(index: usize) -> ServiceName {
    ServiceName::new(&format!("shop-{index}")).expect("a name")
}

fn version(text: &str) -> VersionName {
    VersionName::new(text).expect("a name")
}

fn definition(index: usize) -> Definition {
    let endpoints = |n: usize| (0..3).map(move |e| format!("10.{}.{}.{}:80", n, index / 250, index % 250 + e).into());
    let host = HostPattern::parse(&format!("shop-{index}.example.com")).expect("a host");
    Definition {
        name: service(index),
        routes: vec![Route::below(host, "/").into()],
        error_pages: ErrorPages::default(),
        versions: vec![
            VersionDefinition { name: version("v1"), endpoints: endpoints(1).collect(), capacity: None },
            VersionDefinition { name: version("v2"), endpoints: endpoints(2).collect(), capacity: None },
        ],
        stable: version("v1"),
        canary: Some(version("v2")),
        weight: WEIGHT,
        pins: Vec::new(),
        policy: Policy::default(),
        sticky: None,
        timeouts: Timeouts::default(),
        retries: RetryPolicy::default(),
        admission: Admission::default(),
        health_check: None,
        balancing: Balancing::default(),
    }
}

fn drawing(c: &mut Criterion) {
    for services in [1, 1_000] {
        let mut state = State::of((0..services).map(definition));
        for authority in
            (0..services).flat_map(|index| definition(index).versions).flat_map(|v| v.endpoints).map(|e| e.authority)
        {
            if let Ok(address) = authority.parse() {
                state.resolve(&authority, vec![address]);
            }
        }
        let before = Snapshot::of(&state, &Snapshot::default());
        let change = Change::WeightSet { version: version("v2"), from: WEIGHT, to: Weight::FULL };
        state.apply(1, &Event { service: service(services / 2), change });
        c.bench_function(&format!("snapshot/one_of_{services}_changed"), |b| {
            b.iter(|| Snapshot::of(black_box(&state), black_box(&before)));
        });
    }
}

fn brief() -> Criterion {
    let brief = Criterion::default().warm_up_time(Duration::from_millis(200));
    brief.measurement_time(Duration::from_millis(800)).sample_size(30).configure_from_args()
}

criterion_group! { name = benches; config = brief(); targets = judging, drawing }
criterion_main!(benches);
