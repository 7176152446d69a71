//! `/v1/events`: the journal as it grows, as server-sent events.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use http_body_util::channel::{Channel, Sender};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::caller::Peer;
use super::problem::{Problem, TOO_MANY_WATCHERS};
use crate::control::command::Control;
use crate::control::journal::Entry;

/// A share of the connections, so that watchers cannot keep out who wants to abort.
pub const MOST_WATCHERS: usize = 64;

/// How long nothing may be heard: shorter than the idle timeouts of what lies between.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a watcher may leave an event untaken before it is dropped; it resumes with `Last-Event-ID`.
const PATIENCE: Duration = Duration::from_secs(10);

/// Events on the way to one watcher, apart from what its socket holds.
const ON_THE_WAY: usize = 16;

pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// With `Last-Event-ID`, first whatever came after it; without, what comes from now on.
pub async fn watch(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Ok(place) = api.watchers.clone().try_acquire_owned() else {
        let detail = format!("{MOST_WATCHERS} others are watching already");
        return Err(TOO_MANY_WATCHERS.because(detail, "end one of them, or poll `/v1/services`"));
    };
    let after = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok());
    let (first, feed) = catch_up(&api.control, after);
    let (out, body) = Channel::<Bytes>::new(ON_THE_WAY);
    tokio::spawn(async move {
        if follow(first, feed, out, api.closing).await == End::Slow {
            peer.hang_up.cancel();
        }
        drop(place);
    });
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], Body::new(body)).into_response())
}

/// What a watcher missed, and the feed from there on.
fn catch_up(control: &Control, after: Option<u64>) -> (Vec<String>, Receiver<Entry>) {
    // Read first: an entry that comes in between is among the missed, and not taken for a gap.
    let newest = control.journal().newest(|_| true).map_or(0, |entry| entry.revision).max(control.view().revision);
    let (missed, feed) = control.journal().watch(after.unwrap_or(u64::MAX));
    // A comment, so that the watcher hears something at once; the time to reconnect after is for browsers.
    let mut first = vec![": watching\nretry: 1000\n\n".to_owned()];
    if let Some(after) = after {
        let next = missed.first().map_or(newest + 1, |entry| entry.revision);
        if next > after.saturating_add(1) || after > newest {
            first.push(reset(next - 1));
        }
    }
    first.extend(missed.iter().map(event));
    (first, feed)
}

/// How a watch ended.
#[derive(PartialEq, Eq)]
enum End {
    /// The watcher has gone, or the server is going.
    Over,
    /// Events do not get through: the connection is worth nothing, and its place is wanted.
    Slow,
}

async fn follow(
    first: Vec<String>,
    mut feed: Receiver<Entry>,
    mut out: Sender<Bytes>,
    closing: CancellationToken,
) -> End {
    let mut waiting = VecDeque::from(first);
    loop {
        let text = if let Some(text) = waiting.pop_front() {
            text
        } else {
            tokio::select! {
                () = closing.cancelled() => return End::Over,
                () = sleep(HEARTBEAT) => ": still here\n\n".to_owned(),
                entry = feed.recv() => match entry {
                    Ok(entry) => event(&entry),
                    Err(RecvError::Lagged(_)) => return End::Slow,
                    Err(RecvError::Closed) => return End::Over,
                },
            }
        };
        match timeout(PATIENCE, out.send_data(text.into())).await {
            Ok(Ok(())) => {}
            Ok(Err(_gone)) => return End::Over,
            Err(_) => return End::Slow,
        }
    }
}

fn event(entry: &Entry) -> String {
    let data = serde_json::to_value(entry).expect("an entry has string keys only");
    let change = data["change"].as_str().unwrap_or("message");
    format!("id: {}\nevent: {change}\ndata: {data}\n\n", entry.revision)
}

/// Not all of what was missed is still known, or the proxy has restarted: read the state again.
fn reset(revision: u64) -> String {
    format!("id: {revision}\nevent: reset\ndata: {{\"revision\":{revision}}}\n\n")
}
