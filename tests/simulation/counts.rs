//! A canary and its stable version by counts per tick: the real judge and standing, without requests one by one. What a
//! half-hour of a thousand requests a second comes to is then a matter of ten milliseconds.

use std::collections::VecDeque;

use penstock::domain::judge::{Conviction, Judge, Mode, Policy};
use penstock::domain::names::{Exposure, VersionName};
use penstock::domain::outcome::Classes;
use penstock::domain::service::Timeouts;
use penstock::domain::split::{Role, Weight};
use penstock::domain::standing::{Change, Declared, Input, Request, Standing};
use penstock::domain::time::{Moment, TICK, Tick};
use penstock::domain::window::{Arm, Coin, Drawn, Row};

use super::luck::{binomial, poisson};

/// Ticks until a client who does not wait for a slow failure leaves.
const IMPATIENCE: usize = 20;

/// How one arm answers the requests of one tick.
#[derive(Debug, Clone, Copy)]
pub struct Answers {
    pub failing: f64,
    /// Ticks until a failure is seen.
    pub fails_after: usize,
    /// Of the failures: not waited for by the client, who left two seconds after the request.
    pub unseen: f64,
    pub rejected: f64,
    pub abandoned: f64,
    /// Of those answered well: slower than the latency limit, and by so many ticks seen later.
    pub over: f64,
    pub over_after: usize,
    /// Ticks until an answer: half of them that long, half one more.
    pub after: usize,
}

impl Answers {
    pub const WELL: Answers = Answers {
        failing: 0.0,
        fails_after: 0,
        unseen: 0.0,
        rejected: 0.0,
        abandoned: 0.0,
        over: 0.0,
        over_after: 6,
        after: 0,
    };
    pub const DEAD: Answers = Answers { failing: 1.0, ..Answers::WELL };
}

/// The two versions of one service under judgement.
pub struct Pair {
    pub luck: fastrand::Rng,
    pub standing: Standing,
    /// Canary requests so far.
    pub exposed: u64,
    pub probes: u64,
    judge: Judge,
    rate: f64,
    now: Tick,
    /// What is to be reported, by ticks from now.
    pending: VecDeque<Vec<(Drawn, Row)>>,
}

impl Pair {
    pub fn new(seed: u64, weight: Weight, rate: f64, policy: &Policy) -> Pair {
        let name = |text| VersionName::new(text).expect("a name");
        Pair {
            luck: fastrand::Rng::with_seed(seed),
            standing: Standing::new(Declared { stable: name("v1"), canary: Some(name("v2")), weight }, Exposure(1)),
            exposed: 0,
            probes: 0,
            judge: Judge::new(policy, Timeouts::default().response_head, 1),
            rate,
            now: Tick(0),
            pending: VecDeque::new(),
        }
    }

    pub fn now(&self) -> Tick {
        self.now
    }

    /// A person sets the weight.
    pub fn weigh(&mut self, weight: Weight) {
        self.act(Input::Person(Request::Weight(weight)));
    }

    /// One tick in which the arms answer so; then `accident` may spoil what is under way. Returns what convicted.
    pub fn tick(
        &mut self,
        canary: &Answers,
        stable: &Answers,
        accident: impl FnOnce(&mut Pair, Drawn),
    ) -> Option<Conviction> {
        self.now = self.now.next();
        let drawn = Drawn {
            exposure: Exposure(1),
            tick: self.now,
            weight: self.standing.weight,
            generation: self.judge.generation(),
            coin: Coin::Tossed,
        };
        let requests = poisson(&mut self.luck, self.rate * TICK.as_secs_f64());
        let to_canary = binomial(&mut self.luck, requests, drawn.weight.fraction());
        self.exposed += to_canary;
        self.answer(drawn, Role::Canary, to_canary, canary);
        self.answer(drawn, Role::Stable, requests - to_canary, stable);
        accident(self, drawn);
        let mut due = self.pending.pop_front().unwrap_or_default();
        let verdict = self.judge.tick(self.now, drawn.weight, due.iter().map(|(drawn, row)| (drawn, row)));
        due.clear();
        self.pending.push_back(due); // its memory is used again
        let conviction = self.act(Input::Judged(verdict));
        self.act(Input::Passed);
        conviction
    }

