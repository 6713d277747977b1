//! The driver: the one task that owns the coordinator's core.
//!
//! ```text
//!  commands ─▶ take all that wait ─▶ turn (core, broker) ─▶ commit, one transaction ─▶ send, answer, notify, start jobs
//!                     ▲                                          │ failed
//!                     └──── fold the core back from the store ◀──┘ (sessions are closed; agents dial again)
//! ```
//!
//! One task alone mutates, so that the core needs no lock and its order of things is the store's. While a commit waits for
//! the disk, commands gather, and the next transaction takes them all: durability costs one fsync a batch.

mod changes;
mod clock;
mod command;
mod handle;
mod turn;

pub use command::Removed;
pub use handle::{Assigned, DriverError, Handle, Outgoing, SessionReceiver, SessionSender};
pub use turn::turn;

use crate::{
    broker::{Broker, Brokers, Specs},
    coordinator::{Coordinator, Effects, Input, Job, Limits, Reply, SessionId, ToAgent},
    domain::{AttemptKey, CoordinatorEpoch, Item, ProjectId},
    pace::Pace,
    reassemble::JobError,
    store::{Store, StoreError, Write},
};
use async_trait::async_trait;
use changes::Changes;
use clock::Clock;
use command::{Command, Waiters};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

/// How many commands may wait for the driver; whoever sends more waits.
const COMMANDS_MAX: usize = 4096;
/// How many commands one turn takes at the most.
const TURN_COMMANDS_MAX: usize = 1024;
/// How far apart commits are while there are many: each costs a synchronisation of the disk and a message to each agent,
/// whatever is in it, so turns are given time to grow.
const COMMIT_EVERY: Duration = Duration::from_millis(20);
/// With fewer writes in one, an agent may be waiting for each.
const PACED_WRITES_MIN: usize = 16;
/// How many commits may come at once before they are many.
const COMMITS_AT_ONCE: u32 = 16;
/// How many jobs run at a time; others wait.
const JOBS_MAX: usize = 4;
/// How long to wait before a failed store is asked again.
const RECOVERY_PAUSE: Duration = Duration::from_millis(200);
/// How long a job that a passing fault has stopped waits before its next try: longer each time, up to the second.
const JOB_PAUSE_MIN: Duration = Duration::from_secs(1);
const JOB_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often leases are looked at, at the least; more often for short leases.
const TICK_MAX: Duration = Duration::from_millis(500);
/// And not more often than this.
const TICK_MIN: Duration = Duration::from_millis(10);
/// So many ticks at a time count for the core; if more passed since the last turn, the driver was held up.
const CLOCK_TICKS_MAX: u32 = 3;

/// Work that is too long for a turn. Safe to start again after a crash.
#[async_trait]
pub trait Jobs: Send + Sync + 'static {
    /// Turns the split task's output into items; returns how many.
    async fn split(&self, project: ProjectId) -> Result<u32, JobError>;

    /// Makes the result of a project that reassembles by a built-in way.
    async fn reassemble(&self, project: ProjectId) -> Result<(), JobError>;
}

/// The running driver.
#[derive(Debug)]
pub struct Running {
    task: JoinHandle<String>,
}

impl Running {
    /// Waits until the driver can't go on, and says why.
    pub async fn failed(&mut self) -> String {
        match (&mut self.task).await {
            Ok(why) => why,
            Err(error) => format!("the driver crashed: {error}"),
        }
    }

    /// Stops it. What was answered is durable.
    pub fn stop(&self) {
        self.task.abort();
    }
}

/// Starts the driver in the reign of `epoch`.
pub fn start(
    store: Arc<dyn Store>,
    jobs: Arc<dyn Jobs>,
    brokers: Brokers,
    epoch: CoordinatorEpoch,
    limits: Limits,
) -> (Handle, Running) {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let changes = Changes::default();
    let handle = Handle {
        epoch,
        commands: sender.clone(),
        changes: changes.clone(),
        sessions: Arc::new(AtomicU64::new(1)),
    };
    let driver = Driver {
        store,
        jobs,
        brokers,
        jobs_running: Arc::new(Semaphore::new(JOBS_MAX)),
        jobs_started: HashSet::new(),
        epoch,
        commands,
        // Weak: when the last handle is gone, the driver ends.
        sender: sender.downgrade(),
        changes,
        waiters: Waiters::default(),
        sessions: BTreeMap::new(),
        specs: HashMap::new(),
        clock: Clock::new(Instant::now(), tick_period(&limits) * CLOCK_TICKS_MAX),
        limits,
    };
    (handle, Running { task: tokio::spawn(driver.run()) })
}

