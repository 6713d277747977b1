//! Turns recorded outputs, in task order, into a project's one result.
//!
//! `lines`, `sum`, `json` and `cursor` are pure; the rest reads rows in small batches and outputs chunk by chunk, so that
//! memory does not grow with the result.

mod builtin;
mod cursor;
mod json;
mod lines;
mod ordered;
mod results;
mod rows;
mod sink;
mod split;
mod sum;

#[cfg(test)]
mod tests;

pub use cursor::{Cursor, CursorError};
pub use results::Results;

use crate::{
    domain::{Generation, Project, ProjectId},
    output::{OutputError, Outputs},
    store::{Store, StoreError},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::BoxStream};
use std::sync::Arc;
use tokio::sync::watch;

/// Why a result can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReassembleError {
    /// There is no such project.
    #[error("there is no project {0}")]
    NoProject(ProjectId),
    /// The cursor belongs to another generation.
    #[error("the cursor is of generation {got}, the project's is {current}", got = .got.0, current = .current.0)]
    Generation {
        /// The project's current one.
        current: Generation,
        /// The cursor's.
        got: Generation,
    },
    /// The cursor points behind the end of what it points into.
    #[error("the cursor points behind the end of the result")]
    BehindEnd,
    /// The tasks have not all ended.
    #[error("task {index} has no result yet")]
    Unfinished {
        /// The first task without a result.
        index: u32,
    },
    /// The coordinator is stopping.
    #[error("the coordinator is stopping")]
    Stopping,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Stored output can't be read.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl ReassembleError {
    /// Whether the same call may go well later.
    fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_passing(),
            Self::Output(error) => error.is_passing(),
            Self::Stopping => true,
            Self::NoProject(_) | Self::Generation { .. } | Self::BehindEnd | Self::Unfinished { .. } => false,
        }
    }
}

/// Why a split or a built-in reassembly did not come to its end. For people.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// What the tasks printed is wrong, and stays so.
    #[error("{0}")]
    Wrong(String),
    /// The disk is full, say: the same may go well later.
    #[error("{0}")]
    Passing(String),
}

fn job_error(is_passing: bool, error: &dyn std::error::Error) -> JobError {
    if is_passing { JobError::Passing(error.to_string()) } else { JobError::Wrong(error.to_string()) }
}

/// Some bytes of a project's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultsPart {
    /// Where a later reader goes on after them.
    pub cursor: Cursor,
    /// The bytes, at most 256 KiB.
    pub bytes: Bytes,
}

/// The ordered output of a project's tasks, in chunks of at most 256 KiB.
pub type OrderedStream = BoxStream<'static, Result<Bytes, ReassembleError>>;

/// Makes results. Cheap to clone.
#[derive(Clone)]
pub struct Reassembler {
    store: Arc<dyn Store>,
    outputs: Outputs,
}

impl Reassembler {
    /// Makes one over a store and the bulk bytes that belong to it.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, outputs: Outputs) -> Self {
        Self { store, outputs }
    }

    /// The project's result from a cursor on, as it becomes known. Ends when the project has ended and everything was
    /// sent; without `wait`, when everything that is known was sent. `changes` must be subscribed before this call.
    #[must_use]
    pub fn results(
        &self,
        project: ProjectId,
        cursor: Cursor,
        changes: watch::Receiver<u64>,
        wait: bool,
    ) -> Results {
        Results::new(self.clone(), project, cursor, changes, wait)
    }

    /// The stdout of every success in index order, from a byte offset on: the stdin of a reassemble command.
    #[must_use]
    pub fn ordered_output(&self, project: ProjectId, offset: u64) -> OrderedStream {
        let reader = ordered::Reader::new(self.clone(), project, offset);
        stream::try_unfold(reader, |mut reader| async move {
            let bytes = reader.next().await?;
            Ok(bytes.map(|bytes| (bytes, reader)))
        })
        .boxed()
    }

    /// Turns the lines of the split task's stdout into the project's items; returns how many. Safe to repeat.
    ///
    /// # Errors
    /// For people: what is wrong with the output, or why it could not be read.
    pub async fn run_split(&self, project: ProjectId) -> Result<u32, JobError> {
        split::run(self, project).await.map_err(|error| job_error(error.is_passing(), &error))
    }

    /// Makes and keeps the result of a built-in reassembly. Safe to repeat.
    ///
    /// # Errors
    /// For people: what is wrong with the output, or why it could not be read.
    pub async fn run_builtin(&self, project: ProjectId) -> Result<(), JobError> {
        builtin::run(self, project).await.map_err(|error| job_error(error.is_passing(), &error))
    }

    async fn project(&self, project: ProjectId) -> Result<Project, ReassembleError> {
        self.store.project(project).await?.ok_or(ReassembleError::NoProject(project))
    }
}
