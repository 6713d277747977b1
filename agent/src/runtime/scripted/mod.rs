//! Workers that do what their command says, for tests: no engine, no process, no file. They speak the same frames as a
//! real init, so everything above the runtime is the real thing.
//!
//! # The script
//!
//! The command's first word is `scripted`; the others are steps, done in order:
//!
//! | step | what happens |
//! | --- | --- |
//! | `print=TEXT`, `err=TEXT` | the text and a newline on stdout, or stderr |
//! | `raw=TEXT` | the text alone, on stdout |
//! | `bytes=N` | that many bytes on stdout: `abc…z` over and over |
//! | `cat` | stdin is copied to stdout until it ends |
//! | `sleep=20ms` | some time passes (`s` or `ms`) |
//! | `exit=N` | ends with this exit code; the end of the script is `exit=0` |
//! | `signal=N` | ends by this signal |
//! | `oom`, `pids` | ends for want of memory, or at the limit of processes |
//! | `spoil` | the worker will not be clean after this task |
//! | `start-failure` | the command can't be started; only as the first step |
//! | `hang` | goes on until it is killed, or its timeout |
//! | `worker-lost`, `worker-oom`, `engine-lost` | the connection breaks for good, and this is why |
//!
//! Timeout, output limit, cancelling, back-pressure, adoption and release are as with a real init.
//!
//! Some images, by reference: `missing` can't be had; with `no-engine`, preparing meets no engine; with `no-worker`,
//! a worker is only half made; all others are there.

mod kept;
mod script;
#[cfg(test)]
pub(crate) mod tests;
mod told;
mod worker;

