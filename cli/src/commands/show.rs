//! `piecework show`

use crate::{
    context::Context,
    error::CliError,
    failures,
    output::{
        human,
        json::{Attempt, FailedTask, Project, ProjectDetails},
        reason,
    },
};
use piecework_proto::v1;

/// How many failed tasks are shown.
const FAILED_TASKS_MAX: u32 = 10;

/// Show one project: what it is, how far it is, what failed, and what it waits for.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The project's number, or its name, which means the newest of that name.
    project: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    let project = client.project(&args.project).await?;
    let (tasks, more) = failures::first(&client, &project, FAILED_TASKS_MAX).await?;
    let spec = project.spec.clone().unwrap_or_default();
    let details = ProjectDetails {
        image: human::image(&spec),
        items: human::items(&spec),
        command: spec.task.as_ref().map(|task| task.command.clone()).unwrap_or_default(),
        reassemble: human::reassemble(&spec),
        waits_for: (!project.waiting.is_empty()).then(|| project.waiting.clone()),
        failed_tasks: tasks.iter().map(failed_task).collect(),
        project: Project::from(&project),
    };
    if context.is_json() {
        return context.screen.json(&details).await;
    }
    context.screen.print(describe(&project, &details, &tasks, more)).await
}

fn failed_task(failed: &failures::FailedTask) -> FailedTask {
    let task = &failed.task;
    let key = task.key.unwrap_or_default();
    FailedTask {
        phase: human::phase(key.phase()).to_owned(),
        index: key.index,
        item: task.item.clone(),
        attempts: task.attempts.iter().map(Attempt::from).collect(),
        stderr_tail: failed.stderr.clone(),
        hint: failed.hint.clone(),
    }
}

fn describe(
    project: &v1::Project,
    details: &ProjectDetails,
    tasks: &[failures::FailedTask],
    more: bool,
) -> String {
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
    let counts = if project.open && project.tasks == 0 {
        "none yet".to_owned()
    } else if project.tasks == 0 {
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
    let spec = project.spec.clone().unwrap_or_default();
    let mut told = Told::default();
    for task in tasks {
        lines.push(String::new());
        lines.extend(describe_task(&spec, task, &mut told));
    }
    if more {
        lines.push(format!(
            "\nMore tasks failed than the {} shown here: `piecework tasks --failed {}` lists all of them.",
            tasks.len(),
            project.id
        ));
    }
    lines.join("\n") + "\n"
}

/// What was told last of all, and is not said twice in a row.
#[derive(Default)]
struct Told {
    outcome: v1::Outcome,
    hint: String,
}

fn describe_task(spec: &v1::ProjectSpec, failed: &failures::FailedTask, told: &mut Told) -> Vec<String> {
    let failures::FailedTask { task, stderr, hint } = failed;
    let key = task.key.unwrap_or_default();
    let item =
        if task.item.is_empty() { String::new() } else { format!(" (item {})", human::one_line(&task.item)) };
    let mut lines = vec![format!("{}{item} failed", human::task(&key))];
    let (_, task_spec) = reason::phase_task(spec, key.phase());
    for attempt in &task.attempts {
        let outcome = attempt.outcome.clone().unwrap_or_default();
        let words = reason::reason_after(&outcome, &told.outcome, &task_spec);
        told.outcome = outcome;
        let refused = human::refused(&attempt.usage.unwrap_or_default());
        lines.push(format!(
            "  attempt {} on {}: {words}{refused}",
            attempt.attempt,
            human::one_line(&attempt.agent)
        ));
    }
    if !stderr.is_empty() {
        lines.push("  stderr ends with".to_owned());
        lines.extend(stderr.lines().map(|line| format!("    {line}")));
    }
    if let Some(hint) = hint
        && told.hint != *hint
    {
        told.hint.clone_from(hint);
        lines.push(format!("  hint: {hint}"));
    }
    lines
}
