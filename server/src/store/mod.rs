//! The store is the truth about projects, tasks, attempts and results. One seam; SQLite is the embedded default.
//!
//! Two borders: *the coordinator's* ([`Store::open_epoch`], [`Store::load`], [`Store::commit`]), where every write is
//! conditional and fenced by the coordinator's epoch; and *the readers'*, which see only what was committed.

mod access;
pub(crate) mod disk;
mod feed;
#[cfg(test)]
pub(crate) mod fixture;
pub mod sqlite;
mod staging;

pub use access::{Access, TOKENS_MAX};
pub use feed::{Feed, FeedCursor, Recorded, RecordedResult};
pub use staging::Staging;

use crate::domain::{
    AgentId, AttemptKey, AttemptNo, CoordinatorEpoch, Generation, Item, NewTask, Outcome, Output, Phase,
    Project, ProjectId, ProjectSpec, ProjectState, Report, SessionEpoch, TaskCounts, TaskKey, Usage,
};
use async_trait::async_trait;
use std::{collections::BTreeMap, sync::Arc};

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another coordinator has started on this store. Final: this one must stop.
    #[error("another coordinator has taken over this store (epoch {found}, ours is {ours})", found = .found.0, ours = .ours.0)]
    Fenced {
        /// The epoch in the store.
        found: CoordinatorEpoch,
        /// The epoch of the write.
        ours: CoordinatorEpoch,
    },
    /// A conditional write found something else than it expected; the whole batch was rolled back.
    #[error("conflicting write refused: {0}")]
    Conflict(String),
    /// No space is left.
    #[error("the disk that holds the store is full")]
    Full,
    /// The data directory was written by a newer version.
    #[error("the store has schema version {found}, this program knows up to {known}: use the newer program")]
    Newer {
        /// The version found.
        found: u32,
        /// The newest that we know.
        known: u32,
    },
    /// What is stored can't be understood.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The database failed.
    #[error("the store failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may go well later: the disk was full or failed, not the question.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Full | Self::Database(_))
    }
}

/// A change, made only if its condition holds.
#[derive(Clone, Debug)]
pub enum Write {
    /// A complete submission becomes a project. Condition: the submission was begun and not yet completed.
    CreateProject {
        /// Its number.
        project: ProjectId,
        /// What was submitted.
        spec: Arc<ProjectSpec>,
        /// Its first state.
        state: ProjectState,
        /// How many tasks it has; 0 if a split is to tell.
        tasks: u32,
    },
    /// A project moves on. Condition: it has not ended.
    MoveProject {
        /// The project.
        project: ProjectId,
        /// Its new state.
        state: ProjectState,
        /// Why, if there is more to say.
        message: String,
        /// How many tasks it has.
        tasks: u32,
    },
    /// Staged tasks become a part of their open project. Condition: it is open, and as many are staged.
    AddTasks {
        /// The project.
        project: ProjectId,
        /// How many tasks it has with them.
        tasks: u32,
    },
    /// An open project is closed: no more tasks are added. Condition: it is open.
    Close {
        /// The project.
        project: ProjectId,
    },
    /// An agent owns the next attempt at a task. Condition: the task has not ended, is not running, and its highest
    /// attempt is one less than this.
    Claim {
        /// The attempt.
        attempt: AttemptKey,
        /// The agent.
        agent: AgentId,
        /// The item is in the store (not a range or a matrix) and wanted in [`Committed::items`].
        stored_item: bool,
    },
    /// The attempt's ending is the task's result. Condition: it is the task's highest attempt, held by this agent, and
    /// nothing is recorded.
    Record {
        /// Who ran it.
        agent: AgentId,
        /// How it ended.
        report: Box<Report>,
    },
    /// The attempt ended or was lost, and the task goes back to TODO. Same condition as `Record`.
    Requeue {
        /// Who ran it.
        agent: AgentId,
        /// How it ended.
        report: Box<Report>,
        /// How many of the task's attempts have failed by its own fault.
        failures: u32,
        /// How many were lost by the infrastructure's fault.
        crashes: u32,
    },
    /// The attempt was handed back or never arrived; no ending is noted. Same condition as `Record`.
    Return {
        /// Who had it.
        agent: AgentId,
        /// The attempt.
        attempt: AttemptKey,
    },
    /// A requeued attempt turns out to be alive: it runs again. Condition: it is the task's highest attempt, held by
    /// this agent last, and the task is in TODO.
    Readopt {
        /// Who has it.
        agent: AgentId,
        /// The attempt.
        attempt: AttemptKey,
        /// How many of the task's attempts were lost, without this one.
        crashes: u32,
    },
    /// An agent is to take no attempts, or may again. Condition: it is known.
    Drain {
        /// The agent.
        agent: AgentId,
        /// Which of the two.
        draining: bool,
    },
    /// An agent is removed: its certificates are worth nothing from here on. Condition: it is known. It holds nothing any more.
    RemoveAgent {
        /// The agent.
        agent: AgentId,
    },
    /// An agent opened a session. Condition: the epoch is higher than the stored one, and the agent was not removed.
    Session {
        /// The agent.
        agent: AgentId,
        /// Its name.
        name: String,
        /// Whose data directory it runs on.
        identity: String,
        /// Which process it is.
        instance: String,
        /// The session's epoch.
        epoch: SessionEpoch,
    },
}

