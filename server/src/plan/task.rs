//! Validates how a task runs.

use super::{
    ARGUMENT_BYTES_MAX, COMMAND_BYTES_MAX, CPUS_MILLI_MAX, CPUS_MILLI_MIN, CommandTemplate,
    IMAGE_FILE_BYTES_MAX, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, OUTPUT_BYTES_MAX, PIDS_MAX, ProblemKind,
    RETRIES_MAX, STDIN_BYTES_MAX, TIMEOUT_MILLIS_MAX,
    image::absolute_path,
    problem::Collector,
    template::{Known, Template},
};
use crate::domain::{Resources, Stdin, TaskSpec};
use piecework_proto::label;
use std::collections::BTreeMap;

/// What a task's command is checked with.
pub(super) struct Surroundings<'a> {
    /// The field's path, such as `task` or `items.split`.
    pub(super) field: &'a str,
    pub(super) known: Known<'a>,
    /// Items may bring the whole command.
    pub(super) command_optional: bool,
    /// Its stdin is the ordered output.
    pub(super) reads_output: bool,
    /// The longest item that is made from the index; other items are checked one by one as they come in.
    pub(super) item_bytes: usize,
    /// The longest item that a split may print: nobody checks its items against the command again.
    pub(super) split_item_bytes: usize,
    /// The longest value of each axis.
    pub(super) axes_bytes: &'a [usize],
}

pub(super) fn validate(task: &TaskSpec, around: &Surroundings<'_>, problems: &mut Collector) {
    command(&task.command, around, problems);
    let field = |rest: &str| format!("{}.{rest}", around.field);
    env(&task.env, &field("env"), problems);
    if let Some(workdir) = &task.workdir {
        problems.check(absolute_path(workdir), &field("workdir"), || ProblemKind::Path(workdir.clone()));
    }
    if let Some(timeout) = task.timeout_millis {
        problems
            .check(timeout <= TIMEOUT_MILLIS_MAX, &field("timeout_millis"), || ProblemKind::Timeout(timeout));
    }
    problems.check(task.retries <= RETRIES_MAX, &field("retries"), || ProblemKind::Retries(task.retries));
    resources(task.resources, &field("resources"), problems);
    requires(&task.requires, &field("requires"), problems);
    stdin(task.stdin.as_ref(), around, problems);
    if let Some(bytes) = task.output_bytes_max {
        problems
            .check(bytes <= OUTPUT_BYTES_MAX, &field("output_bytes_max"), || ProblemKind::OutputLimit(bytes));
    }
}

fn command(command: &[String], around: &Surroundings<'_>, problems: &mut Collector) {
    let field = format!("{}.command", around.field);
    for (n, argument) in command.iter().enumerate() {
        problems.no_zero(|| format!("{field}[{n}]"), argument);
    }
    let template = match CommandTemplate::parse(command, around.known) {
        Ok(template) => template,
        Err(errors) => {
            for (n, error) in errors {
                problems.add(format!("{field}[{n}]"), error.into());
            }
            return;
        }
    };
    problems.check(!template.is_empty() || around.command_optional, &field, || ProblemKind::NoCommand);
    problems.check(!template.lacks_program(), &format!("{field}[0]"), || ProblemKind::NoProgram);
    let (longest, sum) = template.expanded_bytes(around.item_bytes, around.axes_bytes);
    problems.check(longest <= ARGUMENT_BYTES_MAX, &field, || ProblemKind::ArgumentTooLong(longest));
    let sum = sum.max(template.expanded_bytes(around.split_item_bytes, around.axes_bytes).1);
    problems.check(sum <= COMMAND_BYTES_MAX, &field, || ProblemKind::CommandTooLong(sum));
}

fn stdin(stdin: Option<&Stdin>, around: &Surroundings<'_>, problems: &mut Collector) {
    let field = format!("{}.stdin", around.field);
    match stdin {
        None => {}
        Some(_) if around.reads_output => problems.add(field, ProblemKind::StdinOfReassemble),
        Some(Stdin::File { length, .. }) => {
            problems
                .check(*length <= IMAGE_FILE_BYTES_MAX, &field, || ProblemKind::StdinFileTooLong(*length));
        }
        Some(Stdin::Template(text)) => match Template::parse(text, around.known) {
            Ok(template) => {
                let item = around.item_bytes.max(around.split_item_bytes);
                let bytes = template.expanded_bytes(item, around.axes_bytes);
                problems.check(bytes <= STDIN_BYTES_MAX, &field, || ProblemKind::StdinTooLong(bytes));
            }
            Err(error) => problems.add(field, error.into()),
        },
    }
}

fn env(env: &BTreeMap<String, String>, field: &str, problems: &mut Collector) {
    for (name, value) in env {
        let good = name.starts_with(|first: char| !first.is_ascii_digit())
            && name.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-'));
        problems.check(good, field, || ProblemKind::EnvName(name.clone()));
        problems.no_zero(|| format!("{field}.{name}"), value);
        let bytes = name.len() + 1 + value.len();
        problems.check(bytes <= ARGUMENT_BYTES_MAX, field, || ProblemKind::ArgumentTooLong(bytes));
    }
}

fn requires(labels: &BTreeMap<String, String>, field: &str, problems: &mut Collector) {
    problems.check(labels.len() <= label::LABELS_MAX, field, || ProblemKind::TooManyLabels(labels.len()));
    for (name, value) in labels {
        if let Err(why) = label::check(name, value) {
            problems.add(field, ProblemKind::Label { label: format!("{name}={value}"), why });
        }
    }
}

fn resources(resources: Resources, field: &str, problems: &mut Collector) {
    if let Some(cpus) = resources.cpus_milli {
        let good = (CPUS_MILLI_MIN..=CPUS_MILLI_MAX).contains(&cpus);
        problems.check(good, &format!("{field}.cpus_milli"), || ProblemKind::Cpus(cpus));
    }
    if let Some(memory) = resources.memory_bytes {
        let good = (MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory);
        problems.check(good, &format!("{field}.memory_bytes"), || ProblemKind::Memory(memory));
    }
    if let Some(pids) = resources.pids_max {
        problems.check(pids <= PIDS_MAX, &format!("{field}.pids_max"), || ProblemKind::Pids(pids));
    }
}
