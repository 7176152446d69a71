//! What beats the file: variables and flags, laid over the document before it is read, so that they are checked by the
//! same code and with the same words.
//!
//! A variable's name is a path: `PENSTOCK_`, then the keys in upper case, with `_` for `.` and `-`. That cannot be
//! undone without knowing the file: in `SERVICES_SHOP_EU_WEIGHT`, the service may be `shop-eu` or `shop.eu`, and a
//! version may be called anything. So names are matched against what the file declares, in every way they can be read;
//! one way is right, none is a warning, two are an error. What is laid over hides what it covers, right or wrong.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Display;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::check::LEVELS;
use super::file::{Place, Sink, listed, path_below};
use super::problem::{Span, clipped};
use super::source::{By, Given, Sources};

/// What beats the file. The caller reads the environment; nothing here does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    list: Vec<Override>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Override {
    by: By,
    /// `PENSTOCK_WORKERS` or `--workers`.
    name: String,
    value: String,
}

impl Overrides {
    #[must_use]
    pub fn none() -> Overrides {
        Overrides::default()
    }

    /// Keeps what begins with `PENSTOCK_` and is not empty: `X=` in a Compose file means that nothing is said. Bytes
    /// that are not UTF-8 are replaced here, and refused where they matter.
    pub fn environment<N: AsRef<OsStr>, V: AsRef<OsStr>>(pairs: impl IntoIterator<Item = (N, V)>) -> Overrides {
        let text = |text: &OsStr| text.to_string_lossy().into_owned();
        let pairs = pairs.into_iter().map(|(name, value)| (text(name.as_ref()), text(value.as_ref())));
        let ours = pairs.filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty());
        let mut list: Vec<_> = ours.map(|(name, value)| Override { by: By::Environment, name, value }).collect();
        list.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Overrides { list }
    }

    /// Adds a flag such as `--workers`, which is named as its key is; it beats the environment.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: Option<impl Display>) -> Overrides {
        self.list.extend(value.map(|value| Override { by: By::Flag, name: flag.to_owned(), value: value.to_string() }));
        self
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (By, &str, &str)> {
        self.list.iter().map(|one| (one.by, one.name.as_str(), one.value.as_str()))
    }
}

