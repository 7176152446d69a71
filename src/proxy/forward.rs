//! From a chosen version to a response: attempts at its endpoints, the fall-back to stable, and what is owed for each.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::HeaderValue;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::access::Access;
use super::body::{Observed, Outgoing};
use super::deadline::{Deadline, Elapsed};
use super::headers::strip_hop_by_hop;
use super::permits::{self, Permit, Picking, Room};
use super::recorder::{Charge, Owed, Reach};
use super::reply::{self, Fault, Form};
use super::upstream::{Channel, Failed, Progress, Upload, UploadState};
use super::worker::Worker;
use crate::domain::outcome::Class;
use crate::domain::pool::{Endpoint, Unpicked};
use crate::domain::service::Timeouts;
use crate::domain::snapshot::{Service, Version};
use crate::domain::split::{Choice, Selected};
use crate::domain::time::Moment;
use crate::domain::window::Drawn;

/// Endpoints of one version that are tried before it counts as unreachable.
const TRIES: usize = 3;

/// One client request that has found its service and version.
#[derive(Debug)]
pub struct Call {
    pub worker: Rc<Worker>,
    pub service: Arc<Service>,
    pub choice: Choice,
    pub picking: Picking,
    pub arrived: Moment,
    pub request_id: HeaderValue,
    pub form: Form,
    pub access: Option<Rc<Access>>,
}

impl Call {
    /// For the access log, if there is one.
    fn note(&self, note: impl FnOnce(&Access)) {
        if let Some(access) = &self.access {
            note(access);
        }
    }
}

/// What trying one version came to.
enum Tried {
    Answered(Response<Outgoing>),
    /// Nothing was written anywhere: the request is whole, and still owed for.
    Unreachable(Fault, Request<Upload>, Dues),
}

/// Sends a request to the chosen version. A canary that cannot be reached is charged for it, and stable answers
/// instead.
pub async fn forward(call: Call, request: Request<Upload>) -> Response<Outgoing> {
    let chosen = &call.service.versions[call.choice.version];
    let (fault, request, mut dues) = match attempts(&call, chosen, Dues::of(&call), request).await {
        Tried::Answered(response) => return response,
        Tried::Unreachable(fault, request, dues) => (fault, request, dues),
    };
    if call.choice.version == call.service.split.stable {
        return dues.refuse(&call, fault);
    }
    dues.fall_back();
    call.note(Access::fell_back);
    match attempts(&call, call.service.stable(), dues, request).await {
        Tried::Answered(response) => response,
        Tried::Unreachable(fault, _, dues) => dues.refuse(&call, fault),
    }
}

/// Tries a version's endpoints until one has taken the request.
async fn attempts(call: &Call, version: &Version, mut dues: Dues, mut request: Request<Upload>) -> Tried {
    let (mut tried, mut dial, mut fault) = (Vec::new(), Dial::Reuse, Fault::NoEndpoint);
    while tried.len() < TRIES {
        let permit = match permits::pick(call, version, &tried).await {
            Ok(permit) => permit,
            Err(Unpicked::NoneLeft) => break,
            Err(Unpicked::Full) => {
                fault = Fault::LimitReached;
                break;
            }
        };
        let endpoint = permit.endpoint().clone();
        let deadline = call.worker.deadlines.deadline();
        dues.owe(version, permit);
        call.note(|access| access.attempt(endpoint.address));
        let channel = match dial.open(call, version, &endpoint, &deadline).await {
            Ok(channel) => channel,
            Err(refused) => {
                fault = refused;
                tried.push(endpoint.id);
                match refused {
                    Fault::LimitReached => dues.settle_attempt(Class::Ours),
                    _ => dues.fail(),
                }
                continue;
            }
        };
        let reused = channel.reused();
        (request, dues) = match exchange(call, channel, request, dues, deadline).await {
            Exchanged::Answered(response) => return Tried::Answered(response),
            Exchanged::Unsent(request, dues) => (request, dues),
        };
        if reused {
            // It died while it was idle: nobody's fault, and worth a fresh connection to the same endpoint.
            dial = Dial::Fresh;
            dues.settle_attempt(Class::Ours);
        } else {
            fault = Fault::ConnectionTerminated;
            tried.push(endpoint.id);
            dues.fail();
        }
    }
    match fault {
        Fault::LimitReached => dues.found_no_room(),
        _ => dues.charge_first(Class::Failure),
    }
    Tried::Unreachable(fault, request, dues)
}

