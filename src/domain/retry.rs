//! Which attempts may be followed by another, where, and how many in all.
//!
//! ```text
//!                     nothing written        an idle connection died      reset, late, 502, 503, 504
//!  same endpoint      -                      once, freshly connected      -
//!  other endpoints    any request            -                            once, out of the budget
//!  stable             any request            -                            once: shielding
//! ```
//!
//! What of a request may have been executed is sent again only when the request may be repeated: safe methods (RFC 9110
//! §9.2.1) always, `PUT` and `DELETE` and whatever carries an `Idempotency-Key` when the service says so, and those
//! never at another version, which may not know what the first one did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::names::VersionId;
use super::time::{Moment, Tick};

/// Endpoints of one version that are asked, one after the other, while nothing of the request is written.
const ENDPOINTS: u8 = 3;
/// No request has more attempts: at two versions, three endpoints each, over an idle and a fresh connection.
pub const MOST_ATTEMPTS: u8 = 2 * 2 * ENDPOINTS;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Why there was another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No connection, or none that took anything.
    Connect,
    /// An idle connection was found dead, or died with the request on it.
    Idle,
    /// The connection ended before a response head, or what came was no HTTP.
    Reset,
    /// No response head within `per_try`.
    Timeout,
    InternalServerError,
    BadGateway,
    ServiceUnavailable,
    GatewayTimeout,
}

impl Reason {
    pub const ALL: [Reason; 8] = [
        Reason::Connect,
        Reason::Idle,
        Reason::Reset,
        Reason::Timeout,
        Reason::InternalServerError,
        Reason::BadGateway,
        Reason::ServiceUnavailable,
        Reason::GatewayTimeout,
    ];

    /// As files and metrics spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Connect => "connect",
            Reason::Idle => "idle",
            Reason::Reset => "reset",
            Reason::Timeout => "timeout",
            Reason::InternalServerError => "500",
            Reason::BadGateway => "502",
            Reason::ServiceUnavailable => "503",
            Reason::GatewayTimeout => "504",
        }
    }

    /// `None`: whatever says this status has answered.
    fn of_status(status: StatusCode) -> Option<Reason> {
        match status {
            StatusCode::INTERNAL_SERVER_ERROR => Some(Reason::InternalServerError),
            StatusCode::BAD_GATEWAY => Some(Reason::BadGateway),
            StatusCode::SERVICE_UNAVAILABLE => Some(Reason::ServiceUnavailable),
            StatusCode::GATEWAY_TIMEOUT => Some(Reason::GatewayTimeout),
            _ => None,
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reasons(u8);

impl Reasons {
    /// What a gateway would have answered with 502, 503 or 504, and those. Not 500: it may be the answer.
    #[must_use]
    pub fn gateway() -> Reasons {
        use Reason::{BadGateway, GatewayTimeout, Reset, ServiceUnavailable, Timeout};
        [Reset, Timeout, BadGateway, ServiceUnavailable, GatewayTimeout].into_iter().collect()
    }

    #[must_use]
    pub fn contains(self, reason: Reason) -> bool {
        self.0 & reason.bit() != 0
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().filter(move |reason| self.contains(*reason))
    }
}

impl FromIterator<Reason> for Reasons {
    fn from_iter<I: IntoIterator<Item = Reason>>(reasons: I) -> Reasons {
        Reasons(reasons.into_iter().fold(0, |bits, reason| bits | reason.bit()))
    }
}

/// What a service says about repeating requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// What makes a request that may be repeated try another endpoint of its version.
    pub on: Reasons,
    /// Whether `PUT` and `DELETE` may be repeated.
    pub idempotent_methods: bool,
    /// Whether anything with an `Idempotency-Key` may be repeated.
    pub idempotency_key: bool,
    /// Bytes of a request's body kept for another attempt; a longer one is sent once.
    pub buffer: usize,
    /// What makes stable answer for the canary; `None`: only that nothing could be written.
    pub shielding: Option<Reasons>,
    /// Below these, what one version does not have is asked of the other.
    pub skew_rescue: Box<[String]>,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            on: Reasons::gateway(),
            idempotent_methods: false,
            idempotency_key: false,
            buffer: 64 * 1024,
            shielding: Some(Reasons::gateway()),
            skew_rescue: Box::default(),
        }
    }
}

