//! The stdin of an attempt, for an agent that asks for it: the ordered output, a text made from the item, or a file.

use super::{
    super::{Context, access::Caller, status},
    Claim, claim,
};
use crate::{
    domain::{AttemptKey, Phase, Stdin},
    plan::CommandTemplate,
    store::TaskFilter,
};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use piecework_proto::v1 as pb;
use std::future;
use tonic::Status;

/// The longest text of one message, in bytes.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

type Chunks = BoxStream<'static, Result<pb::InputChunk, Status>>;

/// What the attempt reads from `offset` on. An attempt without a stdin reads nothing: an agent that has restarted does not
/// know which of its attempts have one.
pub(super) async fn input(
    context: &Context,
    caller: &Caller,
    attempt: AttemptKey,
    offset: u64,
) -> Result<Chunks, Status> {
    let (project, phase) = (attempt.task.project, attempt.task.phase);
    if phase == Phase::Reassemble {
        wanted(context, caller, attempt).await?;
        let bytes = context.reassembler.ordered_output(project, offset);
        return Ok(bytes.map(|bytes| bytes.map(chunk).map_err(status::reassemble)).boxed());
    }
    let spec = context.known_project(project).await?.spec;
    match spec.task_of(phase).and_then(|task| task.stdin.as_ref()) {
        None => Ok(stream::empty().boxed()),
        Some(Stdin::File { sha256, .. }) => {
            wanted(context, caller, attempt).await?;
            let bytes = context.outputs.read_blob(*sha256).await.map_err(status::output)?;
            let chunks = bytes.map(|bytes| bytes.map(chunk).map_err(status::output));
            Ok(after(chunks, offset).boxed())
        }
        Some(Stdin::Template(_)) => {
            wanted(context, caller, attempt).await?;
            let after = match attempt.task.index.checked_sub(1) {
                Some(before) => (phase, before),
                None => (Phase::Split, u32::MAX),
            };
            let filter = TaskFilter { states: Vec::new(), after: Some(after), limit: 1 };
            let rows = context.store.tasks(project, filter).await.map_err(status::store)?;
            let item = rows.into_iter().find(|row| row.key == attempt.task).and_then(|row| row.item);
            let template = CommandTemplate::new(&spec, phase);
            let text = template.stdin(&spec, phase, attempt.task.index, item.as_ref()).unwrap_or_default();
            let text = Bytes::from(text);
            let rest = text.slice(usize::try_from(offset).unwrap_or(usize::MAX).min(text.len())..);
            let chunks: Vec<_> =
                rest.chunks(CHUNK_BYTES_MAX).map(|part| Ok(chunk(rest.slice_ref(part)))).collect();
            Ok(stream::iter(chunks).boxed())
        }
    }
}

async fn wanted(context: &Context, caller: &Caller, attempt: AttemptKey) -> Result<(), Status> {
    if claim(context, caller, attempt).await? == Claim::Holds {
        return Ok(());
    }
    Err(Status::failed_precondition(format!("attempt {attempt} is not wanted any longer")))
}

const fn chunk(data: Bytes) -> pb::InputChunk {
    pb::InputChunk { data }
}

/// Leaves out the first bytes.
fn after<S>(chunks: S, offset: u64) -> impl futures_util::Stream<Item = Result<pb::InputChunk, Status>>
where
    S: futures_util::Stream<Item = Result<pb::InputChunk, Status>>,
{
    chunks
        .scan(offset, |left, item| {
            let item = item.map(|mut chunk| {
                let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.data.len());
                *left -= skipped as u64;
                let _ = chunk.data.split_to(skipped);
                chunk
            });
            future::ready(Some(item))
        })
        .filter(|item| future::ready(!matches!(item, Ok(chunk) if chunk.data.is_empty())))
}
