//! Every error of this API, as RFC 9457 has it: what is wrong in general, what is wrong here, and how to go on.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::control::capacity::Overloaded;
use crate::control::command::Refused;
use crate::domain::amendments;
use crate::domain::standing::Refusal;

/// The body of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable name for scripts, as a relative reference.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// The same for every problem of this type.
    pub title: Cow<'static, str>,
    pub status: u16,
    /// What is wrong this time.
    pub detail: Box<str>,
    /// How to go on.
    pub help: Box<str>,
    /// The fields that are wrong, if it is about fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// RFC 6901, into the request's body.
    pub pointer: String,
    pub detail: String,
}

/// A kind of problem. The paths are a promise: scripts match on them.
pub struct Kind {
    path: &'static str,
    title: &'static str,
    status: StatusCode,
}

impl Kind {
    const fn new(path: &'static str, title: &'static str, status: StatusCode) -> Kind {
        Kind { path, title, status }
    }

    pub fn because(&self, detail: impl Into<String>, help: impl Into<String>) -> Problem {
        Problem {
            kind: self.path.into(),
            title: self.title.into(),
            status: self.status.as_u16(),
            detail: detail.into().into(),
            help: help.into().into(),
            errors: vec![],
        }
    }
}

impl Problem {
    /// A body that is JSON and still wrong, at `pointer`.
    pub fn field(pointer: impl Into<String>, detail: impl Into<String>, help: impl Into<String>) -> Problem {
        let (pointer, detail) = (pointer.into(), detail.into());
        let mut problem = INVALID.because(detail.clone(), help);
        problem.errors.push(FieldError { pointer, detail });
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        let detail = refused.to_string();
        match refused {
            Refused::NoService(_) => NO_SUCH_SERVICE.because(detail, "`GET /v1/services` lists the services"),
            Refused::NoVersion(..) => {
                Problem::field("/version", detail, "`GET /v1/services` lists the versions of each service")
            }
            Refused::PreconditionRequired { current } => PRECONDITION_REQUIRED.because(
                detail,
                format!("send `If-Match: \"{current}\"` to raise it from what it is now; lowering needs none"),
            ),
            Refused::PreconditionFailed { current, .. } => PRECONDITION_FAILED.because(
                format!("the service is now at revision {current}, which `If-Match` does not name"),
                format!("read the split again, and send `If-Match: \"{current}\"` if you still want this"),
            ),
            Refused::Conflict(Refusal::Sealed(version)) => SEALED.because(
                detail,
                format!("see why with `GET /v1/services`, then POST `:unseal` with `{{\"version\":\"{version}\"}}`"),
            ),
            Refused::Conflict(Refusal::NoCanary) => {
                NO_CANARY.because(detail, "name a canary in the configuration file first")
            }
            Refused::Overloaded(Overloaded { fits, .. }) => OVERLOADED.because(
                detail,
                format!("add endpoints, or choose {fits} at most; `?force=true` (`--force`) does it all the same"),
            ),
            Refused::Conflict(Refusal::Exposed(..)) => {
                IN_USE.because(detail, "set its weight to 0% or abort it first; then name the other one")
            }
            Refused::Conflict(Refusal::IsStable(_)) => IN_USE.because(detail, "name another version"),
            Refused::Closed(_) => {
                CLOSED.because(detail, "see its endpoints with `GET /v1/services/{service}/versions`")
            }
            Refused::Amendment(refusal) => amendment(&refusal, detail),
            Refused::InUse(_) => IN_USE.because(detail, "list the version again, or reload with `force_drain`"),
            Refused::NotKept(_) => NOT_KEPT
                .because(detail, "mend the store (space, permissions); nothing has changed; lowering works as ever"),
            Refused::Unavailable => UNAVAILABLE.because(detail, "try again in a moment"),
        }
    }
}

/// What a request about versions and endpoints runs into.
fn amendment(refusal: &amendments::Refusal, detail: String) -> Problem {
    use amendments::Refusal as R;
    match refusal {
        R::NoVersion(_) => NO_SUCH_VERSION.because(detail, "`GET /v1/services/{service}/versions` lists them"),
        R::NoEndpoint(version, _) => {
            let help = format!("`GET /v1/services/{{service}}/versions/{version}/endpoints` lists them");
            NO_SUCH_ENDPOINT.because(detail, help)
        }
        R::LastOfStable(..) => {
            LAST.because(detail, "make another one ready first; `?force=true` takes it all the same, and requests fail")
        }
        R::InUse(..) => IN_USE.because(detail, "move its traffic to another version first, or abort it"),
        R::Exists(_) => EXISTS.because(detail, "add and remove its endpoints one by one"),
        R::Listed(..) => EXISTS.because(detail, "name it as it is listed"),
        R::TooMany { .. } => Problem::field("", detail, "remove some that are no longer in use"),
    }
}

