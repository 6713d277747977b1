//! What an attempt prints on one stream: in memory while it is short, in a spool file once it is long, or once somebody
//! could want to follow it. While the disk is full it waits; once its attempt is killed, it is cut instead.

#[cfg(test)]
mod tests;

use crate::{
    blocking::blocking,
    domain::{AttemptKey, Output, OutputStream},
    outbox::{OutboxError, Spool, SpoolFile},
};
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{Buf, Bytes, BytesMut};
use piecework_proto::INLINE_OUTPUT_BYTES_MAX;
use std::{
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How much may be in the spool and not acknowledged to init, in bytes. Init keeps 1 MiB before it makes the task wait.
const ACK_EVERY_BYTES: u64 = 128 * 1024;

/// The first wait after a failed write, in milliseconds.
const WRITE_BACKOFF_MIN_MILLIS: u64 = 100;

/// The longest wait after a failed write, in milliseconds.
const WRITE_BACKOFF_MAX_MILLIS: u64 = 5000;

/// An output that can be followed while it grows.
#[derive(Debug)]
pub struct Growing {
    /// Whose.
    pub attempt: AttemptKey,
    /// Which.
    pub stream: OutputStream,
    /// The file that it is in.
    pub path: PathBuf,
    /// How much is in the file. Ends when the attempt does.
    pub length: watch::Receiver<u64>,
}

/// The bytes do not go on where the last ones ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output goes on at {got}, but {expected} bytes have come")]
pub struct OutputGap {
    expected: u64,
    got: u64,
}

#[derive(Debug)]
enum Place {
    Memory(BytesMut),
    Spool {
        file: Option<SpoolFile>,
        length: u64,
        grown: watch::Sender<u64>,
    },
    /// It could not be written, and its attempt was killed: this is its beginning, and so much has come.
    Cut {
        kept: Bytes,
        came: u64,
    },
}

/// An output, when its attempt has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    /// What there is of it.
    pub output: Output,
    /// That is not all: the rest could not be kept, and the attempt was killed.
    pub cut: bool,
}

/// One output stream of one attempt.
#[derive(Debug)]
pub struct Sink {
    spool: Spool,
    attempt: AttemptKey,
    stream: OutputStream,
    place: Place,
    /// From the first byte on, it is to be in the spool.
    followed: bool,
    /// Its follower was made.
    announced: bool,
    acked: u64,
    /// Its attempt is killed: what can't be written is not waited for.
    kill: CancellationToken,
}

impl Sink {
    /// An empty one.
    #[must_use]
    pub fn new(spool: Spool, attempt: AttemptKey, stream: OutputStream, kill: CancellationToken) -> Self {
        let place = Place::Memory(BytesMut::new());
        Self { spool, attempt, stream, place, followed: false, announced: false, acked: 0, kill }
    }

    /// One that goes on where an earlier process of the agent left it.
    ///
    /// # Errors
    /// If what that left can't be read.
    pub async fn resume(
        spool: Spool,
        attempt: AttemptKey,
        stream: OutputStream,
        kill: CancellationToken,
    ) -> Result<Self, OutboxError> {
        let mut sink = Self::new(spool.clone(), attempt, stream, kill);
        if let Some(file) = blocking(move || spool.resume(attempt, stream)).await? {
            let length = file.length();
            sink.place = Place::Spool { file: Some(file), length, grown: watch::Sender::new(length) };
            sink.acked = length;
        }
        Ok(sink)
    }

    /// How much has come.
    #[must_use]
    pub fn length(&self) -> u64 {
        match &self.place {
            Place::Memory(bytes) => bytes.len() as u64,
            Place::Spool { length, .. } => *length,
            Place::Cut { came, .. } => *came,
        }
    }

    /// How much was acknowledged to init, if anything was.
    #[must_use]
    pub fn acked(&self) -> Option<u64> {
        (self.acked > 0).then_some(self.acked)
    }

