//! What an attempt prints on one stream: in memory while it is short, in a spool file once it is long, or once somebody
//! could want to follow it. While the disk is full it waits, but not for ever, and not if its attempt is killed: then it is cut.

#[cfg(test)]
mod tests;

use crate::{
    blocking::blocking,
    domain::{AttemptKey, Output, OutputStream},
    outbox::{OutboxError, Spool, SpoolFile},
};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::{Buf, Bytes, BytesMut};
use piecework_proto::INLINE_OUTPUT_BYTES_MAX;
use std::{
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// How much may be in the spool and not acknowledged to init, in bytes. Init keeps 1 MiB before it makes the task wait.
const ACK_EVERY_BYTES: u64 = 128 * 1024;

/// The first wait after a failed write, in milliseconds.
const WRITE_BACKOFF_MIN_MILLIS: u64 = 100;

/// The longest wait after a failed write, in milliseconds.
const WRITE_BACKOFF_MAX_MILLIS: u64 = 5000;

/// After how long of failed writes an attempt is given up, in seconds. Meanwhile its task is made to wait.
const GIVE_UP_SECS: u64 = 60;

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
    /// It could not be written: this is its beginning, and so much has come.
    Cut {
        kept: Bytes,
        came: u64,
        why: Cut,
    },
}

/// Why the end of an output was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Its attempt was killed.
    Killed,
    /// It could not be written for too long, and this is why. Its attempt is to be killed.
    GivenUp(String),
}

/// An output, when its attempt has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    /// What there is of it.
    pub output: Output,
    /// If that is not all.
    pub cut: Option<Cut>,
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

    /// It could not be written for too long: its attempt is to be killed.
    #[must_use]
    pub const fn is_given_up(&self) -> bool {
        matches!(self.place, Place::Cut { why: Cut::GivenUp(_), .. })
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
            let is_short = held.len() + bytes.len() <= INLINE_OUTPUT_BYTES_MAX;
            if is_short && !(self.followed && self.try_to_follow().await) {
                if let Place::Memory(held) = &mut self.place {
                    held.extend_from_slice(&bytes);
                }
                return Ok(());
            }
            self.move_to_spool().await;
        }
        self.write(bytes).await;
        Ok(())
    }

    /// From now on it can be followed: its bytes go to the spool as they come. Not if that can't be written.
    pub async fn follow(&mut self) {
        self.followed = true;
        if self.length() > 0 {
            self.try_to_follow().await;
        }
    }

    /// To be followed is a courtesy, for which what is short waits for no disk. Tells whether it can be.
    async fn try_to_follow(&mut self) -> bool {
        if let Err(error) = self.try_to_spool().await {
            tracing::debug!(attempt = %self.attempt, %error, "an output can't be followed");
            self.followed = false;
        }
        self.followed
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
            Place::Memory(bytes) => Ok(Output::Inline(bytes.split().freeze())),
            Place::Cut { why, .. } => Err(why.clone()),
            Place::Spool { length, .. } if *length <= INLINE_OUTPUT_BYTES_MAX as u64 => {
                self.read_back().await.map(Output::Inline)
            }
            Place::Spool { file, .. } => {
                let mut patience = Patience::new("synchronising output", &self.spool, &self.kill);
                loop {
                    let (taken, spool) = (file.take(), self.spool.clone());
                    let (attempt, stream) = (self.attempt, self.stream);
                    let (back, finished) =
                        blocking(move || with_file(taken, &spool, attempt, stream, |file| file.finish()))
                            .await;
                    *file = back;
                    match patience.after(finished).await {
                        Some(Ok((length, sha256))) => break Ok(Output::Spooled { length, sha256 }),
                        Some(Err(why)) => break Err(why),
                        None => {}
                    }
                }
            }
        };
        let why = match whole {
            Ok(output) => return Finished { output, cut: None },
            Err(why) => why,
        };
        self.cut(why.clone()).await;
        let kept = match self.place {
            Place::Cut { kept, .. } => kept,
            _ => Bytes::new(),
        };
        Finished { output: Output::Inline(kept), cut: Some(why) }
    }

    /// A short output from the spool. It was only there to be followed. Unless init was told that it is here, init has it
    /// too, and the file can go; else it goes once the report is in the outbox.
    async fn read_back(&self) -> Result<Bytes, Cut> {
        let is_spare = self.acked == 0;
        let mut patience = Patience::new("reading back a short output", &self.spool, &self.kill);
        loop {
            let (spool, attempt, stream) = (self.spool.clone(), self.attempt, self.stream);
            let read = blocking(move || {
                let path = spool.path(attempt, stream);
                let bytes = fs::read(&path).map_err(|source| OutboxError::File { path, source })?;
                if is_spare {
                    spool.remove(attempt, stream);
                }
                Ok(Bytes::from(bytes))
            });
            if let Some(done) = patience.after(read.await).await {
                return done;
            }
        }
    }

    /// Moves what is in memory to the spool. If that fails, it stays.
    async fn try_to_spool(&mut self) -> Result<(), OutboxError> {
        let Place::Memory(held) = &mut self.place else { return Ok(()) };
        let held = held.split().freeze();
        let (spool, attempt, stream, bytes) = (self.spool.clone(), self.attempt, self.stream, held.clone());
        let spooled = blocking(move || {
            let mut file = spool.create(attempt, stream)?;
            let appended = file.append(&bytes);
            if appended.is_err() {
                spool.remove(attempt, stream);
            }
            appended.map(|()| file)
        });
        match spooled.await {
            Ok(file) => {
                let length = held.len() as u64;
                self.place = Place::Spool { file: Some(file), length, grown: watch::Sender::new(length) };
                Ok(())
            }
            Err(error) => {
                self.place = Place::Memory(BytesMut::from(&*held));
                Err(error)
            }
        }
    }

    async fn move_to_spool(&mut self) {
        let (spool, kill) = (self.spool.clone(), self.kill.clone());
        let mut patience = Patience::new("spooling output", &spool, &kill);
        let why = loop {
            let spooled = self.try_to_spool().await;
            match patience.after(spooled).await {
                Some(Ok(())) => return,
                Some(Err(why)) => break why,
                None => {}
            }
        };
        self.cut(why).await;
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
        let mut patience = Patience::new("spooling output", &self.spool, &self.kill);
        let expected = *length;
        let why = loop {
            let (taken, spool, bytes) = (file.take(), self.spool.clone(), bytes.clone());
            let (attempt, stream) = (self.attempt, self.stream);
            let (back, written) = blocking(move || {
                with_file(taken, &spool, attempt, stream, |file| {
                    // What was in a file that had to be read again counts: it is the same bytes.
                    let known = usize::try_from(file.length().saturating_sub(expected)).unwrap_or(usize::MAX);
                    file.append(&bytes[known.min(bytes.len())..])?;
                    Ok(file.length())
                })
            })
            .await;
            *file = back;
            match patience.after(written).await {
                Some(Ok(written)) => {
                    *length = written;
                    grown.send_replace(written);
                    return;
                }
                Some(Err(why)) => break why,
                None => {}
            }
        };
        self.cut(why).await;
        if let Place::Cut { came, .. } = &mut self.place {
            *came += bytes.len() as u64;
        }
    }

    /// Keeps only the beginning, and frees the space of the rest.
    async fn cut(&mut self, why: Cut) {
        let (kept, came) = match &mut self.place {
            Place::Cut { .. } => return,
            Place::Memory(held) => (held.split().freeze(), None),
            Place::Spool { length, .. } => (Bytes::new(), Some(*length)),
        };
        tracing::warn!(attempt = %self.attempt, ?why, "what it printed can't be kept: output is cut");
        let (spool, attempt, stream) = (self.spool.clone(), self.attempt, self.stream);
        let beginning = blocking(move || {
            let mut beginning = Vec::new();
            if let Some(length) = came {
                // As much as can be read.
                let count = length.min(INLINE_OUTPUT_BYTES_MAX as u64);
                let _ = File::open(spool.path(attempt, stream))
                    .and_then(|file| file.take(count).read_to_end(&mut beginning));
            }
            spool.remove(attempt, stream);
            beginning
        });
        let beginning = beginning.await;
        let came = came.unwrap_or(kept.len() as u64);
        let kept = if kept.is_empty() { beginning.into() } else { kept };
        self.place = Place::Cut { kept, came, why };
    }
}

