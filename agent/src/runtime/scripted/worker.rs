//! A scripted worker: init's part of the protocol over a state in memory.

use super::{
    lock,
    script::{self, Step},
};
use crate::runtime::Gone;
use bytes::BytesMut;
use piecework_init::frame::{
    self, CHUNK_BYTES_MAX, Event, Exit, FRAME_VERSION, Frame, Outcome, Request, Run, State, Stream,
    UNACKED_BYTES_MAX, Usage,
};
use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

/// The worker.
#[derive(Debug, Default)]
pub(super) struct Worker {
    state: Mutex<Inside>,
    /// Something in the state has changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    attempt: Option<Attempt>,
    /// Counts connections; only the newest is served.
    connection: u64,
    gone: Option<Gone>,
}

#[derive(Debug)]
struct Attempt {
    run: Run,
    started: bool,
    since: Instant,
    outputs: [Kept; 2],
    stdin: VecDeque<u8>,
    stdin_closed: bool,
    stdin_received: u64,
    stdin_credit: u64,
    /// Why it is to end before its script does.
    stop: Option<Outcome>,
    exit: Option<Exit>,
}

#[derive(Debug, Default)]
struct Kept {
    start: u64,
    bytes: Vec<u8>,
}

impl Kept {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// What is kept from this offset on; none if it is not kept.
    fn from(&self, offset: u64) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(offset.checked_sub(self.start)?).ok()?..)
    }

    fn forget_before(&mut self, offset: u64) -> bool {
        if offset > self.end() {
            return false;
        }
        let count = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(0);
        self.bytes.drain(..count);
        self.start += count as u64;
        true
    }
}

/// What one connection was told.
#[derive(Default)]
struct Told {
    follows: bool,
    started: bool,
    exited: bool,
    offsets: [u64; 2],
}

impl Worker {
    /// Why it is gone, if it is.
    pub(super) fn gone(&self) -> Option<Gone> {
        lock(&self.state).gone.clone()
    }

    /// Ends it: its connections break, its script stops.
    pub(super) fn end(&self, gone: Gone) {
        lock(&self.state).gone.get_or_insert(gone);
        self.changed.notify_waiters();
    }

    /// Changes the attempt, and wakes whoever waits for that.
    fn with<T>(&self, change: impl FnOnce(&mut Attempt) -> T) -> Option<T> {
        let result = lock(&self.state).attempt.as_mut().map(change);
        self.changed.notify_waiters();
        result
    }

