//! The integer keys by which everything is named inside.

use std::fmt;

/// A project's number, given by the store at submission, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectId(pub u64);

/// An agent's number, given when its name is first heard, and never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(pub u64);

/// Raised each time that a coordinator starts on a store. A write under an older one is refused by the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoordinatorEpoch(pub u64);

/// Raised each time that an agent opens a session. Messages of an older one are refused on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionEpoch(pub u64);

/// A round of a project's tasks, from 1; a retry of ended tasks starts a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

impl Generation {
    /// The generation that a submission starts.
    pub const FIRST: Self = Self(1);
}

/// An attempt's number within its task, from 1, never reused. 0 stands for "none yet".
pub type AttemptNo = u32;

/// Which part of a project a task belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The one task whose output lines become the items.
    Split,
    /// One task per item.
    Task,
    /// The one task that makes the result from the ordered output.
    Reassemble,
}

/// Names one task of one project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    /// The project.
    pub project: ProjectId,
    /// The phase.
    pub phase: Phase,
    /// The index within the phase, from 0.
    pub index: u32,
}

impl TaskKey {
    /// The attempt of this task with the given number.
    #[must_use]
    pub const fn attempt(self, attempt: AttemptNo) -> AttemptKey {
        AttemptKey { task: self, attempt }
    }
}

/// Names one try at one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// The task.
    pub task: TaskKey,
    /// The number of the try.
    pub attempt: AttemptNo,
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Split => "split",
            Self::Task => "task",
            Self::Reassemble => "reassemble",
        })
    }
}

/// `7/task/12`: project, phase, index.
impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.project, self.phase, self.index)
    }
}

/// `7/task/12#2`: the task and the attempt's number.
impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.task, self.attempt)
    }
}
