//! Clients who stay where they were sent: the coin is then tossed per session. Healthy canaries among sessions that
//! always fail must be left alone, and dead ones must still be found, however often or seldom clients ask.
//!
//! `PENSTOCK_SESSION_RUNS=n` runs more of the healthy; `PENSTOCK_SEED=n` runs one.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock::domain::judge::{Conviction, Judge, Policy, Unit, Verdict};
use penstock::domain::names::Exposure;
use penstock::domain::outcome::Class;
use penstock::domain::sessions::{Ending, Session, Sessions};
use penstock::domain::split::{Bucket, Role, Weight};
use penstock::domain::sticky::{Assigned, By};
use penstock::domain::time::Tick;
use penstock::domain::window::{Coin, Drawn, Rows};

use super::luck::{pick, real};
use super::sweep;

const USUAL_RUNS: u64 = 70;
/// The guarantee is one in a thousand.
const ONE_IN: u64 = 1_000;
const RESPONSE_HEAD: Duration = Duration::from_secs(30);

/// How an arm answers at present.
#[derive(Debug, Clone, Copy)]
struct Answers {
    failing: f64,
    /// Ticks until an answer.
    after: u64,
    fails_after: u64,
}

const WELL: Answers = Answers { failing: 0.001, after: 0, fails_after: 0 };
const DEAD: Answers = Answers { failing: 1.0, ..WELL };

/// One client: asks, waits for the answer, thinks, and asks again.
#[derive(Debug, Clone, Copy)]
struct Client {
    assigned: Assigned,
    /// Of its own doing, whichever version answers.
    failing: f64,
}

/// A request under way.
#[derive(Debug, Clone, Copy)]
struct Request {
    client: usize,
    drawn: Drawn,
    role: Role,
    class: Class,
}

/// How a crowd behaves.
#[derive(Debug, Clone, Copy)]
struct Habits {
    clients: usize,
    /// Ticks between an answer and the next request, in mean.
    thinks: f64,
    /// The chance that a client leaves after an answer, and a new one comes.
    leaves: f64,
    /// The share of clients who always fail, and of those who fail now and then.
    broken: f64,
    flaky: f64,
    /// Ticks after which a client does not wait any longer.
    patience: u64,
}

const USUAL: Habits = Habits { clients: 300, thinks: 10.0, leaves: 0.02, broken: 0.0, flaky: 0.0, patience: u64::MAX };

/// A crowd before the two versions of one service.
struct Crowd {
    luck: fastrand::Rng,
    habits: Habits,
    clients: Vec<Client>,
    sessions: Sessions,
    judge: Judge,
    weight: Weight,
    now: Tick,
    /// Who asks next, and what ends, by tick.
    asks: BTreeMap<u64, Vec<usize>>,
    ends: BTreeMap<u64, Vec<Request>>,
    exposed: u64,
    /// Whether a session's requests are one toss, or each its own.
    by_session: bool,
}

impl Crowd {
    fn new(seed: u64, habits: Habits, weight: u16, unit: Unit) -> Crowd {
        let policy = Policy { unit, ..Policy::default() };
        let mut crowd = Crowd {
            luck: fastrand::Rng::with_seed(seed ^ 0x0073_6573_7369_6f6e),
            habits,
            clients: Vec::new(),
            sessions: Sessions::default(),
            judge: Judge::new(&policy, RESPONSE_HEAD, 1),
            weight: Weight::from_basis_points(weight).expect("a weight"),
            now: Tick(0),
            asks: BTreeMap::new(),
            ends: BTreeMap::new(),
            exposed: 0,
            by_session: unit == Unit::Session,
        };
        for client in 0..habits.clients {
            let newcomer = crowd.newcomer();
            crowd.clients.push(newcomer);
            crowd.think(client);
        }
        crowd
    }

    /// Somebody known by a key.
    fn newcomer(&mut self) -> Client {
        let bucket = Bucket::of_draw(self.luck.u64(..));
        let assigned = Assigned { bucket, session: Session(self.luck.u64(..)), by: By::Known };
        let failing = match self.luck.f64() {
            kind if kind < self.habits.broken => 1.0,
            kind if kind < self.habits.broken + self.habits.flaky => 0.3,
            _ => 0.0,
        };
        Client { assigned, failing }
    }

