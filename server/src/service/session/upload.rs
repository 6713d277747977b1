//! One output stream of one attempt on its way into the bulk bytes.

use super::{
    super::{Context, access::Caller, status},
    Claim, claim,
};
use crate::{
    domain::{AttemptKey, OutputStream},
    wire::{self, Within},
};
use piecework_proto::v1 as pb;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

type Acks = mpsc::Sender<Result<pb::OutputAck, Status>>;

/// Takes chunks until the output is complete, or not wanted any longer.
pub(super) async fn upload(
    context: &Context,
    caller: &Caller,
    mut chunks: Streaming<pb::OutputChunk>,
    acks: &Acks,
) -> Result<(), Status> {
    let Some(first) = chunks.message().await? else { return Ok(()) };
    let (attempt, stream) = parse_first(first)?;
    match claim(context, caller, attempt).await? {
        Claim::Holds => {}
        Claim::IsOver => return unwanted(context, attempt, acks).await,
        Claim::IsAnothers => {
            return Err(Status::permission_denied(format!("attempt {attempt} is with another agent")));
        }
    }
    let mut upload = context.outputs.upload(attempt, stream).await.map_err(status::output)?;
    if let Some(stored) = upload.complete() {
        return ack(acks, stored.length, true).await;
    }
    ack(acks, upload.durable_offset(), false).await?;
    while let Some(chunk) = chunks.message().await? {
        if let Some(durable) = upload.write(chunk.offset, chunk.data).await.map_err(status::output)? {
            // Now and then: an attempt whose task has its result would fill the disk for nothing.
            if claim(context, caller, attempt).await? != Claim::Holds {
                drop(upload);
                return unwanted(context, attempt, acks).await;
            }
            ack(acks, durable, false).await?;
        }
        if chunk.end {
            let stored = upload.finish().await.map_err(status::output)?;
            return ack(acks, stored.length, true).await;
        }
    }
    // Interrupted: what is durable waits for the next call.
    Ok(())
}

fn parse_first(first: pb::OutputChunk) -> Result<(AttemptKey, OutputStream), Status> {
    let attempt = wire::attempt_key(first.attempt).within("attempt").map_err(status::wire)?;
    let stream = wire::stream("stream", first.stream).map_err(status::wire)?;
    if !first.data.is_empty() || first.end {
        return Err(status::bad_field(
            "data",
            "the first message of an upload carries none: wait for the first answer",
        ));
    }
    Ok((attempt, stream))
}

/// Nobody waits for this output any more. What there is of it goes, unless it belongs to an ending that is noted.
async fn unwanted(context: &Context, attempt: AttemptKey, acks: &Acks) -> Result<(), Status> {
    if context.store.outputs(attempt).await.map_err(status::store)?.is_none() {
        context.outputs.remove_attempt(attempt).await.map_err(status::output)?;
    }
    send(acks, pb::OutputAck { durable_offset: 0, complete: false, unwanted: true }).await
}

async fn ack(acks: &Acks, durable_offset: u64, complete: bool) -> Result<(), Status> {
    send(acks, pb::OutputAck { durable_offset, complete, unwanted: false }).await
}

async fn send(acks: &Acks, ack: pb::OutputAck) -> Result<(), Status> {
    acks.send(Ok(ack)).await.map_err(|_| Status::cancelled("the agent is gone"))
}
