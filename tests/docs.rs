//! What the documentation shows is so: the README's configuration and its commands, and the files in `config/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use penstock::cli::Arguments;
use penstock::config;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("a README")
}

/// What stands between `<!-- name -->` and `<!-- /name -->`, without the fence.
fn block(name: &str) -> String {
    let readme = readme();
    let (_, after) = readme.split_once(&format!("<!-- {name} -->\n")).expect("where the block begins");
    let (block, _) = after.split_once(&format!("<!-- /{name} -->")).expect("where the block ends");
    let lines: Vec<&str> = block.lines().filter(|line| !line.starts_with("```")).collect();
    lines.join("\n")
}

/// The first cells of the table of commands: `penstock serve FILE` and so on.
fn commands() -> Vec<String> {
    let readme = readme();
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `penstock ")?.split_once('`'));
    rows.map(|(command, _)| command.to_owned()).collect()
}

#[test]
fn the_readme_shows_the_minimal_configuration() {
    let shown = config::parse("README.md", &block("minimal.toml")).expect("a configuration without problems");
    let shipped = config::read(&root().join("config/minimal.toml")).expect("a configuration without problems");
    let mut shown = shown;
    shown.warnings = shipped.warnings.clone(); // they name their file
    assert_eq!(shown, shipped);
}

#[test]
fn every_file_in_config_is_a_configuration() {
    let files: Vec<PathBuf> =
        fs::read_dir(root().join("config")).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let settings = config::read(&file).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert!(settings.warnings.is_empty(), "{}: {:?}", file.display(), settings.warnings);
    }
}

#[test]
fn the_table_of_commands_lists_what_the_command_line_has() {
    let command = Arguments::command();
    let verbs: BTreeSet<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let listed = commands();
    let listed: BTreeSet<&str> = listed.iter().filter_map(|command| command.split(' ').next()).collect();
    assert_eq!(listed, verbs);
}

#[test]
fn the_table_of_commands_names_the_arguments_in_order() {
    let command = Arguments::command();
    for listed in commands() {
        let mut words = listed.split(' ');
        let mut verb = words.next().and_then(|verb| command.find_subcommand(verb)).expect("a verb that exists");
        if verb.has_subcommands() {
            verb = words.next().and_then(|inner| verb.find_subcommand(inner)).expect("a verb of that verb");
        }
        let named: Vec<String> = words.map(|word| word.trim_matches(['[', ']']).to_lowercase()).collect();
        let taken: Vec<&str> = verb.get_positionals().map(|argument| argument.get_id().as_str()).collect();
        assert_eq!(named, taken, "`penstock {listed}`");
        for argument in verb.get_positionals().filter(|argument| argument.is_required_set()) {
            assert!(
                !listed.contains(&format!("[{}]", argument.get_id().as_str().to_uppercase())),
                "`penstock {listed}`"
            );
        }
    }
}

#[test]
fn the_files_that_the_readme_points_at_are_there() {
    for target in
        readme().split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned())
    {
        assert!(Path::new(&root()).join(&target).exists(), "{target}");
    }
}
