//! Reading an attempt's stdin from the coordinator.

use super::{Backoff, Bulk, is_final};
use crate::{
    attempt::stdin::{StdinError, StdinSource},
    domain::{AttemptKey, Phase},
    wire::attempt_to_proto,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use piecework_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// How many chunks wait for the attempt, in chunks of at most 256 KiB.
const CHUNKS_MAX: usize = 1;

/// Stdin by `ReadInput`.
#[derive(Clone, Debug)]
pub struct CoordinatorStdin {
    bulk: Bulk,
}

impl CoordinatorStdin {
    /// Over this connection.
    #[must_use]
    pub const fn new(bulk: Bulk) -> Self {
        Self { bulk }
    }
}

impl StdinSource for CoordinatorStdin {
    fn read(&self, attempt: AttemptKey, offset: u64) -> BoxStream<'static, Result<Bytes, StdinError>> {
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let bulk = self.bulk.clone();
        tokio::spawn(async move {
            let read = read_all(&bulk, attempt, offset, &sender);
            tokio::select! {
                result = read => if let Err(error) = result {
                    // Whoever has gone away does not need to know.
                    let _ = sender.send(Err(error)).await;
                },
                () = sender.closed() => {}
            }
        });
        ReceiverStream::new(receiver).boxed()
    }
}

async fn read_all(
    bulk: &Bulk,
    attempt: AttemptKey,
    mut offset: u64,
    sender: &mpsc::Sender<Result<Bytes, StdinError>>,
) -> Result<(), StdinError> {
    let mut backoff = Backoff::new();
    loop {
        let before = offset;
        match read_on(bulk, attempt, &mut offset, sender).await {
            Ok(()) => return Ok(()),
            // A coordinator that knows only of the stdin of reassemble tasks: there is none then.
            Err(status) if attempt.phase == Phase::Task && status.code() == Code::InvalidArgument => {
                return Ok(());
            }
            Err(status) if is_final(&status) => return Err(StdinError(status.message().to_owned())),
            Err(status) => {
                tracing::debug!(%attempt, %status, offset, "reading stdin broke; it is tried again")
            }
        }
        if offset > before {
            backoff = Backoff::new();
        }
        backoff.wait().await;
    }
}

async fn read_on(
    bulk: &Bulk,
    attempt: AttemptKey,
    offset: &mut u64,
    sender: &mpsc::Sender<Result<Bytes, StdinError>>,
) -> Result<(), Status> {
    let request = v1::ReadInputRequest { attempt: Some(attempt_to_proto(attempt)), offset: *offset };
    let mut stream = bulk.client().read_input(request).await?.into_inner();
    while let Some(chunk) = stream.message().await? {
        *offset += chunk.data.len() as u64;
        if sender.send(Ok(chunk.data)).await.is_err() {
            break;
        }
    }
    Ok(())
}