    /// Waits until a question about the attempt has an answer; none if worker or attempt are gone.
    async fn until<T>(&self, mut ask: impl FnMut(&mut Attempt) -> Option<T>) -> Option<T> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = lock(&self.state);
                if state.gone.is_some() {
                    return None;
                }
                if let Some(answer) = ask(state.attempt.as_mut()?) {
                    return Some(answer);
                }
            }
            changed.await;
        }
    }

    /// Serves one connection; a newer one ends it.
    pub(super) async fn serve(self: Arc<Self>, mut stream: DuplexStream) {
        let (number, hello) = {
            let mut state = lock(&self.state);
            state.connection += 1;
            if let Some(attempt) = &mut state.attempt {
                attempt.stdin_credit = 0;
            }
            (state.connection, Event::Hello { version: FRAME_VERSION, state: state.state() })
        };
        self.changed.notify_waiters();
        let mut told = Told::default();
        let mut received = BytesMut::new();
        let mut events = vec![hello];
        loop {
            let mut bytes = Vec::new();
            for event in events.drain(..) {
                if event.encode(&mut bytes).is_err() {
                    return;
                }
            }
            if !bytes.is_empty() && stream.write_all(&bytes).await.is_err() {
                return;
            }
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = lock(&self.state);
                if state.gone.is_some() || state.connection != number {
                    return;
                }
                if let Some(attempt) = &mut state.attempt {
                    events.extend(told.next(attempt));
                }
            }
            if !events.is_empty() {
                continue;
            }
            tokio::select! {
                () = changed => {}
                read = stream.read_buf(&mut received) => if !matches!(read, Ok(1..)) { return },
            }
            loop {
                let refused = match frame::decode(&received) {
                    Ok(None) => break,
                    Ok(Some((request, length))) => {
                        let _ = received.split_to(length);
                        self.handle(request, &mut told)
                    }
                    Err(error) => Err(error.to_string()),
                };
                if let Err(why) = refused {
                    let mut bytes = Vec::new();
                    let _ = Event::Refused(why).encode(&mut bytes);
                    let _ = stream.write_all(&bytes).await;
                    return;
                }
            }
        }
    }

    fn handle(self: &Arc<Self>, request: Request, told: &mut Told) -> Result<(), String> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        match (request, &mut state.attempt) {
            (Request::Run(run), None) => {
                state.attempt = Some(Attempt::new(run));
                *told = Told { follows: true, ..Told::default() };
                tokio::spawn(Arc::clone(self).play());
            }
            (Request::Run(_), Some(_)) => return Err("busy".into()),
            (Request::Resume { stdout_offset, stderr_offset }, Some(attempt)) if !told.follows => {
                let offsets = [stdout_offset, stderr_offset];
                if (0..2).any(|index: usize| attempt.outputs[index].from(offsets[index]).is_none()) {
                    return Err("that is not kept".into());
                }
                *told = Told { follows: true, started: true, exited: false, offsets };
            }
            (Request::Ack { stream, offset }, Some(attempt)) => {
                if !attempt.outputs[stream.index()].forget_before(offset) {
                    return Err("that was never sent".into());
                }
            }
            (Request::Stdin(bytes), Some(attempt)) if attempt.run.has_stdin => {
                attempt.stdin_received += bytes.len() as u64;
                if attempt.exit.is_some() {
                    attempt.stdin_credit += bytes.len() as u64;
                } else {
                    attempt.stdin.extend(bytes);
                }
            }
            (Request::CloseStdin, Some(attempt)) => attempt.stdin_closed = true,
            // A script has no SIGTERM to handle: the grace does not matter.
            (Request::Kill { .. }, Some(attempt)) => attempt.stop(Outcome::Cancelled),
            (Request::Release, Some(attempt)) if attempt.exit.is_some() => {
                state.attempt = None;
                *told = Told::default();
            }
            (Request::CloseStdin | Request::Kill { .. } | Request::Release, None) => {}
            (request, _) => return Err(format!("{request:.60?} is out of place")),
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// Plays the script of the attempt to its end.
    async fn play(self: Arc<Self>) {
        let Some(run) = self.with(|attempt| attempt.run.clone()) else { return };
        let script = script::parse(&run.command);
        if script.is_ok() {
            self.with(|attempt| attempt.started = true);
        }
        let timeout = async {
            match run.timeout {
                Some(timeout) => sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = self.steps(script) => outcome,
            () = timeout => Some(Outcome::TimedOut),
            stop = self.until(|attempt| attempt.stop.clone()) => stop,
        };
        // Without an outcome, the worker is gone.
        if let Some(outcome) = outcome {
            self.with(|attempt| attempt.end(outcome));
        }
    }

    async fn steps(&self, script: Result<Vec<Step>, String>) -> Option<Outcome> {
        let steps = match script {
            Ok(steps) => steps,
            Err(why) => return Some(Outcome::CouldNotStart(why)),
        };
        for step in steps {
            match step {
                Step::Print(stream, bytes) => self.print(stream, &bytes).await?,
                Step::Cat => {
                    while let Some(bytes) = self.until(Attempt::read_stdin).await? {
                        self.print(Stream::Stdout, &bytes).await?;
                    }
                }
                Step::Sleep(time) => sleep_until(Instant::now() + time).await,
                Step::End(outcome) => return Some(outcome),
                Step::Hang => std::future::pending().await,
                Step::Lose(gone) => {
                    self.end(gone);
                    return None;
                }
            }
        }
        Some(Outcome::Exited(0))
    }

    /// Prints as the agent makes room for it.
    async fn print(&self, stream: Stream, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let count = self.until(|attempt| attempt.room(stream, bytes.len())).await?;
            let (now, later) = bytes.split_at(count);
            self.with(|attempt| attempt.print(stream, now));
            bytes = later;
        }
        Some(())
    }
}

