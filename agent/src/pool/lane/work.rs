//! What a lane is given, and what it gives back without having begun it.

use super::{FIRST_RUN, Lane, STUCK_MILLIS};
use crate::{
    domain::{Assignment, AttemptKey, Isolation, Outcome, Report, RunSpec},
    init_link::{InitEvent, LinkError},
    pool::{
        board::{Answer, Pulled},
        flight::{Flight, cut_message},
    },
    runtime::WorkerShape,
};
use futures_util::FutureExt as _;
use std::{collections::VecDeque, io::ErrorKind, pin::pin, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How much of commands and variables is sent to a worker ahead of need, in bytes: it counts to the worker's memory.
const AHEAD_BYTES_MAX: usize = 256 << 10;

/// How much is heard while a lane waits for a disk, in bytes. A good init says less: it keeps what is not acknowledged.
const LATER_BYTES_MAX: usize = 4 << 20;

/// What an event that is kept takes beside its output, in bytes.
const LATER_EVENT_BYTES: usize = 128;

/// What was heard and waits to be taken in. An error is the last.
#[derive(Default)]
pub(super) struct Later {
    events: VecDeque<Result<InitEvent, LinkError>>,
    bytes: usize,
}

impl Later {
    fn push(&mut self, event: Result<InitEvent, LinkError>) {
        let output = if let Ok(InitEvent::Output { bytes, .. }) = &event { bytes.len() } else { 0 };
        self.bytes += output + LATER_EVENT_BYTES;
        self.events.push_back(event);
    }

    fn pop(&mut self) -> Option<Result<InitEvent, LinkError>> {
        let event = self.events.pop_front();
        if self.events.is_empty() {
            self.bytes = 0;
        }
        event
    }

    fn has_room(&self) -> bool {
        self.bytes < LATER_BYTES_MAX && !matches!(self.events.back(), Some(Err(_)))
    }
}

/// What all runs of a class have in common, made once.
pub(super) struct Common {
    /// The variables of image and project, merged.
    env: Vec<(String, String)>,
    /// Of which spec.
    of: Arc<RunSpec>,
}

impl Common {
    pub(super) fn new(shape: &WorkerShape, run: &Arc<RunSpec>) -> Self {
        let mut env: std::collections::BTreeMap<_, _> = shape.image.env.iter().cloned().collect();
        env.extend(run.env.clone());
        Self { env: env.into_iter().collect(), of: run.clone() }
    }
}

impl Lane {
    /// Sends as many runs as there is work and room for.
    pub(super) async fn pull(&mut self) {
        if self.over.is_some() || self.recalling {
            return;
        }
        let Some(shape) = self.shape.clone() else { return };
        let fresh = shape.isolation == Isolation::Fresh;
        if fresh && self.next > FIRST_RUN {
            return;
        }
        let held_max = if fresh { 1 } else { self.runs_max.saturating_sub(self.unreleased()) };
        let (held, next) = (self.flights.len(), self.next);
        let assignments = self.flights.iter().filter_map(|flight| flight.assignment.as_ref());
        let bytes = AHEAD_BYTES_MAX.saturating_sub(assignments.map(Assignment::bytes).sum());
        let pulled = self.shared.with(|board, _| board.pull(self.id, held, held_max, next, bytes));
        if pulled.is_empty() {
            return;
        }
        let notes: Vec<(u64, AttemptKey)> =
            (next..).zip(pulled.iter().map(|pulled| pulled.assignment.attempt)).collect();
        if let Err(error) = self.shared.env.runtime.note(&self.worker, &notes, self.released) {
            self.over = Some("its notes can't be written".into());
            if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
                self.shared.env.readiness.tell(format!("the agent's disk is full: {error}")).await;
                self.shared.with(|board, _| {
                    pulled.iter().for_each(|pulled| board.forget(pulled.assignment.attempt));
                });
                self.shared.not_begun(pulled.into_iter().map(|pulled| pulled.assignment).collect()).await;
                return;
            }
            // Nobody knows what is wrong with it; another worker may have more luck.
            let outcome = Outcome::WorkerLost(cut_message(format!(
                "what is sent to its worker can't be noted: {error}"
            )));
            for Pulled { assignment, .. } in pulled {
                self.never_began(assignment.attempt, outcome.clone());
            }
            return;
        }
        for Pulled { assignment, kill } in pulled {
            let run = self.next;
            self.next += 1;
            if self.common.as_ref().is_none_or(|common| !Arc::ptr_eq(&common.of, &assignment.spec)) {
                self.common = Some(Common::new(&shape, &assignment.spec));
            }
            let Some(common) = &self.common else { return };
            let flight = Flight::new(run, assignment, kill);
            let sent = self.link.run(&flight.command(&common.of, &common.env, shape.workdir.as_deref()));
            match sent {
                Ok(()) => self.flights.push_back(flight),
                // The link is good; the command is longer than any kernel takes.
                Err(error) => {
                    let outcome = Outcome::CouldNotStart(cut_message(error.to_string()));
                    self.never_began(flight.attempt, outcome);
                }
            }
        }
        if fresh {
            self.over = Some("it is for one task".into());
        }
    }

    /// The next event that is to be taken in.
    pub(super) fn next_event(&mut self) -> Result<Option<InitEvent>, LinkError> {
        self.later.pop().map_or_else(|| self.link.heard(), |event| event.map(Some))
    }

    /// Does what may have to wait for a disk, for the current run. If it does, the others are taken back meanwhile.
    pub(super) async fn patiently<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        // Nearly always it is done at once, which is to cost no timer.
        if let Some(done) = work.as_mut().now_or_never() {
            return done;
        }
        let stuck = Duration::from_millis(STUCK_MILLIS);
        if let Ok(done) = timeout(stuck, &mut work).await {
            return done;
        }
        if !self.recalling
            && let Some(first) = self.flights.front()
        {
            self.recalling = true;
            self.link.recall(first.run);
        }
        let mut look = interval(stuck);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let listens = self.recalling && self.later.has_room();
            let heard = if listens { self.link.heard() } else { Ok(None) };
            match heard {
                Ok(Some(InitEvent::Recalled(from))) => self.recalled(from).await,
                Ok(Some(event)) => self.later.push(Ok(event)),
                Err(error) => self.later.push(Err(error)),
                Ok(None) => tokio::select! {
                    biased;
                    done = &mut work => return done,
                    // What waits on the board waits for this, too.
                    _ = look.tick() => self.shared.return_stuck().await,
                    moved = self.link.exchange(), if listens => {
                        if let Err(error) = moved {
                            self.later.push(Err(error));
                        }
                    }
                },
            }
        }
    }

    /// What has not begun is run elsewhere, or later.
    pub(super) async fn recalled(&mut self, from: u64) {
        self.recalling = false;
        self.put_back(from, false).await;
    }

    /// All that has not begun is wanted back; holds the answer until it is.
    pub(super) fn take_back(&mut self, answer: Answer) {
        if self.flights.is_empty() {
            return;
        }
        self.taking_back = Some(answer);
        // One that is on its way already takes back all but what has begun.
        if !self.recalling {
            self.recalling = true;
            self.link.recall(0);
        }
    }

    /// Puts the flights from this run on back on the board. Those that can't be are ended.
    pub(super) async fn put_back(&mut self, from: u64, worker_died: bool) {
        let index = self.flights.partition_point(|flight| flight.run < from);
        let flights = self.flights.split_off(index);
        if flights.is_empty() {
            self.shared.return_stuck().await;
        } else {
            let stuck = self.put_back_all(flights, worker_died);
            self.shared.not_begun(stuck).await;
        }
        self.taking_back = None;
    }

    /// Gives what nothing will take from the board. In the same step, so that no other lane hands it back after this one has
    /// answered.
    fn put_back_all(&mut self, flights: VecDeque<Flight>, worker_died: bool) -> Vec<Assignment> {
        let runs: Vec<_> = flights.iter().map(|flight| flight.run).collect();
        if let Err(error) = self.shared.env.runtime.unnote(&self.worker, &runs) {
            // It matters only to a later agent that can't reach this worker.
            tracing::debug!(worker = %self.worker, %error, "what was sent to it is still noted");
        }
        let mut back = Vec::new();
        for flight in flights {
            match flight.assignment {
                Some(assignment) => back.push(assignment),
                None => {
                    let why = "what it ran is not known any more";
                    self.never_began(flight.attempt, Outcome::WorkerLost(why.into()));
                }
            }
        }
        let (kept_off, stuck) = self
            .shared
            .with(|board, to_do| (board.put_back(self.id, back, worker_died, to_do), board.take_stuck()));
        for (attempt, killed) in kept_off {
            let why = "several workers died before it could begin";
            let outcome = if killed { Outcome::Cancelled } else { Outcome::WorkerLost(why.into()) };
            self.reports.push(Report::without_output(attempt, outcome));
        }
        stuck
    }

    /// Ends one out of its turn: init knows nothing of it that would have to be released.
    fn never_began(&mut self, attempt: AttemptKey, outcome: Outcome) {
        self.shared.with(|board, _| board.forget(attempt));
        self.reports.push(Report::without_output(attempt, outcome));
    }
}
