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
    /// Start an attempt. Allowed when idle.
    Run(Run),
    /// Send what is still kept of the attempt, from these offsets on. Once for each connection that did not send `Run`.
    Resume {
        /// Where to go on in stdout.
        stdout_offset: u64,
        /// Where to go on in stderr.
        stderr_offset: u64,
    },
    /// The agent keeps everything before the offset: init may forget it.
    Ack {
        /// Of which stream.
        stream: Stream,
        /// The offset.
        offset: u64,
    },
    /// More stdin.
    Stdin(Vec<u8>),
    /// Stdin ends here.
    CloseStdin,
    /// SIGTERM to the process group, SIGKILL to everything after the grace.
    Kill {
        /// The grace.
        grace: Duration,
    },
    /// The exit is kept by the agent: forget the attempt.
    Release,
}

/// One attempt to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
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

impl Frame for Request {
    fn length_max(tag: u8) -> Option<usize> {
        match tag {
            RUN => Some(RUN_FRAME_BYTES_MAX),
            RESUME | ACK | STDIN | CLOSE_STDIN | KILL | RELEASE => Some(FRAME_BYTES_MAX),
            _ => None,
        }
    }

    fn read(tag: u8, fields: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match tag {
            RUN => Self::Run(Run {
                attempt: fields.text()?,
                command: fields.list(Reader::text)?,
                env: fields.list(|pair| Ok((pair.text()?, pair.text()?)))?,
                workdir: fields.option(Reader::bytes)?.map(OsString::from_vec).map(PathBuf::from),
                timeout: fields.option(duration)?,
                output_bytes_max: fields.u64()?,
                has_stdin: fields.bool()?,
            }),
            RESUME => Self::Resume { stdout_offset: fields.u64()?, stderr_offset: fields.u64()? },
            ACK => Self::Ack { stream: fields.stream()?, offset: fields.u64()? },
            STDIN => Self::Stdin(fields.bytes()?),
            CLOSE_STDIN => Self::CloseStdin,
            KILL => Self::Kill { grace: duration(fields)? },
            RELEASE => Self::Release,
            _ => return Err(FrameError::UnknownTag(tag)),
        })
    }

    fn write(&self, fields: &mut Writer<'_>) {
        match self {
            Self::Run(run) => {
                fields.u8(RUN);
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
            Self::Resume { stdout_offset, stderr_offset } => {
                fields.u8(RESUME);
                fields.u64(*stdout_offset);
                fields.u64(*stderr_offset);
            }
            Self::Ack { stream, offset } => {
                fields.u8(ACK);
                fields.stream(*stream);
                fields.u64(*offset);
            }
            Self::Stdin(bytes) => {
                fields.u8(STDIN);
                fields.bytes(bytes);
            }
            Self::CloseStdin => fields.u8(CLOSE_STDIN),
            Self::Kill { grace } => {
                fields.u8(KILL);
                fields.u64(micros(*grace));
            }
            Self::Release => fields.u8(RELEASE),
        }
    }
}

fn duration(fields: &mut Reader<'_>) -> Result<Duration, FrameError> {
    fields.u64().map(Duration::from_micros)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
