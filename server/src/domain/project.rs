//! A project as the store knows it.

use super::{Generation, ProjectId, ProjectSpec};
use std::{fmt, sync::Arc};

/// Where a project stands. The ended states are final within a generation.
///
/// ```text
///  Splitting ──▶ Running ──▶ Reassembling ──▶ Succeeded | Failed
///      └────────────┴──────────────┴────────▶ Failed | Cancelled
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProjectState {
    /// The split task has not ended, or its output has not become items yet.
    Splitting,
    /// Tasks wait or run, or can be added.
    Running,
    /// All tasks have ended; the result is being made.
    Reassembling,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Cancelled by a client.
    Cancelled,
}

impl ProjectState {
    /// Whether nothing will change any more.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for ProjectState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Splitting => "splitting",
            Self::Running => "running",
            Self::Reassembling => "reassembling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// How many tasks of the task phase are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// All of them; 0 until the split has ended. Grows while the project is open.
    pub total: u32,
    /// Ended in success.
    pub succeeded: u32,
    /// Ended in failure.
    pub failed: u32,
    /// An agent has them.
    pub running: u32,
}

/// A project, without its items.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its number.
    pub id: ProjectId,
    /// What was submitted.
    pub spec: Arc<ProjectSpec>,
    /// Where it stands.
    pub state: ProjectState,
    /// Why, if there is more to say.
    pub message: String,
    /// The current generation.
    pub generation: Generation,
    /// Its tasks.
    pub counts: TaskCounts,
    /// Tasks can be added to it.
    pub open: bool,
    /// When it was submitted, in milliseconds since 1970.
    pub created_millis: i64,
    /// When it ended, in milliseconds since 1970.
    pub ended_millis: Option<i64>,
}
