//! From the file's listeners to bound sockets and their rules; certificates are read here, and looked after.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;

use crate::config::{self, ClientCertificates, TlsVersion};
use crate::proxy::tls::{self, Clients, Files, Minimum, Pair, TlsError};
use crate::proxy::{self, Listener, Rules};

/// How often certificate files are looked at for changes.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// Renewal is usually tried a month ahead: a certificate with less than this left has been forgotten.
const SOON: Duration = Duration::from_hours(14 * 24);

/// Why a listener is not listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on `{0}`: {1}")]
    Bind(SocketAddr, #[source] io::Error),
    #[error("the listener `{0}` has no usable certificate: {1}")]
    Tls(SocketAddr, #[source] TlsError),
}

impl ListenError {
    /// How to go on.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            ListenError::Bind(_, error) => socket_help(error),
            ListenError::Tls(_, error) => error.help(),
        }
    }
}

/// How to go on when an address cannot be listened on.
pub(super) fn socket_help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "end the program that listens there, or choose another address in the file",
        io::ErrorKind::PermissionDenied => "choose a port above 1023, or grant CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "choose an address that this machine has",
        _ => "choose another address in the file",
    }
}

/// Binds one listener that is ready to be spoken to.
pub(super) fn bind(listener: &config::Listener) -> Result<Listener, ListenError> {
    let rules = rules(listener)?;
    let socket = proxy::bind(listener.address).map_err(|error| ListenError::Bind(listener.address, error))?;
    Ok(Listener { socket, rules })
}

/// Reads what the listener needs.
pub(super) fn rules(listener: &config::Listener) -> Result<Rules, ListenError> {
    let load = |tls| tls::load(&files(tls)).map_err(|error| ListenError::Tls(listener.address, error));
    let hsts = listener
        .tls
        .as_ref()
        .and_then(|tls| tls.hsts)
        .map(|age| HeaderValue::try_from(format!("max-age={}", age.as_secs())).expect("digits are visible ASCII"));
    let tls = listener.tls.as_ref().map(load).transpose()?;
    Ok(Rules { tls, h2c: listener.h2c, redirect_to: listener.redirect_to, hsts })
}

fn files(tls: &config::Tls) -> Files {
    let pair = |pair: &config::Certificate| Pair { certificate: pair.certificate.clone(), key: pair.key.clone() };
    let authorities = || tls.client_ca.clone().unwrap_or_default(); // `config` sees to it that there are some
    Files {
        certificates: tls.certificates.iter().map(pair).collect(),
        minimum: match tls.minimum_version {
            TlsVersion::Tls12 => Minimum::Tls12,
            TlsVersion::Tls13 => Minimum::Tls13,
        },
        clients: match tls.client_certificates {
            ClientCertificates::Off => Clients::Anybody,
            ClientCertificates::Optional => Clients::Optional(authorities()),
            ClientCertificates::Required => Clients::Required(authorities()),
        },
        h2: tls.h2,
    }
}

/// When the certificates in use end: Unix seconds by file. Shared with the metrics.
#[derive(Debug, Clone, Default)]
pub(super) struct Expiry(Arc<Mutex<BTreeMap<String, i64>>>);

impl Expiry {
    /// Notes what is in use now, and warns of what ends soon.
    pub fn note<'r>(&self, rules: impl Iterator<Item = &'r Rules>) {
        let now = Timestamp::now().as_second();
        let mut ends = BTreeMap::new();
        for certificate in rules.filter_map(|rules| rules.tls.as_ref()).flat_map(tls::Tls::certificates) {
            let (file, left) = (certificate.path.display().to_string(), certificate.not_after.saturating_sub(now));
            if left <= 0 {
                tracing::error!(file, "this certificate has expired: clients refuse it");
            } else if left.unsigned_abs() < SOON.as_secs() {
                tracing::warn!(file, days = left / 86_400, "this certificate expires soon: renew it");
            }
            ends.insert(file, certificate.not_after);
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ends;
    }

    pub fn all(&self) -> Vec<(String, i64)> {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter().map(|(file, end)| (file.clone(), *end)).collect()
    }
}

/// The content of all certificate files, to tell whether any has changed.
pub(super) async fn contents(listeners: &[config::Listener]) -> Contents {
    let tls = listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let paths = tls.flat_map(|tls| {
        tls.certificates.iter().flat_map(|pair| [&pair.certificate, &pair.key]).chain(tls.client_ca.as_ref())
    });
    let paths: Vec<PathBuf> = paths.cloned().collect();
    read(paths).await
}

pub(super) type Contents = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// A file on a mount that hangs keeps a thread waiting, and nothing else.
#[expect(clippy::disallowed_methods, reason = "one at a time: the next look waits for this one")]
async fn read(paths: Vec<PathBuf>) -> Contents {
    if paths.is_empty() {
        return Contents::new();
    }
    let read = move || paths.into_iter().map(|path| (path.clone(), std::fs::read(path).ok())).collect();
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}
