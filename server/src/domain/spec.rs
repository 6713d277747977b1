//! What a project is: the document that a client submits. It derives serde, alone of the domain types, because the
//! document itself is what the store keeps and people read.

use super::{Outcome, OutcomeClass, Phase};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most tasks that a project may have.
pub const ITEMS_MAX: u32 = 10_000_000;

/// Longest item that a split may print: longer lines are refused when its output becomes items.
pub const SPLIT_ITEM_BYTES_MAX: usize = 64 * 1024;

/// A task template, where its items come from, and policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectSpec {
    /// A name for people.
    pub name: String,
    /// The image of all workers.
    pub image: ImageSpec,
    /// Where the items come from.
    pub items: ItemSource,
    /// How each task runs.
    pub task: TaskSpec,
    /// What becomes of the tasks' output.
    pub reassemble: Reassemble,
    /// What a failed task does to the project.
    pub on_failure: FailurePolicy,
    /// Share of the slots relative to other projects, from 1.
    pub weight: u32,
    /// At most so many attempts at a time. Documents that were stored before there was a choice have none of these three.
    #[serde(default)]
    pub max_parallel: Option<u32>,
    /// Which of the agents that fit gets an attempt.
    #[serde(default)]
    pub placement: Placement,
    /// What becomes of a task whose agent was not heard from for a whole lease.
    #[serde(default)]
    pub on_lease_loss: LeaseLossPolicy,
}

impl ProjectSpec {
    /// What a phase runs by; none if the project has no such phase.
    #[must_use]
    pub const fn task_of(&self, phase: Phase) -> Option<&TaskSpec> {
        match (phase, &self.items, &self.reassemble) {
            (Phase::Task, _, _) => Some(&self.task),
            (Phase::Split, ItemSource::Split(task), _)
            | (Phase::Reassemble, _, Reassemble::Command(task)) => Some(task),
            (Phase::Split | Phase::Reassemble, _, _) => None,
        }
    }
}

/// Which of the agents that fit gets an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// The one with the largest free share.
    #[default]
    Spread,
    /// The one with the smallest free share.
    Pack,
}

/// What becomes of a task whose agent was not heard from for a whole lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseLossPolicy {
    /// It runs again; two attempts may overlap, and one is recorded.
    #[default]
    Rerun,
    /// It has failed.
    Stop,
}

/// Where items come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "there is one a project")]
pub enum ItemSource {
    /// From the submission; the store has them, this many.
    List(u32),
    /// Integers from `first` to `last`, both included, made when needed.
    Range {
        /// The first.
        first: i64,
        /// The last, if `step` reaches it.
        last: i64,
        /// The distance, not 0.
        step: i64,
    },
    /// Every combination of the axes, the last varying fastest.
    Matrix(Vec<MatrixAxis>),
    /// The output lines of one task.
    Split(TaskSpec),
    /// They are added while the project runs; the store has them.
    Open {
        /// After how long without a new one the project is closed, in milliseconds; none means never.
        idle_millis: Option<u64>,
    },
}

/// One axis of a matrix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixAxis {
    /// The placeholder's name.
    pub name: String,
    /// Its values.
    pub values: Vec<String>,
}

/// How one task runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Program and arguments, with placeholders. Empty only if every item brings arguments of its own.
    pub command: Vec<String>,
    /// Environment variables, over the image's.
    pub env: BTreeMap<String, String>,
    /// Working directory; none means the image's.
    pub workdir: Option<String>,
    /// Longest run of one attempt, in milliseconds.
    pub timeout_millis: Option<u64>,
    /// How many more attempts a failed one gets.
    pub retries: u32,
    /// Which endings are retried.
    pub retry_on: Vec<RetryOn>,
    /// What one attempt may use.
    pub resources: Resources,
    /// Which network it has.
    pub network: Network,
    /// Most bytes on stdout and stderr together.
    pub output_bytes_max: Option<u64>,
    /// How far its worker is shut off. Documents that were stored before there was a choice have none.
    #[serde(default)]
    pub isolation: Isolation,
    /// What it reads on its stdin.
    #[serde(default)]
    pub stdin: Option<Stdin>,
    /// Labels that an agent must have to get it, all of them with these values.
    #[serde(default)]
    pub requires: BTreeMap<String, String>,
}

/// What a task reads on its stdin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// A text with placeholders.
    Template(String),
    /// A file of the submission.
    File {
        /// SHA-256 of its contents.
        sha256: [u8; 32],
        /// Length in bytes.
        length: u64,
    },
}

impl TaskSpec {
    /// Whether the retry policy names this ending (how often is another question).
    #[must_use]
    pub fn retries_on(&self, outcome: &Outcome) -> bool {
        let named = match outcome {
            Outcome::Exited(_) | Outcome::Signaled(_) => RetryOn::Exit,
            Outcome::TimedOut => RetryOn::Timeout,
            Outcome::OutOfMemory => RetryOn::Oom,
            Outcome::PidsLimit => RetryOn::Pids,
            _ => return false,
        };
        outcome.class() == OutcomeClass::TaskFailure && self.retry_on.contains(&named)
    }
}

/// An ending that a retry policy may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// An exit code other than 0, or a signal.
    Exit,
    /// The timeout.
    Timeout,
    /// Out of memory.
    Oom,
    /// The pids limit.
    Pids,
}

impl RetryOn {
    /// All of them: the default policy.
    pub const ALL: [Self; 4] = [Self::Exit, Self::Timeout, Self::Oom, Self::Pids];
}

/// Limits of one worker. `None` means the agent's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Processors, in thousandths.
    pub cpus_milli: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
}

/// The network of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Loopback only.
    #[default]
    None,
    /// The engine's default bridge.
    Bridge,
}

/// How far a worker is shut off from what its attempts may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// A read-only root and a user without rights; the worker is reused.
    #[default]
    Sealed,
    /// A writable root and user 0, in a worker of its own for each attempt.
    Fresh,
}

/// The image of a project's workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSpec {
    /// By reference, as `docker run` takes it.
    Reference(String),
    /// Built by the agent from a generated Dockerfile.
    Build {
        /// The base image, or `scratch`.
        from: String,
        /// Files to copy in.
        files: Vec<ImageFile>,
        /// Shell commands to run while building.
        run: Vec<String>,
    },
}

/// A file that is copied into an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Where it goes: an absolute path in the image.
    pub path: String,
    /// SHA-256 of its contents.
    pub sha256: [u8; 32],
    /// Permission bits.
    pub mode: u32,
    /// Length in bytes.
    pub length: u64,
}

/// What becomes of the tasks' output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "there is one a project")]
pub enum Reassemble {
    /// A way that the server has built in.
    BuiltIn(BuiltIn),
    /// One more task, fed with the ordered output.
    Command(TaskSpec),
}

/// The built-in ways to reassemble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuiltIn {
    /// The stdout of every task that ended in success, in index order, unchanged.
    Concat,
    /// The sum of all integers printed.
    Sum,
    /// One JSON array, an element a task.
    Json,
    /// No result.
    None,
}

/// What a failed task does to its project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailurePolicy {
    /// The others still run; the project fails at the end.
    #[default]
    Continue,
    /// The project fails at once.
    Stop,
    /// The project succeeds all the same.
    Ignore,
}

/// One item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// What `{item}` stands for.
    pub text: String,
    /// Arguments of its own, after the template's command.
    pub args: Vec<String>,
    /// A resource that belongs to it, such as a URL.
    pub resource: Option<String>,
}
