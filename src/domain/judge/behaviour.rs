//! The judge in a small world: seeded requests, a fair coin, and two versions that answer as told.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Conviction, ExposureBudget, Hold, Judge, LatencyLimit, Policy, Trigger, Unit, Verdict};
use crate::domain::names::Exposure;
use crate::domain::split::{Role, Weight};
use crate::domain::time::Tick;
use crate::domain::window::{Arm, Coin, Drawn, Row, Rows};

/// How one request ends, and how many ticks after it was drawn.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Well { after: usize, over: bool },
    Failed { after: usize },
    Refused,
    Rescued,
    Never,
}

/// How long an endpoint may take to answer.
const HEAD: Duration = Duration::from_secs(9);
const WELL: End = End::Well { after: 0, over: false };
const FAILED: End = End::Failed { after: 0 };

impl End {
    fn after(self) -> Option<usize> {
        match self {
            End::Well { after, .. } | End::Failed { after } => Some(after),
            End::Refused | End::Rescued => Some(0),
            End::Never => None,
        }
    }

    fn count(self, arm: &mut Arm) {
        match self {
            End::Well { over, .. } => {
                arm.ended.success += 1;
                arm.over += u64::from(over);
            }
            End::Failed { .. } => arm.ended.failure += 1,
            End::Refused => arm.ended.rejected += 1,
            End::Rescued => {
                arm.ended.failure += 1;
                arm.unreachable += 1;
                arm.rescued += 1;
            }
            End::Never => {}
        }
    }
}

type Version = Box<dyn Fn(&mut fastrand::Rng, u64) -> End>;

/// Fails with a constant rate, and answers within this tick or the next.
fn version(failing: f64) -> Version {
    Box::new(
        move |luck, _| if luck.f64() < failing { FAILED } else { End::Well { after: luck.usize(..2), over: false } },
    )
}

/// Always the same end.
fn always(end: End) -> Version {
    Box::new(move |_, _| end)
}

/// Like `usual`, but from one tick to another like `then`.
fn during(from: u64, to: u64, then: Version, usual: Version) -> Version {
    Box::new(move |luck, tick| if (from..to).contains(&tick) { then(luck, tick) } else { usual(luck, tick) })
}

/// What the workers of a proxy would report, tick by tick.
struct World {
    luck: fastrand::Rng,
    judge: Judge,
    weight: Weight,
    rate: usize,
    stable: Version,
    canary: Version,
    now: u64,
    reports: VecDeque<Rows>,
    canary_routed: u64,
}

/// The verdict that ended a run.
struct Ended {
    verdict: Verdict,
    seconds: f64,
    canary_routed: u64,
}

impl World {
    fn new(seed: u64, percent: u16, rate: usize, canary: Version, stable: Version) -> World {
        World {
            luck: fastrand::Rng::with_seed(seed),
            judge: Judge::new(&Policy::default(), HEAD, 1),
            weight: Weight::from_basis_points(percent * 100).unwrap(),
            rate,
            stable,
            canary,
            now: 0,
            reports: VecDeque::new(),
            canary_routed: 0,
        }
    }

    fn under(mut self, policy: &Policy) -> World {
        self.judge = Judge::new(policy, HEAD, 1);
        self
    }

    fn tick(&mut self) -> Verdict {
        self.now += 1;
        self.draw();
        let rows = self.reports.pop_front().unwrap_or_default();
        self.judge.tick(Tick(self.now), self.weight, rows.iter())
    }

    /// Draws this tick's requests and files each end under the tick in which it will be reported.
    fn draw(&mut self) {
        let mut ends: Vec<(usize, Row)> = vec![(0, Row::default())];
        let requests = self.rate / 10 + usize::from(self.luck.usize(..10) < self.rate % 10);
        for _ in 0..requests {
            let role = if self.weight.wins(self.luck.u64(..)) { Role::Canary } else { Role::Stable };
            ends[0].1.arm(role).routed += 1;
            let version = if role == Role::Canary { &self.canary } else { &self.stable };
            let end = version(&mut self.luck, self.now);
            let Some(after) = end.after() else { continue };
            let at = ends.iter().position(|(known, _)| *known == after).unwrap_or_else(|| {
                ends.push((after, Row::default()));
                ends.len() - 1
            });
            end.count(ends[at].1.arm(role));
        }
        self.canary_routed += ends[0].1.canary.routed;
        let generation = self.judge.generation();
        let drawn =
            Drawn { exposure: Exposure(1), tick: Tick(self.now), weight: self.weight, generation, coin: Coin::Tossed };
        for (after, row) in ends {
            self.reports.resize_with(self.reports.len().max(after + 1), Rows::default);
            self.reports[after].row(drawn).unwrap().merge(&row);
        }
    }

