//! `[[listeners]]`: where clients connect, and how they are spoken to there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::file::{At, Field, Place, Table};
use super::value::{self, Bounds};

/// One listener, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    /// Without TLS: HTTP/2 for clients that begin with it (prior knowledge), beside HTTP/1.1.
    pub h2c: bool,
    /// Without TLS: every request is sent to the same place at this port, with TLS.
    pub redirect_to: Option<u16>,
    /// `None`: plain text.
    pub tls: Option<Tls>,
}

/// `[listeners.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// At least one; the first is the default.
    pub certificates: Vec<Certificate>,
    pub minimum_version: TlsVersion,
    pub client_certificates: ClientCertificates,
    /// The authorities that client certificates must come from; there when any are asked for.
    pub client_ca: Option<PathBuf>,
    /// For how long browsers are to insist on TLS (RFC 6797); `None`: they are not told.
    pub hsts: Option<Duration>,
    pub h2: bool,
}

/// PEM files, relative to the working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    #[default]
    Tls12,
    Tls13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    #[default]
    Off,
    Optional,
    Required,
}

pub(super) const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
pub(super) const CLIENTS: [(&str, ClientCertificates); 3] = [
    ("off", ClientCertificates::Off),
    ("optional", ClientCertificates::Optional),
    ("required", ClientCertificates::Required),
];

const HSTS: Bounds = Bounds {
    least: Duration::from_secs(1),
    most: Duration::from_hours(3 * 365 * 24),
    why: "browsers keep to it for so long, and it cannot be taken back; two years is usual once all is well",
};

const FORM: &str = "[[listeners]]";
const CERTIFICATES: &str = "certificates = [{ certificate = \"site.crt\", key = \"site.key\" }]";

pub(super) fn read(field: Field<'_>) -> Option<At<'_, Listener>> {
    let mut table = field.table(FORM)?;
    let address = table.required("address", "address = \"127.0.0.1:8080\"");
    let address = address.and_then(|field| value::socket_address(&field));
    let h2c = table.get("h2c").and_then(|field| Some((field.boolean()?, field)));
    let redirect = table.get("redirect_to_https").and_then(|field| Some((redirect(&field)?, field)));
    let tls_written = table.get("tls");
    let has_tls = tls_written.is_some();
    let tls = tls_written.and_then(Field::section).map(tls);
    table.finish();
    for (key, place, on) in [
        ("h2c", h2c.as_ref().map(|(_, field)| &field.place), h2c.as_ref().is_some_and(|(on, _)| *on)),
        ("redirect_to_https", redirect.as_ref().map(|(_, field)| &field.place), redirect.is_some()),
    ] {
        if let (true, true, Some(place)) = (has_tls, on, place) {
            place.error(
                format!("`{key}` is for listeners without TLS"),
                "remove it, or give the plain port a listener of its own: another `[[listeners]]`",
            );
        }
    }
    let At { value: address, place } = address?;
    let (h2c, redirect_to) = (h2c.is_some_and(|(on, _)| on), redirect.map(|(port, _)| port));
    Some(At { value: Listener { address, h2c, redirect_to, tls }, place })
}

/// `true` for the usual port, or a port.
fn redirect(field: &Field<'_>) -> Option<u16> {
    if field.is_boolean() {
        return field.boolean()?.then_some(443);
    }
    let number = field.integer("443")?;
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        field.place.error(format!("`{number}` is not a port"), "write `true` for port 443, or a port from 1 to 65535");
    }
    port
}

fn tls(mut table: Table<'_>) -> Tls {
    let place = table.place.clone();
    let certificates = table.required("certificates", CERTIFICATES);
    let certificates = certificates.map(|field| certificates_of(&field)).unwrap_or_default();
    let minimum_version = table.get("minimum_version").and_then(|field| value::word(&field, &VERSIONS));
    let client_certificates = table.get("client_certificates").and_then(|field| value::word(&field, &CLIENTS));
    let client_certificates = client_certificates.unwrap_or_default();
    let client_ca = table.get("client_ca").and_then(|field| value::path(&field, "clients.crt"));
    let hsts = table.get("hsts").filter(|field| !field.is_text_of("off"));
    let hsts = hsts.and_then(|field| value::duration(&field, &HSTS));
    let h2 = table.get("h2").and_then(|field| field.boolean()).unwrap_or(true);
    table.finish();
    check_clients(&place, client_certificates, client_ca.as_ref());
    Tls {
        certificates,
        minimum_version: minimum_version.unwrap_or_default(),
        client_certificates,
        client_ca: client_ca.map(|path| path.value),
        hsts,
        h2,
    }
}

fn check_clients(place: &Place<'_>, asked: ClientCertificates, authorities: Option<&At<'_, PathBuf>>) {
    match (asked, authorities) {
        (ClientCertificates::Off, Some(path)) => path.place.error(
            "clients are not asked for certificates",
            "write `client_certificates = \"required\"` (or \"optional\"), or remove `client_ca`",
        ),
        (ClientCertificates::Optional | ClientCertificates::Required, None) => place.missing(
            "client certificates are asked for, and nobody is said to sign them",
            "add `client_ca = \"clients.crt\"`, a PEM file of the authorities",
        ),
        _ => {}
    }
}

fn certificates_of(field: &Field<'_>) -> Vec<Certificate> {
    let Some(items) = field.items(CERTIFICATES) else { return Vec::new() };
    if items.is_empty() {
        field.place.error("no certificates", format!("write `{CERTIFICATES}`"));
    }
    items.into_iter().filter_map(certificate).collect()
}

fn certificate(field: Field<'_>) -> Option<Certificate> {
    let mut table = field.table("{ certificate = \"site.crt\", key = \"site.key\" }")?;
    let certificate = table.required("certificate", "certificate = \"site.crt\"");
    let certificate = certificate.and_then(|field| value::path(&field, "site.crt"));
    let key = table.required("key", "key = \"site.key\"").and_then(|field| value::path(&field, "site.key"));
    table.finish();
    Some(Certificate { certificate: certificate?.value, key: key?.value })
}
