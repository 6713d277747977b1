//! The built-in reassemblies that have something to compute: sum and JSON.

use super::{
    ReassembleError, Reassembler, json, ordered::Successes, rows, sink::Sink, sum::Sum, sum::SumError,
};
use crate::{
    domain::{BuiltIn, Output, Project, ProjectId, Reassemble},
    output::{CHUNK_BYTES_MAX, OutputError},
    store::StoreError,
};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use std::ops::Range;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuiltInError {
    #[error("can't add up the output of task {index}: {source}")]
    Sum { index: u32, source: SumError },
    #[error("the output of task {index} is longer than {max} bytes, too long for an element of a JSON array", max = json::ELEMENT_BYTES_MAX)]
    ElementTooLong { index: u32 },
    #[error("the output of task {index} can't be written as JSON: {source}")]
    Json { index: u32, source: serde_json::Error },
    #[error(transparent)]
    Read(#[from] ReassembleError),
    #[error("the result can't be kept: {0}")]
    KeepBytes(#[source] OutputError),
    #[error("the result can't be kept: {0}")]
    KeepRow(#[source] StoreError),
}

impl BuiltInError {
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Sum { .. } | Self::ElementTooLong { .. } | Self::Json { .. } => false,
            Self::Read(error) => error.is_passing(),
            Self::KeepBytes(error) => error.is_passing(),
            Self::KeepRow(error) => error.is_passing(),
        }
    }
}

/// Makes the result and keeps it, over one that an interrupted run has left.
pub(super) async fn run(reassembler: &Reassembler, project: ProjectId) -> Result<(), BuiltInError> {
    let project = reassembler.project(project).await?;
    let result = match &project.spec.reassemble {
        Reassemble::BuiltIn(BuiltIn::Sum) => sum(reassembler, &project).await?,
        Reassemble::BuiltIn(BuiltIn::Json) => json_array(reassembler, &project).await?,
        // The outputs themselves are the result, or there is none.
        Reassemble::BuiltIn(BuiltIn::Concat | BuiltIn::None) | Reassemble::Command(_) => return Ok(()),
    };
    let kept = reassembler.store.put_result(project.id, project.generation, result).await;
    kept.map_err(BuiltInError::KeepRow)
}

/// The sum and a newline.
async fn sum(reassembler: &Reassembler, project: &Project) -> Result<Output, BuiltInError> {
    let mut sum = Sum::default();
    let mut successes = Successes::of(reassembler, project);
    while let Some(row) = successes.next().await? {
        let index = row.key.task.index;
        let wrong = |source| BuiltInError::Sum { index, source };
        let mut stdout = rows::stdout(&reassembler.outputs, row.key, row.stdout, 0).await?;
        while let Some(bytes) = stdout.try_next().await.map_err(ReassembleError::from)? {
            sum.add(&bytes).map_err(wrong)?;
        }
        sum.end_word().map_err(wrong)?;
    }
    Ok(Output::inline(Bytes::from(format!("{}\n", sum.total()))))
}

/// The array, an element a line. One element is held in memory at a time.
async fn json_array(reassembler: &Reassembler, project: &Project) -> Result<Output, BuiltInError> {
    let mut sink = Sink::new(reassembler.outputs.clone(), project.id, project.generation);
    let mut successes = Successes::of(reassembler, project);
    let mut separator = "[";
    while let Some(row) = successes.next().await? {
        let index = row.key.task.index;
        if row.stdout.length > json::ELEMENT_BYTES_MAX as u64 {
            return Err(BuiltInError::ElementTooLong { index });
        }
        let mut output = BytesMut::new();
        let mut stdout = rows::stdout(&reassembler.outputs, row.key, row.stdout, 0).await?;
        while let Some(bytes) = stdout.try_next().await.map_err(ReassembleError::from)? {
            output.extend_from_slice(&bytes);
        }
        let output = output.freeze();
        sink.push(separator.as_bytes()).await.map_err(BuiltInError::KeepBytes)?;
        separator = ",\n";
        if let Some(value) = value_range(&output).await {
            sink.push(&output[value]).await.map_err(BuiltInError::KeepBytes)?;
            continue;
        }
        sink.push(b"\"").await.map_err(BuiltInError::KeepBytes)?;
        for piece in json::escaped(&output) {
            let piece = piece.map_err(|source| BuiltInError::Json { index, source })?;
            sink.push(piece.as_bytes()).await.map_err(BuiltInError::KeepBytes)?;
            // Binary output makes very many very short pieces, none of which waits for anything.
            tokio::task::consume_budget().await;
        }
        sink.push(b"\"").await.map_err(BuiltInError::KeepBytes)?;
    }
    let end = if separator == "[" { "[]\n" } else { "]\n" };
    sink.push(end.as_bytes()).await.map_err(BuiltInError::KeepBytes)?;
    sink.finish().await.map_err(BuiltInError::KeepBytes)
}

/// Where in the output its one JSON value is. A long output is parsed off the async threads.
async fn value_range(output: &Bytes) -> Option<Range<usize>> {
    if output.len() <= CHUNK_BYTES_MAX {
        return json::value(output);
    }
    let output = output.clone();
    // Parsing ends early only by panicking; then it is text.
    tokio::task::spawn_blocking(move || json::value(&output)).await.ok().flatten()
}