/// What may stand at a path.
#[derive(Debug)]
enum Shape {
    One(Kind),
    Table(&'static [(&'static str, Shape)]),
    /// `false`, or a table.
    OffOr(&'static [(&'static str, Shape)]),
    /// Tables whose keys the operator chose.
    Named(&'static Shape),
    Items(&'static Shape),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Boolean,
    BooleanOrText,
    /// With commas between.
    Texts,
    /// A text in a table that may be `false` instead, which it beats.
    Part,
    /// As [`Kind::Texts`] and [`Kind::Part`].
    PartTexts,
    /// An integer in such a table.
    PartInteger,
}

const TEXT: Shape = Shape::One(Kind::Text);
const TEXTS: Shape = Shape::One(Kind::Texts);
const PART: Shape = Shape::One(Kind::Part);
const INTEGER: Shape = Shape::One(Kind::Integer);
const PART_INTEGER: Shape = Shape::One(Kind::PartInteger);

/// Every value there is; a test holds it against the tour.
const FILE: Shape = Shape::Table(&[
    ("workers", Shape::One(Kind::Integer)),
    ("listeners", Shape::Items(&LISTENER)),
    ("admin", Shape::Table(&[("address", TEXT)])),
    ("timeouts", Shape::Table(&CLIENT_TIMEOUTS)),
    ("shutdown", Shape::Table(&[("linger", TEXT), ("drain", TEXT)])),
    ("log", Shape::Table(&[("level", TEXT), ("format", TEXT), ("access", Shape::One(Kind::BooleanOrText))])),
    ("store", Shape::Table(&[("path", TEXT)])),
    ("reload", Shape::Table(&[("poll", TEXT)])),
    ("services", Shape::Named(&SERVICE)),
]);

const LISTENER: Shape = Shape::Table(&[
    ("address", TEXT),
    ("h2c", Shape::One(Kind::Boolean)),
    ("redirect_to_https", Shape::One(Kind::Boolean)),
    ("tls", TLS),
]);
const CLIENT_TIMEOUTS: [(&str, Shape); 4] =
    [("request_head", TEXT), ("client_idle", TEXT), ("client_write", TEXT), ("tls_handshake", TEXT)];
const TLS: Shape = Shape::Table(&[
    ("certificates", Shape::Items(&Shape::Table(&[("certificate", TEXT), ("key", TEXT)]))),
    ("minimum_version", TEXT),
    ("client_certificates", TEXT),
    ("client_ca", TEXT),
    ("hsts", TEXT),
    ("h2", Shape::One(Kind::Boolean)),
]);

const SERVICE: Shape = Shape::Table(&[
    ("routes", Shape::Items(&ROUTE)),
    ("error_pages", Shape::Named(&TEXT)),
    ("stable", TEXT),
    ("canary", TEXT),
    ("weight", TEXT),
    ("pins", Shape::Items(&PIN)),
    ("versions", Shape::Named(&Shape::Table(&[("endpoints", Shape::One(Kind::Texts)), ("capacity", INTEGER)]))),
    (
        "rollback",
        Shape::Table(&[("error_rate", ERROR_RATE), ("latency", LATENCY), ("exposure", EXPOSURE), ("mode", TEXT)]),
    ),
    ("sticky", Shape::Table(&STICKY)),
    ("timeouts", TIMEOUTS),
    ("retries", RETRIES),
    ("shielding", Shape::OffOr(&[("on", Shape::One(Kind::PartTexts))])),
    ("skew_rescue", Shape::Table(&[("path_prefixes", Shape::One(Kind::Texts))])),
    ("rate_limit", RATE_LIMIT),
    ("hold", Shape::Table(&[("requests", INTEGER), ("time", TEXT)])),
    ("balance", TEXT),
    ("slow_start", TEXT),
    ("panic_threshold", TEXT),
    ("ejection", EJECTION),
    ("limits", LIMITS),
    ("health_check", HEALTH_CHECK),
]);

const TIMEOUTS: Shape = Shape::Table(&[
    ("connect", TEXT),
    ("response_head", TEXT),
    ("body_idle", TEXT),
    ("per_try", TEXT),
    ("total", TEXT),
]);
const RETRIES: Shape = Shape::Table(&[
    ("on", Shape::One(Kind::Texts)),
    ("idempotent_methods", Shape::One(Kind::Boolean)),
    ("idempotency_key", Shape::One(Kind::Boolean)),
    ("buffer", TEXT),
]);

const ROUTE: Shape = Shape::Table(&[
    ("host", TEXT),
    ("path", TEXT),
    ("path_prefix", TEXT),
    ("methods", TEXTS),
    ("headers", Shape::Items(&CONDITION)),
    ("query", Shape::Items(&CONDITION)),
    ("priority", Shape::One(Kind::Integer)),
    ("strip_prefix", Shape::One(Kind::Boolean)),
    ("rewrite_prefix", TEXT),
    ("redirect", Shape::Table(&[("to", TEXT), ("status", Shape::One(Kind::Integer))])),
    ("request_headers", CHANGES),
    ("response_headers", CHANGES),
    ("allow", TEXTS),
    ("deny", TEXTS),
]);
const CONDITION: Shape = Shape::Table(&[("name", TEXT), ("value", TEXT)]);
const CHANGES: Shape = Shape::Table(&[("set", Shape::Named(&TEXT)), ("add", Shape::Named(&TEXT)), ("remove", TEXTS)]);
const STICKY: [(&str, Shape); 10] = [
    ("by", TEXT),
    ("header", TEXT),
    ("cookie", TEXT),
    ("cookie_name", TEXT),
    ("same_site", TEXT),
    ("max_age", TEXT),
    ("secure", Shape::One(Kind::BooleanOrText)),
    ("cohort", TEXT),
    ("secret_file", TEXT),
    ("secret_env", TEXT),
];

const PIN: Shape =
    Shape::Table(&[("header", TEXT), ("cookie", TEXT), ("query", TEXT), ("value", TEXT), ("version", TEXT)]);
const HEALTH_CHECK: Shape = Shape::Table(&[
    ("protocol", TEXT),
    ("path", TEXT),
    ("host", TEXT),
    ("interval", TEXT),
    ("timeout", TEXT),
    ("rise", Shape::One(Kind::Integer)),
    ("fall", Shape::One(Kind::Integer)),
    ("expect_status", TEXT),
    ("expect_body", TEXT),
]);
const EJECTION: Shape =
    Shape::OffOr(&[("consecutive_failures", Shape::One(Kind::PartInteger)), ("time", PART), ("max_share", PART)]);
const LIMITS: Shape = Shape::Table(&[
    ("connections", Shape::One(Kind::Integer)),
    ("in_flight", Shape::One(Kind::Integer)),
    ("version_in_flight", Shape::One(Kind::Integer)),
    ("pending", Shape::One(Kind::Integer)),
    ("pending_time", TEXT),
]);
const ERROR_RATE: Shape = Shape::OffOr(&[("above", PART), ("window", PART)]);
const LATENCY: Shape = Shape::OffOr(&[("quantile", PART), ("above", PART), ("window", PART)]);

const RATE_LIMIT: Shape = Shape::OffOr(&[
    ("header", PART),
    ("cookie", PART),
    ("rate", PART),
    ("burst", PART_INTEGER),
    ("keys", PART_INTEGER),
]);
const EXPOSURE: Shape =
    Shape::OffOr(&[("failures", PART_INTEGER), ("requests_per_second", PART_INTEGER), ("keys", PART_INTEGER)]);

const PREFIX: &str = "PENSTOCK_";

/// Variables with another meaning, after the prefix: `--log` of `serve`, and the proxy that the command line talks to.
const TAKEN: [&str; 2] = ["LOG", "ADMIN"];

/// Candidates that a name is compared with, and names that are looked into: a suggestion is not worth more.
const MOST_CANDIDATES: usize = 2_000;
const MOST_UNKNOWN: usize = 50;

/// Far more listeners, routes and pins than anybody counts.
const LONGEST_INDEX: usize = 4;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

/// A name, read in one way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Meaning {
    path: Vec<Step>,
    kind: Kind,
}

