//! Errors for HTTP clients: `application/problem+json`, as RFC 9457 has it.

use axum::{
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::collections::BTreeMap;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{Content, Ref, RefOr, Response as ApiResponse},
};

/// The media type.
const PROBLEM_JSON: &str = "application/problem+json";

/// What any call may be refused with.
const REFUSALS: [(StatusCode, &str); 12] = [
    (StatusCode::BAD_REQUEST, "Something in the request is wrong: `errors` says which field."),
    (StatusCode::UNAUTHORIZED, "A token is needed, or this one is not known (any more)."),
    (StatusCode::FORBIDDEN, "The queue belongs to the system, or an agent calls."),
    (StatusCode::NOT_FOUND, "There is no such queue."),
    (StatusCode::METHOD_NOT_ALLOWED, "The path has other methods: see the header `Allow`."),
    (StatusCode::CONFLICT, "A condition does not hold."),
    (StatusCode::PAYLOAD_TOO_LARGE, "The body is too long."),
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not said to be `application/json`."),
    (StatusCode::UNPROCESSABLE_ENTITY, "The body is JSON, but not of the documented shape."),
    (
        StatusCode::TOO_MANY_REQUESTS,
        "The queue is full, or too much is held or waits. Try again later: see `Retry-After`.",
    ),
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "The broker can't be used for now, or the coordinator stops. See `Retry-After`.",
    ),
    (StatusCode::INSUFFICIENT_STORAGE, "The coordinator's disk is full."),
];

/// When to try again after a passing failure, in seconds.
const RETRY_AFTER_SECS: u16 = 1;

/// Why a call was not done.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::service) struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// What the status is called.
    title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, for people.
    detail: String,
    /// Which fields are wrong, if it is that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
}

/// A field that is wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct FieldError {
    /// Which, such as `messages[3].headers`.
    field: String,
    /// What is wrong with it.
    detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    pub(super) fn bad_field(field: &str, detail: &str) -> Self {
        let error = FieldError { field: field.to_owned(), detail: detail.to_owned() };
        Self { errors: vec![error], ..Self::new(StatusCode::BAD_REQUEST, format!("{field}: {detail}")) }
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn into_detail(self) -> String {
        self.detail
    }
}

/// The same in words of HTTP.
impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
            // Of those that are not to be tried again soon, it is the disk.
            Code::ResourceExhausted if status.get_details_retry_info().is_none() => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        let error = |violation: tonic_types::FieldViolation| FieldError {
            field: violation.field,
            detail: violation.description,
        };
        Self { errors: violations.into_iter().map(error).collect(), ..Self::new(code, status.message()) }
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let more: Option<(HeaderName, HeaderValue)> = match status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Some((header::RETRY_AFTER, RETRY_AFTER_SECS.into()))
            }
            _ => None,
        };
        let mut response = (status, axum::Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.extend(more);
        response
    }
}

/// For the description of the interface.
pub(super) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<ApiResponse>> {
        let content = || Content::new(Some(Ref::from_schema_name("Problem")));
        let refusal = |(status, what): (StatusCode, &str)| {
            let mut response = ApiResponse::new(what);
            response.content.insert(PROBLEM_JSON.to_owned(), content());
            (status.as_u16().to_string(), response.into())
        };
        REFUSALS.into_iter().map(refusal).collect()
    }
}
