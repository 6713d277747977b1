//! The agent's end of a connection to an init: frames in the agent's own words, checked, because nothing from a worker is
//! trusted. Output must follow without gaps from where it was asked for, and the exit must fit it.

mod decode;

use crate::{
    domain::{AttemptKey, Outcome, OutputStream, Usage},
    runtime::Connection,
};
use bytes::Bytes;
use decode::EventDecoder;
use futures_util::StreamExt;
use piecework_init::frame::{self, CHUNK_BYTES_MAX, Event, Frame, FrameError, Request, STDIN_BYTES_MAX};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, ReadHalf, WriteHalf},
    time::timeout,
};
use tokio_util::codec::FramedRead;

/// How long init may take to say hello.
const HELLO_SECS_MAX: u64 = 10;

/// How long init may take to read what it is sent. It reads always, unless it hangs.
const SEND_SECS_MAX: u64 = 30;

/// How much stdin the agent should have on its way, sent and not credited. init takes more than that, so that a new agent
/// process can't break the limit by what an earlier one has sent.
pub const STDIN_WINDOW_BYTES: u64 = 256 << 10;

/// One attempt to run.
#[derive(Clone, Debug)]
pub struct RunCommand {
    /// Goes to init as its text, and comes back in [`InitState`].
    pub attempt: AttemptKey,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables; of two with the same name the later counts.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub workdir: Option<PathBuf>,
    /// Longest run.
    pub timeout: Option<Duration>,
    /// Most bytes on stdout and stderr together.
    pub output_bytes_max: u64,
    /// Stdin comes by [`InitSender::stdin`]; else it is empty.
    pub has_stdin: bool,
}

/// What init said of itself on connecting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitState {
    /// It has no attempt.
    Idle,
    /// It is running one.
    Running {
        /// The key's text.
        attempt: String,
    },
    /// It keeps one that ended.
    Ended {
        /// The key's text.
        attempt: String,
    },
}

/// What init tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitEvent {
    /// The command was spawned.
    Started,
    /// Some output.
    Output {
        /// On which stream.
        stream: OutputStream,
        /// Where the bytes start.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The task has taken some stdin, or will take no more.
    StdinWritten {
        /// How many bytes.
        bytes: u64,
    },
    /// The attempt ended; comes after the last output of both streams, and again on a new connection until released.
    Exited(InitExit),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitExit {
    /// In which way.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// How much it printed on stdout.
    pub stdout_length: u64,
    /// How much it printed on stderr.
    pub stderr_length: u64,
}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// init, or the whole worker, is gone; or a newer connection has replaced this one.
    #[error("the connection to the worker's init ended")]
    Closed,
    /// Reading or writing failed otherwise.
    #[error("the connection to the worker's init failed: {0}")]
    Io(#[source] std::io::Error),
    /// init does not answer, or reads no more.
    #[error("the worker's init did not {what} within {secs} s")]
    Silent {
        /// What it did not do.
        what: &'static str,
        /// For how long.
        secs: u64,
    },
    /// What came, or was to be sent, is not a frame.
    #[error("the worker's init was sent, or sent, {0}")]
    Frame(#[from] FrameError),
    /// init refused a request.
    #[error("the worker's init refused: {0}")]
    Refused(String),
    /// Frames that are right, but can't be true.
    #[error("the worker's init broke the protocol: {0}")]
    Protocol(String),
}

impl From<std::io::Error> for LinkError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) {
            Self::Closed
        } else {
            Self::Io(error)
        }
    }
}

