//! The agent's core. A state machine: what happened goes in, what is to be done comes out.
//!
//! The life of an attempt, as the core sees it:
//!
//! ```text
//!  Assign ─▶ queued ─▶ running ─▶ Ended ─▶ withheld, reported ─▶ Settled ─▶ released by init, forgotten
//!              │          │ kill      │        └─ too long ─▶┐        ▲
//!              │          └────────▶  │                      ▼        │
//!              │                      └─ long output ─▶ in the outbox ┴─▶ uploaded ─▶ reported, again in each session
//!           ▲  │          └──▶ NotBegun: queued again, at the front
//!           └──┼──────────────────┘
//!              ├─▶ cancelled before it started: straight into the outbox, with an empty report
//!              └─▶ handed back (recalled, or the agent stops, or can't make workers): no report, Returned
//! ```
//!
//! What makes it safe: init keeps an ending until it is in the outbox or settled, and the outbox keeps it until the
//! coordinator says that it is settled. Hello tells all that is held, so that the two sides agree after
//! any loss. Only the newest connection counts, its messages are numbered, and nothing is done on it before Welcome.
//!
//! The core asserts what it alone decides, and never trusts what comes in: no input can make it panic.

mod connection;
mod stop;
#[cfg(test)]
mod tests;

use super::{
    ConnectionId, Effects, FromCoordinator, Input, Planted, PlantedBug, ToCoordinator,
    held::{Ending, Held, Kill, NotBegun},
    link::{Credits, Link},
    pace::Pace,
    unrecorded::Unrecorded,
    withheld::Withheld,
};
use crate::domain::{Assignment, AttemptKey, Outcome, OutputStream, Report};
use std::{collections::BTreeSet, time::Duration};
use stop::Stopping;

/// What a core is made with.
#[derive(Clone, Copy, Debug)]
pub struct CoreConfig {
    /// How many attempts run at a time.
    pub slots: u32,
    /// Bugs that a test wants in it.
    pub planted: Planted,
}

impl CoreConfig {
    /// Without bugs.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self { slots, planted: Planted::default() }
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    held: Held,
    unrecorded: Unrecorded,
    withheld: Withheld,
    /// Of what runs, what an earlier process began.
    adopted: BTreeSet<AttemptKey>,
    pace: Pace,
    /// The newest connection, while it is open.
    link: Option<Link>,
    newest: Option<ConnectionId>,
    coordinator_epoch: u64,
    session_epoch: u64,
    /// Why the runtime can't make workers; empty if it can.
    runtime_not_ready: String,
    /// Why the outbox can't be written; empty if it can.
    outbox_failing: String,
    /// Since a stop was asked for.
    stopping: Option<Stopping>,
}

impl Core {
    /// A core that has adopted these live attempts, and found these endings in its outbox, in the order of ending.
    #[must_use]
    pub fn new(config: CoreConfig, adopted: Vec<AttemptKey>, outbox: Vec<Report>) -> Self {
        let mut unrecorded = Unrecorded::default();
        for report in outbox {
            unrecorded.add(report);
        }
        let adopted: BTreeSet<_> =
            adopted.into_iter().filter(|attempt| !unrecorded.contains(*attempt)).collect();
        Self {
            config,
            held: Held::adopted(adopted.iter().copied()),
            adopted,
            unrecorded,
            withheld: Withheld::default(),
            pace: Pace::new(config.slots),
            link: None,
            newest: None,
            coordinator_epoch: 0,
            session_epoch: 0,
            runtime_not_ready: String::new(),
            outbox_failing: String::new(),
            stopping: None,
        }
    }

