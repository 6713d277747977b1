//! The agent's end of a connection to an init: frames in the agent's own words, checked, because nothing from a worker is
//! trusted. Events must come in the order of the runs that were sent, output without gaps, and an exit must fit it.
//!
//! What is to be said is gathered in a buffer, what was heard waits in another: [`InitLink::exchange`] moves as many bytes as
//! it can both ways at once, so two sides that both have much to say never wait for each other.

mod decode;
#[cfg(test)]
mod tests;

use crate::{
    domain::{AttemptKey, Outcome, OutputStream, Usage},
    runtime::Connection,
};
use bytes::{Bytes, BytesMut};
use decode::stream_of;
use piecework_init::frame::{
    self, CHUNK_BYTES_MAX, Event, Frame, FrameError, Request, STDIN_BYTES_MAX, Stream,
};
pub use piecework_init::frame::{Held, HeldState, Offsets};
use std::{collections::VecDeque, path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    time::{Instant, timeout, timeout_at},
};

/// How long init may take to say hello.
const HELLO_SECS_MAX: u64 = 10;

/// How long init may take to read what it is sent. It reads always, unless it hangs.
const SEND_SECS_MAX: u64 = 30;

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

/// How much stdin the agent should have on its way, sent and not credited. init takes more than that, so that a new agent
/// process can't break the limit by what an earlier one has sent.
pub const STDIN_WINDOW_BYTES: u64 = 256 << 10;

/// One attempt to run.
#[derive(Clone, Debug)]
pub struct RunCommand {
    /// The run's number; higher than any before it in the same worker.
    pub number: u64,
    /// Goes to init as its text, and comes back in [`Hello`].
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
    /// Stdin comes by [`InitLink::stdin`]; else it is empty.
    pub has_stdin: bool,
}

/// What init said of itself on connecting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// How many runs it holds at the most, those that ended and were not released among them.
    pub runs_max: usize,
    /// Those that it holds, in order.
    pub held: Vec<Held>,
    /// Why it takes no more.
    pub spent: Option<String>,
}

/// What init tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitEvent {
    /// The command of a run was spawned.
    Started(u64),
    /// Some output.
    Output {
        /// Of which run.
        run: u64,
        /// On which stream.
        stream: OutputStream,
        /// Where the bytes start.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The task has taken some stdin, or will take no more.
    StdinWritten,
    /// A run ended; comes after the last output of both streams, and again on a new connection until released.
    Exited(u64, InitExit),
    /// Runs from this number on have not begun and never will.
    Recalled(u64),
    /// The worker takes no more runs, and why.
    Spent(String),
}

/// How a run ended.
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
    /// What came is not a frame.
    #[error("the worker's init sent {0}")]
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

/// A run of which events are to come.
#[derive(Debug)]
struct Expected {
    run: u64,
    /// Where the next bytes of each stream must start; none if init decides, as of one that is not followed.
    offsets: Option<[u64; 2]>,
    stdin_sent: u64,
    stdin_waiting: u64,
}

/// What an exchange came to: how many bytes, which way.
enum Moved {
    In(std::io::Result<usize>),
    Out(std::io::Result<usize>),
}

/// The connection.
pub struct InitLink {
    reader: ReadHalf<Box<dyn Connection>>,
    writer: WriteHalf<Box<dyn Connection>>,
    received: BytesMut,
    out: Vec<u8>,
    written: usize,
    /// When init must have read some of what waits to be written.
    give_up: Option<Instant>,
    /// It takes nothing any more.
    is_deaf: bool,
    /// Runs that were sent and have not exited, in order.
    expected: VecDeque<Expected>,
}

impl InitLink {
    /// Takes a connection, and waits for init's hello.
    ///
    /// # Errors
    /// If init does not say hello, or speaks another version.
    pub async fn open(connection: Box<dyn Connection>) -> Result<(Self, Hello), LinkError> {
        let (reader, writer) = tokio::io::split(connection);
        let mut link = Self {
            reader,
            writer,
            received: BytesMut::new(),
            out: Vec::new(),
            written: 0,
            give_up: None,
            is_deaf: false,
            expected: VecDeque::new(),
        };
        let hello = timeout(Duration::from_secs(HELLO_SECS_MAX), link.hello()).await;
        let hello = hello.map_err(|_| LinkError::Silent { what: "say hello", secs: HELLO_SECS_MAX })??;
        for held in &hello.held {
            let (stdin_sent, stdin_waiting) = match held.state {
                HeldState::Running { stdin_bytes, stdin_waiting_bytes } => (stdin_bytes, stdin_waiting_bytes),
                HeldState::Queued | HeldState::Ended => (0, 0),
            };
            link.expected.push_back(Expected { run: held.run, offsets: None, stdin_sent, stdin_waiting });
        }
        Ok((link, hello))
    }

