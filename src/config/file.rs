//! Walking the TOML: values that know where they stand, and tables that know which of their keys nobody asked for.
//!
//! The spanned document is walked by hand, not deserialized: serde stops at the first fault and forgets where values
//! stood, and a person who edits a file wants to hear everything at once.

use std::cell::RefCell;
use std::sync::Arc;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Severity, Span, clipped};
use super::source::Sources;

/// Where problems are collected while a file is walked.
#[derive(Debug)]
pub(super) struct Sink {
    sources: Arc<Sources>,
    problems: RefCell<Vec<Problem>>,
    /// Stretches of the file that could not be read as TOML: what seems to be wrong there may not be.
    lost: Vec<Span>,
}

impl Sink {
    /// Begins with what the TOML parser had to say. What overrides the file stands behind it, and is never lost.
    pub fn new(sources: Arc<Sources>, syntax: Vec<Problem>, mut lost: Vec<Span>) -> Sink {
        let end = sources.file_text().len();
        for lost in &mut *lost {
            lost.end = lost.end.min(end);
        }
        Sink { sources, problems: RefCell::new(syntax), lost }
    }

    fn add(&self, problem: Problem) {
        let spoilt = |span: Span| self.lost.iter().any(|lost| span.start <= lost.end && lost.start <= span.end);
        if !problem.span.is_some_and(spoilt) {
            self.problems.borrow_mut().push(problem);
        }
    }

    fn is_whole(&self) -> bool {
        self.lost.is_empty()
    }

    pub fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(|problem| problem.severity == Severity::Error)
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// A place in the file, to report problems at.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    sink: &'a Sink,
    pub path: String,
    /// The last key of the path.
    pub key: String,
    span: Option<Span>,
}

impl<'a> Place<'a> {
    pub fn whole_file(sink: &'a Sink) -> Place<'a> {
        Place { sink, path: String::new(), key: String::new(), span: None }
    }

    pub fn error(&self, message: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Error, message.into(), help.into(), None);
    }

    /// An error that another place has part in; `what` says which.
    pub fn error_beside(&self, other: &Place<'_>, what: &str, message: impl Into<String>, help: impl Into<String>) {
        let beside = other.span.map(|span| (span, what.to_owned()));
        self.report(Severity::Error, message.into(), help.into(), beside);
    }

    /// Said of what is absent, and only of a file that could be read whole: it may stand in the part that was lost.
    pub fn missing(&self, message: impl Into<String>, help: impl Into<String>) {
        if self.sink.is_whole() {
            self.error(message, help);
        }
    }

    /// As [`Place::missing`], for what does no harm.
    pub fn warn(&self, message: impl Into<String>, help: impl Into<String>) {
        if self.sink.is_whole() {
            self.report(Severity::Warning, message.into(), help.into(), None);
        }
    }

    fn report(&self, severity: Severity, message: String, help: String, beside: Option<(Span, String)>) {
        self.sink.add(Problem { severity, message, path: self.path.clone(), span: self.span, help, beside });
    }

    fn below(&self, key: &str, span: Span) -> Place<'a> {
        Place { sink: self.sink, path: path_below(&self.path, key), key: key.to_owned(), span: Some(span) }
    }

    fn item(&self, index: usize, span: Span) -> Place<'a> {
        Place { path: format!("{}[{index}]", self.path), span: Some(span), ..self.clone() }
    }

    /// A place in what overrides the file.
    pub fn given(sink: &'a Sink, span: Span, path: String) -> Place<'a> {
        Place { sink, path, key: String::new(), span: Some(span) }
    }

    /// For explanations: where this was written, how, and how far down the file that is.
    pub fn written(&self) -> (String, String, usize) {
        let Some(span) = self.span else { return (String::new(), String::new(), 0) };
        let sources = &self.sink.sources;
        let text = sources.at(sources.within_its_line(span)).trim();
        (sources.place(span), clipped(text).into_owned(), span.start)
    }

    /// The variable or flag that was written; `None`: it is the file.
    pub fn variable(&self) -> Option<&'a str> {
        self.sink.sources.name(self.span?)
    }
}

