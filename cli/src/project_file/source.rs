//! Where items come from, from the document to what is submitted.

use super::{
    convert::{Around, ConvertError, optional, task},
    document::{Document, Items as ItemsDocument, ItemsFrom, Open, Range},
    files::FileToSend,
    items::{ITEMS_MAX, Items, unfit},
    problem::{Problem, ProjectFileError, quoted},
    shape::Ordered,
    values,
};
use piecework_proto::v1;
use serde_saphyr::{Location, Spanned};
use std::{path::Path, sync::Arc};

type Source = v1::item_source::Source;

/// The source, the items that are sent, and the names of a matrix' axes.
pub(super) fn items(
    document: &Document,
    base: &Path,
    files: &mut Vec<FileToSend>,
) -> Result<(Source, Items, Vec<String>), ConvertError> {
    const HINT: &str = "list the items, or make them: `items: {range: 1..=100}`, `{file: items.txt}`, \
                        `{matrix: {size: [1, 2]}}`, or with a `split` task; with `{open: {}}` they are added later";
    match (&document.items, &document.split) {
        (Some(items), Some(_)) => Err(Problem::at(items.referenced, "`items` and `split` are both there")
            .hint("keep one of them")
            .into()),
        (None, None) => Err(Problem::new("there is neither `items` nor `split`").hint(HINT).into()),
        (None, Some(split)) => {
            let around = Around { known: &[], base, reads_output: false };
            Ok((Source::Split(task(&split.value, &around, files)?), Items::None, Vec::new()))
        }
        (Some(items), None) => match &items.value {
            ItemsDocument::Line(line) => {
                Err(Problem::at(items.referenced, format!("{} is no list of items", quoted(line)))
                    .hint(HINT)
                    .into())
            }
            ItemsDocument::List(texts) => listed(texts, items.referenced).map_err(ConvertError::from),
            ItemsDocument::From(from) => made(from, items.referenced, base),
        },
    }
}

fn no_items(location: Location) -> Problem {
    Problem::at(location, "there are no items").hint("a project needs at least one")
}

fn count(length: usize, location: Location) -> Result<u32, Problem> {
    u32::try_from(length)
        .ok()
        .filter(|count| *count <= ITEMS_MAX)
        .ok_or_else(|| Problem::at(location, format!("a project has at most {ITEMS_MAX} items")))
}

fn listed(texts: &[String], location: Location) -> Result<(Source, Items, Vec<String>), Problem> {
    if texts.is_empty() {
        return Err(no_items(location));
    }
    if let Some((index, why)) = texts.iter().enumerate().find_map(|(index, text)| Some((index, unfit(text)?)))
    {
        return Err(Problem::at(location, format!("item {index}: {why}")));
    }
    let count = count(texts.len(), location)?;
    Ok((Source::List(v1::ItemList { count }), Items::Texts(Arc::new(texts.to_vec())), Vec::new()))
}

fn made(
    from: &ItemsFrom,
    location: Location,
    base: &Path,
) -> Result<(Source, Items, Vec<String>), ConvertError> {
    match from {
        ItemsFrom { range: Some(range), file: None, matrix: None, open: None } => {
            Ok((Source::Range(self::range(range)?), Items::None, Vec::new()))
        }
        ItemsFrom { range: None, file: Some(file), matrix: None, open: None } => {
            let items = Items::lines_of(base.join(values::no_zero(file)?)).map_err(|error| match error {
                ProjectFileError::Read { .. } => ConvertError::Content(
                    Problem::at(file.referenced, error.to_string())
                        .hint("item files are looked for beside the project file"),
                ),
                other => ConvertError::File(other),
            })?;
            let Items::Lines { count, .. } = items else { return Err(no_items(file.referenced).into()) };
            if count == 0 {
                return Err(Problem::at(file.referenced, "there are no items in this file")
                    .hint("each line that is not empty is an item")
                    .into());
            }
            Ok((Source::List(v1::ItemList { count }), items, Vec::new()))
        }
        ItemsFrom { range: None, file: None, matrix: Some(matrix), open: None } => {
            let axes = self::matrix(matrix)?;
            let names = axes.iter().map(|axis| axis.name.clone()).collect();
            Ok((Source::Matrix(v1::ItemMatrix { axes }), Items::None, names))
        }
        ItemsFrom { range: None, file: None, matrix: None, open: Some(open) } => {
            Ok((Source::Open(self::open(open)?), Items::None, Vec::new()))
        }
        _ => {
            let what = "items come from exactly one of `range`, `file`, `matrix` and `open`";
            Err(Problem::at(location, what).into())
        }
    }
}