    async fn hello(&mut self) -> Result<Hello, LinkError> {
        loop {
            match self.decode()? {
                None => self.exchange().await?,
                Some(Event::Hello { version, runs_max, held, spent }) => {
                    if version != frame::FRAME_VERSION {
                        let own = frame::FRAME_VERSION;
                        return Err(LinkError::Protocol(format!(
                            "it speaks version {version} of the frames, and this agent {own}"
                        )));
                    }
                    if !held.is_sorted_by(|one, next| one.run < next.run) {
                        return Err(LinkError::Protocol("it holds runs out of order".into()));
                    }
                    return Ok(Hello { runs_max: usize::from(runs_max).max(1), held, spent });
                }
                Some(other) => return Err(LinkError::Protocol(format!("it began with {other:.60?}"))),
            }
        }
    }

    /// Sends a run, to be begun after those before it.
    ///
    /// # Errors
    /// If the command and its variables are longer than any kernel takes. Then nothing was sent, and the connection is
    /// still good.
    pub fn run(&mut self, command: &RunCommand) -> Result<(), FrameError> {
        Request::Run(frame::Run {
            number: command.number,
            attempt: command.attempt.to_string(),
            command: command.command.clone(),
            env: command.env.clone(),
            workdir: command.workdir.clone(),
            timeout: command.timeout,
            output_bytes_max: command.output_bytes_max,
            has_stdin: command.has_stdin,
        })
        .encode(&mut self.out)?;
        self.expected.push_back(Expected {
            run: command.number,
            offsets: Some([0, 0]),
            stdin_sent: 0,
            stdin_waiting: 0,
        });
        Ok(())
    }

    /// Asks init for what it still keeps of the runs of its hello. Once for a connection whose hello named any.
    pub fn resume(&mut self, runs: Vec<Offsets>) {
        for Offsets { run, stdout, stderr } in &runs {
            if let Some(expected) = self.expected.iter_mut().find(|expected| expected.run == *run) {
                expected.offsets = Some([*stdout, *stderr]);
            }
        }
        self.say(&Request::Resume(runs));
    }

    /// Bytes before the offset are kept by the agent: init may forget them. init keeps at most
    /// [`frame::UNACKED_BYTES_MAX`] of a stream unacknowledged and then stops reading the task's pipe.
    pub fn ack(&mut self, run: u64, stream: OutputStream, offset: u64) {
        let stream = match stream {
            OutputStream::Stdout => Stream::Stdout,
            OutputStream::Stderr => Stream::Stderr,
        };
        self.say(&Request::Ack { run, stream, offset });
    }

    /// How much stdin init has received of a run, over this connection and all before. An agent that adopts an attempt goes
    /// on from there.
    #[must_use]
    pub fn stdin_sent(&self, run: u64) -> u64 {
        self.expected(run).map_or(0, |expected| expected.stdin_sent)
    }

    /// How much stdin may be sent now to stay within [`STDIN_WINDOW_BYTES`]; grows with [`InitEvent::StdinWritten`].
    #[must_use]
    pub fn stdin_room(&self, run: u64) -> u64 {
        let waiting = self.expected(run).map_or(u64::MAX, |expected| expected.stdin_waiting);
        STDIN_WINDOW_BYTES.saturating_sub(waiting)
    }

    fn expected(&self, run: u64) -> Option<&Expected> {
        self.expected.iter().find(|expected| expected.run == run)
    }