    /// Takes bytes that start at `offset`; those that came before are skipped. While the disk is full, waits, unless the
    /// attempt is killed.
    ///
    /// # Errors
    /// If bytes are missing.
    pub async fn append(&mut self, offset: u64, mut bytes: Bytes) -> Result<(), OutputGap> {
        let expected = self.length();
        let Some(known) = expected.checked_sub(offset) else {
            return Err(OutputGap { expected, got: offset });
        };
        bytes.advance(usize::try_from(known).unwrap_or(usize::MAX).min(bytes.len()));
        if bytes.is_empty() {
            return Ok(());
        }
        if let Place::Memory(held) = &mut self.place {
            if !self.followed && held.len() + bytes.len() <= INLINE_OUTPUT_BYTES_MAX {
                held.extend_from_slice(&bytes);
                return Ok(());
            }
            self.move_to_spool().await;
        }
        self.write(bytes).await;
        Ok(())
    }

    /// From now on it can be followed: its bytes go to the spool as they come.
    pub async fn follow(&mut self) {
        self.followed = true;
        if self.length() > 0 {
            self.move_to_spool().await;
        }
    }

    /// What follows it, once, when there is something to follow.
    pub fn newly_followed(&mut self) -> Option<Growing> {
        let Place::Spool { grown, .. } = &self.place else { return None };
        if self.announced {
            return None;
        }
        self.announced = true;
        Some(Growing {
            attempt: self.attempt,
            stream: self.stream,
            path: self.spool.path(self.attempt, self.stream),
            length: grown.subscribe(),
        })
    }

    /// What to acknowledge to init, if it is time. Only what is in the spool outlives this process, and what is cut is not
    /// wanted.
    pub fn ack(&mut self) -> Option<u64> {
        let length = self.length();
        if matches!(self.place, Place::Memory(_)) || length - self.acked < ACK_EVERY_BYTES {
            return None;
        }
        self.acked = length;
        Some(length)
    }

    /// The whole output, durable if it is long. While the disk is full, waits, unless the attempt is killed.
    pub async fn finish(mut self) -> Finished {
        let whole = match &mut self.place {
            Place::Memory(bytes) => Some(Output::Inline(bytes.split().freeze())),
            Place::Cut { .. } => None,
            Place::Spool { length, .. } if *length <= INLINE_OUTPUT_BYTES_MAX as u64 => {
                // It was only there to be followed. Unless init was told that it is here, init has it too, and the file can
                // go; else it goes once the report is in the outbox.
                let is_spare = self.acked == 0;
                let bytes = insist("reading back a short output", &self.kill, || {
                    let (spool, attempt, stream) = (self.spool.clone(), self.attempt, self.stream);
                    blocking(move || {
                        let path = spool.path(attempt, stream);
                        let bytes = fs::read(&path).map_err(|source| OutboxError::File { path, source })?;
                        if is_spare {
                            spool.remove(attempt, stream);
                        }
                        Ok(bytes)
                    })
                });
                bytes.await.map(|bytes| Output::Inline(bytes.into()))
            }
            Place::Spool { file, .. } => {
                let finished = insist("synchronising output", &self.kill, || {
                    let taken = file.take();
                    let (spool, attempt, stream) = (self.spool.clone(), self.attempt, self.stream);
                    blocking(move || reopen(taken, &spool, attempt, stream)?.finish())
                });
                finished.await.map(|(length, sha256)| Output::Spooled { length, sha256 })
            }
        };
        if let Some(output) = whole {
            return Finished { output, cut: false };
        }
        self.cut().await;
        let kept = match self.place {
            Place::Cut { kept, .. } => kept,
            _ => Bytes::new(),
        };
        Finished { output: Output::Inline(kept), cut: true }
    }

    async fn move_to_spool(&mut self) {
        let Place::Memory(held) = &mut self.place else { return };
        let held = held.split().freeze();
        let file = insist("spooling output", &self.kill, || {
            let (spool, attempt, stream) = (self.spool.clone(), self.attempt, self.stream);
            let held = held.clone();
            blocking(move || {
                let mut file = spool.create(attempt, stream)?;
                file.append(&held)?;
                Ok(file)
            })
        })
        .await;
        let length = held.len() as u64;
        let Some(file) = file else {
            self.remove_file().await;
            self.place = Place::Cut { kept: held, came: length };
            return;
        };
        self.place = Place::Spool { file: Some(file), length, grown: watch::Sender::new(length) };
    }

