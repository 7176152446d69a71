//! JSON in, and a pointer to whatever is wrong in it.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};

use super::problem::{BAD_BODY, Problem, TOO_LARGE};

/// The largest body taken: far above any of ours.
pub const LARGEST: usize = 1 << 20;

/// A request's body, whole, not read yet.
pub struct Body(Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body, Problem> {
        let read = Bytes::from_request(request, state).await;
        read.map(Body).map_err(|rejection| match rejection.into_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                TOO_LARGE.because(format!("the body is larger than {LARGEST} bytes"), "no request needs that much")
            }
            _ => BAD_BODY.because("the body ended early", "send it again"),
        })
    }
}

impl Body {
    /// Reads the fields; `example` shows how they are written.
    pub fn json<T: DeserializeOwned>(&self, example: &str) -> Result<T, Problem> {
        let help = || format!("write {example}");
        // A struct would also be read from an array of its fields.
        if !self.0.trim_ascii_start().starts_with(b"{") {
            return Err(BAD_BODY.because("the body is not a JSON object", help()));
        }
        let mut text = serde_json::Deserializer::from_slice(&self.0);
        let read = serde_path_to_error::deserialize(&mut text).map_err(|error| {
            let (pointer, error) = (pointer(error.path()), error.into_inner());
            match error.classify() {
                Category::Data => Problem::field(pointer, without_place(&error), help()),
                _ => BAD_BODY.because(format!("the body is not JSON: {error}"), help()),
            }
        })?;
        text.end().map_err(|error| BAD_BODY.because(format!("the body is not JSON: {error}"), help()))?;
        Ok(read)
    }

    /// As [`Body::json`]; no body is an empty object.
    pub fn json_if_any<T: DeserializeOwned + Default>(&self, example: &str) -> Result<T, Problem> {
        if self.0.is_empty() { Ok(T::default()) } else { self.json(example) }
    }
}

/// RFC 6901.
fn pointer(path: &Path) -> String {
    let token = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key: name } | Segment::Enum { variant: name } => {
            format!("/{}", name.replace('~', "~0").replace('/', "~1"))
        }
        Segment::Unknown => String::new(),
    };
    path.iter().map(token).collect()
}

/// The message alone: the pointer says where.
fn without_place(error: &serde_json::Error) -> String {
    let (message, place) = (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
    message.strip_suffix(&place).unwrap_or(&message).to_owned()
}
