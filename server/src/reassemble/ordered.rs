//! The concatenation of all successes in index order, for a project whose tasks have all ended.

use super::{ReassembleError, Reassembler, rows, rows::Rows};
use crate::{
    domain::{Phase, Project, ProjectId},
    output::Bytestream,
    store::ResultRow,
};
use bytes::Bytes;
use futures_util::TryStreamExt;

/// The successes of a project, one after the other; that none is missing is checked at the end.
pub(super) struct Successes {
    rows: Rows,
    total: u32,
}

impl Successes {
    pub(super) fn of(reassembler: &Reassembler, project: &Project) -> Self {
        let rows = Rows::new(reassembler.store.clone(), project.id, Phase::Task, 0);
        Self { rows, total: project.counts.total }
    }

    pub(super) async fn next(&mut self) -> Result<Option<ResultRow>, ReassembleError> {
        while let Some(row) = self.rows.next().await? {
            if row.success {
                return Ok(Some(row));
            }
        }
        let ended = self.rows.index();
        if ended == self.total { Ok(None) } else { Err(ReassembleError::Unfinished { index: ended }) }
    }
}

/// A reader of the concatenation.
pub(super) struct Reader {
    reassembler: Reassembler,
    project: ProjectId,
    /// How many bytes are still to be skipped.
    skip: u64,
    successes: Option<Successes>,
    body: Option<Bytestream>,
}

impl Reader {
    pub(super) fn new(reassembler: Reassembler, project: ProjectId, offset: u64) -> Self {
        Self { reassembler, project, skip: offset, successes: None, body: None }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ReassembleError> {
        loop {
            if let Some(body) = &mut self.body {
                if let Some(bytes) = body.try_next().await? {
                    return Ok(Some(bytes));
                }
                self.body = None;
            }
            let successes = match &mut self.successes {
                Some(successes) => successes,
                none => {
                    let project = self.reassembler.project(self.project).await?;
                    none.insert(Successes::of(&self.reassembler, &project))
                }
            };
            match successes.next().await? {
                Some(row) if row.stdout.length <= self.skip => self.skip -= row.stdout.length,
                Some(row) => {
                    let skip = std::mem::take(&mut self.skip);
                    self.body =
                        Some(rows::stdout(&self.reassembler.outputs, row.key, row.stdout, skip).await?);
                }
                None if self.skip > 0 => return Err(ReassembleError::BehindEnd),
                None => return Ok(None),
            }
        }
    }
}