    fn think(&mut self, client: usize) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of ticks")]
        let ticks = (-self.habits.thinks * (1.0 - self.luck.f64()).ln()) as u64;
        self.asks.entry(self.now.0 + 1 + ticks).or_default().push(client);
    }

    /// One tick in which the arms answer so, canary first.
    fn tick(&mut self, answers: [Answers; 2], dies: Option<Role>) -> Option<Conviction> {
        self.now = self.now.next();
        let mut rows = Rows::default();
        for client in self.asks.remove(&self.now.0).unwrap_or_default() {
            self.ask(client, answers, &mut rows);
        }
        if let Some(role) = dies {
            self.connection_dies(role);
        }
        for request in self.ends.remove(&self.now.0).unwrap_or_default() {
            self.end(request, &mut rows);
        }
        match self.judge.tick(self.now, self.weight, rows.iter()) {
            Verdict::Worse(conviction) => Some(conviction),
            Verdict::Undecided | Verdict::Hold(_) | Verdict::Probe => None,
        }
    }

    fn ask(&mut self, client: usize, [canary, stable]: [Answers; 2], rows: &mut Rows) {
        let Client { assigned, failing } = self.clients[client];
        let role = if self.weight.takes(assigned.bucket) { Role::Canary } else { Role::Stable };
        let answers = if role == Role::Canary { canary } else { stable };
        let coin = if self.by_session { self.sessions.meet(&assigned) } else { Coin::Tossed };
        let (weight, generation) = (self.weight, self.judge.generation());
        let drawn = Drawn { exposure: Exposure(1), tick: self.now, weight, generation, coin };
        rows.row(drawn).expect("few weights").arm(role).routed += 1;
        self.exposed += u64::from(role == Role::Canary);
        let fails = self.luck.f64() < failing.max(answers.failing);
        let takes = if fails { answers.fails_after } else { answers.after };
        let class = match fails {
            _ if takes > self.habits.patience => Class::Abandoned,
            true => Class::Failure,
            false => Class::Success,
        };
        let ends = self.now.0 + takes.min(self.habits.patience);
        self.ends.entry(ends).or_default().push(Request { client, drawn, role, class });
    }

    fn end(&mut self, request: Request, rows: &mut Rows) {
        let Request { client, drawn, role, class } = request;
        let unanswered = class == Class::Abandoned;
        let ending = Ending { role, class, unanswered, routed: drawn.tick, ended: self.now };
        let remembered = self.by_session.then(|| self.sessions.end(&self.clients[client].assigned, &ending));
        let meaning = remembered.unwrap_or_default();
        let arm = rows.row(drawn).expect("few weights").arm(role);
        arm.ended.add(class);
        arm.unanswered += u64::from(unanswered);
        arm.failed_again += u64::from(meaning.again && class == Class::Failure);
        if let Some(tick) = meaning.broken {
            rows.row(Drawn { tick, ..drawn }).expect("few weights").arm(role).broken += 1;
        }
        if self.luck.f64() < self.habits.leaves {
            self.clients[client] = self.newcomer();
        }
        self.think(client);
    }

    /// One of two connections of an arm, and with it half of what is under way there.
    fn connection_dies(&mut self, role: Role) {
        let mut died = Vec::new();
        for requests in self.ends.values_mut() {
            requests.retain(|request| {
                let dies = request.role == role && request.class == Class::Success && self.luck.bool();
                died.extend(dies.then_some(Request { class: Class::Failure, ..*request }));
                !dies
            });
        }
        self.ends.entry(self.now.0).or_default().extend(died);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    None,
    /// Some clients always fail.
    BrokenClients,
    /// Some fail now and then.
    FlakyClients,
    /// Both versions fail everything for a while, one of them later than the other.
    Outage,
    /// And clients do not wait for the slower one.
    Impatience,
    /// Connections die, under answers of half a second.
    Dying,
    All,
}

const TROUBLES: [Trouble; 7] = [
    Trouble::None,
    Trouble::BrokenClients,
    Trouble::FlakyClients,
    Trouble::Outage,
    Trouble::Impatience,
    Trouble::Dying,
    Trouble::All,
];

const MINUTES: u64 = 600;

/// A healthy canary for three minutes, and what convicted it.
fn healthy(seed: u64, unit: Unit) -> (Trouble, Option<Conviction>) {
    let mut luck = fastrand::Rng::with_seed(seed);
    let trouble = TROUBLES[usize::try_from(seed).expect("small") % TROUBLES.len()];
    let has = |kind| trouble == kind || trouble == Trouble::All;
    let habits = Habits {
        clients: pick(&mut luck, &[10, 50, 300, 1_000]),
        thinks: pick(&mut luck, &[0.5, 5.0, 50.0]),
        leaves: pick(&mut luck, &[0.0, 0.02, 0.2]),
        broken: if has(Trouble::BrokenClients) { pick(&mut luck, &[0.02, 0.1, 0.3]) } else { 0.0 },
        flaky: if has(Trouble::FlakyClients) { pick(&mut luck, &[0.05, 0.3]) } else { 0.0 },
        patience: if has(Trouble::Impatience) { 20 } else { u64::MAX },
    };
    let weight = pick(&mut luck, &[100, 500, 2_500, 5_000]);
    let after = if has(Trouble::Dying) { 5 } else { luck.u64(0..2) };
    let usual = Answers { failing: pick(&mut luck, &[0.0, 0.001, 0.01]), after, fails_after: 0 };
    let outage = has(Trouble::Outage) || has(Trouble::Impatience);
    let (from, lasts) = (luck.u64(300..900), luck.u64(100..400));
    let slower = pick(&mut luck, &[0, 10, 50]);
    let slow = Answers { failing: 1.0, after, fails_after: slower };
    let fast = Answers { failing: 1.0, after, fails_after: 0 };
    let failing = if luck.bool() { [fast, slow] } else { [slow, fast] };
    let deaths = pick(&mut luck, &[100, 300]);
    let mut crowd = Crowd::new(seed, habits, weight, unit);
    for tick in 0..3 * MINUTES {
        let down = outage && (from..from + lasts).contains(&tick);
        let dies = (has(Trouble::Dying) && tick % deaths == 0).then(|| {
            let canary = crowd.luck.f64() < crowd.weight.fraction();
            if canary { Role::Canary } else { Role::Stable }
        });
        if tick == 2 * MINUTES && luck.bool() {
            crowd.weight = Weight::from_basis_points((weight * 2).min(9_500)).expect("a weight");
        }
        let conviction = crowd.tick(if down { failing } else { [usual; 2] }, dies);
        if conviction.is_some() {
            return (trouble, conviction);
        }
    }
    (trouble, None)
}

