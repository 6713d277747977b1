//! The messages of queues in RabbitMQ: a quorum queue `PREFIX.queue.NAME` for each, which other AMQP clients may use, too.
//!
//! What is delivered is held on a channel until it is settled, or until its time is over; then it goes back. If the connection
//! fails, RabbitMQ itself puts it back.

mod fetch;
mod held;
mod lines;
mod message;
mod publish;

use super::{
    carrier::{Carrier, Depth, QueueKey, Receipt, Taken},
    error::QueueError,
    limits::{BATCH_BYTES_MAX, Bounds},
    message::{DeleteIf, Message, Nack},
};
use crate::broker::rabbitmq::{DELIVERIES_MAX, RabbitMqConfig, system_queues};
use async_trait::async_trait;
use fetch::{Answer, requeue};
use held::Held;
use lapin::{
    Channel,
    options::{
        BasicAckOptions, BasicGetOptions, ChannelFlowOptions, QueueDeclareOptions, QueueDeleteOptions,
        QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable, LongString},
};
use lines::{Line, Receiving, Sending, told};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};

/// How many calls fetch messages at a time, send some, or look at some: each has up to some megabytes in memory.
const FETCHES_MAX: usize = 16;
const SENDS_MAX: usize = 16;
const PEEKS_MAX: usize = 8;

/// Longest name that RabbitMQ takes.
const AMQP_NAME_BYTES_MAX: usize = 255;

/// The carrier, as it is given to who uses queues.
pub(super) struct RabbitMqCarrier {
    pub(super) inner: Arc<RabbitMq>,
    expiring: JoinHandle<()>,
}

/// What is shared with the tasks that take messages.
pub(super) struct RabbitMq {
    config: RabbitMqConfig,
    bounds: Bounds,
    sending: Line<Sending>,
    receiving: Line<Receiving>,
    held: Held,
    fetches: Semaphore,
    sends: Semaphore,
    peeks: Semaphore,
}

impl RabbitMqCarrier {
    pub(super) fn new(config: RabbitMqConfig, process: u64, bounds: Bounds) -> Self {
        let inner = Arc::new(RabbitMq {
            config,
            bounds,
            sending: Line::new("queues, sending"),
            receiving: Line::new("queues"),
            held: Held::new(process, bounds.held_max),
            fetches: Semaphore::new(FETCHES_MAX),
            sends: Semaphore::new(SENDS_MAX),
            peeks: Semaphore::new(PEEKS_MAX),
        });
        let expiring = tokio::spawn(expire(inner.clone()));
        Self { inner, expiring }
    }
}

impl Drop for RabbitMqCarrier {
    fn drop(&mut self) {
        self.expiring.abort();
    }
}

/// Puts back what was not acknowledged in time, when it is.
async fn expire(rabbitmq: Arc<RabbitMq>) {
    loop {
        let next = rabbitmq.held.next_expiry();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = rabbitmq.held.changed.notified() => continue,
            () = due => {}
        }
        let expired = rabbitmq.held.expired(Instant::now());
        if expired.is_empty() {
            continue;
        }
        // What can't be put back now is put back when its channel is closed.
        if let Ok(receiving) = rabbitmq.receiving.get(&rabbitmq.config).await {
            for tag in &expired {
                if let Err(error) = requeue(&receiving, tag).await {
                    tracing::debug!(%error, "a message whose time is over can't be put back");
                }
            }
        }
    }
}

impl RabbitMq {
    fn queue_name(&self, queue: &QueueKey) -> String {
        format!("{}.queue.{}", self.config.prefix(), queue.name)
    }

