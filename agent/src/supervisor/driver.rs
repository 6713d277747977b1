//! The one task that owns the core.
//!
//! It takes all inputs that wait, lets the core handle them, commits what is to be kept as one transaction, and only then
//! does the rest. When the commit fails, nothing of the batch leaves: it is kept and committed again and again, while the
//! core goes on in a new session that says why it takes no work. What the batch was to start is not kept, but goes back.

use super::{ConnectionId, Core, Effects, Input, ToCoordinator};
use crate::{
    blocking::blocking,
    domain::{Assignment, AttemptKey, OutputStream, Report},
    outbox::{Outbox, OutboxError},
};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// The most inputs that wait for the driver, in inputs. Whoever has one more waits.
pub const INPUTS_MAX: usize = 1024;

/// The most inputs in one batch, in inputs.
const BATCH_INPUTS_MAX: usize = 1024;

/// How far apart commits and reports are while there are many, in milliseconds: each costs a synchronisation or a message,
/// whatever is in it, so batches are given time to grow.
const COMMIT_EVERY_MILLIS: u64 = 20;

/// How many commits may come at once before they are many.
const COMMITS_AT_ONCE: u32 = 8;

/// How long endings that are to be forgotten wait for others that are to be kept, in milliseconds: they share a commit.
const FORGET_MILLIS: u64 = 500;

/// The most that wait so, in endings.
const FORGETS_MAX: usize = 4096;

/// The first wait after a failed commit, in milliseconds.
const COMMIT_BACKOFF_MIN_MILLIS: u64 = 100;

/// The longest wait after a failed commit, in milliseconds.
const COMMIT_BACKOFF_MAX_MILLIS: u64 = 5000;

/// For how long a commit that takes its time is covered by signs of life, in seconds. A disk that hangs for longer is as bad
/// as a host that is gone: what runs here is to run elsewhere.
const SIGNS_SECS_MAX: u64 = 60;

/// The number of a sign of life: that of Hello. So it is dropped as repeated, whatever waits behind the commit, and heard.
const SIGN_SEQ: u64 = 1;

/// Where endings are kept.
pub trait Journal: Send + Sync + 'static {
    /// Adds and removes endings in one transaction. Blocks; safe to repeat.
    ///
    /// # Errors
    /// If nothing of it was committed, or that can't be known.
    fn commit(&self, persist: &[Report], forget: &[AttemptKey]) -> Result<(), OutboxError>;
}

impl Journal for Outbox {
    fn commit(&self, persist: &[Report], forget: &[AttemptKey]) -> Result<(), OutboxError> {
        Self::commit(self, persist, forget)
    }
}

/// What the driver has its effects performed by. No call blocks or waits.
pub trait Hands: Send {
    /// An ending is gone from the outbox, or never came into it.
    fn forget(&mut self, attempt: AttemptKey);
    /// Endings are in the outbox: init need not keep them. In the order in which they came.
    fn release(&mut self, attempts: Vec<AttemptKey>);
    /// An attempt is to be killed.
    fn kill(&mut self, attempt: AttemptKey);
    /// All that was started and has not begun is to come back.
    fn take_back(&mut self);
    /// Attempts are to be started, in this order.
    fn start(&mut self, assignments: Vec<Assignment>);
    /// Spooled output, of these lengths, is to be uploaded. Repeated calls do the work once.
    fn upload(&mut self, attempt: AttemptKey, outputs: Vec<(OutputStream, u64)>);
    /// The coordinator is to be told something.
    fn send(&mut self, connection: ConnectionId, seq: u64, message: ToCoordinator);
    /// A connection is to be closed.
    fn close(&mut self, connection: ConnectionId, why: &str);
}

/// What waits for a commit that failed.
#[derive(Debug)]
struct Uncommitted {
    effects: Effects,
    retry_at: Instant,
    backoff: ExponentialBackoff,
}

/// Owns the core, its inputs, and what performs its effects.
#[derive(Debug)]
pub struct Driver<J, H> {
    core: Core,
    journal: Arc<J>,
    hands: H,
    inputs: mpsc::Receiver<Input>,
    began: Instant,
    uncommitted: Option<Uncommitted>,
    /// Endings that are to be forgotten with the next commit.
    forgets: Vec<AttemptKey>,
    /// When that must be.
    forget_at: Option<Instant>,
}

