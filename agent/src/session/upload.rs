//! One call of `UploadOutput`: says which output, hears how much of it is durable, and goes on from there.

use crate::{
    blocking::blocking,
    domain::{AttemptKey, OutputStream},
    wire::{attempt_to_proto, stream_to_proto},
};
use bytes::Bytes;
use piecework_proto::{
    CHUNK_BYTES_MAX,
    v1::{self, agent_session_client::AgentSessionClient},
};
use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf, sync::Arc};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// How many chunks wait to be sent, in chunks of at most 256 KiB.
const CHUNKS_MAX: usize = 2;

/// Which output, and where it is here.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) attempt: AttemptKey,
    pub(super) stream: OutputStream,
    pub(super) path: PathBuf,
}

/// Why an upload did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("{}", .0.message())]
    Call(#[from] Status),
    #[error("the spool file can't be read: {0}")]
    File(#[from] io::Error),
    #[error("the coordinator has {durable} bytes of an output of {length}")]
    TooMuch { durable: u64, length: u64 },
    #[error("the coordinator ended the call early")]
    Early,
}

/// What the coordinator says of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// So much is durable.
    Durable(u64),
    /// All of it is.
    Complete,
    /// It is not wanted.
    Unwanted,
}

/// An open call.
pub(super) struct Upload {
    source: Source,
    file: Arc<File>,
    chunks: mpsc::Sender<v1::OutputChunk>,
    acks: Streaming<v1::OutputAck>,
    /// What was sent, or was durable at the beginning.
    pub(super) offset: u64,
}

impl Upload {
    /// Opens the call. Returns it with what the coordinator has already.
    pub(super) async fn open(
        client: &mut AgentSessionClient<Channel>,
        source: Source,
    ) -> Result<(Self, Told), UploadError> {
        let path = source.path.clone();
        let file = Arc::new(blocking(move || File::open(path)).await?);
        let (chunks, receiver) = mpsc::channel(CHUNKS_MAX);
        let first = v1::OutputChunk {
            attempt: Some(attempt_to_proto(source.attempt)),
            stream: stream_to_proto(source.stream).into(),
            offset: 0,
            data: Bytes::new(),
            end: false,
        };
        chunks.try_send(first).map_err(|_| UploadError::Early)?;
        let acks = client.upload_output(ReceiverStream::new(receiver)).await?.into_inner();
        let mut upload = Self { source, file, chunks, acks, offset: 0 };
        let told = upload.told().await?;
        if let Told::Durable(durable) = told {
            upload.offset = durable;
        }
        Ok((upload, told))
    }

    /// Waits for the coordinator's next word. Cancel-safe.
    pub(super) async fn told(&mut self) -> Result<Told, UploadError> {
        let ack = self.acks.message().await?.ok_or(UploadError::Early)?;
        Ok(if ack.unwanted {
            Told::Unwanted
        } else if ack.complete {
            Told::Complete
        } else {
            Told::Durable(ack.durable_offset)
        })
    }

    /// Sends what is there up to `length`; with `end`, says that this is all. Takes the coordinator's words meanwhile, and
    /// stops at one that ends the call.
    pub(super) async fn send_to(&mut self, length: u64, end: bool) -> Result<Option<Told>, UploadError> {
        if self.offset > length {
            return Err(UploadError::TooMuch { durable: self.offset, length });
        }
        loop {
            let count = (length - self.offset).min(CHUNK_BYTES_MAX as u64);
            let last = self.offset + count == length;
            if count == 0 && !end {
                return Ok(None);
            }
            let chunk = v1::OutputChunk {
                attempt: None,
                stream: 0,
                offset: self.offset,
                data: self.read(count).await?,
                end: end && last,
            };
            let chunks = self.chunks.clone();
            let permit = loop {
                tokio::select! {
                    // An error means that the call is over: its status, which says why, is what comes next.
                    Ok(permit) = chunks.reserve() => break permit,
                    told = self.told() => match told? {
                        Told::Durable(_) => {}
                        told => return Ok(Some(told)),
                    },
                }
            };
            permit.send(chunk);
            self.offset += count;
            if last {
                return Ok(None);
            }
        }
    }

    async fn read(&self, count: u64) -> Result<Bytes, UploadError> {
        let (file, offset) = (self.file.clone(), self.offset);
        let bytes = blocking(move || {
            let mut bytes = vec![0; usize::try_from(count).unwrap_or(CHUNK_BYTES_MAX)];
            file.read_exact_at(&mut bytes, offset).map(|()| bytes)
        });
        Ok(bytes.await?.into())
    }

    pub(super) const fn source(&self) -> &Source {
        &self.source
    }
}
