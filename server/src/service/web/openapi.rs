//! The description of the interface, for programs: OpenAPI 3.1. It is published as `docs/openapi.json`, too.

use super::{messages, problem, queues};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Piecework",
        description = "Named queues for anybody's messages: durable, and delivered at least once. Errors are problems as RFC 9457 has them.",
    ),
    paths(
        queues::list,
        queues::create,
        queues::show,
        queues::delete,
        queues::purge,
        messages::send,
        messages::receive,
        messages::peek,
        messages::ack,
        messages::nack
    ),
    components(schemas(problem::Problem)),
    security(("token" = [])),
    modifiers(&Token)
)]
struct Interface;

/// Who calls shows a token.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let how = "Made by `piecework tokens create`. None is needed over the coordinator's Unix socket.";
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(how)).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The document.
pub(super) fn document() -> openapi::OpenApi {
    Interface::openapi()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, fs, path::Path};

    #[test]
    fn the_published_document_is_current() {
        let current = document().to_pretty_json().unwrap() + "\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        if env::var_os("PIECEWORK_UPDATE_DOCS").is_some() {
            fs::write(&path, &current).unwrap();
        }
        let published = fs::read_to_string(&path).unwrap_or_default();
        let how = "run `PIECEWORK_UPDATE_DOCS=1 cargo test -p piecework-server published`";
        assert!(published == current, "docs/openapi.json is not current: {how}");
    }
}
