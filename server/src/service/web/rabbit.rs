//! Older paths, for programs that know them: `/rabbit/…`, each answered with `{"state": "OK" | "NO", "msg": …}`. A thin translation to
//! the queues that `/queues` has, under the same rules.

use super::{extract::Path, problem::Problem, queues::Name};
use crate::{
    queues::{AckMode, DeleteIf, NewMessage, Receive},
    service::{Context, queues::ask},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        Form, State,
        rejection::{BytesRejection, FormRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use url::form_urlencoded;

/// What a form's field with a message is called.
const MESSAGE_FIELDS: [&str; 2] = ["message", "msg"];

/// What is answered.
#[derive(Serialize)]
struct Answer {
    state: &'static str,
    msg: String,
    /// `base64` if the message is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

fn ok(status: StatusCode, msg: impl Into<String>) -> Response {
    (status, Json(Answer { state: "OK", msg: msg.into(), encoding: None })).into_response()
}

/// Why not, under the status that `/queues` would have.
struct No(Problem);

impl<P: Into<Problem>> From<P> for No {
    fn from(problem: P) -> Self {
        Self(problem.into())
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let status = self.0.status();
        (status, Json(Answer { state: "NO", msg: self.0.into_detail(), encoding: None })).into_response()
    }
}

/// The form that names a queue to make.
#[derive(Deserialize)]
struct NewQueue {
    nom_queue: String,
}

pub(super) fn router() -> Router<Context> {
    Router::new()
        .route("/rabbit", post(create))
        .route("/rabbit/", post(create))
        .route("/rabbit/{name}", post(send).get(receive).delete(delete))
}

/// Makes a queue; well also if it is there.
async fn create(
    State(context): State<Context>,
    form: Result<Form<NewQueue>, FormRejection>,
) -> Result<Response, No> {
    let Form(NewQueue { nom_queue }) =
        form.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let created = ask(&context, "nom_queue", context.queues.create(&nom_queue)).await?;
    Ok(match created.is_new {
        true => ok(StatusCode::CREATED, format!("queue {nom_queue} is made")),
        false => ok(StatusCode::OK, format!("queue {nom_queue} is there already")),
    })
}

/// Puts one message into a queue: the field `message` (or `msg`) of a form, or the body as it is.
async fn send(
    State(context): State<Context>,
    Path(Name { name }): Path<Name>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, No> {
    let body = body.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let message = if content_type.starts_with("application/x-www-form-urlencoded") {
        let mut fields = form_urlencoded::parse(&body);
        let field = fields.find(|(key, _)| MESSAGE_FIELDS.contains(&&**key));
        let (_, text) = field.ok_or_else(|| Problem::bad_field("message", "the form has no such field"))?;
        NewMessage { body: text.into_owned().into_bytes().into(), ..NewMessage::default() }
    } else {
        NewMessage { body, content_type: content_type.to_owned(), ..NewMessage::default() }
    };
    let ids = ask(&context, "queue", context.queues.send(&name, vec![message])).await?;
    Ok(ok(StatusCode::CREATED, ids.concat()))
}

/// Takes one message out of a queue, for good.
async fn receive(State(context): State<Context>, Path(Name { name }): Path<Name>) -> Result<Response, No> {
    let receive = Receive { max: 1, wait: Duration::ZERO, ack: AckMode::Auto };
    let mut received = ask(&context, "queue", context.queues.receive(&name, receive)).await?;
    let Some(received) = received.pop() else {
        let msg = format!("queue {name} is empty");
        return Ok(Json(Answer { state: "NO", msg, encoding: None }).into_response());
    };
    let (msg, encoding) = match String::from_utf8(received.message.body.into()) {
        Ok(text) => (text, None),
        Err(error) => (BASE64.encode(error.as_bytes()), Some("base64")),
    };
    Ok(Json(Answer { state: "OK", msg, encoding }).into_response())
}

/// Removes a queue with all that is in it.
async fn delete(State(context): State<Context>, Path(Name { name }): Path<Name>) -> Result<Response, No> {
    let messages = ask(&context, "queue", context.queues.delete(&name, DeleteIf::default())).await?;
    Ok(ok(StatusCode::OK, format!("queue {name} is removed, with {messages} messages")))
}
