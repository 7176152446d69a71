//! Reading the file again: all of it comes into force, or nothing does.
//!
//! ```text
//!  read and check ▸ look names up ▸ bind what is new ▸ the engine takes the definitions (one swap) ▸ listen, let go
//! ```

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::listening::{self, Expiry, LOOK, ListenError};
use super::secrets::Keyring;
use super::{authorities, limits};
use crate::config::{self, Overrides, Problems, Settings};
use crate::control::command::{Control, Force, Reloads};
use crate::control::journal::Actor;
use crate::control::reload::{ConfigView, Extent, FileProblem, NotReloaded, Reload, Reloaded};
use crate::control::resolver::resolve;
use crate::control::view::View;
use crate::domain::amendments::Source as Lister;
use crate::domain::names::{ServiceName, VersionName};
use crate::proxy::{Knobs, Listener, Rules, Sockets};

/// Where the settings come from.
#[derive(Debug, Clone)]
pub struct Source {
    pub file: PathBuf,
    pub overrides: Overrides,
}

impl Source {
    fn read(&self) -> Result<Settings, Problems> {
        config::read_with(&self.file, &self.overrides)
    }
}

/// What carries out a reload.
#[derive(Debug)]
pub(super) struct Reloader {
    pub source: Option<Source>,
    pub control: Control,
    pub knobs: Knobs,
    pub keyring: Keyring,
    pub in_force: Settings,
    pub expiry: Expiry,
    /// Where we listen.
    pub own: Vec<SocketAddr>,
}

impl Reloader {
    /// One reload after the other, until nobody can ask any more.
    pub async fn run(mut self, mut reloads: Reloads) {
        self.control.note_config(ConfigView {
            in_force_since: Timestamp::now(),
            own: self.own.clone(),
            ..ConfigView::default()
        });
        let mut known = listening::contents(&self.in_force.listeners).await;
        loop {
            match timeout(LOOK, reloads.recv()).await {
                Ok(None) => return,
                Ok(Some(Reload { extent, force, actor, reply })) => {
                    let who = actor.name.clone();
                    let result = self.reload(extent, force, actor).await;
                    if extent == Extent::Reload {
                        self.note(&result, &who);
                    }
                    let _nobody_waiting = reply.send(result);
                    known = listening::contents(&self.in_force.listeners).await;
                }
                Err(_nobody_asked) => self.look_at_certificates(&mut known).await,
            }
        }
    }

    /// Renewed certificates come into force by themselves; a damaged one does not, and is said aloud.
    async fn look_at_certificates(&mut self, known: &mut listening::Contents) {
        let found = listening::contents(&self.in_force.listeners).await;
        if *known == found {
            return;
        }
        *known = found;
        match all_rules(&self.in_force.listeners) {
            Ok(change) => {
                self.expiry.note(change.iter().map(|(_, rules)| rules));
                self.knobs.listen(Sockets { change, ..Sockets::default() });
                tracing::info!("the certificates were read again and are in force");
            }
            Err(error) => {
                tracing::error!(%error, help = error.help(), "certificates have changed; the last ones stay in force");
            }
        }
    }

