//! Boot as a list: lock the data directory, open the outbox, choose the runtime, adopt or sweep what is left over,
//! dial the coordinator, and stop in the reverse order.

mod choice;
mod hands;
mod host;
mod identity;

use crate::{
    attempt::{Env, FOLLOWS_MAX},
    blocking::blocking,
    credentials::{Credentials, CredentialsError},
    domain::AttemptKey,
    outbox::{Opened, Outbox, OutboxError},
    pool::{Adopted, Pool, PoolConfig, WorkerNames, adopt},
    readiness::Readiness,
    runtime::{Runtime, RuntimeKind, WorkerId},
    session::{BLOBS_BYTES_MAX, BlobCache, Coordinator, CoordinatorStdin, Dialer, Followers, Lines, Uploads},
    supervisor::{
        Core, CoreConfig, Input, Stop,
        driver::{Driven, Driver, INPUTS_MAX},
    },
    sweep::{left_over, sweep},
    wire::HelloFacts,
};
use choice::Chosen;
use hands::AgentHands;
use identity::AgentId;
use piecework_proto::{address::Address, token::Token};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long a stop waits for the core, which bounds its own waits, in seconds.
const STOP_SECS: u64 = 30;

/// How long a stop waits for workers to be gone, in seconds.
const DISCARD_SECS: u64 = 15;

/// And how long one that leaves what runs to its workers waits for the others to be gone, in seconds.
const LEAVE_DISCARD_SECS: u64 = 1;

/// Which runtime to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// Docker if an engine answers, else plain processes. For the one-machine mode.
    Auto,
    /// Docker.
    Docker,
    /// Plain child processes, with the same init.
    Process,
    /// Scripted endings, for tests.
    Scripted,
}

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Holds the outbox, sockets of workers and the lock; made with mode 0700 if missing.
    pub data: PathBuf,
    /// Where the coordinator is.
    pub server: Address,
    /// What to join it with over TCP. Not needed any more once it has joined.
    pub join: Option<Token>,
    /// Its name; none means the host's.
    pub name: Option<String>,
    /// How many attempts at a time; none means one for each processor that is offered.
    pub slots: Option<u32>,
    /// The processors that attempts may ask for together, in thousandths; none means the host's.
    pub cpus_milli: Option<u32>,
    /// The memory that attempts may ask for together; none means the host's.
    pub memory_bytes: Option<u64>,
    /// Its runtime.
    pub runtime: RuntimeChoice,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Why an agent did not start. For people; says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another agent holds the data directory.
    #[error("another agent is running on {}", .0.display())]
    Locked(PathBuf),
    /// A path can't be used.
    #[error("can't use {path}: {source}", path = .path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The runtime asked for can't be used.
    #[error("{0}")]
    Runtime(String),
    /// It can't join the coordinator.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The outbox can't be opened.
    #[error("the outbox in {path} can't be opened: {message}", path = .path.display())]
    Outbox {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// Why an agent ended by itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The coordinator knows it no more.
    #[error("the coordinator has sent this agent away: {0}; to have it back, remove {path} and let it join anew", path = .1.display())]
    Removed(String, PathBuf),
    /// It can't go on.
    #[error("the agent's driver has ended; its log says why")]
    Broken,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("runtime", &self.kind).finish_non_exhaustive()
    }
}

/// A running agent. Dropped, it ends as if it were killed: its workers live on, and the next agent on the same data
/// directory adopts them.
pub struct Agent {
    kind: RuntimeKind,
    why_not_docker: Option<String>,
    inputs: mpsc::Sender<Input>,
    driver: AbortOnDropHandle<Driven<AgentHands>>,
    dialer: AbortOnDropHandle<()>,
    removed: watch::Receiver<Option<String>>,
    joined_in: PathBuf,
    stop: CancellationToken,
    runtime: Arc<dyn Runtime>,
    _tasks: Vec<AbortOnDropHandle<()>>,
    /// Held for as long as the agent lives.
    _lock: File,
}

impl Agent {
    /// Starts one. Returns when it is trying to reach the coordinator; one that has not joined yet, when it has.
    ///
    /// # Errors
    /// If its data directory or its runtime can't be used, or the coordinator does not let it join.
    pub async fn start(config: AgentConfig) -> Result<Self, StartError> {
        let lock = identity::lock(&config.data)?;
        let id = identity::agent_id(&config.data)?;
        let chosen = choice::choose(config.runtime, &config.data, id.short()).await?;
        Self::start_on(config, lock, id, chosen).await
    }

