//! Runtimes: what workers are made of. One seam, three implementations.
//!
//! The contract, in call order:
//!
//! 1. [`Runtime::ready`] at any time; cheap; says whether workers can be made now.
//! 2. [`Runtime::prepare`] makes an image usable. Concurrent calls for one image do the work once.
//! 3. [`Runtime::create`] makes and starts a worker, and returns a connection to the init in it. When it returns an
//!    error, something may be left over: the worker is to be discarded then, too.
//! 4. [`Runtime::note`] before runs are sent to a worker: which attempts they are, for an agent that comes later.
//! 5. [`Runtime::connect`] opens another connection to the init of a worker, also of one that an earlier agent process
//!    created. init serves one connection; a newer one replaces the older.
//! 6. [`Runtime::begun`] and [`Runtime::why_gone`] when a connection ended and can't be had again: which run was begun last,
//!    and what became of the worker. Both hold for a worker that is gone, until it is discarded.
//! 7. [`Runtime::discard`] removes a worker, running or not, with all that is in it. Safe to repeat, and for a worker that
//!    never was.
//!
//! All methods may be called concurrently. Nothing of an engine stands between 3 and 7: tasks are spawned, fed, killed and
//! waited for over the connection alone.

pub mod docker;
mod init_binary;
mod place;
pub mod process;
pub mod scripted;

use crate::domain::{AttemptKey, ImageSpec, Isolation, RunSpec};
use async_trait::async_trait;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to an init.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Names a worker of this agent: unique among all agents of the host, fit for file and container names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub String);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An image that workers can be made from now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedImage {
    /// What the runtime knows it by: an image id, or a directory.
    pub handle: String,
    /// Variables that the image sets.
    pub env: Vec<(String, String)>,
    /// The image's working directory.
    pub workdir: Option<PathBuf>,
    /// Directories that the image declares as volumes.
    pub volumes: Vec<PathBuf>,
}

/// Everything that a worker is made from. A worker serves the attempts that need just this, so whatever a runtime makes of
/// a project must come from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerShape {
    /// Its image.
    pub image: Arc<PreparedImage>,
    /// What tasks may do in it, and whether there is a second one.
    pub isolation: Isolation,
    /// Processors in thousandths; none means no limit of its own.
    pub cpus_milli: Option<u32>,
    /// Memory; none means no limit of its own.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
    /// The engine's default bridge instead of loopback only.
    pub network: bool,
    /// The directory that tasks start in, which is to be writable.
    pub workdir: Option<PathBuf>,
}

impl WorkerShape {
    /// What attempts of this spec need.
    #[must_use]
    pub fn new(image: Arc<PreparedImage>, run: &RunSpec) -> Self {
        Self {
            workdir: run.workdir.clone().or_else(|| image.workdir.clone()),
            image,
            isolation: run.isolation,
            cpus_milli: run.cpus_milli,
            memory_bytes: run.memory_bytes,
            pids_max: run.pids_max,
            network: run.network,
        }
    }
}

/// A worker to make.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// Its name.
    pub id: WorkerId,
    /// What it is made from.
    pub shape: Arc<WorkerShape>,
}

/// What is known of a worker that can't be spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// The number of the run that was begun last; 0 if none was.
    pub run: u64,
    /// Those up to it that were noted, and not noted as released, in order.
    pub attempts: Vec<(u64, AttemptKey)>,
}

/// Why an image can't be used. For people; says what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    /// There is none, it may not be pulled, or its build failed: other hosts would meet the same.
    #[error("{0}")]
    Unavailable(String),
    /// It can't be had here and now: the engine is not there, or the host lacks room or a network.
    #[error("{0}")]
    Engine(String),
}

/// Why a worker can't be made or reached.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WorkerError {
    /// The engine is not there.
    #[error("{0}")]
    Engine(String),
    /// The engine refused, or init did not answer in time.
    #[error("{0}")]
    Worker(String),
}

/// What became of a worker that can't be reached any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The kernel killed its PID 1, or all in it, for want of memory.
    OutOfMemory,
    /// It ended or vanished otherwise.
    Worker(String),
    /// The engine is not there, or has lost it.
    Engine(String),
}

/// Which runtime it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeKind {
    /// Docker containers.
    Docker,
    /// Plain child processes.
    Process,
    /// Scripted endings, for tests.
    Scripted,
}

/// Whether a runtime left workers, or what remains of them, in a data directory.
#[must_use]
pub fn left_workers(data: &Path, kind: RuntimeKind) -> bool {
    place::has_any(data, kind)
}

/// The seam. The contract is in the module's documentation.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Which one it is.
    fn kind(&self) -> RuntimeKind;

    /// Whether workers can be made now; if not, why, in words for the operator.
    async fn ready(&self) -> Result<(), String>;

    /// Makes an image usable.
    async fn prepare(&self, image: &ImageSpec, blobs: &dyn Blobs) -> Result<Arc<PreparedImage>, ImageError>;

    /// Makes and starts a worker.
    async fn create(&self, spec: &WorkerSpec) -> Result<Box<dyn Connection>, WorkerError>;

    /// Connects to a worker that is there already.
    async fn connect(&self, id: &WorkerId) -> Result<Box<dyn Connection>, WorkerError>;

    /// Notes which attempts the runs are that are about to be sent to a worker, and that all up to `released` are released.
    /// Not for ever: as many of the newest as an init can hold.
    ///
    /// # Errors
    /// If it can't be written down. Then the runs must not be sent.
    fn note(&self, id: &WorkerId, runs: &[(u64, AttemptKey)], released: u64) -> std::io::Result<()>;

    /// Takes back what was noted of runs that never begin in this worker, and may begin in another.
    ///
    /// # Errors
    /// If it can't be written down.
    fn unnote(&self, id: &WorkerId, runs: &[u64]) -> std::io::Result<()>;

    /// Which run was begun last in a worker, also in one that is gone. None if that can't be found out: then any of them may
    /// have begun.
    fn begun(&self, id: &WorkerId) -> Option<Begun>;

    /// What became of a worker.
    async fn why_gone(&self, id: &WorkerId) -> Gone;

    /// Removes a worker.
    async fn discard(&self, id: &WorkerId) -> Result<(), WorkerError>;

    /// All workers of this agent that are there, running or not, including those of earlier agent processes.
    async fn workers(&self) -> Result<Vec<WorkerId>, WorkerError>;
}

/// Where files for images come from.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// A path to a local file with these contents, fetched if need be and verified.
    async fn fetch(&self, sha256: &[u8; 32]) -> Result<PathBuf, ImageError>;
}
