//! How the core stops.
//!
//! ```text
//!  Stop(Drain) ─▶ nothing starts; what runs may end ─▶ nothing runs, or the grace is over: what still runs is killed
//!  Stop(Leave) ─▶ nothing starts; what runs is left to its workers                        │
//!        └───────────────────▶ what ended is in the outbox, the rest is handed back ◀─────┘─▶ stopped
//! ```

use super::Core;
use crate::supervisor::{Effects, Stop, held::Kill};
use std::time::Duration;

/// How long the core waits for what was killed to end, in seconds.
const KILL_WAIT_SECS: u64 = 20;

/// How long it waits for a coordinator to hand attempts back to, in seconds.
const UNHEARD_WAIT_SECS: u64 = 2;

/// A stop that is under way.
#[derive(Debug)]
pub(super) struct Stopping {
    /// What runs may run on in its workers.
    leaves: bool,
    /// When what runs is killed, unless it is left.
    kills_at: Duration,
    /// Since nothing is waited for but farewells.
    ending_since: Option<Duration>,
}

impl Stopping {
    pub(super) fn next_timer(&self, now: Duration) -> Option<Duration> {
        let timers = match self.ending_since {
            None => [Some(self.kills_at), None],
            Some(since) => {
                [UNHEARD_WAIT_SECS, KILL_WAIT_SECS].map(|wait| Some(since + Duration::from_secs(wait)))
            }
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
        if now >= since + Duration::from_secs(KILL_WAIT_SECS) {
            return true;
        }
        if !stopping.leaves && self.held.running() > 0 || !self.outbox_failing.is_empty() {
            return false;
        }
        let nothing_to_say = !self.held.has_handed_back() && (stopping.leaves || self.unrecorded.is_empty());
        self.is_heard() || nothing_to_say || now >= since + Duration::from_secs(UNHEARD_WAIT_SECS)
    }
}
