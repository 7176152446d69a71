//! The house rules that no compiler knows: which layer may name which, what the pure core must not touch, and that
//! every file and every dependency says what it is for. Each finding says where, what, and how to go on.
//!
//! ```text
//!       main -> cli -> app -> every layer below
//!                       |
//!       admin -----> control     proxy       control and proxy never name each other
//!                         \       /
//!                config    \     /
//!                     \     link
//!                      \   /
//!                      domain                names nothing else of ours
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

/// Who may name whom; an entry with `::` opens only that part of a layer, and what it offers to tests. A new arrow is a
/// change of design: argue it in the message of the commit that adds it here.
const ARROWS: [(&str, &[&str]); 10] = [
    ("main", &["cli"]),
    ("lib", &[]),
    ("cli", &["admin::wire", "app", "config"]),
    ("app", &["admin", "config", "control", "domain", "link", "proxy"]),
    ("admin", &["control", "domain"]),
    ("control", &["domain", "link"]),
    ("proxy", &["domain", "link"]),
    ("config", &["domain"]),
    ("link", &["domain"]),
    ("domain", &[]),
];

/// What the pure core does not touch, and what it does instead.
const IMPURE: [Impure; 12] = [
    Impure::always("tokio", "take what happened as an argument; whoever waits for it lives in `control` or `proxy`"),
    Impure::always("hyper", "use the types of `http`"),
    Impure::always("tracing", "return what there is to say; whoever called can log it"),
    Impure::always("std::fs", "take the content as an argument"),
    Impure::outside_tests("std::env", "take the value as an argument"),
    Impure::always("std::net::TcpListener", "addresses are welcome here, sockets belong to `proxy` and `admin`"),
    Impure::always("std::net::TcpStream", "addresses are welcome here, sockets belong to `proxy` and `admin`"),
    Impure::always("std::net::UdpSocket", "addresses are welcome here, sockets belong to `proxy` and `admin`"),
    Impure::always("Instant::now", "take the `Moment` as an argument"),
    Impure::always("SystemTime", "take the `Moment` as an argument"),
    Impure::outside_tests("fastrand", "take the draw as an argument"),
    Impure::outside_tests("rand", "take the draw as an argument"),
];

/// Their order differs from run to run, and a decision that depends on it cannot be replayed.
const UNORDERED: [(&str, &str); 2] = [("HashMap", "BTreeMap"), ("HashSet", "BTreeSet")];

const COLUMNS: usize = 120;

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut findings = manifest(&text_of(&root.join("Cargo.toml")));
    let files = sources(root);
    let test_files: BTreeSet<String> = files.iter().flat_map(|(path, text)| Source::read(path, text).tests()).collect();
    for (path, text) in &files {
        let source = Source::read(path, text);
        findings.extend(source.layout());
        if path.starts_with("src/") {
            let test_file = test_files.contains(path);
            findings.extend(source.layering(test_file));
            findings.extend(source.purity(test_file));
        }
    }
    assert!(files.len() > 20, "only {} files were found", files.len());
    assert!(
        findings.is_empty(),
        "{}{} findings",
        findings.iter().map(Finding::to_string).collect::<String>(),
        findings.len()
    );
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file of ours, by its path from the root.
fn sources(root: &Path) -> Vec<(String, String)> {
    let mut waiting = vec![root.join("src"), root.join("tests"), root.join("benches")];
    let mut files = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder that can be listed").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
                files.push((name, text_of(&path)));
            }
        }
    }
    files.sort();
    files
}

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    what: String,
    help: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}: {}\n  help: {}", self.path, self.line, self.what, self.help)
    }
}

struct Impure {
    /// A path, or the end of one.
    name: &'static str,
    instead: &'static str,
    in_tests: bool,
}

impl Impure {
    const fn always(name: &'static str, instead: &'static str) -> Impure {
        Impure { name, instead, in_tests: false }
    }

    const fn outside_tests(name: &'static str, instead: &'static str) -> Impure {
        Impure { name, instead, in_tests: true }
    }
}