/// A checked value, and where it was written.
#[derive(Debug, Clone)]
pub(super) struct At<'a, T> {
    pub value: T,
    pub place: Place<'a>,
}

/// What a text stands for: decides how a value of another type is set right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Percentage,
    Duration,
    Address,
    Rate,
    /// Names and words.
    Text(&'static str),
}

impl Meaning {
    fn noun(self) -> &'static str {
        match self {
            Meaning::Percentage => "a percentage",
            Meaning::Duration => "a duration",
            Meaning::Address => "an address",
            Meaning::Rate => "a rate",
            Meaning::Text(_) => "a text",
        }
    }

    pub fn example(self) -> &'static str {
        match self {
            Meaning::Percentage => "10%",
            Meaning::Duration => "10s",
            Meaning::Address => "127.0.0.1:8080",
            Meaning::Rate => "100/s",
            Meaning::Text(example) => example,
        }
    }

    /// What somebody meant who wrote a bare number.
    fn spelled(self, number: &str) -> String {
        match self {
            Meaning::Percentage => format!("{number}%"),
            Meaning::Duration => format!("{number}s"),
            Meaning::Address => format!("127.0.0.1:{number}"),
            Meaning::Rate => format!("{number}/s"),
            Meaning::Text(_) => number.to_owned(),
        }
    }
}

/// One value of the file.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    pub place: Place<'a>,
    /// Where its key stands: a table's own span is its header, which says less.
    key: Span,
    value: &'a DeValue<'a>,
}

impl<'a> Field<'a> {
    pub fn text(&self, meaning: Meaning) -> Option<At<'a, &'a str>> {
        if let DeValue::String(text) = self.value {
            return Some(At { value: text, place: self.place.clone() });
        }
        let message = format!("expected {} in quotes, found {}", meaning.noun(), self.found());
        let text = match self.value {
            DeValue::Integer(number) => meaning.spelled(&number.to_string()),
            DeValue::Float(number) => meaning.spelled(number.as_str()),
            _ => meaning.example().to_owned(),
        };
        self.place.error(message, format!("write `{}`", self.assigned(&self.quoted(&text))));
        None
    }

    pub fn boolean(&self) -> Option<bool> {
        if let DeValue::Boolean(value) = self.value {
            return Some(*value);
        }
        let help = format!("write `{}` or `{}`", self.assigned("true"), self.assigned("false"));
        self.place.error(format!("expected `true` or `false`, found {}", self.found()), help);
        None
    }

    pub fn is_boolean(&self) -> bool {
        matches!(self.value, DeValue::Boolean(_))
    }

    pub fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    pub fn is_text(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    pub fn is_text_of(&self, word: &str) -> bool {
        matches!(self.value, DeValue::String(text) if text == word)
    }

    /// What is beyond `i64` becomes its largest: no range of ours reaches that far.
    pub fn integer(&self, example: &str) -> Option<i64> {
        if let DeValue::Integer(number) = self.value {
            return Some(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX));
        }
        let form = if self.place.variable().is_some() { "" } else { " without quotes" };
        let message = format!("expected an integer{form}, found {}", self.found());
        self.place.error(message, format!("write `{}`", self.assigned(example)));
        None
    }

