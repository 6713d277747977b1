//! Turns the recorded output of the split task into items in the store.

use super::{ReassembleError, Reassembler, lines::LineError, lines::Lines, rows};
use crate::{
    domain::{Item, Phase, ProjectId},
    store::StoreError,
};
use futures_util::TryStreamExt;

/// How many items are written at once, and how many bytes of text.
const GROUP_ITEMS_MAX: usize = 10_000;
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why there are no items.
#[derive(Debug, thiserror::Error)]
pub(super) enum SplitError {
    #[error("the split task has no successful result")]
    NoResult,
    #[error(transparent)]
    Lines(#[from] LineError),
    #[error(transparent)]
    Read(#[from] ReassembleError),
    #[error("its items can't be kept: {0}")]
    Keep(#[source] StoreError),
}

impl SplitError {
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::NoResult | Self::Lines(_) => false,
            Self::Read(error) => error.is_passing(),
            Self::Keep(error) => error.is_passing(),
        }
    }
}

/// Items on their way into the store, in groups.
struct Groups<'r> {
    reassembler: &'r Reassembler,
    project: ProjectId,
    first: u32,
    items: Vec<Item>,
    bytes: usize,
}

/// Writes the items, over those that an interrupted run has left; they are the same.
pub(super) async fn run(reassembler: &Reassembler, project: ProjectId) -> Result<u32, SplitError> {
    let rows = reassembler.store.results(project, Phase::Split, 0, 1).await.map_err(ReassembleError::from)?;
    let row = rows.into_iter().next().filter(|row| row.success).ok_or(SplitError::NoResult)?;
    let mut stdout = rows::stdout(&reassembler.outputs, row.key, row.stdout, 0).await?;
    let mut lines = Lines::default();
    let mut groups = Groups { reassembler, project, first: 0, items: Vec::new(), bytes: 0 };
    while let Some(bytes) = stdout.try_next().await.map_err(ReassembleError::from)? {
        let mut rest = &bytes[..];
        while let Some((line, after)) = lines.next(rest)? {
            groups.push(line).await?;
            rest = after;
        }
    }
    if let Some(line) = lines.last()? {
        groups.push(line).await?;
    }
    groups.flush().await?;
    Ok(lines.count())
}

impl Groups<'_> {
    async fn push(&mut self, line: String) -> Result<(), SplitError> {
        self.bytes += line.len();
        self.items.push(Item { text: line, ..Item::default() });
        if self.items.len() == GROUP_ITEMS_MAX || self.bytes >= GROUP_BYTES_MAX {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self) -> Result<(), SplitError> {
        if self.items.is_empty() {
            return Ok(());
        }
        let items = std::mem::take(&mut self.items);
        let first = self.first;
        self.bytes = 0;
        // The number of lines is bounded far below.
        self.first = first.saturating_add(u32::try_from(items.len()).unwrap_or(u32::MAX));
        self.reassembler.store.put_items(self.project, first, items).await.map_err(SplitError::Keep)
    }
}