/// Every entry of a dependency table is explained: above it, or behind it.
fn manifest(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut in_table, mut above) = (false, "");
    for (index, line) in text.lines().enumerate() {
        let entry = line.split_once('=').map(|(name, _)| name.trim());
        if line.starts_with('[') {
            in_table = line.trim_end_matches(']').ends_with("dependencies");
        } else if let Some(name) = entry.filter(|_| in_table && line.starts_with(|c: char| c.is_alphanumeric()))
            && !above.starts_with('#')
            && !line.contains('#')
        {
            findings.push(Finding {
                path: "Cargo.toml".into(),
                line: index + 1,
                what: format!("`{name}` does not say what it is for"),
                help: "put a comment above it: what for, and why not by hand".into(),
            });
        }
        above = line;
    }
    findings
}

/// One file as this test sees it: names, punctuation, and where text in quotes is.
struct Source<'a> {
    path: &'a str,
    text: &'a str,
    paths: Vec<Named>,
    /// Files of modules that exist in tests only.
    tests: Vec<String>,
    /// Byte ranges of string literals.
    quoted: Vec<(usize, usize)>,
}

/// A path that the code names, spelt out from the root of its crate: `crate::…`, `std::…`.
#[derive(Debug)]
struct Named {
    line: usize,
    segments: Vec<String>,
    in_tests: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token<'a> {
    line: usize,
    text: &'a str,
}

impl<'a> Source<'a> {
    fn read(path: &'a str, text: &'a str) -> Source<'a> {
        let (tokens, quoted) = tokens(text);
        let mut reader = Reader { tokens: &tokens, at: 0, file: module_of(path), paths: Vec::new(), tests: Vec::new() };
        reader.items(&[], false);
        let (paths, tests) = (reader.paths, reader.tests);
        Source { path, text, paths, tests, quoted }
    }

    fn tests(self) -> Vec<String> {
        self.tests
    }

    fn finding(&self, line: usize, what: String, help: impl Into<String>) -> Finding {
        Finding { path: self.path.to_owned(), line, what, help: help.into() }
    }

    /// A module doc, and lines that fit; text in quotes is not broken for it.
    fn layout(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !self.text.starts_with("//!") {
            let help = "begin with `//!`: what it is for, and what it leaves to others";
            findings.push(self.finding(1, "the module does not say what it is for".into(), help));
        }
        for (index, line) in self.text.lines().enumerate() {
            let Some((excess, _)) = line.char_indices().nth(COLUMNS) else { continue };
            let offset = line.as_ptr() as usize - self.text.as_ptr() as usize + excess;
            if !self.quoted.iter().any(|&(from, to)| (from..to).contains(&offset)) {
                let what = format!("{} columns", line.chars().count());
                findings.push(self.finding(index + 1, what, format!("break the line before column {COLUMNS}")));
            }
        }
        findings
    }

    fn layering(&self, test_file: bool) -> Vec<Finding> {
        let ours = layer_of(self.path);
        let Some((_, open)) = ARROWS.iter().find(|(layer, _)| *layer == ours) else {
            let help = "put it into a layer, or give it arrows of its own in `tests/tidy.rs` and argue for them";
            return vec![self.finding(1, format!("`{ours}` is not a layer"), help)];
        };
        let of_ours = |named: &&Named| matches!(&*named.segments[0], "crate" | "penstock") && named.segments.len() > 1;
        let mut findings = Vec::new();
        for named in self.paths.iter().filter(of_ours) {
            let inside = named.segments[1..].join("::");
            let opened = |entry: &&str| inside == **entry || inside.starts_with(&format!("{entry}::"));
            let for_tests = |entry: &&str| {
                let layer = entry.split("::").next().unwrap_or(entry);
                (named.in_tests || test_file) && inside.starts_with(&format!("{layer}::testing::"))
            };
            if named.segments[1] == ours || open.iter().any(|entry| opened(entry) || for_tests(entry)) {
                continue;
            }
            let help = match open {
                [] => "move what is needed down into this layer, or this code up".to_owned(),
                open => {
                    format!("`{ours}` may name `{}` only; the other way round, hand the value in", open.join("`, `"))
                }
            };
            findings.push(self.finding(named.line, format!("`{ours}` names `{inside}`"), help));
        }
        findings
    }

    fn purity(&self, test_file: bool) -> Vec<Finding> {
        if layer_of(self.path) != "domain" {
            return Vec::new();
        }
        let mut findings = Vec::new();
        for Named { line, segments, in_tests } in &self.paths {
            let path = format!("::{}::", segments.join("::"));
            let named = |name: &str| match name.chars().next() {
                Some(first) if first.is_uppercase() => path.contains(&format!("::{name}::")),
                _ => path.starts_with(&format!("::{name}::")),
            };
            let in_tests = *in_tests || test_file;
            for Impure { name, instead, .. } in IMPURE.iter().filter(|i| named(i.name) && !(i.in_tests && in_tests)) {
                findings.push(self.finding(*line, format!("`domain` names `{name}`"), *instead));
            }
            for (name, ordered) in UNORDERED.iter().filter(|(name, _)| named(name)) {
                let help = format!("its order differs from run to run: `{ordered}`");
                findings.push(self.finding(*line, format!("`domain` names `{name}`"), help));
            }
        }
        findings
    }
}