/// How far a request may be repeated of which something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It may have been executed, and must not be twice.
    Never,
    /// At the same version only.
    Within,
    /// At the other version as well.
    Across,
}

impl RetryPolicy {
    #[must_use]
    pub fn repeat(&self, method: &Method, headers: &HeaderMap) -> Repeat {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE => Repeat::Across,
            Method::PUT | Method::DELETE if self.idempotent_methods => Repeat::Within,
            _ if self.idempotency_key && headers.contains_key(IDEMPOTENCY_KEY) => Repeat::Within,
            _ => Repeat::Never,
        }
    }

    /// Whether a status says that this version lacks what the other one may have: a page's assets, asked for across a
    /// release.
    #[must_use]
    pub fn rescues(&self, method: &Method, path: &str, status: StatusCode) -> bool {
        !self.skew_rescue.is_empty()
            && matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
            && matches!(*method, Method::GET | Method::HEAD)
            && self.skew_rescue.iter().any(|prefix| is_below(path, prefix))
    }
}

/// `/assets` has `/assets` and `/assets/x` below it, and not `/assetsx`.
fn is_below(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How an attempt ended from which the client has nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Not a byte of the request was written. `idle`: the connection had been, and was found dead.
    Unsent { idle: bool },
    /// The connection ended before a response head, or what came was no HTTP. `idle`: it had been, before this request.
    Cut { idle: bool },
    /// No response head within `per_try`.
    Late,
    /// `later`: with a `Retry-After`.
    Status { reason: Reason, later: bool },
}

impl Ended {
    /// `None`: this is the answer, and it is passed on. 4xx always is.
    #[must_use]
    pub fn of_head(status: StatusCode, headers: &HeaderMap) -> Option<Ended> {
        let reason = Reason::of_status(status)?;
        Some(Ended::Status { reason, later: headers.contains_key(header::RETRY_AFTER) })
    }

    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Ended::Unsent { idle: true } | Ended::Cut { idle: true } => Reason::Idle,
            Ended::Unsent { idle: false } => Reason::Connect,
            Ended::Cut { idle: false } => Reason::Reset,
            Ended::Late => Reason::Timeout,
            Ended::Status { reason, .. } => reason,
        }
    }

    /// Something of the request was written.
    fn sent(self) -> bool {
        !matches!(self, Ended::Unsent { .. })
    }
}

/// What may be done about an attempt that ended badly: the first that can be had is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ways {
    /// The same endpoint, over a fresh connection.
    pub afresh: bool,
    /// Another endpoint of the same version.
    pub elsewhere: Option<Price>,
    /// Stable, instead of the version that was chosen.
    pub across: Option<Price>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Price {
    /// Nothing was written: this is the attempt's first request.
    Free,
    /// The request goes out again, and the budget must have room for it.
    Budget,
}

/// A way that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Afresh,
    Elsewhere(Price),
    Across(Price),
}

/// When stable may answer instead of the chosen version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuge {
    /// Never: it was chosen, or has been asked already.
    None,
    /// When nothing could be written to the chosen version.
    Unsent,
    /// And when the canary failed.
    Shield,
}

/// One request's way through its attempts.
#[derive(Debug, Clone)]
pub struct Course {
    repeat: Repeat,
    refuge: Refuge,
    /// Of the present version, given up.
    endpoints: u8,
    /// The present endpoint has been asked over a fresh connection, because an idle one was dead.
    afresh: bool,
    /// Something of the request was written, and its end was not blamed on an idle connection.
    written: bool,
    /// The one extra attempt has been had.
    repeated: bool,
}

impl Course {
    #[must_use]
    pub fn new(repeat: Repeat, refuge: Refuge) -> Course {
        Course { repeat, refuge, endpoints: 0, afresh: false, written: false, repeated: false }
    }

    #[must_use]
    pub fn repeat(&self) -> Repeat {
        self.repeat
    }

