//! `/queues/{name}/messages`, and what becomes of those that are received.

#![expect(unused_qualifications, reason = "utoipa writes them")]

use super::{
    extract::{Json, Object, Path, Query, whole},
    problem::{Problem, Refusals},
    queues::Name,
};
use crate::{
    queues::{self, AckMode, Nack, NewMessage, Receive, Received, limits::VISIBILITY_DEFAULT},
    rfc3339::rfc3339,
    service::{
        Context,
        queues::{ask, settle},
    },
};
use axum::{extract::State, http::StatusCode};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};
use utoipa::{IntoParams, ToSchema};

/// Messages to send.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMessages {
    /// In their order; 1 to 1000, with at most 4000000 bytes together. 128 bytes for each message and 16 for each header count, too.
    #[schema(min_items = 1, max_items = 1000, value_type = Vec<Draft>)]
    messages: Vec<Object<Draft>>,
}

/// A message to send: `text` or `base64`, at most 1 MiB; neither is an empty one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewMessage)]
struct Draft {
    /// Its body as text.
    text: Option<String>,
    /// Its body in base64, with padding.
    #[schema(pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$")]
    base64: Option<String>,
    /// What the body is, such as `application/json`, at most 255 bytes.
    #[serde(default)]
    #[schema(required = false, max_length = 255, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    content_type: String,
    /// Small texts beside the body: at most 32, with keys of 1 to 128 bytes and values of at most 1024.
    #[serde(default)]
    #[schema(required = false, value_type = BTreeMap<HeaderKey, HeaderValue>)]
    headers: BTreeMap<String, String>,
}

/// The key of a header, without control characters.
#[derive(ToSchema)]
#[schema(pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,128}$")]
#[expect(dead_code, reason = "only its schema is of use")]
struct HeaderKey(String);

/// The value of a header.
#[derive(ToSchema)]
#[schema(pattern = "^[\\s\\S]{0,1024}$")]
#[expect(dead_code, reason = "only its schema is of use")]
struct HeaderValue(String);

impl Draft {
    fn message(self, n: usize) -> Result<NewMessage, Problem> {
        let Self { text, base64, content_type, headers } = self;
        let wrong = |detail| Err(Problem::bad_field(&format!("messages[{n}]"), detail));
        let body = match (text, base64) {
            (Some(_), Some(_)) => return wrong("either `text` or `base64`, not both"),
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => match BASE64.decode(base64.as_bytes()) {
                Ok(body) => body,
                Err(_) => return wrong("`base64` is not base64 with padding"),
            },
            (None, None) => Vec::new(),
        };
        Ok(NewMessage { body: body.into(), content_type, headers })
    }
}

/// Messages that are in the queue, and durable.
#[derive(Serialize, ToSchema)]
pub(super) struct Sent {
    /// Their ids, in their order.
    ids: Vec<String>,
}

/// How to receive.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// At most so many; there may be fewer, as an answer has at most 4000000 bytes of messages.
    #[param(minimum = 1, maximum = 1000, default = 1)]
    max: Option<u32>,
    /// How long to wait for the first one.
    #[param(minimum = 0, maximum = 60000, default = 0)]
    wait_millis: Option<u32>,
    /// When they leave the queue for good.
    #[param(inline, default = "manual")]
    ack: Option<Ack>,
    /// With `manual`, for how long they are kept from others until they are acknowledged.
    #[param(minimum = 100, maximum = 1_200_000, default = 30000)]
    visibility_millis: Option<u32>,
}

/// When a received message leaves its queue for good: with its receipt, or as it is received. If the answer gets lost, so does the message
/// with `auto`.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Ack {
    Manual,
    Auto,
}

/// How much to see.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HowMany {
    /// At most so many; there may be fewer, as an answer has at most 4000000 bytes of messages.
    #[param(minimum = 1, maximum = 1000, default = 1)]
    max: Option<u32>,
}

/// Messages, oldest first; none if none is there.
#[derive(Serialize, ToSchema)]
pub(super) struct Messages {
    messages: Vec<Message>,
}

/// A message.
#[derive(Serialize, ToSchema)]
struct Message {
    /// The same each time it is delivered; empty if another program sent it without one.
    id: String,
    /// Its body, if that is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Its body in base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// What the body is; missing if that is not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    content_type: String,
    /// Small texts beside the body.
    headers: BTreeMap<String, String>,
    /// When it was sent, as RFC 3339; missing if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<String>,
    /// How often it was delivered before, as far as that is known.
    redeliveries: u32,
    /// By which it is acknowledged or given back; missing if that is not to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    receipt: String,
}

impl From<queues::Message> for Message {
    fn from(message: queues::Message) -> Self {
        let queues::Message { id, body, content_type, headers, sent_millis, redeliveries } = message;
        let (text, base64) = match String::from_utf8(body.into()) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
        };
        let sent = (sent_millis > 0).then(|| rfc3339(sent_millis));
        Self { id, text, base64, content_type, headers, sent, redeliveries, receipt: String::new() }
    }
}

