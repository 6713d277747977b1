//! The pool: workers that are used again. Attempts wait on the *board*; *lanes*, each with a worker of its own, take them
//! from there, as many at a time as there are slots.
//!
//! A worker serves attempts of one project that need the same of it, one after another, for as long as its init finds it
//! clean. What its init is sent ahead of need keeps it busy without a word from here: nothing of an engine, and no round
//! trip, stands between one task and the next.

mod adopt;
mod board;
mod flight;
mod lane;
mod left_over;
mod made;
#[cfg(test)]
mod tests;
mod worker;

pub use adopt::{Adopted, adopt};
pub use worker::WorkerNames;

use crate::{
    attempt::Env,
    domain::{Assignment, AttemptKey, ImageSpec, Isolation, Outcome, Report, RunSpec, StdinFrom},
    runtime::WorkerId,
    supervisor::Input,
    sweep::REMOVALS_MAX,
};
use board::{Board, Do, Kill, LaneId};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use left_over::LeftOver;
use made::Spares;
use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

/// How often workers that were made ahead are looked at, in seconds.
const EXPIRE_EVERY_SECS: u64 = 10;

/// What a pool is made with.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// How many attempts run at a time, and how many workers may be idle.
    pub slots: usize,
    /// Makes workers ahead of need.
    pub makes_ahead: bool,
}

/// What all lanes share.
struct Shared {
    env: Arc<Env>,
    names: WorkerNames,
    slots: usize,
    makes_ahead: bool,
    board: Mutex<Board>,
    spares: Spares,
    left_over: LeftOver,
    tasks: Mutex<JoinSet<()>>,
}

/// The pool. Dropped, it leaves its workers as they are.
pub struct Pool {
    shared: Arc<Shared>,
    _expiry: AbortOnDropHandle<()>,
}

impl Pool {
    /// One without workers. Within a Tokio runtime.
    #[must_use]
    pub fn new(env: Arc<Env>, names: WorkerNames, config: PoolConfig) -> Self {
        let left_over = LeftOver::new(env.runtime.clone());
        let slots = config.slots.max(1);
        let shared = Arc::new(Shared {
            env,
            names,
            slots,
            makes_ahead: config.makes_ahead,
            board: Mutex::new(Board::new(slots, slots)),
            spares: Spares::default(),
            left_over,
            tasks: Mutex::default(),
        });
        let expiry = tokio::spawn(expire(shared.clone()));
        Self { shared, _expiry: AbortOnDropHandle::new(expiry) }
    }

    /// Starts attempts, in this order, as slots become free. One that is here already is not started again.
    pub fn start(&self, assignments: Vec<Assignment>) {
        self.shared.with(|board, to_do| board.add(assignments, to_do));
    }

    /// Goes on with what an earlier process of the agent started.
    pub fn adopt(&self, adopted: Adopted) {
        let Adopted { worker, attempts, link } = adopted;
        let (lane, kills) = self.shared.with(|board, _| board.adopt(&attempts, unknown()));
        let shared = self.shared.clone();
        let attempts =
            attempts.into_iter().zip(kills).map(|((run, attempt), kill)| (run, attempt, kill)).collect();
        self.shared.spawn_lane(lane, lane::run_adopted(shared, lane, worker, attempts, link));
    }

    /// Nothing begins any more: all that has not begun is handed back, and then that is told. What runs goes on.
    pub fn take_back(&self) {
        let (answer, mut answered) = mpsc::channel(1);
        let waiting = self.shared.with(|board, to_do| {
            let (waiting, lanes) = board.take_back(&answer);
            to_do.extend(lanes.into_iter().map(Do::Look));
            waiting
        });
        drop(answer);
        let shared = self.shared.clone();
        self.shared.spawn(async move {
            if !waiting.is_empty() {
                shared.not_begun(waiting).await;
            }
            // Nothing is ever sent: it ends when nobody owes an answer any more.
            let _ = answered.recv().await;
            // Without a core nobody needs to know.
            let _ = shared.env.inputs.send(Input::TakenBack).await;
        });
    }

    /// Removes what an earlier process of the agent left and nobody adopts, for as long as that takes: the engine may be slow.
    pub fn remove(&self, left_over: Vec<WorkerId>) {
        let shared = self.shared.clone();
        self.shared.spawn(async move {
            stream::iter(left_over).for_each_concurrent(REMOVALS_MAX, |worker| shared.discard(worker)).await;
        });
    }

    /// Kills one. It ends all the same.
    pub fn kill(&self, attempt: AttemptKey) {
        if let Kill::Waited = self.shared.with(|board, to_do| board.kill(attempt, to_do)) {
            let shared = self.shared.clone();
            let report = Report::without_output(attempt, Outcome::Cancelled);
            self.shared.spawn(async move {
                shared.end(vec![report]).await;
            });
        }
    }

