//! How fast coordinator and agent are with RabbitMQ between them, against a bare program that moves as many messages of the same
//! size through it with the same guarantees, and nothing else.

use super::{RUN_SECS_MAX, control, error::BenchError, parts::BROKER_PREFIX, place::Place};
use crate::output::bench::BenchRow;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use tokio::time::timeout;

const TASKS_DEFAULT: u32 = 100_000;

/// Half of what the bare program does.
const RATIO_MIN: f64 = 0.5;

/// As long as the messages of tasks are.
const MESSAGE_BYTES: usize = 108;

/// As many as the coordinator has on their way.
const UNCONFIRMED_MAX: usize = 2048;

/// As many as one consumer of a quorum queue may have.
const PREFETCH: u16 = 2000;

/// How many deliveries the bare program acknowledges with one word.
const ACK_EVERY: u32 = 256;

const QUEUE: &str = "piecework-bench-bare";

pub(super) async fn measure(place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
    let tasks = place.tasks(TASKS_DEFAULT);
    let slots = place.options.slots;
    let url = place.broker()?;
    let ours = place.coordinator_on_rabbitmq("broker").await?;
    place.scripted_agent(&ours).await?;
    let embedded = place.coordinator("broker-embedded").await?;
    place.scripted_agent(&embedded).await?;
    control::work(slots).run(&ours.client, slots).await?;
    control::work(slots).run(&embedded.client, slots).await?;
    bare(url, slots).await?;

    let (through, bare) = place
        .in_turn(
            "tasks/s",
            async |_| control::rate(&ours.client, tasks).await,
            async |_| bare(url, tasks).await,
        )
        .await?;
    let (again, without) = place
        .in_turn(
            "tasks/s",
            async |_| control::rate(&ours.client, tasks).await,
            async |_| control::rate(&embedded.client, tasks).await,
        )
        .await?;
    place.parts.stop().await;
    clear(url).await?;
    let what = format!("{tasks} tasks that end at once, through RabbitMQ");
    Ok(vec![
        BenchRow::new("broker", what.clone(), "tasks/s", through)
            .against("a bare program: messages of the same size, confirmed and acknowledged", bare)
            .at_least(RATIO_MIN),
        BenchRow::new("broker", what, "tasks/s", again).against("the embedded broker", without),
    ])
}

/// Removes what the coordinator has made.
async fn clear(url: &str) -> Result<(), BenchError> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for name in ["todo", "inbox", "dead"] {
        let name = format!("{BROKER_PREFIX}.{name}");
        channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
    }
    let name = format!("{BROKER_PREFIX}.done");
    channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await?;
    Ok(())
}

/// Moves so many messages through a quorum queue, and returns how many there were each second.
async fn bare(url: &str, messages: u32) -> Result<f64, BenchError> {
    let connect = || Connection::connect(url, ConnectionProperties::default());
    // One for each direction, as the coordinator has.
    let (publishing, consuming) = (connect().await?, connect().await?);
    let (publisher, consumer) = (publishing.create_channel().await?, consuming.create_channel().await?);
    let quorum = AMQPValue::LongString("quorum".into());
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), quorum);
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    publisher.queue_declare(QUEUE.into(), options, arguments).await?;

    let start = Instant::now();
    let moving = async { tokio::try_join!(publish(&publisher, messages), consume(&consumer, messages)) };
    let moved = timeout(Duration::from_secs(RUN_SECS_MAX), moving).await;
    let took = start.elapsed();
    publisher.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await?;
    moved.map_err(|_| BenchError::TooLong {
        what: "the bare RabbitMQ program".into(),
        secs: RUN_SECS_MAX,
    })??;
    Ok(f64::from(messages) / took.as_secs_f64())
}

async fn publish(channel: &Channel, messages: u32) -> Result<(), BenchError> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let (payload, options) =
        ([b'x'; MESSAGE_BYTES], BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() });
    // On disk.
    let properties = BasicProperties::default().with_delivery_mode(2);
    let mut unconfirmed = VecDeque::with_capacity(UNCONFIRMED_MAX);
    for _ in 0..messages {
        if unconfirmed.len() == UNCONFIRMED_MAX
            && let Some(oldest) = unconfirmed.pop_front()
        {
            confirmed(oldest).await?;
        }
        let sending = channel.basic_publish("".into(), QUEUE.into(), options, &payload, properties.clone());
        unconfirmed.push_back(sending.await?);
    }
    for confirm in unconfirmed {
        confirmed(confirm).await?;
    }
    Ok(())
}

async fn confirmed(confirm: PublisherConfirm) -> Result<(), BenchError> {
    match confirm.await? {
        Confirmation::Ack(None) => Ok(()),
        other => Err(BenchError::Wrong(format!("a message was not taken: {other:?}"))),
    }
}

async fn consume(channel: &Channel, messages: u32) -> Result<(), BenchError> {
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut deliveries =
        channel.basic_consume(QUEUE.into(), "bare".into(), options, FieldTable::default()).await?;
    for number in 1..=messages {
        let ended = || BenchError::Wrong("the queue was deleted".into());
        let delivery = deliveries.next().await.ok_or_else(ended)??;
        if number % ACK_EVERY == 0 || number == messages {
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
        }
    }
    Ok(())
}