/// What a commit gives back.
#[derive(Debug, Default)]
pub struct Committed {
    /// The stored items of the batch's claims, in the order of the claims that asked for them.
    pub items: Vec<(AttemptKey, Item)>,
}

/// All that a coordinator needs in order to go on where another one stopped.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Every agent that was not removed.
    pub agents: Vec<KnownAgent>,
    /// The highest number that an agent ever had.
    pub agent_max: AgentId,
    /// Every project that has not ended.
    pub projects: Vec<ActiveProject>,
}

/// An agent in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownAgent {
    /// Its number.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Whose data directory it ran on last.
    pub identity: String,
    /// Which process it was last.
    pub instance: String,
    /// The epoch of its newest session.
    pub epoch: SessionEpoch,
    /// Labels that it was given when it enrolled.
    pub labels: BTreeMap<String, String>,
    /// It is to take no attempts.
    pub draining: bool,
}

/// A project that has not ended.
#[derive(Clone, Debug)]
pub struct ActiveProject {
    /// Its number.
    pub id: ProjectId,
    /// What was submitted.
    pub spec: Arc<ProjectSpec>,
    /// Where it stands.
    pub state: ProjectState,
    /// The tasks of its task phase. `running` is counted in `open`.
    pub counts: TaskCounts,
    /// Tasks can be added to it.
    pub is_open: bool,
    /// No task of the task phase with this index or a higher one was ever claimed.
    pub frontier: u32,
    /// Tasks below the frontier that were never claimed. As many as a window holds at the most.
    pub gaps: Vec<u32>,
    /// Tasks, of all phases, that were claimed and have not ended.
    pub open: Vec<OpenTask>,
    /// Outcome of the split task, if it has ended.
    pub split: Option<Outcome>,
    /// Outcome of the reassemble task, if it has ended.
    pub reassemble: Option<Outcome>,
}

/// A task that was claimed and has not ended.
#[derive(Clone, Debug)]
pub struct OpenTask {
    /// Which.
    pub task: TaskKey,
    /// Its highest attempt.
    pub attempt: AttemptNo,
    /// Who has, or had, that attempt.
    pub agent: AgentId,
    /// The agent has it; else it is back in TODO.
    pub running: bool,
    /// Attempts that failed by the task's own fault.
    pub failures: u32,
    /// Attempts that were lost.
    pub crashes: u32,
    /// What is noted of its highest attempt's ending.
    pub noted: Noted,
}

/// What is noted of an attempt's ending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Noted {
    /// Nothing: it runs, or was handed back.
    #[default]
    Nothing,
    /// That its lease was lost, and a crash charged for it. A late report, or the attempt itself, takes both back.
    LostLease,
    /// How it ended: another report of it is a repetition.
    Ending,
}

/// How a submission begins.
#[derive(Debug)]
pub enum Begun {
    /// It is new, and this is its number.
    New(ProjectId),
    /// The key is known: this is what it made.
    Existing(Box<Project>),
    /// Another submission with this key is under way.
    UnderWay,
}

/// A task that was claimed at least once, for readers.
#[derive(Clone, Debug)]
pub struct TaskRow {
    /// Which.
    pub key: TaskKey,
    /// Its state.
    pub state: TaskRowState,
    /// Its stored item, if it has one.
    pub item: Option<Item>,
    /// Its highest attempt.
    pub attempt: AttemptNo,
    /// The agent of its highest attempt.
    pub agent: String,
}

/// The state of a claimed task, for readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskRowState {
    /// Waits for its next attempt.
    Todo,
    /// An agent has it.
    Running,
    /// Has its result, a success.
    Succeeded,
    /// Has its result, a failure.
    Failed,
}

/// An ended attempt, for readers.
#[derive(Clone, Debug)]
pub struct AttemptRow {
    /// Its place in the order of recording, over all projects.
    pub seq: u64,
    /// Which.
    pub key: AttemptKey,
    /// The agent that ran it.
    pub agent: String,
    /// How it ended.
    pub outcome: Outcome,
    /// It is its task's result.
    pub recorded: bool,
    /// What it used.
    pub usage: Usage,
    /// Length of its stdout.
    pub stdout_bytes: u64,
    /// Length of its stderr.
    pub stderr_bytes: u64,
    /// When it was recorded, in milliseconds since 1970.
    pub ended_millis: i64,
}