    /// Makes a queue unless it is there.
    pub(super) async fn declare(&self, queue: &QueueKey) -> Result<(), QueueError> {
        let receiving = self.receiving.get(&self.config).await?;
        let aside = receiving.aside(queue.id).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERIES_MAX));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declaring = aside.queue_declare(self.queue_name(queue).into(), options, arguments);
        receiving.link.within(declaring).await.map(drop).map_err(told)
    }

    /// How many messages are ready in a queue, and how many consumers there are. One that somebody has deleted in RabbitMQ is
    /// made anew.
    async fn ready(&self, receiving: &Receiving, queue: &QueueKey) -> Result<(u64, u64), QueueError> {
        let name = self.queue_name(queue);
        let found = {
            let aside = receiving.aside(queue.id).await?;
            ask(receiving, &aside, &name).await?
        };
        match found {
            Some(found) => Ok(found),
            None => {
                tracing::warn!(name, "a queue was deleted in RabbitMQ, and is made anew");
                self.declare(queue).await?;
                Ok((0, 0))
            }
        }
    }

    async fn give_back(&self, queue: i64, receipts: Vec<Receipt>) -> Vec<Receipt> {
        let (held, mut gone) = self.held.take(queue, receipts);
        let receiving = self.receiving.get(&self.config).await;
        for (receipt, tag) in held {
            let done = match &receiving {
                Ok(receiving) => requeue(receiving, &tag).await.is_ok(),
                Err(_) => false,
            };
            if !done {
                gone.push(receipt);
            }
        }
        gone
    }

    async fn show(&self, name: &str, max: usize) -> Result<Option<Vec<Message>>, QueueError> {
        let _place = self.peeks.acquire().await.map_err(|_| closed())?;
        let receiving = self.receiving.get(&self.config).await?;
        // One of its own: when it is closed, all is in its place again, whatever happens.
        let channel = receiving.link.channel().await.map_err(told)?;
        let (mut shown, mut tags, mut bytes) = (Vec::new(), Vec::new(), 0);
        while shown.len() < max && bytes < BATCH_BYTES_MAX {
            let getting = channel.basic_get(name.into(), BasicGetOptions::default());
            match receiving.link.find(getting).await.map_err(told)? {
                None => return Ok(None),
                Some(None) => break,
                Some(Some(got)) => {
                    tags.push(held::Tag { channel: channel.clone(), tag: got.delivery.delivery_tag });
                    let message = message::shown(message::message(got.delivery));
                    bytes += message.size();
                    if bytes <= BATCH_BYTES_MAX || shown.is_empty() {
                        shown.push(message);
                    }
                }
            }
        }
        for tag in &tags {
            requeue(&receiving, tag).await?;
        }
        receiving.link.within(channel.close(200, "seen".into())).await.map_err(told)?;
        Ok(Some(shown))
    }
}

/// How much is in a queue; none if it is not there.
async fn ask(receiving: &Receiving, aside: &Channel, name: &str) -> Result<Option<(u64, u64)>, QueueError> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let asking = aside.queue_declare(name.into(), options, FieldTable::default());
    let found = receiving.link.find(asking).await.map_err(told)?;
    Ok(found.map(|queue| (queue.message_count().into(), queue.consumer_count().into())))
}

fn closed() -> QueueError {
    QueueError::Unavailable("the coordinator is stopping".to_owned())
}

#[async_trait]
impl Carrier for RabbitMqCarrier {
    async fn make(&self, queue: &QueueKey) -> Result<(), QueueError> {
        self.inner.declare(queue).await
    }

    async fn depth(&self, queue: &QueueKey) -> Result<Depth, QueueError> {
        let receiving = self.inner.receiving.get(&self.inner.config).await?;
        let (ready, consumers) = self.inner.ready(&receiving, queue).await?;
        Ok(Depth { ready, unacked: self.inner.held.count(queue.id), consumers })
    }

    async fn send(&self, queue: &QueueKey, messages: Vec<Message>) -> Result<(), QueueError> {
        let receiving = self.inner.receiving.get(&self.inner.config).await?;
        let (ready, _) = self.inner.ready(&receiving, queue).await?;
        let max = self.inner.bounds.queue_messages_max;
        if ready + messages.len() as u64 > max {
            let why = format!("it has {ready} messages, and may have {max}");
            return Err(QueueError::Full { name: queue.name.to_string(), why });
        }
        self.inner.publish(queue, &messages).await
    }