use StatusCode as S;

pub const BAD_PATH: Kind = Kind::new("/problems/bad-path", "The path cannot be read", S::BAD_REQUEST);
pub const BAD_BODY: Kind = Kind::new("/problems/bad-body", "The body cannot be read", S::BAD_REQUEST);
pub const BAD_HEADER: Kind = Kind::new("/problems/bad-header", "A header field is not acceptable", S::BAD_REQUEST);
pub const FOREIGN: Kind = Kind::new("/problems/foreign-origin", "Sent by a foreign web page", S::FORBIDDEN);
pub const NO_SUCH_PATH: Kind = Kind::new("/problems/no-such-path", "No such path", S::NOT_FOUND);
pub const NO_SUCH_SERVICE: Kind = Kind::new("/problems/no-such-service", "No such service", S::NOT_FOUND);
pub const NO_SUCH_VERSION: Kind = Kind::new("/problems/no-such-version", "No such version", S::NOT_FOUND);
pub const NO_SUCH_ENDPOINT: Kind = Kind::new("/problems/no-such-endpoint", "No such endpoint", S::NOT_FOUND);
pub const CLOSED: Kind = Kind::new("/problems/version-closed", "No endpoint of it may serve", S::CONFLICT);
pub const LAST: Kind = Kind::new("/problems/last-endpoint", "Stable's last endpoint that serves", S::CONFLICT);
pub const EXISTS: Kind = Kind::new("/problems/exists", "It is there already", S::CONFLICT);
pub const METHOD: Kind = Kind::new("/problems/method-not-allowed", "Method not allowed", S::METHOD_NOT_ALLOWED);
pub const TOO_SLOW: Kind = Kind::new("/problems/timeout", "The request took too long", S::REQUEST_TIMEOUT);
pub const NO_CANARY: Kind = Kind::new("/problems/no-canary", "There is no canary", S::CONFLICT);
pub const SEALED: Kind = Kind::new("/problems/sealed", "The version is sealed", S::CONFLICT);
pub const OVERLOADED: Kind = Kind::new("/problems/capacity", "The version cannot carry that much", S::CONFLICT);
pub const PRECONDITION_FAILED: Kind =
    Kind::new("/problems/precondition-failed", "The service has changed", S::PRECONDITION_FAILED);
pub const TOO_LARGE: Kind = Kind::new("/problems/body-too-large", "The body is too large", S::PAYLOAD_TOO_LARGE);
pub const NOT_JSON: Kind = Kind::new("/problems/not-json", "The body must be JSON", S::UNSUPPORTED_MEDIA_TYPE);
pub const MISDIRECTED: Kind = Kind::new("/problems/unknown-host", "Unknown host", S::MISDIRECTED_REQUEST);
pub const INVALID: Kind = Kind::new("/problems/invalid-field", "A field is not acceptable", S::UNPROCESSABLE_ENTITY);
pub const PRECONDITION_REQUIRED: Kind =
    Kind::new("/problems/precondition-required", "Precondition required", S::PRECONDITION_REQUIRED);
pub const IN_USE: Kind = Kind::new("/problems/version-in-use", "The version is in use", S::CONFLICT);
pub const NOT_KEPT: Kind = Kind::new("/problems/store", "The store cannot keep it", S::INSUFFICIENT_STORAGE);
pub const BAD_FILE: Kind = Kind::new("/problems/configuration", "The file is not taken", S::UNPROCESSABLE_ENTITY);
pub const NO_FILE: Kind = Kind::new("/problems/no-file", "There is no file to read", S::CONFLICT);
pub const UNAVAILABLE: Kind = Kind::new("/problems/unavailable", "The engine is not available", S::SERVICE_UNAVAILABLE);
pub const NOT_READY: Kind = Kind::new("/problems/not-ready", "Not ready for traffic", S::SERVICE_UNAVAILABLE);
pub const TOO_MANY_WATCHERS: Kind =
    Kind::new("/problems/too-many-watchers", "Too many watchers", S::SERVICE_UNAVAILABLE);
