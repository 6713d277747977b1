//! The messages of the inbox: JSON of a documented, versioned shape. They come from anybody, and are believed in nothing.

use crate::domain::{ClientKey, Item, NewTask};
use serde::Deserialize;

/// The shape's version.
const VERSION: u32 = 1;

/// Longest message that is taken.
pub(super) const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Tasks for one open project.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Addition {
    /// 1.
    version: u32,
    /// The project: its number, or its name. Of several with this name it is the newest.
    project: ProjectRef,
    /// The tasks, at most 10,000. They come after those that the project has, in their order.
    #[serde(default)]
    tasks: Vec<Task>,
    /// No more tasks follow: the project is closed, and ends once all of its tasks have.
    #[serde(default)]
    end: bool,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(super) enum ProjectRef {
    /// Its number.
    Number(u64),
    /// Its name.
    Name(String),
}

/// A task.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Task {
    /// What the sender calls it, 1 to 128 bytes without control characters. Within a project each key is one task, however often
    /// it is sent.
    key: String,
    /// What `{item}` stands for.
    #[serde(default)]
    item: String,
    /// Arguments of its own, after the project's command.
    #[serde(default)]
    args: Vec<String>,
    /// A resource that belongs to it, such as a URL.
    #[serde(default)]
    resource: Option<String>,
}

/// What a message asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub project: ProjectRef,
    pub tasks: Vec<NewTask>,
    pub end: bool,
}

/// Reads a message.
///
/// # Errors
/// With what is wrong with it.
pub(super) fn read(body: &[u8]) -> Result<Order, String> {
    if body.len() > BYTES_MAX {
        return Err(format!("it has {} bytes, more than {BYTES_MAX}", body.len()));
    }
    let addition: Addition = serde_json::from_slice(body)
        .map_err(|error| format!("it is not of the documented shape: {error}"))?;
    if addition.version != VERSION {
        return Err(format!("its version is {}, and only {VERSION} is understood", addition.version));
    }
    if addition.tasks.is_empty() && !addition.end {
        return Err("it has neither tasks nor `end`".to_owned());
    }
    let tasks = addition.tasks.into_iter().enumerate().map(|(nth, task)| {
        let Task { key, item: text, args, resource } = task;
        let key = ClientKey::new(key).map_err(|error| format!("tasks[{nth}].key: {error}"))?;
        Ok(NewTask { key, item: Item { text, args, resource } })
    });
    Ok(Order { project: addition.project, tasks: tasks.collect::<Result<_, String>>()?, end: addition.end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_addition_is_read() {
        let body = br#"{"version":1,"project":"orders","end":true,
            "tasks":[{"key":"a","item":"x"},{"key":"b","args":["-v"],"resource":"https://r"}]}"#;
        let order = read(body).expect("an order");
        assert_eq!(order.project, ProjectRef::Name("orders".to_owned()));
        let tasks: Vec<_> = order.tasks.iter().map(|task| (task.key.as_str(), &*task.item.text)).collect();
        assert_eq!(tasks, [("a", "x"), ("b", "")]);
        assert_eq!(order.tasks[1].item.args, ["-v"]);
        assert!(order.end);
        let end = read(br#"{"version":1,"project":7,"end":true}"#).expect("an order");
        assert_eq!(end, Order { project: ProjectRef::Number(7), tasks: Vec::new(), end: true });
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (body, words) in [
            ("", "not of the documented shape"),
            ("[]", "not of the documented shape"),
            (r#"{"version":2,"project":7,"end":true}"#, "version is 2"),
            (r#"{"version":1,"project":7}"#, "neither tasks nor"),
            (r#"{"version":1,"project":-7,"end":true}"#, "not of the documented shape"),
            (r#"{"version":1,"project":7,"tasks":[{"key":"a"},{"key":""}]}"#, "tasks[1].key: missing"),
            (r#"{"version":1,"project":7,"tasks":[{"item":"a"}]}"#, "missing field `key`"),
            (r#"{"version":1,"project":7,"tasks":[{"key":"a","itme":"b"}]}"#, "unknown field `itme`"),
        ] {
            let error = read(body.as_bytes()).expect_err(body);
            assert!(error.contains(words), "{body}: {error}");
        }
        assert!(read(&vec![b' '; BYTES_MAX + 1]).is_err_and(|why| why.contains("more than")));
    }
}