    /// What may follow. `whole`: the request can be sent again, body and all.
    #[must_use]
    pub fn ways(&self, ended: Ended, policy: &RetryPolicy, whole: bool) -> Ways {
        match ended {
            Ended::Unsent { idle: true } if !self.afresh => Ways { afresh: true, ..Ways::default() },
            Ended::Unsent { .. } => Ways {
                afresh: false,
                elsewhere: (self.endpoints + 1 < ENDPOINTS).then_some(Price::Free),
                across: self.unsent_across(policy),
            },
            _ if !whole || self.repeat == Repeat::Never => Ways::default(),
            Ended::Cut { idle: true } if !self.afresh => Ways { afresh: true, ..Ways::default() },
            Ended::Cut { .. } | Ended::Late | Ended::Status { .. } => self.repeats(ended, policy),
        }
    }

    /// A version that takes no connection is no version: stable takes its requests, whatever they are.
    fn unsent_across(&self, policy: &RetryPolicy) -> Option<Price> {
        if self.written {
            (self.may_be_shielded() && policy.shielding.is_some()).then_some(Price::Budget)
        } else {
            (self.refuge != Refuge::None).then_some(Price::Free)
        }
    }

    fn repeats(&self, ended: Ended, policy: &RetryPolicy) -> Ways {
        let reason = match ended.reason() {
            Reason::Idle => Reason::Reset, // and the fresh connection died as well
            reason => reason,
        };
        let told_to_wait = matches!(ended, Ended::Status { later: true, .. });
        let elsewhere = !self.repeated && !told_to_wait && policy.on.contains(reason);
        let across = self.may_be_shielded() && policy.shielding.is_some_and(|on| on.contains(reason));
        Ways { afresh: false, elsewhere: elsewhere.then_some(Price::Budget), across: across.then_some(Price::Budget) }
    }

    fn may_be_shielded(&self) -> bool {
        self.refuge == Refuge::Shield && self.repeat == Repeat::Across
    }

    /// Notes which of the ways was taken.
    pub fn take(&mut self, way: Way, ended: Ended) {
        self.afresh = way == Way::Afresh;
        if way != Way::Afresh {
            self.written |= ended.sent();
        }
        match way {
            Way::Afresh => {}
            Way::Elsewhere(price) => {
                self.endpoints += 1;
                self.repeated |= price == Price::Budget;
            }
            Way::Across(price) => {
                (self.endpoints, self.refuge) = (0, Refuge::None);
                self.repeated |= price == Price::Budget;
            }
        }
    }
}

/// Extra attempts per hundred requests of a version, over [`WINDOW`].
const PERCENT: u64 = 20;
/// Seconds over which requests earn extra attempts.
const WINDOW: usize = 10;
const TICKS_PER_SECOND: u64 = 10;

/// One worker's part of a version's budget: a fifth of the requests that it saw itself, so the parts of all workers
/// are a fifth of all requests.
#[derive(Debug, Default)]
pub struct RetryBudget {
    seconds: [Second; WINDOW],
}

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    number: u64,
    requests: u64,
    spent: u64,
}

impl RetryBudget {
    pub fn earn(&mut self, now: Tick, requests: u64) {
        self.second(now).requests += requests;
    }

    #[must_use]
    pub fn has_room(&self, now: Tick) -> bool {
        let (requests, spent) = self.sums(now);
        (spent + 1) * 100 <= requests * PERCENT
    }

    /// Whether there was room for one more.
    pub fn spend(&mut self, now: Tick) -> bool {
        let room = self.has_room(now);
        self.second(now).spent += u64::from(room);
        room
    }

    /// For an extra attempt that did what it was for.
    pub fn give_back(&mut self) {
        if let Some(newest) = self.seconds.iter_mut().filter(|s| s.spent > 0).max_by_key(|s| s.number) {
            newest.spent -= 1;
        }
    }

    /// Nothing of it counts any more.
    #[must_use]
    pub fn is_forgotten(&self, now: Tick) -> bool {
        self.sums(now) == (0, 0)
    }

