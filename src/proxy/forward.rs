//! From a chosen version to a response: attempts at its endpoints, and at stable's when they fail. What may follow what
//! is `domain::retry`'s to say; one attempt is `attempt`'s, and what is owed for it `dues`'.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::{self, HeaderValue};
use http::{Request, Response};

use super::access::Access;
use super::attempt::{Answer, Came, Dial, Terms, attempt};
use super::body::{Observed, Outgoing};
use super::dues::Dues;
use super::headers::strip_hop_by_hop;
use super::permits::{self, Permit, Picking};
use super::replay::{Kept, number};
use super::reply::{self, Fault, Form};
use super::upstream::Upload;
use super::worker::Worker;
use crate::domain::names::EndpointId;
use crate::domain::outcome::Class;
use crate::domain::pool::Unpicked;
use crate::domain::retry::{Course, Ended, Price, Refuge, Repeat, Spent, Way};
use crate::domain::snapshot::{Service, Version};
use crate::domain::split::{Choice, Role, Selected};
use crate::domain::time::Moment;

/// One client request that has found its service and version.
#[derive(Debug)]
pub struct Call {
    pub worker: Rc<Worker>,
    pub service: Arc<Service>,
    pub choice: Choice,
    pub picking: Picking,
    /// When its version was chosen.
    pub arrived: Moment,
    pub request_id: HeaderValue,
    pub form: Form,
    pub access: Option<Rc<Access>>,
}

impl Call {
    /// For the access log, if there is one.
    pub fn note(&self, note: impl FnOnce(&Access)) {
        if let Some(access) = &self.access {
            note(access);
        }
    }
}

/// Sends a request to the chosen version, and on from there for as long as it may.
pub async fn forward(call: Call, request: Request<Upload>) -> Response<Outgoing> {
    Run::of(&call, &request).go(request).await
}

/// One request's attempts.
struct Run<'a> {
    call: &'a Call,
    /// The version that is asked now.
    version: &'a Version,
    course: Course,
    /// Its endpoints that were given up.
    tried: Vec<EndpointId>,
    dial: Dial,
    dues: Dues,
    attempts: u32,
    /// It is a limit that keeps the request from an endpoint, for now.
    full: bool,
    kept: Option<Kept<'a>>,
    /// What the attempt under way took out of its version's budget, to be given back if it goes well.
    lent: Option<Spent>,
    until: Option<Moment>,
}

/// Who is asked next, and with what: `None` when it has to be made anew.
type Next = (Permit, Option<Request<Upload>>);