struct Driver {
    store: Arc<dyn Store>,
    jobs: Arc<dyn Jobs>,
    brokers: Brokers,
    jobs_running: Arc<Semaphore>,
    /// Jobs whose end has not been heard: a core that is folded back starts none of them a second time.
    jobs_started: HashSet<Job>,
    epoch: CoordinatorEpoch,
    limits: Limits,
    commands: mpsc::Receiver<Command>,
    sender: mpsc::WeakSender<Command>,
    changes: Changes,
    waiters: Waiters,
    sessions: BTreeMap<SessionId, mpsc::Sender<Outgoing>>,
    /// The active projects' documents, for assignments.
    specs: Specs,
    clock: Clock,
}

/// When to look at the leases: once the time has come *and* every command that waited then was handled, so that whoever was
/// heard in time is heard before its lease ends, and a busy queue can't put it off for ever.
struct Ticks {
    period: Duration,
    next: tokio::time::Instant,
    /// How many commands that waited when the time came are not handled yet.
    waiting: Option<usize>,
}

impl Ticks {
    fn new(period: Duration) -> Self {
        Self { period, next: tokio::time::Instant::now() + period, waiting: None }
    }

    /// Notes that some commands were taken and others still wait; says whether this turn ends with a tick.
    fn take(&mut self, taken: usize, still_waiting: usize) -> bool {
        let now = tokio::time::Instant::now();
        let waiting = match self.waiting {
            Some(waiting) => waiting.saturating_sub(taken),
            None if now >= self.next => still_waiting,
            None => return false,
        };
        self.waiting = (waiting > 0).then_some(waiting);
        if waiting == 0 {
            self.next = now + self.period;
        }
        waiting == 0
    }
}

fn tick_period(limits: &Limits) -> Duration {
    (limits.lease / 10).clamp(TICK_MIN, TICK_MAX)
}

/// Why a reign over one folded core ended.
enum End {
    /// The commit failed: fold back.
    Fold,
    /// There is no going on.
    Stop(String),
}

impl Driver {
    async fn run(mut self) -> String {
        loop {
            let snapshot = match self.store.load().await {
                Ok(snapshot) => snapshot,
                Err(error @ (StoreError::Closed | StoreError::Damaged(_))) => return error.to_string(),
                Err(error) => {
                    tracing::error!(%error, "the store can't be read; trying again");
                    tokio::time::sleep(RECOVERY_PAUSE).await;
                    continue;
                }
            };
            self.specs = snapshot.projects.iter().map(|project| (project.id, project.spec.clone())).collect();
            let (core, fx) =
                Coordinator::fold(self.epoch, snapshot, self.limits.clone(), self.clock.read(Instant::now()));
            self.perform(fx, Vec::new());
            self.changes.notify_all();
            match self.reign(core, self.brokers.open()).await {
                End::Stop(why) => return why,
                End::Fold => {
                    for (_, sender) in std::mem::take(&mut self.sessions) {
                        // If the stream's buffer is full, its end says enough.
                        let _ = sender.try_send(Outgoing::Close("the coordinator is recovering".to_owned()));
                    }
                    self.waiters.refuse_all(DriverError::Recovering);
                    tokio::time::sleep(RECOVERY_PAUSE).await;
                }
            }
        }
    }

    /// Takes turns until one fails.
    async fn reign(&mut self, mut core: Coordinator, mut broker: Box<dyn Broker>) -> End {
        let mut ticks = Ticks::new(tick_period(&self.limits));
        let mut commands = Vec::with_capacity(TURN_COMMANDS_MAX);
        let (mut pace, mut not_before) = (Pace::new(COMMIT_EVERY, COMMITS_AT_ONCE), None);
        loop {
            if let Some(at) = not_before.take() {
                tokio::time::sleep_until(at).await;
            }
            let taken = tokio::select! {
                // Commands that wait before timers, as ever.
                biased;
                taken = self.commands.recv_many(&mut commands, TURN_COMMANDS_MAX) => match taken {
                    0 => return End::Stop("every handle is gone".to_owned()),
                    taken => taken,
                },
                () = self.brokers.arrived() => 0,
                () = tokio::time::sleep_until(ticks.next) => 0,
            };
            let ticked = ticks.take(taken, self.commands.len());
            let mut inputs: Vec<_> = commands
                .drain(..)
                .map(|command| command.into_input(&mut self.waiters, &mut self.sessions))
                .collect();
            if ticked {
                inputs.push(Input::Tick);
            }
            for input in &inputs {
                match input {
                    Input::Submit { project, .. } => {
                        self.specs.insert(project.id, project.spec.clone());
                    }
                    Input::SplitDone { project, .. } => {
                        self.jobs_started.remove(&Job::Split(*project));
                    }
                    Input::ReassembleDone { project, .. } => {
                        self.jobs_started.remove(&Job::Reassemble(*project));
                    }
                    _ => {}
                }
            }
            let mut fx = turn(&mut core, &mut *broker, &self.specs, inputs, self.clock.read(Instant::now()));
            let writes = std::mem::take(&mut fx.writes);
            if !writes.is_empty() {
                let next = pace.next(tokio::time::Instant::now());
                not_before = next.filter(|_| writes.len() >= PACED_WRITES_MIN);
            }
            let ended: Vec<_> = writes.iter().filter_map(ended_project).collect();
            let items = if writes.is_empty() {
                Vec::new()
            } else {
                match self.store.commit(self.epoch, writes).await {
                    Ok(committed) => committed.items,
                    Err(
                        error @ (StoreError::Fenced { .. } | StoreError::Closed | StoreError::Damaged(_)),
                    ) => {
                        self.waiters.refuse_all(DriverError::Stopped);
                        return End::Stop(error.to_string());
                    }
                    Err(error) => {
                        tracing::error!(%error, "a commit failed; folding back from the store");
                        return End::Fold;
                    }
                }
            };
            broker.ack(&fx.acks);
            if let Some(deliveries_max) = fx.prefetch {
                broker.prefetch(deliveries_max);
            }
            if !fx.publish.is_empty() {
                broker.publish(std::mem::take(&mut fx.publish), &self.specs);
            }
            self.perform(fx, items);
            for project in ended {
                self.specs.remove(&project);
            }
        }
    }

