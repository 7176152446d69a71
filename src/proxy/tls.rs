//! TLS towards clients, on rustls with aws-lc-rs: which certificate a name gets, and who a client proves to be.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientCertVerifierBuilder, ClientHello, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio_rustls::rustls;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where a listener's certificates are, and what it asks of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// At least one. The first answers clients whose name no other fits, and those that send none.
    pub certificates: Vec<Pair>,
    pub minimum: Minimum,
    pub clients: Clients,
    /// Whether HTTP/2 is offered (by ALPN) beside HTTP/1.1.
    pub h2: bool,
}

/// A certificate with its chain, and its private key; both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Minimum {
    #[default]
    Tls12,
    Tls13,
}

/// Whether clients are asked for a certificate, and by whom it must be signed (a PEM file of one or more authorities).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Clients {
    #[default]
    Anybody,
    Optional(PathBuf),
    Required(PathBuf),
}

/// Everything loaded: what a worker needs for a handshake.
#[derive(Debug, Clone)]
pub struct Tls {
    pub config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
}

/// Why certificates are not used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("`{}` cannot be read: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("`{}` has no {what} in PEM form", path.display())]
    Empty { path: PathBuf, what: &'static str },
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("`{}` is not the key of `{}`: {reason}", key.display(), certificate.display())]
    Pair { certificate: PathBuf, key: PathBuf, reason: String },
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

impl TlsError {
    /// How to go on.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            TlsError::Read { .. } => "name a file that exists and that this user may read",
            TlsError::Empty { .. } | TlsError::Damaged { .. } => {
                "write PEM: `-----BEGIN CERTIFICATE-----` with the server's own certificate first, then its chain"
            }
            TlsError::Pair { .. } => "put the key that the certificate was made for beside it",
            TlsError::Setup(_) => "see the reason above",
        }
    }
}

/// Reads and checks everything; nothing is used unless all of it can be.
pub fn load(files: &Files) -> Result<Tls, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certificates = Arc::new(Certificates::load(&files.certificates, &provider)?);
    let versions: &[&rustls::SupportedProtocolVersion] = match files.minimum {
        Minimum::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        Minimum::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let builder = match &files.clients {
        Clients::Anybody => builder.with_no_client_auth(),
        Clients::Optional(path) => builder.with_client_cert_verifier(verifier(
            path,
            &provider,
            ClientCertVerifierBuilder::allow_unauthenticated,
        )?),
        Clients::Required(path) => builder.with_client_cert_verifier(verifier(path, &provider, |v| v)?),
    };
    let mut config = builder.with_cert_resolver(certificates.clone());
    let protocols = [&b"h2"[..], b"http/1.1"];
    config.alpn_protocols = protocols[usize::from(!files.h2)..].iter().map(|name| name.to_vec()).collect();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Tls { config: Arc::new(config), certificates })
}

fn verifier(
    path: &Path,
    provider: &Arc<CryptoProvider>,
    ask: impl FnOnce(ClientCertVerifierBuilder) -> ClientCertVerifierBuilder,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let damaged = |reason: String| TlsError::Damaged { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for authority in chain(path)? {
        roots.add(authority).map_err(|error| damaged(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    ask(builder).build().map_err(|error| damaged(error.to_string()))
}

impl Tls {
    /// Every certificate's names and end, for those who watch over them.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.certificates.all.iter()
    }

    /// Whether the certificate that a client with this server name was shown is good for `host` as well (RFC 9110
    /// §7.4): a client may reuse a connection for every name in the certificate, and for no other.
    #[must_use]
    pub fn covers(&self, server_name: Option<&str>, host: &str) -> bool {
        self.certificates.pick(server_name).is_some_and(|certificate| certificate.covers(host))
    }
}

/// The certificates of a listener, by the names they are for.
#[derive(Debug)]
struct Certificates {
    all: Vec<Certificate>,
    /// Lower case; `*.example.com` is kept as `.example.com`.
    by_name: BTreeMap<String, usize>,
}

/// One certificate.
#[derive(Debug)]
pub struct Certificate {
    pub path: PathBuf,
    /// DNS names and IP addresses that it is for.
    pub names: Vec<String>,
    /// When it ends, in seconds of Unix time.
    pub not_after: i64,
    key: Arc<CertifiedKey>,
}

impl Certificates {
    fn load(pairs: &[Pair], provider: &CryptoProvider) -> Result<Certificates, TlsError> {
        let all = pairs.iter().map(|pair| Certificate::load(pair, provider)).collect::<Result<Vec<_>, _>>()?;
        let mut by_name = BTreeMap::new();
        for (index, certificate) in all.iter().enumerate() {
            for name in &certificate.names {
                let name = name.strip_prefix('*').unwrap_or(name).to_owned();
                by_name.entry(name).or_insert(index); // the first one stated wins
            }
        }
        Ok(Certificates { all, by_name })
    }

    /// The certificate for a name: its own, else the wildcard above it, else the first one.
    fn pick(&self, server_name: Option<&str>) -> Option<&Certificate> {
        let named = server_name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = name.find('.').and_then(|dot| self.by_name.get(&name[dot..]));
            self.by_name.get(&name).or(wildcard)
        });
        named.and_then(|index| self.all.get(*index)).or_else(|| self.all.first())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pick(hello.server_name()).map(|certificate| certificate.key.clone())
    }
}

impl Certificate {
    fn load(pair: &Pair, provider: &CryptoProvider) -> Result<Certificate, TlsError> {
        let chain = chain(&pair.certificate)?;
        let damaged = |reason: String| TlsError::Damaged { path: pair.certificate.clone(), reason };
        let first = chain.first().expect("`chain` refuses a file without a certificate");
        let (_, parsed) = X509Certificate::from_der(first).map_err(|error| damaged(error.to_string()))?;
        let (names, not_after) = (names(&parsed), parsed.validity().not_after.timestamp());
        let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| of_pem(&pair.key, "private key", error))?;
        let mismatch = |error: rustls::Error| TlsError::Pair {
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
            reason: error.to_string(),
        };
        let key = CertifiedKey::from_der(chain.clone(), key, provider).map_err(mismatch)?;
        Ok(Certificate { path: pair.certificate.clone(), names, not_after, key: Arc::new(key) })
    }

    fn covers(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let below = host.find('.').map(|dot| &host[dot..]);
        let fits = |name: &String| match name.strip_prefix('*') {
            Some(parent) => below == Some(parent),
            None => *name == host,
        };
        self.names.iter().any(fits)
    }
}