    /// Runs until a verdict that ends the run, or the time is up.
    fn until(&mut self, seconds: u64, ends: impl Fn(&Verdict) -> bool) -> Ended {
        let mut verdict = Verdict::Undecided;
        for _ in 0..seconds * 10 {
            verdict = self.tick();
            if ends(&verdict) {
                break;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a test is short")]
        let seconds = self.now as f64 / 10.0;
        Ended { verdict, seconds, canary_routed: self.canary_routed }
    }

    fn until_worse(&mut self, seconds: u64) -> Ended {
        self.until(seconds, |verdict| matches!(verdict, Verdict::Worse(_)))
    }
}

impl Ended {
    fn conviction(&self) -> &Conviction {
        match &self.verdict {
            Verdict::Worse(conviction) => conviction,
            other => panic!("after {} s: {other:?}", self.seconds),
        }
    }
}

/// Runs one scenario over many seeds; the middle of the exposures and of the times. Run with `--nocapture` to see it.
fn median(name: &str, seeds: u64, scenario: impl Fn(u64) -> Ended) -> (u64, f64) {
    let mut runs: Vec<_> = (0..seeds).map(scenario).collect();
    for run in &runs {
        assert!(!run.conviction().because.is_empty());
    }
    runs.sort_by_key(|run| run.canary_routed);
    let exposed = runs[runs.len() / 2].canary_routed;
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let (middle, slowest) = (&runs[runs.len() / 2], &runs[runs.len() - 1]);
    let because = &middle.conviction().because;
    println!("{name}: {exposed} canary requests, {} s (slowest {} s): {because}", middle.seconds, slowest.seconds);
    (exposed, middle.seconds)
}

/// How many seeds to run; `PENSTOCK_SEEDS=n` asks for another number.
fn seeds(usual: u64) -> u64 {
    std::env::var("PENSTOCK_SEEDS").map_or(usual, |seeds| seeds.parse().expect("PENSTOCK_SEEDS is a number"))
}

/// Runs a good canary over many seeds. One in a thousand may be convicted: none of the usual number.
fn never_worse(name: &str, usual: u64, seconds: u64, world: impl Fn(u64) -> World) {
    never(name, usual, |seed| world(seed).until_worse(seconds));
}

fn never(name: &str, usual: u64, scenario: impl Fn(u64) -> Ended) {
    let seeds = seeds(usual);
    let runs = (0..seeds).map(|seed| (seed, scenario(seed)));
    let convicted: Vec<_> = runs.filter(|(_, ended)| matches!(ended.verdict, Verdict::Worse(_))).collect();
    for (seed, ended) in &convicted {
        println!("{name}: seed {seed}, {} s: {:?}", ended.seconds, ended.verdict);
    }
    println!("{name}: {} of {seeds} convicted", convicted.len());
    assert!(convicted.len() as u64 <= seeds / 1_000, "{name}: {} of {seeds} convicted", convicted.len());
}

const PERCENT: [u16; 4] = [5, 10, 25, 50];
const RATES: [usize; 3] = [20, 200, 1_000];

fn pick<T: Copy>(from: &[T], seed: u64) -> T {
    from[usize::try_from(seed).unwrap() % from.len()]
}

#[test]
fn a_dead_canary_is_convicted_within_six_tenths_of_a_second() {
    let dead = |seed| World::new(seed, 50, 1_000, always(FAILED), version(0.001)).until_worse(10);
    let (exposed, seconds) = median("dead, 50 %, 1000/s", 40, dead);
    assert!(exposed <= 310 && seconds <= 0.6);
}

#[test]
fn a_dead_canary_at_a_small_weight_costs_a_few_dozen_requests() {
    for rate in RATES {
        let dead = |seed| World::new(seed, 5, rate, always(FAILED), version(0.001)).until_worse(60);
        let (exposed, _) = median(&format!("dead, 5 %, {rate}/s"), 20, dead);
        assert!(exposed <= 50);
    }
}

#[test]
fn a_dead_canary_with_little_traffic_costs_a_dozen_requests() {
    let dead = |seed| World::new(seed, 50, 1, always(FAILED), version(0.001)).until_worse(600);
    let (exposed, _) = median("dead, 50 %, 1/s", 20, dead);
    assert!(exposed <= 20);
}

#[test]
fn half_a_canary_dead_is_convicted_by_the_groups_of_coins() {
    let half = |seed| World::new(seed, 50, 1_000, version(0.5), version(0.001)).until_worse(30);
    let (exposed, _) = median("half dead, 50 %, 1000/s", 20, half);
    assert!(exposed <= 400);
}

#[test]
fn five_percent_errors_against_a_thousandth_cost_some_hundred_requests() {
    let bad = |seed| World::new(seed, 5, 1_000, version(0.05), version(0.001)).until_worse(60);
    let (exposed, _) = median("5 % bad, 5 %, 1000/s", 20, bad);
    assert!(exposed <= 250);
}

#[test]
fn one_percent_errors_against_a_thousandth_are_found() {
    let bad = |seed| World::new(seed, 5, 1_000, version(0.01), version(0.001)).until_worse(300);
    let (exposed, _) = median("1 % bad, 5 %, 1000/s", 6, bad);
    assert!(exposed <= 3_000);
}

#[test]
fn a_canary_that_breaks_after_two_good_minutes_is_still_found_quickly() {
    let late = |seed| {
        let canary = during(1_200, u64::MAX, always(FAILED), version(0.001));
        let mut world = World::new(seed, 25, 100, canary, version(0.001));
        let ended = world.until_worse(180);
        Ended { seconds: ended.seconds - 120.0, ..ended }
    };
    let (_, seconds) = median("dead after 120 s, 25 %, 100/s", 10, late);
    assert!(seconds <= 3.0);
}

#[test]
fn a_canary_that_refuses_everybody_is_convicted_by_the_comparison() {
    let refusing = |seed| World::new(seed, 10, 200, always(End::Refused), version(0.001)).until_worse(60);
    median("404 to everyone, 10 %, 200/s", 20, refusing);
    assert_eq!(refusing(1).conviction().trigger, Trigger::Evidence);
    assert!(refusing(1).conviction().because.starts_with("requests rejected (4xx) by the canary"));
}

#[test]
fn a_spent_exposure_budget_ends_it_whatever_the_statistics_say() {
    let exposure = ExposureBudget { failures: Some(3), requests_per_second: None };
    let mut judge = Judge::new(&Policy { exposure, ..Policy::default() }, HEAD, 1);
    let mut tick = |now, exposed| {
        let (mut rows, weight) = (Rows::default(), Weight::HALF);
        let (generation, coin) = (judge.generation(), Coin::Tossed);
        let drawn = Drawn { exposure: Exposure(1), tick: Tick(now), weight, generation, coin };
        let row = rows.row(drawn).unwrap();
        (row.canary.routed, row.canary.ended.failure, row.canary.exposed) = (exposed, exposed, exposed);
        // Stable does no better: nothing speaks against the canary.
        (row.stable.routed, row.stable.ended.failure) = (2, 2);
        (judge.tick(Tick(now), weight, rows.iter()), judge.reading())
    };
    assert_eq!(tick(1, 2).0, Verdict::Undecided);
    assert_eq!(tick(2, 0).0, Verdict::Undecided);
    let (verdict, reading) = tick(3, 1);
    let Verdict::Worse(conviction) = verdict else { panic!("{verdict:?}") };
    assert_eq!((conviction.trigger, reading.exposure.failures), (Trigger::ExposureBudget, 3));
    assert!(reading.towards_1000 < 1_000.0, "a budget is no evidence: {}", reading.towards_1000);
}

#[test]
fn an_unreachable_canary_is_convicted_by_health() {
    let gone = |seed| World::new(seed, 5, 200, always(End::Rescued), version(0.001)).until_worse(60);
    let (_, seconds) = median("unreachable, 5 %, 200/s", 20, gone);
    assert!(seconds <= 1.5);
    assert_eq!(gone(1).conviction().trigger, Trigger::Health);
}

#[test]
fn a_hanging_canary_is_convicted_by_the_latency_limit() {
    let window = Duration::from_secs(10);
    let limit = LatencyLimit { quantile: 0.99, above: Duration::from_secs(5), window };
    let policy = Policy { latency: Some(limit), ..Policy::default() };
    let hanging = |seed| World::new(seed, 10, 100, always(End::Never), version(0.001)).under(&policy).until_worse(60);
    let (_, seconds) = median("hangs, limit 5 s, 10 %, 100/s", 20, hanging);
    assert!(seconds <= 10.0);
    assert_eq!(hanging(1).conviction().trigger, Trigger::Limit);
}

#[test]
fn a_slow_canary_is_convicted_by_the_latency_limit() {
    let limit = LatencyLimit { quantile: 0.99, above: Duration::from_millis(300), window: Duration::from_secs(10) };
    let policy = Policy { latency: Some(limit), ..Policy::default() };
    let slow = |seed| {
        let canary = always(End::Well { after: 5, over: true });
        World::new(seed, 10, 100, canary, version(0.001)).under(&policy).until_worse(60)
    };
    let (_, seconds) = median("takes 0.5 s, limit 0.3 s, 10 %, 100/s", 20, slow);
    assert!(seconds <= 5.0);
}

#[test]
fn slowness_that_both_share_convicts_nobody() {
    let limit = LatencyLimit { quantile: 0.99, above: Duration::from_millis(300), window: Duration::from_secs(10) };
    let policy = Policy { latency: Some(limit), ..Policy::default() };
    never_worse("shared slowness", 24, 80, |seed| {
        let slow = |after| during(100, 400, always(End::Well { after, over: true }), version(0.001));
        World::new(seed, pick(&PERCENT, seed), 200, slow(4), slow(40)).under(&policy)
    });
}

#[test]
fn a_dead_canary_without_a_control_asks_for_the_coin_and_is_then_convicted() {
    let probed = |seed| {
        let mut world = World::new(seed, 100, 1_000, always(FAILED), version(0.001));
        assert_eq!(world.until(10, |verdict| *verdict == Verdict::Probe).verdict, Verdict::Probe);
        world.weight = Weight::HALF;
        world.until_worse(30)
    };
    let (exposed, seconds) = median("dead, 100 % with probe, 1000/s", 20, probed);
    assert!(exposed <= 700 && seconds <= 1.0);
}

#[test]
fn identical_arms_are_never_told_apart() {
    for failing in [0.001, 0.01] {
        never_worse("identical arms", 32, 600, |seed| {
            World::new(seed, pick(&PERCENT, seed), 100, version(failing), version(failing))
        });
    }
}

#[test]
fn identical_arms_about_their_limit_are_never_told_apart() {
    for failing in [0.05, 0.06, 0.1] {
        never_worse("identical arms at the limit", 16, 300, |seed| {
            World::new(seed, pick(&PERCENT, seed), 100, version(failing), version(failing))
        });
    }
}

#[test]
fn a_ramp_through_an_outage_of_both_arms_convicts_nobody() {
    let down = |after| during(150, 500, always(End::Failed { after }), version(0.001));
    never("ramp through an outage", 24, |seed| {
        let (canary, stable) = if seed % 2 == 0 { (0, 50) } else { (50, 0) };
        let mut world = World::new(seed, 5, pick(&RATES, seed / 2), down(canary), down(stable));
        let mut steps = [500, 1_000, 2_500, 5_000, 7_500, 9_500].into_iter();
        let mut next = || {
            world.weight = Weight::from_basis_points(steps.next()?).unwrap();
            Some(world.until_worse(10))
        };
        let mut ended = next().expect("there are steps");
        while !matches!(ended.verdict, Verdict::Worse(_)) {
            let Some(later) = next() else { break };
            ended = later;
        }
        ended
    });
}

#[test]
fn connections_that_die_with_all_their_requests_convict_nobody() {
    never_worse("dying connections", 24, 300, |seed| {
        let percent = pick(&PERCENT, seed);
        // What a connection carries was drawn in the three ticks before, and half of the arm fails at once.
        let dying = |arm| -> Version {
            Box::new(move |luck, tick| {
                let left = 3usize.saturating_sub(usize::try_from(tick % 50).unwrap());
                let hit = left > 0 && luck.bool() && struck(seed, tick / 50, percent) == arm;
                if hit { End::Failed { after: left } } else { version(0.001)(luck, tick) }
            })
        };
        World::new(seed, percent, 100, dying(Role::Canary), dying(Role::Stable))
    });
}

/// Which arm an accident strikes: the canary has its share of connections.
fn struck(seed: u64, accident: u64, percent: u16) -> Role {
    let mut luck = fastrand::Rng::with_seed(seed << 32 | accident);
    if luck.u16(..100) < percent { Role::Canary } else { Role::Stable }
}

#[test]
fn a_total_outage_of_both_arms_convicts_nobody_whichever_answers_first() {
    never_worse("shared total outage", 96, 90, |seed| {
        let (from, to) = (100, 300 + seed * 37 % 401);
        let down = |after| during(from, to, always(End::Failed { after }), version(0.001));
        let (canary, stable) = if seed % 2 == 0 { (0, 50) } else { (50, 0) };
        World::new(seed, pick(&PERCENT, seed / 2), pick(&RATES, seed / 8), down(canary), down(stable))
    });
}

#[test]
fn a_partial_outage_of_both_arms_convicts_nobody_whichever_answers_first() {
    never_worse("shared 30 % outage", 48, 60, |seed| {
        let partial = |after| -> Version {
            let failing: Version = Box::new(move |luck, _| if luck.f64() < 0.3 { End::Failed { after } } else { WELL });
            during(100, 400, failing, version(0.001))
        };
        let (canary, stable) = if seed % 2 == 0 { (0, 50) } else { (50, 0) };
        World::new(seed, pick(&PERCENT, seed / 2), pick(&RATES, seed / 8), partial(canary), partial(stable))
    });
}

#[test]
fn a_total_outage_of_both_arms_holds_the_rollout() {
    let down = || during(20, 100, always(FAILED), version(0.001));
    let mut world = World::new(1, 25, 200, down(), down());
    let ended = world.until(10, |verdict| matches!(verdict, Verdict::Hold(Hold::SharedDegradation)));
    assert_eq!(ended.verdict, Verdict::Hold(Hold::SharedDegradation));
    assert_eq!(world.judge.reading().hold, Some(Hold::SharedDegradation));
    assert_eq!(world.until(60, |verdict| *verdict == Verdict::Undecided).verdict, Verdict::Undecided);
}

#[test]
fn one_accident_of_twenty_requests_convicts_nobody() {
    never_worse("one accident", 40, 60, |seed| {
        let percent = pick(&PERCENT, seed);
        let rate = 20_000 / usize::from(percent);
        let canary = during(100, 101, always(FAILED), version(0.001));
        World::new(seed, percent, rate, canary, version(0.001))
    });
}

#[test]
fn an_accident_in_every_other_second_convicts_nobody() {
    never_worse("accidents", 40, 60, |seed| {
        let percent = pick(&PERCENT, seed);
        let clumsy = |arm| -> Version {
            Box::new(move |luck, tick| {
                let hit = tick % 20 == 0 && struck(seed, tick, percent) == arm;
                if hit { FAILED } else { version(0.001)(luck, tick) }
            })
        };
        World::new(seed, percent, 400, clumsy(Role::Canary), clumsy(Role::Stable))
    });
}

#[test]
fn silence_is_no_evidence() {
    let mut world = World::new(1, 10, 0, version(0.0), version(0.0));
    assert_eq!(world.until_worse(3_600).verdict, Verdict::Undecided);
    assert!(world.judge.comparison.log_total() < 0.0);
    assert!(world.judge.reading().towards_1000.abs() < f64::EPSILON);
}

#[test]
fn a_conviction_stands_and_tells_its_price() {
    let mut world = World::new(1, 50, 1_000, always(FAILED), version(0.0));
    let first = world.until_worse(10);
    assert_eq!(world.tick(), first.verdict);
    let conviction = first.conviction();
    assert_eq!(conviction.canary.finished, conviction.canary.failed);
    assert_eq!(conviction.canary.finished, first.canary_routed);
    assert!(conviction.log_e >= conviction.threshold);
    assert!(world.judge.reading().towards_1000 >= 999.9);
}

#[test]
fn a_reading_can_be_written_and_read_again() {
    let mut world = World::new(1, 50, 100, version(0.02), version(0.01));
    for _ in 0..50 {
        world.tick();
    }
    let reading = world.judge.reading();
    let text = serde_json::to_string(&reading).unwrap();
    let again: super::Reading = serde_json::from_str(&text).unwrap();
    assert_eq!(again.canary, reading.canary);
    assert_eq!(again.limits.len(), 1);
}

fn of(unit: Unit) -> Policy {
    Policy { unit, error_rate: None, ..Policy::default() }
}

/// Feeds a judge one row a tick, at a fair coin; what it said in the end.
fn fed(unit: Unit, ticks: u64, coin: Coin, row: impl Fn(u64) -> Row) -> Verdict {
    let mut judge = Judge::new(&of(unit), HEAD, 1);
    let mut verdict = Verdict::Undecided;
    for now in 1..=ticks {
        let (exposure, weight) = (Exposure(1), Weight::HALF);
        let drawn = Drawn { exposure, tick: Tick(now), weight, generation: judge.generation(), coin };
        let mut rows = Rows::default();
        rows.row(drawn).unwrap().merge(&row(now));
        verdict = judge.tick(Tick(now), weight, rows.iter());
        if matches!(verdict, Verdict::Worse(_)) {
            break;
        }
    }
    verdict
}

fn arm(well: u64, failed: u64) -> Arm {
    let mut arm = Arm { routed: well + failed, ..Arm::default() };
    (arm.ended.success, arm.ended.failure) = (well, failed);
    arm
}

#[test]
fn what_a_session_does_again_is_no_evidence() {
    let failing = |_| Row { stable: arm(10, 0), canary: Arm { failed_again: 10, ..arm(0, 10) } };
    assert_eq!(fed(Unit::Session, 600, Coin::Known, failing), Verdict::Undecided);
    let first = |now| if now < 60 { Row { stable: arm(10, 0), canary: arm(9, 1) } } else { failing(now) };
    assert!(matches!(fed(Unit::Session, 600, Coin::Tossed, first), Verdict::Worse(_)), "but the first time is");
}

#[test]
fn below_a_hundred_sessions_the_comparison_holds() {
    // One new session a tick, all of those on the canary with a failure, and a well-filled stable version.
    let few =
        |now| Row { stable: arm(0, 0), canary: if now < 90 { arm(0, u64::from(now % 3 == 0)) } else { arm(0, 0) } };
    assert_eq!(fed(Unit::Session, 95, Coin::Known, few), Verdict::Hold(Hold::FewSessions));
    assert!(matches!(fed(Unit::Request, 95, Coin::Known, few), Verdict::Worse(_)));
}

#[test]
fn sessions_that_break_down_on_the_canary_alone_convict_it() {
    let broken = |canary, stable| {
        move |now| {
            let of = |broken| Arm { broken: if now == 50 { broken } else { 0 }, ..arm(10, 0) };
            Row { stable: of(stable), canary: of(canary) }
        }
    };
    let Verdict::Worse(conviction) = fed(Unit::Session, 60, Coin::Known, broken(20, 0)) else { panic!("not found") };
    assert_eq!(conviction.trigger, Trigger::Outage);
    assert!(conviction.because.contains("keep failing"), "{}", conviction.because);
    assert_eq!(fed(Unit::Session, 60, Coin::Known, broken(20, 20)), Verdict::Undecided, "a shared cause");
    assert_eq!(fed(Unit::Session, 60, Coin::Known, broken(8, 0)), Verdict::Undecided, "eight may be chance at half");
    assert_eq!(fed(Unit::Request, 60, Coin::Known, broken(20, 0)), Verdict::Undecided, "there are no sessions");
}

#[test]
fn without_a_coin_nothing_is_compared() {
    let dead = |_| Row { stable: arm(10, 0), canary: Arm { broken: 10, ..arm(0, 10) } };
    assert_eq!(fed(Unit::None, 600, Coin::Tossed, dead), Verdict::Undecided);
    let policy = Policy { unit: Unit::None, ..Policy::default() };
    let mut world = World::new(1, 90, 1_000, always(FAILED), version(0.001)).under(&policy);
    let ended = world.until(30, |verdict| *verdict != Verdict::Undecided);
    assert_eq!(ended.verdict, Verdict::Hold(Hold::CanaryOverLimit), "and no probe is made, which could not convict");
}