    fn sums(&self, now: Tick) -> (u64, u64) {
        let oldest = (now.0 / TICKS_PER_SECOND).saturating_sub(WINDOW as u64 - 1);
        let recent = self.seconds.iter().filter(|second| second.number >= oldest);
        recent.fold((0, 0), |(requests, spent), second| (requests + second.requests, spent + second.spent))
    }

    fn second(&mut self, now: Tick) -> &mut Second {
        let number = now.0 / TICKS_PER_SECOND;
        let at = usize::try_from(number).unwrap_or(0) % WINDOW;
        if self.seconds[at].number != number {
            self.seconds[at] = Second { number, ..Second::default() };
        }
        &mut self.seconds[at]
    }
}

/// What a budget was charged to, to give it back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    Budget,
    Reserve,
}

/// Between two extra attempts out of the reserve: ten a second.
const RESERVE_MICROS: u64 = 100_000;
/// How many may come at once after a quiet second.
const RESERVE_BURST: u64 = 10;
/// Shielded requests that stable may always have under way, however idle it is.
const GUESTS: u32 = 10;

/// What all workers share of a version's budget; touched only by extra attempts.
#[derive(Debug, Default)]
pub struct Allowance {
    /// When the reserve will be full again, in microseconds.
    full_at: AtomicU64,
    guests: AtomicU32,
}

/// A shielded request under way at stable; counts itself out when dropped.
#[derive(Debug)]
pub struct Guest(Arc<Allowance>);

impl Allowance {
    /// One of ten extra attempts a second, for versions with few requests.
    pub fn take(&self, now: Moment) -> bool {
        let taken = |full_at: u64| {
            let full_at = full_at.max(now.0) + RESERVE_MICROS;
            (full_at <= now.0 + RESERVE_BURST * RESERVE_MICROS).then_some(full_at)
        };
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    #[must_use]
    pub fn has_room(&self, now: Moment) -> bool {
        self.full_at.load(Ordering::Relaxed).max(now.0) + RESERVE_MICROS <= now.0 + RESERVE_BURST * RESERVE_MICROS
    }

    pub fn give_back(&self) {
        let given = |full_at: u64| Some(full_at.saturating_sub(RESERVE_MICROS));
        let _always = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, given);
    }

    /// Lets a shielded request in, unless a fifth of the version's requests under way, or ten, are guests already.
    pub fn invite(self: &Arc<Self>, active: u32) -> Option<Guest> {
        let guest = Guest(self.clone());
        let before = self.guests.fetch_add(1, Ordering::Relaxed);
        (before < Allowance::seats(active)).then_some(guest)
    }

    #[must_use]
    pub fn has_seat(&self, active: u32) -> bool {
        self.guests.load(Ordering::Relaxed) < Allowance::seats(active)
    }

    fn seats(active: u32) -> u32 {
        GUESTS.max(active / 5)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One worker's budgets, by version.
#[derive(Debug, Default)]
pub struct RetryBudgets(BTreeMap<VersionId, RetryBudget>);

impl RetryBudgets {
    pub fn earn(&mut self, version: VersionId, now: Tick, requests: u64) {
        self.0.entry(version).or_default().earn(now, requests);
    }

    /// Forgets versions that have had no requests for a while.
    pub fn forget(&mut self, now: Tick) {
        self.0.retain(|_, budget| !budget.is_forgotten(now));
    }

    /// Out of this worker's part, or else out of what all share. `None`: there is no room for another attempt.
    pub fn spend(&mut self, version: VersionId, allowance: &Allowance, now: Moment) -> Option<Spent> {
        let own = self.0.get_mut(&version).is_some_and(|budget| budget.spend(now.tick()));
        if own { Some(Spent::Budget) } else { allowance.take(now).then_some(Spent::Reserve) }
    }

    #[must_use]
    pub fn have_room(&self, version: VersionId, allowance: &Allowance, now: Moment) -> bool {
        self.0.get(&version).is_some_and(|budget| budget.has_room(now.tick())) || allowance.has_room(now)
    }

    /// For an extra attempt whose answer was good: whoever can carry it is not in trouble.
    pub fn give_back(&mut self, version: VersionId, allowance: &Allowance, spent: Spent) {
        match spent {
            Spent::Budget => self.0.entry(version).or_default().give_back(),
            Spent::Reserve => allowance.give_back(),
        }
    }
}

/// How often attempts of a version were followed by others, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retried {
    by: [u64; Reason::ALL.len()],
    /// Not followed, because the budget had no room.
    pub exhausted: u64,
    /// Requests whose 404 or 410 the other version had the answer for.
    pub skew_rescues: u64,
}

impl Retried {
    pub fn add(&mut self, reason: Reason) {
        self.by[reason as usize] += 1;
    }

