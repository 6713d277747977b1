//! The attempts that the agent holds: waiting for a slot, running, or about to be handed back.

use crate::domain::{Assignment, AttemptKey, Outcome};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The most attempts that are held at a time, in attempts. A coordinator that hands out more gets them back.
const HELD_ATTEMPTS_MAX: usize = 10_000;

/// Where a held attempt stands.
#[derive(Debug)]
enum State {
    /// Waits for a slot.
    Queued(Assignment),
    /// Was started, until it has ended or turns out not to have begun.
    Running(Fate),
    /// Runs no more, and is to be handed back at the next occasion.
    HandedBack,
}

/// What is to become of a running attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It runs to its end.
    Free,
    /// It runs to its end. If it has not begun, it is handed back: another agent has a slot for it.
    Recalled,
    /// It was killed because the coordinator said so; its ending is reported like any other.
    Killed,
    /// It was killed because the agent stops; if that is what ended it, it is handed back.
    Stopping,
    /// It was killed because nobody wants it; its ending is forgotten.
    Discarded,
}

impl Fate {
    /// It is not being killed.
    const fn is_alive(self) -> bool {
        matches!(self, Self::Free | Self::Recalled)
    }
}

/// What to do with an ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Keep it and report it.
    Report,
    /// Forget it: nobody waits for it, or it is handed back.
    Forget,
    /// It is none of the running ones.
    Unknown,
}

/// What became of an attempt that never began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotBegun {
    /// It was killed because the coordinator said so, and is held no more: report that.
    Killed,
    /// Nothing is left to do: it is queued again, handed back, or forgotten.
    Done,
}

/// What to do to kill an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kill {
    /// Kill it.
    Now,
    /// It never started, and is held no more.
    NeverStarted,
    /// Nothing: it is being killed already, or is not held.
    Nothing,
}

/// All attempts that are held.
#[derive(Debug, Default)]
pub(super) struct Held {
    attempts: BTreeMap<AttemptKey, State>,
    /// The queued ones, in the order in which they came.
    queue: VecDeque<AttemptKey>,
    running: usize,
    handed_back: usize,
}

impl Held {
    pub(super) fn adopted(attempts: impl IntoIterator<Item = AttemptKey>) -> Self {
        let attempts: BTreeMap<_, _> =
            attempts.into_iter().map(|attempt| (attempt, State::Running(Fate::Free))).collect();
        Self { running: attempts.len(), attempts, ..Self::default() }
    }

    pub(super) fn contains(&self, attempt: AttemptKey) -> bool {
        self.attempts.contains_key(&attempt)
    }

    /// It waits to be started.
    pub(super) fn is_queued(&self, attempt: AttemptKey) -> bool {
        matches!(self.attempts.get(&attempt), Some(State::Queued(_)))
    }

    pub(super) fn is_full(&self) -> bool {
        self.attempts.len() >= HELD_ATTEMPTS_MAX
    }

    /// How many were started.
    pub(super) const fn running(&self) -> usize {
        self.running
    }

