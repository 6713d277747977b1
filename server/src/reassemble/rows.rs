//! Recorded results in index order, a few at a time, and their stdout as chunks.

use super::ReassembleError;
use crate::{
    domain::{AttemptKey, Output, OutputBody, OutputStream, Phase, ProjectId},
    output::{Bytestream, CHUNK_BYTES_MAX, OutputError, Outputs},
    store::{ResultRow, Store, StoreError},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::{collections::VecDeque, sync::Arc};

/// How many rows are fetched at once; the store bounds their bytes.
const ROWS_MAX: u32 = 256;

/// The rows of one phase, without a gap.
pub(super) struct Rows {
    store: Arc<dyn Store>,
    project: ProjectId,
    phase: Phase,
    next: u32,
    fetched: VecDeque<ResultRow>,
}

impl Rows {
    pub(super) fn new(store: Arc<dyn Store>, project: ProjectId, phase: Phase, first: u32) -> Self {
        Self { store, project, phase, next: first, fetched: VecDeque::new() }
    }

    /// The next row; none if its task has no result yet. It may have one later.
    pub(super) async fn next(&mut self) -> Result<Option<ResultRow>, StoreError> {
        if self.fetched.is_empty() {
            self.fetched = self.store.results(self.project, self.phase, self.next, ROWS_MAX).await?.into();
        }
        let row = self.fetched.pop_front();
        self.next += u32::from(row.is_some());
        Ok(row)
    }

    /// The index of the row that comes next.
    pub(super) fn index(&self) -> u32 {
        self.next
    }
}

/// The stdout of one recorded attempt from an offset on.
pub(super) async fn stdout(
    outputs: &Outputs,
    key: AttemptKey,
    output: Output,
    offset: u64,
) -> Result<Bytestream, ReassembleError> {
    match output.body {
        _ if offset > output.length => Err(ReassembleError::BehindEnd),
        OutputBody::Inline(bytes) => Ok(inline(bytes, offset)),
        OutputBody::Stored(_) => Ok(outputs.read(key, OutputStream::Stdout, offset).await?),
    }
}

/// Bytes at hand as a stream, from an offset on.
pub(super) fn inline(bytes: Bytes, offset: u64) -> Bytestream {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    stream::unfold(bytes.slice(start..), |mut rest| async move {
        let chunk = rest.split_to(rest.len().min(CHUNK_BYTES_MAX));
        (!chunk.is_empty()).then_some((Ok::<_, OutputError>(chunk), rest))
    })
    .boxed()
}