/// A key or name as a variable spells it.
fn folded(name: &str) -> String {
    name.chars().map(|c| if matches!(c, '.' | '-') { '_' } else { c.to_ascii_uppercase() }).collect()
}

fn path_text(path: &[Step]) -> String {
    path.iter().fold(String::new(), |text, step| match step {
        Step::Key(key) => path_below(&text, key),
        Step::Index(index) => format!("{text}[{index}]"),
    })
}

/// Lays the overrides over `document`, and reports those that cannot be.
pub(super) fn lay_over<'s>(document: DeTable<'s>, sources: &'s Sources, sink: &Sink) -> DeTable<'s> {
    let mut root = Spanned::new(0..0, DeValue::Table(document));
    let mut meant: Vec<(Meaning, &Given)> = Vec::new();
    let mut unknown: Vec<&Given> = Vec::new();
    for given in sources.given() {
        match meanings(given, sources, root.get_ref()).as_slice() {
            [] => {
                debug_assert!(given.by == By::Environment, "no key is called {}", sources.at(given.name));
                unknown.push(given);
            }
            [one] => meant.push((one.clone(), given)),
            [one, other, ..] => ambiguous(given, sources, sink, one, other),
        }
    }
    warn_of_unknown(&unknown, sources, sink, root.get_ref());
    for (meaning, given) in strongest(meant, sources, sink) {
        let text = sources.at(given.value);
        if text.contains(char::REPLACEMENT_CHARACTER) {
            let name = clipped(sources.at(given.name));
            place(given, sink, path_text(&meaning.path))
                .error(format!("the value of `{name}` is not UTF-8"), "set it to UTF-8 text");
            continue;
        }
        let laid = Laid { name: given.name, kind: meaning.kind, file_end: sources.file_text().len() };
        if let Err(obstacle) = insert(&mut root, &meaning.path, laid, meaning.kind.value(text, given.value)) {
            obstacle.report(&meaning, given, sources, sink);
        }
    }
    match root.into_inner() {
        DeValue::Table(document) => document,
        _ => DeTable::new(), // a root has keys, so nothing replaces it
    }
}

