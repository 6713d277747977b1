//! Reads an output while it comes in.

use super::{
    Bytestream, OutputError, SEGMENT_BYTES,
    live::{Found, Live},
    objects::{Objects, OutputName},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use tokio::sync::watch;

struct Follower {
    objects: Objects,
    name: OutputName,
    live: Arc<Live>,
    changes: watch::Receiver<u64>,
    offset: u64,
    /// It was found out what an earlier process has stored.
    looked: bool,
}

pub(super) fn follow(objects: Objects, name: OutputName, live: Arc<Live>, offset: u64) -> Bytestream {
    let changes = live.subscribe();
    let follower = Follower { objects, name, live, changes, offset, looked: false };
    stream::try_unfold(follower, |mut follower| async move {
        let bytes = follower.next().await?;
        Ok(bytes.map(|bytes| (bytes, follower)))
    })
    .boxed()
}

impl Follower {
    async fn next(&mut self) -> Result<Option<Bytes>, OutputError> {
        if !self.looked {
            self.look_into_the_past().await?;
            self.looked = true;
        }
        loop {
            // Marked as seen before it is looked at: a change in between wakes the wait below at once.
            self.changes.borrow_and_update();
            let bytes = match self.live.look(self.offset) {
                Found::Stored(end) => self.objects.chunk(&self.name, self.offset, end).await?,
                Found::Tail(bytes) => bytes,
                Found::End => return Ok(None),
                Found::Nothing => {
                    // The sender lives as long as `live` does.
                    if self.changes.changed().await.is_err() {
                        return Ok(None);
                    }
                    continue;
                }
            };
            self.offset += bytes.len() as u64;
            return Ok(Some(bytes));
        }
    }

    /// Without an upload in this process, only the object store knows what there is.
    async fn look_into_the_past(&self) -> Result<(), OutputError> {
        let io = self.live.io.lock().await;
        if self.live.is_untouched() {
            let complete = self.objects.marker(&self.name).await?;
            let durable = match complete {
                Some(stored) => stored.length,
                None => self.objects.full_segments(&self.name).await? * SEGMENT_BYTES as u64,
            };
            if self.live.is_untouched() {
                self.live.found(durable, complete);
            }
        }
        drop(io);
        Ok(())
    }
}