impl<'a> Run<'a> {
    fn of(call: &'a Call, request: &Request<Upload>) -> Run<'a> {
        let (service, choice) = (&call.service, call.choice);
        let repeat = service.retries.repeat(request.method(), request.headers());
        let refuge = match (service.split.role(choice.version), choice.selected) {
            (Some(Role::Stable), _) => Refuge::None,
            (Some(Role::Canary), selected) if selected != Selected::Forced => Refuge::Shield,
            _ => Refuge::Unsent,
        };
        Run {
            call,
            version: &service.versions[choice.version],
            course: Course::new(repeat, refuge),
            tried: Vec::new(),
            dial: Dial::Reuse,
            dues: Dues::of(call),
            attempts: 0,
            full: false,
            kept: None,
            lent: None,
            until: service.timeouts.total.map(|total| call.arrived.plus(total)),
        }
    }

    async fn go(mut self, mut request: Request<Upload>) -> Response<Outgoing> {
        if self.course.repeat() != Repeat::Never {
            self.kept = Some(Kept::of(&mut request, self.call.service.retries.buffer, &self.call.worker.spare));
        }
        let mut next = match self.pick().await {
            Some(permit) => (permit, Some(request)),
            None => match self.nobody_there().await {
                Some(permit) => (permit, Some(request)),
                None => return self.refuse(Fault::NoEndpoint),
            },
        };
        loop {
            let (came, again) = match self.ask(next).await {
                Came::Unsent { request, idle, fault } => {
                    self.full = fault == Fault::LimitReached;
                    match self.way(Some(Ended::Unsent { idle })).await {
                        Some(permit) => (None, (permit, Some(request))),
                        None => return self.refuse(fault),
                    }
                }
                Came::Nothing { class, fault, ended } => match self.way(ended).await {
                    Some(permit) => (None, (permit, None)),
                    None => return self.give_up(class, fault),
                },
                Came::Answer(answer) => match self.way(answer.ended()).await {
                    Some(permit) => (Some(answer), (permit, None)),
                    None => return self.answer(answer).await,
                },
            };
            if let Some(unwanted) = came {
                unwanted.discard(&self.call.worker).await;
            }
            next = again;
        }
    }

    /// For a first attempt, or one that costs nothing: waits for room.
    async fn pick(&mut self) -> Option<Permit> {
        let picked = permits::pick(self.call, self.version, &self.tried).await;
        self.full |= picked.as_ref().is_err_and(|unpicked| *unpicked == Unpicked::Full);
        picked.ok()
    }

    /// One attempt.
    async fn ask(&mut self, (permit, request): Next) -> Came {
        let endpoint = permit.endpoint().clone();
        self.dues.owe(self.version, permit);
        self.attempts += 1;
        self.full = false;
        self.call.note(|access| access.attempt(endpoint.address));
        let Some(mut request) = request.or_else(|| self.kept.as_ref().map(Kept::again)) else {
            debug_assert!(false, "only what was kept is sent again");
            return Came::Nothing { class: Class::Ours, fault: Fault::ConnectionTerminated, ended: None };
        };
        number(&mut request, self.attempts);
        let outlived = Cell::new(false);
        let can_move = || self.can_move();
        let terms = Terms {
            endpoint: &endpoint,
            connections: self.version.pool.balancing.limits.connections,
            dial: self.dial,
            repeat: self.course.repeat(),
            until: self.until,
            can_move: &can_move,
            outlived: &outlived,
        };
        let came = attempt(self.call, &terms, request).await;
        if let Came::Answer(answer) = &came {
            self.dues.said(answer.response.status());
        }
        if outlived.get() {
            self.dues.charge_first(); // both versions alike, whether or not anybody else could be asked
        }
        match came {
            // What we cut off for the time that others had taken is nobody's failure.
            Came::Nothing { class: Class::Failure, fault: Fault::ResponseTimeout, ended: None }
                if self.attempts > 1 && self.is_over() =>
            {
                Came::Nothing { class: Class::Ours, fault: Fault::ResponseTimeout, ended: None }
            }
            came => came,
        }
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= self.call.worker.now())
    }

