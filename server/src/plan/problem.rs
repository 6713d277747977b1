//! What can be wrong with a specification, in words that name the field and the remedy.

use super::{
    ARGUMENT_BYTES_MAX, COMMAND_BYTES_MAX, CPUS_MILLI_MAX, CPUS_MILLI_MIN, IDLE_MILLIS_MAX, IDLE_MILLIS_MIN,
    IMAGE_FILE_BYTES_MAX, IMAGE_FILES_MAX, ITEMS_MAX, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, NAME_BYTES_MAX,
    OUTPUT_BYTES_MAX, PARALLEL_MAX, PATH_BYTES_MAX, PIDS_MAX, RETRIES_MAX, STDIN_BYTES_MAX,
    TIMEOUT_MILLIS_MAX, TemplateError, WEIGHT_MAX,
};
use piecework_proto::label::{LABELS_MAX, LabelProblem};
use std::fmt;

/// One thing that is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {kind}")]
pub struct Problem {
    /// The field's path in the specification, such as `task.command[1]`.
    pub field: String,
    /// What is wrong.
    pub kind: ProblemKind,
}

/// What can be wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    /// The name has a forbidden character, is empty or too long.
    #[error("a name is 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`, not {}", quoted(.0))]
    Name(String),
    /// The weight is out of bounds.
    #[error("a weight is from 1 to {WEIGHT_MAX}, not {0}")]
    Weight(u32),
    /// More attempts at a time than any fleet has slots.
    #[error("at most {PARALLEL_MAX} attempts at a time, not {0}")]
    Parallel(u32),
    /// A label that no agent can have.
    #[error("{why}: not {}", quoted(.label))]
    Label {
        /// Which, as `NAME=VALUE`.
        label: String,
        /// What is wrong with it.
        why: LabelProblem,
    },
    /// More labels than an agent can have.
    #[error("{0} labels are more than any agent has, the limit is {LABELS_MAX}")]
    TooManyLabels(usize),
    /// A source yields no items.
    #[error("there are no items")]
    NoItems,
    /// A source yields too many items.
    #[error("there are {0} items, and a project has at most {ITEMS_MAX}")]
    TooManyItems(u128),
    /// The idle time of an open project is out of bounds.
    #[error("an idle time is from {IDLE_MILLIS_MIN} to {IDLE_MILLIS_MAX} ms, not {0}")]
    Idle(u64),
    /// The step of a range is 0.
    #[error("the step is 0, so the range never ends")]
    StepZero,
    /// A range that its step leads away from.
    #[error("the range from {first} to {last} by {step} is empty")]
    RangeEmpty {
        /// The first item.
        first: i64,
        /// The last item.
        last: i64,
        /// The step.
        step: i64,
    },
    /// A matrix without axes.
    #[error("a matrix needs at least one axis")]
    NoAxes,
    /// The name of an axis can't be a placeholder.
    #[error("the name of an axis is a letter or `_`, then letters, digits, `_` and `-`, but not `item` or `index`; not {}", quoted(.0))]
    AxisName(String),
    /// Two axes have the same name.
    #[error("another axis has the name {} already", quoted(.0))]
    AxisTwice(String),
    /// An axis without values.
    #[error("an axis needs at least one value")]
    NoValues,
    /// No command, and not every item brings arguments.
    #[error("there is no command")]
    NoCommand,
    /// An item has no arguments, and the task has no command.
    #[error("the task has no command, so every item needs arguments of its own")]
    ItemWithoutArguments,
    /// The first argument is empty.
    #[error("the program's name is empty")]
    NoProgram,
    /// A template can't be parsed.
    #[error("{0}")]
    Template(#[from] TemplateError),
    /// A zero byte in what becomes an argument, a path or a variable.
    #[error("there is a zero byte at position {}, which no program can be given", .0 + 1)]
    ZeroByte(usize),
    /// An argument is longer than Linux takes.
    #[error("the argument may become {0} bytes long, and Linux takes at most {ARGUMENT_BYTES_MAX}")]
    ArgumentTooLong(usize),
    /// A command is longer than Linux takes.
    #[error("the command may become {0} bytes long, and the limit is {COMMAND_BYTES_MAX}")]
    CommandTooLong(usize),
    /// A stdin is too long for an assignment.
    #[error(
        "the stdin may become {0} bytes long, and the limit is {STDIN_BYTES_MAX}; for more there is a file"
    )]
    StdinTooLong(usize),
    /// A file is too long for a stdin.
    #[error("{0} bytes are too long for a stdin, the limit is {IMAGE_FILE_BYTES_MAX}")]
    StdinFileTooLong(u64),
    /// A reassemble task with a stdin of its own.
    #[error("the stdin of a reassemble task is the ordered output of the tasks")]
    StdinOfReassemble,
    /// An item is too long.
    #[error("{0} bytes are too long, the limit is {ARGUMENT_BYTES_MAX}")]
    ItemTooLong(usize),
    /// Not the name of an environment variable.
    #[error("a variable's name is letters, digits, `_`, `.` and `-`, and does not begin with a digit; not {}", quoted(.0))]
    EnvName(String),
    /// Not an absolute path without detours.
    #[error("a path here is absolute, has no `.`, `..`, empty or control parts, and at most {PATH_BYTES_MAX} bytes; not {}", quoted(.0))]
    Path(String),
    /// Two files have the same path.
    #[error("another file has the path {} already", quoted(.0))]
    PathTwice(String),
    /// Not permission bits.
    #[error("permission bits are from 0 to 0o7777, not {0:#o}")]
    Mode(u32),
    /// A file is too long.
    #[error("{0} bytes are too long for a file of an image, the limit is {IMAGE_FILE_BYTES_MAX}")]
    FileTooLong(u64),
    /// Too many files.
    #[error("{0} files are too many for an image, the limit is {IMAGE_FILES_MAX}")]
    TooManyFiles(usize),
    /// Not an image reference.
    #[error("not an image reference such as `debian:bookworm-slim`: {what}")]
    ImageReference {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A build command that is blank.
    #[error("the command is blank")]
    Blank,
    /// The timeout is too long.
    #[error("a timeout is at most {TIMEOUT_MILLIS_MAX} ms, not {0}")]
    Timeout(u64),
    /// Too many retries.
    #[error("at most {RETRIES_MAX} retries, not {0}")]
    Retries(u32),
    /// Processors out of bounds.
    #[error("from {CPUS_MILLI_MIN} to {CPUS_MILLI_MAX} thousandths of a processor, not {0}")]
    Cpus(u32),
    /// Memory out of bounds.
    #[error("from {MEMORY_BYTES_MIN} to {MEMORY_BYTES_MAX} bytes of memory, not {0}")]
    Memory(u64),
    /// Too many processes.
    #[error("at most {PIDS_MAX} processes, not {0}")]
    Pids(u32),
    /// The output limit is too high.
    #[error("at most {OUTPUT_BYTES_MAX} bytes of output, not {0}")]
    OutputLimit(u64),
}

