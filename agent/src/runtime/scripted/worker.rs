//! A scripted worker: init's part of the protocol over a state in memory.

use super::{
    kept::Kept,
    lock,
    script::{self, Step},
    told::Told,
};
use crate::{
    domain::AttemptKey,
    runtime::{Begun, Gone},
};
use bytes::BytesMut;
use piecework_init::frame::{
    self, Event, Exit, FRAME_VERSION, Frame, Held, HeldState, Offsets, Outcome, Request, Run, Stream,
    UNACKED_BYTES_MAX, Usage,
};
use std::{
    collections::{BTreeMap, VecDeque},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

/// How many runs are held at the most.
pub(super) const RUNS_MAX: u16 = 1024;

/// The worker.
#[derive(Debug, Default)]
pub(super) struct Worker {
    state: Mutex<Inside>,
    /// Something in the state has changed.
    changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Inside {
    /// Those that were begun and not released; only the last may be running.
    pub(super) begun: VecDeque<Attempt>,
    waiting: VecDeque<(Run, bool)>,
    last_begun: u64,
    spent: Option<String>,
    notes: BTreeMap<u64, AttemptKey>,
    /// Counts connections; only the newest is served.
    connection: u64,
    connected: bool,
    gone: Option<Gone>,
}

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) run: Run,
    pub(super) started: bool,
    since: Instant,
    pub(super) outputs: [Kept; 2],
    stdin: VecDeque<u8>,
    stdin_closed: bool,
    stdin_received: u64,
    pub(super) stdin_credit: u64,
    /// Why it is to end before its script does.
    stop: Option<Outcome>,
    pub(super) exit: Option<Exit>,
}

impl Worker {
    /// Why it is gone, if it is.
    pub(super) fn gone(&self) -> Option<Gone> {
        lock(&self.state).gone.clone()
    }

    /// Whether it holds a run that was not released, or can hold none any more.
    pub(super) fn is_held(&self) -> bool {
        let state = lock(&self.state);
        state.gone.is_some() || !state.begun.is_empty() || !state.waiting.is_empty()
    }

    #[cfg(test)]
    pub(super) fn runs_held(&self) -> usize {
        let state = lock(&self.state);
        state.begun.len() + state.waiting.len()
    }

    /// Ends it: its connections break, its scripts stop.
    pub(super) fn end(&self, gone: Gone) {
        lock(&self.state).gone.get_or_insert(gone);
        self.changed.notify_waiters();
    }

    pub(super) fn note(&self, runs: &[(u64, AttemptKey)], released: u64) {
        let mut state = lock(&self.state);
        state.notes.extend(runs.iter().copied());
        state.notes = state.notes.split_off(&(released + 1));
    }

    pub(super) fn unnote(&self, runs: &[u64]) {
        let mut state = lock(&self.state);
        state.notes.retain(|run, _| !runs.contains(run));
    }

    pub(super) fn begun(&self) -> Begun {
        let state = lock(&self.state);
        let attempts =
            state.notes.range(..=state.last_begun).map(|(run, attempt)| (*run, *attempt)).collect();
        Begun { run: state.last_begun, attempts }
    }

    /// Changes a run that was begun, and wakes whoever waits for that.
    fn with<T>(&self, run: u64, change: impl FnOnce(&mut Attempt) -> T) -> Option<T> {
        let result = lock(&self.state).get(run).map(change);
        self.changed.notify_waiters();
        result
    }