#[test]
fn sessions_that_always_fail_convict_no_healthy_canary() {
    let runs = sweep::asked("PENSTOCK_SESSION_RUNS", USUAL_RUNS);
    let ran = sweep::over(runs, |seed| healthy(seed, Unit::Session));
    let wronged: Vec<_> = ran.iter().filter(|(_, (_, convicted))| convicted.is_some()).collect();
    for (seed, (trouble, convicted)) in &wronged {
        println!("PENSTOCK_SEED={seed}: {trouble:?}, {}", convicted.as_ref().map_or("", |c| c.because.as_str()));
    }
    println!("{} healthy canaries under sticky sessions, {} rolled back", ran.len(), wronged.len());
    assert!(wronged.len() as u64 <= runs / ONE_IN, "{} of {runs}", wronged.len());
}

/// What would happen if a session's requests were taken for tosses of their own: why the unit matters.
#[test]
fn judged_by_the_request_they_would() {
    let wronged = (0..3 * 7).filter(|seed| {
        let seed = 1 + 7 * seed; // broken clients
        healthy(seed, Unit::Request).1.is_some()
    });
    let wronged = wronged.count();
    println!("judged by the request, with clients that always fail: {wronged} of 21 healthy canaries rolled back");
    assert!(wronged >= 3, "{wronged} of 21");
}

/// Canary requests and seconds from the canary's death to its conviction; medians.
fn found(habits: Habits, weight: u16, canary: Answers, runs: u64) -> Option<(u64, f64, Vec<String>)> {
    let mut cost = Vec::new();
    let mut triggers: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..runs {
        let mut crowd = Crowd::new(seed, habits, weight, Unit::Session);
        for _ in 0..MINUTES / 2 {
            assert!(crowd.tick([WELL, WELL], None).is_none(), "before anything is wrong");
        }
        let (before, died) = (crowd.exposed, crowd.now);
        let conviction = (0..2 * MINUTES).find_map(|_| crowd.tick([canary, WELL], None))?;
        *triggers.entry(conviction.trigger.to_string()).or_default() += 1;
        cost.push((crowd.exposed - before, crowd.now.since(died)));
    }
    cost.sort_unstable();
    let (exposed, ticks) = cost[cost.len() / 2];
    let triggers = triggers.into_iter().map(|(trigger, count)| format!("{trigger} {count}"));
    Some((exposed, real(ticks) / 10.0, triggers.collect()))
}

#[test]
fn a_canary_that_dies_under_sticky_sessions_is_found_however_often_they_ask() {
    println!("a canary dies under sticky sessions: canary requests (seconds), medians of 5");
    for clients in [300, 1_500] {
        for thinks in [0.5, 10.0, 100.0] {
            let habits = Habits { clients, thinks, ..USUAL };
            let mut line = vec![format!("{clients} clients that think for {} s", thinks / 10.0)];
            for weight in [500, 2_500, 5_000] {
                let found = found(habits, weight, DEAD, 5);
                let (exposed, seconds, triggers) = found.unwrap_or_else(|| panic!("not found: {line:?} at {weight}"));
                line.push(format!("{} %: {exposed} ({seconds} s; {})", weight / 100, triggers.join(", ")));
            }
            println!("{}", line.join(" | "));
        }
    }
}

#[test]
fn a_canary_that_fails_every_fifth_request_is_found_too() {
    let fifth = Answers { failing: 0.2, ..WELL };
    for weight in [500, 2_500, 5_000] {
        let found = found(Habits { clients: 1_500, thinks: 50.0, ..USUAL }, weight, fifth, 3);
        println!("every fifth fails, at {} %: {found:?}", weight / 100);
        assert!(found.is_some(), "{weight}");
    }
}
