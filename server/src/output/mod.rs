//! Bulk bytes: output too long for a report, and files of submissions. Behind the `object_store` crate, fsynced.
//!
//! An output is a row of segments and, once it is complete, a marker with its length and digest. In memory there is one
//! segment at the most for each upload in progress, and one chunk for each reader.

mod blobs;
mod follow;
mod live;
mod objects;
mod upload;

#[cfg(test)]
mod tests;

pub use blobs::BlobUpload;
pub use upload::Upload;

use crate::domain::{AttemptKey, Generation, OutputStream, ProjectId};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream::BoxStream};
use live::Registry;
use object_store::local::LocalFileSystem;
use objects::{Objects, OutputName};
use std::{error::Error, io, path::Path, pin::pin, sync::Arc};

/// The length of one stored segment, except an output's last: bytes become durable a segment at a time.
pub const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// The longest chunk that a [`Bytestream`] yields.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// The longest file of a submission.
pub const BLOB_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The longest output that rides in a report or in a row; anything longer is kept here.
pub const INLINE_BYTES_MAX: usize = 32 * 1024;

/// Why bulk bytes can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// No space is left.
    #[error("the disk that holds the output is full")]
    Full,
    /// A chunk does not start where the last one ended.
    #[error("output chunk at offset {got}, expected {expected}")]
    Gap {
        /// Where it should have started.
        expected: u64,
        /// Where it started.
        got: u64,
    },
    /// A newer upload of the same output has begun.
    #[error("a newer upload has taken over this output")]
    Replaced,
    /// The contents do not have the digest that was announced.
    #[error("the contents do not have the announced SHA-256")]
    Digest,
    /// A file is longer than [`BLOB_BYTES_MAX`].
    #[error("the file is longer than {BLOB_BYTES_MAX} bytes")]
    TooLong,
    /// They are not there.
    #[error("no such bytes are stored")]
    Missing,
    /// What is stored can't be understood.
    #[error("stored output is damaged: {0}")]
    Damaged(String),
    /// The object store failed.
    #[error("the object store failed: {0}")]
    ObjectStore(#[source] object_store::Error),
}

impl From<object_store::Error> for OutputError {
    fn from(error: object_store::Error) -> Self {
        if matches!(error, object_store::Error::NotFound { .. }) {
            return Self::Missing;
        }
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        let mut full = false;
        while let Some(error) = cause {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            full |= matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
            cause = error.source();
        }
        if full { Self::Full } else { Self::ObjectStore(error) }
    }
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        Self::from(object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(error) })
    }
}

impl OutputError {
    /// Whether the same call may go well later: the disk was full or failed, not the question.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Full | Self::ObjectStore(_) | Self::Replaced)
    }
}

/// A stream of bytes in chunks of at most 256 KiB.
pub type Bytestream = BoxStream<'static, Result<Bytes, OutputError>>;

/// A complete stored output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its length.
    pub length: u64,
    /// Its digest.
    pub sha256: [u8; 32],
}

/// All bulk bytes of a coordinator. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outputs {
    objects: Objects,
    live: Registry,
}