#[derive(Clone, Copy)]
enum Dial {
    Reuse,
    Fresh,
}

impl Dial {
    /// A ready connection: an idle one, or a new one within the connect timeout.
    async fn open(
        self,
        call: &Call,
        version: &Version,
        endpoint: &Arc<Endpoint>,
        deadline: &Deadline,
    ) -> Result<Channel, Fault> {
        if let Dial::Reuse = self
            && let Some(channel) = call.worker.upstreams.take(endpoint.id).await
        {
            return Ok(channel);
        }
        let begun = call.worker.now();
        deadline.set(begun.plus(call.service.timeouts.connect));
        let limit = version.pool.balancing.limits.connections;
        let slot = match permits::connection(&call.worker, endpoint, limit, deadline).await {
            Ok(Room::New(slot)) => slot,
            Ok(Room::Idle(channel)) => return Ok(channel),
            Err(Elapsed) => return Err(Fault::LimitReached),
        };
        let address = endpoint.address;
        match deadline.race(Channel::connect(endpoint.id, address, slot)).await {
            Ok(Ok(channel)) => {
                call.note(|access| access.connected(call.worker.now().0.saturating_sub(begun.0)));
                Ok(channel)
            }
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "no connection");
                Err(Fault::ConnectionRefused)
            }
            Err(Elapsed) => Err(Fault::ConnectionTimeout),
        }
    }
}

enum Exchanged {
    Answered(Response<Outgoing>),
    Unsent(Request<Upload>, Dues),
}

/// One request on one ready connection.
async fn exchange(
    call: &Call,
    mut channel: Channel,
    request: Request<Upload>,
    mut dues: Dues,
    deadline: Deadline,
) -> Exchanged {
    let sent = call.worker.now();
    let was_idle = channel.was_idle(sent);
    let upload = request.body().progress();
    let patience = Patience { call, deadline: &deadline, upload: upload.as_deref(), sent };
    patience.arm();
    let answer = channel.exchange(request, |cx| patience.poll(cx)).await;
    let (class, fault) = match answer {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            (Class::Failure, Fault::MalformedResponse) // nobody asked for it
        }
        Ok(response) => return Exchanged::Answered(relay(call, channel, response, dues, deadline, sent).await),
        Err(Failed::Unsent(request)) => return Exchanged::Unsent(request, dues),
        Err(Failed::Upload) => (Class::Abandoned, Fault::BadBody),
        Err(Failed::Terminated) if was_idle => (Class::Ours, Fault::ConnectionTerminated),
        Err(Failed::Terminated) => (Class::Failure, Fault::ConnectionTerminated),
        Err(Failed::Malformed) => (Class::Failure, Fault::MalformedResponse),
        Err(Failed::Late) if patience.client_is_late() => (Class::Abandoned, Fault::RequestTimeout),
        Err(Failed::Late) => (Class::Failure, Fault::ResponseTimeout),
    };
    dues.settle(class);
    Exchanged::Answered(own(call, fault))
}

/// How long to wait for a response head: from the end of the request, or from the last piece of an upload that moved.
struct Patience<'a> {
    call: &'a Call,
    deadline: &'a Deadline,
    upload: Option<&'a Progress>,
    sent: Moment,
}

impl Patience<'_> {
    fn due(&self) -> Moment {
        let timeouts = &self.call.service.timeouts;
        match self.upload.map(|upload| (upload.state(), upload.moved())) {
            None => self.sent.plus(timeouts.response_head),
            Some((UploadState::Done | UploadState::Failed, moved)) => moved.plus(timeouts.response_head),
            Some((UploadState::Sending | UploadState::WaitingForClient, moved)) => moved.plus(timeouts.body_idle),
        }
    }

    fn arm(&self) {
        self.deadline.set(self.due());
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.upload.is_some() {
            self.arm(); // it may have moved
        }
        self.deadline.poll(cx).map(|Elapsed| ())
    }

    fn client_is_late(&self) -> bool {
        self.upload.is_some_and(|upload| upload.state() == UploadState::WaitingForClient)
    }
}

