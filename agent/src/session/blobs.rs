//! Files that images are built from: fetched from the coordinator, verified, and kept by their digest within a bound.

use super::{Backoff, Bulk, is_final};
use crate::{
    blocking::blocking,
    runtime::{Blobs, ImageError},
};
use async_trait::async_trait;
use piecework_proto::v1;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::io::AsyncWriteExt;
use tonic::Status;

/// The most bytes that are kept, in bytes. Files that are in use count, but are not removed.
pub const BLOBS_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// The longest file that is taken, in bytes.
const BLOB_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// How long a file counts as in use after it was asked for, in seconds.
const IN_USE_SECS: u64 = 3600;

/// How often it is noted that a file is in use, in seconds.
const USED_EVERY_SECS: u64 = 60;

/// The most files of which it is remembered that they were verified, in files.
const VERIFIED_MAX: usize = 1024;

/// How often a file is fetched that can't be written here, or is not what it should be, in tries. A coordinator that is
/// away is waited for without a bound: nothing could be reported to it either.
const FETCH_TRIES: u32 = 4;

type Digest32 = [u8; 32];

/// The cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BlobCache {
    bulk: Bulk,
    dir: PathBuf,
    bytes_max: u64,
    /// One lock a file, so that it is fetched once.
    fetches: Arc<Mutex<BTreeMap<Digest32, Arc<tokio::sync::Mutex<()>>>>>,
    /// What files were like when they were read and found to be right. Nobody else writes here, but a disk may fail between
    /// one process of the agent and the next, and a person may tidy up.
    verified: Arc<Mutex<BTreeMap<Digest32, Stamp>>>,
}

/// What a file is like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: SystemTime,
}

impl Stamp {
    fn of(file: &fs::File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { inode: metadata.ino(), length: metadata.len(), modified: metadata.modified()? })
    }
}

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{}", .0.message())]
    Call(#[from] Status),
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("what came does not have the digest asked for")]
    Digest,
    #[error("it is longer than {BLOB_BYTES_MAX} bytes")]
    TooLong,
}

impl BlobCache {
    /// Opens the cache in this directory, and makes it if it is missing.
    ///
    /// # Errors
    /// If it can't be made or read.
    pub fn open(bulk: Bulk, dir: PathBuf, bytes_max: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "part") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { bulk, dir, bytes_max, fetches: Arc::default(), verified: Arc::default() })
    }

    async fn fetch_once(&self, sha256: &Digest32, path: &Path) -> Result<(), FetchError> {
        let part = path.with_extension("part");
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        let mut file = tokio::fs::File::from_std(file);
        let request = v1::ReadBlobRequest { sha256: sha256.to_vec() };
        let mut stream = self.bulk.client().read_blob(request).await?.into_inner();
        let mut digest = Sha256::new();
        let mut length = 0;
        while let Some(chunk) = stream.message().await? {
            length += chunk.data.len() as u64;
            if length > BLOB_BYTES_MAX {
                return Err(FetchError::TooLong);
            }
            digest.update(&chunk.data);
            file.write_all(&chunk.data).await?;
        }
        file.sync_all().await?;
        if digest.finalize()[..] != sha256[..] {
            return Err(FetchError::Digest);
        }
        fs::rename(&part, path)?;
        Ok(())
    }

    async fn fetch_with_patience(
        &self,
        sha256: &Digest32,
        name: &str,
        path: &Path,
    ) -> Result<(), ImageError> {
        let mut backoff = Backoff::new();
        let mut tries_left = FETCH_TRIES;
        loop {
            let error = match self.fetch_once(sha256, path).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // If it can't be removed, it is emptied by the next try, or removed at the next start.
            let _ = fs::remove_file(path.with_extension("part"));
            let why = format!("a file of the image ({name}) can't be had from the coordinator: {error}");
            match &error {
                FetchError::Call(status) if is_final(status) => return Err(ImageError::Unavailable(why)),
                FetchError::Call(_) => {}
                FetchError::TooLong => return Err(ImageError::Unavailable(why)),
                FetchError::Digest | FetchError::File(_) => tries_left -= 1,
            }
            match error {
                FetchError::Digest if tries_left == 0 => return Err(ImageError::Unavailable(why)),
                // This host's fault: another try, here or elsewhere, may do better.
                FetchError::File(_) if tries_left == 0 => return Err(ImageError::Engine(why)),
                _ => tracing::debug!(%why, "trying again"),
            }
            backoff.wait().await;
        }
    }

    fn verified(&self) -> MutexGuard<'_, BTreeMap<Digest32, Stamp>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the file is there and what it should be; then it counts as used now. It is read once, not at each use.
    fn is_intact(&self, path: &Path, sha256: &Digest32) -> io::Result<bool> {
        let mut file = fs::File::options().read(true).write(true).open(path)?;
        let mut stamp = Stamp::of(&file)?;
        if self.verified().get(sha256) != Some(&stamp) {
            let mut digest = Sha256::new();
            io::copy(&mut file, &mut digest)?;
            if digest.finalize()[..] != sha256[..] {
                return Ok(false);
            }
        }
        let now = SystemTime::now();
        if now.duration_since(stamp.modified).is_ok_and(|idle| idle >= Duration::from_secs(USED_EVERY_SECS)) {
            file.set_modified(now)?;
            stamp = Stamp::of(&file)?;
        }
        let mut verified = self.verified();
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(*sha256, stamp);
        Ok(true)
    }

    /// Removes what was not used for longest, until the rest fits.
    fn shrink(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
        for (used, length, path) in files {
            let idle = SystemTime::now().duration_since(used).unwrap_or_default();
            if total <= self.bytes_max || idle < Duration::from_secs(IN_USE_SECS) {
                break;
            }
            fs::remove_file(path)?;
            total -= length;
        }
        Ok(())
    }
}

#[async_trait]
impl Blobs for BlobCache {
    async fn fetch(&self, sha256: &Digest32) -> Result<PathBuf, ImageError> {
        let mut name = String::new();
        for byte in sha256 {
            // Writing to a string can't fail.
            let _ = write!(name, "{byte:02x}");
        }
        let path = self.dir.join(&name);
        let lock = {
            let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
            fetches.retain(|_, lock| Arc::strong_count(lock) > 1);
            fetches.entry(*sha256).or_default().clone()
        };
        let _fetching = lock.lock().await;
        let (cache, file, digest) = (self.clone(), path.clone(), *sha256);
        if blocking(move || cache.is_intact(&file, &digest)).await.unwrap_or(false) {
            return Ok(path);
        }
        self.fetch_with_patience(sha256, &name, &path).await?;
        let cache = self.clone();
        if let Err(error) = blocking(move || cache.shrink()).await {
            tracing::warn!(%error, "the cache of image files can't be tidied");
        }
        Ok(path)
    }
}