    /// Starts one on a runtime that is there already.
    ///
    /// # Errors
    /// If its data directory can't be used, or the runtime can't list its workers.
    pub async fn start_with(config: AgentConfig, runtime: Arc<dyn Runtime>) -> Result<Self, StartError> {
        let lock = identity::lock(&config.data)?;
        let id = identity::agent_id(&config.data)?;
        Self::start_on(config, lock, id, Chosen { runtime, why_not_docker: None }).await
    }

    async fn start_on(
        config: AgentConfig,
        lock: File,
        id: AgentId,
        Chosen { runtime, why_not_docker }: Chosen,
    ) -> Result<Self, StartError> {
        let AgentConfig { data, server, join, name, slots, cpus_milli, memory_bytes, labels, .. } = config;
        let Opened { outbox, reports, damaged } = open_outbox(data.join("outbox")).await?;
        for damaged in damaged {
            tracing::error!(attempt = damaged.attempt, "an ending in the outbox is lost: {}", damaged.why);
        }

        let in_outbox = reports.iter().map(|report| report.attempt).collect();
        let (adopted, left_over) = adopt_workers(&*runtime, &in_outbox).await?;
        let live: Vec<AttemptKey> =
            adopted.iter().flat_map(|adopted| &adopted.attempts).map(|(_, attempt)| *attempt).collect();
        match outbox.remove_orphans(&reports, &live) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed spool files of no attempt"),
            Err(error) => tracing::warn!(%error, "the spool can't be tidied"),
        }

        let name = name.unwrap_or_else(host::name);
        let credentials = match &server {
            Address::Socket(_) => None,
            Address::Tls { .. } => Some(Credentials::open(&data, &server, &name, join).await?),
        };
        let cpus_milli = cpus_milli.unwrap_or_else(|| host::processors().saturating_mul(1000));
        let slots = slots.unwrap_or_else(|| cpus_milli.div_ceil(1000)).max(1);
        let facts = HelloFacts {
            name: credentials.as_ref().map_or(name, Credentials::name),
            identity: id.long().to_owned(),
            instance: identity::instance()?,
            slots,
            runtime: runtime_name(runtime.kind()),
            labels,
            cpus_milli,
            memory_bytes: memory_bytes.unwrap_or_else(host::memory_bytes),
        };
        let coordinator = {
            let credentials = credentials.clone();
            Coordinator::new(server, move || credentials.as_ref().map(Credentials::tls))
        };
        let lines = Lines::new(facts);
        let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
        let (follows, growing) = mpsc::channel(FOLLOWS_MAX);
        let blobs_dir = data.join("blobs");
        let blobs = BlobCache::open(coordinator.bulk(), blobs_dir.clone(), BLOBS_BYTES_MAX)
            .map_err(identity::failed(&blobs_dir))?;
        let readiness = Readiness::new(runtime.clone(), data.clone(), inputs.clone());
        let env = Env {
            runtime: runtime.clone(),
            blobs: Arc::new(blobs),
            stdin: Arc::new(CoordinatorStdin::new(coordinator.bulk())),
            spool: outbox.spool().clone(),
            inputs: inputs.clone(),
            readiness: readiness.clone(),
            follows,
        };
        let pool = PoolConfig {
            slots: usize::try_from(slots).unwrap_or(usize::MAX),
            makes_ahead: runtime.kind() == RuntimeKind::Docker,
        };
        let hands = AgentHands {
            pool: Pool::new(Arc::new(env), WorkerNames::new(id.short().to_owned()), pool),
            uploads: Uploads::new(coordinator.bulk(), outbox.spool().clone(), inputs.clone()),
            lines: lines.clone(),
        };
        let core = Core::new(CoreConfig::new(slots), live, reports);
        for adopted in adopted {
            hands.pool.adopt(adopted);
        }
        hands.pool.remove(left_over);

