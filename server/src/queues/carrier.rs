//! The seam: what carries the messages of queues. Names are none of its business: it is told of queues that are there.

use super::{
    error::QueueError,
    message::{DeleteIf, Message, Nack},
    name::QueueName,
};
use async_trait::async_trait;
use std::{fmt, str::FromStr, time::Duration};

/// A queue, as its carrier knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueKey {
    /// Never used again for another queue.
    pub(super) id: i64,
    pub(super) name: QueueName,
}

/// How much is in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Depth {
    pub(super) ready: u64,
    pub(super) unacked: u64,
    pub(super) consumers: u64,
}

/// A message that is delivered, and held for who receives it.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) message: Message,
    pub(super) receipt: Receipt,
}

/// Names a delivery. Never used again, not even by a later coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Receipt {
    /// Different in each process.
    pub(super) process: u64,
    /// From 1.
    pub(super) number: u64,
}

/// Carries messages. A call that is dropped may be done all the same, but no message is lost by that: what a dropped
/// [`Carrier::take`] has taken is in its queue again at once.
#[async_trait]
pub(super) trait Carrier: Send + Sync {
    /// Makes the place for the messages of a queue, unless it is there.
    async fn make(&self, queue: &QueueKey) -> Result<(), QueueError>;

    /// How much is in it.
    async fn depth(&self, queue: &QueueKey) -> Result<Depth, QueueError>;

    /// Puts messages into it, in this order. They are durable when it returns well. They are all or none in it if not, but for
    /// [`QueueError::Unavailable`], when nobody knows.
    async fn send(&self, queue: &QueueKey, messages: Vec<Message>) -> Result<(), QueueError>;

    /// Takes messages out of it, oldest first, and holds them for as long as `visibility`; waits for the first one.
    async fn take(
        &self,
        queue: &QueueKey,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Taken>, QueueError>;

    /// Removes messages that are held; returns which of them are not (any more).
    async fn ack(&self, queue: &QueueKey, receipts: Vec<Receipt>) -> Result<Vec<Receipt>, QueueError>;

    /// Gives back messages that are held, or holds them for longer; returns which of them are not held (any more).
    async fn nack(
        &self,
        queue: &QueueKey,
        receipts: Vec<Receipt>,
        how: Nack,
    ) -> Result<Vec<Receipt>, QueueError>;

    /// Gives back what nobody will ask for any more. Does not wait.
    fn abandon(&self, queue: &QueueKey, receipts: Vec<Receipt>);

    /// Shows the oldest messages that wait, and leaves them there.
    async fn peek(&self, queue: &QueueKey, max: usize) -> Result<Vec<Message>, QueueError>;

    /// Removes all that wait; returns how many. What is held stays.
    async fn purge(&self, queue: &QueueKey) -> Result<u64, QueueError>;

    /// Removes the place with all that is in it; returns how many messages that were.
    async fn delete(&self, queue: &QueueKey, conditions: DeleteIf) -> Result<u64, QueueError>;

    /// The system's own queues, with how much is in them.
    async fn system_queues(&self) -> Result<Vec<(String, Depth)>, QueueError>;

    /// As [`Self::peek`], for one of the system's queues.
    async fn peek_system(&self, name: &str, max: usize) -> Result<Vec<Message>, QueueError>;
}

/// As it is given to who receives the message.
impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.process, self.number)
    }
}

/// It is none.
#[derive(Debug)]
pub(super) struct NoReceipt;

impl FromStr for Receipt {
    type Err = NoReceipt;

    fn from_str(text: &str) -> Result<Self, NoReceipt> {
        let (process, number) = text.split_once('-').ok_or(NoReceipt)?;
        let read = |hex| u64::from_str_radix(hex, 16).map_err(|_| NoReceipt);
        let receipt = Self { process: read(process)?, number: read(number)? };
        // One way to write it only.
        if receipt.to_string() == text { Ok(receipt) } else { Err(NoReceipt) }
    }
}
