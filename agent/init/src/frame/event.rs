//! What an init tells its agent.

use super::{FRAME_BYTES_MAX, Frame, FrameError, Reader, Stream, Writer};

/// What an init tells its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first frame of every connection.
    Hello {
        /// [`super::FRAME_VERSION`] of this init.
        version: u16,
        /// What it is doing.
        state: State,
    },
    /// The command was spawned.
    Started,
    /// Some output.
    Output {
        /// On which stream.
        stream: Stream,
        /// Where `bytes` starts in it.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// This many bytes of stdin were taken by the task, or thrown away because it reads no more.
    StdinWritten {
        /// How many since the last such frame.
        bytes: u64,
    },
    /// The attempt ended, and all its output was sent before.
    Exited(Exit),
    /// The last request can't be served, and why; the connection ends with this.
    Refused(String),
}

/// What an init is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Idle,
    /// Running an attempt.
    Running {
        /// Its name.
        attempt: String,
        /// How much stdin init has received for it.
        stdin_bytes: u64,
        /// How much of that is not written to the task yet, and will be credited over the new connection.
        stdin_waiting_bytes: u64,
    },
    /// Keeping an attempt that ended.
    Ended {
        /// Its name.
        attempt: String,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// In which way.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// How much it printed on stdout.
    pub stdout_length: u64,
    /// How much it printed on stderr.
    pub stderr_length: u64,
}

/// In which way an attempt ended.
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
    /// The command could not be started, and why.
    CouldNotStart(String),
    /// Killed for printing more than its limit.
    OutputLimit,
    /// Killed on request.
    Cancelled,
}

/// What an attempt used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Wall time from spawn to end, in microseconds.
    pub wall_micros: u64,
    /// Processor time in user mode, of all its processes, in microseconds.
    pub user_micros: u64,
    /// Processor time in the kernel, of all its processes, in microseconds.
    pub system_micros: u64,
    /// Largest resident set of any one process.
    pub peak_memory_bytes: u64,
}

const HELLO: u8 = 1;
const STARTED: u8 = 2;
const OUTPUT: u8 = 3;
const STDIN_WRITTEN: u8 = 4;
const EXITED: u8 = 5;
const REFUSED: u8 = 6;

impl Frame for Event {
    fn length_max(tag: u8) -> Option<usize> {
        (HELLO..=REFUSED).contains(&tag).then_some(FRAME_BYTES_MAX)
    }

    fn read(tag: u8, fields: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match tag {
            HELLO => Self::Hello { version: fields.u16()?, state: read_state(fields)? },
            STARTED => Self::Started,
            OUTPUT => {
                Self::Output { stream: fields.stream()?, offset: fields.u64()?, bytes: fields.bytes()? }
            }
            STDIN_WRITTEN => Self::StdinWritten { bytes: fields.u64()? },
            EXITED => Self::Exited(Exit {
                outcome: read_outcome(fields)?,
                usage: Usage {
                    wall_micros: fields.u64()?,
                    user_micros: fields.u64()?,
                    system_micros: fields.u64()?,
                    peak_memory_bytes: fields.u64()?,
                },
                stdout_length: fields.u64()?,
                stderr_length: fields.u64()?,
            }),
            REFUSED => Self::Refused(fields.text()?),
            _ => return Err(FrameError::UnknownTag(tag)),
        })
    }

    fn write(&self, fields: &mut Writer<'_>) {
        match self {
            Self::Hello { version, state } => {
                fields.u8(HELLO);
                fields.u16(*version);
                write_state(fields, state);
            }
            Self::Started => fields.u8(STARTED),
            Self::Output { stream, offset, bytes } => {
                fields.u8(OUTPUT);
                fields.stream(*stream);
                fields.u64(*offset);
                fields.bytes(bytes);
            }
            Self::StdinWritten { bytes } => {
                fields.u8(STDIN_WRITTEN);
                fields.u64(*bytes);
            }
            Self::Exited(exit) => {
                fields.u8(EXITED);
                write_outcome(fields, &exit.outcome);
                for number in [
                    exit.usage.wall_micros,
                    exit.usage.user_micros,
                    exit.usage.system_micros,
                    exit.usage.peak_memory_bytes,
                    exit.stdout_length,
                    exit.stderr_length,
                ] {
                    fields.u64(number);
                }
            }
            Self::Refused(why) => {
                fields.u8(REFUSED);
                fields.text(why);
            }
        }
    }
}

fn read_state(fields: &mut Reader<'_>) -> Result<State, FrameError> {
    Ok(match fields.u8()? {
        0 => State::Idle,
        1 => State::Running {
            attempt: fields.text()?,
            stdin_bytes: fields.u64()?,
            stdin_waiting_bytes: fields.u64()?,
        },
        2 => State::Ended { attempt: fields.text()? },
        _ => return Err(FrameError::Value("state")),
    })
}

fn write_state(fields: &mut Writer<'_>, state: &State) {
    match state {
        State::Idle => fields.u8(0),
        State::Running { attempt, stdin_bytes, stdin_waiting_bytes } => {
            fields.u8(1);
            fields.text(attempt);
            fields.u64(*stdin_bytes);
            fields.u64(*stdin_waiting_bytes);
        }
        State::Ended { attempt } => {
            fields.u8(2);
            fields.text(attempt);
        }
    }
}

fn read_outcome(fields: &mut Reader<'_>) -> Result<Outcome, FrameError> {
    Ok(match fields.u8()? {
        0 => Outcome::Exited(fields.i32()?),
        1 => Outcome::Signaled(fields.i32()?),
        2 => Outcome::TimedOut,
        3 => Outcome::OutOfMemory,
        4 => Outcome::CouldNotStart(fields.text()?),
        5 => Outcome::OutputLimit,
        6 => Outcome::Cancelled,
        _ => return Err(FrameError::Value("outcome")),
    })
}

fn write_outcome(fields: &mut Writer<'_>, outcome: &Outcome) {
    match outcome {
        Outcome::Exited(code) => {
            fields.u8(0);
            fields.i32(*code);
        }
        Outcome::Signaled(signal) => {
            fields.u8(1);
            fields.i32(*signal);
        }
        Outcome::TimedOut => fields.u8(2),
        Outcome::OutOfMemory => fields.u8(3),
        Outcome::CouldNotStart(why) => {
            fields.u8(4);
            fields.text(why);
        }
        Outcome::OutputLimit => fields.u8(5),
        Outcome::Cancelled => fields.u8(6),
    }
}