    async fn reload(&mut self, extent: Extent, force: Force, actor: Actor) -> Result<Reloaded, NotReloaded> {
        let source = self.source.clone().ok_or(NotReloaded::NoFile)?;
        let mut settings = source.read().map_err(|problems| NotReloaded::Problems(listed(&problems)))?;
        self.keyring.provide(&mut settings.services).map_err(|missing| {
            let path = format!("services.{}.sticky", missing.service);
            NotReloaded::Problems(vec![FileProblem { path, detail: missing.to_string() }])
        })?;
        let mut warnings: Vec<String> = listed(&settings.warnings).into_iter().map(|problem| problem.detail).collect();
        warnings.extend(at_the_next_start(&self.in_force, &settings));
        warnings.extend(amended(&self.control.view(), &self.in_force, &settings));
        if extent == Extent::Validate {
            return Ok(Reloaded { revision: self.control.view().revision, warnings });
        }
        let resolved = resolve(&authorities(&settings.services)).await.into_iter().filter_map(Result::ok).collect();
        let change = all_rules(&settings.listeners).map_err(|error| not_listening(&error))?;
        let added = self.bind(&settings)?;
        let done = self.control.declare(settings.services.clone(), resolved, force, actor).await?;
        self.expiry.note(change.iter().map(|(_, rules)| rules));
        let remove = addresses(&self.in_force).filter(|address| !addresses(&settings).any(|kept| kept == *address));
        self.knobs.listen(Sockets { add: added, change, remove: remove.collect() });
        let new = addresses(&settings).filter(|address| address.port() != 0 && !self.own.contains(address));
        let new: Vec<SocketAddr> = new.collect();
        self.own.extend(new);
        self.knobs.limit(limits(&settings));
        self.in_force = Settings { admin: self.in_force.admin, store: self.in_force.store.clone(), ..settings };
        Ok(Reloaded { revision: done.revision, warnings })
    }

    /// New listeners come before old ones go.
    fn bind(&self, settings: &Settings) -> Result<Vec<Listener>, NotReloaded> {
        let known = |listener: &&config::Listener| addresses(&self.in_force).any(|known| known == listener.address);
        let new = settings.listeners.iter().filter(|listener| !known(listener));
        new.map(|listener| listening::bind(listener).map_err(|error| not_listening(&error))).collect()
    }

    fn note(&self, result: &Result<Reloaded, NotReloaded>, actor: &str) {
        let last = self.control.config();
        self.control.note_config(match result {
            Ok(reloaded) => {
                tracing::info!(actor, revision = reloaded.revision, "the file was read again and is in force");
                for warning in &reloaded.warnings {
                    tracing::warn!(warning, "about the file");
                }
                let warnings = reloaded.warnings.clone();
                ConfigView {
                    successful: true,
                    in_force_since: Timestamp::now(),
                    trouble: None,
                    warnings,
                    own: self.own.clone(),
                }
            }
            Err(error) => {
                tracing::error!(actor, %error, "the file was not taken; the last one stays in force");
                if let NotReloaded::Problems(problems) = error {
                    for problem in problems {
                        tracing::error!(problem = problem.detail, "in the file");
                    }
                }
                ConfigView { successful: false, trouble: Some(error.to_string()), ..ConfigView::clone(&last) }
            }
        });
    }
}

fn addresses(settings: &Settings) -> impl Iterator<Item = SocketAddr> {
    settings.listeners.iter().map(|listener| listener.address)
}

fn all_rules(listeners: &[config::Listener]) -> Result<Vec<(SocketAddr, Rules)>, ListenError> {
    listeners.iter().map(|listener| Ok((listener.address, listening::rules(listener)?))).collect()
}

fn not_listening(error: &ListenError) -> NotReloaded {
    NotReloaded::Listener {
        message: error.to_string(),
        help: format!("{}; the last file stays in force", error.help()),
    }
}

fn listed(problems: &Problems) -> Vec<FileProblem> {
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let json = serde_json::to_value(problems).unwrap_or_default();
    let problem = |value: &serde_json::Value| {
        let place = match (value["line"].as_u64(), value["variable"].as_str()) {
            (_, Some(variable)) => variable.to_owned(),
            (Some(line), None) => format!("{}:{line}", text(value, "file")),
            (None, None) => text(value, "file"),
        };
        let detail = format!("{place}: {}; {}", text(value, "message"), text(value, "help"));
        FileProblem { path: text(value, "path"), detail }
    };
    json["problems"].as_array().map(|problems| problems.iter().map(problem).collect()).unwrap_or_default()
}

/// What a file says differently and a running process does not change.
fn at_the_next_start(before: &Settings, after: &Settings) -> Vec<String> {
    let differs = [
        ("admin.address", before.admin != after.admin),
        ("workers", before.workers != after.workers),
        ("store.path", before.store != after.store),
        ("log", before.log != after.log),
        ("shutdown", (before.linger, before.drain) != (after.linger, after.drain)),
        ("reload.poll", before.poll != after.poll),
    ];
    let differs = differs.into_iter().filter(|(_, differs)| *differs);
    differs.map(|(key, _)| format!("`{key}` has changed and takes effect at the next start")).collect()
}

