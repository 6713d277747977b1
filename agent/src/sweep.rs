//! Removes workers that an earlier agent process left over and nobody adopts.

use crate::runtime::{Runtime, WorkerError, WorkerId};
use futures_util::{StreamExt, stream};
use std::collections::BTreeSet;

/// How many workers are removed at a time.
pub(crate) const REMOVALS_MAX: usize = 8;

/// What a sweep did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Workers that are gone now.
    pub removed: usize,
    /// Workers that could not be removed; the next sweep tries again.
    pub failed: usize,
}

/// Removes every worker of this agent but those that were adopted. One that can't be removed is logged, and does not
/// keep the agent from working.
///
/// # Errors
/// If the workers can't even be listed.
pub async fn sweep(runtime: &dyn Runtime, adopted: &BTreeSet<WorkerId>) -> Result<Swept, WorkerError> {
    Ok(remove(runtime, left_over(runtime, adopted).await?).await)
}

/// Every worker of this agent but those that were adopted.
///
/// # Errors
/// If they can't be listed.
pub async fn left_over(
    runtime: &dyn Runtime,
    adopted: &BTreeSet<WorkerId>,
) -> Result<Vec<WorkerId>, WorkerError> {
    Ok(runtime.workers().await?.into_iter().filter(|id| !adopted.contains(id)).collect())
}

/// Removes these workers. One that can't be removed is logged.
async fn remove(runtime: &dyn Runtime, workers: Vec<WorkerId>) -> Swept {
    let results = stream::iter(workers)
        .map(|id| async move {
            let result = runtime.discard(&id).await;
            match &result {
                Ok(()) => tracing::info!(worker = %id, "removed a left-over worker"),
                Err(error) => tracing::warn!(worker = %id, %error, "a left-over worker can't be removed"),
            }
            result.is_ok()
        })
        .buffer_unordered(REMOVALS_MAX)
        .collect::<Vec<bool>>()
        .await;
    let removed = results.iter().filter(|removed| **removed).count();
    Swept { removed, failed: results.len() - removed }
}
