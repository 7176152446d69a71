//! The judge against golden vectors from the reference implementations (`tests/golden/vectors/*.py`).
//!
//! `PENSTOCK_VECTORS=FILE[:FILE]` checks other files of the same two forms: verdict vectors (cases with a `kind`) and
//! guard vectors (cases of `ticks` with one `expect` row each). What is not built yet is named and counted.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test, outside of test functions too")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use penstock::domain::judge::ALPHA_OUTAGE;
use penstock::domain::judge::bets::{Counts, TIMES, Tolerance};
use penstock::domain::judge::evidence::{Budget, Evidence};
use penstock::domain::judge::limit::AbsoluteLimit;
use penstock::domain::judge::outage::{Flow, OutageGuard};
use serde_json::Value;

const DEFAULTS: [&str; 2] = ["tests/golden/vectors/verdict.json", "tests/golden/vectors/guard.json"];

#[test]
fn the_judge_agrees_with_the_reference() {
    let mut report = Report::default();
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let vectors: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        report.file(&path, &vectors);
    }
    report.print();
    assert!(report.numbers > 0, "nothing was checked");
    assert!(report.wrong.is_empty(), "{} numbers differ, first: {}", report.wrong.len(), report.wrong[0]);
}

fn files() -> Vec<PathBuf> {
    match std::env::var_os("PENSTOCK_VECTORS") {
        Some(paths) => std::env::split_paths(&paths).collect(),
        None => DEFAULTS.iter().map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).collect(),
    }
}

#[derive(Default)]
struct Report {
    cases: BTreeMap<String, usize>,
    not_built: BTreeMap<String, usize>,
    numbers: usize,
    wrong: Vec<String>,
}

impl Report {
    fn file(&mut self, path: &Path, vectors: &Value) {
        let cases = list(get(vectors, "cases"));
        assert!(!cases.is_empty(), "{}: no cases", path.display());
        for case in cases {
            match case.get("kind").map(text) {
                None => self.guard(case),
                Some("error_bets") => self.error_bets(case),
                Some("ticks") if is_built(case) => self.ticks(case),
                Some("ticks") => self.missing(&format!("ticks: {}", text(get(case, "name")))),
                Some(kind) => self.missing(kind),
            }
        }
    }

    fn error_bets(&mut self, case: &Value) {
        let (coin, tolerance) = (number(get(case, "w")), tolerance(case));
        let rows = list(get(case, "rows"));
        assert_eq!(rows.len(), TIMES.len());
        for (row, times) in rows.iter().zip(TIMES) {
            let stake = tolerance.rare_stake(times, coin);
            let factors = tolerance.factors(stake, 0.0, coin);
            let got = [factors.canary_bad, factors.canary_ok, factors.stable_bad, factors.stable_ok];
            let what = format!("error_bets, w = {coin}, R = {times}");
            self.same(&what, times, at(row, 0));
            self.same(&what, stake, at(row, 1));
            for (index, got) in got.into_iter().enumerate() {
                self.same(&what, got, at(at(row, 2), index));
            }
        }
        if case.get("half").is_some() {
            self.missing("error_bets: the half bet (per-request mode)");
        }
        self.checked("error_bets");
    }

    fn ticks(&mut self, case: &Value) {
        let name = text(get(case, "name"));
        let mut evidence = evidence(case);
        let expect = get(case, "expect");
        let (ops, steps) = (list(get(case, "ops")), list(get(expect, "steps")));
        assert_eq!(ops.len(), steps.len(), "{name}: one expected step per operation");
        for (index, (op, step)) in ops.iter().zip(steps).enumerate() {
            let what = format!("{name}, step {index}");
            match text(get(op, "op")) {
                "weight_changed" => evidence.weight_changed(),
                "tick" => {
                    for family in 0..list(get(case, "families")).len() {
                        evidence.toss(family, number(get(op, "w")), &counts(get(op, "err")));
                    }
                    evidence.end_slot(number(get(op, "dt_s")));
                    self.same_or_none(&what, evidence.log_e(), get(step, "decision_log_e"));
                    assert_eq!(evidence.convicts(), get(step, "reject").as_bool().unwrap(), "{what}");
                }
                other => panic!("{what}: unknown operation {other}"),
            }
            self.same(&what, evidence.log_total(), get(step, "log_e_after_inject"));
        }
        for (family, masses) in list(get(expect, "final_log_mass")).iter().enumerate() {
            assert_eq!(list(masses).len(), TIMES.len(), "{name}");
            for (bet, mass) in evidence.log_masses(family).into_iter().enumerate() {
                self.same(&format!("{name}, final mass {bet}"), mass, at(masses, bet));
            }
        }
        self.checked("ticks");
    }