    async fn take(
        &self,
        queue: &QueueKey,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> Result<Vec<Taken>, QueueError> {
        let (answer, answered) = oneshot::channel();
        let (rabbitmq, key) = (self.inner.clone(), queue.clone());
        // Of its own, as it must be ended in order whoever goes away: it ends soon when nobody waits any more.
        tokio::spawn(async move { rabbitmq.serve(&key, max, wait, visibility, answer).await });
        let mut taking = Taking { carrier: self, queue, answered };
        (&mut taking.answered).await.map_err(|_| closed())?
    }

    async fn ack(&self, queue: &QueueKey, receipts: Vec<Receipt>) -> Result<Vec<Receipt>, QueueError> {
        let (held, mut gone) = self.inner.held.take(queue.id, receipts);
        let Some((_, last)) = held.last() else { return Ok(gone) };
        let channel = last.channel.clone();
        let receiving = self.inner.receiving.get(&self.inner.config).await?;
        for (receipt, tag) in held {
            let acking = tag.channel.basic_ack(tag.tag, BasicAckOptions::default());
            if receiving.link.within(acking).await.is_err() {
                gone.push(receipt);
            }
        }
        // RabbitMQ confirms no acknowledgement. But what it answers to later, it has come to.
        let flow = channel.channel_flow(ChannelFlowOptions { active: true });
        receiving.link.within(flow).await.map_err(told)?;
        Ok(gone)
    }

    async fn nack(
        &self,
        queue: &QueueKey,
        receipts: Vec<Receipt>,
        how: Nack,
    ) -> Result<Vec<Receipt>, QueueError> {
        match how {
            Nack::Requeue => Ok(self.inner.give_back(queue.id, receipts).await),
            Nack::Extend(visibility) => self.inner.held.extend(queue.id, receipts, visibility),
        }
    }

    fn abandon(&self, queue: &QueueKey, receipts: Vec<Receipt>) {
        let (rabbitmq, id) = (self.inner.clone(), queue.id);
        tokio::spawn(async move { rabbitmq.give_back(id, receipts).await });
    }

    async fn peek(&self, queue: &QueueKey, max: usize) -> Result<Vec<Message>, QueueError> {
        let shown = self.inner.show(&self.inner.queue_name(queue), max).await?;
        // One that was deleted in RabbitMQ is empty, and is made anew when it is used.
        Ok(shown.unwrap_or_default())
    }

    async fn purge(&self, queue: &QueueKey) -> Result<u64, QueueError> {
        let receiving = self.inner.receiving.get(&self.inner.config).await?;
        let aside = receiving.aside(queue.id).await?;
        let purging = aside.queue_purge(self.inner.queue_name(queue).into(), QueuePurgeOptions::default());
        let purged = receiving.link.find(purging).await.map_err(told)?;
        Ok(purged.unwrap_or_default().into())
    }

    async fn delete(&self, queue: &QueueKey, conditions: DeleteIf) -> Result<u64, QueueError> {
        // Quorum queues know no conditions.
        let depth = self.depth(queue).await?;
        conditions.check(depth)?;
        let receiving = self.inner.receiving.get(&self.inner.config).await?;
        let aside = receiving.aside(queue.id).await?;
        let name = self.inner.queue_name(queue);
        let deleting = aside.queue_delete(name.into(), QueueDeleteOptions::default());
        let deleted = receiving.link.find(deleting).await.map_err(told)?;
        // It counts those that wait.
        Ok(u64::from(deleted.unwrap_or_default()) + self.inner.held.forget(queue.id))
    }

    async fn system_queues(&self) -> Result<Vec<(String, Depth)>, QueueError> {
        let receiving = self.inner.receiving.get(&self.inner.config).await?;
        let mut found = Vec::new();
        for name in system_queues(self.inner.config.prefix()) {
            let aside = receiving.aside(0).await?;
            if let Some((ready, consumers)) = ask(&receiving, &aside, &name).await? {
                found.push((name, Depth { ready, unacked: 0, consumers }));
            }
        }
        Ok(found)
    }

    async fn peek_system(&self, name: &str, max: usize) -> Result<Vec<Message>, QueueError> {
        let missing = || QueueError::NotFound(super::shown(name));
        if name.len() > AMQP_NAME_BYTES_MAX {
            return Err(missing());
        }
        self.inner.show(name, max).await?.ok_or_else(missing)
    }
}

/// Somebody who waits. When they go, what has come for them is in the queue again.
struct Taking<'a> {
    carrier: &'a RabbitMqCarrier,
    queue: &'a QueueKey,
    answered: oneshot::Receiver<Answer>,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.answered.close();
        if let Ok(Ok(taken)) = self.answered.try_recv()
            && !taken.is_empty()
        {
            self.carrier.abandon(self.queue, taken.iter().map(|taken| taken.receipt).collect());
        }
    }
}
