//! Messages, how they are received, and what is known of a queue.

use super::{
    carrier::Depth,
    error::QueueError,
    limits::{
        BATCH_BYTES_MAX, BATCH_MAX, BODY_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, HEADER_KEY_BYTES_MAX,
        HEADER_OVERHEAD_BYTES, HEADER_VALUE_BYTES_MAX, HEADERS_MAX, MESSAGE_OVERHEAD_BYTES,
        VISIBILITY_DEFAULT,
    },
};
use bytes::Bytes;
use std::{collections::BTreeMap, time::Duration};

/// Headers: small texts beside the body.
pub type Headers = BTreeMap<String, String>;

/// A message to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMessage {
    /// Any bytes, at most [`BODY_BYTES_MAX`].
    pub body: Bytes,
    /// What the body is, such as `application/json`; empty if that is not said.
    pub content_type: String,
    /// At most [`HEADERS_MAX`].
    pub headers: Headers,
}

impl NewMessage {
    /// What it counts for.
    #[must_use]
    pub fn size(&self) -> usize {
        size(&self.body, &self.content_type, &self.headers)
    }

    fn check(&self, n: usize) -> Result<(), QueueError> {
        let wrong =
            |field: &str, why: String| Err(QueueError::invalid(format!("messages[{n}].{field}"), why));
        if self.body.len() > BODY_BYTES_MAX {
            return wrong("body", format!("at most {BODY_BYTES_MAX} bytes, not {}", self.body.len()));
        }
        if self.content_type.len() > CONTENT_TYPE_BYTES_MAX {
            return wrong("content_type", format!("at most {CONTENT_TYPE_BYTES_MAX} bytes"));
        }
        if self.content_type.chars().any(char::is_control) {
            return wrong("content_type", "must be a text without control characters".to_owned());
        }
        if self.headers.len() > HEADERS_MAX {
            return wrong("headers", format!("at most {HEADERS_MAX}, not {}", self.headers.len()));
        }
        for (key, value) in &self.headers {
            if key.is_empty() || key.len() > HEADER_KEY_BYTES_MAX || key.chars().any(char::is_control) {
                let rule = "without control characters";
                return wrong("headers", format!("a key has 1 to {HEADER_KEY_BYTES_MAX} bytes, {rule}"));
            }
            if value.len() > HEADER_VALUE_BYTES_MAX {
                return wrong("headers", format!("a value has at most {HEADER_VALUE_BYTES_MAX} bytes"));
            }
        }
        Ok(())
    }
}

/// Checks what is to be sent at once.
pub(super) fn check_batch(messages: &[NewMessage]) -> Result<(), QueueError> {
    if messages.is_empty() || messages.len() > BATCH_MAX {
        return Err(QueueError::invalid("messages", format!("1 to {BATCH_MAX}, not {}", messages.len())));
    }
    messages.iter().enumerate().try_for_each(|(n, message)| message.check(n))?;
    let bytes: usize = messages.iter().map(NewMessage::size).sum();
    if bytes > BATCH_BYTES_MAX {
        let why =
            format!("at most {BATCH_BYTES_MAX} bytes together, not {bytes}: send them in several calls");
        return Err(QueueError::invalid("messages", why));
    }
    Ok(())
}

fn size(body: &Bytes, content_type: &str, headers: &Headers) -> usize {
    let headers: usize =
        headers.iter().map(|(key, value)| key.len() + value.len() + HEADER_OVERHEAD_BYTES).sum();
    body.len() + content_type.len() + headers + MESSAGE_OVERHEAD_BYTES
}

/// A message that is or was in a queue. What other programs have put into a queue of RabbitMQ may break the rules of
/// [`NewMessage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Unique, and the same each time it is delivered; empty if another program sent it without one.
    pub id: String,
    /// Its bytes.
    pub body: Bytes,
    /// What they are; empty if that is not known.
    pub content_type: String,
    /// Small texts beside them.
    pub headers: Headers,
    /// When it was sent, in milliseconds since 1970; 0 if that is not known.
    pub sent_millis: i64,
    /// How often it was delivered before, as far as that is known. The embedded broker counts since the coordinator started;
    /// RabbitMQ counts peeks, too.
    pub redeliveries: u32,
}

