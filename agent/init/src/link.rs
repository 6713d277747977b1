//! One connection to the agent: bytes in, bytes out. It never waits: what the agent does not read stays with the runs, and
//! what is made for it is bounded.
//!
//! The agent is not woken for every event. While a run is young and may well end at once, what there is to tell is
//! gathered, so that many short runs share one write; and of a single short run, start, output and end go together.

use crate::{
    attempt::Attempt,
    frame::{Decoder, Event, Frame, FrameError, Request, cut_message},
    runs::Runs,
};
use std::{
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

/// How much is read at once.
const READ_BYTES_MAX: usize = 64 << 10;

/// When this much waits to be written, no more frames are made.
const OUT_BYTES_MAX: usize = 128 << 10;

/// When this much waits to be written, it is not gathered any longer.
const GATHERED_BYTES_MAX: usize = 16 << 10;

/// How long an event waits for others.
const GATHER_MICROS: u64 = 10_000;

/// The connection.
#[derive(Debug)]
pub(crate) struct Link {
    socket: UnixStream,
    decoder: Decoder,
    read: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// Since when something waits to be written.
    since: Option<Instant>,
    /// The socket takes no more at the moment.
    blocked: bool,
    /// Something must not be gathered.
    urgent: bool,
    /// Whether Resume may come.
    resumes: bool,
    /// Whether the agent is told of the runs as they go.
    follows: bool,
}

/// The connection ended, or must end.
#[derive(Debug)]
pub(crate) struct Closed;

impl Link {
    /// Takes a connection that was accepted, and says hello.
    pub(crate) fn new(socket: UnixStream, runs: &mut Runs) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        let mut link = Self {
            socket,
            decoder: Decoder::default(),
            read: vec![0; READ_BYTES_MAX],
            out: Vec::new(),
            written: 0,
            since: None,
            blocked: false,
            urgent: false,
            resumes: !runs.is_empty(),
            follows: runs.is_empty(),
        };
        link.say(&runs.hello());
        Ok(link)
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether to wait until more can be written.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// When what was gathered must be written.
    pub(crate) fn write_at(&self, runs: &Runs) -> Option<Instant> {
        let since = self.since.filter(|_| !self.blocked)?;
        Some(if gathers(runs) { since + Duration::from_micros(GATHER_MICROS) } else { since })
    }

    /// Reads what is there, once.
    pub(crate) fn receive(&mut self) -> Result<(), Closed> {
        match self.socket.read(&mut self.read) {
            Ok(0) => Err(Closed),
            Ok(count) => {
                self.decoder.push(&self.read[..count]);
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

    /// Whether the agent has said where to go on with what was held when it came, or nothing was.
    pub(crate) fn follows(&self) -> bool {
        self.follows
    }

    /// A connection resumes once, and only if there was something to resume.
    pub(crate) fn may_resume(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.resumes) {
            Ok(())
        } else {
            Err("a second Resume on one connection, or one of nothing".into())
        }
    }

    /// From here on the agent is told of the runs.
    pub(crate) fn follow(&mut self) {
        self.follows = true;
    }

    /// Makes frames of what the agent was not told yet, and writes what is due and the socket takes.
    pub(crate) fn advance(&mut self, runs: &mut Runs, now: Instant) -> Result<(), Closed> {
        loop {
            while self.follows && self.out.len() - self.written < OUT_BYTES_MAX {
                let Some(event) = runs.next_event() else { break };
                self.send(&event);
            }
            if self.out.is_empty() {
                return Ok(());
            }
            let since = *self.since.get_or_insert(now);
            let gathers = !self.urgent
                && self.out.len() < GATHERED_BYTES_MAX
                && gathers(runs)
                && now < since + Duration::from_micros(GATHER_MICROS);
            if gathers || !self.flush()? {
                return Ok(());
            }
        }
    }

    /// Says something that can't wait for others.
    pub(crate) fn say(&mut self, event: &Event) {
        self.urgent = true;
        self.send(event);
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
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Closed),
            }
        }
        self.out.clear();
        self.written = 0;
        self.since = None;
        self.blocked = false;
        self.urgent = false;
        Ok(true)
    }
}

/// Whether there may be more to tell in a moment: a run is going on that may be a short one.
fn gathers(runs: &Runs) -> bool {
    runs.current().is_some_and(Attempt::is_young)
}
