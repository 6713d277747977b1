//! Queues over HTTP, with JSON: beside gRPC, on the same port, for the same callers.
//!
//! ```text
//!  connection ─▶ CORS ─▶ access ─┬─▶ gRPC services
//!                                ├─▶ /queues/…, /openapi.json    problem+json when something is wrong
//!                                └─▶ /rabbit/…                   {"state", "msg"}
//! ```

mod cors;
mod extract;
mod messages;
mod openapi;
mod problem;
mod queues;
mod rabbit;

pub(super) use cors::cors;
pub(super) use problem::Problem;

use super::{
    Context,
    limits::{HTTP_BODY_BYTES_MAX, HTTP_BODY_IDLE},
};
use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    handler::Handler,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tonic::Status;
use tower_http::timeout::RequestBodyTimeoutLayer;

/// What is served beside the gRPC services.
pub(super) fn router(context: &Context) -> Router {
    Router::new()
        .route("/openapi.json", get(|| async { Json(openapi::document()) }))
        .route("/queues", get(queues::list).post(queues::create))
        .route("/queues/{name}", get(queues::show).delete(queues::delete))
        .route("/queues/{name}/peek", get(messages::peek))
        .route("/queues/{name}/messages", get(messages::receive).post(messages::send).delete(queues::purge))
        .route("/queues/{name}/acks", post(messages::ack))
        .route("/queues/{name}/nacks", post(messages::nack))
        .merge(rabbit::router())
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(HTTP_BODY_BYTES_MAX))
        .layer(RequestBodyTimeoutLayer::new(HTTP_BODY_IDLE))
        .layer(middleware::map_response(unstored))
        .with_state(context.clone())
}

/// All of it, and the gRPC services.
pub(super) fn beside(grpc: Router, context: &Context) -> Router {
    grpc.merge(router(context)).fallback(nothing_there.layer(middleware::map_response(unstored)))
}

/// Whether a call is one of gRPC, which is answered in its own way.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

async fn not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path has other methods: see the header Allow")
}

async fn nothing_there(headers: HeaderMap) -> Response {
    if is_grpc(&headers) {
        return Status::unimplemented("").into_http::<axum::body::Body>().into_response();
    }
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path: /openapi.json says what there is")
        .into_response()
}

/// What a queue has now, nobody may tell later.
async fn unstored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