/// `src/proxy/body.rs` → `proxy`, `src/link.rs` → `link`.
fn layer_of(path: &str) -> &str {
    let inside = path.trim_start_matches("src/");
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

/// `src/domain/judge/mod.rs` → `domain`, `judge`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let parts = inside.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
    parts.map(str::to_owned).collect()
}

/// Walks the tokens, and keeps the paths.
struct Reader<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    /// The module that the file is.
    file: Vec<String>,
    paths: Vec<Named>,
    tests: Vec<String>,
}

impl<'a> Reader<'a> {
    fn peek(&self, ahead: usize) -> &'a str {
        self.tokens.get(self.at + ahead).map_or("", |token| token.text)
    }

    fn skip(&mut self, expected: &[&str]) -> bool {
        let found = expected.iter().enumerate().all(|(ahead, text)| self.peek(ahead) == *text);
        self.at += if found { expected.len() } else { 0 };
        found
    }

    /// Up to the end, or to the `}` that ends the block. `modules` are the modules inside the file that we are in.
    fn items(&mut self, modules: &[String], in_tests: bool) {
        while self.at < self.tokens.len() && !self.skip(&["}"]) {
            if self.skip(&["#", "[", "cfg", "(", "test", ")", "]"]) {
                self.item(modules, true);
            } else {
                self.step(modules, in_tests);
            }
        }
    }

    /// One item: up to its `;`, or to the end of its block.
    fn item(&mut self, modules: &[String], in_tests: bool) {
        let import = matches!(self.peek(0), "use")
            || self.peek(0) == "pub" && self.tokens[self.at..].iter().take(5).any(|t| t.text == "use");
        while self.at < self.tokens.len() {
            let block = !import && self.opens_block();
            if self.peek(0) == "}" {
                return;
            }
            let end = self.peek(0) == ";";
            self.step(modules, in_tests);
            if end || block {
                return;
            }
        }
    }

    fn opens_block(&self) -> bool {
        self.peek(0) == "{" || self.peek(0) == "mod" && self.peek(2) == "{"
    }

    /// One token, one block, one module, or one path.
    fn step(&mut self, modules: &[String], in_tests: bool) {
        if self.peek(0) == "mod" && self.peek(2) == "{" {
            let inside = [modules, &[self.peek(1).to_owned()]].concat();
            self.at += 3;
            self.items(&inside, in_tests);
        } else if self.peek(0) == "mod" && self.peek(2) == ";" {
            if in_tests {
                let file = [&self.file[..], modules, &[self.peek(1).to_owned()]].concat().join("/");
                self.tests.extend([format!("src/{file}.rs"), format!("src/{file}/mod.rs")]);
            }
            self.at += 3;
        } else if self.skip(&["{"]) {
            self.items(modules, in_tests);
        } else if is_name(self.peek(0)) && self.peek(1) == "::" {
            self.path(&[], modules, in_tests);
        } else {
            self.at += 1;
        }
    }

    /// A path, or the tree that an import lists.
    fn path(&mut self, before: &[String], modules: &[String], in_tests: bool) {
        let line = self.tokens[self.at].line;
        let mut segments = before.to_vec();
        loop {
            if self.skip(&["{"]) {
                while self.at < self.tokens.len() && !self.skip(&["}"]) {
                    if is_name(self.peek(0)) || self.peek(0) == "*" {
                        self.path(&segments, modules, in_tests);
                    } else {
                        self.at += 1;
                    }
                }
                return;
            }
            if !is_name(self.peek(0)) {
                self.at += usize::from(self.peek(0) == "*");
                break;
            }
            segments.push(self.peek(0).to_owned());
            self.at += 1;
            if !self.skip(&["::"]) {
                break;
            }
        }
        if self.skip(&["as"]) {
            self.at += 1;
        }
        let segments = absolute(&segments, &[&self.file[..], modules].concat());
        self.paths.push(Named { line, segments, in_tests });
    }
}

