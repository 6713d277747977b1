//! Queues, and the messages in them.

use super::error::{WireError, known};
use crate::queues::{AckMode, Message, NewMessage, QueueInfo, Receive, Received, limits::VISIBILITY_DEFAULT};
use piecework_proto::v1 as pb;
use std::time::Duration;

/// A message to be sent. Whether it is within the limits is asked elsewhere.
#[must_use]
pub fn new_message(message: pb::NewMessage) -> NewMessage {
    let pb::NewMessage { body, content_type, headers } = message;
    NewMessage { body, content_type, headers: headers.into_iter().collect() }
}

/// A message for the wire.
#[must_use]
pub fn message_to_proto(message: Message) -> pb::Message {
    let Message { id, body, content_type, headers, sent_millis, redeliveries } = message;
    pb::Message { id, body, content_type, headers: headers.into_iter().collect(), sent_millis, redeliveries }
}

/// A received message for the wire.
#[must_use]
pub fn received_to_proto(received: Received) -> pb::ReceivedMessage {
    let Received { message, receipt } = received;
    pb::ReceivedMessage { message: Some(message_to_proto(message)), receipt }
}

/// The queue, and how messages are to be received from it.
///
/// # Errors
/// If the mode is unknown.
pub fn receive(request: pb::ReceiveRequest) -> Result<(String, Receive), WireError> {
    let pb::ReceiveRequest { queue, max, wait_millis, ack, visibility_millis } = request;
    let visibility = match visibility_millis {
        0 => VISIBILITY_DEFAULT,
        millis => Duration::from_millis(millis.into()),
    };
    let ack = match known("ack", "AckMode", ack)? {
        pb::AckMode::Auto => AckMode::Auto,
        pb::AckMode::Unspecified | pb::AckMode::Manual => AckMode::Manual { visibility },
    };
    Ok((queue, Receive { max: count(max), wait: Duration::from_millis(wait_millis.into()), ack }))
}

/// How many messages are asked for; 0 means one.
#[must_use]
pub fn count(max: u32) -> usize {
    usize::try_from(max.max(1)).unwrap_or(usize::MAX)
}

/// A queue for the wire.
#[must_use]
pub fn queue_to_proto(queue: QueueInfo) -> pb::Queue {
    let QueueInfo {
        name,
        ready,
        unacked,
        consumers,
        in_per_sec,
        out_per_sec,
        created_millis,
        system,
        trouble,
    } = queue;
    pb::Queue {
        name,
        ready,
        unacked,
        consumers,
        in_per_sec,
        out_per_sec,
        created_millis,
        system,
        trouble: trouble.unwrap_or_default(),
    }
}