impl Outputs {
    /// Opens the directory, and makes it if it is missing.
    ///
    /// # Errors
    /// If it can't be used.
    pub fn open(dir: &Path) -> Result<Self, OutputError> {
        std::fs::create_dir_all(dir)?;
        // The new directory's own entry must outlive a power cut, too.
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::File::open(parent)?.sync_all()?;
        }
        let directory = dir.canonicalize()?;
        let store = Arc::new(LocalFileSystem::new_with_prefix(&directory)?.with_fsync(true));
        let objects = Objects::new(store, directory);
        objects.sweep_blobs();
        Ok(Self { objects, live: Registry::default() })
    }

    /// Begins or resumes an upload; an older one of the same output gets [`OutputError::Replaced`] from now on.
    ///
    /// # Errors
    /// If what is stored can't be read.
    pub async fn upload(&self, attempt: AttemptKey, stream: OutputStream) -> Result<Upload, OutputError> {
        let name = OutputName::of_attempt(attempt, stream);
        let live = self.live.get(&name);
        Upload::begin(self.objects.clone(), name, live).await
    }

    /// The complete stored output, if there is one.
    ///
    /// # Errors
    /// If it can't be read.
    pub async fn stored(
        &self,
        attempt: AttemptKey,
        stream: OutputStream,
    ) -> Result<Option<Stored>, OutputError> {
        self.objects.marker(&OutputName::of_attempt(attempt, stream)).await
    }

    /// Reads a complete stored output from an offset on.
    ///
    /// # Errors
    /// [`OutputError::Missing`] if it is not complete.
    pub async fn read(
        &self,
        attempt: AttemptKey,
        stream: OutputStream,
        offset: u64,
    ) -> Result<Bytestream, OutputError> {
        self.read_complete(OutputName::of_attempt(attempt, stream), offset).await
    }

    /// Reads an output while it comes in: what is there from the offset on, then what comes, then the end once it is
    /// complete. It waits through interrupted uploads and for uploads that have not begun. A short output never comes
    /// this way but in its report: the caller must stop following once the attempt has ended in the store.
    pub fn follow(&self, attempt: AttemptKey, stream: OutputStream, offset: u64) -> Bytestream {
        let name = OutputName::of_attempt(attempt, stream);
        let live = self.live.get(&name);
        follow::follow(self.objects.clone(), name, live, offset)
    }

    /// Removes all that is stored of an attempt's output.
    ///
    /// # Errors
    /// If the object store fails.
    pub async fn remove_attempt(&self, attempt: AttemptKey) -> Result<(), OutputError> {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            self.remove(&OutputName::of_attempt(attempt, stream)).await?;
        }
        Ok(())
    }

    /// Begins a project's own result anew; what was there of that generation is removed.
    ///
    /// # Errors
    /// If the object store fails.
    pub async fn upload_result(
        &self,
        project: ProjectId,
        generation: Generation,
    ) -> Result<Upload, OutputError> {
        let name = OutputName::of_result(project, generation);
        self.remove(&name).await?;
        let live = self.live.get(&name);
        Upload::begin(self.objects.clone(), name, live).await
    }

    /// Reads a project's own complete result from an offset on.
    ///
    /// # Errors
    /// [`OutputError::Missing`] if it is not complete.
    pub async fn read_result(
        &self,
        project: ProjectId,
        generation: Generation,
        offset: u64,
    ) -> Result<Bytestream, OutputError> {
        self.read_complete(OutputName::of_result(project, generation), offset).await
    }

    /// Begins a file of a submission, known by the SHA-256 of its contents.
    ///
    /// # Errors
    /// If the object store fails.
    pub async fn upload_blob(&self, sha256: [u8; 32]) -> Result<BlobUpload, OutputError> {
        BlobUpload::begin(self.objects.clone(), sha256).await
    }

    /// Keeps a file of a submission, all at once; returns its length.
    ///
    /// # Errors
    /// If its contents are too long, or do not have the digest, or the source fails.
    pub async fn put_blob<S>(&self, sha256: [u8; 32], contents: S) -> Result<u64, OutputError>
    where
        S: Stream<Item = Result<Bytes, OutputError>> + Send,
    {
        let mut upload = self.upload_blob(sha256).await?;
        let mut contents = pin!(contents);
        while let Some(bytes) = contents.try_next().await? {
            upload.write(bytes).await?;
        }
        upload.finish().await
    }

    /// The length of a file, if it is stored.
    ///
    /// # Errors
    /// If the object store fails.
    pub async fn has_blob(&self, sha256: [u8; 32]) -> Result<Option<u64>, OutputError> {
        blobs::length(&self.objects, sha256).await
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`OutputError::Missing`] if it is not stored.
    pub async fn read_blob(&self, sha256: [u8; 32]) -> Result<Bytestream, OutputError> {
        let length = self.has_blob(sha256).await?.ok_or(OutputError::Missing)?;
        Ok(blobs::read(self.objects.clone(), sha256, length))
    }

    async fn read_complete(&self, name: OutputName, offset: u64) -> Result<Bytestream, OutputError> {
        let stored = self.objects.marker(&name).await?.ok_or(OutputError::Missing)?;
        Ok(self.objects.range(name, offset, stored.length))
    }

    /// Any upload of it ends first.
    async fn remove(&self, name: &OutputName) -> Result<(), OutputError> {
        let live = self.live.get(name);
        live.take_over();
        let io = live.io.lock().await;
        self.objects.remove(name).await?;
        live.found(0, None);
        drop(io);
        Ok(())
    }
}