    /// Handles one thing that happened at `now`, which never goes back, and adds to the effects what it calls for.
    pub fn handle(&mut self, input: Input, now: Duration, effects: &mut Effects) {
        self.pace.pass(now);
        match input {
            Input::Connected(connection) => self.connected(connection, now, effects),
            Input::FromCoordinator { connection, seq, message } => {
                self.hear(connection, seq, message, now, effects);
            }
            Input::Disconnected(connection) => self.disconnected(connection, effects),
            Input::Ended(reports) => {
                for report in reports {
                    self.ended(report, now, effects);
                }
            }
            Input::NotBegun(assignments) => self.not_begun(assignments, effects),
            Input::TakenBack => self.taken_back(),
            Input::Uploaded(attempt) => self.unrecorded.uploaded(attempt),
            Input::UploadFailed { attempt, why } => self.upload_failed(attempt, &why, effects),
            Input::Runtime { not_ready } => self.runtime_not_ready = not_ready,
            Input::OutboxFailed { why } => self.outbox_failed(why, effects),
            Input::OutboxWorks => self.outbox_failing.clear(),
            Input::Stop(stop) => self.stop(stop, now, effects),
            // Only here, after all inputs that waited: among them may be what was missed.
            Input::Tick => {
                if let Some(why) = self.link.as_ref().and_then(|link| link.silence(now)) {
                    self.close(why, effects);
                }
            }
        }
        self.go_on_stopping(now, effects);
        self.start_queued(effects);
        self.pace.dispatched(self.held.running());
        self.tell(now, effects);
        self.persist_withheld(now, effects);
        effects.stopped = self.is_stopped(now);
    }

