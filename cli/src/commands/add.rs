//! `piecework add`

use super::lines::Lines;
use crate::{
    client::{Client, unique_key},
    context::Context,
    error::CliError,
    exit_code,
    output::{
        human,
        json::{Added, Line, Project},
    },
};
use piecework_proto::v1;
use std::path::PathBuf;

/// Add tasks to an open project, and print their numbers.
///
/// An open project has `items: {open: {}}`. Each item becomes a task of it, behind those that it has. When its number is
/// there, the task is safe. Lines of a file are added as they come, so that another program can go on writing them.
#[derive(Debug, clap::Args)]
// Clap would write the group before the project.
#[command(override_usage = "piecework add [OPTIONS] <PROJECT> [ITEM]...")]
#[command(group = clap::ArgGroup::new("what").args(["items", "file", "end"]).required(true).multiple(true))]
pub(crate) struct Args {
    /// The project's number, or its name, which means the newest of that name.
    project: String,
    /// The items.
    #[arg(value_name = "ITEM")]
    items: Vec<String>,
    /// Also the lines of this file; `-` is standard input. Empty lines are left out.
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// What the tasks are called. What is added again under its key is not added a second time. A single ITEM has the key
    /// itself, of several items each has KEY.0, KEY.1 and so on. Without it the keys are of this call alone.
    #[arg(short, long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// No more tasks follow: the project ends once all of its tasks have.
    #[arg(long)]
    end: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    let project = client.project(&args.project).await?;
    let is_single = args.file.is_none() && args.items.len() == 1;
    let keys = Keys { base: args.key.unwrap_or_else(unique_key), is_single, count: 0 };
    let mut adder = Adder { context, client, project, keys, new: 0, existed: 0 };
    let mut lines = Lines::read(args.items, args.file);
    loop {
        let call = lines.next_call(0).await?;
        if call.is_empty() {
            break;
        }
        adder.add(call, false).await?;
    }
    if args.end {
        adder.add(Vec::new(), true).await?;
    }
    adder.finish().await
}

/// The keys of the items, in their order.
struct Keys {
    base: String,
    is_single: bool,
    count: u64,
}

impl Keys {
    fn next(&mut self) -> String {
        if self.is_single {
            return self.base.clone();
        }
        self.count += 1;
        format!("{}.{}", self.base, self.count - 1)
    }
}

struct Adder<'c> {
    context: &'c Context,
    client: Client,
    /// As it was last.
    project: v1::Project,
    keys: Keys,
    new: u64,
    existed: u64,
}

impl Adder<'_> {
    async fn add(&mut self, items: Vec<String>, end: bool) -> Result<(), CliError> {
        if items.is_empty() && !end {
            return Ok(());
        }
        let one = |text| v1::NewTask {
            key: self.keys.next(),
            item: Some(v1::Item { text, ..v1::Item::default() }),
        };
        let tasks: Vec<_> = items.into_iter().map(one).collect();
        let keys: Vec<_> = tasks.iter().map(|task| task.key.clone()).collect();
        let answer = self.client.add_tasks(v1::AddTasksRequest {
            // By its number: the name could be a newer project's by now.
            project: self.project.id.to_string(),
            tasks,
            end,
        });
        let answer = answer.await?;
        self.project = answer.project.unwrap_or_default();
        for (task, key) in answer.tasks.iter().zip(keys) {
            *(if task.existed { &mut self.existed } else { &mut self.new }) += 1;
            if self.context.is_json() {
                let v1::AddedTask { index, existed } = *task;
                let added = Added { project: self.project.id, index, key, existed };
                self.context.screen.json(&Line::Added(added)).await?;
            }
        }
        if !self.context.is_json() {
            let numbers: String = answer.tasks.iter().map(|task| format!("{}\n", task.index)).collect();
            self.context.screen.print(numbers).await?;
        }
        Ok(())
    }

    async fn finish(self) -> Result<(), CliError> {
        if self.project.id == 0 {
            return Err(CliError::new(exit_code::REFUSED, "the coordinator's answer lacks the project"));
        }
        if self.context.is_json() {
            return self.context.screen.json(&Line::Project(Project::from(&self.project))).await;
        }
        let name = human::one_line(human::project_name(&self.project));
        let known =
            if self.existed > 0 { format!(", {} known already", self.existed) } else { String::new() };
        let more = match (self.project.open, self.project.state()) {
            (true, _) => "it takes more".to_owned(),
            (false, v1::ProjectState::Running) => "it takes no more".to_owned(),
            (false, state) => format!("it takes no more, and is {}", human::project_state(state)),
        };
        let added = human::count(self.new, "task");
        self.context
            .screen
            .note(&format!("{added} added to project {} ({name}){known}; {more}", self.project.id));
        Ok(())
    }
}