/// Everything that the name of an override can mean.
fn meanings(given: &Given, sources: &Sources, root: &DeValue<'_>) -> Vec<Meaning> {
    let name = sources.at(given.name);
    let level = vec![Step::Key("log".to_owned()), Step::Key("level".to_owned())];
    let rest = match given.by {
        By::Flag => folded(name.trim_start_matches('-')),
        By::Environment if name == "PENSTOCK_LOG" => {
            // What else it can say, the file cannot; that is left to the caller.
            let is_level = LEVELS.iter().any(|(level, _)| *level == sources.at(given.value));
            return if is_level { vec![Meaning { path: level, kind: Kind::Text }] } else { Vec::new() };
        }
        By::Environment => folded(&name[PREFIX.len()..]),
    };
    let mut found = Vec::new();
    FILE.read(&format!("_{rest}"), Some(root), &mut Vec::new(), &mut found);
    found
}

impl Shape {
    /// Reads `rest`, which is empty or begins with `_`, in every way.
    fn read(&self, rest: &str, node: Option<&DeValue<'_>>, path: &mut Vec<Step>, found: &mut Vec<Meaning>) {
        match self {
            Shape::One(kind) if rest.is_empty() => found.push(Meaning { path: path.clone(), kind: *kind }),
            Shape::OffOr(_) if rest.is_empty() => found.push(Meaning { path: path.clone(), kind: Kind::Boolean }),
            Shape::One(_) => {}
            Shape::Table(keys) | Shape::OffOr(keys) => {
                for (key, shape) in *keys {
                    shape.read_below(key, rest, node, path, found);
                }
            }
            Shape::Named(shape) => {
                let names = node.and_then(DeValue::as_table).into_iter().flat_map(DeTable::keys);
                for name in names {
                    shape.read_below(name.get_ref(), rest, node, path, found);
                }
            }
            Shape::Items(shape) => {
                let Some((index, rest)) = index(rest) else { return };
                path.push(Step::Index(index));
                shape.read(rest, node.and_then(|node| node.get(index)).map(Spanned::get_ref), path, found);
                path.pop();
            }
        }
    }

    fn read_below(
        &self,
        key: &str,
        rest: &str,
        node: Option<&DeValue<'_>>,
        path: &mut Vec<Step>,
        found: &mut Vec<Meaning>,
    ) {
        let rest = rest.strip_prefix('_').and_then(|rest| rest.strip_prefix(&folded(key)));
        let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('_')) else { return };
        path.push(Step::Key(key.to_owned()));
        self.read(rest, node.and_then(|node| node.get(key)).map(Spanned::get_ref), path, found);
        path.pop();
    }

    /// The names of all that is there, after the prefix.
    fn names(&self, name: &str, node: Option<&DeValue<'_>>, into: &mut Vec<String>) {
        let below = |key: &str| if name.is_empty() { folded(key) } else { format!("{name}_{}", folded(key)) };
        let child = |key: &str| node.and_then(|node| node.get(key)).map(Spanned::get_ref);
        if into.len() >= MOST_CANDIDATES {
            return;
        }
        if matches!(self, Shape::One(_) | Shape::OffOr(_)) {
            into.push(name.to_owned());
        }
        match self {
            Shape::One(_) => {}
            Shape::Table(keys) | Shape::OffOr(keys) => {
                keys.iter().for_each(|(key, shape)| shape.names(&below(key), child(key), into));
            }
            Shape::Named(shape) => {
                let names = node.and_then(DeValue::as_table).into_iter().flat_map(DeTable::keys);
                names.for_each(|key| shape.names(&below(key.get_ref()), child(key.get_ref()), into));
            }
            Shape::Items(shape) => {
                let items = node.and_then(DeValue::as_array).into_iter().flat_map(|items| items.iter().enumerate());
                items.for_each(|(index, item)| shape.names(&below(&index.to_string()), Some(item.get_ref()), into));
            }
        }
    }
}

