//! What `queues` writes.

use super::Data;
use crate::{client::Settled, output::human};
use piecework_proto::v1;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// What `queues ls` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Queues {
    /// By name.
    pub queues: Vec<Queue>,
}

/// A queue; what `queues show` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Messages that wait to be received.
    pub ready: u64,
    /// Messages that are received and not yet acknowledged.
    pub unacked: u64,
    /// Who waits for messages.
    pub consumers: u64,
    /// Messages a second that come in, averaged over about 10 seconds.
    pub in_per_sec: f64,
    /// Messages a second that leave for good, likewise.
    pub out_per_sec: f64,
    /// When it was created, as RFC 3339; missing for the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Whether it belongs to the system: it can be peeked at, and nothing else.
    pub system: bool,
    /// Why it can't be used for now; the numbers are 0 then.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trouble: String,
}

impl From<&v1::Queue> for Queue {
    fn from(queue: &v1::Queue) -> Self {
        let queue = queue.clone();
        Self {
            name: queue.name,
            ready: queue.ready,
            unacked: queue.unacked,
            consumers: queue.consumers,
            in_per_sec: queue.in_per_sec,
            out_per_sec: queue.out_per_sec,
            created: (queue.created_millis > 0).then(|| human::rfc3339(queue.created_millis)),
            system: queue.system,
            trouble: queue.trouble,
        }
    }
}

/// What `queues create` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CreatedQueue {
    /// The queue.
    #[serde(flatten)]
    pub queue: Queue,
    /// Whether it was not there before.
    pub is_new: bool,
}

/// A message that is in a queue, and is durable.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Sent {
    /// The queue.
    pub queue: String,
    /// The message's id.
    pub id: String,
}

/// What `queues peek` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Messages {
    /// Oldest first.
    pub messages: Vec<Message>,
}

/// A message of a queue.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Message {
    /// Its id, the same each time it is delivered; empty if another program sent it without one.
    pub id: String,
    /// Its bytes; missing if it has none.
    #[serde(flatten)]
    pub body: Option<Data>,
    /// What they are, such as `application/json`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    /// Small texts beside them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// When it was sent, as RFC 3339; missing if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// How often it was delivered before, as far as that is known.
    pub redeliveries: u32,
    /// By which it is acknowledged or given back; missing if that is not to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub receipt: String,
}

impl From<v1::Message> for Message {
    fn from(message: v1::Message) -> Self {
        let v1::Message { id, body, content_type, headers, sent_millis, redeliveries } = message;
        Self {
            id,
            body: Data::of(body.into()),
            content_type,
            headers: headers.into_iter().collect(),
            sent: (sent_millis > 0).then(|| human::rfc3339(sent_millis)),
            redeliveries,
            receipt: String::new(),
        }
    }
}

impl From<v1::ReceivedMessage> for Message {
    fn from(received: v1::ReceivedMessage) -> Self {
        let v1::ReceivedMessage { message, receipt } = received;
        Self { receipt, ..message.unwrap_or_default().into() }
    }
}

/// What `queues ack` and `queues nack` answer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SettledReceipts {
    /// How many of the receipts.
    pub settled: u32,
    /// Those that are not known (any more).
    pub unknown: Vec<String>,
}

impl From<Settled> for SettledReceipts {
    fn from(Settled { settled, unknown }: Settled) -> Self {
        Self { settled, unknown }
    }
}

/// What `queues purge` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Purged {
    /// How many messages were removed.
    pub messages: u64,
}
