//! Uploads of ended attempts' long output: begun when the core asks, and tried until the coordinator has it all or does
//! not want it.

use super::{
    Backoff,
    upload::{Source, Told, Upload, UploadError},
};
use crate::{
    domain::{AttemptKey, OutputStream},
    outbox::Spool,
    supervisor::Input,
};
use piecework_proto::v1::agent_session_client::AgentSessionClient;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

/// How many outputs are uploaded at a time, in outputs.
const UPLOADS_MAX: usize = 4;

/// All uploads that are under way.
#[derive(Debug)]
pub struct Uploads {
    client: AgentSessionClient<Channel>,
    spool: Spool,
    inputs: mpsc::Sender<Input>,
    turns: Arc<Semaphore>,
    running: BTreeMap<AttemptKey, AbortOnDropHandle<()>>,
}

impl Uploads {
    /// None yet.
    #[must_use]
    pub fn new(client: AgentSessionClient<Channel>, spool: Spool, inputs: mpsc::Sender<Input>) -> Self {
        Self { client, spool, inputs, turns: Arc::new(Semaphore::new(UPLOADS_MAX)), running: BTreeMap::new() }
    }

    /// Uploads the outputs of an attempt, unless that is under way. Then comes [`Input::Uploaded`].
    pub fn begin(&mut self, attempt: AttemptKey) {
        if self.running.get(&attempt).is_some_and(|upload| !upload.is_finished()) {
            return;
        }
        let upload = upload_attempt(
            self.client.clone(),
            self.spool.clone(),
            attempt,
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
    mut client: AgentSessionClient<Channel>,
    spool: Spool,
    attempt: AttemptKey,
    turns: Arc<Semaphore>,
    inputs: mpsc::Sender<Input>,
) {
    // The semaphore is never closed.
    let Ok(_turn) = turns.acquire().await else { return };
    for stream in [OutputStream::Stdout, OutputStream::Stderr] {
        let path = spool.path(attempt, stream);
        upload_output(&mut client, Source { attempt, stream, path }, &spool).await;
    }
    // Without a driver nobody needs to know.
    let _ = inputs.send(Input::Uploaded(attempt)).await;
}

async fn upload_output(client: &mut AgentSessionClient<Channel>, source: Source, spool: &Spool) {
    let (attempt, stream) = (source.attempt, source.stream);
    let mut backoff = Backoff::new();
    let mut durable = 0;
    loop {
        let spool = spool.clone();
        let length = crate::blocking::blocking(move || spool.length(attempt, stream)).await;
        let result = match length {
            // It rides in the report.
            Ok(0) => return,
            Ok(length) => try_upload(client, source.clone(), length, &mut durable, &mut backoff).await,
            Err(error) => {
                tracing::warn!(%attempt, ?stream, %error, "an output can't be uploaded yet");
                backoff.wait().await;
                continue;
            }
        };
        match result {
            Ok(()) => return,
            Err(error @ (UploadError::File(_) | UploadError::TooMuch { .. })) => {
                tracing::warn!(%attempt, ?stream, %error, "an output can't be uploaded yet");
            }
            Err(error) => tracing::debug!(%attempt, ?stream, %error, "an upload broke; it is tried again"),
        }
        backoff.wait().await;
    }
}

/// One try. Every byte that has become durable since the last makes the next wait short again.
async fn try_upload(
    client: &mut AgentSessionClient<Channel>,
    source: Source,
    length: u64,
    durable: &mut u64,
    backoff: &mut Backoff,
) -> Result<(), UploadError> {
    let (mut upload, mut told) = Upload::open(client, source).await?;
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
