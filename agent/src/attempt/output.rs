//! What an attempt prints on one stream: in memory while it is short, in a spool file once it is long, or once somebody
//! could want to follow it. While the disk is full it waits; once its attempt is killed, it is cut instead.

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
                // It was only there to be followed. The file goes once the report is in the outbox.
                let path = self.spool.path(self.attempt, self.stream);
                let bytes = insist("reading back a short output", &self.kill, || {
                    let path = path.clone();
                    blocking(move || fs::read(&path).map_err(|source| OutboxError::File { path, source }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Phase;
    use sha2::{Digest, Sha256};

    const STREAM: OutputStream = OutputStream::Stdout;

    fn key() -> AttemptKey {
        AttemptKey { project: 7, phase: Phase::Task, index: 1, attempt: 1 }
    }

    fn bench() -> (tempfile::TempDir, Spool, Sink) {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::open(dir.path()).expect("opens");
        let sink = Sink::new(spool.clone(), key(), STREAM, CancellationToken::new());
        (dir, spool, sink)
    }

    fn bytes(byte: u8, count: usize) -> Bytes {
        Bytes::from(vec![byte; count])
    }

    #[tokio::test]
    async fn short_output_stays_in_memory_and_is_not_acknowledged() {
        let (_dir, spool, mut sink) = bench();
        sink.append(0, bytes(b'a', INLINE_OUTPUT_BYTES_MAX)).await.expect("no gap");
        assert_eq!(sink.ack(), None);
        assert!(sink.newly_followed().is_none());
        assert!(!spool.path(key(), STREAM).exists());
        assert_eq!(sink.finish().await.output, Output::Inline(bytes(b'a', INLINE_OUTPUT_BYTES_MAX)));
    }

    #[tokio::test]
    async fn long_output_is_spooled_and_acknowledged() {
        let (_dir, spool, mut sink) = bench();
        sink.append(0, bytes(b'a', INLINE_OUTPUT_BYTES_MAX)).await.expect("no gap");
        sink.append(32_768, bytes(b'b', 1)).await.expect("no gap");
        assert_eq!(sink.ack(), None, "not worth a frame yet");
        sink.append(32_769, bytes(b'c', 200_000)).await.expect("no gap");
        assert_eq!(sink.ack(), Some(232_769));
        assert_eq!(sink.ack(), None);
        let growing = sink.newly_followed().expect("it can be followed");
        assert_eq!(*growing.length.borrow(), 232_769);
        assert!(sink.newly_followed().is_none(), "once");
        let all = fs::read(spool.path(key(), STREAM)).expect("reads");
        let expected = Output::Spooled { length: 232_769, sha256: Sha256::digest(&all).into() };
        assert_eq!(sink.finish().await.output, expected);
    }

    #[tokio::test]
    async fn bytes_that_came_before_are_skipped_and_gaps_refused() {
        let (_dir, _, mut sink) = bench();
        sink.append(0, Bytes::from_static(b"hello")).await.expect("no gap");
        sink.append(3, Bytes::from_static(b"lo wor")).await.expect("no gap");
        sink.append(0, Bytes::from_static(b"hell")).await.expect("no gap");
        let gap = sink.append(10, Bytes::from_static(b"!")).await.expect_err("a gap");
        assert_eq!(gap, OutputGap { expected: 9, got: 10 });
        sink.append(9, Bytes::from_static(b"ld")).await.expect("no gap");
        assert_eq!(sink.finish().await.output, Output::Inline(Bytes::from_static(b"hello world")));
    }

    #[tokio::test]
    async fn a_short_output_that_was_followed_rides_in_the_report_all_the_same() {
        let (_dir, spool, mut sink) = bench();
        sink.follow().await;
        assert!(sink.newly_followed().is_none(), "there is nothing yet");
        sink.append(0, Bytes::from_static(b"one ")).await.expect("no gap");
        let mut growing = sink.newly_followed().expect("it can be followed");
        sink.append(4, Bytes::from_static(b"two")).await.expect("no gap");
        assert_eq!(*growing.length.borrow_and_update(), 7);
        assert_eq!(fs::read(spool.path(key(), STREAM)).expect("reads"), b"one two");
        assert_eq!(sink.finish().await.output, Output::Inline(Bytes::from_static(b"one two")));
        assert!(growing.length.changed().await.is_err(), "the end is told");
        assert!(spool.path(key(), STREAM).exists(), "until the report is in the outbox");
    }

    #[tokio::test]
    async fn another_process_goes_on_with_what_was_spooled() {
        let (_dir, spool, mut sink) = bench();
        sink.append(0, bytes(b'a', 40_000)).await.expect("no gap");
        drop(sink);
        let mut sink =
            Sink::resume(spool.clone(), key(), STREAM, CancellationToken::new()).await.expect("reads");
        assert_eq!(sink.length(), 40_000);
        sink.append(40_000, bytes(b'b', 10)).await.expect("no gap");
        let all = [bytes(b'a', 40_000), bytes(b'b', 10)].concat();
        let expected = Output::Spooled { length: 40_010, sha256: Sha256::digest(all).into() };
        assert_eq!(sink.finish().await.output, expected);
        let other = Sink::resume(spool, AttemptKey { index: 2, ..key() }, STREAM, CancellationToken::new())
            .await
            .expect("reads");
        assert_eq!(other.finish().await.output, Output::Inline(Bytes::new()));
    }

    #[tokio::test]
    async fn a_disk_that_can_be_written_again_loses_nothing() {
        let (_dir, spool, mut blocked) = bench();
        // A directory is where the file is to be: it can't be made until that is gone.
        let path = spool.path(key(), STREAM);
        fs::create_dir(&path).expect("made");
        let appends = tokio::spawn(async move {
            blocked.append(0, bytes(b'b', 40_000)).await.expect("no gap");
            blocked.finish().await.output
        });
        fs::remove_dir(&path).expect("removed");
        let output = appends.await.expect("no panic");
        let expected = Output::Spooled { length: 40_000, sha256: Sha256::digest(bytes(b'b', 40_000)).into() };
        assert_eq!(output, expected);
    }

    #[tokio::test]
    async fn a_killed_attempt_does_not_wait_for_the_disk() {
        let (_dir, spool, mut sink) = bench();
        let kill = CancellationToken::new();
        sink.kill = kill.clone();
        fs::create_dir(spool.path(key(), STREAM)).expect("made");
        let appends = tokio::spawn(async move {
            sink.append(0, bytes(b'a', 10_000)).await.expect("no gap");
            sink.append(10_000, bytes(b'b', 200_000)).await.expect("no gap");
            sink.append(210_000, bytes(b'c', 10)).await.expect("no gap");
            (sink.length(), sink.ack(), sink.finish().await)
        });
        kill.cancel();
        let (length, ack, finished) = appends.await.expect("no panic");
        assert_eq!((length, ack), (210_010, Some(210_010)), "init must not wait");
        assert_eq!(finished, Finished { output: Output::Inline(bytes(b'a', 10_000)), cut: true });
    }

    #[tokio::test]
    async fn what_is_cut_frees_its_space_and_keeps_its_beginning() {
        let (_dir, spool, mut sink) = bench();
        sink.append(0, bytes(b'a', 100_000)).await.expect("no gap");
        sink.cut().await;
        assert!(!spool.path(key(), STREAM).exists());
        sink.append(100_000, bytes(b'b', 10)).await.expect("no gap");
        assert_eq!(sink.length(), 100_010);
        let output = Output::Inline(bytes(b'a', INLINE_OUTPUT_BYTES_MAX));
        assert_eq!(sink.finish().await, Finished { output, cut: true });
    }
}
