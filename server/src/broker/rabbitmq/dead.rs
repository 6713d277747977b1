//! Messages that were refused: kept in a queue of their own, with the reason, until somebody looks at them.

use super::{
    config::RabbitMqConfig,
    link::{Link, RabbitMqError},
    message::PERSISTENT,
    topology::{self, Use, dead_name},
};
use lapin::{
    BasicProperties, Channel, Confirmation,
    message::{BasicGetMessage, Delivery},
    options::{
        BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    },
    types::{AMQPValue, FieldTable, LongString},
};
use std::time::{SystemTime, UNIX_EPOCH};

/// Most messages that are looked at in one call.
pub const DEAD_LETTERS_MAX: u32 = 10_000;

/// Most bytes of a message that are shown.
const SHOWN_BYTES_MAX: usize = 1024;

/// Longest reason that is kept.
const REASON_BYTES_MAX: usize = 500;

/// Headers with what is known of a refused message.
const ID: &str = "piecework-id";
const REASON: &str = "piecework-reason";
const QUEUE: &str = "piecework-queue";
const MILLIS: &str = "piecework-refused-millis";
const OURS: [&str; 4] = [ID, REASON, QUEUE, MILLIS];

/// A message that was refused.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// By which it is named.
    pub id: String,
    /// Why it was refused.
    pub reason: String,
    /// The queue that it was in.
    pub queue: String,
    /// When it was refused, in milliseconds since 1970; 0 if that is not known.
    pub refused_millis: i64,
    /// How long it is.
    pub bytes: u64,
    /// Its beginning.
    pub beginning: Vec<u8>,
}

/// What is done with refused messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// They go back to the queues that they were in, to be looked at again.
    Replay,
    /// They go.
    Drop,
}

/// Which of them.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// All that are there.
    All,
    /// These.
    Ids(Vec<String>),
}

impl Chosen {
    fn has(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => ids.iter().any(|chosen| chosen == id),
        }
    }
}

/// Keeps a refused message with the reason. `channel` confirms; the message can be acknowledged then.
///
/// # Errors
/// If it may not be kept.
pub(crate) async fn put_aside(
    link: &Link,
    channel: &Channel,
    prefix: &str,
    delivery: &Delivery,
    why: &str,
) -> Result<(), RabbitMqError> {
    let queue = dead_name(prefix);
    let why: String = why.chars().take(REASON_BYTES_MAX).collect();
    tracing::warn!(queue = %delivery.routing_key, why, "a message is refused, and put aside");
    let id = format!("{:016x}", getrandom::u64().unwrap_or_default());
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut headers = delivery.properties.headers().clone().unwrap_or_default();
    for (key, text) in [(ID, &*id), (REASON, &*why), (QUEUE, delivery.routing_key.as_str())] {
        headers.insert(key.into(), AMQPValue::LongString(LongString::from(text)));
    }
    headers.insert(MILLIS.into(), AMQPValue::LongLongInt(i64::try_from(millis).unwrap_or_default()));
    let properties = delivery.properties.clone().with_headers(headers);
    link.within(topology::declare(channel, &queue, Use::Dead)).await?;
    send(link, channel, &queue, &delivery.data, properties).await
}

/// Sends a message to a queue, and waits until it is there.
async fn send(
    link: &Link,
    channel: &Channel,
    queue: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), RabbitMqError> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = properties.with_delivery_mode(PERSISTENT);
    let sending = channel.basic_publish("".into(), queue.into(), options, body, properties);
    let confirm = link.within(sending).await?;
    match link.within(confirm).await? {
        Confirmation::Ack(None) => Ok(()),
        _ => Err(RabbitMqError::Unreachable {
            node: link.node().to_owned(),
            why: format!("queue {queue} did not take a message"),
        }),
    }
}

/// The refused messages, oldest first.
///
/// # Errors
/// If RabbitMQ can't be asked.
pub(super) async fn list(config: &RabbitMqConfig, limit: u32) -> Result<Vec<DeadLetter>, RabbitMqError> {
    let desk = Desk::open(config).await?;
    let mut letters = Vec::new();
    while letters.len() < limit.min(DEAD_LETTERS_MAX) as usize {
        let Some(message) = desk.next().await? else { break };
        letters.push(letter(&message.delivery));
    }
    // What was not acknowledged goes back to its place.
    desk.close().await;
    Ok(letters)
}

/// Replays or drops refused messages; returns how many.
///
/// # Errors
/// If RabbitMQ can't be asked. Some of it may be done then.
pub(super) async fn treat(
    config: &RabbitMqConfig,
    chosen: &Chosen,
    treatment: Treatment,
) -> Result<u32, RabbitMqError> {
    let desk = Desk::open(config).await?;
    let mut treated = 0;
    // No more than there are now: what is refused again meanwhile comes last.
    for _ in 0..desk.ready.min(DEAD_LETTERS_MAX) {
        let Some(message) = desk.next().await? else { break };
        let letter = letter(&message.delivery);
        if !chosen.has(&letter.id) {
            continue;
        }
        if treatment == Treatment::Replay {
            if letter.queue.is_empty() {
                tracing::warn!(id = letter.id, "a refused message does not say where it was, and stays");
                continue;
            }
            let properties = without_ours(&message.delivery.properties);
            send(&desk.link, &desk.channel, &letter.queue, &message.delivery.data, properties).await?;
        }
        desk.link.within(message.ack(BasicAckOptions::default())).await?;
        treated += 1;
    }
    desk.close().await;
    Ok(treated)
}

/// A look into the queue of refused messages.
struct Desk {
    link: Link,
    channel: Channel,
    queue: String,
    ready: u32,
}

impl Desk {
    async fn open(config: &RabbitMqConfig) -> Result<Self, RabbitMqError> {
        let link = Link::open(config, "dead letters").await?;
        let channel = link.channel().await?;
        link.within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let queue = dead_name(config.prefix());
        link.within(topology::declare(&channel, &queue, Use::Dead)).await?;
        let ready = link.within(topology::ready(&channel, &queue)).await?;
        Ok(Self { link, channel, queue, ready })
    }

    async fn next(&self) -> Result<Option<BasicGetMessage>, RabbitMqError> {
        let getting = self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default());
        self.link.within(getting).await
    }

    /// Gives back what was looked at, in its order.
    async fn close(self) {
        let all = BasicNackOptions { multiple: true, requeue: true };
        let _ = self.link.within(self.channel.basic_nack(0, all)).await;
        self.link.close().await;
    }
}

fn letter(delivery: &Delivery) -> DeadLetter {
    let headers = delivery.properties.headers().as_ref();
    let value = |key: &str| headers.and_then(|headers| headers.inner().get(key));
    let text = |key| match value(key) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        _ => String::new(),
    };
    let refused_millis = match value(MILLIS) {
        Some(AMQPValue::LongLongInt(millis)) => *millis,
        _ => 0,
    };
    DeadLetter {
        id: text(ID),
        reason: text(REASON),
        queue: text(QUEUE),
        refused_millis,
        bytes: delivery.data.len() as u64,
        beginning: delivery.data.iter().take(SHOWN_BYTES_MAX).copied().collect(),
    }
}

/// As it was before it was refused.
fn without_ours(properties: &BasicProperties) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (key, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        if !OURS.contains(&key.as_str()) {
            headers.insert(key.clone(), value.clone());
        }
    }
    properties.clone().with_headers(headers)
}
