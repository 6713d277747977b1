//! Messages of the broker that were refused.

use super::{Context, status};
use crate::broker::{
    Brokers,
    rabbitmq::{Chosen, DeadLetter, RabbitMq, RabbitMqError, Treatment},
};
use piecework_proto::v1 as pb;
use tonic::Status;

/// Most messages in one answer, and most that are named in one call.
const LETTERS_MAX: u32 = 1000;

/// How many are listed if nothing is said.
const LETTERS_DEFAULT: u32 = 100;

/// Lists them.
pub(super) async fn list(context: &Context, limit: u32) -> Result<Vec<pb::DeadLetter>, Status> {
    let limit = if limit == 0 { LETTERS_DEFAULT } else { limit.min(LETTERS_MAX) };
    let letters = rabbitmq(context)?.dead_letters(limit).await.map_err(broker)?;
    Ok(letters.into_iter().map(to_proto).collect())
}

/// Replays or drops them.
pub(super) async fn treat(
    context: &Context,
    request: pb::ChosenDeadLetters,
    treatment: Treatment,
) -> Result<u32, Status> {
    let chosen = match request {
        pb::ChosenDeadLetters { all: true, ids } if ids.is_empty() => Chosen::All,
        pb::ChosenDeadLetters { all: true, .. } => {
            return Err(status::bad_field("ids", "either these or all, not both"));
        }
        pb::ChosenDeadLetters { ids, .. } if ids.is_empty() => {
            return Err(status::bad_field("ids", "missing: name some, or say `all`"));
        }
        pb::ChosenDeadLetters { ids, .. } if ids.len() > LETTERS_MAX as usize => {
            return Err(status::bad_field("ids", format!("at most {LETTERS_MAX} at once, or `all`")));
        }
        pb::ChosenDeadLetters { ids, .. } => Chosen::Ids(ids),
    };
    rabbitmq(context)?.treat(&chosen, treatment).await.map_err(broker)
}

fn rabbitmq(context: &Context) -> Result<&RabbitMq, Status> {
    match &context.brokers {
        Brokers::RabbitMq(rabbitmq) => Ok(rabbitmq),
        Brokers::Embedded => Err(Status::failed_precondition(
            "this coordinator uses no RabbitMQ (--broker), so no message can have been refused",
        )),
    }
}

fn broker(error: RabbitMqError) -> Status {
    status::try_again(tonic::Code::Unavailable, error.to_string())
}

fn to_proto(letter: DeadLetter) -> pb::DeadLetter {
    let DeadLetter { id, reason, queue, refused_millis, bytes, beginning } = letter;
    pb::DeadLetter { id, reason, queue, refused_millis, bytes, beginning }
}