impl Message {
    /// What it counts for.
    pub(super) fn size(&self) -> usize {
        self.id.len() + size(&self.body, &self.content_type, &self.headers)
    }
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What was sent.
    pub message: Message,
    /// By which it is acknowledged or given back; empty if it is acknowledged already. It is of no use after a restart of the
    /// coordinator: the message is in the queue again then.
    pub receipt: String,
}

/// When a received message leaves its queue for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckMode {
    /// As it is received. If the answer gets lost, so does the message.
    Auto,
    /// When it is acknowledged. Until then nobody else sees it; if that does not happen in time, it is in the queue again.
    Manual {
        /// How long that is.
        visibility: Duration,
    },
}

impl Default for AckMode {
    fn default() -> Self {
        Self::Manual { visibility: VISIBILITY_DEFAULT }
    }
}

/// How messages are to be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receive {
    /// At most so many, and no more than [`BATCH_MAX`]; what comes at once may be fewer, bounded by [`BATCH_BYTES_MAX`].
    pub max: usize,
    /// How long to wait for the first one, at most [`WAIT_MAX`](super::limits::WAIT_MAX); zero to not wait.
    pub wait: Duration,
    /// When they leave the queue.
    pub ack: AckMode,
}

/// What becomes of a message that is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nack {
    /// It is in the queue again at once, before what came after it.
    Requeue,
    /// It stays with its receiver, for so long from now on.
    Extend(Duration),
}

/// On which conditions a queue is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteIf {
    /// Only if nothing is in it, delivered or not.
    pub empty: bool,
    /// Only if nobody waits for its messages, and none is delivered and not yet acknowledged.
    pub unused: bool,
}

impl DeleteIf {
    /// Whether a queue may be deleted that has so much in it.
    pub(super) fn check(self, depth: Depth) -> Result<(), QueueError> {
        let Depth { ready, unacked, consumers } = depth;
        if self.empty && ready + unacked > 0 {
            return Err(QueueError::Precondition(format!(
                "the queue is not empty: {ready} messages wait in it, and {unacked} are not yet acknowledged"
            )));
        }
        if self.unused && consumers + unacked > 0 {
            return Err(QueueError::Precondition(format!(
                "the queue is in use: {consumers} wait for its messages, and {unacked} messages are not yet acknowledged"
            )));
        }
        Ok(())
    }
}

/// What is known of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueInfo {
    /// Its name.
    pub name: String,
    /// Messages that wait to be received.
    pub ready: u64,
    /// Messages that are received and not yet acknowledged. With RabbitMQ those that this coordinator has delivered; it does not
    /// tell of other programs'.
    pub unacked: u64,
    /// Calls that wait for messages now and, with RabbitMQ, consumers of other programs.
    pub consumers: u64,
    /// Messages that come in through this coordinator, a second, averaged over about 10 seconds.
    pub in_per_sec: f64,
    /// Messages that leave for good through this coordinator, as they are acknowledged, likewise.
    pub out_per_sec: f64,
    /// When it was created, in milliseconds since 1970; 0 for the system's.
    pub created_millis: i64,
    /// Whether it belongs to the system: it can be peeked at, and nothing else.
    pub system: bool,
    /// Why it can't be used for now, if so; the numbers above are 0 then.
    pub trouble: Option<String>,
}

/// A queue that is there now.
#[derive(Clone, Debug, PartialEq)]
pub struct Created {
    /// What is known of it.
    pub queue: QueueInfo,
    /// Whether it was not there before.
    pub is_new: bool,
}

/// A part of a list, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Some queues.
    pub queues: Vec<QueueInfo>,
    /// The name after which the list goes on; none if it does not.
    pub next: Option<String>,
}
