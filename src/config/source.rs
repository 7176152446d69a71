//! What was read, as one text: the file, and behind it a line for each override. So one kind of span says where
//! anything was written, and a problem in a variable is underlined as one in the file is.

use super::problem::{Position, Span};

/// Who overrides the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    Environment,
    Flag,
}

/// `PENSTOCK_WORKERS=4` or `--workers=4`, behind the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub by: By,
    pub name: Span,
    pub value: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sources {
    /// What problems call the file.
    pub file: String,
    text: String,
    /// Where the file ends.
    end: usize,
    /// Where its lines begin.
    lines: Vec<usize>,
    given: Vec<Given>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Origin {
    File {
        file: String,
        line: usize,
    },
    Environment {
        variable: String,
    },
    Flag {
        flag: String,
    },
    /// Nobody wrote it.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::File { file, line } => write!(f, "file {file}:{line}"),
            Origin::Environment { variable } => write!(f, "environment {variable}"),
            Origin::Flag { flag } => write!(f, "flag {flag}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

impl Sources {
    pub fn new<'o>(file: &str, text: &str, overrides: impl IntoIterator<Item = (By, &'o str, &'o str)>) -> Sources {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        let (file, end) = (file.to_owned(), text.len());
        let mut sources = Sources { file, text: text.to_owned(), end, lines, given: Vec::new() };
        for (by, name, value) in overrides {
            sources.text.push('\n');
            let name = sources.append(name);
            sources.text.push('=');
            let value = sources.append(value);
            sources.given.push(Given { by, name, value });
        }
        sources
    }

    fn append(&mut self, text: &str) -> Span {
        let start = self.text.len();
        self.text.push_str(text);
        Span { start, end: self.text.len() }
    }

    pub fn file_text(&self) -> &str {
        &self.text[..self.end]
    }

    pub fn given(&self) -> &[Given] {
        &self.given
    }

    /// The text at `span`, which is one of this type's own.
    pub fn at(&self, span: Span) -> &str {
        &self.text[span.start..span.end]
    }

    /// The override that `span` lies in; `None`: the file.
    pub fn giver(&self, span: Span) -> Option<&Given> {
        let last = self.given.partition_point(|given| given.name.start <= span.start);
        self.given[..last].last()
    }

    /// The name of the variable or flag that `span` lies in.
    pub fn name(&self, span: Span) -> Option<&str> {
        self.giver(span).map(|given| self.at(given.name))
    }

    pub fn given_origin(&self, given: &Given) -> Origin {
        let name = self.at(given.name).to_owned();
        match given.by {
            By::Environment => Origin::Environment { variable: name },
            By::Flag => Origin::Flag { flag: name },
        }
    }

    /// The part of `span` on its first line, cut to character boundaries: a parser's offsets are not trusted with a
    /// panic.
    pub fn within_its_line(&self, span: Span) -> Span {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.ceil_char_boundary(span.end).max(start);
        let line = self.line_around(Span { start, end });
        Span { start: start.min(line.end), end: end.min(line.end) }
    }

    /// What is shown around `span`: without the line's end, be it LF or CR LF. A variable's value is shown only when it
    /// is what is spoken of: of an unknown variable, it may be a secret.
    pub fn line_around(&self, span: Span) -> Span {
        let (first, last) = match self.giver(span) {
            None => (0, self.end),
            Some(given) if span.start < given.name.end => (given.name.start, given.name.end),
            Some(given) => (given.name.start, given.value.end),
        };
        let offset = span.start.clamp(first, last);
        let start = self.text[first..offset].rfind('\n').map_or(first, |newline| first + newline + 1);
        let end = self.text[offset..last].find('\n').map_or(last, |newline| offset + newline);
        let line = &self.text[start..end];
        Span { start, end: start + line.strip_suffix('\r').unwrap_or(line).len() }
    }

    /// Where `span` was written, for people: `penstock.toml:31`, or a variable's name.
    pub fn place(&self, span: Span) -> String {
        match self.giver(span) {
            Some(given) => self.at(given.name).to_owned(),
            None => format!("{}:{}", self.file, self.lines.partition_point(|start| *start <= span.start)),
        }
    }

    /// Where `span` begins in the file.
    pub fn position(&self, span: Span) -> Position {
        let start = self.text.floor_char_boundary(span.start);
        let line = self.line_around(Span { start, end: start });
        let newlines = self.text[..start].bytes().filter(|b| *b == b'\n').count();
        Position { line: newlines + 1, column: self.text[line.start..start].chars().count() + 1 }
    }
}
