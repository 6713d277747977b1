//! What the store knows of DONE: what was recorded, in its order, and how far that was published.

use super::{AttemptRow, StoreError};
use crate::domain::{CoordinatorEpoch, Generation, Output, Project};
use async_trait::async_trait;

/// A place in the order of all that is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedCursor {
    /// Results up to this number.
    pub result: u64,
    /// Ends of projects up to this number.
    pub end: u64,
}

/// Something that was recorded.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// A task has its result.
    Result(Box<RecordedResult>),
    /// A project has ended.
    End {
        /// Its place among the ends.
        number: u64,
        /// The project.
        project: Box<Project>,
    },
}

/// The result of a task, with all that a reader from outside wants to know.
#[derive(Clone, Debug)]
pub struct RecordedResult {
    /// The name of its project.
    pub project_name: String,
    /// The generation of its project.
    pub generation: Generation,
    /// What the client called the task, if it was added under a key.
    pub client_key: Option<String>,
    /// The attempt that was recorded.
    pub attempt: AttemptRow,
    /// What it printed on stdout.
    pub stdout: Output,
    /// What it printed on stderr.
    pub stderr: Output,
}

/// The outbox of DONE: a cursor over what is recorded anyway.
#[async_trait]
pub trait Feed {
    /// How far all was published. At its first call, all that is recorded until then counts as published.
    async fn open_feed(&self, epoch: CoordinatorEpoch) -> Result<FeedCursor, StoreError>;

    /// What was recorded after a place, and the place behind it. At most `limit` of it, and not much more than
    /// [`RESULTS_INLINE_BYTES`](super::RESULTS_INLINE_BYTES) of output.
    async fn recorded(
        &self,
        after: FeedCursor,
        limit: u32,
    ) -> Result<(Vec<Recorded>, FeedCursor), StoreError>;

    /// All up to this place is published.
    async fn move_feed(&self, epoch: CoordinatorEpoch, to: FeedCursor) -> Result<(), StoreError>;
}