    fn guard(&mut self, case: &Value) {
        let name = text(get(case, "name"));
        let mut rails = Rails::new(number(get(case, "limit")));
        let (ticks, expect) = (list(get(case, "ticks")), list(get(case, "expect")));
        assert_eq!(ticks.len(), expect.len(), "{name}: one expected row per tick");
        let mut decided = None;
        for (index, (tick, expect)) in ticks.iter().zip(expect).enumerate() {
            let what = format!("guard: {name}, tick {index}");
            let log_e = rails.tick(tick);
            let open = rails.guard.open().map_or(-1, i64::from);
            let state = rails.state(number(at(tick, 4)));
            self.same_or_none(&what, log_e, at(expect, 0));
            assert_eq!(open, at(expect, 1).as_i64().unwrap(), "{what}: open generation");
            self.same(&what, rails.canary.log_e(), at(expect, 2));
            self.same(&what, rails.stable.log_e(), at(expect, 3));
            assert_eq!(state, text(at(expect, 4)), "{what}: state");
            decided = decided.or((state == "rollback").then_some(index as u64));
        }
        assert_eq!(decided, get(case, "decision_tick").as_u64(), "{name}: tick of the decision");
        self.checked("guard");
    }

    fn same(&mut self, what: &str, got: f64, expected: &Value) {
        let expected = number(expected);
        self.numbers += 1;
        if got.is_nan() || (got - expected).abs() > 1e-9 * expected.abs().max(1.0) {
            self.wrong.push(format!("{what}: {got} instead of {expected}"));
        }
    }

    fn same_or_none(&mut self, what: &str, got: Option<f64>, expected: &Value) {
        match got {
            Some(got) if !expected.is_null() => self.same(what, got, expected),
            None if expected.is_null() => self.numbers += 1,
            got => self.wrong.push(format!("{what}: {got:?} instead of {expected}")),
        }
    }

    fn checked(&mut self, kind: &str) {
        *self.cases.entry(kind.to_owned()).or_default() += 1;
    }

    fn missing(&mut self, what: &str) {
        *self.not_built.entry(what.to_owned()).or_default() += 1;
    }

    fn print(&self) {
        for (kind, count) in &self.cases {
            println!("checked: {kind} ({count})");
        }
        for (what, count) in &self.not_built {
            println!("not built yet: {what} ({count})");
        }
        println!("{} numbers compared, {} differ", self.numbers, self.wrong.len());
    }
}

/// Both guard rails together, as the reference composes them.
struct Rails {
    guard: OutageGuard,
    coins: BTreeMap<u32, f64>,
    canary: AbsoluteLimit,
    stable: AbsoluteLimit,
}

impl Rails {
    fn new(limit: f64) -> Rails {
        let account = AbsoluteLimit::new(limit);
        Rails {
            guard: OutageGuard::new(ALPHA_OUTAGE),
            coins: BTreeMap::new(),
            canary: account.clone(),
            stable: account,
        }
    }

