//! Items: how many there are, which one has an index, and whether one that came in is fit for its command.

use super::{
    ARGUMENT_BYTES_MAX, COMMAND_BYTES_MAX, CommandTemplate, ITEM_TEXT_BYTES_MAX, ProblemKind, Problems,
    STDIN_BYTES_MAX, problem::Collector,
};
use crate::domain::{Item, ItemSource, MatrixAxis, ProjectSpec};

/// How many tasks a validated specification begins with; none if a split is to tell.
#[must_use]
pub fn task_count(spec: &ProjectSpec) -> Option<u32> {
    let count = match &spec.items {
        ItemSource::List(count) => u128::from(*count),
        ItemSource::Range { first, last, step } => range_count(*first, *last, *step),
        ItemSource::Matrix(axes) => matrix_count(axes),
        // So far.
        ItemSource::Open { .. } => 0,
        ItemSource::Split(_) => return None,
    };
    // Validation holds it far below.
    Some(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The item of a task: made from the index for a range or a matrix, else the stored one.
#[must_use]
pub fn item(spec: &ProjectSpec, index: u32, stored: Option<&Item>) -> Item {
    let text = match &spec.items {
        ItemSource::Range { first, step, .. } => {
            (i128::from(*first) + i128::from(index) * i128::from(*step)).to_string()
        }
        ItemSource::Matrix(_) => axis_values(spec, index).join(" "),
        ItemSource::List(_) | ItemSource::Split(_) | ItemSource::Open { .. } => {
            return stored.cloned().unwrap_or_default();
        }
    };
    Item { text, ..Item::default() }
}

/// Checks one item that came in, with the template of the task's command. The paths of problems begin with `items[index]`.
///
/// # Errors
/// If the item can't become a command that Linux takes.
pub fn check_item(template: &CommandTemplate, index: u32, item: &Item) -> Result<(), Problems> {
    let mut problems = Collector::default();
    let field = |rest: &str| format!("items[{index}]{rest}");
    if template.is_empty() && item.args.is_empty() {
        problems.add(field(".args"), ProblemKind::ItemWithoutArguments);
    }
    let own = [(".text", Some(&item.text)), (".resource", item.resource.as_ref())];
    for (rest, text) in own {
        let Some(text) = text else { continue };
        problems.no_zero(|| field(rest), text);
        if text.len() > ITEM_TEXT_BYTES_MAX {
            problems.add(field(rest), ProblemKind::ItemTooLong(text.len()));
        }
    }
    let mut bytes = 0_usize;
    for (n, argument) in item.args.iter().enumerate() {
        problems.no_zero(|| field(&format!(".args[{n}]")), argument);
        if argument.len() > ARGUMENT_BYTES_MAX {
            problems.add(field(&format!(".args[{n}]")), ProblemKind::ArgumentTooLong(argument.len()));
        }
        bytes = bytes.saturating_add(argument.len()).saturating_add(1);
    }
    if template.is_empty() && item.args.first().is_some_and(String::is_empty) {
        problems.add(field(".args[0]"), ProblemKind::NoProgram);
    }
    let (longest, sum) = template.expanded_bytes(item.text.len(), &[]);
    if longest > ARGUMENT_BYTES_MAX {
        problems.add(field(""), ProblemKind::ArgumentTooLong(longest));
    }
    if bytes.saturating_add(sum) > COMMAND_BYTES_MAX {
        problems.add(field(""), ProblemKind::CommandTooLong(bytes.saturating_add(sum)));
    }
    let stdin = template.stdin_bytes(item.text.len(), &[]);
    if stdin > STDIN_BYTES_MAX {
        problems.add(field(""), ProblemKind::StdinTooLong(stdin));
    }
    problems.finish()
}

/// How many integers a range has; 0 if the step is 0 or leads away.
pub(super) fn range_count(first: i64, last: i64, step: i64) -> u128 {
    let (distance, step) = (i128::from(last) - i128::from(first), i128::from(step));
    if step == 0 || (distance != 0 && (distance < 0) != (step < 0)) {
        return 0;
    }
    (distance / step).unsigned_abs() + 1
}

/// How many combinations a matrix has.
pub(super) fn matrix_count(axes: &[MatrixAxis]) -> u128 {
    if axes.is_empty() {
        return 0;
    }
    axes.iter().fold(1_u128, |product, axis| product.saturating_mul(axis.values.len() as u128))
}

/// The values of the axes in the combination with this index, in the order of the axes; none without a matrix.
pub(super) fn axis_values(spec: &ProjectSpec, index: u32) -> Vec<&str> {
    let ItemSource::Matrix(axes) = &spec.items else { return Vec::new() };
    let mut rest = index as usize;
    let mut values: Vec<&str> = Vec::with_capacity(axes.len());
    for axis in axes.iter().rev() {
        let count = axis.values.len().max(1);
        values.push(axis.values.get(rest % count).map_or("", String::as_str));
        rest /= count;
    }
    values.reverse();
    values
}