use super::{
    Begun, Blobs, Connection, Gone, ImageError, PreparedImage, Runtime, RuntimeKind, WorkerError, WorkerId,
    WorkerSpec,
};
use crate::domain::{AttemptKey, ImageSpec};
use async_trait::async_trait;
use std::{
    collections::BTreeMap,
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::io::duplex;
use worker::Worker;

/// How much the two ends of a connection may be apart.
const PIPE_BYTES: usize = 64 << 10;

/// The runtime. Clones share their workers: a test can hand one to a new agent, as if the old one had died.
#[derive(Clone, Debug, Default)]
pub struct ScriptedRuntime {
    workers: Arc<Mutex<BTreeMap<WorkerId, Arc<Worker>>>>,
    not_ready: Arc<Mutex<Option<String>>>,
    deaf: Arc<AtomicBool>,
    mute: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
}

impl ScriptedRuntime {
    /// One without workers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes [`Runtime::ready`] and [`Runtime::create`] say that the engine is gone, or that it is back.
    pub fn set_not_ready(&self, why: Option<&str>) {
        *lock(&self.not_ready) = why.map(str::to_owned);
    }

    /// Makes [`Runtime::connect`] and [`Runtime::discard`] meet no engine, or one again.
    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Makes [`Runtime::note`] meet a full disk, or room again.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// Makes every init take connections and say nothing, or speak again.
    #[cfg(test)]
    pub(crate) fn set_mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::SeqCst);
    }

    /// How many workers are of no use to others: they hold runs that were not released, or are gone and not discarded.
    #[must_use]
    pub fn held_workers(&self) -> usize {
        lock(&self.workers).values().filter(|worker| worker.is_held()).count()
    }

    /// How many runs the workers hold, those that ended and were not released among them.
    #[cfg(test)]
    pub(crate) fn runs_held(&self) -> usize {
        lock(&self.workers).values().map(|worker| worker.runs_held()).sum()
    }

    fn hears(&self) -> Result<(), WorkerError> {
        if self.deaf.load(Ordering::SeqCst) {
            return Err(WorkerError::Engine("the scripted engine is deaf".into()));
        }
        Ok(())
    }

    fn worker(&self, id: &WorkerId) -> Option<Arc<Worker>> {
        lock(&self.workers).get(id).cloned()
    }

    fn engine(&self) -> Result<(), String> {
        lock(&self.not_ready).clone().map_or(Ok(()), Err)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connection(worker: &Arc<Worker>) -> Box<dyn Connection> {
    let (near, far) = duplex(PIPE_BYTES);
    tokio::spawn(Arc::clone(worker).serve(far));
    Box::new(near)
}

/// A connection on which nothing is ever said.
fn silent() -> Box<dyn Connection> {
    let (near, far) = duplex(PIPE_BYTES);
    tokio::spawn(async move {
        let _far = far;
        pending::<()>().await;
    });
    Box::new(near)
}

#[async_trait]
impl Runtime for ScriptedRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Scripted
    }

    async fn ready(&self) -> Result<(), String> {
        self.engine()
    }

    async fn prepare(&self, image: &ImageSpec, _blobs: &dyn Blobs) -> Result<Arc<PreparedImage>, ImageError> {
        let handle = match image {
            ImageSpec::Reference(reference) => reference.clone(),
            ImageSpec::Build { .. } => "built".into(),
        };
        match handle.as_str() {
            "missing" => Err(ImageError::Unavailable("the image `missing` can't be had".into())),
            "no-engine" => Err(ImageError::Engine("the scripted engine is gone".into())),
            _ => Ok(Arc::new(PreparedImage { handle, env: Vec::new(), workdir: None, volumes: Vec::new() })),
        }
    }

    async fn create(&self, spec: &WorkerSpec) -> Result<Box<dyn Connection>, WorkerError> {
        self.engine().map_err(WorkerError::Engine)?;
        let worker = {
            let mut workers = lock(&self.workers);
            if workers.contains_key(&spec.id) {
                return Err(WorkerError::Worker(format!("the worker {} is there already", spec.id)));
            }
            let worker = Arc::new(Worker::default());
            workers.insert(spec.id.clone(), Arc::clone(&worker));
            worker
        };
        if spec.shape.image.handle == "no-worker" {
            return Err(WorkerError::Worker("the scripted engine made half of it".into()));
        }
        Ok(connection(&worker))
    }

    async fn connect(&self, id: &WorkerId) -> Result<Box<dyn Connection>, WorkerError> {
        self.hears()?;
        let worker =
            self.worker(id).ok_or_else(|| WorkerError::Worker(format!("there is no worker {id}")))?;
        match worker.gone() {
            Some(Gone::Engine(why)) => Err(WorkerError::Engine(why)),
            Some(gone) => Err(WorkerError::Worker(format!("the worker {id} is gone: {gone:?}"))),
            None if self.mute.load(Ordering::SeqCst) => Ok(silent()),
            None => Ok(connection(&worker)),
        }
    }

    fn note(&self, id: &WorkerId, runs: &[(u64, AttemptKey)], released: u64) -> std::io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        if let Some(worker) = self.worker(id) {
            worker.note(runs, released);
        }
        Ok(())
    }

    fn unnote(&self, id: &WorkerId, runs: &[u64]) -> std::io::Result<()> {
        if let Some(worker) = self.worker(id) {
            worker.unnote(runs);
        }
        Ok(())
    }

    fn begun(&self, id: &WorkerId) -> Option<Begun> {
        self.worker(id).map(|worker| worker.begun())
    }

    async fn why_gone(&self, id: &WorkerId) -> Gone {
        match self.worker(id) {
            None => Gone::Worker("there is no such worker".into()),
            Some(worker) => worker.gone().unwrap_or_else(|| Gone::Worker("it has hung up".into())),
        }
    }

    async fn discard(&self, id: &WorkerId) -> Result<(), WorkerError> {
        self.hears()?;
        if let Some(worker) = lock(&self.workers).remove(id) {
            worker.end(Gone::Worker("it was discarded".into()));
        }
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<WorkerId>, WorkerError> {
        Ok(lock(&self.workers).keys().cloned().collect())
    }
}
