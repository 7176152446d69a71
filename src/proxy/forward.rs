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
use super::replay::{Kept, number};
use super::reply::{self, Fault, Form};
use super::upstream::Upload;
use super::worker::Worker;
use crate::domain::names::EndpointId;
use crate::domain::outcome::Class;
use crate::domain::pool::InFlight;
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
    kept: Option<Kept<'a>>,
    /// What the attempt under way took out of its version's budget, to be given back if it goes well.
    lent: Option<Spent>,
    until: Option<Moment>,
}

/// Who is asked next, and with what: `None` when it has to be made anew.
type Next = (InFlight, Option<Request<Upload>>);

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
            kept: None,
            lent: None,
            until: service.timeouts.total.map(|total| call.arrived.plus(total)),
        }
    }

    async fn go(mut self, mut request: Request<Upload>) -> Response<Outgoing> {
        if self.course.repeat() != Repeat::Never {
            self.kept = Some(Kept::of(&mut request, self.call.service.retries.buffer, &self.call.worker.spare));
        }
        let mut next = match self.pick() {
            Some(in_flight) => (in_flight, Some(request)),
            None => match self.nobody_there() {
                Some(in_flight) => (in_flight, Some(request)),
                None => return self.refuse(Fault::NoEndpoint),
            },
        };
        loop {
            let (came, again) = match self.ask(next).await {
                Came::Unsent { request, idle, fault } => match self.way(Ended::Unsent { idle }) {
                    Some(in_flight) => (None, (in_flight, Some(request))),
                    None => return self.refuse(fault),
                },
                Came::Nothing { class, fault, ended } => match ended.and_then(|ended| self.way(ended)) {
                    Some(in_flight) => (None, (in_flight, None)),
                    None => return self.give_up(class, fault),
                },
                Came::Answer(answer) => match answer.ended().and_then(|ended| self.way(ended)) {
                    Some(in_flight) => (Some(answer), (in_flight, None)),
                    None => return self.answer(answer).await,
                },
            };
            if let Some(unwanted) = came {
                unwanted.discard(&self.call.worker).await;
            }
            next = again;
        }
    }

    fn pick(&self) -> Option<InFlight> {
        self.version.pool.pick(&self.tried, self.call.worker.draw())
    }

    /// One attempt.
    async fn ask(&mut self, (in_flight, request): Next) -> Came {
        let (endpoint, address) = (in_flight.endpoint().id, in_flight.endpoint().address);
        self.dues.owe(self.version, in_flight);
        self.attempts += 1;
        self.call.note(|access| access.attempt(address));
        let Some(mut request) = request.or_else(|| self.kept.as_ref().map(Kept::again)) else {
            debug_assert!(false, "only what was kept is sent again");
            return Came::Nothing { class: Class::Ours, fault: Fault::ConnectionTerminated, ended: None };
        };
        number(&mut request, self.attempts);
        let outlived = Cell::new(false);
        let can_move = || self.can_move();
        let terms = Terms {
            endpoint,
            address,
            dial: self.dial,
            repeat: self.course.repeat(),
            until: self.until,
            can_move: &can_move,
            outlived: &outlived,
        };
        let came = attempt(self.call, &terms, request).await;
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
    fn way(&mut self, ended: Ended) -> Option<InFlight> {
        if self.is_over() {
            return None;
        }
        let ways = self.course.ways(ended, &self.call.service.retries, self.is_whole());
        if ways.afresh {
            return self.afresh(ended);
        }
        ways.elsewhere
            .and_then(|price| self.elsewhere(price, ended))
            .or_else(|| ways.across.and_then(|price| self.across(price, ended)))
    }

    fn afresh(&mut self, ended: Ended) -> Option<InFlight> {
        let same = self.dues.found_dead()?;
        self.dial = Dial::Fresh;
        self.took(Way::Afresh, ended, self.version);
        Some(same)
    }

    fn elsewhere(&mut self, price: Price, ended: Ended) -> Option<InFlight> {
        self.tried.extend(self.dues.endpoint());
        let Some(other) = self.pick() else {
            self.tried.pop();
            return None;
        };
        if price == Price::Budget && self.spend(self.version).is_none() {
            self.tried.pop();
            return None;
        }
        self.dues.fail();
        self.took(Way::Elsewhere(price), ended, self.version);
        Some(other)
    }

    fn across(&mut self, price: Price, ended: Ended) -> Option<InFlight> {
        let (from, stable) = (self.version, self.call.service.stable());
        let other = stable.pool.pick(&[], self.call.worker.draw())?;
        match price {
            Price::Free => {
                self.dues.fail();
                self.dues.fall_back();
                self.call.note(Access::fell_back);
            }
            Price::Budget => {
                let Some(guest) = stable.allowance.invite(active(stable)) else {
                    self.dues.exhausted(from);
                    return None;
                };
                self.lent = Some(self.spend(stable)?);
                self.dues.fail();
                self.dues.shield(guest);
            }
        }
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
            self.version.pool.pick(&tried, 0).is_some()
        };
        let across = || room(stable) && stable.allowance.has_seat(active(stable)) && stable.pool.pick(&[], 0).is_some();
        elsewhere || (ways.across.is_some() && across())
    }

    /// The chosen version has no endpoint to ask.
    fn nobody_there(&mut self) -> Option<InFlight> {
        self.dues.charge_first();
        let ended = Ended::Unsent { idle: false };
        let ways = self.course.ways(ended, &self.call.service.retries, true);
        ways.across.and_then(|price| self.across(price, ended))
    }

    /// Passes an answer on, unless it says that the chosen version lacks what the other one may have.
    async fn answer(mut self, answer: Answer) -> Response<Outgoing> {
        if let Some((other, in_flight, spent)) = self.rescuer(&answer) {
            return self.rescue(answer, other, in_flight, spent).await;
        }
        self.dues.head(answer.head_micros);
        self.relay(answer, true).await
    }

    fn rescuer(&mut self, answer: &Answer) -> Option<(&'a Version, InFlight, Spent)> {
        let (service, kept) = (&self.call.service, self.kept.as_ref()?);
        let rescues = service.retries.rescues(kept.method(), kept.path(), answer.response.status());
        let by_coin = self.call.choice.selected != Selected::Forced;
        if !rescues || !by_coin || !self.dues.at_chosen() || !kept.is_whole() || self.is_over() {
            return None;
        }
        let other = &service.versions[service.split.other(self.call.choice.version)?];
        let in_flight = other.pool.pick(&[], self.call.worker.draw())?;
        let spent = self.spend(other)?;
        Some((other, in_flight, spent))
    }

    /// Asks the other version once; what the chosen one said stands, unless that has something better.
    async fn rescue(
        mut self,
        held: Answer,
        other: &'a Version,
        in_flight: InFlight,
        spent: Spent,
    ) -> Response<Outgoing> {
        self.dues.head(held.head_micros);
        self.dues.ask_other();
        (self.version, self.dial) = (other, Dial::Reuse);
        let mut next = (in_flight, None);
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
        self.dues.charge_first();
        self.dues.refused();
        own(self.call, fault)
    }

    /// It may have been executed, and no answer came.
    fn give_up(mut self, class: Class, fault: Fault) -> Response<Outgoing> {
        self.dues.settle(class);
        own(self.call, fault)
    }
}

/// Attempts under way at a version, over all workers.
fn active(version: &Version) -> u32 {
    version.pool.endpoints.iter().map(|endpoint| endpoint.in_flight()).sum()
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
