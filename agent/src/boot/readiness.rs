//! Whether work can be done here, looked at again and again.

use crate::{readiness::Readiness, runtime::Runtime};
use nix::sys::statvfs::statvfs;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// How often it is looked at, in milliseconds.
const LOOK_EVERY_MILLIS: u64 = 2000;

/// How long the runtime may take to answer, in seconds.
const ANSWER_SECS: u64 = 10;

/// With less free on the disk of the data directory, no work is asked for, in bytes: what runs must still fit.
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Tells each change, until nobody listens.
pub(super) async fn watch(runtime: Arc<dyn Runtime>, data: PathBuf, readiness: Readiness) {
    loop {
        let not_ready = match disk(&data) {
            Ok(()) => look(&*runtime).await,
            Err(why) => why,
        };
        if !readiness.tell(not_ready).await {
            return;
        }
        sleep(Duration::from_millis(LOOK_EVERY_MILLIS)).await;
    }
}

async fn look(runtime: &dyn Runtime) -> String {
    match timeout(Duration::from_secs(ANSWER_SECS), runtime.ready()).await {
        Ok(Ok(())) => String::new(),
        Ok(Err(why)) if why.is_empty() => "the runtime is not ready".into(),
        Ok(Err(why)) => why,
        Err(_) => format!("the runtime did not answer in {ANSWER_SECS} s"),
    }
}

fn disk(data: &Path) -> Result<(), String> {
    // A disk that can't be looked at is found out about when it is written to.
    let Ok(stat) = statvfs(data) else { return Ok(()) };
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free >= FREE_BYTES_MIN {
        return Ok(());
    }
    Err(format!("the agent's disk is full: {} MiB are free in {}", free / 1024 / 1024, data.display()))
}
