//! What an agent asks of an init.

use super::{FRAME_BYTES_MAX, Frame, FrameError, RUN_FRAME_BYTES_MAX, Reader, Stream, Writer};
use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    time::Duration,
};

/// What an agent asks of an init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Run an attempt after those that init holds already. Its number is higher than that of any run before, and init
    /// holds fewer than it said in [`super::Event::Hello`] that it takes.
    Run(Run),
    /// Send what is still kept of the runs that Hello named, from these offsets on. Once for each connection whose Hello
    /// named any, before all else but `Recall`; a run that is not listed is sent from its first byte that is kept.
    Resume(Vec<Offsets>),
    /// The agent keeps everything before the offset: init may forget it.
    Ack {
        /// Of which run.
        run: u64,
        /// Of which stream.
        stream: Stream,
        /// The offset.
        offset: u64,
    },
    /// More stdin for the run that was begun last. It may follow its `Run` at once if all runs before were released.
    Stdin {
        /// Which run.
        run: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Stdin ends here.
    CloseStdin {
        /// Of which run.
        run: u64,
    },
    /// SIGTERM to the run's process group, SIGKILL to everything after the grace. One that has not begun ends as
    /// cancelled, in its turn, without having begun.
    Kill {
        /// Which run.
        run: u64,
        /// The grace.
        grace: Duration,
    },
    /// Forget all runs with this number or a higher one that have not begun; answered by [`super::Event::Recalled`].
    Recall {
        /// The first of them.
        from: u64,
    },
    /// The endings of all runs up to this number are kept by the agent: forget them. Those that have not ended stay.
    Release {
        /// The last of them.
        through: u64,
    },
}

/// Where to go on with one run's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// Which run.
    pub run: u64,
    /// In its stdout.
    pub stdout: u64,
    /// In its stderr.
    pub stderr: u64,
}

/// One attempt to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Its number, which rises from run to run within a worker, from 1.
    pub number: u64,
    /// Names the attempt; init only repeats it.
    pub attempt: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables; of two with the same name the later counts.
    pub env: Vec<(String, String)>,
    /// Working directory; none means init's own.
    pub workdir: Option<PathBuf>,
    /// Longest run.
    pub timeout: Option<Duration>,
    /// Most bytes on stdout and stderr together.
    pub output_bytes_max: u64,
    /// Stdin comes in frames; else it is empty.
    pub has_stdin: bool,
}

const RUN: u8 = 1;
const RESUME: u8 = 2;
const ACK: u8 = 3;
const STDIN: u8 = 4;
const CLOSE_STDIN: u8 = 5;
const KILL: u8 = 6;
const RELEASE: u8 = 7;
const RECALL: u8 = 8;

impl Frame for Request {
    fn length_max(tag: u8) -> Option<usize> {
        match tag {
            RUN => Some(RUN_FRAME_BYTES_MAX),
            RESUME | ACK | STDIN | CLOSE_STDIN | KILL | RELEASE | RECALL => Some(FRAME_BYTES_MAX),
            _ => None,
        }
    }

    fn read(tag: u8, fields: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match tag {
            RUN => Self::Run(Run {
                number: fields.u64()?,
                attempt: fields.text()?,
                command: fields.list(Reader::text)?,
                env: fields.list(|pair| Ok((pair.text()?, pair.text()?)))?,
                workdir: fields.option(Reader::bytes)?.map(OsString::from_vec).map(PathBuf::from),
                timeout: fields.option(duration)?,
                output_bytes_max: fields.u64()?,
                has_stdin: fields.bool()?,
            }),
            RESUME => Self::Resume(fields.list(|fields| {
                Ok(Offsets { run: fields.u64()?, stdout: fields.u64()?, stderr: fields.u64()? })
            })?),
            ACK => Self::Ack { run: fields.u64()?, stream: fields.stream()?, offset: fields.u64()? },
            STDIN => Self::Stdin { run: fields.u64()?, bytes: fields.bytes()? },
            CLOSE_STDIN => Self::CloseStdin { run: fields.u64()? },
            KILL => Self::Kill { run: fields.u64()?, grace: duration(fields)? },
            RECALL => Self::Recall { from: fields.u64()? },
            RELEASE => Self::Release { through: fields.u64()? },
            _ => return Err(FrameError::UnknownTag(tag)),
        })
    }

    fn write(&self, fields: &mut Writer<'_>) {
        match self {
            Self::Run(run) => {
                fields.u8(RUN);
                fields.u64(run.number);
                fields.text(&run.attempt);
                fields.list(&run.command, |fields, word| fields.text(word));
                fields.list(&run.env, |fields, (name, value)| {
                    fields.text(name);
                    fields.text(value);
                });
                fields.option(run.workdir.as_ref(), |fields, path| fields.bytes(path.as_os_str().as_bytes()));
                fields.option(run.timeout.as_ref(), |fields, timeout| fields.u64(micros(*timeout)));
                fields.u64(run.output_bytes_max);
                fields.bool(run.has_stdin);
            }
            Self::Resume(runs) => {
                fields.u8(RESUME);
                fields.list(runs, |fields, offsets| {
                    fields.u64(offsets.run);
                    fields.u64(offsets.stdout);
                    fields.u64(offsets.stderr);
                });
            }
            Self::Ack { run, stream, offset } => {
                fields.u8(ACK);
                fields.u64(*run);
                fields.stream(*stream);
                fields.u64(*offset);
            }
            Self::Stdin { run, bytes } => {
                fields.u8(STDIN);
                fields.u64(*run);
                fields.bytes(bytes);
            }
            Self::CloseStdin { run } => {
                fields.u8(CLOSE_STDIN);
                fields.u64(*run);
            }
            Self::Kill { run, grace } => {
                fields.u8(KILL);
                fields.u64(*run);
                fields.u64(micros(*grace));
            }
            Self::Recall { from } => {
                fields.u8(RECALL);
                fields.u64(*from);
            }
            Self::Release { through } => {
                fields.u8(RELEASE);
                fields.u64(*through);
            }
        }
    }
}

fn duration(fields: &mut Reader<'_>) -> Result<Duration, FrameError> {
    fields.u64().map(Duration::from_micros)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