/// Splits a connection into two halves, so that [`InitReceiver::next`] can stand in a `select!` while the sender is used.
///
/// # Errors
/// If init does not say hello, or speaks another version.
pub async fn open(
    connection: Box<dyn Connection>,
) -> Result<(InitSender, InitReceiver, InitState), LinkError> {
    let (reader, writer) = tokio::io::split(connection);
    let mut frames = FramedRead::new(reader, EventDecoder);
    let hello = timeout(Duration::from_secs(HELLO_SECS_MAX), frames.next()).await;
    let hello = hello.map_err(|_| LinkError::Silent { what: "say hello", secs: HELLO_SECS_MAX })?;
    let (version, state) = match hello.transpose()?.ok_or(LinkError::Closed)? {
        Event::Hello { version, state } => (version, state),
        other => return Err(LinkError::Protocol(format!("it began with {other:.60?}"))),
    };
    if version != frame::FRAME_VERSION {
        let own = frame::FRAME_VERSION;
        return Err(LinkError::Protocol(format!(
            "it speaks version {version} of the frames, and this agent {own}"
        )));
    }
    let mut shared = Shared::default();
    let state = match state {
        frame::State::Idle => InitState::Idle,
        frame::State::Running { attempt, stdin_bytes, stdin_waiting_bytes } => {
            shared.stdin_sent = stdin_bytes;
            shared.stdin_waiting = stdin_waiting_bytes;
            InitState::Running { attempt }
        }
        frame::State::Ended { attempt } => InitState::Ended { attempt },
    };
    let shared = Arc::new(Mutex::new(shared));
    let sender = InitSender { writer, shared: Arc::clone(&shared), buffer: Vec::new() };
    Ok((sender, InitReceiver { frames, shared }, state))
}

/// What both halves must know.
#[derive(Debug, Default)]
struct Shared {
    /// Where the next bytes of each stream must start; none until Run or Resume.
    expected: Option<[u64; 2]>,
    stdin_sent: u64,
    stdin_waiting: u64,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The half that asks.
pub struct InitSender {
    writer: WriteHalf<Box<dyn Connection>>,
    shared: Arc<Mutex<Shared>>,
    buffer: Vec<u8>,
}

impl InitSender {
    /// Starts an attempt.
    ///
    /// # Errors
    /// If the connection is gone, or the command and its variables are longer than any kernel takes
    /// ([`LinkError::Frame`]; the connection is still good then).
    pub async fn run(&mut self, command: &RunCommand) -> Result<(), LinkError> {
        let request = Request::Run(frame::Run {
            attempt: command.attempt.to_string(),
            command: command.command.clone(),
            env: command.env.clone(),
            workdir: command.workdir.clone(),
            timeout: command.timeout,
            output_bytes_max: command.output_bytes_max,
            has_stdin: command.has_stdin,
        });
        *lock(&self.shared) = Shared { expected: Some([0, 0]), ..Shared::default() };
        self.send(&request).await
    }

    /// Asks init for what it still keeps of a running or ended attempt, from these offsets on. Once for a connection.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn resume(&mut self, stdout_offset: u64, stderr_offset: u64) -> Result<(), LinkError> {
        lock(&self.shared).expected = Some([stdout_offset, stderr_offset]);
        self.send(&Request::Resume { stdout_offset, stderr_offset }).await
    }

