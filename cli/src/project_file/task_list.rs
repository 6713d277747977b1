//! The JSON list of tasks: `{"cmd", "id_projet" or "id_project", "id_task", "phrase", "url"}`, in any order. Each distinct
//! project id becomes a project, and its tasks are put into the order of their ids.

use super::{
    Submission,
    document::Scalar,
    items::{ITEMS_MAX, Items, unfit},
    problem::{Problem, quoted},
    values::{NAME_BYTES_MAX, to_name},
};
use piecework_proto::v1;
use serde::Deserialize;
use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

/// One entry as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    cmd: Scalar,
    id_projet: Option<Scalar>,
    id_project: Option<Scalar>,
    id_task: Scalar,
    phrase: Option<Scalar>,
    url: Option<Scalar>,
}

/// The projects of a list, in the order of their ids. `name` is what they are called, with the id if there are more.
pub(super) fn convert(entries: Vec<Entry>, name: &str, image: &str) -> Result<Vec<Submission>, Problem> {
    if entries.is_empty() {
        return Err(Problem::new("the list has no tasks")
            .hint("a task is `{\"cmd\": …, \"id_project\": …, \"id_task\": …}`"));
    }
    if entries.len() > ITEMS_MAX as usize {
        return Err(Problem::new(format!("a project has at most {ITEMS_MAX} tasks")));
    }
    let mut projects: BTreeMap<Id, BTreeMap<Id, v1::Item>> = BTreeMap::new();
    for entry in entries {
        let project = Id::new(project_id(&entry)?);
        let task = Id::new(entry.id_task.value.clone());
        let item = item(&entry)?;
        if projects.entry(project).or_default().insert(task, item).is_some() {
            let what = format!("the task {} is there twice in its project", quoted(&entry.id_task.value));
            return Err(Problem::at(entry.id_task.referenced, what)
                .hint("give each task of a project an id of its own"));
        }
    }
    let single = projects.len() == 1;
    let submission = |(id, tasks): (Id, BTreeMap<Id, v1::Item>)| {
        let name = if single { name.to_owned() } else { with_id(name, &id.0) };
        Submission {
            spec: spec(name, image, u32::try_from(tasks.len()).unwrap_or(ITEMS_MAX)),
            items: Items::Full(Arc::new(tasks.into_values().collect())),
            files: Vec::new(),
        }
    };
    Ok(projects.into_iter().map(submission).collect())
}

fn project_id(entry: &Entry) -> Result<String, Problem> {
    match (&entry.id_projet, &entry.id_project) {
        (Some(id), None) | (None, Some(id)) => Ok(id.value.clone()),
        (Some(id), Some(_)) => Err(Problem::at(id.referenced, "`id_projet` and `id_project` are both there")
            .hint("keep one of them")),
        (None, None) => Err(Problem::at(
            entry.cmd.referenced,
            "the field `id_project` (or `id_projet`) is missing from this task",
        )
        .hint("tasks with the same id are one project")),
    }
}

fn item(entry: &Entry) -> Result<v1::Item, Problem> {
    let cmd = &entry.cmd;
    let mut args = shell_words::split(&cmd.value).map_err(|_| {
        Problem::at(cmd.referenced, "a quote in this command is not closed")
            .hint("the command is split into words as a shell does it, but no shell runs it")
    })?;
    if args.first().is_none_or(String::is_empty) {
        return Err(
            Problem::at(cmd.referenced, "the command is empty").hint("name a program: `\"cmd\": \"echo\"`")
        );
    }
    let text = entry.phrase.as_ref().map(|phrase| phrase.value.clone());
    args.extend(text.clone());
    let resource = entry.url.as_ref().map(|url| url.value.clone()).unwrap_or_default();
    let scalars = [Some(cmd), entry.phrase.as_ref(), entry.url.as_ref()];
    for scalar in scalars.into_iter().flatten() {
        if let Some(why) = unfit(&scalar.value) {
            return Err(Problem::at(scalar.referenced, why));
        }
    }
    Ok(v1::Item { text: text.unwrap_or_default(), args, resource })
}

fn with_id(name: &str, id: &str) -> String {
    let id = to_name(id);
    let room = NAME_BYTES_MAX.saturating_sub(id.len() + 1);
    match name.get(..room.min(name.len())) {
        Some(name) if !name.is_empty() => format!("{name}-{id}"),
        _ => id,
    }
}

fn spec(name: String, image: &str, count: u32) -> v1::ProjectSpec {
    v1::ProjectSpec {
        name,
        image: Some(v1::ImageSpec { image: Some(v1::image_spec::Image::Reference(image.to_owned())) }),
        items: Some(v1::ItemSource { source: Some(v1::item_source::Source::List(v1::ItemList { count })) }),
        // Every item brings its whole command, so the template has none.
        task: Some(v1::TaskSpec { network: i32::from(v1::Network::None), ..v1::TaskSpec::default() }),
        reassemble: Some(v1::ReassembleSpec {
            how: Some(v1::reassemble_spec::How::BuiltIn(i32::from(v1::BuiltInReassemble::Concat))),
        }),
        on_failure: i32::from(v1::FailurePolicy::Continue),
        weight: 1,
        max_parallel: 0,
        placement: i32::from(v1::Placement::Spread),
        on_lease_loss: i32::from(v1::LeaseLossPolicy::Rerun),
    }
}

/// An id: numbers come first and in the order of their value, whether written as text or not; then texts.
#[derive(Debug)]
struct Id(String);

impl Id {
    fn new(text: String) -> Self {
        Self(text)
    }

    /// Sign, whole digits without leading zeros, and fraction digits without trailing ones.
    fn number(&self) -> Option<(bool, &str, &str)> {
        let (negative, digits) = match self.0.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, self.0.as_str()),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        Some((negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction))
    }
}

impl Ord for Id {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.number(), other.number()) {
            (None, None) => self.0.cmp(&other.0),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((true, ..)), Some((false, ..))) => Ordering::Less,
            (Some((false, ..)), Some((true, ..))) => Ordering::Greater,
            (Some((negative, whole, fraction)), Some((_, other_whole, other_fraction))) => {
                let size =
                    (whole.len(), whole, fraction).cmp(&(other_whole.len(), other_whole, other_fraction));
                if negative { size.reverse() } else { size }
            }
        }
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Id {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_value_and_then_as_text() {
        let sorted = [
            "-12",
            "-3",
            "-2.5",
            "0",
            "0.5",
            "1.25",
            "1.3",
            "2",
            "10",
            "99999999999999999999999",
            "1e3",
            "a",
            "a10",
            "a2",
        ];
        for (n, first) in sorted.iter().enumerate() {
            for (m, second) in sorted.iter().enumerate() {
                let order = Id::new((*first).to_owned()).cmp(&Id::new((*second).to_owned()));
                assert_eq!(order, n.cmp(&m), "{first} {second}");
            }
        }
    }

    #[test]
    fn the_same_number_is_the_same_id() {
        for (first, second) in [("7", "007"), ("7", "7.0"), ("-0", "0")] {
            assert_eq!(Id::new(first.to_owned()), Id::new(second.to_owned()));
        }
        assert_ne!(Id::new("a".to_owned()), Id::new("A".to_owned()));
    }

    #[test]
    fn names_stay_names() {
        assert_eq!(with_id("hello", "0"), "hello-0");
        assert_eq!(with_id(&"x".repeat(63), "mon projet").len(), 63);
        assert_eq!(with_id("x", &"y".repeat(99)).len(), 63);
    }
}