    /// When a Tick is due, if any is. What was due at `now` counts as handled.
    #[must_use]
    pub fn next_timer(&self, now: Duration) -> Option<Duration> {
        let stop = self.stopping.as_ref().and_then(|stopping| stopping.next_timer(now));
        let link = self.link.as_ref().map(Link::next_timer);
        let withheld = self.withheld.next_timer();
        [stop, link, withheld, self.pace.next_timer()].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// The open session, and how often the coordinator wants to hear something in it.
    #[must_use]
    pub fn session(&self) -> Option<(ConnectionId, Duration)> {
        let link = self.link.as_ref()?;
        Some((link.connection(), link.heartbeat()?))
    }

    /// Whether more was dispatched than the slots will have begun after this time.
    #[must_use]
    pub fn is_ahead_by(&self, time: Duration) -> bool {
        self.pace.is_ahead_by(time)
    }

    fn has(&self, bug: PlantedBug) -> bool {
        self.config.planted.has(bug)
    }

    fn obey(&mut self, message: FromCoordinator, effects: &mut Effects) {
        match message {
            FromCoordinator::Welcome { .. } => {}
            FromCoordinator::Assign(assignments) => {
                for assignment in assignments {
                    self.assign(assignment, effects);
                }
            }
            FromCoordinator::Settled(attempts) => self.forget(&attempts, effects),
            // Its number was looked at; that was its purpose.
            FromCoordinator::Heartbeat => {}
            FromCoordinator::Cancel(attempts) => {
                for attempt in attempts {
                    self.cancel(attempt, effects);
                }
            }
            FromCoordinator::Recall(attempts) => self.recall(attempts, effects),
        }
    }

    fn assign(&mut self, assignment: Assignment, effects: &mut Effects) {
        let attempt = assignment.attempt;
        if self.held.contains(attempt) || self.unrecorded.contains(attempt) {
            if self.has(PlantedBug::RepeatedAssignStartsTwice) {
                effects.start.push(assignment);
            }
            return;
        }
        let of_task = self.held.of_task(attempt);
        if of_task.iter().any(|held| held.attempt > attempt.attempt) {
            return;
        }
        for lower in of_task {
            // One that never started needs no report: the coordinator has gone on to a higher attempt by itself.
            let kill = self.held.kill(lower);
            self.kill(lower, kill, effects);
        }
        if self.stopping.is_some() || self.held.is_full() {
            self.held.hand_back(attempt);
        } else {
            self.held.enqueue(assignment);
        }
    }

    fn cancel(&mut self, attempt: AttemptKey, effects: &mut Effects) {
        let kill = self.held.kill(attempt);
        if self.kill(attempt, kill, effects) == Kill::NeverStarted {
            self.keep(Report::without_output(attempt, Outcome::Cancelled), effects);
        }
    }

    /// Another agent has a slot for what waits here.
    fn recall(&mut self, mut attempts: Vec<AttemptKey>, effects: &mut Effects) {
        if self.has(PlantedBug::RecallHandsBackRunning) {
            for attempt in &attempts {
                if self.held.unstart(*attempt) {
                    self.held.hand_back(*attempt);
                }
            }
        }
        if self.has(PlantedBug::RecallKeepsQueued)
            && let Some(link) = &mut self.link
        {
            attempts.retain(|attempt| self.held.is_queued(*attempt));
            return link.send(ToCoordinator::Returned(attempts), effects);
        }
        self.held.recall(attempts.into_iter().collect());
    }

    /// Does what it takes to kill one. If its start is among the same effects, it never starts.
    fn kill(&mut self, attempt: AttemptKey, kill: Kill, effects: &mut Effects) -> Kill {
        if kill != Kill::Now {
            return kill;
        }
        let starts = effects.start.len();
        effects.start.retain(|assignment| assignment.attempt != attempt);
        if effects.start.len() < starts {
            self.held.unstart(attempt);
            return Kill::NeverStarted;
        }
        effects.kill.push(attempt);
        Kill::Now
    }

    fn start_queued(&mut self, effects: &mut Effects) {
        if self.stopping.is_some() {
            self.held.hand_back_queued();
            return;
        }
        if !self.can_start() {
            // Another agent may be able to run them. While nobody can be told, they wait.
            if self.is_heard() {
                self.held.hand_back_queued();
            }
            return;
        }
        while let Some(assignment) = self.held.start_next(self.dispatch_max()) {
            effects.start.push(assignment);
        }
    }

    /// How many are dispatched at a time: the slots, and what comes next.
    const fn dispatch_max(&self) -> usize {
        self.config.slots as usize + self.pace.ahead() as usize
    }

    fn can_start(&self) -> bool {
        self.runtime_not_ready.is_empty() && self.outbox_failing.is_empty()
    }

    fn ended(&mut self, report: Report, now: Duration, effects: &mut Effects) {
        let (attempt, wall_micros) = (report.attempt, report.usage.wall_micros);
        match self.held.end(attempt, &report.outcome) {
            Ending::Report => {
                // What an earlier process has spooled goes with a commit.
                self.withheld.add(&report, now, self.adopted.remove(&attempt));
                self.add(report, effects);
            }
            Ending::Forget => {
                effects.forget.push(attempt);
                self.withheld.add_settled(attempt);
                effects.release.extend(self.withheld.take_settled());
            }
            Ending::Unknown => return,
        }
        if self.has(PlantedBug::ReleaseBeforePersist) {
            effects.release.push(attempt);
        }
        self.pace.ended(wall_micros);
    }

    /// Puts into the outbox what can't wait to be settled; init releases it then.
    fn persist_withheld(&mut self, now: Duration, effects: &mut Effects) {
        let others_wait = self.is_heard() && self.outbox_failing.is_empty() && self.stopping.is_none();
        // If there is a commit anyway, they go with it.
        if others_wait && effects.persist.is_empty() && !self.withheld.is_due(now) {
            return;
        }
        let (persist, release) = self.withheld.take();
        effects.persist.extend(persist.into_iter().filter_map(|attempt| self.unrecorded.report(attempt)));
        effects.release.extend(release);
    }

    /// Puts back what was started and never began.
    fn not_begun(&mut self, assignments: Vec<Assignment>, effects: &mut Effects) {
        if assignments.is_empty() || self.has(PlantedBug::NotBegunForgotten) {
            return;
        }
        self.pace.taken_back();
        // Each goes to the front: the last one first.
        for assignment in assignments.into_iter().rev() {
            let attempt = assignment.attempt;
            // One whose start is not performed yet can't have come back.
            if effects.start.iter().any(|start| start.attempt == attempt) {
                continue;
            }
            if self.held.not_begun(assignment) == NotBegun::Killed {
                self.keep(Report::without_output(attempt, Outcome::Cancelled), effects);
            }
            effects.kill.retain(|killed| *killed != attempt);
        }
    }

    /// Puts an ending that no init keeps into the outbox, to be reported.
    fn keep(&mut self, report: Report, effects: &mut Effects) {
        effects.persist.push(report.clone());
        self.add(report, effects);
    }

    /// Takes up an ending that is to be reported, and its output to be uploaded before.
    fn add(&mut self, report: Report, effects: &mut Effects) {
        let attempt = report.attempt;
        self.unrecorded.add(report);
        if self.unrecorded.waits_for_upload(attempt) && self.is_heard() {
            effects.upload.push(attempt);
        }
    }

    /// Without its output an ending is worth nothing: the task has to run again, or its failure be told.
    fn upload_failed(&mut self, attempt: AttemptKey, why: &str, effects: &mut Effects) {
        if !self.unrecorded.waits_for_upload(attempt) {
            return;
        }
        self.unrecorded.remove(attempt);
        let outcome = Outcome::WorkerLost(format!("its output can't be read: {why}"));
        self.keep(Report::without_output(attempt, outcome), effects);
    }

    /// Which outputs of an ended attempt are spooled, with their lengths.
    #[must_use]
    pub fn spooled(&self, attempt: AttemptKey) -> Vec<(OutputStream, u64)> {
        self.unrecorded.spooled(attempt)
    }

    fn forget(&mut self, attempts: &[AttemptKey], effects: &mut Effects) {
        for attempt in attempts {
            if self.unrecorded.remove(*attempt) && !self.withheld.settle(*attempt) {
                effects.forget.push(*attempt);
            }
        }
        effects.release.extend(self.withheld.take_settled());
    }

    fn outbox_failed(&mut self, why: String, effects: &mut Effects) {
        self.outbox_failing = if why.is_empty() { "the outbox can't be written".into() } else { why };
        // Messages that were numbered already did not leave: only a new session can go on.
        self.close("the outbox can't be written", effects);
    }

    // What the coordinator is told.

    fn tell(&mut self, now: Duration, effects: &mut Effects) {
        let credits = self.credits();
        let forget_on_send = self.has(PlantedBug::ForgetOnSend);
        let Some(link) = self.link.as_mut().filter(|link| link.is_welcomed()) else { return };
        link.send_credits(credits, effects);
        // While the outbox fails, endings in it are not durable yet.
        let mut sent = Vec::new();
        while self.outbox_failing.is_empty()
            && let Some(report) = self.unrecorded.next_unsent()
        {
            sent.push(report.attempt);
            link.send_report(report, effects);
        }
        let handed_back = self.held.take_handed_back();
        if !handed_back.is_empty() {
            link.send(ToCoordinator::Returned(handed_back), effects);
        }
        link.send_heartbeat(now, effects);
        if forget_on_send {
            self.forget(&sent, effects);
        }
    }

    /// A session is open.
    fn is_heard(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_welcomed)
    }

