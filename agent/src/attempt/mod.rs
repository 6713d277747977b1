//! Attempts: each runs in a task of its own, from its start or its adoption until its worker is gone.
//!
//! ```text
//!  start ─▶ image ─▶ worker ─▶ link to init ─▶ run ─▶ output … ─▶ exit ─▶ Ended ─▶ (in the outbox) ─▶ release ─▶ discard
//!  adopt ────────────────────────┘  ▲                │
//!                                   └─ link broke ◀──┘ and can't be had again: out of memory, worker lost, engine lost
//! ```
//!
//! An attempt holds at most 32 KiB of each output in memory, beside what one frame and one chunk of stdin come to. What is
//! acknowledged to init is in a spool file, so that it outlives this process.

mod adopt;
mod left_over;
pub mod output;
mod pump;
mod run;
pub mod stdin;
mod worker;

pub use adopt::{Adopted, adopt};
pub use worker::WorkerNames;

use crate::{
    domain::{Assignment, AttemptKey, Outcome, OutputStream},
    outbox::{OutboxError, Spool},
    runtime::{Blobs, Runtime},
    supervisor::Input,
};
use futures_util::FutureExt as _;
use left_over::LeftOver;
use output::{Growing, Sink};
use run::{Origin, Run};
use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use stdin::StdinSource;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// How many outputs wait to be followed, in outputs. More are not followed.
pub const FOLLOWS_MAX: usize = 256;

/// How long init may take to hear that it is released, in seconds.
const RELEASE_SECS: u64 = 2;

/// What all attempts need.
pub struct Env {
    /// What workers are made of.
    pub runtime: Arc<dyn Runtime>,
    /// Where files for images come from.
    pub blobs: Arc<dyn Blobs>,
    /// Where stdin comes from.
    pub stdin: Arc<dyn StdinSource>,
    /// Where long output goes.
    pub spool: Spool,
    /// What workers are called.
    pub names: WorkerNames,
    /// Whom endings are told.
    pub inputs: mpsc::Sender<Input>,
    /// Whom output is told that can be followed.
    pub follows: mpsc::Sender<Growing>,
}

impl Env {
    fn sink(&self, attempt: AttemptKey, stream: OutputStream, kill: &CancellationToken) -> Sink {
        Sink::new(self.spool.clone(), attempt, stream, kill.clone())
    }

    async fn resumed_sinks(
        &self,
        attempt: AttemptKey,
        kill: &CancellationToken,
    ) -> Result<(Sink, Sink), OutboxError> {
        Ok((
            Sink::resume(self.spool.clone(), attempt, OutputStream::Stdout, kill.clone()).await?,
            Sink::resume(self.spool.clone(), attempt, OutputStream::Stderr, kill.clone()).await?,
        ))
    }

    /// Following is a courtesy: it never makes an attempt wait.
    fn follow(&self, growing: Growing) {
        if let Err(error) = self.follows.try_send(growing) {
            tracing::debug!(%error, "an output is not followed");
        }
    }
}

/// How a running attempt is spoken to.
struct Control {
    kill: CancellationToken,
    release: CancellationToken,
}

/// All attempts that run, or whose worker is not gone yet. Dropped, it leaves their workers as they are.
pub struct Attempts {
    env: Arc<Env>,
    controls: BTreeMap<AttemptKey, Control>,
    tasks: JoinSet<()>,
    left_over: LeftOver,
}

impl Attempts {
    /// None. Within a Tokio runtime.
    #[must_use]
    pub fn new(env: Arc<Env>) -> Self {
        let left_over = LeftOver::new(env.runtime.clone());
        Self { env, left_over, controls: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Starts one. One that runs already is not started again.
    pub fn start(&mut self, assignment: Assignment) {
        self.begin(assignment.attempt, Origin::Start(assignment));
    }

    /// Goes on with one that an earlier process of the agent started.
    pub fn adopt(&mut self, adopted: Adopted) {
        self.begin(adopted.attempt, Origin::Adopted(adopted.link.map(Box::new)));
    }

    fn begin(&mut self, attempt: AttemptKey, origin: Origin) {
        while self.tasks.try_join_next().is_some() {}
        if self.controls.contains_key(&attempt) {
            tracing::error!(%attempt, "an attempt was to be started twice");
            return;
        }
        let control = Control { kill: CancellationToken::new(), release: CancellationToken::new() };
        let (kill, release) = (control.kill.clone(), control.release.clone());
        self.controls.insert(attempt, control);
        self.tasks.spawn(live(self.env.clone(), attempt, origin, kill, release, self.left_over.clone()));
    }

    /// Kills one. It ends all the same.
    pub fn kill(&self, attempt: AttemptKey) {
        if let Some(control) = self.controls.get(&attempt) {
            control.kill.cancel();
        }
    }

    /// Its ending is kept elsewhere: its worker can go.
    pub fn release(&mut self, attempt: AttemptKey) {
        if let Some(control) = self.controls.remove(&attempt) {
            control.release.cancel();
        }
    }

    /// Waits until the workers of all released attempts are gone, but not longer than `wait`. Workers of others stay.
    pub async fn finish(mut self, wait: Duration) {
        let until = Instant::now() + wait;
        while self.tasks.len() > self.controls.len() {
            match timeout_at(until, self.tasks.join_next()).await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    tracing::warn!(
                        left = self.tasks.len(),
                        "workers are not gone yet; they are swept at the next start"
                    );
                    break;
                }
            }
        }
    }
}

async fn live(
    env: Arc<Env>,
    attempt: AttemptKey,
    origin: Origin,
    kill: CancellationToken,
    release: CancellationToken,
    left_over: LeftOver,
) {
    let adopted = matches!(origin, Origin::Adopted(_));
    tracing::debug!(%attempt, adopted, "attempt begins");
    let run = AssertUnwindSafe(Run::run(env.clone(), attempt, origin, kill)).catch_unwind();
    let (report, sender) = run.await.unwrap_or_else(|_| {
        let why = "the agent failed while it ran the attempt; its log says where";
        (run::lost(attempt, Outcome::WorkerLost(why.into())), None)
    });
    tracing::debug!(%attempt, outcome = ?report.outcome, "attempt ended");
    if env.inputs.send(Input::Ended(vec![report])).await.is_err() {
        // The driver is gone, and nobody keeps the ending but init.
        return;
    }
    release.cancelled().await;
    if let Some(mut sender) = sender {
        // Init is about to go with its worker: whether it hears this changes nothing.
        let _ = tokio::time::timeout(Duration::from_secs(RELEASE_SECS), sender.release()).await;
    }
    let worker = env.names.worker(attempt);
    if worker::discard(&*env.runtime, &worker).await.is_err() {
        left_over.add(worker);
    }
}
