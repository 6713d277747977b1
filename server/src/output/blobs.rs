//! Files of submissions, known by the SHA-256 of their contents.

use super::{BLOB_BYTES_MAX, Bytestream, CHUNK_BYTES_MAX, OutputError, objects::Objects};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};

/// How many bytes are gathered before they are written.
const PART_BYTES: usize = 1024 * 1024;

/// One file of a submission on its way in. Nothing of it stays if it is dropped unfinished.
#[derive(Debug)]
pub struct BlobUpload {
    objects: Objects,
    sha256: [u8; 32],
    parts: Box<dyn MultipartUpload>,
    hasher: Sha256,
    length: u64,
    gathered: BytesMut,
}

impl BlobUpload {
    pub(super) async fn begin(objects: Objects, sha256: [u8; 32]) -> Result<Self, OutputError> {
        objects.keep_reserve()?;
        objects.prepare_blob(&sha256).await?;
        let parts = objects.store.put_multipart(&super::objects::blob_path(&sha256)).await?;
        let gathered = BytesMut::new();
        Ok(Self { objects, sha256, parts, hasher: Sha256::new(), length: 0, gathered })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// If the file becomes too long, or it can't be kept.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), OutputError> {
        self.length += bytes.len() as u64;
        if self.length > BLOB_BYTES_MAX {
            return Err(OutputError::TooLong);
        }
        self.hasher.update(&bytes);
        self.gathered.extend_from_slice(&bytes);
        if self.gathered.len() >= PART_BYTES {
            self.put_part().await?;
        }
        Ok(())
    }

    /// Checks the digest and makes the file durable; returns its length.
    ///
    /// # Errors
    /// If the digest is another, or it can't be kept.
    pub async fn finish(mut self) -> Result<u64, OutputError> {
        if <[u8; 32]>::from(self.hasher.finalize_reset()) != self.sha256 {
            return Err(OutputError::Digest);
        }
        self.put_part().await?;
        self.parts.complete().await?;
        Ok(self.length)
    }

    #[cfg(test)]
    pub(super) fn pretend_length(&mut self, length: u64) {
        self.length = length;
    }

    async fn put_part(&mut self) -> Result<(), OutputError> {
        if !self.gathered.is_empty() {
            self.objects.keep_reserve()?;
            self.parts.put_part(PutPayload::from(self.gathered.split().freeze())).await?;
        }
        Ok(())
    }
}

/// The length of a file, if it is stored.
pub(super) async fn length(objects: &Objects, sha256: [u8; 32]) -> Result<Option<u64>, OutputError> {
    match objects.store.head(&super::objects::blob_path(&sha256)).await {
        Ok(meta) => Ok(Some(meta.size)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads a file of a known length.
pub(super) fn read(objects: Objects, sha256: [u8; 32], length: u64) -> Bytestream {
    stream::try_unfold((objects, 0), move |(objects, offset)| async move {
        if offset >= length {
            return Ok(None);
        }
        let end = length.min(offset + CHUNK_BYTES_MAX as u64);
        let bytes = objects.store.get_range(&super::objects::blob_path(&sha256), offset..end).await?;
        Ok(Some((bytes, (objects, end))))
    })
    .boxed()
}