    /// Bytes before the offset are kept by the agent: init may forget them. init keeps at most
    /// [`frame::UNACKED_BYTES_MAX`] of a stream unacknowledged and then stops reading the task's pipe.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn ack(&mut self, stream: OutputStream, offset: u64) -> Result<(), LinkError> {
        let stream = match stream {
            OutputStream::Stdout => frame::Stream::Stdout,
            OutputStream::Stderr => frame::Stream::Stderr,
        };
        self.send(&Request::Ack { stream, offset }).await
    }

    /// How much stdin init has received of its attempt, over this connection and all before. An agent that adopts an
    /// attempt goes on from there.
    #[must_use]
    pub fn stdin_sent(&self) -> u64 {
        lock(&self.shared).stdin_sent
    }

    /// How much stdin may be sent now to stay within [`STDIN_WINDOW_BYTES`]; grows with [`InitEvent::StdinWritten`].
    #[must_use]
    pub fn stdin_room(&self) -> u64 {
        STDIN_WINDOW_BYTES.saturating_sub(lock(&self.shared).stdin_waiting)
    }

    /// Sends some stdin.
    ///
    /// # Errors
    /// If the connection is gone, or more than [`STDIN_BYTES_MAX`] would be on its way, which init would not bear.
    pub async fn stdin(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        {
            let mut shared = lock(&self.shared);
            shared.stdin_waiting += bytes.len() as u64;
            shared.stdin_sent += bytes.len() as u64;
            if shared.stdin_waiting > STDIN_BYTES_MAX as u64 {
                return Err(LinkError::Protocol(format!(
                    "{} bytes of stdin are on their way",
                    shared.stdin_waiting
                )));
            }
        }
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            self.send(&Request::Stdin(chunk.to_vec())).await?;
        }
        Ok(())
    }

    /// Ends stdin.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn close_stdin(&mut self) -> Result<(), LinkError> {
        self.send(&Request::CloseStdin).await
    }

    /// SIGTERM to the whole process group, SIGKILL to everything after the grace. The attempt ends with
    /// [`InitEvent::Exited`], as [`Outcome::Cancelled`], unless it had ended already. No fault when nothing runs.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn kill(&mut self, grace: Duration) -> Result<(), LinkError> {
        self.send(&Request::Kill { grace }).await
    }

    /// The exit is in the agent's outbox: init forgets the attempt and is idle again.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn release(&mut self) -> Result<(), LinkError> {
        self.send(&Request::Release).await
    }

    async fn send(&mut self, request: &Request) -> Result<(), LinkError> {
        self.buffer.clear();
        request.encode(&mut self.buffer)?;
        let sent = timeout(Duration::from_secs(SEND_SECS_MAX), async {
            self.writer.write_all(&self.buffer).await?;
            self.writer.flush().await
        });
        let result =
            sent.await.map_err(|_| LinkError::Silent { what: "read a request", secs: SEND_SECS_MAX })?;
        // A long command is rare, and need not stay in memory for as long as it runs.
        self.buffer.shrink_to(CHUNK_BYTES_MAX);
        Ok(result?)
    }
}

/// The half that listens.
pub struct InitReceiver {
    frames: FramedRead<ReadHalf<Box<dyn Connection>>, EventDecoder>,
    shared: Arc<Mutex<Shared>>,
}

impl InitReceiver {
    /// The next event. Safe to cancel.
    ///
    /// # Errors
    /// [`LinkError::Closed`] when init is gone.
    pub async fn next(&mut self) -> Result<InitEvent, LinkError> {
        let event = self.frames.next().await.ok_or(LinkError::Closed)??;
        let mut shared = lock(&self.shared);
        match event {
            Event::Refused(why) => Err(LinkError::Refused(why)),
            Event::Hello { .. } => Err(LinkError::Protocol("it said hello twice".into())),
            Event::Started => Ok(InitEvent::Started),
            Event::StdinWritten { bytes } => {
                shared.stdin_waiting = shared.stdin_waiting.saturating_sub(bytes);
                Ok(InitEvent::StdinWritten { bytes })
            }
            Event::Output { stream, offset, bytes } => {
                let expected = shared.expected.as_mut().map(|offsets| &mut offsets[stream.index()]);
                match expected {
                    Some(expected) if *expected == offset => {
                        *expected = offset.saturating_add(bytes.len() as u64)
                    }
                    other => {
                        return Err(LinkError::Protocol(format!(
                            "{stream:?} came at {offset}, not {other:?}"
                        )));
                    }
                }
                let stream = match stream {
                    frame::Stream::Stdout => OutputStream::Stdout,
                    frame::Stream::Stderr => OutputStream::Stderr,
                };
                Ok(InitEvent::Output { stream, offset, bytes: bytes.into() })
            }
            Event::Exited(exit) => {
                if shared.expected != Some([exit.stdout_length, exit.stderr_length]) {
                    return Err(LinkError::Protocol("the exit came before the last output".into()));
                }
                Ok(InitEvent::Exited(decode::exit(exit)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