/// `super::names::Name` in `domain::split` → `crate::domain::names::Name`.
fn absolute(segments: &[String], module: &[String]) -> Vec<String> {
    let climbs = segments.iter().take_while(|segment| matches!(segment.as_str(), "super" | "self")).count();
    if climbs == 0 {
        return segments.to_vec();
    }
    let up = segments[..climbs].iter().filter(|segment| *segment == "super").count();
    let kept = &module[..module.len().saturating_sub(up)];
    [&["crate".to_owned()], kept, &segments[climbs..]].concat()
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names and punctuation, without comments; and the byte ranges of text in quotes.
fn tokens(text: &str) -> (Vec<Token<'_>>, Vec<(usize, usize)>) {
    let (mut tokens, mut quoted) = (Vec::new(), Vec::new());
    let (mut at, mut line) = (0, 1);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = string(rest) {
            quoted.push((at, at + length));
            length
        } else if let Some(length) = character(rest) {
            length
        } else if is_name(rest) {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let token = &rest[..length];
        if !first.is_whitespace() && !token.starts_with("//") && !token.starts_with("/*") {
            tokens.push(Token { line, text: token });
        }
        line += token.matches('\n').count();
        at += length;
    }
    (tokens, quoted)
}

/// The length of the string literal that `rest` begins with.
fn string(rest: &str) -> Option<usize> {
    let prefix = ["br", "r", "b", "c", ""]
        .into_iter()
        .find(|prefix| rest.strip_prefix(prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"')))?;
    let opened = &rest[prefix.len()..];
    let hashes = opened.len() - opened.trim_start_matches('#').len();
    let raw = prefix.contains('r');
    if hashes > 0 && !raw {
        return None;
    }
    let body = prefix.len() + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    if raw {
        return Some(rest[body..].find(&close).map_or(rest.len(), |end| body + end + close.len()));
    }
    let mut escaped = false;
    for (index, byte) in rest.bytes().enumerate().skip(body) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(index + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// The length of the character literal that `rest` begins with; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let first = inside.chars().next()?;
    if first == '\\' {
        return inside[2..].find('\'').map(|end| end + 4);
    }
    inside[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 2)
}

fn layering(path: &str, text: &str) -> Vec<String> {
    Source::read(path, text)
        .layering(false)
        .into_iter()
        .map(|finding| format!("{}: {}", finding.line, finding.what))
        .collect()
}

fn purity(text: &str) -> Vec<String> {
    let findings = Source::read("src/domain/split.rs", text).purity(false);
    findings.into_iter().map(|finding| format!("{}: {}", finding.line, finding.what)).collect()
}

#[test]
fn arrows_point_down_only() {
    assert_eq!(layering("src/domain/split.rs", "use crate::link::Clock;"), ["1: `domain` names `link::Clock`"]);
    assert_eq!(layering("src/link.rs", "use crate::domain::time::Tick;\n"), [""; 0]);
    assert_eq!(layering("src/main.rs", "use penstock::{app, cli};"), ["1: `main` names `app`"]);
}

#[test]
fn the_planes_do_not_know_each_other() {
    assert_eq!(
        layering("src/control/engine.rs", "\nfn f() { crate::proxy::start(); }"),
        ["2: `control` names `proxy::start`"]
    );
    assert_eq!(layering("src/proxy/mod.rs", "use crate::control;"), ["1: `proxy` names `control`"]);
}

#[test]
fn the_command_line_sees_the_api_s_types_and_not_its_server() {
    assert_eq!(layering("src/cli/client.rs", "use crate::admin::wire::Problem;"), [""; 0]);
    assert_eq!(layering("src/cli/client.rs", "use crate::admin::{wire, serve};"), ["1: `cli` names `admin::serve`"]);
    assert_eq!(layering("src/cli/mod.rs", "#[cfg(test)] mod tests { use crate::admin::testing::x; }"), [""; 0]);
    assert_eq!(layering("src/cli/mod.rs", "use crate::admin::testing::x;"), ["1: `cli` names `admin::testing::x`"]);
}

#[test]
fn lists_and_ways_around_are_seen_through() {
    let listed = "use crate::{\n  domain::{names::*, time},\n  proxy::{self, Limits as L},\n};";
    assert_eq!(
        layering("src/control/view.rs", listed),
        ["3: `control` names `proxy::self`", "3: `control` names `proxy::Limits`"]
    );
    assert_eq!(layering("src/control/view.rs", "use super::super::admin::wire;"), ["1: `control` names `admin::wire`"]);
    assert_eq!(layering("src/control/mod.rs", "mod tests { use super::super::cli; }"), ["1: `control` names `cli`"]);
    assert_eq!(layering("src/control/mod.rs", "mod tests { use super::view; }"), [""; 0]);
}

#[test]
fn what_is_only_said_is_not_named() {
    assert_eq!(
        layering("src/proxy/mod.rs", "// crate::control\n/* crate::control */ const A: &str = r#\"crate::control\"#;"),
        [""; 0]
    );
    assert_eq!(
        layering("src/proxy/mod.rs", "fn f<'a>(c: char) -> bool { c == '\"' } use crate::cli;"),
        ["1: `proxy` names `cli`"]
    );
}

#[test]
fn a_room_without_a_layer_is_found() {
    assert_eq!(layering("src/utilities/mod.rs", ""), ["1: `utilities` is not a layer"]);
}

#[test]
fn the_core_has_no_clock_no_socket_and_no_luck() {
    assert_eq!(purity("let now = std::time::Instant::now();"), ["1: `domain` names `Instant::now`"]);
    assert_eq!(purity("use std::time::{Duration, SystemTime};"), ["1: `domain` names `SystemTime`"]);
    assert_eq!(purity("use std::net::{SocketAddr, TcpStream};"), ["1: `domain` names `std::net::TcpStream`"]);
    assert_eq!(purity("use std::{collections::BTreeMap, fs};"), ["1: `domain` names `std::fs`"]);
    assert_eq!(
        purity("tokio::spawn(x); tracing::info!(\"y\");"),
        ["1: `domain` names `tokio`", "1: `domain` names `tracing`"]
    );
    assert_eq!(purity("use std::collections::HashMap;"), ["1: `domain` names `HashMap`"]);
}

#[test]
fn tests_of_the_core_may_throw_dice() {
    assert_eq!(purity("fn f() { fastrand::u64(..); }"), ["1: `domain` names `fastrand`"]);
    assert_eq!(
        purity("#[cfg(test)]\nmod tests { fn f() { fastrand::u64(..); } }\nfn g() { fastrand::u64(..); }"),
        ["3: `domain` names `fastrand`"]
    );
    assert_eq!(purity("#[cfg(test)]\nuse fastrand::{Rng, u64};\nuse fastrand::Rng;"), ["3: `domain` names `fastrand`"]);
    assert_eq!(
        Source::read("src/domain/judge/mod.rs", "#[cfg(test)]\nmod behaviour;\nmod logs;").tests()[0],
        "src/domain/judge/behaviour.rs"
    );
}

#[test]
fn long_lines_and_missing_docs_are_found() {
    let wide = "x".repeat(COLUMNS + 1);
    let text = format!("/// {wide}\nlet quoted = \"{wide}\";\n");
    let lines: Vec<usize> = Source::read("src/link.rs", &text).layout().iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [1, 1]);
}

#[test]
fn a_dependency_without_a_reason_is_found() {
    let text = "[package]\nname = \"x\"\n[dependencies]\n# for bytes\nbytes = \"1\"\nhttp = \"1\"\nurl = \"1\" # for urls\n[lints.rust]\na = 1\n";
    let findings = manifest(text);
    assert_eq!((findings.len(), findings[0].line), (1, 6));
    assert!(findings[0].to_string().starts_with("Cargo.toml:6: `http` does not say what it is for\n  help: "));
}
