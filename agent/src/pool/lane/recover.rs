//! When the link to a worker breaks, and when an agent takes over the worker of an earlier one.

use super::{LINK_LOSSES_MAX, LINK_SECS_GOOD, Lane, Later};
use crate::{
    domain::{AttemptKey, Outcome, Report},
    init_link::{HeldState, Hello, InitEvent, InitLink, LinkError, Offsets},
    pool::{
        Shared,
        board::LaneId,
        flight::{Flight, cut_message},
        worker::{self, Link, Unreachable},
    },
    runtime::{Gone, WorkerId},
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long init may take to say what it takes back, in seconds.
const RECALL_SECS_MAX: u64 = 10;

/// Takes back all that has not begun; afterwards it is certain what has. Returns the first number that never begins.
async fn recall_all(link: &mut InitLink) -> Result<u64, LinkError> {
    link.recall(0);
    let answer = async {
        loop {
            match link.heard()? {
                Some(InitEvent::Recalled(from)) => return Ok(from),
                // Before it is asked to go on, init tells nothing of its runs.
                Some(InitEvent::Spent(_)) => {}
                Some(other) => {
                    return Err(LinkError::Protocol(format!("it answered a recall with {other:.60?}")));
                }
                None => link.exchange().await?,
            }
        }
    };
    let silent = |_| LinkError::Silent { what: "take runs back", secs: RECALL_SECS_MAX };
    timeout(Duration::from_secs(RECALL_SECS_MAX), answer).await.map_err(silent)?
}

/// The same on a new link; what is held is then what has begun.
pub(in crate::pool) async fn take_back(link: &mut Link) -> Result<(), LinkError> {
    let from = recall_all(&mut link.link).await?;
    link.hello.held.retain(|held| held.run < from && held.state != HeldState::Queued);
    Ok(())
}

/// Runs the lane of an adopted worker to its end.
pub(in crate::pool) async fn run_adopted(
    shared: Arc<Shared>,
    id: LaneId,
    worker: WorkerId,
    attempts: Vec<(u64, AttemptKey, CancellationToken)>,
    link: Option<Link>,
) {
    let mut flights = VecDeque::new();
    let first = attempts.first().map_or(1, |(run, ..)| *run);
    let kills: Vec<_> = attempts.iter().map(|(_, _, kill)| kill.clone()).collect();
    for (run, attempt, kill) in attempts {
        match Flight::resume(&shared.env, run, attempt, kill).await {
            Ok(flight) => flights.push_back(flight),
            Err(error) => {
                let why = format!("what it printed before the agent restarted can't be read: {error}");
                give_up(&shared, attempt, why).await;
            }
        }
    }
    let reached = match link {
        Some(link) => Ok(link),
        None => tokio::select! {
            biased;
            () = all_cancelled(&kills) => Err(Unreachable::Silent),
            reached = async {
                let mut link = worker::reach_patiently(&*shared.env.runtime, &worker).await?;
                take_back(&mut link).await?;
                Ok(link)
            } => reached,
        },
    };
    match reached {
        Ok(Link { link, hello }) => {
            let is_held = |flight: &Flight| hello.held.iter().any(|held| held.run == flight.run);
            let (flights, gone): (VecDeque<_>, VecDeque<_>) = flights.into_iter().partition(is_held);
            for flight in gone {
                give_up(&shared, flight.attempt, "its worker does not hold it any more".into()).await;
            }
            let Some(notify) = shared.with(|board, _| board.notify(id)) else { return };
            let ended = flights.back().map_or(0, |flight| flight.run);
            let mut lane = Lane {
                shared,
                id,
                notify,
                worker,
                shape: None,
                common: None,
                link,
                runs_max: hello.runs_max,
                born: Instant::now(),
                flights,
                next: ended + 1,
                ended,
                // Those before it were in the outbox.
                released: first.saturating_sub(1),
                reports: Vec::new(),
                over: Some("it is of an earlier agent".into()),
                recalling: false,
                taking_back: None,
                later: Later::default(),
                losses: 0,
                linked: Instant::now(),
            };
            lane.go_on(&hello);
            lane.live().await;
        }
        Err(error) => {
            let why = why_gone(&shared, &worker, &error).await;
            let mut reports = Vec::new();
            for flight in flights {
                let outcome = if flight.is_killed() { Outcome::Cancelled } else { why.clone() };
                reports.push(flight.lost(outcome).await);
            }
            if shared.end(reports).await {
                shared.with(|board, to_do| board.leave(id, to_do));
                shared.discard(worker).await;
            }
        }
    }
}

/// Ends one of which its worker knows nothing. It has no place in the lane: what it held there is not released by its end.
async fn give_up(shared: &Arc<Shared>, attempt: AttemptKey, why: String) {
    shared.with(|board, _| board.forget(attempt));
    let outcome = Outcome::WorkerLost(cut_message(why));
    shared.end(vec![Report::without_output(attempt, outcome)]).await;
}

/// Waits until all of them are cancelled; for ever if there are none.
async fn all_cancelled(kills: &[CancellationToken]) {
    if kills.is_empty() {
        std::future::pending::<()>().await;
    }
    for kill in kills {
        kill.cancelled().await;
    }
}

/// What became of a worker that can't be reached.
async fn why_gone(shared: &Shared, worker: &WorkerId, error: &Unreachable) -> Outcome {
    match shared.env.runtime.why_gone(worker).await {
        Gone::OutOfMemory => Outcome::OutOfMemory,
        Gone::Worker(why) => Outcome::WorkerLost(cut_message(format!("{why} ({error})"))),
        Gone::Engine(why) => Outcome::EngineLost(cut_message(format!("{why} ({error})"))),
    }
}

impl Lane {
    /// After the link broke: reaches the worker again, if that is possible. If not, all that was sent to it is ended or put
    /// back; tells that it is gone.
    pub(super) async fn recover(&mut self, error: LinkError) -> bool {
        tracing::debug!(worker = %self.worker, %error, losses = self.losses, "the link to init broke");
        if self.linked.elapsed() >= Duration::from_secs(LINK_SECS_GOOD) {
            self.losses = 0;
        }
        self.losses += 1;
        // Init tells it again.
        self.later = Later::default();
        let hangs = matches!(error, LinkError::Silent { .. });
        let why = if self.losses > LINK_LOSSES_MAX || hangs {
            Outcome::WorkerLost(cut_message(format!("its init can't be spoken to: {error}")))
        } else {
            let runtime = self.shared.env.runtime.clone();
            let reached = async {
                let Link { mut link, hello } = worker::reach(&*runtime, &self.worker).await?;
                let from = recall_all(&mut link).await?;
                Ok::<_, Unreachable>((link, hello, from))
            };
            let kills: Vec<_> = self.flights.iter().map(|flight| flight.kill.clone()).collect();
            let reached = tokio::select! {
                biased;
                () = all_cancelled(&kills) => Err(Unreachable::Silent),
                reached = reached => reached,
            };
            match reached {
                Ok((link, hello, from)) => {
                    self.link = link;
                    self.linked = Instant::now();
                    self.recalling = false;
                    self.put_back(from, false).await;
                    self.go_on(&hello);
                    return false;
                }
                Err(error) => why_gone(&self.shared, &self.worker, &error).await,
            }
        };
        self.lose(why).await;
        true
    }

    /// The worker is gone, or as good as gone. The run that it began last has the worker's own ending; earlier ones had
    /// theirs, which is lost; later ones never began.
    async fn lose(&mut self, why: Outcome) {
        // An init that is still there begins nothing without an agent.
        self.link.close().await;
        let begun = self.shared.env.runtime.begun(&self.worker);
        // A task that shares its uid with init can change what init has noted, not what was heard.
        let heard =
            self.flights.iter().filter(|flight| flight.begun.is_some()).map(|flight| flight.run).max();
        let last = begun.map_or(u64::MAX, |begun| begun.run.max(heard.unwrap_or(0)));
        self.put_back(last.saturating_add(1), true).await;
        while let Some(flight) = self.flights.pop_front() {
            let outcome = match flight.run {
                run if run == last || self.flights.is_empty() && last == u64::MAX => why.clone(),
                _ => Outcome::WorkerLost("its ending was lost with its worker".into()),
            };
            let outcome = if flight.is_killed() { Outcome::Cancelled } else { outcome };
            self.ended = flight.run;
            self.reports.push(flight.lost(outcome).await);
        }
    }

    /// Waits until the endings that were handed on are in the outbox: until then, a worker that is still there keeps them.
    pub(super) async fn released(&mut self) {
        while self.released < self.ended {
            let mail = self.shared.with(|board, _| board.read_mail(self.id));
            self.released = self.released.max(mail.released);
            if self.released < self.ended {
                self.notify.notified().await;
            }
        }
    }

    /// Goes on over a new link: what init has told before is not told again.
    pub(super) fn go_on(&mut self, hello: &Hello) {
        if !hello.held.is_empty() {
            let offsets = self.flights.iter().map(|flight| {
                let [stdout, stderr] = flight.lengths();
                Offsets { run: flight.run, stdout, stderr }
            });
            self.link.resume(offsets.collect());
            // An acknowledgement that was lost with the old link could leave init without room for more. What was not
            // acknowledged before is not now: how an output ends depends on it.
            for flight in &self.flights {
                for (stream, length) in flight.acked_lengths() {
                    self.link.ack(flight.run, stream, length);
                }
            }
        }
        if self.released > 0 {
            self.link.release(self.released);
        }
        if hello.spent.is_some() {
            self.over.clone_from(&hello.spent);
        }
        let env = self.shared.env.clone();
        for held in &hello.held {
            let Some(flight) = self.flights.iter_mut().find(|flight| flight.run == held.run) else {
                continue;
            };
            if let HeldState::Running { stdin_bytes, .. } = held.state {
                // What was sent to init and did not arrive is read again.
                flight.begin(&env, stdin_bytes);
            }
            flight.kill_again(&mut self.link);
        }
    }
}
