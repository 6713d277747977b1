//! Endings on their way from init into the outbox. Most never get there: the coordinator settles them first.
//!
//! ```text
//!  Ended ─▶ withheld, reported ─▶ Settled ──────────────────────▶ released by init
//!              └─ waited too long, or nobody to tell ─▶ persisted ──▲
//! ```
//!
//! Until it is released, init keeps an ending, and tells it again to an agent that was started anew. So nothing is lost if
//! the agent's process dies meanwhile, and an ending that the coordinator records soon costs no synchronisation here.

use crate::domain::{AttemptKey, Outcome, Report};
use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

/// How long an ending waits to be settled before it is persisted, in milliseconds: long enough for two batches and a
/// commit of the coordinator.
const WAIT_MILLIS_MAX: u64 = 100;

/// The most endings that wait, in endings; inits have no room for many more.
const WAITING_MAX: usize = 1024;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// In the order of ending, with the time until which each may wait. They are released in this order, too: init lets go
    /// of all up to one.
    queue: VecDeque<(AttemptKey, Duration)>,
    /// Those that are not settled.
    open: BTreeSet<AttemptKey>,
    /// Among them is one that can't wait.
    urgent: bool,
}

impl Withheld {
    /// Adds one that is to be persisted, unless it can wait and is settled in time.
    pub(super) fn add(&mut self, report: &Report, now: Duration, urgent: bool) {
        self.queue.push_back((report.attempt, now + Duration::from_millis(WAIT_MILLIS_MAX)));
        self.open.insert(report.attempt);
        self.urgent |= urgent || !can_wait(report);
    }

    /// Adds one that nobody waits for: only its turn is to be kept.
    pub(super) fn add_settled(&mut self, attempt: AttemptKey) {
        self.queue.push_back((attempt, Duration::MAX));
    }

    /// It need not be persisted. False if it is not (any longer) among these.
    pub(super) fn settle(&mut self, attempt: AttemptKey) -> bool {
        self.open.remove(&attempt)
    }

    /// Takes those that can be released already.
    pub(super) fn take_settled(&mut self) -> Vec<AttemptKey> {
        let first_open = self.queue.iter().position(|(attempt, _)| self.open.contains(attempt));
        self.queue.drain(..first_open.unwrap_or(self.queue.len())).map(|(attempt, _)| attempt).collect()
    }

    /// Takes all: those that are to be persisted first, and then all that can be released.
    pub(super) fn take(&mut self) -> (Vec<AttemptKey>, Vec<AttemptKey>) {
        let all: Vec<_> = self.queue.drain(..).map(|(attempt, _)| attempt).collect();
        let Self { open, .. } = std::mem::take(self);
        (all.iter().copied().filter(|attempt| open.contains(attempt)).collect(), all)
    }

    /// One can wait no longer, or there are too many.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.urgent || self.queue.len() > WAITING_MAX || self.next_timer().is_some_and(|until| until <= now)
    }

    /// When the first one will have waited long enough.
    pub(super) fn next_timer(&self) -> Option<Duration> {
        self.queue.front().map(|(_, until)| *until)
    }

    pub(super) fn check(&self) {
        let attempts: BTreeSet<_> = self.queue.iter().map(|(attempt, _)| *attempt).collect();
        assert_eq!(attempts.len(), self.queue.len(), "an ending waits twice");
        assert!(self.open.is_subset(&attempts), "one is open that does not wait");
        let front = self.queue.front();
        assert!(
            front.is_none_or(|(attempt, _)| self.open.contains(attempt)),
            "a settled one is not released"
        );
    }
}

/// Whether it is for certain init that keeps it, and all of it is at hand.
const fn can_wait(report: &Report) -> bool {
    let Report { outcome, stdout, stderr, .. } = report;
    let is_of_init = matches!(
        outcome,
        Outcome::Exited(_)
            | Outcome::Signaled(_)
            | Outcome::TimedOut
            | Outcome::PidsLimit
            | Outcome::OutputLimit
    );
    is_of_init && !stdout.is_spooled() && !stderr.is_spooled()
}
