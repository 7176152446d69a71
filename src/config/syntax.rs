//! What the TOML parser has to say, with remedies, and how much of the file is lost to it.
//!
//! The parser goes on after a fault, but an unclosed header or array changes the meaning of everything behind it.
//! Complaints about that part would be noise, so every fault states which stretch is not to be believed.

use toml::de::Error;

use super::problem::{Problem, Severity, Span, clipped};

/// The parser's complaints, and the stretches of the file that no other complaint may be based on.
pub(super) fn problems(text: &str, errors: &[Error]) -> (Vec<Problem>, Vec<Span>) {
    let mut problems: Vec<Problem> = Vec::new();
    let mut lost = Vec::new();
    for error in errors {
        let fault = Fault::of(text, error);
        lost.push(fault.lost());
        let problem = fault.problem();
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    (problems, lost)
}

/// One complaint of the parser.
struct Fault<'a> {
    text: &'a str,
    message: &'a str,
    span: Span,
    line: Span,
}

impl<'a> Fault<'a> {
    fn of(text: &'a str, error: &'a Error) -> Fault<'a> {
        let span = error.span().unwrap_or(text.len()..text.len());
        let start = text.floor_char_boundary(span.start);
        let end = text.ceil_char_boundary(span.end).max(start);
        let line = Span {
            start: text[..start].rfind('\n').map_or(0, |newline| newline + 1),
            end: text[start..].find('\n').map_or(text.len(), |newline| start + newline),
        };
        Fault { text, message: error.message(), span: Span { start, end }, line }
    }

    /// A fault inside one value spoils its line; any other spoils what follows.
    fn lost(&self) -> Span {
        let local = LOCAL.iter().any(|prefix| self.message.starts_with(prefix));
        Span { start: self.line.start, end: if local { self.line.end } else { usize::MAX } }
    }

    fn problem(&self) -> Problem {
        let (message, help) = self.said();
        let span = Some(self.shown());
        Problem { severity: Severity::Error, message, path: String::new(), span, help, beside: None }
    }

    fn said(&self) -> (String, String) {
        let value = self.text[self.span.start..self.span.end].trim();
        match self.message {
            m if m.starts_with(UNQUOTED) && value.is_empty() => {
                ("a value is missing".to_owned(), "write one behind the `=`, or remove the key".to_owned())
            }
            m if m.starts_with(UNQUOTED) => {
                (format!("`{}` is not in quotes", clipped(value)), format!("write `\"{}\"`", clipped(value)))
            }
            m => (m.to_owned(), remedy(m).to_owned()),
        }
    }

    /// The parser often points between two characters: what leads there on the same line says more.
    fn shown(&self) -> Span {
        if self.span.end > self.span.start {
            return self.span;
        }
        let before = &self.text[self.line.start..self.span.start];
        let quote =
            self.message.starts_with("invalid basic string") || self.message.starts_with("invalid literal string");
        let opening = if quote { before.rfind(['"', '\'']) } else { None };
        let start = opening.unwrap_or(before.len() - before.trim_start().len());
        Span { start: self.line.start + start, end: self.span.end }
    }
}

fn remedy(message: &str) -> &'static str {
    REMEDIES
        .iter()
        .find(|(prefix, _)| message.starts_with(prefix))
        .map_or("write `key = value` lines below a `[table]` header, with texts in double quotes", |(_, help)| help)
}

const UNQUOTED: &str = "string values must be quoted";

/// Faults that end with their line.
const LOCAL: &[&str] = &[
    UNQUOTED,
    "duplicate key",
    "invalid basic string",
    "invalid literal string",
    "missing escaped value",
    "invalid float",
    "invalid integer",
    "invalid date-time",
    "invalid boolean",
    "unexpected leading zero",
    "too few unicode value digits",
    "cannot extend value",
];

const REMEDIES: &[(&str, &str)] = &[
    ("duplicate key", "keep one of the two, or rename one"),
    ("invalid basic string", "close the text with `\"` on the same line"),
    ("invalid literal string", "close the text with `'` on the same line"),
    ("invalid multi-line", "close the text with the three quotes it began with"),
    ("missing escaped value", "write `\\\\` for a backslash"),
    ("invalid float", "addresses, durations and percentages are texts: put them in double quotes"),
    ("invalid integer", "addresses, durations and percentages are texts: put them in double quotes"),
    ("invalid date-time", "addresses, durations and percentages are texts: put them in double quotes"),
    ("unclosed table", "close the header with `]`"),
    ("unclosed array table", "close the header with `]]`"),
    ("unclosed array", "close the array with `]`"),
    ("unclosed inline table", "close the table with `}`"),
    ("missing comma", "put a `,` between the two, or close what was opened before"),
    ("key with no value", "write `key = value`"),
    ("cannot extend value", "the key has a value already: remove that, or this table"),
    ("recursion limit", "nest less deeply"),
];
