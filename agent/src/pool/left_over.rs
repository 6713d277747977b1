//! Workers that could not be removed when their attempt was released: tried again for as long as the agent lives.

use crate::runtime::{Runtime, WorkerError, WorkerId};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// How often they are tried again, in seconds.
const RETRY_EVERY_SECS: u64 = 30;

/// How many are remembered, in workers. More are swept at the next start.
const LEFT_OVER_MAX: usize = 10_000;

/// The workers, and the task that tries them again. Clones share both; with the last one the task ends.
#[derive(Clone)]
pub(super) struct LeftOver {
    workers: Arc<Mutex<BTreeSet<WorkerId>>>,
    _retry: Arc<AbortOnDropHandle<()>>,
}

impl LeftOver {
    /// None yet.
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Self {
        let workers = Arc::<Mutex<BTreeSet<WorkerId>>>::default();
        let retry = retry(runtime, workers.clone());
        Self { workers, _retry: Arc::new(AbortOnDropHandle::new(tokio::spawn(retry))) }
    }

    /// One that is to be tried again.
    pub(super) fn add(&self, worker: WorkerId) {
        let mut workers = lock(&self.workers);
        if workers.len() < LEFT_OVER_MAX {
            workers.insert(worker);
        } else {
            tracing::warn!(%worker, "too many workers can't be removed; this one stays until the next start");
        }
    }
}

async fn retry(runtime: Arc<dyn Runtime>, workers: Arc<Mutex<BTreeSet<WorkerId>>>) {
    loop {
        sleep(Duration::from_secs(RETRY_EVERY_SECS)).await;
        try_all(&*runtime, &workers).await;
    }
}

async fn try_all(runtime: &dyn Runtime, workers: &Mutex<BTreeSet<WorkerId>>) {
    let left_over = lock(workers).clone();
    for worker in left_over {
        match runtime.discard(&worker).await {
            Ok(()) => {
                tracing::info!(%worker, "removed a left-over worker");
                lock(workers).remove(&worker);
            }
            // The others would fare no better.
            Err(WorkerError::Engine(_)) => return,
            Err(WorkerError::Worker(why)) => {
                tracing::debug!(%worker, why, "a left-over worker still can't be removed");
            }
        }
    }
}

fn lock(workers: &Mutex<BTreeSet<WorkerId>>) -> MutexGuard<'_, BTreeSet<WorkerId>> {
    workers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::scripted::{ScriptedRuntime, tests::spec};

    #[tokio::test]
    async fn a_worker_outlives_an_outage_of_its_engine_but_not_its_end() {
        let runtime = ScriptedRuntime::new();
        let spec = spec("a-1-task-0-1", "any");
        runtime.create(&spec).await.expect("creates");
        let left_over = LeftOver::new(Arc::new(runtime.clone()));
        left_over.add(spec.id.clone());
        runtime.set_deaf(true);
        try_all(&runtime, &left_over.workers).await;
        assert_eq!(runtime.workers().await.expect("lists"), std::slice::from_ref(&spec.id));
        assert!(lock(&left_over.workers).contains(&spec.id));
        runtime.set_deaf(false);
        try_all(&runtime, &left_over.workers).await;
        assert_eq!(runtime.workers().await.expect("lists"), []);
        assert!(lock(&left_over.workers).is_empty());
    }
}