    /// Waits until a question about a run has an answer; none if worker or run are gone.
    async fn until<T>(&self, run: u64, mut ask: impl FnMut(&mut Attempt) -> Option<T>) -> Option<T> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = lock(&self.state);
                if state.gone.is_some() {
                    return None;
                }
                if let Some(answer) = ask(state.get(run)?) {
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
            state.connected = true;
            if let Some(attempt) = state.begun.back_mut() {
                attempt.stdin_credit = 0;
            }
            let hello = Event::Hello {
                version: FRAME_VERSION,
                runs_max: RUNS_MAX,
                held: state.held(),
                spent: state.spent.clone(),
            };
            (state.connection, hello)
        };
        self.changed.notify_waiters();
        let resumes = matches!(&hello, Event::Hello { held, .. } if !held.is_empty());
        self.talk(&mut stream, number, hello, Told::new(resumes)).await;
        let mut state = lock(&self.state);
        if state.connection == number {
            state.connected = false;
        }
    }

    async fn talk(self: &Arc<Self>, stream: &mut DuplexStream, number: u64, hello: Event, mut told: Told) {
        let mut received = BytesMut::new();
        let mut bytes = Vec::new();
        let _ = hello.encode(&mut bytes);
        loop {
            if !bytes.is_empty() && stream.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = lock(&self.state);
                if state.gone.is_some() || state.connection != number {
                    return;
                }
                self.begin(&mut state, &told);
                while bytes.len() < UNACKED_BYTES_MAX
                    && let Some(event) = told.next(&mut state)
                {
                    if event.encode(&mut bytes).is_err() {
                        return;
                    }
                }
            }
            if !bytes.is_empty() {
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
                        self.handle(request, &mut told, &mut bytes)
                    }
                    Err(error) => Err(error.to_string()),
                };
                if let Err(why) = refused {
                    let _ = Event::Refused(why).encode(&mut bytes);
                    let _ = stream.write_all(&bytes).await;
                    return;
                }
            }
        }
    }

    fn handle(&self, request: Request, told: &mut Told, bytes: &mut Vec<u8>) -> Result<(), String> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        match request {
            Request::Run(run) => {
                if state.begun.len() + state.waiting.len() >= usize::from(RUNS_MAX) {
                    return Err("busy".into());
                }
                if state.spent.is_none() {
                    state.waiting.push_back((run, false));
                } else {
                    let _ = Event::Recalled { from: run.number }.encode(bytes);
                }
            }
            Request::Resume(offsets) => {
                for Offsets { run, stdout, stderr } in &offsets {
                    let Some(attempt) = state.get(*run) else {
                        if state.waiting.iter().any(|(waiting, _)| waiting.number == *run) {
                            continue;
                        }
                        return Err(format!("run {run} is not held"));
                    };
                    if attempt.outputs[0].from(*stdout).is_none()
                        || attempt.outputs[1].from(*stderr).is_none()
                    {
                        return Err("that is not kept".into());
                    }
                }
                told.resume(offsets);
            }
            Request::Ack { run, stream, offset } => {
                let kept = state
                    .get(run)
                    .is_some_and(|attempt| attempt.outputs[stream.index()].forget_before(offset));
                if !kept {
                    return Err("that was never sent".into());
                }
            }
            Request::Stdin { run, bytes } => {
                let attempt = state.get(run).filter(|attempt| attempt.run.has_stdin);
                let Some(attempt) = attempt else { return Err("stdin is out of place".into()) };
                attempt.stdin_received += bytes.len() as u64;
                if attempt.exit.is_some() {
                    attempt.stdin_credit += bytes.len() as u64;
                } else {
                    attempt.stdin.extend(bytes);
                }
            }
            Request::CloseStdin { run } => {
                if let Some(attempt) = state.get(run) {
                    attempt.stdin_closed = true;
                }
            }
            // A script has no SIGTERM to handle: the grace does not matter.
            Request::Kill { run, .. } => {
                if let Some(attempt) = state.get(run) {
                    attempt.stop(Outcome::Cancelled);
                } else if let Some(waiting) = state.waiting.iter_mut().find(|waiting| waiting.0.number == run)
                {
                    waiting.1 = true;
                }
            }
            Request::Recall { from } => {
                let _ = Event::Recalled { from: state.recall(from) }.encode(bytes);
            }
            Request::Release { through } => {
                while state
                    .begun
                    .front()
                    .is_some_and(|first| first.run.number <= through && first.exit.is_some())
                {
                    state.begun.pop_front();
                }
            }
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// Begins what waits, as long as it ends at once; the first that does not is played in a task of its own.
    fn begin(self: &Arc<Self>, state: &mut Inside, told: &Told) {
        while state.connected
            && told.goes_on()
            && state.begun.back().is_none_or(|last| last.exit.is_some())
            && let Some((run, cancelled)) = state.waiting.pop_front()
        {
            let number = run.number;
            let script = script::parse(&run.command);
            let mut attempt = Attempt::new(run);
            if cancelled {
                attempt.end(Outcome::Cancelled);
            } else {
                state.last_begun = number;
                attempt.started = script.is_ok();
                attempt.play_at_once(&script);
            }
            let plays = attempt.exit.is_none();
            state.begun.push_back(attempt);
            if plays {
                tokio::spawn(Arc::clone(self).play(number, script));
            }
        }
    }

    /// Plays the script of a run to its end.
    async fn play(self: Arc<Self>, run: u64, script: Result<Vec<Step>, String>) {
        let Some(timeout) = self.with(run, |attempt| attempt.run.timeout) else { return };
        let timeout = async {
            match timeout {
                Some(timeout) => sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = self.steps(run, script) => outcome,
            () = timeout => Some(Outcome::TimedOut),
            stop = self.until(run, |attempt| attempt.stop.clone()) => stop,
        };
        // Without an outcome, the worker is gone.
        if let Some(outcome) = outcome {
            self.with(run, |attempt| attempt.end(outcome));
        }
    }

    async fn steps(&self, run: u64, script: Result<Vec<Step>, String>) -> Option<Outcome> {
        let steps = match script {
            Ok(steps) => steps,
            Err(why) => return Some(Outcome::CouldNotStart(why)),
        };
        for step in steps {
            match step {
                Step::Print(stream, bytes) => self.print(run, stream, &bytes).await?,
                Step::Cat => {
                    while let Some(bytes) = self.until(run, Attempt::read_stdin).await? {
                        self.print(run, Stream::Stdout, &bytes).await?;
                    }
                }
                Step::Sleep(time) => sleep_until(Instant::now() + time).await,
                Step::End(outcome) => return Some(outcome),
                Step::Hang => std::future::pending().await,
                Step::Spoil => {
                    let mut state = lock(&self.state);
                    state.spent = Some("its script has spoilt it".into());
                    state.waiting.clear();
                }
                Step::Lose(gone) => {
                    self.end(gone);
                    return None;
                }
            }
        }
        Some(Outcome::Exited(0))
    }

    /// Prints as the agent makes room for it.
    async fn print(&self, run: u64, stream: Stream, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let count = self.until(run, |attempt| attempt.room(stream, bytes.len())).await?;
            let (now, later) = bytes.split_at(count);
            self.with(run, |attempt| attempt.print(stream, now));
            bytes = later;
        }
        Some(())
    }
}

