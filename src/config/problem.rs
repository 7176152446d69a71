//! What is wrong with a file and what overrides it: said as a compiler says it, or as JSON for scripts.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, Title, normalize_untrusted_str};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::source::{By, Sources};

/// A stretch of the file, in bytes, or of what overrides it, behind the file. `toml` speaks in ranges, which cannot be
/// copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Span {
        Span { start: range.start, end: range.end }
    }
}

/// Whether the file can be used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong, where, and how to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    pub message: String,
    /// The keys that lead there, such as `services.shop.weight`; empty for the file as a whole.
    pub path: String,
    /// `None`: the file as a whole.
    pub span: Option<Span>,
    /// The remedy.
    pub help: String,
    /// Another place that is part of the matter, and what it is.
    pub beside: Option<(Span, String)>,
}

/// Everything that is wrong with one file, in the order of the file, and then with what overrides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    sources: Arc<Sources>,
    list: Vec<Problem>,
}

/// Where a problem begins, both counted from one; a column is a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// Whether a rendering may carry terminal colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Plain,
    Ansi,
}

impl Problems {
    /// Sorts `list` by position; what concerns the whole file comes last, after what may have caused it.
    #[must_use]
    pub fn new(file: &str, source: &str, list: Vec<Problem>) -> Problems {
        Problems::among(Arc::new(Sources::new(file, source, [])), list)
    }

    /// As [`Problems::new`], with overrides.
    pub(super) fn among(sources: Arc<Sources>, mut list: Vec<Problem>) -> Problems {
        list.sort_by_key(|problem| problem.span.map_or((usize::MAX, 0), |span| (span.start, span.end)));
        Problems { sources, list }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// Whether one of them forbids to use the file.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|problem| problem.severity == severity).count()
    }

    /// Every problem with its line underlined, and the count at the end; empty when there is none.
    #[must_use]
    pub fn render(&self, colour: Colour) -> String {
        if self.is_empty() {
            return String::new();
        }
        let renderer = match colour {
            Colour::Plain => Renderer::plain(),
            Colour::Ansi => Renderer::styled(),
        };
        let mut text = String::new();
        for problem in &self.list {
            text.push_str(&renderer.render(&self.report(problem)));
            text.push_str("\n\n");
        }
        text + &self.total() + "\n"
    }

    /// Such as `2 errors and 1 warning in penstock.toml`.
    fn total(&self) -> String {
        let counted = |severity, one: &str| match self.count(severity) {
            0 => None,
            1 => Some(format!("1 {one}")),
            n => Some(format!("{n} {one}s")),
        };
        let parts = [counted(Severity::Error, "error"), counted(Severity::Warning, "warning")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        format!("{} in {}", parts.join(" and "), self.places())
    }

    /// Such as `penstock.toml and the environment`.
    fn places(&self) -> String {
        let givers = self.list.iter().map(|problem| problem.span.and_then(|span| self.sources.giver(span)));
        let mut places: Vec<Option<By>> = givers.map(|giver| giver.map(|given| given.by)).collect();
        places.sort_unstable();
        places.dedup();
        let named = places.into_iter().map(|place| match place {
            None => normalize_untrusted_str(&self.sources.file),
            Some(By::Environment) => "the environment".to_owned(),
            Some(By::Flag) => "the flags".to_owned(),
        });
        named.collect::<Vec<String>>().join(" and ")
    }

    fn report<'a>(&'a self, problem: &'a Problem) -> Vec<Group<'a>> {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(problem.message.as_str());
        let help = Level::HELP.message(normalize_untrusted_str(&problem.help));
        let group = match problem.span {
            Some(span) => self.located(title, span, &problem.path),
            None => title.element(Origin::path(self.sources.file.as_str())),
        };
        let group = group.element(help);
        let Some((span, what)) = &problem.beside else { return vec![group] };
        let beside = Level::NOTE.secondary_title(normalize_untrusted_str(what));
        vec![group, self.located(beside, *span, "")]
    }

    /// A variable has neither file nor line: it is shown with its name, which says where it stands.
    fn located<'a>(&'a self, title: Title<'a>, span: Span, label: &'a str) -> Group<'a> {
        let snippet = self.snippet(span, label);
        title.element(match self.sources.giver(span) {
            None => snippet.path(self.sources.file.as_str()).line_start(self.position(span).line),
            Some(_) => snippet.line_numbering(false),
        })
    }

    /// Only the line itself is handed on, so that a long file with many problems does not cost their product.
    fn snippet<'a>(&'a self, span: Span, label: &'a str) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let span = self.sources.within_its_line(span);
        let line = self.sources.line_around(span);
        let underlined = AnnotationKind::Primary.span(span.start - line.start..span.end - line.start);
        let label = (!label.is_empty()).then_some(Cow::Borrowed(label));
        Snippet::source(self.sources.at(line)).annotation(underlined.label(label))
    }

    /// Where `span` begins in the file.
    #[must_use]
    pub fn position(&self, span: Span) -> Position {
        self.sources.position(span)
    }

    fn wire<'a>(&'a self, problem: &'a Problem) -> Wire<'a> {
        let variable = problem.span.and_then(|span| self.sources.name(span));
        let position = problem.span.filter(|_| variable.is_none()).map(|span| self.position(span));
        Wire {
            severity: problem.severity,
            file: variable.is_none().then_some(self.sources.file.as_str()),
            line: position.map(|at| at.line),
            column: position.map(|at| at.column),
            variable,
            path: &problem.path,
            message: &problem.message,
            help: &problem.help,
            text: problem.span.map(|span| clipped(self.sources.at(self.sources.within_its_line(span)))),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Colour::Plain).trim_end())
    }
}

impl std::error::Error for Problems {}

/// A problem as scripts read it; `line` and `column` are absent for the file as a whole, and `variable` stands for all
/// three when an override is meant.
#[derive(serde::Serialize)]
struct Wire<'a> {
    severity: Severity,
    file: Option<&'a str>,
    line: Option<usize>,
    column: Option<usize>,
    /// Or flag.
    variable: Option<&'a str>,
    path: &'a str,
    message: &'a str,
    help: &'a str,
    text: Option<Cow<'a, str>>,
}

impl Serialize for Problems {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let problems: Vec<Wire<'_>> = self.list.iter().map(|problem| self.wire(problem)).collect();
        let mut whole = serializer.serialize_struct("Problems", 4)?;
        whole.serialize_field("file", &self.sources.file)?;
        whole.serialize_field("errors", &self.count(Severity::Error))?;
        whole.serialize_field("warnings", &self.count(Severity::Warning))?;
        whole.serialize_field("problems", &problems)?;
        whole.end()
    }
}

/// What of a text from the file is repeated in a message.
pub(super) fn clipped(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((cut, _)) => Cow::Owned(format!("{}…", &text[..cut])),
        None => Cow::Borrowed(text),
    }
}

/// Characters of the file that a message repeats: an endpoint or a duration fits, a pasted certificate does not drown
/// the remedy.
const LONGEST_QUOTE: usize = 80;