    /// One row of the vectors: the totals include the rows tagged with a generation, the rest belongs to none.
    fn tick(&mut self, row: &Value) -> Option<f64> {
        let all = counts(row);
        let coin = number(at(row, 4));
        let (canary_routed, stable_routed) = (whole(at(row, 5)), whole(at(row, 6)));
        let generation = self.guard.open().unwrap_or(0);
        self.guard.count(&Flow { generation, coin, canary_routed, stable_routed, ended: Counts::default() });
        let mut untagged = all;
        for tagged in list(at(row, 7)) {
            let generation = u32::try_from(whole(at(tagged, 0))).unwrap();
            let ended = counts(&Value::from(&list(tagged)[1..]));
            untagged.canary_bad -= ended.canary_bad;
            untagged.canary_ok -= ended.canary_ok;
            let coin = self.coins[&generation];
            self.guard.count(&Flow { generation, coin, ended, ..Flow::default() });
        }
        self.guard.count(&Flow { ended: untagged, ..Flow::default() });
        let log_e = self.guard.end_tick(coin, 1);
        if let Some(serial) = self.guard.open() {
            self.coins.entry(serial).or_insert(coin);
        }
        self.canary.toss(all.canary_bad, all.canary_ok, 0.1);
        self.stable.toss(all.stable_bad, all.stable_ok, 0.1);
        log_e
    }

    fn state(&self, coin: f64) -> &'static str {
        let (canary, stable) = (self.canary.is_firing(), self.stable.is_firing());
        match () {
            () if self.guard.convicts().is_some() => "rollback",
            () if canary && coin >= 1.0 => "probe",
            () if canary || stable => "hold",
            () if self.guard.generations() > 0 => "pending",
            () => "ok",
        }
    }
}

/// Only families of tick bets on errors exist so far.
fn is_built(case: &Value) -> bool {
    list(get(case, "families")).iter().all(|family| {
        let settings = at(family, 2);
        text(get(settings, "type")) == "error" && get(settings, "per_tick").as_bool() == Some(true)
    })
}

fn evidence(case: &Value) -> Evidence {
    let config = get(case, "config");
    let setting = |name| number(get(config, name));
    let changes = u32::try_from(whole(get(config, "planned_changes"))).unwrap();
    let budget = Budget {
        alpha: setting("alpha"),
        start: setting("start"),
        per_second: setting("drift_budget") / setting("horizon_s"),
        per_change: setting("step_budget") / f64::from(changes.max(1)),
        changes,
    };
    let families = list(get(case, "families")).iter().zip(list(get(config, "guards")));
    let families = families.map(|(family, guard)| (tolerance(at(family, 2)), number(at(family, 1)), whole(guard)));
    Evidence::new(budget, &families.collect::<Vec<_>>())
}

fn tolerance(of: &Value) -> Tolerance {
    Tolerance { ratio: number(get(of, "rho")), margin: number(get(of, "delta")) }
}

fn counts(row: &Value) -> Counts {
    Counts {
        canary_bad: whole(at(row, 0)),
        canary_ok: whole(at(row, 1)),
        stable_bad: whole(at(row, 2)),
        stable_ok: whole(at(row, 3)),
    }
}

fn get<'a>(of: &'a Value, name: &str) -> &'a Value {
    of.get(name).unwrap_or_else(|| panic!("`{name}` is missing in {}", brief(of)))
}

fn at(of: &Value, index: usize) -> &Value {
    of.get(index).unwrap_or_else(|| panic!("number {index} is missing in {}", brief(of)))
}

fn list(of: &Value) -> &[Value] {
    of.as_array().unwrap_or_else(|| panic!("not a list: {}", brief(of)))
}

fn text(of: &Value) -> &str {
    of.as_str().unwrap_or_else(|| panic!("not a text: {}", brief(of)))
}

fn number(of: &Value) -> f64 {
    of.as_f64().unwrap_or_else(|| panic!("not a number: {}", brief(of)))
}

fn brief(of: &Value) -> String {
    of.to_string().chars().take(200).collect()
}

fn whole(of: &Value) -> u64 {
    of.as_u64().unwrap_or_else(|| panic!("not a count: {}", brief(of)))
}