impl Inside {
    fn get(&mut self, run: u64) -> Option<&mut Attempt> {
        let index = self.begun.binary_search_by_key(&run, |attempt| attempt.run.number).ok()?;
        self.begun.get_mut(index)
    }

    pub(super) const fn spent(&self) -> Option<&String> {
        self.spent.as_ref()
    }

    pub(super) fn recall(&mut self, from: u64) -> u64 {
        self.waiting.retain(|(run, _)| run.number < from);
        let waiting = self.waiting.back().map_or(0, |(run, _)| run.number);
        let begun = self.begun.back().map_or(0, |attempt| attempt.run.number);
        from.max(waiting + 1).max(begun + 1)
    }

    fn held(&self) -> Vec<Held> {
        let begun = self.begun.iter().map(|attempt| Held {
            run: attempt.run.number,
            attempt: attempt.run.attempt.clone(),
            state: if attempt.exit.is_some() {
                HeldState::Ended
            } else {
                HeldState::Running {
                    stdin_bytes: attempt.stdin_received,
                    stdin_waiting_bytes: attempt.stdin.len() as u64,
                }
            },
        });
        let waiting = self.waiting.iter().map(|(run, _)| Held {
            run: run.number,
            attempt: run.attempt.clone(),
            state: HeldState::Queued,
        });
        begun.chain(waiting).collect()
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

    /// Plays a script that only prints little, and ends.
    fn play_at_once(&mut self, script: &Result<Vec<Step>, String>) {
        let Ok(steps) = script else { return };
        let printed = steps.iter().map(|step| match step {
            Step::Print(_, bytes) => Some(bytes.len()),
            Step::End(_) => Some(0),
            _ => None,
        });
        let fits = printed.sum::<Option<usize>>().is_some_and(|bytes| bytes <= UNACKED_BYTES_MAX);
        if !fits || self.stop.is_some() {
            return;
        }
        for step in steps {
            match step {
                Step::Print(stream, bytes) => self.print(*stream, bytes),
                Step::End(outcome) => return self.end(outcome.clone()),
                _ => {}
            }
        }
        self.end(Outcome::Exited(0));
    }
}
