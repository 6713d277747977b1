//! Bulk bytes: output too long for a report, and files of submissions. Behind the `object_store` crate, fsynced.

use crate::domain::{AttemptKey, Generation, OutputStream, ProjectId};
use bytes::Bytes;
use futures_util::{Stream, stream::BoxStream};
use std::{path::Path, sync::Arc};

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
    ObjectStore(#[from] object_store::Error),
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
    objects: Arc<dyn object_store::ObjectStore>,
}

/// One output on its way in. Dropping it leaves what is durable for a later upload to go on from.
#[derive(Debug)]
pub struct Upload {}

/// One file of a submission on its way in. Nothing of it stays if it is dropped unfinished.
#[derive(Debug)]
pub struct BlobUpload {}

impl Outputs {
    /// Opens the directory, and makes it if it is missing.
    ///
    /// # Errors
    /// If it can't be used.
    pub fn open(dir: &Path) -> Result<Self, OutputError> {
        let _ = dir;
        unimplemented!()
    }

    /// Begins or resumes an upload; an older one of the same output gets [`OutputError::Replaced`] from now on.
    ///
    /// # Errors
    /// If what is stored can't be read.
    pub async fn upload(&self, attempt: AttemptKey, stream: OutputStream) -> Result<Upload, OutputError> {
        let _ = (attempt, stream);
        unimplemented!()
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
        let _ = (attempt, stream);
        unimplemented!()
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
        let _ = (attempt, stream, offset);
        unimplemented!()
    }

    /// Reads an output while it comes in: what is there from the offset on, then what comes, then the end once it is
    /// complete. It waits through interrupted uploads and for uploads that have not begun. A short output never comes
    /// this way but in its report: the caller must stop following once the attempt has ended in the store.
    pub fn follow(&self, attempt: AttemptKey, stream: OutputStream, offset: u64) -> Bytestream {
        let _ = (attempt, stream, offset);
        unimplemented!()
    }

    /// Removes all that is stored of an attempt's output.
    ///
    /// # Errors
    /// If the object store fails.
    pub async fn remove_attempt(&self, attempt: AttemptKey) -> Result<(), OutputError> {
        let _ = attempt;
        unimplemented!()
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
        let _ = (project, generation);
        unimplemented!()
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
        let _ = (project, generation, offset);
        unimplemented!()
    }

    /// Begins a file of a submission, known by the SHA-256 of its contents.
    ///
    /// # Errors
    /// If the object store fails.
    pub async fn upload_blob(&self, sha256: [u8; 32]) -> Result<BlobUpload, OutputError> {
        let _ = sha256;
        unimplemented!()
    }

    /// Keeps a file of a submission, all at once; returns its length.
    ///
    /// # Errors
    /// If its contents are too long, or do not have the digest, or the source fails.
    pub async fn put_blob<S>(&self, sha256: [u8; 32], contents: S) -> Result<u64, OutputError>
    where
        S: Stream<Item = Result<Bytes, OutputError>> + Send,
    {
        let _ = (sha256, contents);
        unimplemented!()
    }

    /// The length of a file, if it is stored.
    ///
    /// # Errors
    /// If the object store fails.
    pub async fn has_blob(&self, sha256: [u8; 32]) -> Result<Option<u64>, OutputError> {
        let _ = sha256;
        unimplemented!()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`OutputError::Missing`] if it is not stored.
    pub async fn read_blob(&self, sha256: [u8; 32]) -> Result<Bytestream, OutputError> {
        let _ = (sha256, &self.objects);
        unimplemented!()
    }
}

impl Upload {
    /// All bytes before this offset are durable.
    #[must_use]
    pub fn durable_offset(&self) -> u64 {
        unimplemented!()
    }

    /// The output, if all of it was stored before this upload began: nothing is to be written.
    #[must_use]
    pub fn complete(&self) -> Option<Stored> {
        unimplemented!()
    }

    /// Takes the next bytes, which start at `offset`; the first ones start at [`Upload::durable_offset`]. Returns the
    /// new durable offset if a segment became durable.
    ///
    /// # Errors
    /// If they don't start where the last ones ended, the upload was replaced, or they can't be kept.
    pub async fn write(&mut self, offset: u64, bytes: Bytes) -> Result<Option<u64>, OutputError> {
        let _ = (offset, bytes);
        unimplemented!()
    }

    /// Makes all of it durable, and complete.
    ///
    /// # Errors
    /// If the upload was replaced, or it can't be kept.
    pub async fn finish(self) -> Result<Stored, OutputError> {
        unimplemented!()
    }
}

impl BlobUpload {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// If the file becomes too long, or it can't be kept.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), OutputError> {
        let _ = bytes;
        unimplemented!()
    }

    /// Checks the digest and makes the file durable; returns its length.
    ///
    /// # Errors
    /// If the digest is another, or it can't be kept.
    pub async fn finish(self) -> Result<u64, OutputError> {
        unimplemented!()
    }
}
