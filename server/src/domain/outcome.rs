//! How an attempt ended, and what that means to the retry policy.

use std::fmt;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, with this exit code; 0 is success.
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
    /// The Docker engine was not there, or lost the worker.
    EngineLost(String),
    /// Its agent was not heard from for a whole lease.
    LeaseLost,
    /// Its project was cancelled.
    Cancelled,
}

/// What the coordinator makes of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeClass {
    /// The task has its result.
    Success,
    /// The task's own failure: the project's retry policy decides.
    TaskFailure,
    /// Trying again on the same host would end the same way.
    Hopeless,
    /// The infrastructure's failure: tried again, up to the crash limit.
    Loss,
    /// Nobody wants the task any longer.
    Cancelled,
}

impl Outcome {
    /// What the coordinator makes of it.
    #[must_use]
    pub const fn class(&self) -> OutcomeClass {
        match self {
            Self::Exited(0) => OutcomeClass::Success,
            Self::Exited(_) | Self::Signaled(_) | Self::TimedOut | Self::OutOfMemory | Self::PidsLimit => {
                OutcomeClass::TaskFailure
            }
            Self::CouldNotStart(_) | Self::ImageUnavailable(_) | Self::OutputLimit => OutcomeClass::Hopeless,
            Self::WorkerLost(_) | Self::EngineLost(_) | Self::LeaseLost => OutcomeClass::Loss,
            Self::Cancelled => OutcomeClass::Cancelled,
        }
    }

    /// Whether the task has its result with this.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.class(), OutcomeClass::Success)
    }
}

/// In the words that users see.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::PidsLimit => f.write_str("reached its limit of processes and threads"),
            Self::CouldNotStart(why) => write!(f, "could not start: {why}"),
            Self::ImageUnavailable(why) => write!(f, "image unavailable: {why}"),
            Self::OutputLimit => f.write_str("printed more than its output limit"),
            Self::WorkerLost(why) => write!(f, "worker lost: {why}"),
            Self::EngineLost(why) => write!(f, "engine lost: {why}"),
            Self::LeaseLost => f.write_str("lease lost: its agent was not heard from"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// What an attempt used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Wall time from spawn to end, in microseconds.
    pub wall_micros: u64,
    /// Processor time in user mode, in microseconds.
    pub user_micros: u64,
    /// Processor time in the kernel, in microseconds.
    pub system_micros: u64,
    /// Largest resident set of any one process, in bytes.
    pub peak_memory_bytes: u64,
    /// How often the kernel killed one of its processes for want of memory.
    pub oom_kills: u32,
    /// How often the kernel refused it a process or thread for the pids limit.
    pub pids_refused: u32,
}
