//! Why something can't be done with a queue.

use super::limits::{HELD_MAX, NAME_BYTES_MAX};
use crate::store::StoreError;

/// What a queue may be called.
pub const NAME_RULE: &str =
    "1 to 128 letters, digits, `-`, `_` and `.`, and it begins with neither `-` nor `.`";
const _: () = assert!(NAME_BYTES_MAX == 128);

/// Why something was not done. For people; says what to do about it where that is not plain.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// There is none of this name.
    #[error("there is no queue `{0}`: create it first")]
    NotFound(String),
    /// It is the coordinator's own.
    #[error("queue `{0}` belongs to the system: it can be peeked at, and nothing else")]
    System(String),
    /// A part of the request is against the rules.
    #[error("{field}: {why}")]
    Invalid {
        /// Which part, such as `name` or `messages[3].body`.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The queue has no room for these messages; none of them is in it.
    #[error("queue `{name}` is full: {why}")]
    Full {
        /// Which.
        name: String,
        /// What it has, and what the limit is.
        why: String,
    },
    /// There is too much of something: queues, messages that are held, calls that wait.
    #[error("{0}")]
    TooMany(String),
    /// Some receipts are not known (any more): settled already, or their time is over. All others of the call are settled.
    #[error(
        "{} of the receipts are not known (any more): settled already, or the time to do so is over; {settled} others are settled",
        .unknown.len()
    )]
    UnknownReceipt {
        /// Which.
        unknown: Vec<String>,
        /// How many others were settled.
        settled: u32,
    },
    /// It is not as it has to be for this: in use, not empty, or its messages are somewhere else.
    #[error("{0}")]
    Precondition(String),
    /// The broker can't do it for now. What was to be sent may be in the queue all the same.
    #[error("{0}")]
    Unavailable(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl QueueError {
    pub(super) fn held_too_long() -> Self {
        let max = HELD_MAX.as_secs() / 60;
        Self::invalid("extend", format!("a message is held for at most {max} minutes in all"))
    }

    /// The same for somebody else; of those kinds that concern everybody.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Precondition(why) => Self::Precondition(why.clone()),
            other => Self::Unavailable(other.to_string()),
        }
    }

    pub(super) fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), why: why.into() }
    }
}

impl From<rusqlite::Error> for QueueError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
