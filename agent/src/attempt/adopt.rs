//! Taking over the workers that an earlier process of this agent left.

use super::{
    WorkerNames,
    worker::{self, Link, Unreachable},
};
use crate::{
    domain::AttemptKey,
    init_link::InitState,
    runtime::{Runtime, WorkerError, WorkerId},
};
use futures_util::{StreamExt, stream};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::timeout;

/// How many workers are looked at at a time, in workers.
const LOOKS_MAX: usize = 16;

/// How long a look at one may take, in seconds. Whatever takes longer is adopted without a look.
const LOOK_SECS_MAX: u64 = 20;

/// An attempt of an earlier process that is running, or has ended and was not released.
pub struct Adopted {
    /// Which.
    pub attempt: AttemptKey,
    /// None if it could not be found out what its worker does, because the engine or its init was too slow. The attempt
    /// tries further.
    pub(super) link: Option<Link>,
}

/// Looks at all workers of this agent, and adopts those that hold, or may hold, an attempt which is not in the outbox. All
/// others are to be swept.
///
/// # Errors
/// If the workers can't be listed.
pub async fn adopt(
    runtime: &dyn Runtime,
    names: &WorkerNames,
    in_outbox: &BTreeSet<AttemptKey>,
) -> Result<Vec<Adopted>, WorkerError> {
    let workers = runtime.workers().await?;
    let looks = stream::iter(workers).map(|worker| look(runtime, names, in_outbox, worker));
    Ok(looks.buffer_unordered(LOOKS_MAX).filter_map(async |adopted| adopted).collect().await)
}

async fn look(
    runtime: &dyn Runtime,
    names: &WorkerNames,
    in_outbox: &BTreeSet<AttemptKey>,
    worker: WorkerId,
) -> Option<Adopted> {
    match names.attempt(&worker) {
        Some(attempt) if !in_outbox.contains(&attempt) => match reach(runtime, &worker).await {
            Ok(link) if holds(&link.state, attempt) => {
                tracing::info!(%attempt, "adopted");
                return Some(Adopted { attempt, link: Some(link) });
            }
            Ok(link) => {
                tracing::info!(%worker, state = ?link.state, "a worker without its attempt is swept")
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(%attempt, %error, "adopted, although its worker can't be reached yet");
                return Some(Adopted { attempt, link: None });
            }
            Err(error) => tracing::warn!(%worker, %error, "a worker that can't be reached is swept"),
        },
        Some(attempt) => tracing::debug!(%attempt, "its ending is in the outbox: the worker is swept"),
        None => tracing::info!(%worker, "a worker of no attempt is swept"),
    }
    None
}

async fn reach(runtime: &dyn Runtime, worker: &WorkerId) -> Result<Link, Unreachable> {
    let reached = timeout(Duration::from_secs(LOOK_SECS_MAX), worker::reach(runtime, worker));
    reached.await.unwrap_or(Err(Unreachable::Silent))
}

fn holds(state: &InitState, expected: AttemptKey) -> bool {
    match state {
        InitState::Idle => false,
        InitState::Running { attempt, .. } | InitState::Ended { attempt } => *attempt == expected.to_string(),
    }
}