/// `_12_ADDRESS` is 12 and `_ADDRESS`; a number has one spelling.
fn index(rest: &str) -> Option<(usize, &str)> {
    let rest = rest.strip_prefix('_')?;
    let (digits, rest) = rest.split_at(rest.find('_').unwrap_or(rest.len()));
    let spelled = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    let index = digits.parse().ok().filter(|_| spelled && digits.len() <= LONGEST_INDEX)?;
    Some((index, rest))
}

fn place<'k>(given: &Given, sink: &'k Sink, path: String) -> Place<'k> {
    Place::given(sink, given.name, path)
}

fn ambiguous(given: &Given, sources: &Sources, sink: &Sink, one: &Meaning, other: &Meaning) {
    let name = clipped(sources.at(given.name));
    let [one, other] = [one, other].map(|meaning| path_text(&meaning.path));
    let message = format!("`{name}` could mean `{one}` and `{other}`");
    let help = "unset it and write the value into the file, or rename one of the two: in a variable, `.` and `-` become `_`, and case is lost";
    place(given, sink, String::new()).error(message, help);
}

/// For each path the one that counts, in the order of the paths; a table comes before what is in it.
fn strongest<'g>(mut meant: Vec<(Meaning, &'g Given)>, sources: &Sources, sink: &Sink) -> Vec<(Meaning, &'g Given)> {
    // A flag beats a variable, and `PENSTOCK_LOG` beats `PENSTOCK_LOG_LEVEL`.
    let strength = |given: &Given| (given.by, sources.at(given.name) == "PENSTOCK_LOG");
    meant.sort_by(|(one, by), (other, by_other)| {
        one.path.cmp(&other.path).then(Reverse(strength(by)).cmp(&Reverse(strength(by_other))))
    });
    let mut counting: Vec<(Meaning, &Given)> = Vec::new();
    for (meaning, given) in meant {
        match counting.last().filter(|(last, _)| last.path == meaning.path) {
            None => counting.push((meaning, given)),
            Some((_, first)) if strength(first) > strength(given) => {}
            Some((_, first)) => {
                let [name, twin] = [given, first].map(|given| clipped(sources.at(given.name)));
                let message = format!("`{name}` and `{twin}` mean the same");
                let beside = place(first, sink, String::new());
                place(given, sink, path_text(&meaning.path)).error_beside(
                    &beside,
                    "the other one",
                    message,
                    "unset one of them",
                );
            }
        }
    }
    counting
}

/// Of variables that seem to be meant for us; other tools set variables as well.
fn warn_of_unknown(unknown: &[&Given], sources: &Sources, sink: &Sink, root: &DeValue<'_>) {
    let mut candidates = Vec::new();
    for given in unknown.iter().filter(|given| given.by == By::Environment).take(MOST_UNKNOWN) {
        let rest = folded(&sources.at(given.name)[PREFIX.len()..]);
        if TAKEN.contains(&rest.as_str()) || is_service_link(&rest) {
            continue;
        }
        if candidates.is_empty() {
            FILE.names("", Some(root), &mut candidates);
            candidates.extend(TAKEN.map(str::to_owned));
        }
        let meant = candidates.iter().filter(|candidate| is_slip(&rest, candidate));
        let meant = meant.min_by_key(|candidate| strsim::damerau_levenshtein(&rest, candidate));
        let help = match meant {
            Some(meant) => format!("did you mean `{PREFIX}{meant}`?"),
            None if begins_like_a_setting(&rest) => what_is_known(&rest, root),
            None => continue,
        };
        let message = format!("`{}` sets nothing", clipped(sources.at(given.name)));
        place(given, sink, String::new()).warn(message, help);
    }
}

