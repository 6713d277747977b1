//! What one connection of a scripted worker was told.

use super::worker::{Attempt, Inside};
use piecework_init::frame::{CHUNK_BYTES_MAX, Event, Offsets, Stream};

/// How far the agent was told of the runs.
#[derive(Debug, Default)]
pub(super) struct Told {
    awaits_resume: bool,
    resume: Vec<Offsets>,
    /// All runs before this one were told to their end.
    run: u64,
    /// This one is being told of.
    begun: bool,
    started: bool,
    offsets: [u64; 2],
    recalled: bool,
    spent: bool,
}

impl Told {
    /// Nothing yet. It waits for Resume if there is something to resume.
    pub(super) fn new(awaits_resume: bool) -> Self {
        Self { awaits_resume, ..Self::default() }
    }

    pub(super) fn resume(&mut self, offsets: Vec<Offsets>) {
        self.awaits_resume = false;
        self.resume = offsets;
    }

    /// Whether runs may begin.
    pub(super) const fn goes_on(&self) -> bool {
        !self.awaits_resume
    }

    /// The next event for this connection.
    pub(super) fn next(&mut self, state: &mut Inside) -> Option<Event> {
        if self.awaits_resume {
            return None;
        }
        if let Some(event) = self.of_runs(state) {
            return Some(event);
        }
        let all_told = state.begun.back().is_none_or(|last| last.run.number < self.run);
        let why = state.spent().filter(|_| all_told && !self.spent)?.clone();
        if !self.recalled {
            self.recalled = true;
            return Some(Event::Recalled { from: state.recall(0) });
        }
        self.spent = true;
        Some(Event::Spent(why))
    }

    fn of_runs(&mut self, state: &mut Inside) -> Option<Event> {
        let index = state.begun.partition_point(|attempt| attempt.run.number < self.run);
        let attempt = state.begun.get_mut(index)?;
        if !self.begun || attempt.run.number != self.run {
            self.begin(attempt);
        }
        let run = self.run;
        if !self.started && attempt.started {
            self.started = true;
            return Some(Event::Started { run });
        }
        if attempt.stdin_credit > 0 {
            return Some(Event::StdinWritten { run, bytes: std::mem::take(&mut attempt.stdin_credit) });
        }
        for stream in Stream::ALL {
            let offset = self.offsets[stream.index()];
            if let Some(rest) = attempt.outputs[stream.index()].from(offset)
                && !rest.is_empty()
            {
                let bytes = rest[..rest.len().min(CHUNK_BYTES_MAX)].to_vec();
                self.offsets[stream.index()] += bytes.len() as u64;
                return Some(Event::Output { run, stream, offset, bytes });
            }
        }
        let exit = attempt.exit.clone()?;
        self.run = run + 1;
        self.begun = false;
        Some(Event::Exited { run, exit })
    }

    fn begin(&mut self, attempt: &Attempt) {
        self.run = attempt.run.number;
        self.begun = true;
        let resumed = self.resume.iter().find(|offsets| offsets.run == self.run);
        self.started = resumed.is_some();
        self.offsets = resumed.map_or_else(
            || [attempt.outputs[0].start, attempt.outputs[1].start],
            |offsets| [offsets.stdout, offsets.stderr],
        );
    }
}