/// The names of a certificate: its alternative ones (RFC 9525: the common name is not looked at).
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    };
    alternatives.value.general_names.iter().filter_map(name).collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(|four| std::net::Ipv4Addr::from(four).to_string());
    let sixteen = || <[u8; 16]>::try_from(bytes).map(|sixteen| std::net::Ipv6Addr::from(sixteen).to_string());
    four.or_else(|_| sixteen()).ok()
}

/// All certificates of a PEM file: at least one.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let all = CertificateDer::pem_file_iter(path).map_err(|error| of_pem(path, what, error))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|error| of_pem(path, what, error))?;
    if all.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), what });
    }
    Ok(all)
}

fn of_pem(path: &Path, what: &'static str, error: rustls::pki_types::pem::Error) -> TlsError {
    let path = path.to_owned();
    match error {
        rustls::pki_types::pem::Error::Io(error) => TlsError::Read { path, error },
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::Empty { path, what },
        error => TlsError::Damaged { path, reason: error.to_string() },
    }
}

/// Who a client has proven to be: its certificate's subject, as RFC 4514 writes it.
#[must_use]
pub fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.subject().to_string())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    struct Folder(TempDir);

    impl Folder {
        fn pair(&self, name: &str, names: &[&str]) -> Pair {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let made = rcgen::generate_simple_self_signed(names).unwrap();
            let pair = Pair {
                certificate: self.0.path().join(format!("{name}.crt")),
                key: self.0.path().join(format!("{name}.key")),
            };
            std::fs::write(&pair.certificate, made.cert.pem()).unwrap();
            std::fs::write(&pair.key, made.signing_key.serialize_pem()).unwrap();
            pair
        }
    }

    fn files(certificates: Vec<Pair>) -> Files {
        Files { certificates, minimum: Minimum::Tls12, clients: Clients::Anybody, h2: true }
    }

    #[test]
    fn the_certificate_follows_the_name() {
        let folder = Folder(TempDir::new().unwrap());
        let first = folder.pair("first", &["default.example"]);
        let exact = folder.pair("exact", &["a.example.com"]);
        let wild = folder.pair("wild", &["*.example.com"]);
        let tls = load(&files(vec![first, wild, exact])).unwrap();
        let shown = |name: Option<&str>| tls.certificates.pick(name).unwrap().names[0].clone();
        assert_eq!(shown(Some("a.example.com")), "a.example.com");
        assert_eq!(shown(Some("B.Example.COM")), "*.example.com");
        assert_eq!(shown(Some("a.b.example.com")), "default.example", "a wildcard stands for one label");
        assert_eq!(shown(Some("example.com")), "default.example");
        assert_eq!(shown(None), "default.example");
    }

    #[test]
    fn a_connection_is_good_for_the_names_of_its_certificate() {
        let folder = Folder(TempDir::new().unwrap());
        let tls = load(&files(vec![folder.pair("x", &["a.example.com", "*.b.example.com", "127.0.0.1"])])).unwrap();
        for (host, covered) in [
            ("a.example.com", true),
            ("A.EXAMPLE.COM.", true),
            ("x.b.example.com", true),
            ("127.0.0.1", true),
            ("y.x.b.example.com", false),
            ("b.example.com", false),
            ("other.example.com", false),
        ] {
            assert_eq!(tls.covers(Some("a.example.com"), host), covered, "{host}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_by_file() {
        let folder = Folder(TempDir::new().unwrap());
        let (one, other) = (folder.pair("one", &["a"]), folder.pair("other", &["b"]));
        let error = |pair: Pair| load(&files(vec![pair])).unwrap_err().to_string();
        let crossed = error(Pair { certificate: one.certificate.clone(), key: other.key.clone() });
        assert!(crossed.contains("other.key") && crossed.contains("one.crt"), "{crossed}");
        let missing = error(Pair { certificate: folder.0.path().join("none.crt"), key: one.key.clone() });
        assert!(missing.contains("none.crt") && missing.contains("cannot be read"), "{missing}");
        let swapped = error(Pair { certificate: one.key.clone(), key: one.key.clone() });
        assert!(swapped.contains("no certificate"), "{swapped}");
        std::fs::write(&one.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(error(one).contains("damaged"));
    }
}
