//! How the core stops.
//!
//! ```text
//!  Stop(Drain) ─▶ nothing begins; what runs may end ─▶ nothing runs, or the grace is over: what still runs is killed
//!                                                                                         │
//!                    what ended is recorded, or time is up; the rest is handed back ◀─────┘─▶ stopped
//!
//!  Stop(Leave) ─▶ nothing begins; what runs is left to its workers, what ended is in the outbox, and what had not begun
//!                 is handed back ─▶ stopped
//! ```
//!
//! What was dispatched may still wait for its worker, or in it: with a stop all of that is taken back. What does not come
//! back soon has begun, for all that is known.
//!
//! The outbox outlives the process, and not always the lease: the host may be about to go down. So a drain waits, within its
//! grace, also for uploads and for a coordinator that is away.

use super::Core;
use crate::supervisor::{Effects, Stop, held::Kill};
use std::time::Duration;

/// How long the core waits, once nothing may run any more, for what was killed to end and for what ended to be recorded, in
/// seconds. Longer if there is grace left.
const KILL_WAIT_SECS: u64 = 20;

/// How long it waits for a coordinator to tell all that to, in seconds. Longer likewise.
const UNHEARD_WAIT_SECS: u64 = 2;

/// How long one that leaves waits for what has not begun to come back, in seconds.
const TAKE_BACK_WAIT_SECS: u64 = 1;

/// A stop that is under way.
#[derive(Debug)]
pub(super) struct Stopping {
    /// What runs may run on in its workers.
    leaves: bool,
    /// When what runs is killed, unless it is left.
    kills_at: Duration,
    /// Since nothing runs any more but what is being killed or left.
    ending_since: Option<Duration>,
    /// What runs now has begun.
    taken_back: bool,
}

impl Stopping {
    /// What lasts until the grace is over, but at least so long since `since`.
    fn until(&self, since: Duration, wait_secs: u64) -> Duration {
        self.kills_at.max(since + Duration::from_secs(wait_secs))
    }

    pub(super) fn next_timer(&self, now: Duration) -> Option<Duration> {
        let timers = match self.ending_since {
            None => [Some(self.kills_at), None, None],
            Some(since) => {
                let take_back = (self.leaves && !self.taken_back).then_some(TAKE_BACK_WAIT_SECS);
                [take_back, Some(UNHEARD_WAIT_SECS), Some(KILL_WAIT_SECS)]
                    .map(|wait| Some(self.until(since, wait?)))
            }
        };
        timers.into_iter().flatten().filter(|at| *at > now).min()
    }
}

impl Core {
    pub(super) fn stop(&mut self, stop: Stop, now: Duration, effects: &mut Effects) {
        let new = |leaves, kills_at, ending_since| {
            Some(Stopping { leaves, kills_at, ending_since, taken_back: false })
        };
        effects.take_back |= self.stopping.is_none();
        match (&mut self.stopping, stop) {
            (None, Stop::Drain(grace)) => self.stopping = new(false, now.saturating_add(grace), None),
            (None, Stop::Leave) => self.stopping = new(true, now, Some(now)),
            // A second one may hurry, and not put off.
            (Some(stopping), Stop::Drain(grace)) => {
                stopping.kills_at = stopping.kills_at.min(now.saturating_add(grace));
            }
            (Some(_), Stop::Leave) => {}
        }
        self.held.hand_back_queued();
        // What would start in the same batch is as good as not begun.
        for assignment in std::mem::take(&mut effects.start) {
            self.held.unstart(assignment.attempt);
            self.held.hand_back(assignment.attempt);
        }
    }

    pub(super) fn taken_back(&mut self) {
        if let Some(stopping) = &mut self.stopping {
            stopping.taken_back = true;
        }
    }

    /// Once nothing runs, or the grace is over, what still runs is killed.
    pub(super) fn go_on_stopping(&mut self, now: Duration, effects: &mut Effects) {
        let Some(stopping) = &mut self.stopping else { return };
        let is_over = self.held.running() == 0 || now >= stopping.kills_at;
        if stopping.ending_since.is_some() || !is_over {
            return;
        }
        stopping.ending_since = Some(now);
        for attempt in self.held.stop() {
            if self.kill(attempt, Kill::Now, effects) == Kill::NeverStarted {
                self.held.hand_back(attempt);
            }
        }
    }

    pub(super) fn is_stopped(&self, now: Duration) -> bool {
        let Some(stopping) = &self.stopping else { return false };
        let Some(since) = stopping.ending_since else { return false };
        if now >= stopping.until(since, KILL_WAIT_SECS) {
            return true;
        }
        let may_run =
            stopping.leaves && (stopping.taken_back || now >= stopping.until(since, TAKE_BACK_WAIT_SECS));
        if !may_run && self.held.running() > 0 || !self.outbox_failing.is_empty() {
            return false;
        }
        let all_recorded = stopping.leaves || self.unrecorded.is_empty();
        if self.is_heard() {
            return all_recorded;
        }
        let nothing_to_say = all_recorded && !self.held.has_handed_back();
        nothing_to_say || now >= stopping.until(since, UNHEARD_WAIT_SECS)
    }
}
