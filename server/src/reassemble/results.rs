//! The project's result as it becomes known.

use super::{Cursor, ReassembleError, Reassembler, ResultsPart, rows, rows::Rows};
use crate::{
    domain::{BuiltIn, OutputBody, Phase, Project, ProjectId, ProjectState, Reassemble},
    output::Bytestream,
};
use futures_util::TryStreamExt;
use tokio::sync::watch;

/// A project's result as it becomes known. It has what there is; then waits until something has changed, and looks again.
pub struct Results {
    reassembler: Reassembler,
    project: ProjectId,
    cursor: Cursor,
    changes: watch::Receiver<u64>,
    /// The caller wants to wait; false once the coordinator stops.
    wait: bool,
    stopping: bool,
    /// The project as it was *before* the rows that are being sent were fetched. If it had ended by then, what follows is
    /// all there will ever be. None means: look.
    seen: Option<Project>,
    /// The project at the end.
    last: Option<Project>,
    source: Option<Source>,
    /// What is being sent, and whether it is one of many.
    body: Option<Bytestream>,
}

/// What the result is made of.
enum Source {
    /// Every success's stdout.
    Concat(Rows),
    /// The one stored result.
    Stored,
    /// The reassemble task's stdout.
    Command(Rows),
    /// Nothing, or nothing more.
    Nothing,
}

impl Results {
    pub(super) fn new(
        reassembler: Reassembler,
        project: ProjectId,
        cursor: Cursor,
        changes: watch::Receiver<u64>,
        wait: bool,
    ) -> Self {
        Self {
            reassembler,
            project,
            cursor,
            changes,
            wait,
            stopping: false,
            seen: None,
            last: None,
            source: None,
            body: None,
        }
    }

    /// The next part; none at the end.
    ///
    /// # Errors
    /// If there is no such project, the cursor does not fit it, or something can't be read.
    pub async fn next(&mut self) -> Result<Option<ResultsPart>, ReassembleError> {
        loop {
            if let Some(bytes) = self.next_bytes().await? {
                self.cursor.offset += bytes.len() as u64;
                return Ok(Some(ResultsPart { cursor: self.cursor, bytes }));
            }
            if self.next_body().await? {
                continue;
            }
            // All is sent that there was when `seen` was read.
            match self.seen.take() {
                None => self.look().await?,
                Some(project) if project.state.is_ended() || !self.wait => {
                    self.last = Some(project);
                    return Ok(None);
                }
                Some(_) if self.stopping => return Err(ReassembleError::Stopping),
                // A closed channel is no error yet: the last look may find the end.
                Some(_) => self.stopping = self.changes.changed().await.is_err(),
            }
        }
    }

    /// The project as it was when all that was known of its result was sent. None before the end.
    pub fn into_project(self) -> Option<Project> {
        self.last
    }

    async fn next_bytes(&mut self) -> Result<Option<bytes::Bytes>, ReassembleError> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let bytes = body.try_next().await?;
        if bytes.is_none() {
            self.body = None;
            if let Some(Source::Concat(rows)) = &self.source {
                (self.cursor.index, self.cursor.offset) = (rows.index(), 0);
            }
        }
        Ok(bytes)
    }

    /// Reads the project. Changes are marked as seen first, so that one that comes meanwhile ends the next wait at once.
    async fn look(&mut self) -> Result<(), ReassembleError> {
        self.changes.borrow_and_update();
        let project = match &mut self.source {
            Some(Source::Concat(rows) | Source::Command(rows)) => {
                rows.look().await?.ok_or(ReassembleError::NoProject(self.project))?
            }
            Some(Source::Stored | Source::Nothing) | None => self.reassembler.project(self.project).await?,
        };
        if self.cursor.generation.0 == 0 {
            self.cursor.generation = project.generation;
        }
        if self.cursor.generation != project.generation {
            return Err(ReassembleError::Generation {
                current: project.generation,
                got: self.cursor.generation,
            });
        }
        if self.source.is_none() {
            self.source = Some(self.source_of(&project)?);
        }
        self.seen = Some(project);
        Ok(())
    }

    fn source_of(&self, project: &Project) -> Result<Source, ReassembleError> {
        let rows = |phase, first| Rows::new(self.reassembler.store.clone(), self.project, phase, first);
        let source = match &project.spec.reassemble {
            Reassemble::BuiltIn(BuiltIn::Concat) => {
                return Ok(Source::Concat(rows(Phase::Task, self.cursor.index)));
            }
            Reassemble::BuiltIn(BuiltIn::Sum | BuiltIn::Json) => Source::Stored,
            Reassemble::BuiltIn(BuiltIn::None) => Source::Nothing,
            Reassemble::Command(_) => Source::Command(rows(Phase::Reassemble, 0)),
        };
        if self.cursor.index == 0 { Ok(source) } else { Err(ReassembleError::BehindEnd) }
    }

    /// Opens what is to be sent next; false if there is nothing now.
    async fn next_body(&mut self) -> Result<bool, ReassembleError> {
        // Only what was there when the project was read.
        let Some(project) = &self.seen else { return Ok(false) };
        let outputs = &self.reassembler.outputs;
        let offset = self.cursor.offset;
        let row = match &mut self.source {
            Some(Source::Concat(rows)) => rows.next().await?,
            Some(Source::Command(rows)) => {
                let Some(row) = rows.next().await? else { return Ok(false) };
                self.source = Some(Source::Nothing);
                Some(row)
            }
            Some(Source::Stored) if project.state == ProjectState::Succeeded => {
                self.source = Some(Source::Nothing);
                let generation = project.generation;
                let Some(result) = self.reassembler.store.result(self.project, generation).await? else {
                    return Ok(false);
                };
                self.body = Some(match result.body {
                    _ if offset > result.length => return Err(ReassembleError::BehindEnd),
                    OutputBody::Inline(bytes) => rows::inline(bytes, offset),
                    OutputBody::Stored(_) => outputs.read_result(self.project, generation, offset).await?,
                });
                return Ok(true);
            }
            Some(Source::Stored | Source::Nothing) | None => return Ok(false),
        };
        let Some(row) = row else { return Ok(false) };
        self.body = Some(if row.success {
            rows::stdout(outputs, row.key, row.stdout, offset).await?
        } else if offset == 0 {
            // A failed task contributes nothing.
            rows::inline(bytes::Bytes::new(), 0)
        } else {
            return Err(ReassembleError::BehindEnd);
        });
        Ok(true)
    }
}
