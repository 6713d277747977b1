//! Which web pages may use the queues: those of the origins that the operator names, and none by default.

use axum::http::{HeaderValue, Method, header};
use std::time::Duration;
use tower::{
    layer::util::Identity,
    util::{Either, option_layer},
};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

/// For how long a browser may believe an answer.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Lets pages of these origins in, `*` for all. Who calls must show a token all the same: a page has to be given one.
pub(in crate::service) fn cors(origins: &[String]) -> Either<CorsLayer, Identity> {
    if origins.is_empty() {
        return option_layer(None);
    }
    let origins: AllowOrigin = if origins.iter().any(|origin| origin == "*") {
        Any.into()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    option_layer(Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
            .expose_headers([header::LOCATION, header::RETRY_AFTER, header::WWW_AUTHENTICATE, header::ALLOW])
            .max_age(MAX_AGE),
    ))
}
