//! Secrets that the file only names: read from a file or a variable, or made once and kept beside the journal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::names::ServiceName;
use crate::domain::service::Definition;
use crate::domain::sticky::{SecretError, SecretSource, Secrets};

/// In the store's folder.
const FILE: &str = "sticky.secret";
/// Bytes of a secret of our own.
const LENGTH: usize = 32;
/// A file with a few secrets; a disk image, or `/dev/zero`, is not read.
const LARGEST_FILE: u64 = 64 * 1024;

/// Why a service has no secret. Says where it should be, never what it is.
#[derive(Debug, thiserror::Error)]
#[error("`services.{service}.sticky`: {what}")]
pub struct NoSecret {
    pub service: ServiceName,
    pub what: Trouble,
}

#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("the secret's file `{0}` cannot be read: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("the secret's file `{0}` is of no use: {1}")]
    BadFile(PathBuf, #[source] SecretError),
    #[error("the variable `{0}` is not set, or not text")]
    NoVariable(String),
    #[error("the variable `{0}` is of no use: {1}")]
    BadVariable(String, #[source] SecretError),
    #[error("no secret could be made: {0}")]
    NotMade(#[source] io::Error),
}

/// Hands out secrets. What it had to make stays the same while the process lives, and longer if there is a store.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    /// The store's folder, which no other process uses.
    store: Option<PathBuf>,
    own: Option<Secrets>,
}

impl Keyring {
    pub fn new(store: Option<PathBuf>) -> Keyring {
        Keyring { store, own: None }
    }

    /// Gives every sticky service its secrets, read anew.
    pub fn provide(&mut self, services: &mut [Definition]) -> Result<(), NoSecret> {
        for service in services {
            let Some(sticky) = &mut service.sticky else { continue };
            let secrets = match &sticky.secret {
                SecretSource::Generated => self.own(),
                SecretSource::File(path) => of_file(path),
                SecretSource::Environment(name) => of_variable(name),
            };
            let secrets = secrets.map_err(|what| NoSecret { service: service.name.clone(), what })?;
            Arc::make_mut(sticky).secrets = secrets;
        }
        Ok(())
    }

    fn own(&mut self) -> Result<Secrets, Trouble> {
        if let Some(known) = &self.own {
            return Ok(known.clone());
        }
        let secrets = match &self.store {
            None => {
                tracing::warn!(
                    "sticky clients are forgotten at the next start: there is no `[store]` to keep the secret in, \
                     and no `secret_file` or `secret_env`"
                );
                read(&made()?)?
            }
            // As with the journal: what cannot be kept keeps nobody from being served.
            Some(folder) => match kept(&folder.join(FILE)) {
                Ok(secrets) => secrets,
                Err(trouble) => {
                    tracing::error!(%trouble, "sticky clients are forgotten at the next start");
                    read(&made()?)?
                }
            },
        };
        Ok(self.own.insert(secrets).clone())
    }
}

/// The secret in a file of our own, which is made when it is missing.
fn kept(path: &Path) -> Result<Secrets, Trouble> {
    match of_file(path) {
        Err(Trouble::Unreadable(_, error)) if error.kind() == io::ErrorKind::NotFound => {
            let text = made()?;
            write(path, &text).map_err(Trouble::NotMade)?;
            read(&text)
        }
        known => known,
    }
}

/// Whole or not at all, and for nobody else to read.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let _left_over = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn made() -> Result<String, Trouble> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(|error| Trouble::NotMade(io::Error::other(error.to_string())))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect())
}

fn read(text: &str) -> Result<Secrets, Trouble> {
    Secrets::read(text).map_err(|error| Trouble::NotMade(io::Error::other(error)))
}

fn of_file(path: &Path) -> Result<Secrets, Trouble> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_FILE).read_to_string(&mut text));
    read.map_err(|error| Trouble::Unreadable(path.to_owned(), error))?;
    Secrets::read(&text).map_err(|error| Trouble::BadFile(path.to_owned(), error))
}

fn of_variable(name: &str) -> Result<Secrets, Trouble> {
    let text = std::env::var(name).map_err(|_| Trouble::NoVariable(name.to_owned()))?;
    Secrets::read(&text).map_err(|error| Trouble::BadVariable(name.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config;

    fn services(sticky: &str) -> Vec<Definition> {
        let text = format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\n[services.shop]\nroutes = [{{}}]\nstable = \"v1\"\n\
             [services.shop.versions.v1]\nendpoints = [\"127.0.0.1:1\"]\n[services.shop.sticky]\n{sticky}\n"
        );
        config::parse("test.toml", &text).unwrap().services
    }

    fn provided(keyring: &mut Keyring, sticky: &str) -> Result<Secrets, String> {
        let mut services = services(sticky);
        keyring.provide(&mut services).map_err(|trouble| trouble.to_string())?;
        Ok(services[0].sticky.as_ref().unwrap().secrets.clone())
    }

    #[test]
    fn a_secret_that_was_made_is_kept_for_nobody_else_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let keyring = || Keyring::new(Some(folder.path().to_owned()));
        let first = provided(&mut keyring(), "").unwrap();
        assert_eq!(provided(&mut keyring(), "").unwrap(), first);
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn without_a_store_it_lives_as_long_as_the_process() {
        let mut keyring = Keyring::new(None);
        let first = provided(&mut keyring, "").unwrap();
        assert_eq!(provided(&mut keyring, "").unwrap(), first);
        assert_ne!(provided(&mut Keyring::new(None), "").unwrap(), first);
    }

    #[test]
    fn a_folder_that_takes_no_file_keeps_nobody_from_being_served() {
        let nowhere = tempfile::tempdir().unwrap().path().join("gone");
        assert!(provided(&mut Keyring::new(Some(nowhere)), "").is_ok());
    }

    #[test]
    fn a_file_or_a_variable_is_read_anew_and_what_is_wrong_with_it_does_not_repeat_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let sticky = format!("secret_file = {path:?}");
        let mut keyring = Keyring::new(None);
        let missing = provided(&mut keyring, &sticky).unwrap_err();
        assert!(missing.starts_with("`services.shop.sticky`: the secret's file"), "{missing}");
        fs::write(&path, "hush").unwrap();
        let short = provided(&mut keyring, &sticky).unwrap_err();
        assert!(short.contains("fewer than 16 characters") && !short.contains("hush"), "{short}");
        fs::write(&path, "the first secret of all\n").unwrap();
        let first = provided(&mut keyring, &sticky).unwrap();
        fs::write(&path, "the second secret of all\nthe first secret of all\n").unwrap();
        assert_ne!(provided(&mut keyring, &sticky).unwrap(), first);
        let variable = provided(&mut keyring, "secret_env = \"NOT_SET_BY_ANYBODY\"").unwrap_err();
        assert!(variable.contains("`NOT_SET_BY_ANYBODY` is not set"), "{variable}");
    }
}
