//! The stdin of an attempt, on its way to init: from the assignment, from a file, or from the coordinator.

use super::Env;
use crate::{
    domain::{Assignment, AttemptKey, StdinFrom},
    runtime::Blobs,
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream::BoxStream};
use std::{io::SeekFrom, sync::Arc};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    sync::mpsc,
};
use tokio_util::task::AbortOnDropHandle;

/// The most bytes in one frame to init, in bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// How much of a file is read at a time, in bytes.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// How many chunks from the coordinator or a file wait, in chunks of at most 256 KiB.
const CHUNKS_MAX: usize = 2;

/// Why stdin can't be had. For people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its stdin can't be read: {0}")]
pub struct StdinError(pub String);

/// Where stdin comes from.
pub trait StdinSource: Send + Sync {
    /// The bytes from `offset` on, in chunks of at most 256 KiB. It waits out a coordinator that is away, and fails only
    /// where trying again is of no use.
    fn read(&self, attempt: AttemptKey, offset: u64) -> BoxStream<'static, Result<Bytes, StdinError>>;
}

/// What the stdin of one attempt is, from whichever offset it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stdin {
    Whole(Bytes),
    File([u8; 32]),
    Coordinator,
}

impl Stdin {
    /// Of an assignment; none if it is empty.
    pub(crate) fn of(assignment: &Assignment) -> Option<Self> {
        match assignment.spec.stdin {
            StdinFrom::Nothing => None,
            StdinFrom::Assignment => Some(Self::Whole(assignment.stdin.clone())),
            StdinFrom::File(sha256) => Some(Self::File(sha256)),
            StdinFrom::Coordinator => Some(Self::Coordinator),
        }
    }

    /// Begins to read at `offset`.
    pub(crate) fn feed(&self, env: &Env, attempt: AttemptKey, offset: u64) -> Feed {
        match self {
            Self::Whole(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Feed::whole(bytes.slice(from..))
            }
            Self::File(sha256) => Feed::file(env.blobs.clone(), *sha256, offset),
            Self::Coordinator => Feed::stream(env.stdin.read(attempt, offset)),
        }
    }
}

/// What comes next on stdin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StdinItem {
    Bytes(Bytes),
    End,
    Failed(StdinError),
}

/// One attempt's stdin.
#[derive(Debug)]
pub(crate) struct Feed {
    /// None if all of it was there at once.
    source: Option<Source>,
    /// Is there, and is to be cut into frames.
    rest: Bytes,
    ended: bool,
}

/// Chunks, and the task that reads them.
#[derive(Debug)]
struct Source {
    items: mpsc::Receiver<Result<Bytes, StdinError>>,
    _reader: AbortOnDropHandle<()>,
}

impl Feed {
    /// All of it is there.
    const fn whole(rest: Bytes) -> Self {
        Self { source: None, rest, ended: false }
    }

    fn read_by<R>(read: impl FnOnce(mpsc::Sender<Result<Bytes, StdinError>>) -> R) -> Self
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let (sender, items) = mpsc::channel(CHUNKS_MAX);
        let reader = AbortOnDropHandle::new(tokio::spawn(read(sender)));
        Self { source: Some(Source { items, _reader: reader }), rest: Bytes::new(), ended: false }
    }

    fn stream(mut stream: BoxStream<'static, Result<Bytes, StdinError>>) -> Self {
        Self::read_by(async move |sender| {
            while let Some(item) = stream.next().await {
                if sender.send(item).await.is_err() {
                    break;
                }
            }
        })
    }

    fn file(blobs: Arc<dyn Blobs>, sha256: [u8; 32], offset: u64) -> Self {
        Self::read_by(async move |sender| {
            if let Err(error) = read_file(&*blobs, &sha256, offset, &sender).await {
                // Whoever has gone away does not need to know.
                let _ = sender.send(Err(error)).await;
            }
        })
    }

    /// Whether there is more to come.
    pub(crate) const fn has_more(&self) -> bool {
        !self.ended
    }

    /// The next frame, of at most `room` bytes. Cancel-safe.
    pub(crate) async fn next(&mut self, room: u64) -> StdinItem {
        while self.rest.is_empty() {
            let next = match &mut self.source {
                Some(source) => source.items.recv().await,
                None => None,
            };
            match next {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => {
                    self.ended = true;
                    return StdinItem::Failed(error);
                }
                None => {
                    self.ended = true;
                    return StdinItem::End;
                }
            }
        }
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(FRAME_BYTES_MAX);
        StdinItem::Bytes(self.rest.split_to(self.rest.len().min(room)))
    }
}

