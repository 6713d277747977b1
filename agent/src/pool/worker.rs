//! Workers, as the pool sees them: what they are called, how they are reached, and how they are done away with.

use crate::{
    init_link::{Hello, InitLink, LinkError},
    runtime::{Connection, Runtime, WorkerError, WorkerId},
};
use backon::{BackoffBuilder, ExponentialBuilder};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long an init may take to say what it is doing, in seconds.
const INIT_ANSWER_SECS: u64 = 10;

/// How often a worker is tried to be reached, in tries.
const REACH_TRIES: usize = 5;

/// How long an adopted worker that can't be reached is waited for, in seconds.
const PATIENCE_SECS: u64 = 60;

/// How often a worker is tried to be discarded, in tries.
const DISCARD_TRIES: usize = 6;

/// What the workers of one agent are called.
#[derive(Debug)]
pub struct WorkerNames {
    agent: String,
    /// When this process began: no earlier one has used it.
    since: u128,
    count: AtomicU64,
}

impl WorkerNames {
    /// From the agent's short unique id.
    #[must_use]
    pub fn new(agent: String) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { agent, since: since.as_micros(), count: AtomicU64::new(1) }
    }

    /// A name that no worker has had.
    pub(super) fn make(&self) -> WorkerId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        WorkerId(format!("{}-{:x}-{count}", self.agent, self.since))
    }
}

/// A connection to an init that has said what it is doing.
pub(super) struct Link {
    pub(super) link: InitLink,
    pub(super) hello: Hello,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("its init can't be spoken to: {0}")]
    Link(#[from] LinkError),
    #[error("its init did not answer in {INIT_ANSWER_SECS} s")]
    Silent,
}

impl Unreachable {
    /// Whether it says nothing of the worker: the engine is away or slow, or init is.
    pub(super) const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Worker(WorkerError::Engine(_)) | Self::Silent | Self::Link(LinkError::Silent { .. })
        )
    }
}

/// Opens a link over a fresh connection.
pub(super) async fn open(connection: Box<dyn Connection>) -> Result<Link, Unreachable> {
    let answer = timeout(Duration::from_secs(INIT_ANSWER_SECS), InitLink::open(connection));
    let (link, hello) = answer.await.map_err(|_| Unreachable::Silent)??;
    Ok(Link { link, hello })
}

/// Opens a link to a worker that is there already; tries a bounded number of times.
pub(super) async fn reach(runtime: &dyn Runtime, worker: &WorkerId) -> Result<Link, Unreachable> {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_max_times(REACH_TRIES - 1)
        .build();
    loop {
        let result = match timeout(Duration::from_secs(INIT_ANSWER_SECS), runtime.connect(worker)).await {
            Ok(Ok(connection)) => open(connection).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Unreachable::Silent),
        };
        match (result, waits.next()) {
            (Ok(link), _) => return Ok(link),
            (Err(_), Some(wait)) => sleep(wait).await,
            (Err(error), None) => return Err(error),
        }
    }
}

/// Opens a link to a worker of which nothing is known; waits out an engine that is away or slow, but not for ever.
pub(super) async fn reach_patiently(runtime: &dyn Runtime, worker: &WorkerId) -> Result<Link, Unreachable> {
    let give_up = Instant::now() + Duration::from_secs(PATIENCE_SECS);
    loop {
        match timeout_at(give_up, reach(runtime, worker)).await {
            Ok(Err(error)) if error.may_pass() && Instant::now() < give_up => {
                tracing::debug!(%worker, %error, "a worker can't be reached yet");
            }
            Ok(result) => return result,
            Err(_) => return Err(Unreachable::Silent),
        }
    }
}

/// Discards a worker; tries a bounded number of times.
pub(super) async fn discard(runtime: &dyn Runtime, worker: &WorkerId) -> Result<(), WorkerError> {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(DISCARD_TRIES - 1)
        .build();
    while let Err(error) = runtime.discard(worker).await {
        match waits.next() {
            Some(wait) => sleep(wait).await,
            None => {
                tracing::warn!(%worker, %error, "a worker can't be removed; it is tried again and again");
                return Err(error);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_never_used_twice() {
        let names = WorkerNames::new("a1b2c3d4".into());
        let first = names.make();
        assert!(first.0.starts_with("a1b2c3d4-"), "{first}");
        assert_ne!(first, names.make());
        assert_ne!(
            first,
            WorkerNames { since: names.since + 1, ..WorkerNames::new("a1b2c3d4".into()) }.make()
        );
    }
}
