//! What objects there are, and how they are named, written and read. One output is a directory of segments, and a marker
//! that is written last: without it the output is not complete, whatever else is there.

use super::{Bytestream, CHUNK_BYTES_MAX, OutputError, SEGMENT_BYTES, Stored};
use crate::{
    domain::{AttemptKey, Generation, OutputStream, ProjectId},
    store::disk,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, path::Path};
use std::{
    fmt::Write as _,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// Nothing is written while the disk has less than this free, so that the store on it can still record endings.
pub(super) const RESERVE_BYTES: u64 = 32 * 1024 * 1024;
/// The first line of every marker.
const MARKER: &str = "piecework output 1";

/// The objects, and the directory that they are in.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    directory: PathBuf,
    reserve_bytes: u64,
    /// Held while directories are made.
    making: Arc<Mutex<()>>,
}

/// Names all objects of one output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OutputName(Path);

impl OutputName {
    pub(super) fn of_attempt(attempt: AttemptKey, stream: OutputStream) -> Self {
        let AttemptKey { task, attempt } = attempt;
        let stream = match stream {
            OutputStream::Stdout => "stdout",
            OutputStream::Stderr => "stderr",
        };
        let last = format!("{}.{attempt}.{stream}", task.index);
        Self(Path::from_iter(["attempts".to_owned(), task.project.to_string(), task.phase.to_string(), last]))
    }

    pub(super) fn of_result(project: ProjectId, generation: Generation) -> Self {
        Self(Path::from_iter(["results".to_owned(), format!("{project}.{}", generation.0)]))
    }

    fn segment(&self, index: u64) -> Path {
        self.0.clone().join(format!("{index:08}"))
    }

    fn marker(&self) -> Path {
        self.0.clone().join("complete")
    }

    fn directory(&self, objects: &Objects) -> PathBuf {
        objects.directory.join(self.0.as_ref())
    }
}

