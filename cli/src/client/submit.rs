//! Submission: header, files and items as one stream, tried again under the same idempotency key while the coordinator is
//! not there. So are additions, under the keys of their tasks.

use super::{Client, ClientError, is_passing};
use crate::project_file::{ProjectFileError, Submission};
use backon::{ExponentialBuilder, Retryable};
use piecework_proto::v1::{self, submit_request::Part};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Most bytes of items in one message.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Most items in one message.
const CHUNK_ITEMS_MAX: usize = 10_000;
/// How many messages are read ahead of the connection.
const MESSAGES_AHEAD_MAX: usize = 4;
/// What an item costs besides its texts.
const ITEM_OVERHEAD_BYTES: usize = 16;

/// Waits between tries.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

impl Client {
    /// Submits a project. When this returns, the project is durable.
    ///
    /// # Errors
    /// If the coordinator refuses, is away for too long, or the input can't be read.
    pub async fn submit(&self, submission: &Submission) -> Result<v1::Project, ClientError> {
        let key = unique_key();
        self.patiently(|| self.submit_once(submission, &key)).await
    }

    /// Adds tasks to an open project. When this returns, they are durable.
    ///
    /// # Errors
    /// If the coordinator refuses, or is away for too long.
    pub async fn add_tasks(&self, request: v1::AddTasksRequest) -> Result<v1::AddTasksResponse, ClientError> {
        self.patiently(|| async { Ok(self.projects.clone().add_tasks(request.clone()).await?.into_inner()) })
            .await
    }

    /// Asks until there is an answer; what is asked may be done more than once.
    pub(super) async fn patiently<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        ask: impl FnMut() -> F,
    ) -> Result<T, ClientError> {
        let waits = ExponentialBuilder::default()
            .with_min_delay(RETRY_FIRST)
            .with_max_delay(RETRY_LONGEST)
            .with_jitter()
            .without_max_times()
            .with_total_delay(Some(self.patience));
        let answer = ask
            .retry(waits)
            .when(|error| matches!(error, ClientError::Refused(status) if is_passing(status)))
            .notify(|_, _| self.is_away())
            .await;
        if answer.is_ok() {
            self.is_back();
        }
        match answer {
            Err(ClientError::Refused(status)) if is_passing(&status) => {
                Err(ClientError::Lost { patience: self.patience, status })
            }
            other => other,
        }
    }

    async fn submit_once(&self, submission: &Submission, key: &str) -> Result<v1::Project, ClientError> {
        let (messages, stream) = mpsc::channel(MESSAGES_AHEAD_MAX);
        let reading = tokio::task::spawn_blocking({
            let (submission, key, messages) = (submission.clone(), key.to_owned(), messages.clone());
            move || send_all(&submission, &key, &messages)
        });
        let mut projects = self.projects.clone();
        let call = projects.submit(ReceiverStream::new(stream));
        tokio::pin!(call);
        let read = async move {
            let read = reading.await;
            // Until here the stream stays open: an input that can't be read must not look like a whole one.
            match read {
                Ok(Ok(())) => drop(messages),
                Ok(Err(error)) => return error,
                // Only a panic gets here, and it has been told.
                Err(_) => {}
            }
            std::future::pending().await
        };
        let answer = tokio::select! {
            answer = &mut call => answer?.into_inner(),
            error = read => return Err(ClientError::Input(error)),
        };
        answer.project.ok_or(ClientError::BadAnswer("a submission was answered without its project"))
    }
}

/// Sends everything, in blocks, as fast as the connection takes it. Ends early without an error if nobody listens.
fn send_all(
    submission: &Submission,
    key: &str,
    messages: &mpsc::Sender<v1::SubmitRequest>,
) -> Result<(), ProjectFileError> {
    let send = |part| messages.blocking_send(v1::SubmitRequest { part: Some(part) }).is_ok();
    let header = v1::SubmitHeader { idempotency_key: key.to_owned(), spec: Some(submission.spec.clone()) };
    if !send(Part::Header(header)) {
        return Ok(());
    }
    for file in &submission.files {
        for block in file.blocks()? {
            if !send(Part::Blob(block?)) {
                return Ok(());
            }
        }
    }
    let mut chunk = v1::ItemChunk::default();
    let mut bytes = 0;
    for item in submission.items.iter()? {
        let item = item?;
        let length = item_bytes(&item);
        if !chunk.items.is_empty()
            && (bytes + length > CHUNK_BYTES_MAX || chunk.items.len() >= CHUNK_ITEMS_MAX)
        {
            if !send(Part::Items(std::mem::take(&mut chunk))) {
                return Ok(());
            }
            bytes = 0;
        }
        bytes += length;
        chunk.items.push(item);
    }
    if !chunk.items.is_empty() {
        send(Part::Items(chunk));
    }
    Ok(())
}

fn item_bytes(item: &v1::Item) -> usize {
    let args: usize = item.args.iter().map(|arg| arg.len() + ITEM_OVERHEAD_BYTES).sum();
    item.text.len() + item.resource.len() + args + ITEM_OVERHEAD_BYTES
}

/// A key that nobody else has.
pub(crate) fn unique_key() -> String {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Never on Linux; process and time are nearly as good.
        let nanos =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        bytes = (nanos ^ (u128::from(std::process::id()) << 96)).to_ne_bytes();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
