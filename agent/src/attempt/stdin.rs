//! The stdin of an attempt, on its way from the coordinator to init.

use crate::domain::AttemptKey;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// The most bytes that init is sent beyond what the task has taken, in bytes. Init refuses more than 1 MiB.
const WINDOW_BYTES: u64 = 512 * 1024;

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
pub(super) enum StdinItem {
    Bytes(Bytes),
    End,
    Failed(StdinError),
}

/// One attempt's stdin.
#[derive(Debug)]
pub(super) struct Feed {
    items: mpsc::Receiver<Result<Bytes, StdinError>>,
    /// Came from the coordinator, and is to be cut into frames.
    rest: Bytes,
    /// Sent to init, and not taken by the task yet.
    outstanding: u64,
    ended: bool,
    _reader: AbortOnDropHandle<()>,
}

impl Feed {
    /// Begins to read at `offset`; `outstanding` bytes before it are not taken by the task yet.
    pub(super) fn begin(
        source: &dyn StdinSource,
        attempt: AttemptKey,
        offset: u64,
        outstanding: u64,
    ) -> Self {
        let mut stream = source.read(attempt, offset);
        let (sender, items) = mpsc::channel(CHUNKS_MAX);
        let reader = tokio::spawn(async move {
            while let Some(item) = stream.next().await {
                if sender.send(item).await.is_err() {
                    break;
                }
            }
        });
        Self { items, rest: Bytes::new(), outstanding, ended: false, _reader: AbortOnDropHandle::new(reader) }
    }

    /// Whether init can be sent more.
    pub(super) const fn wants(&self) -> bool {
        !self.ended && self.outstanding < WINDOW_BYTES
    }

    /// The task has taken some.
    pub(super) const fn taken(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    /// The next frame. Cancel-safe.
    pub(super) async fn next(&mut self) -> StdinItem {
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
        let frame = self.rest.split_to(self.rest.len().min(FRAME_BYTES_MAX));
        self.outstanding += frame.len() as u64;
        StdinItem::Bytes(frame)
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
        Feed::begin(&Chunks(chunks), attempt, 3, 0)
    }

    #[tokio::test]
    async fn chunks_are_cut_into_frames_within_the_window() {
        let chunk = || Ok(Bytes::from(vec![b'x'; 256 * 1024]));
        let mut feed = feed(vec![chunk(), Ok(Bytes::new()), chunk(), chunk()]);
        for _ in 0..8 {
            assert!(feed.wants());
            assert_eq!(feed.next().await, StdinItem::Bytes(Bytes::from(vec![b'x'; 64 * 1024])));
        }
        assert!(!feed.wants(), "512 KiB are on their way");
        feed.taken(1);
        assert!(feed.wants());
    }

    #[tokio::test]
    async fn the_end_and_a_failure_are_told_apart() {
        let mut ends = feed(vec![Ok(Bytes::from_static(b"abc"))]);
        assert_eq!(ends.next().await, StdinItem::Bytes(Bytes::from_static(b"abc")));
        assert_eq!(ends.next().await, StdinItem::End);
        assert!(!ends.wants());
        let gone = StdinError("not found".into());
        let mut fails = feed(vec![Err(gone.clone())]);
        assert_eq!(fails.next().await, StdinItem::Failed(gone));
        assert!(!fails.wants());
    }
}
