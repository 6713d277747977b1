//! One output on its way in, segment by segment; interrupted uploads go on where the last durable segment ends.

use super::{
    OutputError, SEGMENT_BYTES, Stored,
    live::Live,
    objects::{Objects, OutputName},
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use std::{io, sync::Arc};

/// One output on its way in. It holds one segment in memory at the most. Dropping it leaves what is durable for a later
/// upload to go on from.
#[derive(Debug)]
pub struct Upload {
    pub(super) objects: Objects,
    name: OutputName,
    live: Arc<Live>,
    /// Which upload of this output it is.
    number: u64,
    /// Of all bytes before `position`.
    hasher: Sha256,
    /// Where the next bytes start.
    position: u64,
    complete: Option<Stored>,
}

impl Upload {
    /// Takes the output over, and finds out what is there. The stored segments are read once, for their digest.
    pub(super) async fn begin(
        objects: Objects,
        name: OutputName,
        live: Arc<Live>,
    ) -> Result<Self, OutputError> {
        let number = live.take_over();
        let io = Arc::clone(&live.io).lock_owned().await;
        live.check(number)?;
        objects.prepare(&name).await?;
        let complete = objects.marker(&name).await?;
        let position = match complete {
            Some(stored) => stored.length,
            None => objects.full_segments(&name).await? * SEGMENT_BYTES as u64,
        };
        let mut hasher = Sha256::new();
        if complete.is_none() {
            let mut stored = objects.range(name.clone(), 0, position);
            while let Some(bytes) = stored.try_next().await? {
                hasher.update(&bytes);
            }
        }
        live.found(position, complete);
        drop(io);
        Ok(Self { objects, name, live, number, hasher, position, complete })
    }

    /// All bytes before this offset are durable.
    #[must_use]
    pub fn durable_offset(&self) -> u64 {
        self.live.durable().min(self.position)
    }

    /// The output, if all of it was stored before this upload began: nothing is to be written.
    #[must_use]
    pub fn complete(&self) -> Option<Stored> {
        self.complete
    }

    /// Takes the next bytes, which start at `offset`; the first ones start at [`Upload::durable_offset`]. Returns the
    /// new durable offset if a segment became durable.
    ///
    /// # Errors
    /// If they don't start where the last ones ended, the upload was replaced, or they can't be kept. After an error, or
    /// if the call was dropped before it returned, the upload is of no more use: begin it again.
    pub async fn write(&mut self, offset: u64, mut bytes: Bytes) -> Result<Option<u64>, OutputError> {
        if offset != self.position || (self.complete.is_some() && !bytes.is_empty()) {
            return Err(OutputError::Gap { expected: self.position, got: offset });
        }
        self.hasher.update(&bytes);
        self.position += bytes.len() as u64;
        let mut durable = None;
        while !bytes.is_empty() {
            if self.live.add(self.number, &mut bytes)? {
                durable = Some(self.flush().await?);
            }
        }
        Ok(durable)
    }

    /// Makes all of it durable, and complete.
    ///
    /// # Errors
    /// If the upload was replaced, or it can't be kept.
    pub async fn finish(self) -> Result<Stored, OutputError> {
        if let Some(stored) = self.complete {
            return Ok(stored);
        }
        if self.flush().await? != self.position {
            return Err(OutputError::Replaced);
        }
        let stored = Stored { length: self.position, sha256: self.hasher.clone().finalize().into() };
        let (objects, name) = (self.objects.clone(), self.name.clone());
        self.exclusively(async move { objects.put_marker(&name, stored).await }).await?;
        self.live.completed(stored);
        Ok(stored)
    }

    /// Makes durable what has come so far; returns the new durable offset.
    async fn flush(&self) -> Result<u64, OutputError> {
        let (offset, bytes) = self.live.seal(self.number)?;
        if !bytes.is_empty() {
            let index = offset / SEGMENT_BYTES as u64;
            let (objects, name) = (self.objects.clone(), self.name.clone());
            self.exclusively(async move { objects.put_segment(&name, index, bytes).await }).await?;
        }
        self.live.sealed_is_durable(self.number)
    }

    /// Writes as a task of its own that keeps the lock, so that the write does not outlive the lock if this upload is
    /// dropped meanwhile.
    async fn exclusively(
        &self,
        write: impl Future<Output = Result<(), OutputError>> + Send + 'static,
    ) -> Result<(), OutputError> {
        let io = Arc::clone(&self.live.io).lock_owned().await;
        self.live.check(self.number)?;
        let writing = tokio::spawn(async move {
            let written = write.await;
            drop(io);
            written
        });
        let written = writing.await.map_err(|error| OutputError::from(io::Error::other(error)));
        let written = written.and_then(|written| written);
        if written.is_err() {
            self.live.give_up(self.number);
        }
        written
    }
}