    /// Performs what may happen after the commit.
    fn perform(&mut self, fx: Effects, items: Vec<(AttemptKey, Item)>) {
        let mut items: HashMap<_, _> = items.into_iter().collect();
        for (session, message) in fx.sends {
            let outgoing = match message {
                ToAgent::Assign(attempts) => Outgoing::Assign(
                    attempts
                        .into_iter()
                        .filter_map(|attempt| {
                            let spec = self.specs.get(&attempt.task.project)?.clone();
                            Some(Assigned { attempt, spec, item: items.remove(&attempt) })
                        })
                        .collect(),
                ),
                message => Outgoing::Message(message),
            };
            self.send(session, outgoing);
        }
        for (session, why) in fx.closes {
            tracing::warn!(session = session.0, why, "session closed");
            self.send(session, Outgoing::Close(why));
            self.sessions.remove(&session);
        }
        for warning in fx.warnings {
            tracing::warn!("{warning}");
        }
        for (id, reply) in fx.replies {
            let reply = match (reply, self.brokers.trouble()) {
                (Reply::Waiting(_), Some(trouble)) => Reply::Waiting(Some(trouble)),
                (reply, _) => reply,
            };
            self.waiters.answer(id, reply);
        }
        self.changes.notify(&fx.changed);
        for job in fx.jobs {
            self.start_job(job);
        }
    }

    /// A session whose buffer is full is dropped: the stream ends, and the agent dials again.
    fn send(&mut self, session: SessionId, outgoing: Outgoing) {
        let Some(sender) = self.sessions.get(&session) else { return };
        if sender.try_send(outgoing).is_err() {
            tracing::warn!(
                session = session.0,
                "an agent reads too slowly, or is gone: its session is closed"
            );
            self.sessions.remove(&session);
            if let Some(commands) = self.sender.upgrade() {
                // Not in this turn: the core hears of it like of any stream that ended.
                tokio::spawn(async move {
                    commands.send(Command::Input(Input::SessionClosed { session })).await.is_ok()
                });
            }
        }
    }

    fn start_job(&mut self, job: Job) {
        let Some(commands) = self.sender.upgrade() else { return };
        if !self.jobs_started.insert(job) {
            return;
        }
        let (jobs, running) = (self.jobs.clone(), self.jobs_running.clone());
        tokio::spawn(async move {
            let mut pause = JOB_PAUSE_MIN;
            let done = loop {
                let Ok(place) = running.acquire().await else { return };
                let why = match run_job(&*jobs, job).await {
                    Ok(done) => break done,
                    Err(why) => why,
                };
                drop(place);
                tracing::warn!(?job, why, "a job is put off");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(JOB_PAUSE_MAX);
                if commands.is_closed() {
                    return;
                }
            };
            // If the driver has stopped, the next coordinator starts the job again.
            let _ = commands.send(Command::Input(done)).await;
        });
    }
}

/// Runs a job to its end; gives back why it must be tried again.
async fn run_job(jobs: &dyn Jobs, job: Job) -> Result<Input, String> {
    fn ended<T>(result: Result<T, JobError>) -> Result<Result<T, String>, String> {
        match result {
            Ok(done) => Ok(Ok(done)),
            Err(JobError::Wrong(why)) => Ok(Err(why)),
            Err(JobError::Passing(why)) => Err(why),
        }
    }
    Ok(match job {
        Job::Split(project) => Input::SplitDone { project, items: ended(jobs.split(project).await)? },
        Job::Reassemble(project) => {
            Input::ReassembleDone { project, result: ended(jobs.reassemble(project).await)? }
        }
    })
}

/// The project that a write ends, if it does.
fn ended_project(write: &Write) -> Option<ProjectId> {
    match write {
        Write::MoveProject { project, state, .. } if state.is_ended() => Some(*project),
        _ => None,
    }
}