fn open(open: &Open) -> Result<v1::ItemOpen, Problem> {
    let idle_millis = optional(open.idle.as_ref(), values::idle_millis)?.unwrap_or_default();
    Ok(v1::ItemOpen { idle_millis })
}

fn range(range: &Spanned<Range>) -> Result<v1::ItemRange, Problem> {
    let (first, last, step) = match &range.value {
        Range::Line(line) => {
            let (first, last) = line
                .split_once("..=")
                .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)))
                .ok_or_else(|| {
                    Problem::at(range.referenced, format!("{} is no range", quoted(line)))
                        .hint("write both ends, which are included: `1..=100`")
                })?;
            (first, last, 1)
        }
        Range::Steps(steps) => (
            values::integer("first", &steps.first)?,
            values::integer("last", &steps.last)?,
            optional(steps.step.as_ref(), |step| values::integer("step", step))?.unwrap_or(1),
        ),
    };
    let distance = i128::from(last) - i128::from(first);
    if step == 0 {
        return Err(Problem::at(range.referenced, "the step is 0, so the range never ends"));
    }
    if distance != 0 && (distance < 0) != (step < 0) {
        return Err(Problem::at(
            range.referenced,
            format!("the range from {first} to {last} by {step} is empty"),
        )
        .hint("to count down, write `{first: 10, last: 1, step: -1}`"));
    }
    if (distance / i128::from(step)).unsigned_abs() >= u128::from(ITEMS_MAX) {
        return Err(Problem::at(range.referenced, format!("a project has at most {ITEMS_MAX} items")));
    }
    Ok(v1::ItemRange { first, last, step })
}

fn matrix(matrix: &Spanned<Ordered<Spanned<Vec<String>>>>) -> Result<Vec<v1::MatrixAxis>, Problem> {
    if matrix.value.0.is_empty() {
        return Err(Problem::at(matrix.referenced, "a matrix needs at least one axis"));
    }
    let mut combinations = 1_u64;
    let mut axes = Vec::new();
    for (name, values) in &matrix.value.0 {
        let mut chars = name.value.chars();
        let well_formed = chars.next().is_some_and(|char| char.is_ascii_alphabetic() || char == '_')
            && chars.all(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-'));
        if !well_formed || matches!(name.value.as_str(), "item" | "index") {
            return Err(Problem::at(
                name.referenced,
                format!("{} is no name of an axis", quoted(&name.value)),
            )
            .hint("a letter or `_`, then letters, digits, `_` and `-`; but not `item` or `index`"));
        }
        if values.value.is_empty() {
            return Err(Problem::at(values.referenced, format!("the axis `{}` has no values", name.value)));
        }
        if let Some(why) = values.value.iter().find_map(|value| unfit(value)) {
            return Err(Problem::at(values.referenced, why));
        }
        combinations = combinations.saturating_mul(values.value.len() as u64);
        axes.push(v1::MatrixAxis { name: name.value.clone(), values: values.value.clone() });
    }
    if combinations > u64::from(ITEMS_MAX) {
        let what = format!(
            "the matrix has {combinations} combinations, and a project has at most {ITEMS_MAX} items"
        );
        return Err(Problem::at(matrix.referenced, what));
    }
    Ok(axes)
}
