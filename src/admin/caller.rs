//! Who asks for a change, why, and what they believe the present state to be.

use std::net::SocketAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use tokio_util::sync::CancellationToken;

use super::problem::{BAD_HEADER, Problem};
use crate::control::capacity::Overload;
use crate::control::command::{Precondition, Run};
use crate::control::journal::Actor;

/// Kept in every journal entry, and shown on one line.
pub const ACTOR: HeaderName = HeaderName::from_static("penstock-actor");
const LONGEST_ACTOR: usize = 128;
pub const REASON: HeaderName = HeaderName::from_static("penstock-reason");
const LONGEST_REASON: usize = 512;

/// The connection's other end, put into each request by the server.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// Cuts the connection, whatever is still on its way.
    pub hang_up: CancellationToken,
}

/// What a request says about its sender.
#[derive(Debug)]
pub struct Caller {
    pub actor: Actor,
    pub peer: SocketAddr,
    pub precondition: Precondition,
    pub overload: Overload,
    pub run: Run,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        let peer = parts.extensions.get::<Peer>().expect("the server puts the peer into every request").address;
        let name = line(&parts.headers, &ACTOR, LONGEST_ACTOR)?.unwrap_or_else(|| format!("api {}", peer.ip()));
        let reason = line(&parts.headers, &REASON, LONGEST_REASON)?;
        let asks = |flag| parts.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == flag));
        // Whoever asks knows better than the declared capacity; or only wants to know.
        let overload = if asks("force=true") { Overload::Accepted } else { Overload::Refused };
        let run = if asks("dry_run=true") { Run::Dry } else { Run::Real };
        let precondition = precondition(&parts.headers);
        Ok(Caller { actor: Actor { name, reason }, peer, precondition, overload, run })
    }
}

/// One line of text for people: UTF-8, bounded, without anything that could steer a terminal or forge a log line.
fn line(headers: &HeaderMap, name: &HeaderName, longest: usize) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match std::str::from_utf8(value.as_bytes()).map(str::trim) {
        Ok("") => Ok(None),
        Ok(text) if text.len() <= longest && !text.contains(char::is_control) => Ok(Some(text.to_owned())),
        _ => {
            let help = format!("send UTF-8 of at most {longest} bytes without control characters");
            Err(BAD_HEADER.because(format!("`{name}` is not one line of text"), help))
        }
    }
}

/// Matches no revision: what an entity tag that cannot be ours is read as.
const NO_REVISION: u64 = u64::MAX;

/// `If-Match` (RFC 9110 §13.1.1) with the one strong tag that we give out. Anything else matches nothing, rather than
/// being an error: a request that lowers is carried out whatever it says here.
fn precondition(headers: &HeaderMap) -> Precondition {
    let Some(value) = headers.get(header::IF_MATCH) else { return Precondition::None };
    match value.to_str().map(str::trim) {
        Ok("*") => Precondition::Any,
        Ok(tag) => Precondition::Revision(revision(tag).unwrap_or(NO_REVISION)),
        Err(_) => Precondition::Revision(NO_REVISION),
    }
}

/// The revision in `"12"`.
fn revision(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_strong_tag_matches() {
        let read = |value: &str| precondition(&HeaderMap::from_iter([(header::IF_MATCH, value.parse().unwrap())]));
        assert_eq!(precondition(&HeaderMap::new()), Precondition::None);
        assert_eq!(read("*"), Precondition::Any);
        assert_eq!(read("\"12\""), Precondition::Revision(12));
        for foreign in ["12", "W/\"12\"", "\"+12\"", "\"\"", "\"1\", \"2\"", "\"a\""] {
            assert_eq!(read(foreign), Precondition::Revision(NO_REVISION), "{foreign}");
        }
    }
}
