//! Taking over the workers that an earlier process of this agent left.

use super::{
    lane::take_back,
    worker::{self, Link, Unreachable},
};
use crate::{
    domain::AttemptKey,
    init_link::Held,
    runtime::{Runtime, WorkerError, WorkerId},
};
use futures_util::{StreamExt, stream};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{Instant, timeout_at};

/// How many workers are looked at at a time.
const LOOKS_MAX: usize = 16;

/// How long the looks at all of them may take, in seconds. Whatever takes longer is adopted without a look: the coordinator waits
/// for the agent no longer than a lease.
const LOOK_SECS_MAX: u64 = 2;

/// A worker of an earlier process, with attempts that are running, or have ended and were not released.
pub struct Adopted {
    /// Which worker.
    pub worker: WorkerId,
    /// Its runs, in order.
    pub attempts: Vec<(u64, AttemptKey)>,
    /// None if it could not be found out what it does, because the engine or its init was too slow. It is tried further.
    pub(super) link: Option<Link>,
}

/// Looks at all workers of this agent, and adopts those that hold, or may hold, an attempt which is not in the outbox. All
/// others are to be swept. What an earlier process had sent ahead, and has not begun, is taken back: it never begins.
///
/// # Errors
/// If the workers can't be listed.
pub async fn adopt(
    runtime: &dyn Runtime,
    in_outbox: &BTreeSet<AttemptKey>,
) -> Result<Vec<Adopted>, WorkerError> {
    let workers = runtime.workers().await?;
    let until = Instant::now() + Duration::from_secs(LOOK_SECS_MAX);
    let looks = stream::iter(workers).map(|worker| look(runtime, in_outbox, worker, until));
    Ok(looks.buffer_unordered(LOOKS_MAX).filter_map(async |adopted| adopted).collect().await)
}

async fn look(
    runtime: &dyn Runtime,
    in_outbox: &BTreeSet<AttemptKey>,
    worker: WorkerId,
    until: Instant,
) -> Option<Adopted> {
    match reach(runtime, &worker, until).await {
        Ok(mut link) => {
            // init's word alone is not enough: the task that it serves may be in its place.
            let noted = runtime.begun(&worker).unwrap_or_default().attempts;
            let is_noted = |held: &Held| {
                noted.iter().any(|(run, attempt)| *run == held.run && attempt.to_string() == held.attempt)
            };
            link.hello.held.retain(is_noted);
            let held = |run| link.hello.held.iter().any(|held| held.run == run);
            let attempts: Vec<_> = noted
                .into_iter()
                .filter(|(run, attempt)| held(*run) && !in_outbox.contains(attempt))
                .collect();
            if attempts.is_empty() {
                tracing::info!(%worker, "a worker without attempts is swept");
                return None;
            }
            tracing::info!(%worker, ?attempts, "adopted");
            Some(Adopted { worker, attempts, link: Some(link) })
        }
        Err(error) if error.may_pass() => {
            let mut attempts = runtime.begun(&worker)?.attempts;
            attempts.retain(|(_, attempt)| !in_outbox.contains(attempt));
            if attempts.is_empty() {
                return None;
            }
            tracing::warn!(?attempts, %worker, %error, "adopted, although their worker can't be reached yet");
            Some(Adopted { worker, attempts, link: None })
        }
        Err(error) => {
            tracing::warn!(%worker, %error, "a worker that can't be reached is swept");
            None
        }
    }
}

/// Reaches it, and takes back what has not begun.
async fn reach(runtime: &dyn Runtime, worker: &WorkerId, until: Instant) -> Result<Link, Unreachable> {
    let reached = async {
        let mut link = worker::reach(runtime, worker).await?;
        take_back(&mut link).await?;
        Ok(link)
    };
    timeout_at(until, reached).await.unwrap_or(Err(Unreachable::Silent))
}
