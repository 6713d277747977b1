//! The runs that init holds, in order: those that ended until they are released, the one that is running, and those that
//! wait. Events are made here, so that everything about a run is told before anything about the next.

use crate::{
    attempt::{Attempt, Host},
    buffer::OutOfRange,
    frame::{CHUNK_BYTES_MAX, Event, Held, HeldState, Offsets, Outcome, Run, Stream},
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Most runs that are held: queued, running, and ended but not released.
pub(crate) const RUNS_MAX: u16 = 128;

/// While the ended runs have this much unacknowledged output, none is begun. Each adds at most two full streams.
const ENDED_BYTES_MAX: usize = 1 << 20;

/// Longest name of an attempt.
const ATTEMPT_NAME_BYTES_MAX: usize = 256;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// All but the last have ended.
    begun: VecDeque<Begun>,
    queued: VecDeque<Queued>,
    /// How many of the begun, from the first, the agent was told all about.
    told: usize,
    last_taken: u64,
    last_begun: u64,
    /// Why no more is taken.
    spent: Option<String>,
}

#[derive(Debug)]
struct Begun {
    number: u64,
    attempt: Attempt,
    told: Told,
}

#[derive(Debug)]
struct Queued {
    run: Run,
    /// It was killed before its turn.
    cancelled: bool,
}

/// What the agent at the other end of the connection was told of a run.
#[derive(Debug, Default)]
struct Told {
    started: bool,
    exited: bool,
    offsets: [u64; 2],
    /// Which stream is next, so that a busy one does not hide the other.
    turn: usize,
}

impl Runs {
    /// Takes a run into the queue. Tells whether it did: a spent worker takes none.
    pub(crate) fn take(&mut self, run: Run) -> Result<bool, String> {
        if run.number <= self.last_taken {
            return Err(format!("run {} came after run {}", run.number, self.last_taken));
        }
        if run.attempt.len() > ATTEMPT_NAME_BYTES_MAX {
            return Err(format!("the attempt's name is longer than {ATTEMPT_NAME_BYTES_MAX} bytes"));
        }
        if self.begun.len() + self.queued.len() >= usize::from(RUNS_MAX) {
            return Err(format!("run {} is one more than {RUNS_MAX}", run.number));
        }
        self.last_taken = run.number;
        if self.spent.is_some() {
            return Ok(false);
        }
        self.queued.push_back(Queued { run, cancelled: false });
        Ok(true)
    }

    /// Forgets what has not begun, from this number on; the lowest number that never begins.
    pub(crate) fn recall(&mut self, from: u64) -> u64 {
        while self.queued.back().is_some_and(|queued| queued.run.number >= from) {
            self.queued.pop_back();
        }
        from.max(self.last_begun.saturating_add(1))
    }

    /// Takes no more, and forgets what has not begun; the lowest number that never begins.
    pub(crate) fn spend(&mut self, why: String) -> u64 {
        self.spent = Some(why);
        self.recall(0)
    }

    /// Forgets the endings up to this number.
    pub(crate) fn release(&mut self, through: u64) {
        while let Some(first) = self.begun.front()
            && first.number <= through
            && first.attempt.exit().is_some()
        {
            self.begun.pop_front();
            self.told = self.told.saturating_sub(1);
        }
    }

    /// Ends a run that was not begun, or one that runs; all others have ended by themselves.
    pub(crate) fn kill(
        &mut self,
        number: u64,
        grace: Duration,
        host: &Host,
        now: Instant,
    ) -> Result<(), String> {
        self.was_taken(number)?;
        if let Some(begun) = self.begun_mut(number) {
            begun.attempt.stop(Outcome::Cancelled, grace, host, now);
        } else if let Some(queued) = self.queued.iter_mut().find(|queued| queued.run.number == number) {
            queued.cancelled = true;
        }
        Ok(())
    }

    /// Takes stdin for a run.
    pub(crate) fn stdin(&mut self, number: u64, bytes: &[u8]) -> Result<(), String> {
        self.was_begun(number)?;
        // What comes for one that was released crossed nothing that matters.
        let Some(begun) = self.begun_mut(number) else { return Ok(()) };
        begun.attempt.stdin().receive(bytes).map_err(Into::into)
    }

    /// The stdin of a run is complete.
    pub(crate) fn close_stdin(&mut self, number: u64) -> Result<(), String> {
        self.was_begun(number)?;
        if let Some(begun) = self.begun_mut(number) {
            begun.attempt.stdin().close();
        }
        Ok(())
    }

    /// The agent has a run's output before the offset.
    pub(crate) fn acknowledge(&mut self, number: u64, stream: Stream, offset: u64) -> Result<(), String> {
        self.was_begun(number)?;
        let Some(begun) = self.begun_mut(number) else { return Ok(()) };
        let was_told = offset <= begun.told.offsets[stream.index()];
        match begun.attempt.acknowledge(stream, offset) {
            Ok(()) if was_told => Ok(()),
            Ok(()) | Err(OutOfRange) => {
                Err(format!("{stream:?} of run {number} was acknowledged to {offset}, which was never sent"))
            }
        }
    }

