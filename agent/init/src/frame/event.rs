//! What an init tells its agent.

use super::{FRAME_BYTES_MAX, Frame, FrameError, Reader, Stream, Writer};

/// What an init tells its agent. Of two runs, everything about the earlier is told before anything about the later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first frame of every connection.
    Hello {
        /// [`super::FRAME_VERSION`] of this init.
        version: u16,
        /// How many runs it holds at the most: queued, running, and ended but not released.
        runs_max: u16,
        /// Those that it holds, in order.
        held: Vec<Held>,
        /// Why it takes no more runs; none if it does.
        spent: Option<String>,
    },
    /// The command of a run was spawned.
    Started {
        /// Which run.
        run: u64,
    },
    /// Some output.
    Output {
        /// Of which run.
        run: u64,
        /// On which stream.
        stream: Stream,
        /// Where `bytes` starts in it.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// This many bytes of stdin were taken by the task, or thrown away because it reads no more.
    StdinWritten {
        /// Of which run.
        run: u64,
        /// How many since the last such frame.
        bytes: u64,
    },
    /// A run ended, and all its output was sent before.
    Exited {
        /// Which run.
        run: u64,
        /// How.
        exit: Exit,
    },
    /// Runs with this number or a higher one have not begun and never will. Answers [`super::Request::Recall`], and comes
    /// unasked before [`Event::Spent`].
    Recalled {
        /// The lowest number that never begins.
        from: u64,
    },
    /// The worker is not clean any more, and why: it takes no more runs. What it holds can still be told and released.
    Spent(String),
    /// The last request can't be served, and why; the connection ends with this.
    Refused(String),
}

/// One run that init holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its number.
    pub run: u64,
    /// Its attempt's name.
    pub attempt: String,
    /// Where it stands.
    pub state: HeldState,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldState {
    /// It waits for those before it.
    Queued,
    /// It is running.
    Running {
        /// How much stdin init has received for it.
        stdin_bytes: u64,
        /// How much of that is not written to the task yet, and will be credited over the new connection.
        stdin_waiting_bytes: u64,
    },
    /// It ended, and was not released.
    Ended,
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
    /// It failed, after the kernel had refused it a process or thread for the limit on their number.
    PidsLimit,
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
    /// How many of its processes the kernel killed for want of memory.
    pub oom_kills: u32,
    /// How many processes and threads the kernel refused it for the limit on their number.
    pub pids_refused: u32,
}

const HELLO: u8 = 1;
const STARTED: u8 = 2;
const OUTPUT: u8 = 3;
const STDIN_WRITTEN: u8 = 4;
const EXITED: u8 = 5;
const REFUSED: u8 = 6;
const RECALLED: u8 = 7;
const SPENT: u8 = 8;

impl Frame for Event {
    fn length_max(tag: u8) -> Option<usize> {
        (HELLO..=SPENT).contains(&tag).then_some(FRAME_BYTES_MAX)
    }

    fn read(tag: u8, fields: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match tag {
            HELLO => Self::Hello {
                version: fields.u16()?,
                runs_max: fields.u16()?,
                held: fields.list(read_held)?,
                spent: fields.option(Reader::text)?,
            },
            STARTED => Self::Started { run: fields.u64()? },
            OUTPUT => Self::Output {
                run: fields.u64()?,
                stream: fields.stream()?,
                offset: fields.u64()?,
                bytes: fields.bytes()?,
            },
            STDIN_WRITTEN => Self::StdinWritten { run: fields.u64()?, bytes: fields.u64()? },
            EXITED => Self::Exited {
                run: fields.u64()?,
                exit: Exit {
                    outcome: read_outcome(fields)?,
                    usage: Usage {
                        wall_micros: fields.u64()?,
                        user_micros: fields.u64()?,
                        system_micros: fields.u64()?,
                        peak_memory_bytes: fields.u64()?,
                        oom_kills: fields.u32()?,
                        pids_refused: fields.u32()?,
                    },
                    stdout_length: fields.u64()?,
                    stderr_length: fields.u64()?,
                },
            },
            RECALLED => Self::Recalled { from: fields.u64()? },
            SPENT => Self::Spent(fields.text()?),
            REFUSED => Self::Refused(fields.text()?),
            _ => return Err(FrameError::UnknownTag(tag)),
        })
    }

    fn write(&self, fields: &mut Writer<'_>) {
        match self {
            Self::Hello { version, runs_max, held, spent } => {
                fields.u8(HELLO);
                fields.u16(*version);
                fields.u16(*runs_max);
                fields.list(held, write_held);
                fields.option(spent.as_ref(), |fields, why| fields.text(why));
            }
            Self::Started { run } => {
                fields.u8(STARTED);
                fields.u64(*run);
            }
            Self::Output { run, stream, offset, bytes } => {
                fields.u8(OUTPUT);
                fields.u64(*run);
                fields.stream(*stream);
                fields.u64(*offset);
                fields.bytes(bytes);
            }
            Self::StdinWritten { run, bytes } => {
                fields.u8(STDIN_WRITTEN);
                fields.u64(*run);
                fields.u64(*bytes);
            }
            Self::Exited { run, exit } => {
                fields.u8(EXITED);
                fields.u64(*run);
                write_outcome(fields, &exit.outcome);
                let Usage {
                    wall_micros,
                    user_micros,
                    system_micros,
                    peak_memory_bytes,
                    oom_kills,
                    pids_refused,
                } = exit.usage;
                for number in [wall_micros, user_micros, system_micros, peak_memory_bytes] {
                    fields.u64(number);
                }
                fields.u32(oom_kills);
                fields.u32(pids_refused);
                fields.u64(exit.stdout_length);
                fields.u64(exit.stderr_length);
            }
            Self::Recalled { from } => {
                fields.u8(RECALLED);
                fields.u64(*from);
            }
            Self::Spent(why) => {
                fields.u8(SPENT);
                fields.text(why);
            }
            Self::Refused(why) => {
                fields.u8(REFUSED);
                fields.text(why);
            }
        }
    }
}

fn read_held(fields: &mut Reader<'_>) -> Result<Held, FrameError> {
    let (run, attempt) = (fields.u64()?, fields.text()?);
    let state = match fields.u8()? {
        0 => HeldState::Queued,
        1 => HeldState::Running { stdin_bytes: fields.u64()?, stdin_waiting_bytes: fields.u64()? },
        2 => HeldState::Ended,
        _ => return Err(FrameError::Value("state")),
    };
    Ok(Held { run, attempt, state })
}

fn write_held(fields: &mut Writer<'_>, held: &Held) {
    fields.u64(held.run);
    fields.text(&held.attempt);
    match held.state {
        HeldState::Queued => fields.u8(0),
        HeldState::Running { stdin_bytes, stdin_waiting_bytes } => {
            fields.u8(1);
            fields.u64(stdin_bytes);
            fields.u64(stdin_waiting_bytes);
        }
        HeldState::Ended => fields.u8(2),
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
        7 => Outcome::PidsLimit,
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
        Outcome::PidsLimit => fields.u8(7),
    }
}
