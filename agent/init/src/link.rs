//! One connection to the agent: bytes in, bytes out, and how much of the attempt it was told. It never waits: what the
//! agent does not read stays with the attempt, and what is made for it is bounded.

use crate::{
    attempt::Attempt,
    frame::{
        CHUNK_BYTES_MAX, Decoder, Event, FRAME_VERSION, Frame, FrameError, Request, State, Stream,
        cut_message,
    },
};
use std::{
    io::{ErrorKind, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};

/// How much is read at once.
const READ_BYTES_MAX: usize = 64 << 10;

/// When this much waits to be written, no more frames are made.
const OUT_BYTES_MAX: usize = 128 << 10;

/// The connection.
#[derive(Debug)]
pub(crate) struct Link {
    socket: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    written: usize,
    /// None until the agent has sent Run or Resume.
    told: Option<Told>,
}

/// What the agent was told of the attempt.
#[derive(Debug)]
struct Told {
    started: bool,
    exited: bool,
    offsets: [u64; 2],
    /// Which stream is next, so that a busy one does not hide the other.
    turn: usize,
}

/// The connection ended, or must end.
#[derive(Debug)]
pub(crate) struct Closed;

impl Link {
    /// Takes a connection that was accepted, and says hello.
    pub(crate) fn new(socket: UnixStream, state: State) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        let mut link = Self { socket, decoder: Decoder::default(), out: Vec::new(), written: 0, told: None };
        link.send(&Event::Hello { version: FRAME_VERSION, state });
        Ok(link)
    }

    pub(crate) fn socket(&self) -> impl AsFd + '_ {
        &self.socket
    }

    pub(crate) fn wants_to_write(&self) -> bool {
        self.written < self.out.len()
    }

    /// Reads what is there, once.
    pub(crate) fn receive(&mut self) -> Result<(), Closed> {
        let mut buffer = [0; READ_BYTES_MAX];
        match self.socket.read(&mut buffer) {
            Ok(0) => Err(Closed),
            Ok(count) => {
                self.decoder.push(&buffer[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(_) => Err(Closed),
        }
    }

    /// The next request that was received.
    pub(crate) fn request(&mut self) -> Result<Option<Request>, FrameError> {
        self.decoder.take()
    }

    /// The agent follows the attempt from these offsets on; it knows that it was started, or wants to be told.
    pub(crate) fn follow(&mut self, offsets: [u64; 2], knows_start: bool) {
        self.told = Some(Told { started: knows_start, exited: false, offsets, turn: 0 });
    }

    pub(crate) fn follows(&self) -> bool {
        self.told.is_some()
    }

    /// Whether the agent was sent everything before this offset.
    pub(crate) fn was_told(&self, stream: Stream, offset: u64) -> bool {
        self.told.as_ref().is_some_and(|told| offset <= told.offsets[stream.index()])
    }

    /// The attempt is forgotten.
    pub(crate) fn unfollow(&mut self) {
        self.told = None;
    }

    /// Makes frames of what the agent was not told yet, and writes what the socket takes.
    pub(crate) fn advance(&mut self, attempt: Option<&mut Attempt>) -> Result<(), Closed> {
        if let Some(attempt) = attempt {
            loop {
                while self.out.len() - self.written < OUT_BYTES_MAX {
                    match self.told.as_mut().and_then(|told| told.next(attempt)) {
                        Some(event) => self.send(&event),
                        None => break,
                    }
                }
                if !self.wants_to_write() || !self.flush()? {
                    return Ok(());
                }
            }
        }
        self.flush().map(|_| ())
    }

    /// Says why the connection ends, if the socket takes it at once.
    pub(crate) fn refuse(mut self, why: String) {
        self.send(&Event::Refused(cut_message(why)));
        let _ = self.flush();
    }

    fn send(&mut self, event: &Event) {
        // Events are made within the limits: names are checked, messages cut, chunks bounded.
        let made = event.encode(&mut self.out);
        debug_assert!(made.is_ok(), "{made:?}");
    }

    /// Writes; tells whether that was all.
    fn flush(&mut self) -> Result<bool, Closed> {
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(0) => return Err(Closed),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Closed),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(true)
    }
}

impl Told {
    fn next(&mut self, attempt: &mut Attempt) -> Option<Event> {
        if !self.started && attempt.has_started() {
            self.started = true;
            return Some(Event::Started);
        }
        let credit = attempt.stdin().take_credit();
        if credit > 0 {
            return Some(Event::StdinWritten { bytes: credit });
        }
        for turn in [self.turn, self.turn + 1] {
            let stream = Stream::ALL[turn % 2];
            let offset = self.offsets[stream.index()];
            if let Some(bytes) = attempt.output(stream).chunk(offset, CHUNK_BYTES_MAX) {
                self.offsets[stream.index()] += bytes.len() as u64;
                self.turn = turn + 1;
                return Some(Event::Output { stream, offset, bytes: bytes.to_vec() });
            }
        }
        if self.exited {
            return None;
        }
        let exit = attempt.exit()?.clone();
        self.exited = true;
        Some(Event::Exited(exit))
    }
}