    async fn write(&mut self, bytes: Bytes) {
        let (file, length, grown) = match &mut self.place {
            Place::Memory(_) => return,
            Place::Cut { came, .. } => {
                *came += bytes.len() as u64;
                return;
            }
            Place::Spool { file, length, grown } => (file, length, grown),
        };
        let (spool, attempt, stream) = (&self.spool, self.attempt, self.stream);
        let expected = *length;
        let written = insist("spooling output", &self.kill, || {
            let (taken, bytes, spool) = (file.take(), bytes.clone(), spool.clone());
            blocking(move || {
                let mut file = reopen(taken, &spool, attempt, stream)?;
                // What a failed attempt at this left behind counts: it is the same bytes.
                let known = usize::try_from(file.length().saturating_sub(expected)).unwrap_or(usize::MAX);
                file.append(&bytes[known.min(bytes.len())..])?;
                Ok(file)
            })
        })
        .await;
        if let Some(written) = written {
            *length = written.length();
            *file = Some(written);
            grown.send_replace(*length);
            return;
        }
        self.cut().await;
        if let Place::Cut { came, .. } = &mut self.place {
            *came += bytes.len() as u64;
        }
    }

    /// Keeps only the beginning of what is in the spool, and frees the space of the rest.
    async fn cut(&mut self) {
        let Place::Spool { length, .. } = self.place else { return };
        let (path, count) =
            (self.spool.path(self.attempt, self.stream), length.min(INLINE_OUTPUT_BYTES_MAX as u64));
        let kept = blocking(move || {
            let mut kept = Vec::new();
            // As much as can be read.
            let _ = File::open(path).and_then(|file| file.take(count).read_to_end(&mut kept));
            kept
        });
        let kept = kept.await.into();
        self.place = Place::Cut { kept, came: length };
        self.remove_file().await;
    }

    async fn remove_file(&self) {
        tracing::warn!(attempt = %self.attempt, "what it printed can't be kept, and it is killed: output is cut");
        let (spool, attempt, stream) = (self.spool.clone(), self.attempt, self.stream);
        blocking(move || spool.remove(attempt, stream)).await;
    }
}

/// After a failure the file is read again, so that what is in it is known and not guessed.
fn reopen(
    file: Option<SpoolFile>,
    spool: &Spool,
    attempt: AttemptKey,
    stream: OutputStream,
) -> Result<SpoolFile, OutboxError> {
    match file {
        Some(file) => Ok(file),
        None => match spool.resume(attempt, stream)? {
            Some(file) => Ok(file),
            None => spool.create(attempt, stream),
        },
    }
}

/// Tries until it succeeds. Init keeps what is not acknowledged and makes the task wait, so nothing is lost meanwhile. None
/// if the attempt is killed and one more try failed: that must not wait for a disk.
async fn insist<T, F: Future<Output = Result<T, OutboxError>>>(
    what: &str,
    kill: &CancellationToken,
    mut work: impl FnMut() -> F,
) -> Option<T> {
    let mut backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(WRITE_BACKOFF_MIN_MILLIS))
        .with_max_delay(Duration::from_millis(WRITE_BACKOFF_MAX_MILLIS))
        .without_max_times()
        .build();
    loop {
        let killed = kill.is_cancelled();
        match work().await {
            Ok(done) => return Some(done),
            Err(error) if killed => {
                tracing::error!(%error, "{what} failed");
                return None;
            }
            Err(error) => {
                tracing::error!(%error, "{what} failed; it is tried again");
                let wait = backoff.next().unwrap_or(Duration::from_millis(WRITE_BACKOFF_MAX_MILLIS));
                tokio::select! {
                    () = kill.cancelled() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}