    #[must_use]
    pub fn get(&self, reason: Reason) -> u64 {
        self.by[reason as usize]
    }

    pub fn merge(&mut self, other: &Retried) {
        for (into, from) in self.by.iter_mut().zip(other.by) {
            *into += from;
        }
        self.exhausted += other.exhausted;
        self.skew_rescues += other.skew_rescues;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNSENT: Ended = Ended::Unsent { idle: false };
    const CUT: Ended = Ended::Cut { idle: false };

    fn status(code: u16) -> Option<Ended> {
        Ended::of_head(StatusCode::from_u16(code).unwrap(), &HeaderMap::new())
    }

    /// What a request on its way to a canary may do first.
    fn ways(repeat: Repeat, ended: Ended) -> Ways {
        Course::new(repeat, Refuge::Shield).ways(ended, &RetryPolicy::default(), true)
    }

    fn budgeted(ways: Ways) -> (bool, bool) {
        (ways.elsewhere == Some(Price::Budget), ways.across == Some(Price::Budget))
    }

    #[test]
    fn safe_methods_may_be_repeated_and_others_when_the_service_says_so() {
        let (plain, keyed) = (HeaderMap::new(), HeaderMap::from_iter([(IDEMPOTENCY_KEY, "k".parse().unwrap())]));
        let careful = RetryPolicy::default();
        let daring = RetryPolicy { idempotent_methods: true, idempotency_key: true, ..RetryPolicy::default() };
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
            assert_eq!(careful.repeat(&method, &plain), Repeat::Across);
        }
        for method in [Method::PUT, Method::DELETE] {
            assert_eq!(careful.repeat(&method, &keyed), Repeat::Never);
            assert_eq!(daring.repeat(&method, &plain), Repeat::Within);
        }
        for method in [Method::POST, Method::PATCH, Method::from_bytes(b"MKCOL").unwrap()] {
            assert_eq!(careful.repeat(&method, &keyed), Repeat::Never);
            assert_eq!(daring.repeat(&method, &plain), Repeat::Never);
            assert_eq!(daring.repeat(&method, &keyed), Repeat::Within);
        }
    }

    #[test]
    fn a_request_of_which_nothing_was_written_goes_anywhere() {
        for repeat in [Repeat::Never, Repeat::Within, Repeat::Across] {
            let free = Some(Price::Free);
            assert_eq!(ways(repeat, UNSENT), Ways { afresh: false, elsewhere: free, across: free });
        }
        let at_stable = Course::new(Repeat::Never, Refuge::None);
        assert_eq!(at_stable.ways(UNSENT, &RetryPolicy::default(), true).across, None);
    }

    #[test]
    fn a_dead_idle_connection_is_replaced_once_and_by_the_same_endpoint() {
        for ended in [Ended::Unsent { idle: true }, Ended::Cut { idle: true }] {
            let mut course = Course::new(Repeat::Across, Refuge::Shield);
            assert_eq!(course.ways(ended, &RetryPolicy::default(), true), Ways { afresh: true, ..Ways::default() });
            course.take(Way::Afresh, ended);
            assert!(!course.ways(ended, &RetryPolicy::default(), true).afresh);
        }
        assert!(ways(Repeat::Never, Ended::Unsent { idle: true }).afresh);
        assert_eq!(ways(Repeat::Never, Ended::Cut { idle: true }), Ways::default(), "it may have been executed");
    }