    fn is_whole(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::is_whole)
    }

    /// Takes the best way on that can be had: settles the attempt, and names who is asked next.
    async fn way(&mut self, ended: Option<Ended>) -> Option<Permit> {
        let ended = ended?;
        if self.is_over() {
            return None;
        }
        let ways = self.course.ways(ended, &self.call.service.retries, self.is_whole());
        if ways.afresh {
            return self.afresh(ended);
        }
        if let Some(price) = ways.elsewhere
            && let Some(other) = self.elsewhere(price, ended).await
        {
            return Some(other);
        }
        self.across(ways.across?, ended).await
    }

    /// Nothing came of the attempt under way, if there is one. A limit is nobody's failure.
    fn fail(&mut self) {
        if self.full {
            self.dues.settle_attempt(Class::Ours);
        } else {
            self.dues.fail();
        }
    }

    /// The version that was asked is given up before anything was written to it.
    fn leave(&mut self) {
        self.fail();
        if self.full {
            self.dues.found_no_room();
        }
    }

    fn afresh(&mut self, ended: Ended) -> Option<Permit> {
        let same = self.dues.found_dead()?;
        self.dial = Dial::Fresh;
        self.took(Way::Afresh, ended, self.version);
        Some(same)
    }

    async fn elsewhere(&mut self, price: Price, ended: Ended) -> Option<Permit> {
        self.tried.extend(self.dues.endpoint());
        let other = match price {
            Price::Free => {
                self.fail(); // first: nobody waits for room that he takes himself
                self.pick().await?
            }
            Price::Budget => {
                let other = permits::pick_at_once(self.call, self.version, &self.tried).ok();
                let Some(other) = other.filter(|_| self.spend(self.version).is_some()) else {
                    self.tried.pop();
                    return None;
                };
                self.dues.fail();
                other
            }
        };
        self.took(Way::Elsewhere(price), ended, self.version);
        Some(other)
    }

    async fn across(&mut self, price: Price, ended: Ended) -> Option<Permit> {
        let (from, stable) = (self.version, self.call.service.stable());
        let other = match price {
            Price::Free => {
                self.leave();
                self.dues.fall_back();
                let picked = permits::pick(self.call, stable, &[]).await;
                self.full = picked.as_ref().is_err_and(|unpicked| *unpicked == Unpicked::Full);
                let other = picked.ok()?;
                self.call.note(Access::fell_back);
                other
            }
            Price::Budget => {
                let other = permits::pick_at_once(self.call, stable, &[]).ok()?;
                let Some(guest) = stable.allowance.invite(active(stable)) else {
                    self.dues.exhausted(from);
                    return None;
                };
                self.lent = Some(self.spend(stable)?);
                self.dues.fail();
                self.dues.shield(guest);
                other
            }
        };
        (self.version, self.tried) = (stable, Vec::new());
        self.took(Way::Across(price), ended, from);
        Some(other)
    }

    fn took(&mut self, way: Way, ended: Ended, at: &Version) {
        if way != Way::Afresh {
            self.dial = Dial::Reuse;
        }
        self.course.take(way, ended);
        self.dues.retried(at, ended.reason());
    }

    /// Room for one more attempt at a version; says when there is none.
    fn spend(&mut self, version: &Version) -> Option<Spent> {
        let worker = &self.call.worker;
        let spent = worker.budgets.borrow_mut().spend(version.id, &version.allowance, worker.now());
        if spent.is_none() {
            self.dues.exhausted(version);
        }
        spent
    }

    /// Whether anybody else could be asked, if this endpoint took too long: as [`Run::way`], without taking it.
    fn can_move(&self) -> bool {
        let (worker, stable) = (&self.call.worker, self.call.service.stable());
        let ways = self.course.ways(Ended::Late, &self.call.service.retries, self.is_whole());
        let room = |version: &Version| worker.budgets.borrow().have_room(version.id, &version.allowance, worker.now());
        let elsewhere = ways.elsewhere.is_some() && room(self.version) && {
            let mut tried = self.tried.clone();
            tried.extend(self.dues.endpoint());
            permits::pick_at_once(self.call, self.version, &tried).is_ok()
        };
        let across = || {
            let seat = || stable.allowance.has_seat(active(stable));
            room(stable) && seat() && permits::pick_at_once(self.call, stable, &[]).is_ok()
        };
        elsewhere || (ways.across.is_some() && across())
    }

    /// The chosen version has no endpoint to ask.
    async fn nobody_there(&mut self) -> Option<Permit> {
        self.leave();
        let ended = Ended::Unsent { idle: false };
        let ways = self.course.ways(ended, &self.call.service.retries, true);
        self.across(ways.across?, ended).await
    }

    /// Passes an answer on, unless it says that the chosen version lacks what the other one may have.
    async fn answer(mut self, answer: Answer) -> Response<Outgoing> {
        if let Some((other, permit, spent)) = self.rescuer(&answer) {
            return self.rescue(answer, other, permit, spent).await;
        }
        self.dues.head(answer.head_micros);
        self.relay(answer, true).await
    }

    fn rescuer(&mut self, answer: &Answer) -> Option<(&'a Version, Permit, Spent)> {
        let (service, kept) = (&self.call.service, self.kept.as_ref()?);
        let rescues = service.retries.rescues(kept.method(), kept.path(), answer.response.status());
        let by_coin = self.call.choice.selected != Selected::Forced;
        if !rescues || !by_coin || !self.dues.at_chosen() || !kept.is_whole() || self.is_over() {
            return None;
        }
        let other = &service.versions[service.split.other(self.call.choice.version)?];
        let permit = permits::pick_at_once(self.call, other, &[]).ok()?;
        let spent = self.spend(other)?;
        Some((other, permit, spent))
    }

    /// Asks the other version once; what the chosen one said stands, unless that has something better.
    async fn rescue(mut self, held: Answer, other: &'a Version, permit: Permit, spent: Spent) -> Response<Outgoing> {
        self.dues.head(held.head_micros);
        self.dues.ask_other();
        (self.version, self.dial) = (other, Dial::Reuse);
        let mut next = (permit, None);
        loop {
            match self.ask(next).await {
                Came::Answer(answer) if matches!(answer.class(), Class::Success) => {
                    self.lent = Some(spent);
                    self.dues.skew_rescued();
                    held.discard(&self.call.worker).await;
                    self.dues.head(answer.head_micros);
                    return self.relay(answer, true).await;
                }
                Came::Answer(answer) => {
                    self.dues.other_has_not(answer.class());
                    answer.discard(&self.call.worker).await;
                }
                Came::Unsent { request, idle: true, .. } if matches!(self.dial, Dial::Reuse) => {
                    self.dial = Dial::Fresh;
                    if let Some(same) = self.dues.found_dead() {
                        next = (same, Some(request));
                        continue;
                    }
                }
                Came::Unsent { fault: Fault::LimitReached, .. } => self.dues.other_has_not(Class::Ours),
                Came::Unsent { .. } => self.dues.other_has_not(Class::Failure),
                Came::Nothing { class, .. } => self.dues.other_has_not(class),
            }
            return self.relay(held, false).await;
        }
    }

    /// Passes an endpoint's response on. `head`: it is the answer of the attempt under way.
    async fn relay(mut self, answer: Answer, head: bool) -> Response<Outgoing> {
        let class = answer.class();
        let call = self.call;
        if head && self.dues.answered(class) {
            call.note(Access::shielded);
        }
        if let Some(spent) = self.lent.take().filter(|_| class != Class::Failure) {
            call.worker.budgets.borrow_mut().give_back(self.version.id, &self.version.allowance, spent);
        }
        let Answer { channel, response, deadline, .. } = answer;
        let (mut parts, incoming) = response.into_parts();
        call.note(|access| access.upstream_answered(parts.status));
        strip_hop_by_hop(&mut parts.headers);
        parts.version = http::Version::HTTP_11;
        let until = self.until.filter(|_| !is_event_stream(&parts.headers));
        let mut body = Observed::new(call.worker.clone(), incoming, channel, deadline, self.dues, until, class);
        poll_fn(|cx| {
            body.finish_if_empty(cx);
            Poll::Ready(())
        })
        .await;
        Response::from_parts(parts, Outgoing::relayed(body))
    }

    /// No endpoint took anything of the request.
    fn refuse(mut self, fault: Fault) -> Response<Outgoing> {
        self.leave();
        self.dues.refused();
        own(self.call, if self.full { Fault::LimitReached } else { fault })
    }

    /// It may have been executed, and no answer came.
    fn give_up(mut self, class: Class, fault: Fault) -> Response<Outgoing> {
        self.dues.settle(class);
        own(self.call, fault)
    }
}

/// Attempts under way at a version, over all workers.
fn active(version: &Version) -> u32 {
    version.pool.endpoints().map(|endpoint| endpoint.in_flight()).sum()
}

/// Which has no end, and is not held to one.
fn is_event_stream(headers: &http::HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    content_type.len() >= EVENT_STREAM.len() && content_type[..EVENT_STREAM.len()].eq_ignore_ascii_case(EVENT_STREAM)
}

const EVENT_STREAM: &[u8] = b"text/event-stream";

fn own(call: &Call, fault: Fault) -> Response<Outgoing> {
    call.note(|access| access.failed(fault.error()));
    reply::fault(fault, call.form, &call.request_id).map(Outgoing::own)
}