/// Passes an endpoint's response on.
async fn relay(
    call: &Call,
    channel: Channel,
    response: Response<Incoming>,
    mut dues: Dues,
    deadline: Deadline,
    sent: Moment,
) -> Response<Outgoing> {
    dues.head(call.worker.now().0.saturating_sub(sent.0));
    let (mut parts, incoming) = response.into_parts();
    call.note(|access| access.upstream_answered(parts.status));
    strip_hop_by_hop(&mut parts.headers);
    parts.version = http::Version::HTTP_11;
    let class = Class::of_status(parts.status);
    dues.answered(parts.status);
    dues.rescued(class);
    let mut body = Observed::new(call.worker.clone(), incoming, channel, deadline, dues, class);
    poll_fn(|cx| {
        body.finish_if_empty(cx);
        Poll::Ready(())
    })
    .await;
    Response::from_parts(parts, Outgoing::relayed(body))
}

fn own(call: &Call, fault: Fault) -> Response<Outgoing> {
    call.note(|access| access.failed(fault.error()));
    reply::fault(fault, call.form, &call.request_id).map(Outgoing::own)
}

/// An attempt under way.
#[derive(Debug)]
struct Attempt {
    owed: Owed,
    permit: Permit,
    /// Gateway failures in a row that eject an endpoint; `None`: nothing does.
    many: Option<u32>,
    answered: Option<StatusCode>,
}

impl Attempt {
    /// Counts for or against its endpoint; see [`ejection`](crate::domain::ejection) for what counts.
    fn count(&self, class: Class) {
        let Some(many) = self.many else { return };
        let error_of_its_own = self.answered.is_some_and(|status| status.is_server_error() && !is_gateway(status));
        match class {
            Class::Failure if !error_of_its_own => self.permit.endpoint().failed(many),
            Class::Success | Class::Failure | Class::Rejected => self.permit.endpoint().answered(),
            Class::Abandoned | Class::Ours => {}
        }
    }
}