/// Where a file of a submission is.
pub(super) fn blob_path(sha256: &[u8; 32]) -> Path {
    let hex = hex(sha256);
    Path::from_iter(["blobs", &hex[..2], &hex])
}

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, directory: PathBuf) -> Self {
        Self { store, directory, reserve_bytes: RESERVE_BYTES, making: Arc::default() }
    }

    #[cfg(test)]
    pub(super) fn set_reserve(&mut self, bytes: u64) {
        self.reserve_bytes = bytes;
    }

    /// Refuses while the disk is nearly full. Asked before each write, so that what is running into the end of the disk
    /// stops before the store does.
    pub(super) fn keep_reserve(&self) -> Result<(), OutputError> {
        let enough = disk::free_bytes(&self.directory).is_none_or(|free| free >= self.reserve_bytes);
        if enough { Ok(()) } else { Err(OutputError::Full) }
    }

    pub(super) async fn put_segment(
        &self,
        name: &OutputName,
        index: u64,
        bytes: Bytes,
    ) -> Result<(), OutputError> {
        self.keep_reserve()?;
        self.store.put(&name.segment(index), PutPayload::from(bytes)).await?;
        Ok(())
    }

    pub(super) async fn put_marker(&self, name: &OutputName, stored: Stored) -> Result<(), OutputError> {
        self.keep_reserve()?;
        let text = format!("{MARKER}\nlength {}\nsha256 {}\n", stored.length, hex(&stored.sha256));
        self.store.put(&name.marker(), PutPayload::from(text)).await?;
        Ok(())
    }

    /// The length and digest of a complete output.
    pub(super) async fn marker(&self, name: &OutputName) -> Result<Option<Stored>, OutputError> {
        let found = match self.store.get(&name.marker()).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found?.bytes().await?,
        };
        let stored = parse_marker(&found);
        stored.map(Some).ok_or_else(|| OutputError::Damaged(format!("{} is no marker", name.marker())))
    }

    /// How many full segments there are, one after the other from the first. A short one was the last of an output that
    /// never became complete; it does not count, and is written again.
    pub(super) async fn full_segments(&self, name: &OutputName) -> Result<u64, OutputError> {
        let mut count = 0;
        loop {
            match self.store.head(&name.segment(count)).await {
                Ok(meta) if meta.size == SEGMENT_BYTES as u64 => count += 1,
                Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(count),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The chunk that starts at `offset`, within one segment and before `end`.
    pub(super) async fn chunk(&self, name: &OutputName, offset: u64, end: u64) -> Result<Bytes, OutputError> {
        let segment = SEGMENT_BYTES as u64;
        let (index, from) = (offset / segment, offset % segment);
        let to = (from + CHUNK_BYTES_MAX as u64).min(segment).min(from + end.saturating_sub(offset));
        let path = name.segment(index);
        match self.store.get_range(&path, from..to).await {
            Ok(bytes) if bytes.len() as u64 == to - from => Ok(bytes),
            _ => Err(OutputError::Damaged(format!("{path} has not bytes {from} to {to}"))),
        }
    }

    /// The bytes of an output from an offset to an end that is known to be there.
    pub(super) fn range(&self, name: OutputName, offset: u64, end: u64) -> Bytestream {
        stream::try_unfold((self.clone(), name, offset), move |(objects, name, offset)| async move {
            if offset >= end {
                return Ok(None);
            }
            let bytes = objects.chunk(&name, offset, end).await?;
            let next = offset + bytes.len() as u64;
            Ok(Some((bytes, (objects, name, next))))
        })
        .boxed()
    }

    /// Removes an output, the marker first: what is left after a crash is not taken for complete.
    pub(super) async fn remove(&self, name: &OutputName) -> Result<(), OutputError> {
        match self.store.delete(&name.marker()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let segments = self.store.list(Some(&name.0)).map_ok(|meta| meta.location).boxed();
        self.store.delete_stream(segments).try_for_each(|_| std::future::ready(Ok(()))).await?;
        let directory = name.directory(self);
        let removing = tokio::task::spawn_blocking(move || {
            sweep_directory(&directory);
            // Fails if it is not there, or not empty: neither matters.
            let _ = std::fs::remove_dir(&directory);
        });
        Ok(removing.await.map_err(io::Error::other)?)
    }

    /// Makes an output's directory, and removes what a crash in the middle of a write has left in it.
    pub(super) async fn prepare(&self, name: &OutputName) -> Result<(), OutputError> {
        let directory = name.directory(self);
        self.make_directory(directory.clone()).await?;
        tokio::task::spawn_blocking(move || sweep_directory(&directory)).await.map_err(io::Error::other)?;
        Ok(())
    }

    /// Makes the directory of a file of a submission.
    pub(super) async fn prepare_blob(&self, sha256: &[u8; 32]) -> Result<(), OutputError> {
        self.make_directory(self.directory.join("blobs").join(&hex(sha256)[..2])).await
    }

    /// Makes a directory durable before anything is written into it. `LocalFileSystem` syncs only the directories that it
    /// has made itself: of two writers at the same time, the second could be done before the first has synced what both
    /// need.
    async fn make_directory(&self, directory: PathBuf) -> Result<(), OutputError> {
        let making = Arc::clone(&self.making);
        let made = tokio::task::spawn_blocking(move || {
            let _making = making.lock().unwrap_or_else(PoisonError::into_inner);
            let missing: Vec<_> = directory.ancestors().take_while(|part| !part.exists()).collect();
            for part in missing.into_iter().rev() {
                std::fs::create_dir(part)?;
                if let Some(parent) = part.parent() {
                    std::fs::File::open(parent)?.sync_all()?;
                }
            }
            io::Result::Ok(())
        });
        Ok(made.await.map_err(io::Error::other)??)
    }

    /// The same for all files of submissions. Blocks.
    pub(super) fn sweep_blobs(&self) {
        let shards = std::fs::read_dir(self.directory.join("blobs")).into_iter().flatten().flatten();
        for shard in shards {
            sweep_directory(&shard.path());
        }
    }
}

/// `LocalFileSystem` writes to `NAME#NUMBER` and renames; nothing else has such a name. Left-overs do no harm but take
/// space, so failures are passed over.
fn sweep_directory(directory: &std::path::Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let staged = name.to_str().and_then(|name| name.rsplit_once('#'));
        if staged.is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit())) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn parse_marker(bytes: &[u8]) -> Option<Stored> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    if lines.next()? != MARKER {
        return None;
    }
    let length = lines.next()?.strip_prefix("length ")?.parse().ok()?;
    let sha256 = parse_hex(lines.next()?.strip_prefix("sha256 ")?)?;
    lines.next().is_none().then_some(Stored { length, sha256 })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(text.get(pair * 2..pair * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_that_was_cut_or_changed_is_refused() {
        let stored = Stored { length: 5, sha256: [0xab; 32] };
        let text = format!("{MARKER}\nlength 5\nsha256 {}\n", hex(&stored.sha256));
        assert_eq!(parse_marker(text.as_bytes()), Some(stored));
        assert_eq!(parse_marker(text.trim_end().as_bytes()), Some(stored));
        for cut in 0..text.len() - 1 {
            assert_eq!(parse_marker(&text.as_bytes()[..cut]), None, "{cut}");
        }
        assert_eq!(parse_marker(format!("{text}more").as_bytes()), None);
        assert_eq!(parse_marker(text.replace("sha256 ab", "sha256 +b").as_bytes()), None);
    }
}