    /// Sends some stdin to a run that has begun.
    ///
    /// # Errors
    /// If more than [`STDIN_BYTES_MAX`] would be on its way, which init would not bear, or the run is over.
    pub fn stdin(&mut self, run: u64, bytes: &[u8]) -> Result<(), LinkError> {
        let Some(expected) = self.expected.iter_mut().find(|expected| expected.run == run) else {
            return Err(LinkError::Protocol(format!("run {run} is not there to read stdin")));
        };
        expected.stdin_waiting += bytes.len() as u64;
        expected.stdin_sent += bytes.len() as u64;
        if expected.stdin_waiting > STDIN_BYTES_MAX as u64 {
            return Err(LinkError::Protocol(format!(
                "{} bytes of stdin are on their way",
                expected.stdin_waiting
            )));
        }
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            self.say(&Request::Stdin { run, bytes: chunk.to_vec() });
        }
        Ok(())
    }

    /// Ends a run's stdin.
    pub fn close_stdin(&mut self, run: u64) {
        self.say(&Request::CloseStdin { run });
    }

    /// SIGTERM to the whole process group, SIGKILL to everything after the grace. The run ends with
    /// [`InitEvent::Exited`], as [`Outcome::Cancelled`], unless it had ended already; so does one that has not begun.
    pub fn kill(&mut self, run: u64, grace: Duration) {
        self.say(&Request::Kill { run, grace });
    }

    /// Takes back what has not begun, from this number on; answered by [`InitEvent::Recalled`].
    pub fn recall(&mut self, from: u64) {
        self.say(&Request::Recall { from });
    }

    /// The endings of all runs up to this number are in the agent's outbox: init forgets them.
    pub fn release(&mut self, through: u64) {
        self.say(&Request::Release { through });
    }

    fn say(&mut self, request: &Request) {
        // None of these can be too long: chunks are cut, and init holds few runs.
        let said = request.encode(&mut self.out);
        debug_assert!(said.is_ok(), "{said:?}");
    }

    /// Whether something waits to be written.
    #[must_use]
    pub fn has_to_say(&self) -> bool {
        self.written < self.out.len()
    }

    /// Waits until some bytes have moved, either way, or both. Safe to cancel. When init takes no more, what it has said
    /// before is heard still.
    ///
    /// # Errors
    /// If the connection is gone, or init has not read for too long.
    pub async fn exchange(&mut self) -> Result<(), LinkError> {
        self.received.reserve(READ_BYTES);
        let give_up = self.has_to_say().then(|| {
            *self.give_up.get_or_insert_with(|| Instant::now() + Duration::from_secs(SEND_SECS_MAX))
        });
        let moved = async {
            tokio::select! {
                biased;
                written = self.writer.write(&self.out[self.written..]), if give_up.is_some() && !self.is_deaf => {
                    Moved::Out(written)
                }
                read = self.reader.read_buf(&mut self.received) => Moved::In(read),
            }
        };
        let moved = match give_up {
            Some(give_up) => timeout_at(give_up, moved)
                .await
                .map_err(|_| LinkError::Silent { what: "read what it was sent", secs: SEND_SECS_MAX })?,
            None => moved.await,
        };
        match moved {
            Moved::In(read) => {
                if read? == 0 {
                    return Err(LinkError::Closed);
                }
            }
            Moved::Out(Ok(count)) => {
                self.written += count;
                self.give_up = None;
                if !self.has_to_say() {
                    self.out.clear();
                    self.written = 0;
                    // A long command is rare, and need not stay in memory for as long as it runs.
                    self.out.shrink_to(READ_BYTES);
                }
            }
            Moved::Out(Err(_)) => self.is_deaf = true,
        }
        Ok(())
    }

    /// Hangs up, for init to hear at once.
    pub async fn close(&mut self) {
        // One that is gone has heard.
        let _ = self.writer.shutdown().await;
    }

    fn decode(&mut self) -> Result<Option<Event>, LinkError> {
        let Some((event, length)) = frame::decode(&self.received)? else { return Ok(None) };
        let _ = self.received.split_to(length);
        Ok(Some(event))
    }

    /// The next event that was received.
    ///
    /// # Errors
    /// If what came is no event, or can't be true.
    pub fn heard(&mut self) -> Result<Option<InitEvent>, LinkError> {
        let Some(event) = self.decode()? else { return Ok(None) };
        Ok(Some(match event {
            Event::Refused(why) => return Err(LinkError::Refused(why)),
            Event::Hello { .. } => return Err(LinkError::Protocol("it said hello twice".into())),
            Event::Started { run } => {
                self.current(run)?;
                InitEvent::Started(run)
            }
            Event::StdinWritten { run, bytes } => {
                let expected = self.current(run)?;
                expected.stdin_waiting = expected.stdin_waiting.saturating_sub(bytes);
                InitEvent::StdinWritten
            }
            Event::Output { run, stream, offset, bytes } => {
                let offsets = self.current(run)?.offsets.as_mut();
                if let Some(expected) = offsets.map(|offsets| &mut offsets[stream.index()]) {
                    if *expected != offset {
                        return Err(LinkError::Protocol(format!(
                            "{stream:?} of run {run} came at {offset}, not {expected}"
                        )));
                    }
                    *expected = offset.saturating_add(bytes.len() as u64);
                }
                InitEvent::Output { run, stream: stream_of(stream), offset, bytes: bytes.into() }
            }
            Event::Exited { run, exit } => {
                let offsets = self.current(run)?.offsets;
                if offsets.is_some_and(|offsets| offsets != [exit.stdout_length, exit.stderr_length]) {
                    return Err(LinkError::Protocol(format!("run {run} exited before its last output")));
                }
                self.expected.pop_front();
                InitEvent::Exited(run, decode::exit(exit))
            }
            Event::Recalled { from } => {
                self.expected.retain(|expected| expected.run < from);
                InitEvent::Recalled(from)
            }
            Event::Spent(why) => InitEvent::Spent(why),
        }))
    }

    /// Events come of one run after the other; a run whose ending the agent has released already is passed over.
    fn current(&mut self, run: u64) -> Result<&mut Expected, LinkError> {
        while self.expected.front().is_some_and(|first| first.run < run && first.offsets.is_none()) {
            self.expected.pop_front();
        }
        match self.expected.front_mut() {
            Some(expected) if expected.run == run => Ok(expected),
            other => {
                let expected = other.map(|other| other.run);
                Err(LinkError::Protocol(format!("it told of run {run}, where {expected:?} is next")))
            }
        }
    }
}