/// What Kubernetes and Docker set for a service called `penstock` or `penstock-something`: addresses of that service.
fn is_service_link(rest: &str) -> bool {
    let rest = format!("_{rest}");
    let port = |(_, behind): (&str, &str)| {
        behind.is_empty() || behind.strip_prefix('_').is_some_and(|b| b.starts_with(|c: char| c.is_ascii_digit()))
    };
    rest.ends_with("_SERVICE_HOST") || rest.contains("_SERVICE_PORT") || rest.split_once("_PORT").is_some_and(port)
}

fn begins_like_a_setting(rest: &str) -> bool {
    let Shape::Table(keys) = &FILE else { return false };
    let first = rest.split('_').next().unwrap_or_default();
    keys.iter().any(|(key, _)| folded(key) == first)
}

/// A letter or two away, or the end of a name, of two words or more.
fn is_slip(rest: &str, candidate: &str) -> bool {
    let few = if candidate.len() < 6 { 1 } else { 2 };
    let near = candidate.len().abs_diff(rest.len()) <= few && strsim::damerau_levenshtein(rest, candidate) <= few;
    let end = candidate.strip_suffix(rest).is_some_and(|before| before.ends_with('_'));
    near || (end && rest.contains('_'))
}

fn what_is_known(rest: &str, root: &DeValue<'_>) -> String {
    let services = root.get("services").and_then(|services| services.get_ref().as_table());
    let names: Vec<&str> = services.into_iter().flat_map(DeTable::keys).map(|key| key.get_ref().as_ref()).collect();
    if rest.starts_with("SERVICES_") && !names.is_empty() {
        let known = listed(&names[..names.len().min(MOST_LISTED)]);
        return format!("unset it, or name what the file declares, among the services {known}");
    }
    "unset it; a name is the path of a value, as `penstock config show` prints it, with `_` for `.` and `-`".to_owned()
}

/// Services that a suggestion lists.
const MOST_LISTED: usize = 8;

impl Kind {
    /// The value that the file would have. What does not fit stays a text, and is refused where it is read.
    fn value(self, text: &str, span: Span) -> Spanned<DeValue<'_>> {
        let (switch, number) =
            (matches!(self, Kind::Boolean | Kind::BooleanOrText), matches!(self, Kind::Integer | Kind::PartInteger));
        let value = match text.trim() {
            "true" if switch => DeValue::Boolean(true),
            "false" if switch => DeValue::Boolean(false),
            digits if number => match DeValue::parse(digits).map(Spanned::into_inner) {
                Ok(number @ DeValue::Integer(_)) => number,
                _ => DeValue::String(text.into()),
            },
            _ if matches!(self, Kind::Texts | Kind::PartTexts) => DeValue::Array(pieces(text, span)),
            _ => DeValue::String(text.into()),
        };
        Spanned::new(span.start..span.end, value)
    }
}

/// What stands between commas, without the spaces around it; a comma at the end ends the list.
fn pieces(text: &str, span: Span) -> DeArray<'_> {
    let list = text.trim_end();
    let list = list.strip_suffix(',').unwrap_or(list);
    let mut start = span.start;
    let pieces = list.split(',').map(|piece| {
        let from = start + piece.len() - piece.trim_start().len();
        start += piece.len() + 1;
        Spanned::new(from..from + piece.trim().len(), DeValue::String(piece.trim().into()))
    });
    pieces.collect()
}

