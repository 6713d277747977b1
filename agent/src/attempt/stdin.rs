//! The stdin of an attempt, on its way from the coordinator to init.

use crate::domain::AttemptKey;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// The most bytes in one frame to init, in bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// How many chunks from the coordinator wait, in chunks of at most 256 KiB.
const CHUNKS_MAX: usize = 2;

/// Why stdin can't be had. For people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its stdin can't be read from the coordinator: {0}")]
pub struct StdinError(pub String);

/// Where stdin comes from.
pub trait StdinSource: Send + Sync {
    /// The bytes from `offset` on, in chunks of at most 256 KiB. It waits out a coordinator that is away, and fails only
    /// where trying again is of no use.
    fn read(&self, attempt: AttemptKey, offset: u64) -> BoxStream<'static, Result<Bytes, StdinError>>;
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
    items: mpsc::Receiver<Result<Bytes, StdinError>>,
    /// Came from the coordinator, and is to be cut into frames.
    rest: Bytes,
    ended: bool,
    _reader: AbortOnDropHandle<()>,
}

impl Feed {
    /// Begins to read at `offset`.
    pub(crate) fn begin(source: &dyn StdinSource, attempt: AttemptKey, offset: u64) -> Self {
        let mut stream = source.read(attempt, offset);
        let (sender, items) = mpsc::channel(CHUNKS_MAX);
        let reader = tokio::spawn(async move {
            while let Some(item) = stream.next().await {
                if sender.send(item).await.is_err() {
                    break;
                }
            }
        });
        Self { items, rest: Bytes::new(), ended: false, _reader: AbortOnDropHandle::new(reader) }
    }

    /// Whether there is more to come.
    pub(crate) const fn has_more(&self) -> bool {
        !self.ended
    }

    /// The next frame, of at most `room` bytes. Cancel-safe.
    pub(crate) async fn next(&mut self, room: u64) -> StdinItem {
        while self.rest.is_empty() {
            match self.items.recv().await {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Phase;
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
        Feed::begin(&Chunks(chunks), attempt, 3)
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
