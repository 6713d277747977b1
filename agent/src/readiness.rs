//! Whether work can be done here: looked at again and again, and by whoever could not begin something. The core is told each
//! change.

use crate::{runtime::Runtime, supervisor::Input};
use nix::sys::statvfs::statvfs;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, mpsc},
    time::{sleep, timeout},
};

/// How often it is looked at, in milliseconds.
const LOOK_EVERY_MILLIS: u64 = 2000;

/// How long the runtime may take to answer, in seconds.
const ANSWER_SECS: u64 = 10;

/// With less free on the disk of the data directory, no work is asked for, in bytes: what runs must still fit.
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Looks, and tells the core. Clones share what was told.
#[derive(Clone)]
pub struct Readiness {
    runtime: Arc<dyn Runtime>,
    data: PathBuf,
    inputs: mpsc::Sender<Input>,
    /// What the core was told last.
    told: Arc<Mutex<String>>,
}

impl Readiness {
    /// The core takes this runtime, and the disk of this data directory, for ready.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, data: PathBuf, inputs: mpsc::Sender<Input>) -> Self {
        Self { runtime, data, inputs, told: Arc::default() }
    }

    /// Looks again and again, until nobody listens.
    pub(crate) async fn watch(self) {
        while self.tell(self.look().await).await {
            sleep(Duration::from_millis(LOOK_EVERY_MILLIS)).await;
        }
    }

    /// Looks because something could not begin. If that would have met anything else here, too, the core knows it now,
    /// before whatever it is told next.
    pub(crate) async fn is_lacking(&self) -> bool {
        let not_ready = self.look().await;
        let lacking = !not_ready.is_empty();
        if lacking {
            self.tell(not_ready).await;
        }
        lacking
    }

    /// Why it is not ready; empty if it is. The core has it before whatever it is told next. Tells whether anybody listens.
    pub(crate) async fn tell(&self, not_ready: String) -> bool {
        let mut told = self.told.lock().await;
        if *told == not_ready {
            return !self.inputs.is_closed();
        }
        if not_ready.is_empty() {
            tracing::info!("ready again");
        } else {
            tracing::warn!("not ready: {not_ready}");
        }
        told.clone_from(&not_ready);
        self.inputs.send(Input::Runtime { not_ready }).await.is_ok()
    }

    /// Why it is not ready; empty if it is.
    async fn look(&self) -> String {
        if let Err(why) = self.disk() {
            return why;
        }
        match timeout(Duration::from_secs(ANSWER_SECS), self.runtime.ready()).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(why)) if why.is_empty() => "the runtime is not ready".into(),
            Ok(Err(why)) => why,
            Err(_) => format!("the runtime did not answer in {ANSWER_SECS} s"),
        }
    }

    fn disk(&self) -> Result<(), String> {
        // A disk that can't be looked at is found out about when it is written to.
        let Ok(stat) = statvfs(&self.data) else { return Ok(()) };
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        if free >= FREE_BYTES_MIN {
            return Ok(());
        }
        let free = free / 1024 / 1024;
        Err(format!("the agent's disk is full: {free} MiB are free in {}", self.data.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::scripted::ScriptedRuntime;

    #[tokio::test]
    async fn only_changes_are_told() {
        let (sender, mut inputs) = mpsc::channel(8);
        let (runtime, dir) = (ScriptedRuntime::new(), tempfile::tempdir().expect("a directory"));
        let readiness = Readiness::new(Arc::new(runtime.clone()), dir.path().to_owned(), sender);
        for (not_ready, lacking) in [(None, false), (Some("gone"), true), (Some("gone"), true)] {
            runtime.set_not_ready(not_ready);
            assert_eq!(readiness.is_lacking().await, lacking);
        }
        for _ in 0..2 {
            assert!(readiness.tell(String::new()).await);
        }
        drop(readiness);
        let mut told = Vec::new();
        while let Some(input) = inputs.recv().await {
            match input {
                Input::Runtime { not_ready } => told.push(not_ready),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, ["gone", ""]);
    }
}