    /// `example` is the form to write.
    pub fn table(self, example: &str) -> Option<Table<'a>> {
        if let DeValue::Table(entries) = self.value {
            let named = Place { span: Some(self.key), ..self.place };
            return Some(Table::new(named, entries));
        }
        match self.place.variable() {
            Some(variable) => {
                let help = format!("set `{variable}=false` to switch it off, or its parts, such as `{variable}_ABOVE`");
                self.place.error(format!("expected `false`, found {}", self.found()), help);
            }
            None => {
                self.place.error(format!("expected a table, found {}", self.found()), format!("write `{example}`"));
            }
        }
        None
    }

    /// A table with a fixed name, which is written under a header of its own.
    pub fn section(self) -> Option<Table<'a>> {
        let header = format!("[{}]", self.place.path);
        self.table(&header)
    }

    /// `example` is the form to write, such as `[[listeners]]`.
    pub fn items(&self, example: &str) -> Option<Vec<Field<'a>>> {
        let DeValue::Array(array) = self.value else {
            let message = format!("expected an array, found {}", self.found());
            Place { span: Some(self.shown()), ..self.place.clone() }.error(message, format!("write `{example}`"));
            return None;
        };
        let item = |(index, item): (usize, &'a Spanned<DeValue<'a>>)| {
            let span = Span::from(item.span());
            Field { place: self.place.item(index, span), key: span, value: item.get_ref() }
        };
        Some(array.iter().enumerate().map(item).collect())
    }

    /// A table under a header is shown by its name there.
    fn shown(&self) -> Span {
        match self.value {
            DeValue::Table(_) => self.key,
            _ => self.place.span.unwrap_or(self.key),
        }
    }

    /// `key = value` or `VARIABLE=value`, or the value alone inside an array.
    pub fn assigned(&self, value: &str) -> String {
        match self.place.variable() {
            _ if self.place.path.ends_with(']') => value.to_owned(),
            Some(variable) => format!("{variable}={value}"),
            None => format!("{} = {value}", self.place.key),
        }
    }

    /// A text as it has to be written here.
    pub fn quoted(&self, text: &str) -> String {
        if self.place.variable().is_some() { text.to_owned() } else { format!("\"{text}\"") }
    }

    pub fn found(&self) -> String {
        match self.value {
            DeValue::String(text) => format!("the text `{}`", clipped(text)),
            DeValue::Integer(number) => format!("the number `{}`", clipped(&number.to_string())),
            DeValue::Float(number) => format!("the number `{}`", clipped(number.as_str())),
            DeValue::Boolean(value) => format!("`{value}`"),
            DeValue::Datetime(_) => "a date or time".to_owned(),
            DeValue::Array(_) => "an array".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        }
    }
}

/// A table being read: hands out its keys by name; [`Table::finish`] reports the keys nobody asked for.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub place: Place<'a>,
    entries: &'a DeTable<'a>,
    known: Vec<&'static str>,
    /// Required keys that are not there, and what to write.
    absent: Vec<(&'static str, String)>,
}

impl<'a> Table<'a> {
    pub fn new(place: Place<'a>, entries: &'a DeTable<'a>) -> Table<'a> {
        Table { place, entries, known: Vec::new(), absent: Vec::new() }
    }

    pub fn get(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.push(key);
        let (key, value) = self.entries.get_key_value(key)?;
        Some(self.field(key, value))
    }

    /// As [`Table::get`]; when the key is not there, [`Table::finish`] says so and proposes `example`.
    pub fn required(&mut self, key: &'static str, example: &str) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            self.absent.push((key, example.to_owned()));
        }
        field
    }

