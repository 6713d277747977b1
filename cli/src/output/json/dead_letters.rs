//! What `dead-letters` writes.

use super::{Data, DataCutter};
use crate::output::human;
use piecework_proto::v1;
use schemars::JsonSchema;
use serde::Serialize;

/// What `dead-letters ls` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeadLetters {
    /// Oldest first.
    pub letters: Vec<DeadLetter>,
}

/// A message that was refused.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeadLetter {
    /// By which it is named.
    pub id: String,
    /// Why it was refused.
    pub reason: String,
    /// The queue that it was in.
    pub queue: String,
    /// When it was refused, as RFC 3339; missing if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// How many bytes it has.
    pub bytes: u64,
    /// Its first 1024 bytes; missing if it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beginning: Option<Data>,
}

impl From<&v1::DeadLetter> for DeadLetter {
    fn from(letter: &v1::DeadLetter) -> Self {
        let mut cutter = DataCutter::default();
        Self {
            id: letter.id.clone(),
            reason: letter.reason.clone(),
            queue: letter.queue.clone(),
            refused: (letter.refused_millis > 0).then(|| human::rfc3339(letter.refused_millis)),
            bytes: letter.bytes,
            beginning: cutter.cut(&letter.beginning),
        }
    }
}

/// What `dead-letters replay` and `dead-letters rm` answer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TreatedDeadLetters {
    /// With how many messages it was done.
    pub count: u32,
}
