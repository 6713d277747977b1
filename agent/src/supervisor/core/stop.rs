//! How the core stops.
//!
//! ```text
//!  Stop(Drain) ─▶ nothing starts; what runs may end ─▶ nothing runs, or the grace is over: what still runs is killed
//!        │                                                                                │
//!        │           what ended is recorded, or time is up; the rest is handed back ◀─────┘─▶ stopped
//!        ▼
//!  Stop(Leave) ─▶ nothing starts; what runs is left to its workers; what ended is in the outbox ─▶ stopped
//! ```
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

/// A stop that is under way.
#[derive(Debug)]
pub(super) struct Stopping {
    /// What runs may run on in its workers.
    leaves: bool,
    /// When what runs is killed, unless it is left.
    kills_at: Duration,
    /// Since nothing runs any more but what is being killed or left.
    ending_since: Option<Duration>,
}

impl Stopping {
    /// What lasts until the grace is over, but at least so long since `since`.
    fn until(&self, since: Duration, wait_secs: u64) -> Duration {
        self.kills_at.max(since + Duration::from_secs(wait_secs))
    }

    pub(super) fn next_timer(&self, now: Duration) -> Option<Duration> {
        let timers = match self.ending_since {
            None => [Some(self.kills_at), None],
            Some(since) => [UNHEARD_WAIT_SECS, KILL_WAIT_SECS].map(|wait| Some(self.until(since, wait))),
        };
        timers.into_iter().flatten().filter(|at| *at > now).min()
    }
}

impl Core {
    pub(super) fn stop(&mut self, stop: Stop, now: Duration, effects: &mut Effects) {
        match (&mut self.stopping, stop) {
            (None, Stop::Drain(grace)) => {
                let kills_at = now.saturating_add(grace);
                self.stopping = Some(Stopping { leaves: false, kills_at, ending_since: None });
            }
            (None, Stop::Leave) => {
                self.stopping = Some(Stopping { leaves: true, kills_at: now, ending_since: Some(now) });
            }
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
        if !stopping.leaves && self.held.running() > 0 || !self.outbox_failing.is_empty() {
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
