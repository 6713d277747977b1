//! Recorded results in index order, a few at a time, and their stdout as chunks.

use super::ReassembleError;
use crate::{
    domain::{AttemptKey, Output, OutputBody, OutputStream, Phase, Project, ProjectId},
    output::{Bytestream, CHUNK_BYTES_MAX, OutputError, Outputs},
    store::{RESULTS_INLINE_BYTES, ResultRow, Store, StoreError},
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
    /// There may be more to fetch.
    more: bool,
}

impl Rows {
    pub(super) fn new(store: Arc<dyn Store>, project: ProjectId, phase: Phase, first: u32) -> Self {
        Self { store, project, phase, next: first, fetched: VecDeque::new(), more: true }
    }

    /// The next row; none if its task had no result yet when it was last asked for.
    pub(super) async fn next(&mut self) -> Result<Option<ResultRow>, StoreError> {
        if self.fetched.is_empty() && self.more {
            let rows = self.store.results(self.project, self.phase, self.next, ROWS_MAX).await?;
            self.take(rows);
        }
        let row = self.fetched.pop_front();
        self.next += u32::from(row.is_some());
        Ok(row)
    }

    /// Asks again, once all rows were taken; and what the project was before that.
    pub(super) async fn look(&mut self) -> Result<Option<Project>, StoreError> {
        let found = self.store.project_and_results(self.project, self.phase, self.next, ROWS_MAX).await?;
        Ok(found.map(|(project, rows)| {
            self.take(rows);
            project
        }))
    }

    fn take(&mut self, rows: Vec<ResultRow>) {
        let inline = |row: &ResultRow| match &row.stdout.body {
            OutputBody::Inline(bytes) => bytes.len(),
            OutputBody::Stored(_) => 0,
        };
        // Else they ended where a result was missing.
        self.more =
            rows.len() == ROWS_MAX as usize || rows.iter().map(inline).sum::<usize>() >= RESULTS_INLINE_BYTES;
        self.fetched = rows.into();
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
