//! Outputs that come in, or that somebody follows: what of them is not durable yet, and who may add to it.

use super::{CHUNK_BYTES_MAX, OutputError, SEGMENT_BYTES, Stored, objects::OutputName};
use bytes::{Bytes, BytesMut};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::watch;

/// All of them. One that nobody uploads or follows is forgotten, so there are no more than streams with peers.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    outputs: Arc<Mutex<HashMap<OutputName, Weak<Live>>>>,
}

impl Registry {
    pub(super) fn get(&self, name: &OutputName) -> Arc<Live> {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = outputs.get(name).and_then(Weak::upgrade) {
            return live;
        }
        outputs.retain(|_, live| live.strong_count() > 0);
        let live = Arc::new(Live::default());
        outputs.insert(name.clone(), Arc::downgrade(&live));
        live
    }
}

/// One output.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Held while objects are written or counted, so that a replaced upload's last write is over before the next begins.
    pub(super) io: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest upload's number; all others are replaced.
    upload: u64,
    /// All bytes before this offset are durable.
    durable: u64,
    /// The bytes from `durable` on that are being made durable, then those that came after: one segment in all.
    sealed: Bytes,
    open: BytesMut,
    complete: Option<Stored>,
}

/// What a follower finds at its offset.
#[derive(Debug)]
pub(super) enum Found {
    /// Stored bytes, up to this offset.
    Stored(u64),
    /// Bytes that are not durable yet.
    Tail(Bytes),
    /// Nothing yet.
    Nothing,
    /// The end.
    End,
}

impl Live {
    /// A new upload takes over; returns its number.
    pub(super) fn take_over(&self) -> u64 {
        let mut state = self.state();
        state.upload += 1;
        state.sealed = Bytes::new();
        state.open = BytesMut::new();
        state.upload
    }

    /// An upload that has failed is replaced by nobody: it can't go on, and its memory is free.
    pub(super) fn give_up(&self, upload: u64) {
        if self.check(upload).is_ok() {
            self.take_over();
        }
    }

    pub(super) fn check(&self, upload: u64) -> Result<(), OutputError> {
        if self.state().upload == upload { Ok(()) } else { Err(OutputError::Replaced) }
    }

    /// What was found in the object store. Only under the `io` lock.
    pub(super) fn found(&self, durable: u64, complete: Option<Stored>) {
        let mut state = self.state();
        state.durable = durable;
        state.complete = complete;
        drop(state);
        self.changed();
    }

    /// Adds as much of the bytes as the segment has room for, and takes that off them. True if the segment is full now.
    pub(super) fn add(&self, upload: u64, bytes: &mut Bytes) -> Result<bool, OutputError> {
        let mut state = self.state();
        if state.upload != upload {
            return Err(OutputError::Replaced);
        }
        let room = SEGMENT_BYTES.saturating_sub(state.open.len());
        let part = bytes.split_to(room.min(bytes.len()));
        state.open.extend_from_slice(&part);
        let full = state.open.len() == SEGMENT_BYTES;
        drop(state);
        self.changed();
        Ok(full)
    }

    /// What is to be made durable next, and where it starts.
    pub(super) fn seal(&self, upload: u64) -> Result<(u64, Bytes), OutputError> {
        let mut state = self.state();
        if state.upload != upload {
            return Err(OutputError::Replaced);
        }
        state.sealed = state.open.split().freeze();
        Ok((state.durable, state.sealed.clone()))
    }

    /// What was sealed is durable.
    pub(super) fn sealed_is_durable(&self, upload: u64) -> Result<u64, OutputError> {
        let mut state = self.state();
        if state.upload != upload {
            return Err(OutputError::Replaced);
        }
        state.durable += state.sealed.len() as u64;
        state.sealed = Bytes::new();
        Ok(state.durable)
    }

    /// Nothing is known of it in this process.
    pub(super) fn is_untouched(&self) -> bool {
        let state = self.state();
        state.upload == 0 && state.durable == 0 && state.complete.is_none()
    }

    pub(super) fn completed(&self, stored: Stored) {
        self.state().complete = Some(stored);
        self.changed();
    }

    pub(super) fn durable(&self) -> u64 {
        self.state().durable
    }

    /// What is at an offset now.
    pub(super) fn look(&self, offset: u64) -> Found {
        let state = self.state();
        let end = state.complete.map_or(state.durable, |stored| stored.length);
        if offset < end {
            return Found::Stored(end);
        }
        if state.complete.is_some() {
            return Found::End;
        }
        let mut start = usize::try_from(offset - state.durable).unwrap_or(usize::MAX);
        for part in [&state.sealed[..], &state.open[..]] {
            if start < part.len() {
                let length = (part.len() - start).min(CHUNK_BYTES_MAX);
                return Found::Tail(Bytes::copy_from_slice(&part[start..start + length]));
            }
            start -= part.len();
        }
        Found::Nothing
    }

    /// Marked as changed after anything that a follower could see.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