/// Why a value cannot be laid over.
enum Obstacle {
    /// Another override says that there is nothing below.
    SwitchedOff(Span),
    /// So many items are there.
    Gap(usize),
    /// The file has something there that will be refused.
    Faulty,
}

impl Obstacle {
    fn report(&self, meaning: &Meaning, given: &Given, sources: &Sources, sink: &Sink) {
        let name = clipped(sources.at(given.name));
        let place = place(given, sink, path_text(&meaning.path));
        match self {
            Obstacle::Faulty => {}
            Obstacle::Gap(count) => {
                let message = format!("`{name}` leaves a gap: the next one is number {count}");
                place.missing(message, "count from 0, and leave none out");
            }
            Obstacle::SwitchedOff(span) => {
                let beside = Place::given(sink, *span, String::new());
                let message = format!("`{name}` is a part of what another variable switches on or off as a whole");
                place.error_beside(&beside, "the other one", message, "unset one of them");
            }
        }
    }
}

/// What is laid over.
#[derive(Debug, Clone, Copy)]
struct Laid {
    /// Where its name was written: behind `file_end`, as everything that is laid over.
    name: Span,
    kind: Kind,
    file_end: usize,
}

/// Puts `value` at the end of `path`, and makes what is missing on the way.
fn insert<'s>(
    node: &mut Spanned<DeValue<'s>>,
    path: &[Step],
    laid: Laid,
    value: Spanned<DeValue<'s>>,
) -> Result<(), Obstacle> {
    let Some((step, rest)) = path.split_first() else {
        *node = value;
        return Ok(());
    };
    let span = Span::from(node.span());
    if span.start > laid.file_end && !matches!(node.get_ref(), DeValue::Table(_) | DeValue::Array(_)) {
        return Err(Obstacle::SwitchedOff(span));
    }
    let name = laid.name;
    if matches!(laid.kind, Kind::Part | Kind::PartTexts | Kind::PartInteger) && node.get_ref().is_bool() {
        *node = nothing(Some(step), name);
    }
    match (step, node.get_mut()) {
        (Step::Key(key), DeValue::Table(table)) => {
            if !table.contains_key(key.as_str()) {
                table.insert(Spanned::new(name.start..name.end, key.clone().into()), nothing(rest.first(), name));
            }
            table.get_mut(key.as_str()).map_or(Err(Obstacle::Faulty), |child| insert(child, rest, laid, value))
        }
        (Step::Index(index), DeValue::Array(items)) => {
            if *index > items.len() {
                return Err(Obstacle::Gap(items.len()));
            }
            if *index == items.len() {
                items.push(nothing(rest.first(), name));
            }
            items.get_mut(*index).map_or(Err(Obstacle::Faulty), |child| insert(child, rest, laid, value))
        }
        _ => Err(Obstacle::Faulty),
    }
}

/// What a step can go into.
fn nothing<'s>(step: Option<&Step>, name: Span) -> Spanned<DeValue<'s>> {
    let empty = match step {
        Some(Step::Index(_)) => DeValue::Array(DeArray::new()),
        Some(Step::Key(_)) | None => DeValue::Table(DeTable::new()),
    };
    Spanned::new(name.start..name.end, empty)
}

/// Where every value was written, by its path.
pub(super) fn written(document: &DeTable<'_>) -> BTreeMap<String, Span> {
    let mut into = BTreeMap::new();
    write_table("", document, &mut into);
    into
}

fn write_table(path: &str, table: &DeTable<'_>, into: &mut BTreeMap<String, Span>) {
    table.iter().for_each(|(key, value)| write(path_below(path, key.get_ref()), value, into));
}

fn write(path: String, value: &Spanned<DeValue<'_>>, into: &mut BTreeMap<String, Span>) {
    match value.get_ref() {
        DeValue::Table(table) => write_table(&path, table, into),
        DeValue::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| write(format!("{path}[{index}]"), item, into));
        }
        _ => {}
    }
    into.insert(path, value.span().into());
}