/// What a gateway answers that got no answer itself.
fn is_gateway(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// What is owed for a request and for its attempt under way. Pays on drop: a future or body that is dropped unsettled
/// means that the client has left. Only a panic leaves debts unpaid, and they are counted.
#[derive(Debug)]
pub struct Dues {
    worker: Rc<Worker>,
    service: Arc<Service>,
    chosen: usize,
    attempt: Option<Attempt>,
    charge: Option<Charge>,
    /// The class of the first attempt at the chosen version that ended before the request did.
    first: Option<Class>,
    falling_back: bool,
    /// The chosen version had room nowhere.
    full: bool,
    head_micros: Option<u64>,
}

impl Dues {
    fn of(call: &Call) -> Dues {
        let charge = charge(call);
        Dues {
            worker: call.worker.clone(),
            service: call.service.clone(),
            chosen: call.choice.version,
            attempt: None,
            charge,
            first: None,
            falling_back: false,
            full: false,
            head_micros: None,
        }
    }

    #[must_use]
    pub fn timeouts(&self) -> &Timeouts {
        &self.service.timeouts
    }

    fn owe(&mut self, version: &Version, permit: Permit) {
        let owed = self.worker.recorder.owe(version.id, self.worker.now());
        let many = version.pool.balancing.ejection.map(|rule| rule.consecutive_failures);
        self.attempt = Some(Attempt { owed, permit, many, answered: None });
    }

    fn head(&mut self, micros: u64) {
        if let Some(attempt) = &mut self.attempt {
            attempt.owed.head(micros);
        }
        if !self.falling_back {
            self.head_micros = Some(micros);
        }
    }

    fn answered(&mut self, status: StatusCode) {
        if let Some(attempt) = &mut self.attempt {
            attempt.answered = Some(status);
        }
    }

    /// The version's limits kept the request from it. That is ours; but a canary that has no room where stable has is
    /// charged (see [`Dues::rescued`]).
    fn found_no_room(&mut self) {
        if !self.falling_back {
            self.full = self.first.is_none();
            self.charge_first(Class::Ours);
        }
    }

    /// From here on the attempts are stable's, and count for neither version's evidence.
    fn fall_back(&mut self) {
        self.falling_back = true;
    }

    fn charge_first(&mut self, class: Class) {
        if !self.falling_back {
            self.first.get_or_insert(class);
        }
    }

    fn settle_attempt(&mut self, class: Class) {
        if let Some(attempt) = self.attempt.take() {
            attempt.count(class);
            attempt.owed.settle(class, self.worker.now());
        }
    }

    /// An attempt of which nothing was written: another endpoint may do better, but the version is charged for this
    /// one.
    fn fail(&mut self) {
        self.charge_first(Class::Failure);
        self.settle_attempt(Class::Failure);
    }

    /// Stable's answer to a request that the chosen version could not be reached for: pays the charge. A version without
    /// room is charged as well when stable has some and answers, or it would look healthy for holding requests up; but
    /// it is there, and that is not what the health rule asks.
    fn rescued(&mut self, class: Class) {
        if self.falling_back && class == Class::Failure {
            self.unrescued();
        } else if self.falling_back {
            self.seen(Reach::Rescued);
            self.settle_charge(Class::Failure, if self.full { Reach::Reached } else { Reach::Rescued });
        }
    }

    /// Neither the chosen version nor stable did any good. Where only room was wanting, we caused it.
    fn unrescued(&mut self) {
        if self.full {
            self.settle_charge(Class::Ours, Reach::Reached);
        } else {
            self.seen(Reach::Unreachable);
            self.settle_charge(Class::Failure, Reach::Unreachable);
        }
    }

    /// The request is over, and so is its attempt.
    pub fn settle(&mut self, class: Class) {
        self.settle_attempt(class);
        if self.falling_back {
            let class = if self.full { Class::Ours } else { Class::Failure };
            self.settle_charge(class, if self.full { Reach::Reached } else { Reach::Unreachable });
        } else {
            if class == Class::Failure {
                self.seen(Reach::Reached);
            }
            self.settle_charge(self.first.unwrap_or(class), Reach::Reached);
        }
    }

    /// No endpoint took the request.
    fn refuse(mut self, call: &Call, fault: Fault) -> Response<Outgoing> {
        self.unrescued();
        own(call, fault)
    }

    /// Counts a failure of the chosen version by whether the client saw it.
    fn seen(&self, reach: Reach) {
        let chosen = self.service.versions[self.chosen].id;
        match reach {
            Reach::Rescued => self.worker.recorder.shielded(chosen),
            Reach::Reached | Reach::Unreachable => self.worker.recorder.exposed(chosen),
        }
    }

    fn settle_charge(&mut self, class: Class, reach: Reach) {
        if let Some(charge) = self.charge.take() {
            charge.settle(class, self.head_micros, reach);
        }
    }
}

impl Drop for Dues {
    fn drop(&mut self) {
        let unpaid = self.attempt.is_some() || self.charge.is_some();
        if unpaid && !std::thread::panicking() {
            self.settle_attempt(Class::Abandoned);
            let class = self.first.unwrap_or(Class::Abandoned);
            let reach = if self.falling_back && !self.full { Reach::Unreachable } else { Reach::Reached };
            self.settle_charge(class, reach);
        }
    }
}

/// Notes a coin-drawn request as routed, if its coin is evidence.
fn charge(call: &Call) -> Option<Charge> {
    let (service, recorder) = (&call.service, &call.worker.recorder);
    let version = service.versions[call.choice.version].id;
    if call.choice.selected == Selected::Forced {
        recorder.forced(version);
        return None;
    }
    recorder.drawn(version);
    let role = service.split.role(call.choice.version)?;
    let (weight, generation) = (service.split.weight, service.generation);
    let drawn = Drawn { exposure: service.exposure?, tick: call.arrived.tick(), weight, generation };
    recorder.charge(drawn, role, service.over_micros)
}