/// All that is wrong with a specification; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems, in the order of the fields; at least one.
    #[must_use]
    pub fn all(&self) -> &[Problem] {
        &self.0
    }
}

/// One a line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// Collects problems on a walk through a specification.
#[derive(Debug, Default)]
pub(super) struct Collector(Vec<Problem>);

impl Collector {
    pub(super) fn add(&mut self, field: impl Into<String>, kind: ProblemKind) {
        self.0.push(Problem { field: field.into(), kind });
    }

    pub(super) fn check(&mut self, good: bool, field: &str, kind: impl FnOnce() -> ProblemKind) {
        if !good {
            self.add(field, kind());
        }
    }

    /// Checks a text for zero bytes.
    pub(super) fn no_zero(&mut self, field: impl FnOnce() -> String, text: &str) {
        if let Some(at) = text.bytes().position(|byte| byte == 0) {
            self.add(field(), ProblemKind::ZeroByte(at));
        }
    }

    pub(super) fn finish(self) -> Result<(), Problems> {
        if self.0.is_empty() { Ok(()) } else { Err(Problems(self.0)) }
    }
}

/// A text from outside within a message: quoted, its control characters visible, and cut when long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(SHOWN_CHARS_MAX).is_some() { "…" } else { "" };
    format!("`{shown}{more}`")
}