/// Versions whose endpoints the file changes, and a person has changed as well: both count.
fn amended(view: &View, before: &Settings, after: &Settings) -> Vec<String> {
    let declared = |settings: &Settings, service: &ServiceName, version: &VersionName| {
        let service = settings.services.iter().find(|known| known.name == *service);
        service.and_then(|service| service.version(version)).map(|version| version.endpoints.clone())
    };
    let versions = view.services.values().flat_map(|service| service.versions.iter().map(move |v| (service, v)));
    let said = versions.filter_map(|(service, version)| {
        let after = declared(after, &service.name, &version.name)?;
        let listed = |authority: &str| after.iter().any(|endpoint| *endpoint.authority == *authority);
        let added = version.endpoints.iter().filter(|e| e.source == Lister::Runtime && !listed(&e.authority));
        let added = added.map(|endpoint| format!("`{}` was added", endpoint.authority));
        let removed = version.without.iter().filter(|endpoint| listed(endpoint.as_str()));
        let stays: Vec<String> = added.chain(removed.map(|endpoint| format!("`{endpoint}` was removed"))).collect();
        let changed = declared(before, &service.name, &version.name).is_some_and(|before| before != after);
        let path = format!("services.{}.versions.{}.endpoints", service.name, version.name);
        (changed && !stays.is_empty())
            .then(|| format!("`{path}` has changed; at run time {}, and that stays so", stays.join(", ")))
    });
    said.collect()
}

/// Reloads at every SIGHUP.
pub(super) async fn at_hangups(control: Control) -> io::Result<()> {
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    while hangup.recv().await.is_some() {
        ask(&control, "SIGHUP").await;
    }
    Ok(())
}

/// Reloads when the file's content changes: for files that are swapped by a symbolic link (a mounted `ConfigMap`) or
/// that live on a network, where nothing tells of a change.
pub(super) async fn at_changes(control: Control, file: PathBuf, every: Duration) {
    let mut known = content(&file).await;
    loop {
        sleep(every).await;
        let now = content(&file).await;
        if now.is_some() && now != known {
            known = now;
            ask(&control, "reload.poll").await;
        }
    }
}

/// A file on a mount that hangs keeps a thread waiting, and nothing else.
#[expect(clippy::disallowed_methods, reason = "one at a time: the next look waits for this one")]
async fn content(file: &Path) -> Option<Vec<u8>> {
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || std::fs::read(file).ok()).await.ok().flatten()
}

async fn ask(control: &Control, who: &str) {
    let actor = Actor { name: who.to_owned(), reason: None };
    let _said_in_the_log = control.reload(Extent::Reload, Force::No, actor).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let rest = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[services.shop]\nroutes = [{}]\nstable = \"v1\"\n\
                    [services.shop.versions.v1]\nendpoints = [\"127.0.0.1:1\"]\n";
        config::parse("test.toml", &format!("{text}\n{rest}")).unwrap()
    }

    #[test]
    fn what_waits_for_a_start_is_said() {
        assert_eq!(at_the_next_start(&settings(""), &settings("")), Vec::<String>::new());
        let said = at_the_next_start(&settings(""), &settings("workers = 3\n[admin]\naddress = \"127.0.0.1:9901\""));
        assert_eq!(said.len(), 2);
        assert!(said[0].contains("admin.address") && said[1].contains("workers"));
    }

    #[test]
    fn every_problem_of_a_file_is_listed_with_its_place() {
        let problems = config::parse("bad.toml", "workers = 0\nx = 1\n").unwrap_err();
        let listed = listed(&problems);
        assert!(listed.len() >= 2);
        assert!(listed.iter().any(|problem| problem.detail.starts_with("bad.toml:1: ")), "{listed:?}");
    }
}
