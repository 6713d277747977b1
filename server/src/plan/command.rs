//! The command of one attempt, from the phase's template and the task's item.

use super::{
    items,
    template::{Known, Template, TemplateError, Values},
};
use crate::domain::{Item, ItemSource, Phase, ProjectSpec, Stdin};

/// The command of all attempts of one phase of a project, its placeholders parsed.
#[derive(Clone, Debug)]
pub struct CommandTemplate {
    arguments: Vec<Template>,
    /// What stdin is made from, if it is made from a template.
    stdin: Option<Template>,
}

impl CommandTemplate {
    /// Parses the command of a phase of a validated specification. An argument that is no template after all (from a
    /// store that something else wrote) stands for itself.
    #[must_use]
    pub fn new(spec: &ProjectSpec, phase: Phase) -> Self {
        let axes = axis_names(spec);
        let known = known(phase, &axes);
        let task = spec.task_of(phase);
        let command = task.map_or(&[][..], |task| &task.command);
        let parse = |text: &String| Template::parse(text, known).unwrap_or_else(|_| Template::literal(text));
        let stdin = match task.and_then(|task| task.stdin.as_ref()) {
            Some(Stdin::Template(text)) => Some(parse(text)),
            Some(Stdin::File { .. }) | None => None,
        };
        Self { arguments: command.iter().map(parse).collect(), stdin }
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
        if errors.is_empty() { Ok(Self { arguments, stdin: None }) } else { Err(errors) }
    }

    /// The command of one attempt. `stored` is the task's item if the store has it.
    #[must_use]
    pub fn expand(&self, spec: &ProjectSpec, phase: Phase, index: u32, stored: Option<&Item>) -> Vec<String> {
        with_values(spec, phase, index, stored, |values, args| {
            let arguments = self.arguments.iter().map(|argument| argument.expand(values));
            arguments.chain(args.iter().cloned()).collect()
        })
    }

    /// The stdin of one attempt, if it is made from a template.
    #[must_use]
    pub fn stdin(
        &self,
        spec: &ProjectSpec,
        phase: Phase,
        index: u32,
        stored: Option<&Item>,
    ) -> Option<String> {
        let template = self.stdin.as_ref()?;
        Some(with_values(spec, phase, index, stored, |values, _| template.expand(values)))
    }

    /// The longest stdin that comes of an item and axes' values of these lengths.
    pub(super) fn stdin_bytes(&self, item: usize, axes: &[usize]) -> usize {
        self.stdin.as_ref().map_or(0, |template| template.expanded_bytes(item, axes))
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

/// Gives what the placeholders of one attempt stand for, and the arguments that its item brings.
fn with_values<T>(
    spec: &ProjectSpec,
    phase: Phase,
    index: u32,
    stored: Option<&Item>,
    expand: impl FnOnce(Values<'_>, &[String]) -> T,
) -> T {
    if phase != Phase::Task {
        return expand(Values { item: "", index, axes: &[] }, &[]);
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
    expand(Values { item: &item.text, index, axes: &axes }, &item.args)
}

/// The command of one attempt. Parses the template: with many attempts of one phase, keep a [`CommandTemplate`].
#[must_use]
pub fn command(spec: &ProjectSpec, phase: Phase, index: u32, stored: Option<&Item>) -> Vec<String> {
    CommandTemplate::new(spec, phase).expand(spec, phase, index, stored)
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
