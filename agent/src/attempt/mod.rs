//! What an attempt prints and reads, and what all of them need. How they are run is the pool's.
//!
//! An attempt holds at most 32 KiB of each output in memory, beside what one frame and one chunk of stdin come to. What is
//! acknowledged to init is in a spool file, so that it outlives this process.

pub mod output;
pub mod stdin;

use crate::{
    domain::{AttemptKey, OutputStream},
    outbox::{OutboxError, Spool},
    readiness::Readiness,
    runtime::{Blobs, Runtime},
    supervisor::Input,
};
use output::Growing;
pub(crate) use output::Sink;
use std::sync::Arc;
use stdin::StdinSource;
pub(crate) use stdin::{Feed, Stdin, StdinItem};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many outputs wait to be followed, in outputs. More are not followed.
pub const FOLLOWS_MAX: usize = 256;

/// What all attempts need.
pub struct Env {
    /// What workers are made of.
    pub runtime: Arc<dyn Runtime>,
    /// Where files for images come from.
    pub blobs: Arc<dyn Blobs>,
    /// Where stdin comes from.
    pub stdin: Arc<dyn StdinSource>,
    /// Where long output goes.
    pub spool: Spool,
    /// Whom endings are told.
    pub inputs: mpsc::Sender<Input>,
    /// Who tells that no workers can be made.
    pub readiness: Readiness,
    /// Whom output is told that can be followed.
    pub follows: mpsc::Sender<Growing>,
}

impl Env {
    pub(crate) fn sink(&self, attempt: AttemptKey, stream: OutputStream, kill: &CancellationToken) -> Sink {
        Sink::new(self.spool.clone(), attempt, stream, kill.clone())
    }

    pub(crate) async fn resumed_sinks(
        &self,
        attempt: AttemptKey,
        kill: &CancellationToken,
    ) -> Result<(Sink, Sink), OutboxError> {
        Ok((
            Sink::resume(self.spool.clone(), attempt, OutputStream::Stdout, kill.clone()).await?,
            Sink::resume(self.spool.clone(), attempt, OutputStream::Stderr, kill.clone()).await?,
        ))
    }
}
