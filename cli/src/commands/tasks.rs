//! `piecework tasks`

use crate::{
    context::Context,
    error::CliError,
    output::{human, json, reason},
};
use piecework_proto::v1;
use std::time::Duration;

/// Most tasks in one answer.
const PAGE_MAX: u32 = 1000;

/// The longest item and the longest reason that are shown, in characters. JSON has all of them.
const ITEM_CHARS_MAX: usize = 40;
const REASON_CHARS_MAX: usize = 60;

const HEADER: [&str; 8] = ["TASK", "ITEM", "STATE", "ATTEMPT", "REASON", "WALL", "CPU", "MEMORY"];

/// List the tasks of a project, with how and why each ended.
///
/// Tasks appear once they were given to an agent for the first time, in the order of their items.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The project's number, or its name, which means the newest of that name.
    project: String,
    /// Only tasks that failed.
    #[arg(long)]
    failed: bool,
    /// One JSON object a line; the same as `--output json`.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    let project = client.project(&args.project).await?;
    let spec = project.spec.clone().unwrap_or_default();
    let mut rows = Rows::default();
    let mut after = None;
    loop {
        let states = if args.failed { vec![i32::from(v1::TaskState::Failed)] } else { Vec::new() };
        let project = project.id.to_string();
        let request = v1::ListTasksRequest { project, states, after, limit: PAGE_MAX, with_attempts: true };
        let page = client.tasks(request).await?;
        after = page.tasks.last().and_then(|task| task.key);
        if args.json || context.is_json() {
            for task in &page.tasks {
                context.screen.json(&line(&spec, task)).await?;
            }
        } else {
            context.screen.print(rows.page(page.tasks.iter().map(|task| row(&spec, task)).collect())).await?;
        }
        if !page.more || page.tasks.is_empty() {
            return Ok(());
        }
    }
}

/// A table that comes in pages: columns grow as they have to, and never shrink.
#[derive(Default)]
struct Rows {
    widths: [usize; HEADER.len()],
    begun: bool,
}

impl Rows {
    fn page(&mut self, mut rows: Vec<[String; HEADER.len()]>) -> String {
        if !self.begun {
            self.begun = true;
            rows.insert(0, HEADER.map(str::to_owned));
        }
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in rows {
            let cells: Vec<String> =
                row.iter().zip(self.widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            text.push_str(cells.join("   ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// The attempt that ended last, if any has.
fn last(task: &v1::Task) -> Option<&v1::Attempt> {
    task.attempts.last()
}

fn why(spec: &v1::ProjectSpec, task: &v1::Task) -> Option<String> {
    let outcome = last(task)?.outcome.as_ref()?;
    let (_, task_spec) = reason::phase_task(spec, task.key.unwrap_or_default().phase());
    Some(reason::reason(outcome, &task_spec))
}

fn row(spec: &v1::ProjectSpec, task: &v1::Task) -> [String; HEADER.len()] {
    let none = || "-".to_owned();
    let key = task.key.unwrap_or_default();
    let name = match key.phase() {
        v1::Phase::Task | v1::Phase::Unspecified => key.index.to_string(),
        other => human::phase(other).to_owned(),
    };
    let item = cut(&human::one_line(&task.item), ITEM_CHARS_MAX);
    let ended = matches!(task.state(), v1::TaskState::Succeeded | v1::TaskState::Failed);
    let why = match why(spec, task) {
        None => none(),
        Some(why) if ended => format!("{why}{}", human::refused(&usage(task).unwrap_or_default())),
        Some(why) => format!("again after {why}"),
    };
    let used = |show: fn(&v1::Usage) -> String| usage(task).as_ref().map_or_else(none, show);
    [
        name,
        if item.is_empty() { none() } else { item },
        human::task_state(task.state()).to_owned(),
        task.attempt.to_string(),
        cut(&why, REASON_CHARS_MAX),
        used(|usage| time(usage.wall_micros)),
        used(|usage| time(usage.user_micros.saturating_add(usage.system_micros))),
        used(|usage| human::bytes(usage.peak_memory_bytes)),
    ]
}

fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars_max).chain(['…']).collect(),
    }
}

/// A length of time, finer where it is short.
fn time(micros: u64) -> String {
    if micros < 1_000_000 {
        return format!("{:.1} ms", micros as f64 / 1000.0);
    }
    human::duration(Duration::from_micros(micros))
}

fn usage(task: &v1::Task) -> Option<v1::Usage> {
    last(task)?.usage
}

fn line(spec: &v1::ProjectSpec, task: &v1::Task) -> json::Task {
    let key = task.key.unwrap_or_default();
    let (_, task_spec) = reason::phase_task(spec, key.phase());
    let outcome = |attempt: &v1::Attempt| {
        let mut outcome = json::Outcome::from(attempt.outcome.as_ref());
        outcome.message =
            attempt.outcome.as_ref().map_or_else(String::new, |of| reason::reason(of, &task_spec));
        outcome
    };
    let attempt = |attempt| json::Attempt { outcome: outcome(attempt), ..json::Attempt::from(attempt) };
    json::Task {
        phase: human::phase(key.phase()).to_owned(),
        index: key.index,
        item: task.item.clone(),
        resource: task.resource.clone(),
        state: human::task_state(task.state()).to_owned(),
        attempt: task.attempt,
        agent: task.agent.clone(),
        outcome: last(task).map(outcome),
        attempts: task.attempts.iter().map(attempt).collect(),
        usage: usage(task).map(|usage| json::Usage::from(&usage)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!(cut("grün", 4), "grün");
        assert_eq!(cut("grüner", 4), "grün…");
    }

    #[test]
    fn columns_grow_from_page_to_page_and_the_header_comes_once() {
        let row = |name: &str| std::array::from_fn(|n| if n == 0 { name.to_owned() } else { "x".to_owned() });
        let mut rows = Rows::default();
        let first = rows.page(vec![row("1")]);
        assert_eq!(
            first,
            "TASK   ITEM   STATE   ATTEMPT   REASON   WALL   CPU   MEMORY\n\
             1      x      x       x         x        x      x     x\n"
        );
        let second = rows.page(vec![row("1000000"), row("2")]);
        assert_eq!(
            second,
            "1000000   x      x       x         x        x      x     x\n\
             2         x      x       x         x        x      x     x\n"
        );
        assert_eq!(rows.page(Vec::new()), "");
    }
}
