//! `/queues`: which there are, and what is in them.

#![expect(unused_qualifications, reason = "utoipa writes them")]

use super::{
    extract::{Json, Path, Query},
    problem::{Problem, Refusals},
};
use crate::{
    queues::{self, DeleteIf, QueueInfo},
    rfc3339::rfc3339,
    service::{Context, limits::LIST_DEFAULT, queues::ask},
};
use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which queue.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Name {
    /// The queue's name.
    #[param(pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
    pub(super) name: String,
}

/// Which queues.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only those behind this name: the `next` of the page before.
    after: Option<String>,
}

/// Queues, by name.
#[derive(Serialize, ToSchema)]
pub(super) struct Queues {
    queues: Vec<Queue>,
    /// The `after` of the next page; missing on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What is known of a queue.
#[derive(Serialize, ToSchema)]
pub(super) struct Queue {
    /// Its name.
    name: String,
    /// Messages that wait to be received.
    ready: u64,
    /// Messages that are received and not yet acknowledged.
    unacked: u64,
    /// Calls that wait for messages and, with RabbitMQ, consumers of other programs.
    consumers: u64,
    /// Messages a second that come in through this coordinator, averaged over about 10 seconds.
    in_per_sec: f64,
    /// Messages a second that leave for good through this coordinator, likewise.
    out_per_sec: f64,
    /// When it was created, as RFC 3339; missing for the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    /// Whether it belongs to the system: it can be peeked at, and nothing else.
    system: bool,
    /// Why it can't be used for now; the numbers are 0 then.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

impl From<QueueInfo> for Queue {
    fn from(queue: QueueInfo) -> Self {
        Self {
            name: queue.name,
            ready: queue.ready,
            unacked: queue.unacked,
            consumers: queue.consumers,
            in_per_sec: queue.in_per_sec,
            out_per_sec: queue.out_per_sec,
            created: (queue.created_millis > 0).then(|| rfc3339(queue.created_millis)),
            system: queue.system,
            trouble: queue.trouble,
        }
    }
}

/// A queue to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewQueue {
    /// Its name: 1 to 128 letters, digits, `-`, `_` and `.`, which begins with neither `-` nor `.`, nor with the prefix of the
    /// system's.
    #[schema(pattern = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
    name: String,
}

/// On which conditions a queue is deleted.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Conditions {
    /// Only if nothing is in it, delivered or not.
    #[serde(default)]
    #[param(required = false, default = false)]
    if_empty: bool,
    /// Only if nobody waits for its messages, and none is delivered and not yet acknowledged.
    #[serde(default)]
    #[param(required = false, default = false)]
    if_unused: bool,
}

/// Messages that are gone.
#[derive(Serialize, ToSchema)]
pub(super) struct Removed {
    /// How many there were.
    messages: u64,
}

/// Lists queues by name, the system's among them.
#[utoipa::path(get, path = "/queues", params(Which), responses((status = 200, description = "A page of queues.", body = Queues), Refusals))]
pub(super) async fn list(
    State(context): State<Context>,
    Query(Which { limit, after }): Query<Which>,
) -> Result<axum::Json<Queues>, Problem> {
    let limit = limit.unwrap_or(LIST_DEFAULT);
    if limit == 0 || limit as usize > queues::limits::LIST_MAX {
        return Err(Problem::bad_field("limit", "1 to 1000"));
    }
    let page = ask(&context, "name", context.queues.list(after.as_deref(), limit as usize)).await?;
    Ok(axum::Json(Queues { queues: page.queues.into_iter().map(Queue::from).collect(), next: page.next }))
}

/// Makes a queue, unless it is there.
#[utoipa::path(
    post,
    path = "/queues",
    request_body = NewQueue,
    responses(
        (status = 201, description = "It was made.", body = Queue, headers(("Location", description = "Its path."))),
        (status = 200, description = "It was there.", body = Queue, headers(("Location", description = "Its path."))),
        Refusals
    )
)]
pub(super) async fn create(
    State(context): State<Context>,
    Json(NewQueue { name }): Json<NewQueue>,
) -> Result<Response, Problem> {
    let created = ask(&context, "name", context.queues.create(&name)).await?;
    let status = if created.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let location = [(header::LOCATION, format!("/queues/{name}"))];
    Ok((status, location, axum::Json(Queue::from(created.queue))).into_response())
}

/// Shows a queue.
#[utoipa::path(get, path = "/queues/{name}", params(Name), responses((status = 200, description = "The queue.", body = Queue), Refusals))]
pub(super) async fn show(
    State(context): State<Context>,
    Path(Name { name }): Path<Name>,
) -> Result<axum::Json<Queue>, Problem> {
    let queue = ask(&context, "name", context.queues.get(&name)).await?;
    Ok(axum::Json(queue.into()))
}

/// Removes a queue with all that is in it. 409 if a condition does not hold.
#[utoipa::path(delete, path = "/queues/{name}", params(Name, Conditions), responses((status = 200, description = "It is gone, with so many messages.", body = Removed), Refusals))]
pub(super) async fn delete(
    State(context): State<Context>,
    Path(Name { name }): Path<Name>,
    Query(Conditions { if_empty, if_unused }): Query<Conditions>,
) -> Result<axum::Json<Removed>, Problem> {
    let conditions = DeleteIf { empty: if_empty, unused: if_unused };
    let messages = ask(&context, "name", context.queues.delete(&name, conditions)).await?;
    Ok(axum::Json(Removed { messages }))
}

/// Removes all messages that wait in a queue. Those that are received and not yet acknowledged stay.
#[utoipa::path(delete, path = "/queues/{name}/messages", params(Name), responses((status = 200, description = "So many are gone.", body = Removed), Refusals))]
pub(super) async fn purge(
    State(context): State<Context>,
    Path(Name { name }): Path<Name>,
) -> Result<axum::Json<Removed>, Problem> {
    let messages = ask(&context, "name", context.queues.purge(&name)).await?;
    Ok(axum::Json(Removed { messages }))
}
