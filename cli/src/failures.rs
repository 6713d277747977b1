//! The tasks of a project that failed, each with the end of its stderr and a hint.

use crate::{
    client::{Client, ClientError},
    context::Context,
    output::{
        hint::{Failure, hint},
        human, reason,
    },
};
use piecework_proto::v1;

/// How much of a failed task's stderr is kept, in lines.
const STDERR_LINES_MAX: usize = 5;
/// How much of it is kept while it is read, in bytes.
const STDERR_TAIL_BYTES: usize = 8 << 10;
/// The longest stderr that is read for its end, in bytes.
const STDERR_BYTES_MAX: u64 = 16 << 20;
/// How many failed tasks are looked at for hints at the end of a run.
const HINTED_TASKS_MAX: u32 = 5;

/// A task that failed.
pub(crate) struct FailedTask {
    pub(crate) task: v1::Task,
    /// The end of its last attempt's stderr.
    pub(crate) stderr: String,
    /// What to do about it, if that can be guessed.
    pub(crate) hint: Option<String>,
}

/// The first failed tasks, and whether there are more.
pub(crate) async fn first(
    client: &Client,
    project: &v1::Project,
    limit: u32,
) -> Result<(Vec<FailedTask>, bool), ClientError> {
    let request = v1::ListTasksRequest {
        project: project.id.to_string(),
        states: vec![i32::from(v1::TaskState::Failed)],
        after: None,
        limit,
        with_attempts: true,
    };
    let answer = client.tasks(request).await?;
    let spec = project.spec.clone().unwrap_or_default();
    let mut tasks = Vec::new();
    for task in answer.tasks {
        let stderr = stderr_tail(client, project.id, &task).await?;
        let (field, task_spec) = reason::phase_task(&spec, task.key.unwrap_or_default().phase());
        let hint = task.attempts.last().and_then(|attempt| {
            let outcome = attempt.outcome.as_ref()?;
            let usage = attempt.usage.unwrap_or_default();
            hint(&Failure { outcome, usage, stderr: &stderr, task: (field, &task_spec) })
        });
        tasks.push(FailedTask { task, stderr, hint });
    }
    Ok((tasks, answer.more))
}

/// Tells what could be done about the failures of a project that has ended, each hint once. A courtesy: if the coordinator can't
/// be asked, there are no hints.
pub(crate) async fn tell_hints(context: &Context, client: &Client, project: &v1::Project) {
    if context.is_json() || project.state() != v1::ProjectState::Failed {
        return;
    }
    let Ok((tasks, _)) = first(client, project, HINTED_TASKS_MAX).await else { return };
    let mut told = Vec::new();
    for FailedTask { task, hint, .. } in tasks {
        let Some(hint) = hint.filter(|hint| !told.contains(hint)) else { continue };
        context.screen.status(&format!("{}: hint: {hint}", human::task(&task.key.unwrap_or_default())));
        told.push(hint);
    }
}

async fn stderr_tail(client: &Client, project: u64, task: &v1::Task) -> Result<String, ClientError> {
    let length = task.attempts.last().map_or(0, |attempt| attempt.stderr_bytes);
    if length == 0 {
        return Ok(String::new());
    }
    if length > STDERR_BYTES_MAX {
        return Ok(format!("({length} bytes: see `piecework logs --stderr`)"));
    }
    let key = task.key.unwrap_or_default();
    let request = v1::LogsRequest {
        project: project.to_string(),
        phase: key.phase,
        index: key.index,
        streams: vec![i32::from(v1::OutputStream::Stderr)],
        ..v1::LogsRequest::default()
    };
    let mut chunks = client.logs(request).await?;
    let mut tail = Vec::new();
    while let Some(chunk) = chunks.message().await.map_err(ClientError::from)? {
        tail.extend_from_slice(&chunk.data);
        tail.drain(..tail.len().saturating_sub(STDERR_TAIL_BYTES));
    }
    Ok(human::tail(&tail, STDERR_LINES_MAX))
}