    /// How many wait to be started.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) const fn has_handed_back(&self) -> bool {
        self.handed_back > 0
    }

    /// What Hello says is live: all but those that the coordinator has told us to forget.
    pub(super) fn live(&self) -> Vec<AttemptKey> {
        self.attempts
            .iter()
            .filter(|(_, state)| !matches!(state, State::Running(Fate::Discarded)))
            .map(|(attempt, _)| *attempt)
            .collect()
    }

    /// The attempts of the same task.
    pub(super) fn of_task(&self, attempt: AttemptKey) -> Vec<AttemptKey> {
        self.attempts.range(attempt.task_range()).map(|(attempt, _)| *attempt).collect()
    }

    pub(super) fn enqueue(&mut self, assignment: Assignment) {
        let attempt = assignment.attempt;
        self.attempts.insert(attempt, State::Queued(assignment));
        self.queue.push_back(attempt);
    }

    /// Takes the next one that waits, if fewer than `started_max` are started.
    pub(super) fn start_next(&mut self, started_max: usize) -> Option<Assignment> {
        if self.running >= started_max {
            return None;
        }
        let attempt = self.queue.pop_front()?;
        match self.attempts.insert(attempt, State::Running(Fate::Free)) {
            Some(State::Queued(assignment)) => {
                self.running += 1;
                Some(assignment)
            }
            other => unreachable!("{attempt} waits in the queue, but is {other:?}"),
        }
    }

    /// To be killed because the coordinator says so.
    pub(super) fn kill(&mut self, attempt: AttemptKey) -> Kill {
        self.kill_for(attempt, Fate::Killed)
    }

    /// To be killed and forgotten. One that waits to be handed back is forgotten at once.
    pub(super) fn discard(&mut self, attempt: AttemptKey) -> Kill {
        if matches!(self.attempts.get(&attempt), Some(State::HandedBack)) {
            self.attempts.remove(&attempt);
            self.handed_back -= 1;
            return Kill::Nothing;
        }
        self.kill_for(attempt, Fate::Discarded)
    }

    fn kill_for(&mut self, attempt: AttemptKey, why: Fate) -> Kill {
        match self.attempts.get_mut(&attempt) {
            Some(State::Queued(_)) => {
                self.attempts.remove(&attempt);
                self.queue.retain(|queued| *queued != attempt);
                Kill::NeverStarted
            }
            Some(State::Running(fate)) => {
                let killed = !fate.is_alive();
                if why == Fate::Discarded || !killed {
                    *fate = why;
                }
                if killed { Kill::Nothing } else { Kill::Now }
            }
            Some(State::HandedBack) | None => Kill::Nothing,
        }
    }

    /// One that runs only as far as was decided: nobody has started it yet, and nobody will.
    /// Tells whether it was one.
    pub(super) fn unstart(&mut self, attempt: AttemptKey) -> bool {
        let runs = matches!(self.attempts.get(&attempt), Some(State::Running(_)));
        if runs {
            self.attempts.remove(&attempt);
            self.running -= 1;
        }
        runs
    }

    /// One that was started never began. It goes to the front of the queue, unless it is not wanted here any more.
    pub(super) fn not_begun(&mut self, assignment: Assignment) -> NotBegun {
        let attempt = assignment.attempt;
        let Some(State::Running(fate)) = self.attempts.get(&attempt) else { return NotBegun::Done };
        let fate = *fate;
        self.running -= 1;
        match fate {
            Fate::Free => {
                self.attempts.insert(attempt, State::Queued(assignment));
                self.queue.push_front(attempt);
            }
            Fate::Recalled | Fate::Stopping => {
                self.attempts.insert(attempt, State::HandedBack);
                self.handed_back += 1;
            }
            Fate::Killed | Fate::Discarded => {
                self.attempts.remove(&attempt);
            }
        }
        if fate == Fate::Killed { NotBegun::Killed } else { NotBegun::Done }
    }

    /// Those that wait are to be handed back; those that were started, if they turn out not to have begun.
    pub(super) fn recall(&mut self, attempts: BTreeSet<AttemptKey>) {
        let before = self.queue.len();
        self.queue.retain(|attempt| !attempts.contains(attempt));
        self.handed_back += before - self.queue.len();
        for attempt in attempts {
            match self.attempts.get_mut(&attempt) {
                Some(state @ State::Queued(_)) => *state = State::HandedBack,
                Some(State::Running(fate @ Fate::Free)) => *fate = Fate::Recalled,
                _ => {}
            }
        }
    }

    /// All that wait are to be handed back.
    pub(super) fn hand_back_queued(&mut self) {
        for attempt in self.queue.drain(..) {
            self.attempts.insert(attempt, State::HandedBack);
            self.handed_back += 1;
        }
    }

    /// An attempt that is not held is to be handed back.
    pub(super) fn hand_back(&mut self, attempt: AttemptKey) {
        if self.attempts.insert(attempt, State::HandedBack).is_none() {
            self.handed_back += 1;
        }
    }

    /// All that run are to be killed and handed back. Returns those that were not being killed yet.
    pub(super) fn stop(&mut self) -> Vec<AttemptKey> {
        self.hand_back_queued();
        let mut killed = Vec::new();
        for (attempt, state) in &mut self.attempts {
            if let State::Running(fate @ (Fate::Free | Fate::Recalled)) = state {
                *fate = Fate::Stopping;
                killed.push(*attempt);
            }
        }
        killed
    }

    /// Takes all that are to be handed back.
    pub(super) fn take_handed_back(&mut self) -> Vec<AttemptKey> {
        if self.handed_back == 0 {
            return Vec::new();
        }
        self.handed_back = 0;
        let handed_back: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, state)| matches!(state, State::HandedBack))
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in &handed_back {
            self.attempts.remove(attempt);
        }
        handed_back
    }

    /// An attempt ended.
    pub(super) fn end(&mut self, attempt: AttemptKey, outcome: &Outcome) -> Ending {
        let Some(State::Running(fate)) = self.attempts.get(&attempt) else { return Ending::Unknown };
        let fate = *fate;
        self.running -= 1;
        // What ended by itself while the agent stops is a result like any other; what the stop ended is none.
        let says_nothing_of_the_task =
            matches!(outcome, Outcome::Cancelled | Outcome::WorkerLost(_) | Outcome::EngineLost(_));
        if fate == Fate::Stopping && says_nothing_of_the_task {
            self.attempts.insert(attempt, State::HandedBack);
            self.handed_back += 1;
            return Ending::Forget;
        }
        self.attempts.remove(&attempt);
        if fate == Fate::Discarded { Ending::Forget } else { Ending::Report }
    }

    /// Cross-checks the counts and the queue.
    pub(super) fn check(&self) {
        let count = |is: fn(&State) -> bool| self.attempts.values().filter(|state| is(state)).count();
        assert_eq!(self.running, count(|state| matches!(state, State::Running(_))), "running");
        assert_eq!(self.handed_back, count(|state| matches!(state, State::HandedBack)), "handed back");
        assert_eq!(self.queue.len(), count(|state| matches!(state, State::Queued(_))), "queued");
        for attempt in &self.queue {
            assert!(matches!(self.attempts.get(attempt), Some(State::Queued(_))), "{attempt} waits");
        }
        for (attempt, state) in &self.attempts {
            if let State::Queued(assignment) = state {
                assert_eq!(*attempt, assignment.attempt, "an assignment under another's key");
            }
        }
    }
}
