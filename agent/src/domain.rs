//! Plain types that every other module of the agent speaks in.

use bytes::Bytes;
use std::{
    collections::BTreeMap, fmt, ops::RangeInclusive, path::PathBuf, str::FromStr, sync::Arc, time::Duration,
};

/// Which part of a project a task belongs to. To the agent it is only a part of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Makes the items.
    Split,
    /// One task per item.
    Task,
    /// Makes the result.
    Reassemble,
}

/// Names one try at one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// The project's number.
    pub project: u64,
    /// The phase.
    pub phase: Phase,
    /// The index within the phase.
    pub index: u32,
    /// The number of the try, from 1.
    pub attempt: u32,
}

/// `7-task-12-2`: project, phase, index, attempt. Fit for file names, container names and labels.
impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Split => "split",
            Phase::Task => "task",
            Phase::Reassemble => "reassemble",
        };
        write!(f, "{}-{phase}-{}-{}", self.project, self.index, self.attempt)
    }
}

impl AttemptKey {
    /// All attempts of the same task.
    #[must_use]
    pub const fn task_range(self) -> RangeInclusive<Self> {
        Self { attempt: 0, ..self }..=Self { attempt: u32::MAX, ..self }
    }
}

/// The text is no attempt's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not name an attempt")]
pub struct NotAnAttempt(pub String);

/// Reads what `Display` writes, and nothing else.
impl FromStr for AttemptKey {
    type Err = NotAnAttempt;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotAnAttempt(text.to_owned());
        let [project, phase, index, attempt] =
            text.split('-').collect::<Vec<_>>().try_into().map_err(|_| wrong())?;
        let phase = match phase {
            "split" => Phase::Split,
            "task" => Phase::Task,
            "reassemble" => Phase::Reassemble,
            _ => return Err(wrong()),
        };
        let key = Self {
            project: project.parse().map_err(|_| wrong())?,
            phase,
            index: index.parse().map_err(|_| wrong())?,
            attempt: attempt.parse().map_err(|_| wrong())?,
        };
        // `+7` and `007` parse, but would be a second name for the same attempt.
        if key.to_string() == text { Ok(key) } else { Err(wrong()) }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, with this exit code.
    Exited(i32),
    /// By a signal that was not ours.
    Signaled(i32),
    /// Killed at its timeout.
    TimedOut,
    /// Killed by the kernel for want of memory.
    OutOfMemory,
    /// Failed after the kernel had refused it a process or thread for the pids limit.
    PidsLimit,
    /// The command could not be started, and why.
    CouldNotStart(String),
    /// The image could not be found, pulled or built, and why.
    ImageUnavailable(String),
    /// Killed for printing more than its limit.
    OutputLimit,
    /// The worker ended under it.
    WorkerLost(String),
    /// The engine was not there, or lost the worker.
    EngineLost(String),
    /// Killed because the coordinator cancelled it.
    Cancelled,
}

/// What an attempt used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Wall time from spawn to end.
    pub wall_micros: u64,
    /// Processor time in user mode.
    pub user_micros: u64,
    /// Processor time in the kernel.
    pub system_micros: u64,
    /// Largest resident set of any one process.
    pub peak_memory_bytes: u64,
    /// How often the kernel killed one of its processes for want of memory.
    pub oom_kills: u32,
    /// How often the kernel refused it a process or thread for the pids limit.
    pub pids_refused: u32,
}

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What an attempt printed on one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// All of it; at most [`piecework_proto::INLINE_OUTPUT_BYTES_MAX`] bytes.
    Inline(Bytes),
    /// Too long to ride in a report: it is in a spool file of the outbox, and must be uploaded before the report is sent.
    Spooled {
        /// Its length.
        length: u64,
        /// SHA-256 of all of it.
        sha256: [u8; 32],
    },
}

impl Output {
    /// Whether it must be uploaded before its report can be sent.
    #[must_use]
    pub const fn is_spooled(&self) -> bool {
        matches!(self, Self::Spooled { .. })
    }
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which attempt.
    pub attempt: AttemptKey,
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// Its stdout.
    pub stdout: Output,
    /// Its stderr.
    pub stderr: Output,
}

impl Report {
    /// The ending of an attempt that never began, or whose output is lost.
    #[must_use]
    pub fn without_output(attempt: AttemptKey, outcome: Outcome) -> Self {
        let nothing = || Output::Inline(Bytes::new());
        Self { attempt, outcome, usage: Usage::default(), stdout: nothing(), stderr: nothing() }
    }
}

/// One attempt to run.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Which.
    pub attempt: AttemptKey,
    /// Program and arguments, complete.
    pub command: Vec<String>,
    /// All of its stdin, with [`StdinFrom::Assignment`]; else nothing.
    pub stdin: Bytes,
    /// What it has in common with its phase's other attempts.
    pub spec: Arc<RunSpec>,
}

impl Assignment {
    /// How long its command and its variables are.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let command = self.command.iter().map(String::len);
        let env = self.spec.env.iter().map(|(name, value)| name.len() + value.len());
        command.chain(env).sum()
    }
}

/// What all attempts of one phase of a project have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSpec {
    /// The project's name, for people.
    pub project_name: String,
    /// The image.
    pub image: ImageSpec,
    /// Environment variables, over the image's.
    pub env: BTreeMap<String, String>,
    /// Working directory; none means the image's.
    pub workdir: Option<PathBuf>,
    /// Longest run.
    pub timeout: Option<Duration>,
    /// Processors in thousandths; none means no limit of its own.
    pub cpus_milli: Option<u32>,
    /// Memory; none means no limit of its own.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
    /// The engine's default bridge instead of loopback only.
    pub network: bool,
    /// Most bytes on stdout and stderr together.
    pub output_bytes_max: u64,
    /// Where stdin comes from.
    pub stdin: StdinFrom,
    /// How far its workers are shut off.
    pub isolation: Isolation,
}

/// Where the stdin of an attempt comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StdinFrom {
    /// It is empty.
    #[default]
    Nothing,
    /// It came with the assignment.
    Assignment,
    /// The file with this SHA-256, from the cache of files.
    File([u8; 32]),
    /// It is read from the coordinator while the attempt runs.
    Coordinator,
}

/// How far a worker is shut off from what its attempts may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolation {
    /// A read-only root and a user without rights; the worker is reused.
    #[default]
    Sealed,
    /// A writable root and user 0, in a worker of its own for each attempt.
    Fresh,
}

/// The image of a project's workers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageSpec {
    /// By reference, as `docker run` takes it.
    Reference(String),
    /// Built here from a generated Dockerfile.
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageFile {
    /// Absolute path in the image; checked by the wire to have no `..` and no empty component.
    pub path: PathBuf,
    /// SHA-256 of its contents.
    pub sha256: [u8; 32],
    /// Permission bits.
    pub mode: u32,
    /// Length in bytes.
    pub length: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_read_back_from_its_name() {
        for phase in [Phase::Split, Phase::Task, Phase::Reassemble] {
            let key = AttemptKey { project: u64::MAX, phase, index: 12, attempt: 2 };
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        for text in
            ["", "7-task-12", "7-task-12-2-1", "7-other-12-2", "+7-task-12-2", "7-task-012-2", "7-task--2"]
        {
            assert_eq!(text.parse::<AttemptKey>(), Err(NotAnAttempt(text.into())));
        }
    }
}