    fn act(&mut self, input: Input) -> Option<Conviction> {
        let changes = self.standing.handle(self.moment(), Mode::AbortOnly, input).expect("nothing is refused here");
        changes.into_iter().fold(None, |convicted, change| {
            self.standing.apply(&change, Exposure(1));
            self.probes += u64::from(matches!(change, Change::ProbeBegan { .. }));
            if let Change::RolledBack { conviction, .. } = change { Some(conviction) } else { convicted }
        })
    }

    fn moment(&self) -> Moment {
        self.now.end()
    }

    fn answer(&mut self, drawn: Drawn, role: Role, requests: u64, answers: &Answers) {
        if requests == 0 {
            return;
        }
        self.arm(0, drawn, role).routed += requests;
        let failed = binomial(&mut self.luck, requests, answers.failing);
        let abandoned = binomial(&mut self.luck, requests - failed, answers.abandoned);
        let rejected = binomial(&mut self.luck, requests - failed - abandoned, answers.rejected);
        let success = requests - failed - abandoned - rejected;
        let over = binomial(&mut self.luck, success, answers.over);
        let later = binomial(&mut self.luck, success - over, 0.5);
        let unseen = binomial(&mut self.luck, failed, answers.unseen);
        self.end(answers.fails_after, drawn, role, Classes { failure: failed - unseen, ..Classes::default() }, 0);
        if unseen > 0 {
            let arm = self.arm(IMPATIENCE, drawn, role);
            arm.ended.abandoned += unseen;
            arm.unanswered += unseen;
        }
        let early = Classes { success: success - over - later, rejected, abandoned, ..Classes::default() };
        self.end(answers.after, drawn, role, early, 0);
        self.end(answers.after + 1, drawn, role, Classes { success: later, ..Classes::default() }, 0);
        self.end(
            answers.after + answers.over_after,
            drawn,
            role,
            Classes { success: over, ..Classes::default() },
            over,
        );
    }

    fn end(&mut self, after: usize, drawn: Drawn, role: Role, ended: Classes, over: u64) {
        if ended.total() > 0 {
            let arm = self.arm(after, drawn, role);
            arm.ended.merge(&ended);
            arm.over += over;
        }
    }

    fn arm(&mut self, after: usize, drawn: Drawn, role: Role) -> &mut Arm {
        if self.pending.len() <= after {
            self.pending.resize_with(after + 1, Vec::new);
        }
        let rows = &mut self.pending[after];
        let at = rows.iter().rposition(|(known, _)| *known == drawn).unwrap_or_else(|| {
            rows.push((drawn, Row::default()));
            rows.len() - 1
        });
        rows[at].1.arm(role)
    }

    /// Fails at once up to `most` of what was drawn in this tick for one arm and would have been answered well.
    pub fn cluster(&mut self, drawn: Drawn, role: Role, most: u64) {
        let mut left = most;
        for after in 0..self.pending.len() {
            for (of, row) in &mut self.pending[after] {
                let arm = row.arm(role);
                let struck = if *of == drawn { left.min(arm.ended.success - arm.over) } else { 0 };
                arm.ended.success -= struck;
                left -= struck;
            }
        }
        self.end(0, drawn, role, Classes { failure: most - left, ..Classes::default() }, 0);
    }

    /// One of two connections of an arm dies, and with it half of everything that was under way there.
    pub fn connection_dies(&mut self, role: Role) {
        let mut died = Vec::new();
        for rows in &mut self.pending {
            for (drawn, row) in rows {
                let arm = row.arm(role);
                let (well, over) = (arm.ended.success - arm.over, arm.over);
                let (well, over) = (binomial(&mut self.luck, well, 0.5), binomial(&mut self.luck, over, 0.5));
                arm.ended.success -= well + over;
                arm.over -= over;
                died.push((*drawn, well + over));
            }
        }
        for (drawn, failure) in died {
            self.end(0, drawn, role, Classes { failure, ..Classes::default() }, 0);
        }
    }

    /// Which arm an accident strikes: each has its share of the connections.
    pub fn struck(&mut self, drawn: Drawn) -> Role {
        if self.luck.f64() < drawn.weight.fraction() { Role::Canary } else { Role::Stable }
    }
}
