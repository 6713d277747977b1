//! Validates a whole specification.

use super::{
    IDLE_MILLIS_MAX, IDLE_MILLIS_MIN, ITEMS_MAX, NAME_BYTES_MAX, PARALLEL_MAX, ProblemKind, Problems,
    SPLIT_ITEM_BYTES_MAX, WEIGHT_MAX,
    command::axis_names,
    image,
    items::{matrix_count, range_count},
    problem::Collector,
    task::{self, Surroundings},
    template::Known,
};
use crate::domain::{ItemSource, MatrixAxis, ProjectSpec, Reassemble};
use std::collections::BTreeSet;

/// Checks a specification as it came in, and gives it back with its defaults filled in.
///
/// # Errors
/// All problems, in the order of the fields.
pub fn validate(mut spec: ProjectSpec) -> Result<ProjectSpec, Problems> {
    if spec.weight == 0 {
        spec.weight = 1;
    }
    let mut problems = Collector::default();
    problems.check(is_name(&spec.name), "name", || ProblemKind::Name(spec.name.clone()));
    image::validate(&spec.image, &mut problems);
    items(&spec, &mut problems);
    problems.check(spec.weight <= WEIGHT_MAX, "weight", || ProblemKind::Weight(spec.weight));
    if let Some(attempts) = spec.max_parallel {
        problems.check(attempts <= PARALLEL_MAX, "max_parallel", || ProblemKind::Parallel(attempts));
    }
    problems.finish()?;
    Ok(spec)
}

/// Whether this is a name: of a project, an agent or a client. [`super::NAME_RULE`] says what one is.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// The source of the items, and the commands that use them.
fn items(spec: &ProjectSpec, problems: &mut Collector) {
    /// The digits and the sign of any integer of 64 bits.
    const INTEGER_BYTES_MAX: usize = 20;
    let mut axes_bytes = Vec::new();
    let mut item_bytes = 0;
    let mut split_item_bytes = 0;
    let count = match &spec.items {
        ItemSource::List(count) => Some(("items.list.count", u128::from(*count))),
        ItemSource::Range { first, last, step } => {
            item_bytes = INTEGER_BYTES_MAX;
            let count = range_count(*first, *last, *step);
            if *step == 0 {
                problems.add("items.range.step", ProblemKind::StepZero);
            } else if count == 0 {
                problems
                    .add("items.range", ProblemKind::RangeEmpty { first: *first, last: *last, step: *step });
            }
            (count > 0).then_some(("items.range", count))
        }
        ItemSource::Matrix(axes) => {
            axes_bytes =
                axes.iter().map(|axis| axis.values.iter().map(String::len).max().unwrap_or(0)).collect();
            item_bytes = axes_bytes.iter().sum::<usize>() + axes.len();
            matrix(axes, problems);
            let count = matrix_count(axes);
            (count > 0).then_some(("items.matrix", count))
        }
        ItemSource::Split(split) => {
            split_item_bytes = SPLIT_ITEM_BYTES_MAX;
            let around = Surroundings {
                field: "items.split",
                known: Known::Nothing,
                command_optional: false,
                reads_output: false,
                item_bytes: 0,
                split_item_bytes: 0,
                axes_bytes: &[],
            };
            task::validate(split, &around, problems);
            None
        }
        ItemSource::Open { idle_millis } => {
            if let Some(idle) = *idle_millis {
                let is_good = (IDLE_MILLIS_MIN..=IDLE_MILLIS_MAX).contains(&idle);
                problems.check(is_good, "items.open.idle_millis", || ProblemKind::Idle(idle));
            }
            None
        }
    };
    if let Some((field, count)) = count {
        problems.check(count > 0, field, || ProblemKind::NoItems);
        problems.check(count <= u128::from(ITEMS_MAX), field, || ProblemKind::TooManyItems(count));
    }
    let axes = axis_names(spec);
    let around = Surroundings {
        field: "task",
        known: Known::Task(&axes),
        command_optional: matches!(spec.items, ItemSource::List(_) | ItemSource::Open { .. }),
        reads_output: false,
        item_bytes,
        split_item_bytes,
        axes_bytes: &axes_bytes,
    };
    task::validate(&spec.task, &around, problems);
    if let Reassemble::Command(reassemble) = &spec.reassemble {
        let around = Surroundings {
            field: "reassemble.command",
            known: Known::Nothing,
            command_optional: false,
            reads_output: true,
            item_bytes: 0,
            split_item_bytes: 0,
            axes_bytes: &[],
        };
        task::validate(reassemble, &around, problems);
    }
}

fn matrix(axes: &[MatrixAxis], problems: &mut Collector) {
    problems.check(!axes.is_empty(), "items.matrix.axes", || ProblemKind::NoAxes);
    let mut names = BTreeSet::new();
    for (n, axis) in axes.iter().enumerate() {
        let field = format!("items.matrix.axes[{n}]");
        let name = format!("{field}.name");
        problems.check(is_axis_name(&axis.name), &name, || ProblemKind::AxisName(axis.name.clone()));
        problems.check(names.insert(&axis.name), &name, || ProblemKind::AxisTwice(axis.name.clone()));
        problems.check(!axis.values.is_empty(), &format!("{field}.values"), || ProblemKind::NoValues);
        for (v, value) in axis.values.iter().enumerate() {
            problems.no_zero(|| format!("{field}.values[{v}]"), value);
        }
    }
}

fn is_axis_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-'))
        && !matches!(name, "item" | "index")
}