    /// Their endings are kept elsewhere: init can forget them.
    pub fn release(&self, attempts: &[AttemptKey]) {
        self.shared.with(|board, to_do| {
            for attempt in attempts {
                let lane = board.release(*attempt).map(Do::Look);
                if lane != to_do.last().copied() {
                    to_do.extend(lane);
                }
            }
        });
    }

    /// Waits until the workers of all attempts that were released are gone, but not longer than `wait`. Others stay.
    pub async fn finish(self, wait: Duration) {
        let until = Instant::now() + wait;
        let shared = self.shared.clone();
        shared.with(|board, to_do| to_do.extend(board.close().into_iter().map(Do::Look)));
        for worker in shared.spares.close() {
            shared.discard_later(vec![worker]);
        }
        loop {
            let mut tasks = std::mem::take(&mut *shared.tasks.lock().unwrap_or_else(PoisonError::into_inner));
            if tasks.is_empty() {
                return;
            }
            while !tasks.is_empty() {
                if timeout_at(until, tasks.join_next()).await.is_err() {
                    tracing::warn!(
                        left = tasks.len(),
                        "workers are not gone yet; they are swept at the next start"
                    );
                    return;
                }
                if tasks.len() <= shared.with(|board, _| board.unreleased_lanes()) {
                    return;
                }
            }
        }
    }
}

impl Drop for Pool {
    /// The tasks hold what holds them: they would go on, and take the links from the next agent of this process.
    fn drop(&mut self) {
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// Stands for what the attempts of an adopted worker need, which is not known any more.
fn unknown() -> Arc<RunSpec> {
    Arc::new(RunSpec {
        project_name: String::new(),
        image: ImageSpec::Reference(String::new()),
        isolation: Isolation::Sealed,
        env: BTreeMap::new(),
        workdir: None,
        timeout: None,
        cpus_milli: None,
        memory_bytes: None,
        pids_max: None,
        network: false,
        output_bytes_max: 0,
        stdin: StdinFrom::Nothing,
    })
}

async fn expire(shared: Arc<Shared>) {
    loop {
        sleep(Duration::from_secs(EXPIRE_EVERY_SECS)).await;
        shared.discard_later(shared.spares.expire());
    }
}

impl Shared {
    /// Changes the board, and does what that calls for.
    fn with<T>(self: &Arc<Self>, change: impl FnOnce(&mut Board, &mut Vec<Do>) -> T) -> T {
        let mut to_do = Vec::new();
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut board, &mut to_do);
        for what in &to_do {
            if let Do::Look(lane) = what
                && let Some(notify) = board.notify(*lane)
            {
                notify.notify_one();
            }
        }
        drop(board);
        for what in to_do {
            if let Do::Open(lane, class) = what {
                let shared = self.clone();
                self.spawn_lane(lane, lane::run(shared, lane, class));
            }
        }
        result
    }

    fn is_closing(self: &Arc<Self>) -> bool {
        self.with(|board, _| board.is_closing())
    }

    /// Runs a task that ends with the pool.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Runs a lane. If that fails, what it was charged with has ended all the same, and its slot is free.
    fn spawn_lane(self: &Arc<Self>, id: LaneId, lane: impl Future<Output = ()> + Send + 'static) {
        let shared = self.clone();
        self.spawn(async move {
            if AssertUnwindSafe(lane).catch_unwind().await.is_err() {
                tracing::error!("a lane failed; its worker is swept at the next start");
                let why = || {
                    Outcome::WorkerLost(
                        "the agent failed while it ran the attempt; its log says where".into(),
                    )
                };
                let attempts = shared.with(|board, _| board.attempts_of(id));
                shared
                    .end(attempts.into_iter().map(|attempt| Report::without_output(attempt, why())).collect())
                    .await;
                shared.with(|board, to_do| board.leave(id, to_do));
            }
        });
    }

    /// Hands endings on; tells whether anybody takes them.
    async fn end(&self, reports: Vec<Report>) -> bool {
        if reports.is_empty() {
            return true;
        }
        self.env.inputs.send(Input::Ended(reports)).await.is_ok()
    }

    /// Hands back what has not begun.
    async fn not_begun(&self, assignments: Vec<Assignment>) -> bool {
        if assignments.is_empty() {
            return true;
        }
        self.env.inputs.send(Input::NotBegun(assignments)).await.is_ok()
    }

    /// What waits while nothing becomes free goes back to the core, which may hand it to somebody else.
    async fn return_stuck(self: &Arc<Self>) {
        let stuck = self.with(|board, _| board.take_stuck());
        self.not_begun(stuck).await;
    }

    /// Removes a worker, now or later.
    async fn discard(&self, worker: WorkerId) {
        if worker::discard(&*self.env.runtime, &worker).await.is_err() {
            self.left_over.add(worker);
        }
    }

    fn discard_later(self: &Arc<Self>, workers: Vec<WorkerId>) {
        for worker in workers {
            let shared = self.clone();
            self.spawn(async move { shared.discard(worker).await });
        }
    }
}
