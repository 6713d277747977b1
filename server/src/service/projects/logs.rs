//! The output of one task: recorded, or as it comes.

use super::{
    super::{Context, limits, status},
    follow::Follow,
    task_name,
};
use crate::{
    domain::{
        AttemptKey, AttemptNo, Output, OutputBody, OutputStream, Phase, Project, ProjectState, TaskKey,
    },
    store::{TaskFilter, TaskRow},
    wire,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use piecework_proto::{CHUNK_BYTES_MAX, v1 as pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// What a reader of a task's output wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) task: TaskKey,
    /// None means the highest.
    pub(super) attempt: Option<AttemptNo>,
    /// In the order of sending; at least one.
    pub(super) streams: Vec<OutputStream>,
}

/// The chunks on their way to a reader. An error from it means that the reader is gone.
pub(super) type Chunks = mpsc::Sender<Result<pb::LogsChunk, Status>>;

/// Why nothing more is sent.
pub(super) enum End {
    /// The reader is gone.
    Gone,
    /// The reader is to be told.
    Error(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Error(status)
    }
}

/// Opens the output. What is wrong at once is the call's error; what comes later ends the stream.
pub(super) async fn logs(
    context: &Context,
    request: pb::LogsRequest,
) -> Result<impl Stream<Item = Result<pb::LogsChunk, Status>> + Send + 'static, Status> {
    let phase = wire::phase("phase", request.phase).map_err(status::wire)?.unwrap_or(Phase::Task);
    let mut streams = Vec::new();
    for value in &request.streams {
        let stream = wire::stream("streams", *value).map_err(status::wire)?;
        if !streams.contains(&stream) {
            streams.push(stream);
        }
    }
    if streams.is_empty() {
        streams = vec![OutputStream::Stdout, OutputStream::Stderr];
    }
    let project = context.project(&request.project).await?;
    let task = TaskKey { project: project.id, phase, index: request.index };
    check_exists(&project, task)?;
    let attempt = (request.attempt > 0).then_some(request.attempt);
    let wanted = Wanted { task, attempt, streams };
    let (sender, receiver) = mpsc::channel(limits::LOGS_CHUNKS_MAX);
    let shared = context.clone();
    if request.follow {
        let follow = Follow::new(shared, wanted);
        context.tasks.spawn(run(context.clone(), sender.clone(), async move { follow.run(&sender).await }));
    } else {
        let (attempt, outputs) = recorded(context, &wanted, project.state).await?;
        context.tasks.spawn(run(context.clone(), sender.clone(), async move {
            send_recorded(&shared, &sender, attempt, outputs, &wanted.streams, [0, 0]).await
        }));
    }
    Ok(ReceiverStream::new(receiver))
}

/// Runs until the end, the reader's going, or the coordinator's stop.
async fn run(context: Context, sender: Chunks, sending: impl Future<Output = Result<(), End>> + Send) {
    tokio::select! {
        () = context.stop.cancelled() => {}
        () = sender.closed() => {}
        end = sending => if let Err(End::Error(status)) = end {
            // If the reader is gone, nobody wants to know.
            let _ = sender.send(Err(status)).await;
        }
    }
}

/// Whether a task of this phase and index can ever be.
fn check_exists(project: &Project, task: TaskKey) -> Result<(), Status> {
    let has_phase = project.spec.task_of(task.phase).is_some();
    let total = match task.phase {
        // Before the split has ended, nobody knows.
        Phase::Task if project.counts.total == 0 && !project.state.is_ended() => return Ok(()),
        Phase::Task => project.counts.total,
        Phase::Split | Phase::Reassemble => u32::from(has_phase),
    };
    if task.index < total {
        return Ok(());
    }
    let project = project.id;
    Err(Status::not_found(match task.phase {
        Phase::Task if total > 0 => {
            format!("project {project} has no task {}: the last one is {}", task.index, total - 1)
        }
        Phase::Task => format!("project {project} has no tasks"),
        phase if has_phase => format!("project {project} has one {phase} task, and its index is 0"),
        phase => format!("project {project} has no {phase} task"),
    }))
}