impl Inside {
    fn state(&self) -> State {
        match &self.attempt {
            None => State::Idle,
            Some(attempt) if attempt.exit.is_some() => State::Ended { attempt: attempt.run.attempt.clone() },
            Some(attempt) => State::Running {
                attempt: attempt.run.attempt.clone(),
                stdin_bytes: attempt.stdin_received,
                stdin_waiting_bytes: attempt.stdin.len() as u64,
            },
        }
    }
}

impl Attempt {
    fn new(run: Run) -> Self {
        Self {
            run,
            started: false,
            since: Instant::now(),
            outputs: [Kept::default(), Kept::default()],
            stdin: VecDeque::new(),
            stdin_closed: false,
            stdin_received: 0,
            stdin_credit: 0,
            stop: None,
            exit: None,
        }
    }

    fn stop(&mut self, outcome: Outcome) {
        self.stop.get_or_insert(outcome);
    }

    fn room(&self, stream: Stream, wanted: usize) -> Option<usize> {
        let room = UNACKED_BYTES_MAX.saturating_sub(self.outputs[stream.index()].bytes.len());
        (room > 0).then(|| room.min(wanted))
    }

    fn print(&mut self, stream: Stream, bytes: &[u8]) {
        let printed = self.outputs[0].end() + self.outputs[1].end();
        let left = usize::try_from(self.run.output_bytes_max - printed).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(left)];
        self.outputs[stream.index()].bytes.extend_from_slice(kept);
        if kept.len() < bytes.len() {
            self.stop(Outcome::OutputLimit);
        }
    }

    /// What of stdin is there; inside, none at its end; outside, none if nothing is there yet.
    fn read_stdin(&mut self) -> Option<Option<Vec<u8>>> {
        if self.stdin.is_empty() {
            return (self.stdin_closed || !self.run.has_stdin).then_some(None);
        }
        let bytes: Vec<u8> = self.stdin.drain(..).collect();
        self.stdin_credit += bytes.len() as u64;
        Some(Some(bytes))
    }

    fn end(&mut self, outcome: Outcome) {
        self.stdin_credit += self.stdin.len() as u64;
        self.stdin.clear();
        // Output that was cut is no success, also if the script ended with it.
        let outcome = self.stop.clone().unwrap_or(outcome);
        let wall = self.since.elapsed().max(Duration::from_micros(1));
        let usage =
            Usage { wall_micros: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX), ..Usage::default() };
        let [stdout_length, stderr_length] = [self.outputs[0].end(), self.outputs[1].end()];
        self.exit = Some(Exit { outcome, usage, stdout_length, stderr_length });
    }
}

impl Told {
    /// The next event for this connection.
    fn next(&mut self, attempt: &mut Attempt) -> Option<Event> {
        if !self.follows {
            return None;
        }
        if !self.started && attempt.started {
            self.started = true;
            return Some(Event::Started);
        }
        if attempt.stdin_credit > 0 {
            return Some(Event::StdinWritten { bytes: std::mem::take(&mut attempt.stdin_credit) });
        }
        for stream in Stream::ALL {
            let offset = self.offsets[stream.index()];
            if let Some(rest) = attempt.outputs[stream.index()].from(offset)
                && !rest.is_empty()
            {
                let bytes = rest[..rest.len().min(CHUNK_BYTES_MAX)].to_vec();
                self.offsets[stream.index()] += bytes.len() as u64;
                return Some(Event::Output { stream, offset, bytes });
            }
        }
        if self.exited {
            return None;
        }
        let exit = attempt.exit.clone()?;
        self.exited = true;
        Some(Event::Exited(exit))
    }
}