    /// What is told to a new connection, which has been told nothing yet.
    pub(crate) fn hello(&mut self) -> Event {
        self.told = 0;
        for begun in &mut self.begun {
            let offsets = Stream::ALL.map(|stream| begun.attempt.output(stream).start());
            begun.told = Told { started: true, offsets, ..Told::default() };
            // What was written to the task before is in its state.
            begun.attempt.stdin().take_credit();
        }
        let begun = self.begun.iter_mut().map(|begun| Held {
            run: begun.number,
            attempt: begun.attempt.name().to_owned(),
            state: begun.attempt.state(),
        });
        let queued = self.queued.iter().map(|queued| Held {
            run: queued.run.number,
            attempt: queued.run.attempt.clone(),
            state: HeldState::Queued,
        });
        Event::Hello {
            version: crate::frame::FRAME_VERSION,
            runs_max: RUNS_MAX,
            held: begun.chain(queued).collect(),
            spent: self.spent.clone(),
        }
    }

    /// Output of these runs is told from these offsets on.
    pub(crate) fn resume(&mut self, wanted: &[Offsets]) -> Result<(), String> {
        for offsets in wanted {
            let number = offsets.run;
            let Some(begun) = self.begun_mut(number) else {
                if self.queued.iter().any(|queued| queued.run.number == number) {
                    continue;
                }
                return Err(format!("run {number} is not held"));
            };
            for (stream, offset) in Stream::ALL.into_iter().zip([offsets.stdout, offsets.stderr]) {
                if !begun.attempt.output(stream).holds(offset) {
                    return Err(format!("{stream:?} of run {number} is not kept from offset {offset} on"));
                }
                begun.told.offsets[stream.index()] = offset;
            }
        }
        Ok(())
    }

    /// Begins the next, if there is one and nothing speaks against it; tells whether it did.
    pub(crate) fn begin(&mut self, host: &mut Host, now: Instant) -> bool {
        if self.current().is_some() || self.queued.is_empty() || self.ended_bytes() >= ENDED_BYTES_MAX {
            return false;
        }
        let Some(Queued { run, cancelled }) = self.queued.pop_front() else { return false };
        let number = run.number;
        let attempt =
            if cancelled { Attempt::cancelled(run.attempt) } else { Attempt::start(run, host, now) };
        self.last_begun = number;
        self.begun.push_back(Begun { number, attempt, told: Told::default() });
        true
    }

    fn ended_bytes(&self) -> usize {
        let kept = |begun: &Begun| Stream::ALL.map(|stream| begun.attempt.output(stream).len());
        self.begun.iter().flat_map(kept).sum()
    }

    /// The run that has begun and not ended.
    pub(crate) fn current(&self) -> Option<&Attempt> {
        self.begun.back().map(|begun| &begun.attempt).filter(|attempt| attempt.exit().is_none())
    }

    /// The run that has begun and not ended.
    pub(crate) fn current_mut(&mut self) -> Option<&mut Attempt> {
        self.begun.back_mut().map(|begun| &mut begun.attempt).filter(|attempt| attempt.exit().is_none())
    }

    /// Nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.queued.is_empty()
    }

    /// What the agent was not told yet, one by one.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let begun = self.begun.get_mut(self.told)?;
        let event = begun.next_event()?;
        if begun.told.exited {
            self.told += 1;
        }
        Some(event)
    }

    fn begun_mut(&mut self, number: u64) -> Option<&mut Begun> {
        let at = self.begun.binary_search_by_key(&number, |begun| begun.number).ok()?;
        self.begun.get_mut(at)
    }

    fn was_begun(&self, number: u64) -> Result<(), String> {
        if number > self.last_begun { Err(format!("run {number} has not begun")) } else { Ok(()) }
    }

    fn was_taken(&self, number: u64) -> Result<(), String> {
        if number > self.last_taken { Err(format!("there is no run {number}")) } else { Ok(()) }
    }
}

impl Begun {
    fn next_event(&mut self) -> Option<Event> {
        let (run, told) = (self.number, &mut self.told);
        if !told.started && self.attempt.has_started() {
            told.started = true;
            return Some(Event::Started { run });
        }
        let bytes = self.attempt.stdin().take_credit();
        if bytes > 0 {
            return Some(Event::StdinWritten { run, bytes });
        }
        for turn in [told.turn, told.turn + 1] {
            let stream = Stream::ALL[turn % 2];
            let offset = told.offsets[stream.index()];
            if let Some(bytes) = self.attempt.output(stream).chunk(offset, CHUNK_BYTES_MAX) {
                told.offsets[stream.index()] += bytes.len() as u64;
                told.turn = (turn + 1) % 2;
                return Some(Event::Output { run, stream, offset, bytes: bytes.to_vec() });
            }
        }
        let exit = self.attempt.exit()?.clone();
        told.exited = true;
        Some(Event::Exited { run, exit })
    }
}