impl From<Received> for Message {
    fn from(received: Received) -> Self {
        Self { receipt: received.receipt, ..received.message.into() }
    }
}

/// Receipts of messages that were received.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Receipts {
    #[schema(min_items = 1, max_items = 1000)]
    receipts: Vec<String>,
}

/// Messages to give back, or to hold for longer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Returned {
    #[schema(min_items = 1, max_items = 1000)]
    receipts: Vec<String>,
    /// Not to give them back, but to hold them for so long from now on; no more than 25 minutes since they were received.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 100, maximum = 1_200_000)]
    extend_millis: Option<u32>,
}

/// What became of receipts.
#[derive(Serialize, ToSchema)]
pub(super) struct Settled {
    /// How many of them were good.
    settled: u32,
    /// Those that are not known (any more): settled already, or the time to do so is over, so that the message is in the queue again.
    unknown: Vec<String>,
}

/// How many messages are asked for.
fn count(max: Option<u32>) -> Result<usize, Problem> {
    let max = max.unwrap_or(1) as usize;
    if max == 0 || max > queues::limits::BATCH_MAX {
        return Err(Problem::bad_field("max", "1 to 1000"));
    }
    Ok(max)
}

fn millis(millis: u32) -> Duration {
    Duration::from_millis(millis.into())
}

/// Puts messages into a queue, in their order. They are durable when this answers. None of them is in the queue if it fails, but for 503,
/// when nobody knows.
#[utoipa::path(post, path = "/queues/{name}/messages", params(Name), request_body = NewMessages, responses((status = 201, description = "They are in the queue.", body = Sent), Refusals))]
pub(super) async fn send(
    State(context): State<Context>,
    Path(Name { name }): Path<Name>,
    Json(NewMessages { messages }): Json<NewMessages>,
) -> Result<(StatusCode, axum::Json<Sent>), Problem> {
    let messages = messages.into_iter().enumerate().map(|(n, Object(draft))| draft.message(n));
    let messages = messages.collect::<Result<_, _>>()?;
    let ids = ask(&context, "name", context.queues.send(&name, messages)).await?;
    Ok((StatusCode::CREATED, axum::Json(Sent { ids })))
}

/// Takes messages out of a queue, oldest first.
#[utoipa::path(get, path = "/queues/{name}/messages", params(Name, How), responses((status = 200, description = "What there is.", body = Messages), Refusals))]
pub(super) async fn receive(
    State(context): State<Context>,
    Path(Name { name }): Path<Name>,
    Query(How { max, wait_millis, ack, visibility_millis }): Query<How>,
) -> Result<axum::Json<Messages>, Problem> {
    let ack = match ack.unwrap_or(Ack::Manual) {
        Ack::Auto => AckMode::Auto,
        Ack::Manual => AckMode::Manual { visibility: visibility_millis.map_or(VISIBILITY_DEFAULT, millis) },
    };
    let receive = Receive { max: count(max)?, wait: millis(wait_millis.unwrap_or_default()), ack };
    let received = ask(&context, "name", context.queues.receive(&name, receive)).await?;
    Ok(axum::Json(Messages { messages: received.into_iter().map(Message::from).collect() }))
}

/// Shows the oldest messages that wait in a queue, also in one of the system's, and leaves them there.
#[utoipa::path(get, path = "/queues/{name}/peek", params(Name, HowMany), responses((status = 200, description = "What there is.", body = Messages), Refusals))]
pub(super) async fn peek(
    State(context): State<Context>,
    Path(Name { name }): Path<Name>,
    Query(HowMany { max }): Query<HowMany>,
) -> Result<axum::Json<Messages>, Problem> {
    let shown = ask(&context, "name", context.queues.peek(&name, count(max)?)).await?;
    Ok(axum::Json(Messages { messages: shown.into_iter().map(Message::from).collect() }))
}

/// Removes received messages for good.
#[utoipa::path(post, path = "/queues/{name}/acks", params(Name), request_body = Receipts, responses((status = 200, description = "What became of the receipts.", body = Settled), Refusals))]
pub(super) async fn ack(
    State(context): State<Context>,
    Path(Name { name }): Path<Name>,
    Json(Receipts { receipts }): Json<Receipts>,
) -> Result<axum::Json<Settled>, Problem> {
    let (settled, unknown) = settle(&context, context.queues.ack(&name, &receipts)).await?;
    Ok(axum::Json(Settled { settled, unknown }))
}

/// Gives received messages back, or holds them for longer.
#[utoipa::path(post, path = "/queues/{name}/nacks", params(Name), request_body = Returned, responses((status = 200, description = "What became of the receipts.", body = Settled), Refusals))]
pub(super) async fn nack(
    State(context): State<Context>,
    Path(Name { name }): Path<Name>,
    Json(Returned { receipts, extend_millis }): Json<Returned>,
) -> Result<axum::Json<Settled>, Problem> {
    let how = extend_millis.map_or(Nack::Requeue, |extend| Nack::Extend(millis(extend)));
    let (settled, unknown) = settle(&context, context.queues.nack(&name, &receipts, how)).await?;
    Ok(axum::Json(Settled { settled, unknown }))
}