/// Works on a file, and gives it back whether that succeeds or not. Without one it is read again, so that what is in it is
/// known and not guessed.
fn with_file<T>(
    file: Option<SpoolFile>,
    spool: &Spool,
    attempt: AttemptKey,
    stream: OutputStream,
    work: impl FnOnce(&mut SpoolFile) -> Result<T, OutboxError>,
) -> (Option<SpoolFile>, Result<T, OutboxError>) {
    let opened = match file {
        Some(file) => Ok(file),
        None => match spool.resume(attempt, stream) {
            Ok(None) => spool.create(attempt, stream),
            Ok(Some(file)) => Ok(file),
            Err(error) => Err(error),
        },
    };
    match opened {
        Ok(mut file) => {
            let done = work(&mut file);
            (Some(file), done)
        }
        Err(error) => (None, Err(error)),
    }
}

/// Decides how long something is tried that needs the disk. Init keeps what is not acknowledged and makes the task wait, so
/// nothing is lost meanwhile.
struct Patience<'a> {
    what: &'static str,
    spool: &'a Spool,
    kill: &'a CancellationToken,
    /// What is tried now is tried for the last time.
    was_killed: bool,
    give_up_at: Instant,
    backoff: ExponentialBackoff,
}

impl<'a> Patience<'a> {
    fn new(what: &'static str, spool: &'a Spool, kill: &'a CancellationToken) -> Self {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(WRITE_BACKOFF_MIN_MILLIS))
            .with_max_delay(Duration::from_millis(WRITE_BACKOFF_MAX_MILLIS))
            .without_max_times()
            .build();
        let give_up_at = Instant::now() + Duration::from_secs(GIVE_UP_SECS);
        Self { what, spool, kill, was_killed: kill.is_cancelled(), give_up_at, backoff }
    }

    /// Takes what came of a try. None if it is to be tried again, which is after a wait. Once the attempt is killed, there is
    /// only one more try; and after too long, none.
    async fn after<T>(&mut self, tried: Result<T, OutboxError>) -> Option<Result<T, Cut>> {
        let (what, error) = match tried {
            Ok(done) => return Some(Ok(done)),
            Err(error) => (self.what, error),
        };
        if self.was_killed {
            tracing::error!(%error, "{what} failed");
            return Some(Err(Cut::Killed));
        }
        if Instant::now() >= self.give_up_at && self.spool.may_give_up() {
            tracing::error!(%error, "{what} failed for {GIVE_UP_SECS} s");
            return Some(Err(Cut::GivenUp(error.to_string())));
        }
        tracing::error!(%error, "{what} failed; it is tried again");
        let wait = self.backoff.next().unwrap_or(Duration::from_millis(WRITE_BACKOFF_MAX_MILLIS));
        tokio::select! {
            () = self.kill.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
        self.was_killed = self.kill.is_cancelled();
        None
    }
}
