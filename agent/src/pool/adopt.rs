//! Taking over the workers that an earlier process of this agent left.

use super::{
    lane::recall_all,
    worker::{self, Link, Unreachable},
};
use crate::{
    domain::AttemptKey,
    init_link::HeldState,
    runtime::{Runtime, WorkerError, WorkerId},
};
use futures_util::{StreamExt, stream};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::timeout;

/// How many workers are looked at at a time.
const LOOKS_MAX: usize = 16;

/// How long a look at one may take, in seconds. Whatever takes longer is adopted without a look.
const LOOK_SECS_MAX: u64 = 20;

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
    let looks = stream::iter(workers).map(|worker| look(runtime, in_outbox, worker));
    Ok(looks.buffer_unordered(LOOKS_MAX).filter_map(async |adopted| adopted).collect().await)
}

async fn look(runtime: &dyn Runtime, in_outbox: &BTreeSet<AttemptKey>, worker: WorkerId) -> Option<Adopted> {
    match reach(runtime, &worker).await {
        Ok((mut link, from)) => {
            let mut attempts = Vec::new();
            for held in &link.hello.held {
                let Some(attempt) = held.attempt.parse().ok().filter(|_| held.run < from) else { continue };
                if !in_outbox.contains(&attempt) {
                    attempts.push((held.run, attempt));
                }
            }
            if attempts.is_empty() {
                tracing::info!(%worker, "a worker without attempts is swept");
                return None;
            }
            // Those in front of them that are in the outbox.
            let first = attempts.first().map_or(0, |(run, _)| *run);
            link.link.release(first - 1);
            link.hello.held.retain(|held| held.run < from && held.state != HeldState::Queued);
            tracing::info!(%worker, ?attempts, "adopted");
            Some(Adopted { worker, attempts, link: Some(link) })
        }
        Err(error) if error.may_pass() => {
            let begun = runtime.begun(&worker);
            let attempt = begun.attempt.filter(|attempt| !in_outbox.contains(attempt))?;
            tracing::warn!(%attempt, %worker, %error, "adopted, although its worker can't be reached yet");
            Some(Adopted { worker, attempts: vec![(begun.run, attempt)], link: None })
        }
        Err(error) => {
            tracing::warn!(%worker, %error, "a worker that can't be reached is swept");
            None
        }
    }
}

/// Reaches it, and takes back what has not begun.
async fn reach(runtime: &dyn Runtime, worker: &WorkerId) -> Result<(Link, u64), Unreachable> {
    let reached = async {
        let mut link = worker::reach(runtime, worker).await?;
        let from = recall_all(&mut link.link).await?;
        Ok((link, from))
    };
    timeout(Duration::from_secs(LOOK_SECS_MAX), reached).await.unwrap_or(Err(Unreachable::Silent))
}
