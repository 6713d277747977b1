//! `piecework show`

use crate::{
    client::{Client, ClientError, has_ended},
    context::Context,
    error::CliError,
    output::{
        human,
        json::{Attempt, FailedTask, Project, ProjectDetails},
    },
};
use piecework_proto::v1;

/// How many failed tasks are shown.
const FAILED_TASKS_MAX: u32 = 10;
/// How much of a failed task's stderr is shown.
const STDERR_LINES_MAX: usize = 5;
/// How much of it is kept while it is read.
const STDERR_TAIL_BYTES: usize = 8 << 10;
/// The longest stderr that is read for its end.
const STDERR_BYTES_MAX: u64 = 16 << 20;

/// Show one project: what it is, how far it is, what failed, and what it waits for.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The project's number, or its name, which means the newest of that name.
    project: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    let project = client.project(&args.project).await?;
    let (tasks, more) = failed_tasks(&client, &project).await?;
    let spec = project.spec.clone().unwrap_or_default();
    let details = ProjectDetails {
        image: human::image(&spec),
        items: human::items(&spec),
        command: spec.task.as_ref().map(|task| task.command.clone()).unwrap_or_default(),
        reassemble: human::reassemble(&spec),
        waits_for: waits_for(&client, &project).await?,
        failed_tasks: tasks.iter().map(|(task, stderr)| failed_task(task, stderr)).collect(),
        project: Project::from(&project),
    };
    if context.is_json() {
        return context.screen.json(&details).await;
    }
    context.screen.print(describe(&project, &details, &tasks, more)).await
}

type FailedTasks = Vec<(v1::Task, String)>;

/// The first failed tasks, each with the end of its stderr, and whether there are more.
async fn failed_tasks(client: &Client, project: &v1::Project) -> Result<(FailedTasks, bool), CliError> {
    let answer = client
        .tasks(v1::ListTasksRequest {
            project: project.id.to_string(),
            states: vec![i32::from(v1::TaskState::Failed)],
            after: None,
            limit: FAILED_TASKS_MAX,
            with_attempts: true,
        })
        .await?;
    let mut tasks = Vec::new();
    for task in answer.tasks {
        let stderr = stderr_tail(client, project.id, &task).await?;
        tasks.push((task, stderr));
    }
    Ok((tasks, answer.more))
}

async fn stderr_tail(client: &Client, project: u64, task: &v1::Task) -> Result<String, CliError> {
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

/// What a project that has tasks to do waits for, if none of them runs.
async fn waits_for(client: &Client, project: &v1::Project) -> Result<Option<String>, CliError> {
    if has_ended(project) || project.running > 0 {
        return Ok(None);
    }
    let agents = client.agents().await?;
    let ready = agents.iter().filter(|agent| agent.state() == v1::AgentState::Ready);
    if agents.is_empty() {
        return Ok(Some("an agent: none has ever connected; `piecework up` brings one along".to_owned()));
    }
    if ready.clone().next().is_some() {
        let all_full = ready.clone().all(|agent| agent.held >= agent.slots);
        return Ok(all_full.then(|| "a free slot: all agents are busy with other projects".to_owned()));
    }
    let states: Vec<String> = agents
        .iter()
        .map(|agent| {
            let why = if agent.message.is_empty() { String::new() } else { format!(" ({})", agent.message) };
            format!("{} is {}{why}", agent.name, human::agent_state(agent.state()))
        })
        .collect();
    Ok(Some(format!("an agent that is ready: {}", human::one_line(&states.join(", ")))))
}

fn failed_task(task: &v1::Task, stderr: &str) -> FailedTask {
    let key = task.key.unwrap_or_default();
    FailedTask {
        phase: human::phase(key.phase()).to_owned(),
        index: key.index,
        item: task.item.clone(),
        attempts: task.attempts.iter().map(Attempt::from).collect(),
        stderr_tail: stderr.to_owned(),
    }
}

fn describe(project: &v1::Project, details: &ProjectDetails, tasks: &FailedTasks, more: bool) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: &str| lines.push(format!("{name:<12}{}", human::one_line(value)));
    line("project", &format!("{} ({})", project.id, human::project_name(project)));
    line("state", human::project_state(project.state()));
    if !project.message.is_empty() {
        line("", &project.message);
    }
    if let Some(waits_for) = &details.waits_for {
        line("waits for", waits_for);
    }
    line("image", &details.image);
    line("items", &details.items);
    line("command", &human::command(&details.command));
    line("reassemble", &details.reassemble);
    let counts = if project.tasks == 0 {
        "not known yet".to_owned()
    } else {
        let left = project.tasks.saturating_sub(project.succeeded + project.failed);
        format!(
            "{}: {} succeeded, {} failed, {left} left, {} running",
            project.tasks, project.succeeded, project.failed, project.running
        )
    };
    line("tasks", &counts);
    line(
        "submitted",
        &format!("{} ({})", human::rfc3339(project.created_millis), human::ago(project.created_millis)),
    );
    if project.ended_millis > 0 {
        line("took", &human::took(project.created_millis, project.ended_millis));
    }
    for (task, stderr) in tasks {
        lines.push(String::new());
        lines.extend(describe_task(task, stderr));
    }
    if more {
        lines.push(format!("\nMore tasks failed than the {} shown here.", tasks.len()));
    }
    lines.join("\n") + "\n"
}

fn describe_task(task: &v1::Task, stderr: &str) -> Vec<String> {
    let key = task.key.unwrap_or_default();
    let item =
        if task.item.is_empty() { String::new() } else { format!(" (item {})", human::one_line(&task.item)) };
    let mut lines = vec![format!("{}{item} failed", human::task(&key))];
    for attempt in &task.attempts {
        let outcome = human::outcome(&attempt.outcome.clone().unwrap_or_default());
        let refused = human::refused(&attempt.usage.unwrap_or_default());
        lines.push(format!(
            "  attempt {} on {}: {outcome}{refused}",
            attempt.attempt,
            human::one_line(&attempt.agent)
        ));
    }
    if !stderr.is_empty() {
        lines.push("  stderr ends with".to_owned());
        lines.extend(stderr.lines().map(|line| format!("    {line}")));
    }
    lines
}