async fn read_file(
    blobs: &dyn Blobs,
    sha256: &[u8; 32],
    offset: u64,
    sender: &mpsc::Sender<Result<Bytes, StdinError>>,
) -> Result<(), StdinError> {
    let path = blobs.fetch(sha256).await.map_err(|error| StdinError(error.to_string()))?;
    let unreadable = |error: std::io::Error| StdinError(format!("{}: {error}", path.display()));
    let mut file = File::open(&path).await.map_err(unreadable)?;
    file.seek(SeekFrom::Start(offset)).await.map_err(unreadable)?;
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES_MAX);
        if file.read_buf(&mut chunk).await.map_err(unreadable)? == 0
            || sender.send(Ok(chunk.freeze())).await.is_err()
        {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::Phase, runtime::ImageError};
    use futures_util::stream;

    struct Chunks(Vec<Result<Bytes, StdinError>>);

    impl StdinSource for Chunks {
        fn read(&self, _: AttemptKey, offset: u64) -> BoxStream<'static, Result<Bytes, StdinError>> {
            assert_eq!(offset, 3);
            stream::iter(self.0.clone()).boxed()
        }
    }

    fn feed(chunks: Vec<Result<Bytes, StdinError>>) -> Feed {
        let attempt = AttemptKey { project: 7, phase: Phase::Reassemble, index: 0, attempt: 1 };
        Feed::stream(Chunks(chunks).read(attempt, 3))
    }

    #[tokio::test]
    async fn chunks_are_cut_into_frames_that_fit() {
        let mut feed = feed(vec![
            Ok(Bytes::from(vec![b'x'; 100_000])),
            Ok(Bytes::new()),
            Ok(Bytes::from_static(b"abc")),
        ]);
        for (room, expected) in [(u64::MAX, 65_536), (4_464, 4_464), (u64::MAX, 30_000), (2, 2), (2, 1)] {
            match feed.next(room).await {
                StdinItem::Bytes(bytes) => assert_eq!(bytes.len(), expected),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(feed.next(1).await, StdinItem::End);
    }

    #[tokio::test]
    async fn what_is_there_at_once_needs_no_reader() {
        let mut feed = Feed::whole(Bytes::from_static(b"abc"));
        assert_eq!(feed.next(2).await, StdinItem::Bytes(Bytes::from_static(b"ab")));
        assert_eq!(feed.next(2).await, StdinItem::Bytes(Bytes::from_static(b"c")));
        assert_eq!(feed.next(2).await, StdinItem::End);
        assert!(!feed.has_more());
    }

    #[tokio::test]
    async fn a_file_is_read_from_an_offset_and_one_that_is_gone_is_told() {
        struct At(std::path::PathBuf);

        #[async_trait::async_trait]
        impl Blobs for At {
            async fn fetch(&self, _: &[u8; 32]) -> Result<std::path::PathBuf, ImageError> {
                Ok(self.0.clone())
            }
        }

        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("stdin");
        std::fs::write(&path, vec![b'x'; CHUNK_BYTES_MAX + 5]).expect("writes");
        let mut feed = Feed::file(Arc::new(At(path)), [0; 32], 2);
        let mut length = 0;
        while let StdinItem::Bytes(bytes) = feed.next(u64::MAX).await {
            length += bytes.len();
        }
        assert_eq!(length, CHUNK_BYTES_MAX + 3);
        let mut gone = Feed::file(Arc::new(At(dir.path().join("none"))), [0; 32], 0);
        assert!(matches!(gone.next(1).await, StdinItem::Failed(_)));
    }

    #[tokio::test]
    async fn the_end_and_a_failure_are_told_apart() {
        let mut ends = feed(vec![Ok(Bytes::from_static(b"abc"))]);
        assert_eq!(ends.next(9).await, StdinItem::Bytes(Bytes::from_static(b"abc")));
        assert_eq!(ends.next(9).await, StdinItem::End);
        assert!(!ends.has_more());
        let gone = StdinError("not found".into());
        let mut fails = feed(vec![Err(gone.clone())]);
        assert_eq!(fails.next(9).await, StdinItem::Failed(gone));
        assert!(!fails.has_more());
    }
}