        let stop = CancellationToken::new();
        let driver = Driver::new(core, Arc::new(outbox), hands, receiver);
        let followers = Followers::new(coordinator.bulk(), growing);
        let joined_in = Credentials::path(&data);
        let mut tasks = vec![spawn(followers.run()), spawn(readiness.watch())];
        tasks.extend(credentials.map(|credentials| spawn(credentials.renew_in_time(coordinator.clone()))));
        let (sent_away, removed) = watch::channel(None);
        let dialer = Dialer::new(coordinator, lines, inputs.clone(), stop.clone(), sent_away);
        Ok(Self {
            kind: runtime.kind(),
            why_not_docker,
            inputs,
            driver: spawn(driver.run()),
            dialer: spawn(dialer.run()),
            removed,
            joined_in,
            stop,
            runtime,
            _tasks: tasks,
            _lock: lock,
        })
    }

    /// The runtime in use. With [`RuntimeChoice::Auto`], tells what was chosen.
    #[must_use]
    pub fn runtime(&self) -> RuntimeKind {
        self.kind
    }

    /// With [`RuntimeChoice::Auto`] and no Docker: why not, in one line.
    #[must_use]
    pub fn why_not_docker(&self) -> Option<&str> {
        self.why_not_docker.as_deref()
    }

    /// Waits until it has to end by itself, which it does only when it can't go on; says why.
    pub async fn failed(&self) -> Failure {
        let mut removed = self.removed.clone();
        let sent_away = async {
            match removed.wait_for(Option::is_some).await {
                Ok(why) => Failure::Removed(why.clone().unwrap_or_default(), self.joined_in.clone()),
                // The dialer has ended: it is being stopped.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.inputs.closed() => Failure::Broken,
            why = sent_away => why,
        }
    }

    /// Lets what runs end, for as long as `grace`; nothing new is started. To be followed by [`Agent::shutdown`], which may
    /// also hurry it.
    pub async fn drain(&self, grace: Duration) {
        // Without a driver there is nothing to stop.
        let _ = self.inputs.send(Input::Stop(Stop::Drain(grace))).await;
        let _ = timeout(grace, self.inputs.closed()).await;
    }

    /// Stops it: running attempts are killed and handed back, their workers are removed.
    pub async fn shutdown(self) {
        self.stop(Stop::Drain(Duration::ZERO)).await;
    }

    /// Ends it, and leaves what runs to its workers: the next agent on the same data directory adopts them, within the lease.
    pub async fn leave(self) {
        self.stop(Stop::Leave).await;
    }

    async fn stop(self, how: Stop) {
        // Who leaves is to be back within the lease: what is left over, the next start sweeps.
        let wait = Duration::from_secs(if how == Stop::Leave { LEAVE_DISCARD_SECS } else { DISCARD_SECS });
        // Without a driver there is nothing to stop.
        let _ = self.inputs.send(Input::Stop(how)).await;
        let driven = timeout(Duration::from_secs(STOP_SECS), self.driver).await;
        self.stop.cancel();
        let all_committed = match driven {
            Ok(Ok(Driven { hands: AgentHands { pool, .. }, all_committed })) => {
                // What was handed back is on its way while the workers go.
                let _ = tokio::join!(self.dialer, pool.finish(wait));
                all_committed
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the agent's driver failed");
                false
            }
            Err(_) => {
                tracing::error!("the agent's driver did not stop in {STOP_SECS} s");
                false
            }
        };
        if how == Stop::Leave {
            return;
        }
        if all_committed {
            let nobody = BTreeSet::new();
            let swept = timeout(Duration::from_secs(DISCARD_SECS), sweep(&*self.runtime, &nobody)).await;
            if !matches!(swept, Ok(Ok(_))) {
                tracing::warn!("workers may be left over; they are swept at the next start");
            }
        } else {
            tracing::warn!(
                "workers keep what is not in the outbox; the next agent on this directory adopts them"
            );
        }
    }
}

fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

async fn open_outbox(dir: PathBuf) -> Result<Opened, StartError> {
    let path = dir.clone();
    let opened = blocking(move || {
        std::fs::create_dir_all(&dir).map_err(|source| OutboxError::File { path: dir.clone(), source })?;
        Outbox::open(&dir)
    });
    opened.await.map_err(|error| StartError::Outbox { path, message: error.to_string() })
}

/// Adopts what lives; the rest is left over.
async fn adopt_workers(
    runtime: &dyn Runtime,
    in_outbox: &BTreeSet<AttemptKey>,
) -> Result<(Vec<Adopted>, Vec<WorkerId>), StartError> {
    let failed = |error| StartError::Runtime(format!("left-over workers can't be listed: {error}"));
    let adopted = adopt(runtime, in_outbox).await.map_err(failed)?;
    let kept: BTreeSet<WorkerId> = adopted.iter().map(|adopted| adopted.worker.clone()).collect();
    let left_over = left_over(runtime, &kept).await.map_err(failed)?;
    Ok((adopted, left_over))
}

const fn runtime_name(kind: RuntimeKind) -> &'static str {
    match kind {
        RuntimeKind::Docker => "docker",
        RuntimeKind::Process => "process",
        RuntimeKind::Scripted => "scripted",
    }
}
