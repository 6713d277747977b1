//! The command of one attempt, from the phase's template and the task's item.

use super::{
    items,
    template::{Known, Template, TemplateError, Values},
};
use crate::domain::{Item, ItemSource, Phase, ProjectSpec, Reassemble, TaskSpec};

/// The command of all attempts of one phase of a project, its placeholders parsed.
#[derive(Clone, Debug)]
pub struct CommandTemplate {
    arguments: Vec<Template>,
}

impl CommandTemplate {
    /// Parses the command of a phase of a validated specification. An argument that is no template after all (from a
    /// store that something else wrote) stands for itself.
    #[must_use]
    pub fn new(spec: &ProjectSpec, phase: Phase) -> Self {
        let axes = axis_names(spec);
        let known = known(phase, &axes);
        let command = phase_task(spec, phase).map_or(&[][..], |task| &task.command);
        let parse = |text: &String| Template::parse(text, known).unwrap_or_else(|_| Template::literal(text));
        Self { arguments: command.iter().map(parse).collect() }
    }

    /// Parses a command, and tells for each argument that is no template its number and what is wrong.
    pub(super) fn parse(command: &[String], known: Known<'_>) -> Result<Self, Vec<(usize, TemplateError)>> {
        let mut arguments = Vec::with_capacity(command.len());
        let mut errors = Vec::new();
        for (n, text) in command.iter().enumerate() {
            match Template::parse(text, known) {
                Ok(template) => arguments.push(template),
                Err(error) => errors.push((n, error)),
            }
        }
        if errors.is_empty() { Ok(Self { arguments }) } else { Err(errors) }
    }

    /// The command of one attempt. `stored` is the task's item if the store has it.
    #[must_use]
    pub fn expand(&self, spec: &ProjectSpec, phase: Phase, index: u32, stored: Option<&Item>) -> Vec<String> {
        if phase != Phase::Task {
            let values = Values { item: "", index, axes: &[] };
            return self.arguments.iter().map(|argument| argument.expand(values)).collect();
        }
        let made;
        let item = match stored {
            Some(item) => item,
            None => {
                made = items::item(spec, index, None);
                &made
            }
        };
        let axes = items::axis_values(spec, index);
        let values = Values { item: &item.text, index, axes: &axes };
        self.arguments
            .iter()
            .map(|argument| argument.expand(values))
            .chain(item.args.iter().cloned())
            .collect()
    }

    /// The longest argument and the sum of all, each with its closing zero, that come of an item and axes' values of
    /// these lengths.
    pub(super) fn expanded_bytes(&self, item: usize, axes: &[usize]) -> (usize, usize) {
        self.arguments.iter().fold((0, 0_usize), |(longest, sum), argument| {
            let bytes = argument.expanded_bytes(item, axes);
            (longest.max(bytes), sum.saturating_add(bytes).saturating_add(1))
        })
    }

    /// Whether there is no command at all.
    pub(super) fn is_empty(&self) -> bool {
        self.arguments.is_empty()
    }

    /// Whether the first argument is the empty text whatever the item.
    pub(super) fn lacks_program(&self) -> bool {
        self.arguments.first().is_some_and(Template::is_empty)
    }
}

/// The command of one attempt. Parses the template: with many attempts of one phase, keep a [`CommandTemplate`].
#[must_use]
pub fn command(spec: &ProjectSpec, phase: Phase, index: u32, stored: Option<&Item>) -> Vec<String> {
    CommandTemplate::new(spec, phase).expand(spec, phase, index, stored)
}

/// What a phase runs by; none if the project has no such phase.
#[must_use]
pub fn phase_task(spec: &ProjectSpec, phase: Phase) -> Option<&TaskSpec> {
    match phase {
        Phase::Task => Some(&spec.task),
        Phase::Split => match &spec.items {
            ItemSource::Split(task) => Some(task),
            _ => None,
        },
        Phase::Reassemble => match &spec.reassemble {
            Reassemble::Command(task) => Some(task),
            Reassemble::BuiltIn(_) => None,
        },
    }
}

pub(super) fn known<'a>(phase: Phase, axes: &'a [&'a str]) -> Known<'a> {
    if phase == Phase::Task { Known::Task(axes) } else { Known::Nothing }
}

pub(super) fn axis_names(spec: &ProjectSpec) -> Vec<&str> {
    match &spec.items {
        ItemSource::Matrix(axes) => axes.iter().map(|axis| axis.name.as_str()).collect(),
        _ => Vec::new(),
    }
}
