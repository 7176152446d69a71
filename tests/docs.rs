//! What the documentation shows is so: the README's configuration and its commands, the files in `config/`, and what
//! the image and its example name.

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
fn the_routes_of_the_readme_are_routes() {
    let rest = "[services.shop]\nstable = \"v1\"\nversions.v1.endpoints = [\"127.0.0.1:9001\"]\n";
    let text = format!("[[listeners]]\naddress = \"127.0.0.1:8080\"\n{rest}{}", block("routes.toml"));
    let shown = config::parse("README.md", &text).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(shown.services[0].routes.len() >= 5 && shown.warnings.is_empty(), "{:?}", shown.warnings);
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

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The arguments of an instruction of the Dockerfile, once per use.
fn instructions(name: &str) -> Vec<String> {
    let dockerfile = text("Dockerfile");
    dockerfile.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned).collect()
}

#[test]
fn the_image_copies_what_is_there_and_is_not_left_out() {
    let kept: BTreeSet<String> =
        text(".dockerignore").lines().filter_map(|line| line.strip_prefix('!')).map(str::to_owned).collect();
    for needed in ["Cargo.toml", "Cargo.lock", "src"] {
        assert!(kept.contains(needed), "{needed}");
    }
    for copy in instructions("COPY").iter().filter(|copy| !copy.starts_with("--from")) {
        let (sources, _) = copy.rsplit_once(' ').expect("a source and a target");
        for source in sources.split(' ') {
            assert!(root().join(source).exists(), "{source}");
            assert!(source == "." || kept.contains(source), "{source} is in .dockerignore");
        }
    }
}

#[test]
fn the_image_is_built_by_the_rust_that_this_package_asks_for() {
    assert!(instructions("ARG").contains(&format!("RUST={}", env!("CARGO_PKG_RUST_VERSION"))));
}

#[test]
fn the_image_runs_as_a_number_asks_itself_how_it_is_and_stops_gracefully() {
    let command = Arguments::command();
    let health = instructions("HEALTHCHECK").concat();
    let verb = health.split('"').nth(3).expect("a verb");
    assert!(command.find_subcommand(verb).is_some(), "{health}");
    let user = instructions("USER").concat();
    assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "{user}");
    let volume = instructions("VOLUME").concat();
    let owned = format!("--chown={user} ");
    assert!(instructions("COPY").iter().any(|copy| copy.contains(&owned) && copy.ends_with(&volume)), "{volume}");
    assert_eq!((instructions("WORKDIR").last(), &*instructions("STOPSIGNAL").concat()), (Some(&volume), "SIGTERM"));
}

#[test]
fn the_example_of_compose_fits_the_image_and_its_configuration() {
    let (compose, image) = (text("compose.yaml"), text("Dockerfile"));
    let settings = config::read(&root().join("config/compose.toml")).expect("a configuration without problems");
    let port = settings.listeners[0].address.port();
    assert!(instructions("EXPOSE").contains(&port.to_string()) && compose.contains(&format!(":8080:{port}\"")));
    for version in settings.services.iter().flat_map(|service| &service.versions) {
        for endpoint in &version.endpoints {
            let (host, _) = endpoint.authority.split_once(':').expect("a port");
            assert!(compose.contains(&format!("\n  {host}:\n")), "{host}");
        }
    }
    let mounts = compose.lines().filter_map(|line| line.trim().strip_prefix("- ")?.split_once(':'));
    for (outside, inside) in mounts {
        assert!(!outside.starts_with("./") || root().join(outside).exists(), "{outside}");
        assert!(image.contains(inside.trim_end_matches(":ro")), "{inside}");
    }
    assert!(settings.store.is_some_and(|store| store.is_relative()), "in the volume, which is the working directory");
}

#[test]
fn the_files_that_the_readme_points_at_are_there() {
    for target in
        readme().split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned())
    {
        assert!(Path::new(&root()).join(&target).exists(), "{target}");
    }
}