/// The task's row; none if it was never claimed.
pub(super) async fn task_row(context: &Context, task: TaskKey) -> Result<Option<TaskRow>, Status> {
    let after = match (task.index.checked_sub(1), task.phase) {
        (Some(before), phase) => Some((phase, before)),
        (None, Phase::Split) => None,
        (None, Phase::Task) => Some((Phase::Split, u32::MAX)),
        (None, Phase::Reassemble) => Some((Phase::Task, u32::MAX)),
    };
    let filter = TaskFilter { states: Vec::new(), after, limit: 1 };
    let rows = context.store.tasks(task.project, filter).await.map_err(status::store)?;
    Ok(rows.into_iter().next().filter(|row| row.key == task))
}

/// The output of an ended attempt, or why there is none. The project's state must have been read before: once it has ended,
/// nothing of the rest changes.
async fn recorded(
    context: &Context,
    wanted: &Wanted,
    state: ProjectState,
) -> Result<(AttemptKey, (Output, Output)), Status> {
    let name = task_name(wanted.task);
    let Some(row) = task_row(context, wanted.task).await? else {
        return Err(if state.is_ended() {
            never_ran(wanted.task, state)
        } else {
            Status::failed_precondition(format!("{name} has not run yet: ask again later, or follow it"))
        });
    };
    let attempt = wanted.task.attempt(wanted.attempt.unwrap_or(row.attempt));
    if attempt.attempt > row.attempt {
        return Err(no_attempt(attempt, row.attempt));
    }
    match context.store.outputs(attempt).await.map_err(status::store)? {
        Some(outputs) => Ok((attempt, outputs)),
        None if attempt.attempt < row.attempt => Err(handed_back(attempt)),
        None if state.is_ended() => Err(no_output(attempt, state)),
        None => Err(Status::failed_precondition(format!(
            "attempt {} of {name} has not ended yet: follow it, or ask again later",
            attempt.attempt
        ))),
    }
}

pub(super) fn never_ran(task: TaskKey, ended: ProjectState) -> Status {
    Status::failed_precondition(format!("{} never ran: the project has ended ({ended})", task_name(task)))
}

pub(super) fn no_output(attempt: AttemptKey, ended: ProjectState) -> Status {
    Status::failed_precondition(format!(
        "attempt {} of {} has no recorded output: the project has ended before it ({ended})",
        attempt.attempt,
        task_name(attempt.task)
    ))
}

pub(super) fn no_attempt(attempt: AttemptKey, highest: AttemptNo) -> Status {
    Status::not_found(format!(
        "{} has no attempt {}: the highest is {highest}",
        task_name(attempt.task),
        attempt.attempt
    ))
}

pub(super) fn handed_back(attempt: AttemptKey) -> Status {
    Status::failed_precondition(format!(
        "attempt {} of {} was handed back unfinished, and nothing of it was kept",
        attempt.attempt,
        task_name(attempt.task)
    ))
}

/// Sends what is recorded of an ended attempt, each stream from an offset on: that of stdout, then that of stderr.
pub(super) async fn send_recorded(
    context: &Context,
    sender: &Chunks,
    attempt: AttemptKey,
    outputs: (Output, Output),
    streams: &[OutputStream],
    sent: [u64; 2],
) -> Result<(), End> {
    let (stdout, stderr) = outputs;
    for stream in streams {
        let (output, offset) = match stream {
            OutputStream::Stdout => (&stdout, sent[0]),
            OutputStream::Stderr => (&stderr, sent[1]),
        };
        if offset >= output.length {
            continue;
        }
        match &output.body {
            OutputBody::Inline(bytes) => {
                let rest = usize::try_from(offset).map_or(Bytes::new(), |offset| bytes.slice(offset..));
                send(sender, *stream, rest).await?;
            }
            OutputBody::Stored(_) => {
                let read = context.outputs.read(attempt, *stream, offset).await;
                let mut chunks = read.map_err(|error| End::Error(status::output(error)))?;
                while let Some(chunk) = chunks.next().await {
                    send(sender, *stream, chunk.map_err(status::output)?).await?;
                }
            }
        }
    }
    Ok(())
}

/// Sends bytes in chunks that fit.
pub(super) async fn send(sender: &Chunks, stream: OutputStream, mut bytes: Bytes) -> Result<(), End> {
    while !bytes.is_empty() {
        let data = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
        let chunk = pb::LogsChunk { stream: wire::stream_to_proto(stream).into(), data };
        sender.send(Ok(chunk)).await.map_err(|_| End::Gone)?;
    }
    Ok(())
}