    #[test]
    fn gateway_failures_are_repeated_and_500_is_an_answer_unless_asked_for() {
        for ended in [CUT, Ended::Late, status(502).unwrap(), status(503).unwrap(), status(504).unwrap()] {
            assert_eq!(budgeted(ways(Repeat::Across, ended)), (true, true), "{ended:?}");
            assert_eq!(budgeted(ways(Repeat::Within, ended)), (true, false), "{ended:?}");
            assert_eq!(ways(Repeat::Never, ended), Ways::default(), "{ended:?}");
        }
        assert_eq!(ways(Repeat::Across, status(500).unwrap()), Ways::default());
        let all: Reasons = Reason::ALL.into_iter().collect();
        let policy = RetryPolicy { on: all, shielding: Some(all), ..RetryPolicy::default() };
        let course = Course::new(Repeat::Across, Refuge::Shield);
        assert_eq!(budgeted(course.ways(status(500).unwrap(), &policy, true)), (true, true));
    }

    #[test]
    fn what_is_no_gateway_failure_is_the_answer() {
        for code in [200, 301, 304, 400, 404, 408, 425, 429, 499, 501, 505, 507, 599] {
            assert_eq!(status(code), None, "{code}");
        }
    }

    #[test]
    fn a_version_that_says_when_to_come_back_is_left_alone_until_then() {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "1".parse().unwrap())]);
        let ended = Ended::of_head(StatusCode::SERVICE_UNAVAILABLE, &headers).unwrap();
        assert_eq!(budgeted(ways(Repeat::Across, ended)), (false, true));
    }

    #[test]
    fn a_body_that_was_not_kept_is_not_sent_again() {
        let course = Course::new(Repeat::Across, Refuge::Shield);
        for ended in [CUT, Ended::Cut { idle: true }, Ended::Late, status(503).unwrap()] {
            assert_eq!(course.ways(ended, &RetryPolicy::default(), false), Ways::default());
        }
    }

    #[test]
    fn only_what_the_coin_sent_to_the_canary_is_shielded() {
        let policy = RetryPolicy::default();
        assert_eq!(Course::new(Repeat::Across, Refuge::Unsent).ways(CUT, &policy, true).across, None);
        assert_eq!(Course::new(Repeat::Across, Refuge::None).ways(CUT, &policy, true).across, None);
        let unshielded = RetryPolicy { shielding: None, ..RetryPolicy::default() };
        assert_eq!(Course::new(Repeat::Across, Refuge::Shield).ways(CUT, &unshielded, true).across, None);
        let mut course = Course::new(Repeat::Across, Refuge::Shield);
        course.take(Way::Elsewhere(Price::Budget), CUT);
        assert_eq!(course.ways(UNSENT, &unshielded, true).across, None, "something was written before");
    }

    #[test]
    fn assets_are_rescued_below_their_prefix() {
        let policy = RetryPolicy { skew_rescue: Box::new(["/assets".into(), "/x/".into()]), ..RetryPolicy::default() };
        let rescues = |path, code| policy.rescues(&Method::GET, path, StatusCode::from_u16(code).unwrap());
        assert!(rescues("/assets/a.js", 404) && rescues("/assets", 410) && rescues("/x/y", 404));
        assert!(!rescues("/assetsx", 404) && !rescues("/a", 404) && !rescues("/assets/a.js", 403));
        assert!(!policy.rescues(&Method::POST, "/assets/a.js", StatusCode::NOT_FOUND));
        assert!(!RetryPolicy::default().rescues(&Method::GET, "/assets/a.js", StatusCode::NOT_FOUND));
    }

    #[test]
    fn a_budget_is_a_fifth_of_the_last_ten_seconds() {
        let mut budget = RetryBudget::default();
        budget.earn(Tick(0), 100);
        assert_eq!((0..50).filter(|_| budget.spend(Tick(50))).count(), 20);
        budget.give_back();
        assert!(budget.spend(Tick(99)) && !budget.spend(Tick(99)));
        budget.earn(Tick(100), 5);
        assert!(!budget.spend(Tick(100)), "the requests are forgotten, and what was spent is not");
        assert!(budget.spend(Tick(200)) == budget.has_room(Tick(200)) && budget.is_forgotten(Tick(300)));
    }

    #[test]
    fn the_reserve_is_ten_a_second() {
        let allowance = Allowance::default();
        assert_eq!((0..50).filter(|_| allowance.take(Moment(0))).count(), 10);
        let over_ten_seconds = (0..10_000).filter(|n| allowance.take(Moment(n * 1_000))).count();
        assert!((98..=100).contains(&over_ten_seconds), "{over_ten_seconds}");
        allowance.give_back();
        assert!(allowance.has_room(Moment(10_000_000)));
    }

    #[test]
    fn guests_are_a_fifth_of_whom_stable_serves_or_ten() {
        for (active, seats) in [(0, 10), (50, 10), (500, 100)] {
            let allowance = Arc::new(Allowance::default());
            let guests: Vec<Guest> = (0..200).map_while(|_| allowance.invite(active)).collect();
            assert_eq!((guests.len(), allowance.has_seat(active)), (seats, false));
            drop(guests);
            assert!(allowance.has_seat(0));
        }
    }

    fn ended() -> impl Strategy<Value = Ended> {
        prop_oneof![
            any::<bool>().prop_map(|idle| Ended::Unsent { idle }),
            any::<bool>().prop_map(|idle| Ended::Cut { idle }),
            Just(Ended::Late),
            (4usize..8, any::<bool>()).prop_map(|(reason, later)| Ended::Status { reason: Reason::ALL[reason], later }),
        ]
    }

    fn policy() -> impl Strategy<Value = RetryPolicy> {
        (any::<u8>(), any::<Option<u8>>()).prop_map(|(on, shielding)| RetryPolicy {
            on: Reasons(on),
            shielding: shielding.map(Reasons),
            ..RetryPolicy::default()
        })
    }

    proptest! {
        /// However attempts end, and whatever can be had of what is offered.
        #[test]
        fn no_request_goes_on_for_ever_or_out_twice_unasked(
            repeat in prop_oneof![Just(Repeat::Never), Just(Repeat::Within), Just(Repeat::Across)],
            refuge in prop_oneof![Just(Refuge::None), Just(Refuge::Unsent), Just(Refuge::Shield)],
            policy in policy(),
            ends in prop::collection::vec((ended(), any::<[bool; 4]>()), 64),
        ) {
            let mut course = Course::new(repeat, refuge);
            let (mut attempts, mut sent, mut idle, mut crossed, mut sent_before) = (0u8, 0, 0, 0, false);
            for (ended, [whole, elsewhere, across, fresh]) in ends {
                // A fresh connection has not been idle.
                let ended = match ended {
                    Ended::Cut { .. } if fresh || course.afresh => CUT,
                    Ended::Unsent { .. } if fresh || course.afresh => UNSENT,
                    ended => ended,
                };
                attempts += 1;
                let ways = course.ways(ended, &policy, whole);
                let way = match ways {
                    Ways { afresh: true, .. } => Way::Afresh,
                    Ways { elsewhere: Some(price), .. } if elsewhere => Way::Elsewhere(price),
                    Ways { across: Some(price), .. } if across => Way::Across(price),
                    _ => {
                        sent += u8::from(ended.sent());
                        break;
                    }
                };
                if ended.sent() {
                    prop_assert!(whole && repeat != Repeat::Never, "sent again: {:?} after {:?}", way, ended);
                    if way == Way::Afresh { idle += 1 } else { sent += 1 }
                    sent_before |= true;
                }
                if let Way::Across(price) = way {
                    crossed += 1;
                    prop_assert!(refuge != Refuge::None);
                    let shields = policy.shielding.is_some() && refuge == Refuge::Shield && repeat == Repeat::Across;
                    prop_assert!(price == Price::Free || shields);
                    prop_assert!(price == Price::Budget || !ended.sent());
                }
                course.take(way, ended);
            }
            prop_assert!(attempts <= MOST_ATTEMPTS && crossed <= 1);
            prop_assert!(sent <= 3 && idle <= attempts / 2);
            prop_assert!(repeat != Repeat::Never || (sent <= 1 && !sent_before));
        }
    }
}