    fn credits(&self) -> Credits {
        if self.stopping.is_some() {
            (0, "stopping".into())
        } else if !self.outbox_failing.is_empty() {
            (0, self.outbox_failing.clone())
        } else if !self.runtime_not_ready.is_empty() {
            (0, self.runtime_not_ready.clone())
        } else if self.unrecorded.is_full() {
            (0, "too many results wait in the agent's outbox to be recorded".into())
        } else {
            (self.config.slots.saturating_add(self.pace.backlog()), String::new())
        }
    }

    /// Cross-checks the state. For tests, after each step.
    ///
    /// # Panics
    /// If the state contradicts itself.
    pub fn check(&self) {
        self.held.check();
        self.unrecorded.check();
        self.withheld.check();
        self.pace.check();
        for attempt in self.unrecorded.attempts() {
            assert!(!self.held.contains(attempt), "{attempt} is held and in the outbox");
        }
        if let Some(link) = &self.link {
            assert_eq!(Some(link.connection()), self.newest, "the link is not the newest connection");
            if link.is_welcomed() {
                assert!(!self.held.has_handed_back(), "something to hand back was not");
            }
        }
        if self.stopping.is_none() && self.can_start() {
            let waits = self.held.waiting() > 0;
            assert!(!waits || self.held.running() >= self.dispatch_max(), "a slot is free");
        }
    }
}
