//! Uploads of ended attempts' long output: begun when the core asks, and tried until the coordinator has it all or does
//! not want it, or it is clear that they can't succeed.

use super::{
    Backoff, Bulk, is_final,
    upload::{Source, Told, Upload, UploadError},
};
use crate::{
    domain::{AttemptKey, OutputStream},
    outbox::Spool,
    supervisor::Input,
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

/// How many outputs are uploaded at a time, in outputs.
const UPLOADS_MAX: usize = 4;

/// How often a spool file that can't be read is tried, in tries.
const FILE_TRIES_MAX: u32 = 5;

/// All uploads that are under way.
#[derive(Debug)]
pub struct Uploads {
    bulk: Bulk,
    spool: Spool,
    inputs: mpsc::Sender<Input>,
    turns: Arc<Semaphore>,
    running: BTreeMap<AttemptKey, AbortOnDropHandle<()>>,
}

impl Uploads {
    /// None yet.
    #[must_use]
    pub fn new(bulk: Bulk, spool: Spool, inputs: mpsc::Sender<Input>) -> Self {
        Self { bulk, spool, inputs, turns: Arc::new(Semaphore::new(UPLOADS_MAX)), running: BTreeMap::new() }
    }

    /// Uploads outputs of an attempt, of these lengths, unless that is under way. Then comes [`Input::Uploaded`], or
    /// [`Input::UploadFailed`].
    pub fn begin(&mut self, attempt: AttemptKey, outputs: Vec<(OutputStream, u64)>) {
        if self.running.get(&attempt).is_some_and(|upload| !upload.is_finished()) {
            return;
        }
        let upload = upload_attempt(
            self.bulk.clone(),
            self.spool.clone(),
            attempt,
            outputs,
            self.turns.clone(),
            self.inputs.clone(),
        );
        self.running.insert(attempt, AbortOnDropHandle::new(tokio::spawn(upload)));
    }

    /// The attempt's output is needed no more.
    pub fn forget(&mut self, attempt: AttemptKey) {
        self.running.remove(&attempt);
    }
}

async fn upload_attempt(
    bulk: Bulk,
    spool: Spool,
    attempt: AttemptKey,
    outputs: Vec<(OutputStream, u64)>,
    turns: Arc<Semaphore>,
    inputs: mpsc::Sender<Input>,
) {
    let mut done = Input::Uploaded(attempt);
    for (stream, length) in outputs {
        let source = Source { attempt, stream, path: spool.path(attempt, stream) };
        if let Err(error) = upload_output(&bulk, source, length, &turns).await {
            tracing::error!(%attempt, ?stream, %error, "an output can't be uploaded, and is lost");
            done = Input::UploadFailed { attempt, why: error.to_string() };
            break;
        }
    }
    // Without a driver nobody needs to know.
    let _ = inputs.send(done).await;
}

/// Tries until it succeeds, or can't any more. Nobody waits for its turn while it waits for its next try.
async fn upload_output(
    bulk: &Bulk,
    source: Source,
    length: u64,
    turns: &Semaphore,
) -> Result<(), UploadError> {
    let (attempt, stream) = (source.attempt, source.stream);
    let mut backoff = Backoff::new();
    let mut durable = 0;
    let mut faults = 0;
    loop {
        let result = {
            // The semaphore is never closed.
            let _turn = turns.acquire().await;
            try_upload(bulk, source.clone(), length, &mut durable, &mut backoff).await
        };
        let error = match result {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match &error {
            UploadError::Call(status) if is_final(status) => return Err(error),
            UploadError::TooMuch { .. } => return Err(error),
            // It may be for want of descriptors, or the like.
            UploadError::File(_) => {
                faults += 1;
                if faults >= FILE_TRIES_MAX {
                    return Err(error);
                }
            }
            UploadError::Call(_) | UploadError::Early => {}
        }
        tracing::debug!(%attempt, ?stream, %error, "an upload broke; it is tried again");
        backoff.wait().await;
    }
}

/// One try. Every byte that has become durable since the last makes the next wait short again.
async fn try_upload(
    bulk: &Bulk,
    source: Source,
    length: u64,
    durable: &mut u64,
    backoff: &mut Backoff,
) -> Result<(), UploadError> {
    let (mut upload, mut told) = Upload::open(&mut bulk.client(), source).await?;
    if upload.offset > *durable {
        *durable = upload.offset;
        *backoff = Backoff::new();
    }
    if let Told::Durable(_) = told
        && let Some(last) = upload.send_to(length, true).await?
    {
        told = last;
    }
    while let Told::Durable(_) = told {
        told = upload.told().await?;
    }
    if told == Told::Unwanted {
        tracing::debug!(attempt = %upload.source().attempt, "its output is not wanted");
    }
    Ok(())
}