    /// All entries of a table whose keys are names that the operator chose, in the order of the file.
    pub fn named(&self) -> Vec<(At<'a, &'a str>, Field<'a>)> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let named = |(key, value): (&'a Spanned<_>, &'a Spanned<DeValue<'a>>)| {
            let field = self.field(key, value);
            let name: &std::borrow::Cow<'a, str> = key.get_ref();
            let place = Place { span: Some(field.key), ..field.place.clone() };
            (At { value: name.as_ref(), place }, field)
        };
        entries.into_iter().map(named).collect()
    }

    fn field(&self, key: &'a Spanned<std::borrow::Cow<'a, str>>, value: &'a Spanned<DeValue<'a>>) -> Field<'a> {
        let place = self.place.below(key.get_ref(), value.span().into());
        Field { place, key: key.span().into(), value: value.get_ref() }
    }

    /// Reports unknown keys, each with the key it may have been meant as, then the required ones that are neither there
    /// nor among those meant.
    pub fn finish(self) {
        let unknown = self.named().into_iter().filter(|(key, _)| !self.known.contains(&key.value));
        let meant: Vec<&str> = unknown.filter_map(|(key, field)| self.unknown(&key, &field)).collect();
        for (key, example) in self.absent.iter().filter(|(key, _)| !meant.contains(key)) {
            let owner = if self.place.path.is_empty() { "the file".into() } else { format!("`{}`", self.place.path) };
            self.place.missing(format!("{owner} has no `{key}`"), format!("add `{example}`"));
        }
    }

    fn unknown(&self, key: &At<'a, &'a str>, field: &Field<'a>) -> Option<&'static str> {
        let message = format!("unknown key `{}`", clipped(key.value));
        let meant = closest(key.value, &self.known);
        let help = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => self.where_it_belongs(key.value, field),
        };
        key.place.error(message, help);
        meant
    }

    fn where_it_belongs(&self, key: &str, field: &Field<'a>) -> String {
        if let Some((_, home)) = HOMES.iter().find(|(known, _)| *known == key) {
            return format!("`{key}` belongs {home}");
        }
        let known = listed(&self.known);
        match field.value {
            DeValue::Table(_) if self.known.first() == Some(&"endpoints") => {
                let dotted = format!("{}.{key}", self.place.key);
                format!(
                    "a name with a dot is written in quotes: `versions.\"{dotted}\"`; otherwise, known here: {known}"
                )
            }
            _ => format!("remove it; known here: {known}"),
        }
    }
}