/// How the driver ended.
#[derive(Debug)]
pub struct Driven<H> {
    /// What performed the effects.
    pub hands: H,
    /// All endings are in the outbox. If not, their inits still keep them.
    pub all_committed: bool,
}

impl<J: Journal, H: Hands> Driver<J, H> {
    /// A driver that has not begun.
    pub fn new(core: Core, journal: Arc<J>, hands: H, inputs: mpsc::Receiver<Input>) -> Self {
        let (forgets, forget_at) = (Vec::new(), None);
        Self { core, journal, hands, inputs, began: Instant::now(), uncommitted: None, forgets, forget_at }
    }

    /// Runs until the core has stopped.
    pub async fn run(mut self) -> Driven<H> {
        let mut batch = Vec::with_capacity(BATCH_INPUTS_MAX);
        let (mut paced, mut not_before) = (Paced::default(), None);
        // What was due until then is handled. What came due since is not, however long the commit took.
        let mut handled = self.now();
        loop {
            if let Some(at) = not_before.take() {
                sleep_until(at).await;
            }
            let timer = self.core.next_timer(handled).map(|at| self.began + at);
            let retry = self.uncommitted.as_ref().map(|uncommitted| uncommitted.retry_at);
            tokio::select! {
                // Inputs that wait are handled before timers.
                biased;
                count = self.inputs.recv_many(&mut batch, BATCH_INPUTS_MAX) => {
                    if count == 0 {
                        break;
                    }
                }
                () = sleep_until_some(timer) => {}
                () = sleep_until_some(retry) => {}
                () = sleep_until_some(self.forget_at) => {}
            }
            let now = self.now();
            let mut effects = Effects::default();
            for input in batch.drain(..) {
                self.core.handle(input, now, &mut effects);
            }
            self.core.handle(Input::Tick, now, &mut effects);
            handled = now;
            self.gather_forgets(&mut effects);
            if !effects.persist.is_empty() || !effects.forget.is_empty() || effects.has_reports() {
                // What is to be started next waits with the rest: not while that could leave a slot idle.
                let every = Duration::from_millis(COMMIT_EVERY_MILLIS);
                not_before = paced.next(Instant::now()).filter(|_| self.core.is_ahead_by(every));
            }
            let mut stopped = self.perform(effects).await;
            if self.uncommitted.as_ref().is_some_and(|uncommitted| Instant::now() >= uncommitted.retry_at) {
                stopped |= self.retry().await;
            }
            if stopped {
                break;
            }
        }
        Driven { hands: self.hands, all_committed: self.uncommitted.is_none() }
    }

