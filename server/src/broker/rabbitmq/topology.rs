//! Which queues there are in RabbitMQ, and how they are made.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString},
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt::Write};

/// Labels that a task asks for: tasks with the same ones wait in one queue.
pub(super) type Labels = BTreeMap<String, String>;

/// A queue of tasks with labels is removed once nobody has used it for a day.
const EXPIRES_MILLIS: i64 = 24 * 3600 * 1000;

/// How many refused messages are kept at the most; the oldest go first.
const DEAD_MESSAGES_MAX: i64 = 10_000;

/// How often a message may be delivered in vain, which is for ever: RabbitMQ 4 drops it after 20 times if nothing is said, and
/// counts each look.
pub(crate) const DELIVERIES_MAX: i64 = 1_000_000_000;

/// Longest name with the labels in it, in bytes. RabbitMQ takes up to 255.
const NAME_BYTES_MAX: usize = 200;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Tasks that ask for no labels.
    Todo,
    /// Tasks that ask for some.
    TodoOfLabels,
    /// Tasks that other programs add.
    Inbox,
    /// What was refused.
    Dead,
}

/// The name of the queue of tasks that ask for these labels: `piecework.todo`, `piecework.todo.gpu=true,zone=a`.
pub(super) fn todo_name(prefix: &str, labels: &Labels) -> String {
    let mut name = format!("{prefix}.todo");
    if labels.is_empty() {
        return name;
    }
    let mut all = String::new();
    for (key, value) in labels {
        if !all.is_empty() {
            all.push(',');
        }
        escape(key, &mut all);
        all.push('=');
        escape(value, &mut all);
    }
    name.push('.');
    if name.len() + all.len() > NAME_BYTES_MAX {
        let digest = Sha256::digest(all.as_bytes());
        name.push_str("sha256-");
        name.push_str(&data_encoding::HEXLOWER.encode(&digest));
    } else {
        name.push_str(&all);
    }
    name
}

/// The name of the queue of tasks that other programs add.
pub(super) fn inbox_name(prefix: &str) -> String {
    format!("{prefix}.inbox")
}

/// The name of the exchange of what is recorded.
pub(super) fn done_name(prefix: &str) -> String {
    format!("{prefix}.done")
}

/// The name of the queue of what was refused.
pub(super) fn dead_name(prefix: &str) -> String {
    format!("{prefix}.dead")
}

/// The queues that are there always, by name.
pub(crate) fn system_queues(prefix: &str) -> [String; 3] {
    [dead_name(prefix), inbox_name(prefix), todo_name(prefix, &Labels::new())]
}

/// As in a URL, so that no two sets of labels have one name.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            out.push(char::from(byte));
        } else {
            // To a string, it does not fail.
            let _ = write!(out, "%{byte:02x}");
        }
    }
}

/// Makes a queue unless it is there.
///
/// # Errors
/// PRECONDITION_FAILED if it is there and was made otherwise, which also closes the channel.
pub(super) async fn declare(channel: &Channel, name: &str, queue: Use) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    // Replicated where there are several nodes, and on the disk before a publication is confirmed.
    arguments.insert("x-queue-type".into(), text("quorum"));
    match queue {
        Use::Todo => {}
        Use::Inbox => {
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERIES_MAX));
        }
        Use::TodoOfLabels => {
            arguments.insert("x-expires".into(), AMQPValue::LongLongInt(EXPIRES_MILLIS));
        }
        Use::Dead => {
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERIES_MAX));
            arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(DEAD_MESSAGES_MAX));
        }
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, arguments).await.map(drop)
}

/// Makes an exchange unless it is there.
///
/// # Errors
/// PRECONDITION_FAILED if it is there and was made otherwise, which also closes the channel.
pub(super) async fn declare_exchange(channel: &Channel, name: &str) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await
}

/// How many messages wait in a queue.
///
/// # Errors
/// NOT_FOUND if it is not there, which also closes the channel.
pub(super) async fn ready(channel: &Channel, name: &str) -> lapin::Result<u32> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(name.into(), options, FieldTable::default()).await?;
    Ok(queue.message_count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(labels: &[(&str, &str)]) -> String {
        let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        todo_name("piecework", &labels)
    }

    #[test]
    fn a_queue_is_named_after_its_labels() {
        assert_eq!(name(&[]), "piecework.todo");
        assert_eq!(name(&[("zone", "a"), ("gpu", "true")]), "piecework.todo.gpu=true,zone=a");
    }

    #[test]
    fn different_labels_have_different_names() {
        let long = "x".repeat(63);
        let names = [
            name(&[("a", "b,c=d")]),
            name(&[("a", "b"), ("c", "d")]),
            name(&[("a", "ü")]),
            name(&[("a", "%c3%bc")]),
            name(&[(&long, &long), ("y", &long)]),
            name(&[(&long, &long), ("z", &long)]),
        ];
        let all: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(all.len(), names.len(), "{names:?}");
        assert!(names.iter().all(|name| name.len() <= 255 && name.is_ascii()), "{names:?}");
    }
}