/// A recorded result, for reassembly.
#[derive(Clone, Debug)]
pub struct ResultRow {
    /// Which attempt was recorded.
    pub key: AttemptKey,
    /// It ended in success.
    pub success: bool,
    /// Its stdout.
    pub stdout: Output,
}

/// Which tasks a reader wants.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Only these states; empty means all.
    pub states: Vec<TaskRowState>,
    /// Only after this task.
    pub after: Option<(Phase, u32)>,
    /// At most so many.
    pub limit: u32,
}

/// With this many inline bytes, [`Store::results`] ends early.
pub const RESULTS_INLINE_BYTES: usize = 1024 * 1024;

/// The seam.
#[async_trait]
pub trait Store: Access + Feed + Send + Sync + 'static {
    /// Starts a coordinator's reign: raises the epoch and removes submissions that were never completed.
    async fn open_epoch(&self) -> Result<CoordinatorEpoch, StoreError>;

    /// Loads what a coordinator needs to go on.
    async fn load(&self) -> Result<Snapshot, StoreError>;

    /// Makes all the writes durable, or none. An error may also come when they *were* made: the caller must fold its
    /// state back from [`Store::load`].
    async fn commit(&self, epoch: CoordinatorEpoch, writes: Vec<Write>) -> Result<Committed, StoreError>;

    /// Begins a submission under a client's key; an empty key is never known. Durable with the next commit, as is the rest of
    /// what is worth nothing without one: items, and a result.
    async fn begin_submission(&self, key: &str) -> Result<Begun, StoreError>;

    /// Adds items to a submission that is not complete, or to a project that is splitting. Replaces what was there.
    async fn put_items(&self, project: ProjectId, first: u32, items: Vec<Item>) -> Result<(), StoreError>;

    /// Puts tasks into an open project's list, behind those that are there, but for those whose key is known. They are no tasks
    /// before [`Write::AddTasks`] is committed, and durable with it.
    async fn stage_tasks(&self, project: ProjectId, tasks: Vec<NewTask>) -> Result<Staging, StoreError>;

    /// Forgets a submission that was not completed. Does nothing to a project.
    async fn abandon_submission(&self, project: ProjectId) -> Result<(), StoreError>;

    /// Keeps the project's own result, made by a built-in reassembly, in place of any earlier one.
    async fn put_result(
        &self,
        project: ProjectId,
        generation: Generation,
        result: Output,
    ) -> Result<(), StoreError>;

    /// The project's own result.
    async fn result(&self, project: ProjectId, generation: Generation) -> Result<Option<Output>, StoreError>;

    /// The project with this number.
    async fn project(&self, id: ProjectId) -> Result<Option<Project>, StoreError>;

    /// The newest project with this name.
    async fn project_named(&self, name: &str) -> Result<Option<Project>, StoreError>;

    /// Projects, newest first.
    async fn projects(
        &self,
        active_only: bool,
        before: Option<ProjectId>,
        limit: u32,
    ) -> Result<Vec<Project>, StoreError>;

    /// Claimed tasks, in (phase, index) order.
    async fn tasks(&self, project: ProjectId, filter: TaskFilter) -> Result<Vec<TaskRow>, StoreError>;

    /// The ended attempts of one task, oldest first.
    async fn attempts(&self, task: TaskKey) -> Result<Vec<AttemptRow>, StoreError>;

    /// A project, and then its ended attempts, in the order of recording, after a place in that order.
    async fn project_and_attempts(
        &self,
        project: ProjectId,
        seq: u64,
        limit: u32,
    ) -> Result<Option<(Project, Vec<AttemptRow>)>, StoreError>;

    /// Recorded results of one phase, in index order, from `first` on, ending before the first task that has none. At
    /// most `limit` rows, and no more once [`RESULTS_INLINE_BYTES`] is reached.
    async fn results(
        &self,
        project: ProjectId,
        phase: Phase,
        first: u32,
        limit: u32,
    ) -> Result<Vec<ResultRow>, StoreError>;

    /// A project, and then [`Store::results`] of it.
    async fn project_and_results(
        &self,
        project: ProjectId,
        phase: Phase,
        first: u32,
        limit: u32,
    ) -> Result<Option<(Project, Vec<ResultRow>)>, StoreError>;

    /// The stdout and stderr of one ended attempt.
    async fn outputs(&self, attempt: AttemptKey) -> Result<Option<(Output, Output)>, StoreError>;

    /// Who has or had the attempt, if it is its task's highest, and the task has no result: only then is its output wanted.
    async fn current_owner(&self, attempt: AttemptKey) -> Result<Option<AgentId>, StoreError>;
}