    /// What is to be forgotten has time: it goes with what is to be kept.
    fn gather_forgets(&mut self, effects: &mut Effects) {
        self.forgets.append(&mut effects.forget);
        let is_due = self.forget_at.is_some_and(|at| Instant::now() >= at);
        if !effects.persist.is_empty() || effects.stopped || is_due || self.forgets.len() >= FORGETS_MAX {
            effects.forget = std::mem::take(&mut self.forgets);
            self.forget_at = None;
        } else if !self.forgets.is_empty() {
            self.forget_at.get_or_insert_with(|| Instant::now() + Duration::from_millis(FORGET_MILLIS));
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Performs a batch. Tells whether the core has stopped.
    async fn perform(&mut self, mut effects: Effects) -> bool {
        if self.uncommitted.is_none() {
            match self.commit(&mut effects).await {
                Ok(()) => return self.act(effects),
                Err(error) => {
                    tracing::error!(%error, "the outbox can't be written: nothing is reported until it can");
                    let mut backoff = commit_backoff();
                    let retry_at = next_retry(&mut backoff);
                    self.uncommitted = Some(Uncommitted { effects: Effects::default(), retry_at, backoff });
                    // The core opens a new session for these, without what is not committed.
                    effects.sends.clear();
                    // What was to be started with it is not to wait for a disk: another agent may have room.
                    let starts = std::mem::take(&mut effects.start);
                    let (now, mut told) = (self.now(), Effects::default());
                    self.core.handle(Input::OutboxFailed { why: error.to_string() }, now, &mut told);
                    self.core.handle(Input::NotBegun(starts), now, &mut told);
                    self.act_uncommitted(effects);
                    return self.act_uncommitted(told);
                }
            }
        }
        self.act_uncommitted(effects)
    }

    /// Tries again to commit what could not be.
    async fn retry(&mut self) -> bool {
        let Some(mut uncommitted) = self.uncommitted.take() else { return false };
        match self.commit(&mut uncommitted.effects).await {
            Ok(()) => {
                tracing::info!("the outbox can be written again");
                self.act(uncommitted.effects);
                let mut effects = Effects::default();
                self.core.handle(Input::OutboxWorks, self.now(), &mut effects);
                self.perform(effects).await
            }
            Err(error) => {
                tracing::debug!(%error, "the outbox still can't be written");
                uncommitted.retry_at = next_retry(&mut uncommitted.backoff);
                self.uncommitted = Some(uncommitted);
                false
            }
        }
    }

    /// Commits; gives the reports and names back into the effects, so that it can be repeated. The coordinator hears meanwhile
    /// that the agent is alive.
    async fn commit(&mut self, effects: &mut Effects) -> Result<(), OutboxError> {
        if effects.persist.is_empty() && effects.forget.is_empty() {
            return Ok(());
        }
        let journal = self.journal.clone();
        let persist = std::mem::take(&mut effects.persist);
        let forget = std::mem::take(&mut effects.forget);
        let mut commit = pin!(blocking(move || {
            let result = journal.commit(&persist, &forget);
            (persist, forget, result)
        }));
        let signs_until = Instant::now() + Duration::from_secs(SIGNS_SECS_MAX);
        let (persist, forget, result) = loop {
            let open = self.core.session().filter(|_| Instant::now() < signs_until);
            let (connection, every) = open.unzip();
            let sign_at = every.map(|every| Instant::now() + every);
            tokio::select! {
                biased;
                done = &mut commit => break done,
                () = sleep_until_some(sign_at) => {}
            }
            if let Some(connection) = connection {
                self.hands.send(connection, SIGN_SEQ, ToCoordinator::Heartbeat);
            }
        };
        effects.persist = persist;
        effects.forget = forget;
        result
    }

    /// Performs what comes after a commit.
    fn act(&mut self, effects: Effects) -> bool {
        for attempt in effects.forget {
            self.hands.forget(attempt);
        }
        if !effects.release.is_empty() {
            self.hands.release(effects.release);
        }
        if !effects.start.is_empty() {
            self.hands.start(effects.start);
        }
        if effects.take_back {
            self.hands.take_back();
        }
        for attempt in effects.kill {
            self.hands.kill(attempt);
        }
        for attempt in effects.upload {
            let outputs = self.core.spooled(attempt);
            // None if it was forgotten in the same batch.
            if !outputs.is_empty() {
                self.hands.upload(attempt, outputs);
            }
        }
        for (connection, seq, message) in effects.sends {
            self.hands.send(connection, seq, message);
        }
        for (connection, why) in effects.closes {
            self.hands.close(connection, &why);
        }
        effects.stopped
    }

    /// Performs what needs no commit, and keeps the rest for when the commit succeeds. The core starts nothing meanwhile.
    fn act_uncommitted(&mut self, mut effects: Effects) -> bool {
        let Effects { persist, forget, release, upload, .. } = &mut effects;
        if let Some(Uncommitted { effects: held, .. }) = &mut self.uncommitted {
            held.persist.append(persist);
            held.forget.append(forget);
            held.release.append(release);
            held.upload.append(upload);
        }
        self.act(effects)
    }
}

/// When the next commit is due: the generic cell rate algorithm.
#[derive(Debug, Default)]
struct Paced {
    /// When all commits so far had come if none came at once.
    even: Option<Instant>,
}

impl Paced {
    /// Counts a commit; the earliest time of the next one, if it has to wait. That is never more than one period away: who did
    /// not wait, as it does not while a slot could be idle, does not make up for it later.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let every = Duration::from_millis(COMMIT_EVERY_MILLIS);
        let even = self.even.map_or(now, |even| even.max(now)) + every;
        let even = even.min(now + every * (COMMITS_AT_ONCE + 1));
        self.even = Some(even);
        even.checked_sub(every * COMMITS_AT_ONCE).filter(|next| *next > now)
    }
}

fn commit_backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(COMMIT_BACKOFF_MIN_MILLIS))
        .with_max_delay(Duration::from_millis(COMMIT_BACKOFF_MAX_MILLIS))
        .without_max_times()
        .build()
}

fn next_retry(backoff: &mut ExponentialBackoff) -> Instant {
    let wait = backoff.next().unwrap_or(Duration::from_millis(COMMIT_BACKOFF_MAX_MILLIS));
    Instant::now() + wait
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
