//! Spool files: output too long for a report, appended while the attempt runs.

use super::OutboxError;
use crate::domain::{AttemptKey, OutputStream};
use nix::sys::statvfs::statvfs;
use piecework_proto::INLINE_OUTPUT_BYTES_MAX;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How much of the disk long output leaves free, in bytes: endings, notes and the reports of what is uploaded need it, and
/// without them nothing would ever leave.
const RESERVE_BYTES: u64 = 32 * 1024 * 1024;

/// How far apart attempts are given up whose output has no room, in seconds: what one had may be enough for the others.
const GIVE_UP_EVERY_SECS: u64 = 10;

/// How much of a spool file is read at a time, in bytes.
const READ_BYTES: usize = 256 * 1024;

/// The directory of spool files. Cheap to clone. All calls block.
#[derive(Clone, Debug)]
pub struct Spool {
    dir: PathBuf,
    reserve_bytes: u64,
    /// When an attempt was given up last.
    gave_up: Arc<Mutex<Option<Instant>>>,
}

impl Spool {
    /// Opens the directory, and makes it if it is missing.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn open(dir: &Path) -> Result<Self, OutboxError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(OutboxError::file(dir))?;
        Ok(Self { dir: dir.to_owned(), reserve_bytes: RESERVE_BYTES, gave_up: Arc::default() })
    }

    /// Changes how much is left free.
    #[cfg(test)]
    pub(crate) fn set_reserve(&mut self, bytes: u64) {
        self.reserve_bytes = bytes;
    }

    /// Whether an attempt whose output could not be written for long is to be given up now. If so, it is: others have to
    /// wait, and see whether there is room then.
    pub(crate) fn may_give_up(&self) -> bool {
        let mut gave_up = self.gave_up.lock().unwrap_or_else(PoisonError::into_inner);
        let may = gave_up.is_none_or(|at| at.elapsed() >= Duration::from_secs(GIVE_UP_EVERY_SECS));
        if may {
            *gave_up = Some(Instant::now());
        }
        may
    }

    /// Whether so much more leaves the reserve.
    fn has_room(&self, bytes: u64) -> bool {
        // A disk that can't be looked at is found out about when it is written to.
        let Ok(stat) = statvfs(&self.dir) else { return true };
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        free >= self.reserve_bytes.saturating_add(bytes)
    }

    /// The file of one output. It need not be there.
    #[must_use]
    pub fn path(&self, attempt: AttemptKey, stream: OutputStream) -> PathBuf {
        let extension = match stream {
            OutputStream::Stdout => "out",
            OutputStream::Stderr => "err",
        };
        self.dir.join(format!("{attempt}.{extension}"))
    }

    /// How long a file is; 0 if it is not there.
    ///
    /// # Errors
    /// If that can't be found out.
    pub fn length(&self, attempt: AttemptKey, stream: OutputStream) -> Result<u64, OutboxError> {
        let path = self.path(attempt, stream);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(OutboxError::file(&path)(error)),
        }
    }

    /// Begins a file. One that is there already is emptied.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn create(&self, attempt: AttemptKey, stream: OutputStream) -> Result<SpoolFile, OutboxError> {
        let path = self.path(attempt, stream);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(OutboxError::file(&path))?;
        Ok(SpoolFile { spool: self.clone(), path, file, length: 0, digest: Sha256::new() })
    }

    /// Goes on with the file that an earlier process left, if there is one.
    ///
    /// # Errors
    /// If it is there and can't be read.
    pub fn resume(
        &self,
        attempt: AttemptKey,
        stream: OutputStream,
    ) -> Result<Option<SpoolFile>, OutboxError> {
        let path = self.path(attempt, stream);
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OutboxError::file(&path)(error)),
        };
        let mut digest = Sha256::new();
        let mut length = 0;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.read(&mut buffer).map_err(OutboxError::file(&path))? {
                0 => break,
                count => {
                    digest.update(&buffer[..count]);
                    length += count as u64;
                }
            }
        }
        Ok(Some(SpoolFile { spool: self.clone(), path, file, length, digest }))
    }

    /// Removes a file. One that can't be removed is removed as an orphan at the next start.
    pub fn remove(&self, attempt: AttemptKey, stream: OutputStream) {
        let path = self.path(attempt, stream);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a spool file can't be removed");
        }
    }

    /// Removes all files but these. Returns how many.
    pub(super) fn remove_all_but(&self, wanted: &BTreeSet<PathBuf>) -> Result<usize, OutboxError> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.dir).map_err(OutboxError::file(&self.dir))? {
            let path = entry.map_err(OutboxError::file(&self.dir))?.path();
            if !wanted.contains(&path) {
                fs::remove_file(&path).map_err(OutboxError::file(&path))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// A spool file that is being written. All calls block.
#[derive(Debug)]
pub struct SpoolFile {
    spool: Spool,
    path: PathBuf,
    file: File,
    length: u64,
    digest: Sha256,
}

impl SpoolFile {
    /// How much is in it.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Appends some bytes: they survive the process from here on, but not yet the host. After an error nothing counts as
    /// appended, and it can be called again. What is short may use the reserve: it rides in its report in the end.
    ///
    /// # Errors
    /// If they can't be written, or would not leave the reserve.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), OutboxError> {
        let is_long = self.length + bytes.len() as u64 > INLINE_OUTPUT_BYTES_MAX as u64;
        if is_long && !self.spool.has_room(bytes.len() as u64) {
            return Err(OutboxError::Full);
        }
        self.file.write_all_at(bytes, self.length).map_err(OutboxError::file(&self.path))?;
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Makes all of it durable, and tells its length and digest.
    ///
    /// # Errors
    /// If it can't be synchronised. It can be called again.
    pub fn finish(&self) -> Result<(u64, [u8; 32]), OutboxError> {
        let failed = || OutboxError::file(&self.path);
        // An append that failed may have left bytes behind the end.
        self.file.set_len(self.length).map_err(failed())?;
        self.file.sync_all().map_err(failed())?;
        if let Some(dir) = self.path.parent() {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed())?;
        }
        Ok((self.length, self.digest.clone().finalize().into()))
    }
}