/// `` `a`, `b` and `c` ``.
pub(super) fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{}`", clipped(word))).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// The candidate that `text` may be a slip of: at most one edit in three characters.
pub(super) fn closest<'k>(text: &str, candidates: &[&'k str]) -> Option<&'k str> {
    if text.len() > LONGEST_SLIP {
        return None;
    }
    let text = text.to_lowercase().replace('-', "_");
    let distance = |candidate: &&str| strsim::damerau_levenshtein(&text, &candidate.to_lowercase().replace('-', "_"));
    let near = |candidate: &&str| distance(candidate) <= (candidate.len().max(text.len()) / 3).max(1);
    candidates.iter().filter(|candidate| near(candidate)).min_by_key(|candidate| distance(candidate)).copied()
}

/// The path of what `key` names below `path`.
pub(super) fn path_below(path: &str, key: &str) -> String {
    if path.is_empty() { quoted_key(key) } else { format!("{path}.{}", quoted_key(key)) }
}

/// As TOML wants a key: bare where that is enough.
fn quoted_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { key.to_owned() } else { Json::from(clipped(key)).to_string() }
}

/// Texts longer than this are compared with nothing: edit distance costs the product of both lengths.
const LONGEST_SLIP: usize = 64;

/// Keys that are easily written into the wrong table: everything after a `[header]` belongs to that table.
const HOMES: &[(&str, &str)] = &[
    ("workers", "at the top of the file, before the first `[table]`"),
    ("listeners", "at the top: `[[listeners]]`"),
    ("admin", "at the top: `[admin]`"),
    ("services", "at the top: `[services.NAME]`"),
    ("request_head", "in `[timeouts]`"),
    ("client_idle", "in `[timeouts]`"),
    ("client_write", "in `[timeouts]`"),
    ("tls_handshake", "in `[timeouts]`"),
    ("linger", "in `[shutdown]`"),
    ("drain", "in `[shutdown]`"),
    ("level", "in `[log]`"),
    ("format", "in `[log]`"),
    ("access", "in `[log]`"),
    ("store", "at the top: `[store]`"),
    ("reload", "at the top: `[reload]`"),
    ("path", "in `[store]`, in `[services.NAME.health_check]`, or in a route: `routes = [{ path = \"/status\" }]`"),
    ("poll", "in `[reload]`"),
    ("routes", "in `[services.NAME]`"),
    ("error_pages", "in `[services.NAME]`"),
    ("host", "in a route: `routes = [{ host = \"*\" }]`"),
    ("path_prefix", "in a route: `routes = [{ path_prefix = \"/\" }]`"),
    ("stable", "in `[services.NAME]`"),
    ("canary", "in `[services.NAME]`"),
    ("weight", "in `[services.NAME]`"),
    ("pins", "in `[services.NAME]`"),
    ("versions", "in a service: `[services.NAME.versions.VERSION]`"),
    ("endpoints", "in `[services.NAME.versions.VERSION]`"),
    ("balance", "in `[services.NAME]`"),
    ("slow_start", "in `[services.NAME]`"),
    ("panic_threshold", "in `[services.NAME]`"),
    ("ejection", "in `[services.NAME]`"),
    ("consecutive_failures", "in `ejection` of `[services.NAME]`"),
    ("max_share", "in `ejection` of `[services.NAME]`"),
    ("limits", "in a service: `[services.NAME.limits]`"),
    ("connections", "in `[services.NAME.limits]`"),
    ("in_flight", "in `[services.NAME.limits]`"),
    ("version_in_flight", "in `[services.NAME.limits]`"),
    ("pending", "in `[services.NAME.limits]`"),
    ("pending_time", "in `[services.NAME.limits]`"),
    ("rollback", "in a service: `[services.NAME.rollback]`"),
    ("error_rate", "in `[services.NAME.rollback]`"),
    ("latency", "in `[services.NAME.rollback]`"),
    ("mode", "in `[services.NAME.rollback]`"),
    ("exposure", "in `[services.NAME.rollback]`"),
    ("rate_limit", "in a service: `[services.NAME.rate_limit]`"),
    ("rate", "in `[services.NAME.rate_limit]`"),
    ("burst", "in `[services.NAME.rate_limit]`"),
    ("hold", "in a service: `[services.NAME.hold]`"),
    ("capacity", "in `[services.NAME.versions.VERSION]`"),
    ("sticky", "in a service: `[services.NAME.sticky]`"),
    ("cookie_name", "in `[services.NAME.sticky]`"),
    ("same_site", "in `[services.NAME.sticky]`"),
    ("max_age", "in `[services.NAME.sticky]`"),
    ("cohort", "in `[services.NAME.sticky]`"),
    ("secret_file", "in `[services.NAME.sticky]`"),
    ("secret_env", "in `[services.NAME.sticky]`"),
    ("health_check", "in a service: `[services.NAME.health_check]`"),
    ("interval", "in `[services.NAME.health_check]`"),
    ("rise", "in `[services.NAME.health_check]`"),
    ("fall", "in `[services.NAME.health_check]`"),
    ("expect_status", "in `[services.NAME.health_check]`"),
    ("expect_body", "in `[services.NAME.health_check]`"),
    ("connect", "in `[services.NAME.timeouts]`"),
    ("response_head", "in `[services.NAME.timeouts]`"),
    ("body_idle", "in `[services.NAME.timeouts]`"),
    ("per_try", "in `[services.NAME.timeouts]`"),
    ("total", "in `[services.NAME.timeouts]`"),
    ("retries", "in a service: `[services.NAME.retries]`"),
    ("shielding", "in a service: `[services.NAME.shielding]`"),
    ("skew_rescue", "in a service: `[services.NAME.skew_rescue]`"),
    ("idempotent_methods", "in `[services.NAME.retries]`"),
    ("idempotency_key", "in `[services.NAME.retries]`"),
    ("buffer", "in `[services.NAME.retries]`"),
    ("path_prefixes", "in `[services.NAME.skew_rescue]`"),
];
