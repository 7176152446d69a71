//! What the TOML parser has to say, with remedies, and how much of the file is lost to it.
//!
//! The parser goes on after a fault, but an unclosed header or array changes the meaning of everything behind it.
//! Complaints about that part would be noise, so every fault states which stretch is not to be believed.

use toml::de::Error;

use super::problem::{Problem, Severity, Span, clipped};

/// The parser's complaints, and the stretches of the file that no other complaint may be based on.
pub(super) fn problems(text: &str, errors: &[Error]) -> (Vec<Problem>, Vec<Span>) {
    let mut faults: Vec<Fault<'_>> = errors.iter().map(|error| Fault::of(text, error)).collect();
    faults.sort_by_key(|fault| (fault.span.start, fault.span.end));
    stop_at_what_is_not_closed(&mut faults);
    let mut problems: Vec<Problem> = faults.iter().map(Fault::problem).collect();
    problems.dedup();
    let mut lost: Vec<Span> = faults.iter().map(Fault::lost).collect();
    if problems.len() > MOST_FAULTS {
        lost = vec![Span { start: 0, end: usize::MAX }];
        let rest = problems.split_off(MOST_FAULTS).len();
        problems.push(not_toml(rest));
    }
    (problems, lost)
}

/// An array or inline table that is not closed swallows the rest of the file, and the parser complains of every line in
/// it. Only the first complaint is worth repeating; there it is said what is the matter.
fn stop_at_what_is_not_closed(faults: &mut Vec<Fault<'_>>) {
    let Some(unclosed) = faults.iter().find(|fault| UNCLOSED.contains(&fault.name())).map(|fault| fault.message) else {
        return;
    };
    if let Some(first) = faults.iter().position(|fault| fault.name().starts_with("missing comma")) {
        faults.truncate(first + 1);
        faults[first] = faults[first].moved_before(unclosed);
    }
}

fn not_toml(rest: usize) -> Problem {
    Problem {
        severity: Severity::Error,
        message: format!("{rest} more places are not TOML"),
        path: String::new(),
        span: None,
        help: "is it the right file?".to_owned(),
        beside: None,
    }
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

    /// Another message, at the end of what stands before: there the closing bracket is likely to belong.
    fn moved_before(&self, message: &'a str) -> Fault<'a> {
        let before = self.text[..self.span.start].trim_end();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = Span { start, end: before.len() };
        Fault { text: self.text, message, span: Span { start: line.end, end: line.end }, line }
    }

    /// The message without what the parser expected instead.
    fn name(&self) -> &'a str {
        self.message.split_once(", expected").map_or(self.message, |(name, _)| name)
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
            m if UNREADABLE.iter().any(|prefix| m.starts_with(prefix)) => {
                let token = clipped(self.token());
                (
                    format!("`{token}` is neither a number nor a text in quotes"),
                    format!("as a text, write `\"{token}\"`"),
                )
            }
            m if self.is_unclosed_text() => ("the text is not closed".to_owned(), remedy(m).to_owned()),
            m => (m.to_owned(), remedy(m).to_owned()),
        }
    }

    fn is_unclosed_text(&self) -> bool {
        let text = ["invalid basic string", "invalid literal string"].contains(&self.name());
        text && self.span.start == self.span.end
    }

    /// The whole of a bare value, of which the parser underlines a part.
    fn token(&self) -> &'a str {
        let Span { start, end } = self.token_span();
        &self.text[start..end]
    }

    fn token_span(&self) -> Span {
        let ends = |c: char| c.is_whitespace() || "=,[]{}#\"'".contains(c);
        let before = &self.text[self.line.start..self.span.start];
        let behind = &self.text[self.span.start..self.line.end];
        let start = before.rfind(ends).map_or(0, |at| at + before[at..].chars().next().map_or(0, char::len_utf8));
        let end = behind.find(ends).unwrap_or(behind.len());
        Span { start: self.line.start + start, end: self.span.start + end }
    }

    /// The parser often points between two characters: what leads there on the same line says more.
    fn shown(&self) -> Span {
        if UNREADABLE.iter().any(|prefix| self.message.starts_with(prefix)) {
            return self.token_span();
        }
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

/// Complaints of the parser that are repeated: with more of them, the file is not a configuration at all, and nobody
/// reads a hundred thousand lines to learn that.
const MOST_FAULTS: usize = 100;

/// Of what is neither: an address, a duration or a percentage without quotes.
const UNREADABLE: &[&str] = &["invalid float", "invalid integer", "invalid date-time", "unexpected leading zero"];

/// What swallows the rest of the file.
const UNCLOSED: &[&str] = &["unclosed array", "unclosed inline table"];

/// Faults that end with their line.
const LOCAL: &[&str] = &[
    UNQUOTED,
    "duplicate key",
    "invalid basic string",
    "invalid literal string",
    "missing escaped value",
    "missing comma",
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
    ("unclosed table", "close the header with `]`"),
    ("unclosed array table", "close the header with `]]`"),
    ("unclosed array", "close the array with `]`"),
    ("unclosed inline table", "close the table with `}`"),
    ("missing comma", "put a `,` between the two, or close what was opened before"),
    ("key with no value", "write `key = value`"),
    ("cannot extend value", "the key has a value already: remove that, or this table"),
    ("recursion limit", "nest less deeply"),
];
