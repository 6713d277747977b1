//! Takes messages out of a queue of RabbitMQ.
//!
//! A few are asked for one by one; more come faster to a consumer, which is there only until it has them. Who waits is a
//! consumer of one message, so that nothing is asked again and again, and no more is in memory than is wanted.

use super::{
    RabbitMq,
    held::Tag,
    lines::{Receiving, Sending, told},
    message::message,
};
use crate::{
    broker::rabbitmq::put_aside,
    queues::{
        carrier::{QueueKey, Receipt, Taken},
        error::QueueError,
        limits::BATCH_BYTES_MAX,
        message::Message,
    },
};
use futures_util::StreamExt;
use lapin::{
    Channel,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
        BasicQosOptions,
    },
    types::FieldTable,
};
use std::time::Duration;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

/// Up to so many are asked for one by one.
const GETS_MAX: usize = 4;

/// Most that a consumer may be sent: they are all in memory at once.
const CHUNK_MAX: usize = 32;

/// How long a consumer waits for messages that are known to be there, but that others may have taken: for the first one, and
/// for each further one.
const FIRST_MAX: Duration = Duration::from_millis(500);
const GAP_MAX: Duration = Duration::from_millis(50);

/// How long RabbitMQ may take to begin: for some time after a start it forgets that it was asked.
const BEGIN_MAX: Duration = Duration::from_secs(3);

/// How long what RabbitMQ had sent before it confirmed the end of a consumer may take to arrive.
const REST_MAX: Duration = Duration::from_secs(5);

/// What a receiver is answered.
pub(super) type Answer = Result<Vec<Taken>, QueueError>;

/// What has come so far.
struct Batch {
    max: usize,
    bytes: usize,
    is_full: bool,
    taken: Vec<(Message, Tag)>,
    /// What has come and does not fit.
    surplus: Vec<Tag>,
    /// What can't be handed out at all.
    too_large: Vec<(Delivery, Channel)>,
}

impl Batch {
    fn left(&self) -> usize {
        if self.is_full { 0 } else { self.max.saturating_sub(self.taken.len()) }
    }

    fn push(&mut self, delivery: Delivery, channel: &Channel) {
        let tag = Tag { channel: channel.clone(), tag: delivery.delivery_tag };
        if delivery.data.len() > BATCH_BYTES_MAX {
            self.too_large.push((delivery, channel.clone()));
            return;
        }
        let message = message(delivery);
        self.bytes += message.size();
        self.is_full |= self.bytes > BATCH_BYTES_MAX && !self.taken.is_empty();
        if self.left() == 0 {
            self.surplus.push(tag);
        } else {
            self.taken.push((message, tag));
        }
    }
}

impl RabbitMq {
    /// Takes messages, and hands them to who asks; gives them back if nobody is there any more.
    pub(super) async fn serve(
        &self,
        queue: &QueueKey,
        max: usize,
        wait: Duration,
        visibility: Duration,
        mut answer: oneshot::Sender<Answer>,
    ) {
        let taken = self.fetch(queue, max, wait, visibility, &mut answer).await;
        if let Err(Ok(taken)) = answer.send(taken) {
            self.give_back(queue.id, taken.iter().map(|taken| taken.receipt).collect()).await;
        }
    }

    async fn fetch(
        &self,
        queue: &QueueKey,
        max: usize,
        wait: Duration,
        visibility: Duration,
        answer: &mut oneshot::Sender<Answer>,
    ) -> Answer {
        let max = max.min(self.held.room()?);
        let receiving = self.receiving.get(&self.config).await?;
        let mut batch = Batch {
            max,
            bytes: 0,
            is_full: false,
            taken: Vec::new(),
            surplus: Vec::new(),
            too_large: Vec::new(),
        };
        let until = Instant::now() + wait;
        let mut done = self.collect(&receiving, queue, &mut batch).await;
        if done.is_ok() && batch.taken.is_empty() && !wait.is_zero() {
            done = self.wait_for_one(&receiving, queue, &mut batch, until, answer).await;
            if done.is_ok() && !batch.taken.is_empty() {
                done = self.collect(&receiving, queue, &mut batch).await;
            }
        }
        for tag in &batch.surplus {
            // What fails here fails the channel, and then all is in the queue again.
            let _ = requeue(&receiving, tag).await;
        }
        for (delivery, channel) in &batch.too_large {
            self.refuse(&receiving, delivery, channel).await?;
        }
        batch.taken.retain(|(_, tag)| tag.is_good());
        if let Err(error) = done
            && batch.taken.is_empty()
        {
            return Err(error);
        }
        let hold = |(message, tag)| {
            let receipt: Receipt = self.held.hold(queue.id, tag, visibility);
            Taken { message, receipt }
        };
        Ok(batch.taken.into_iter().map(hold).collect())
    }

    /// Takes what is there.
    async fn collect(
        &self,
        receiving: &Receiving,
        queue: &QueueKey,
        batch: &mut Batch,
    ) -> Result<(), QueueError> {
        let _place = self.fetches.acquire().await.map_err(|_| super::closed())?;
        let mut there = usize::try_from(self.ready(receiving, queue).await?.0).unwrap_or(usize::MAX);
        let name = self.queue_name(queue);
        while there > 0 && batch.left() > 0 {
            let wanted = batch.left().min(there);
            let before = batch.taken.len();
            if wanted > GETS_MAX {
                let until = Instant::now() + FIRST_MAX;
                consume(receiving, &name, wanted.min(CHUNK_MAX), batch, until, None).await?;
            }
            if batch.taken.len() == before && !get(receiving, &name, wanted.min(GETS_MAX), batch).await? {
                // Others have taken the rest.
                return Ok(());
            }
            there = there.saturating_sub(batch.taken.len().saturating_sub(before).max(1));
        }
        Ok(())
    }

    async fn wait_for_one(
        &self,
        receiving: &Receiving,
        queue: &QueueKey,
        batch: &mut Batch,
        until: Instant,
        answer: &mut oneshot::Sender<Answer>,
    ) -> Result<(), QueueError> {
        let name = self.queue_name(queue);
        loop {
            let begun = consume(receiving, &name, 1, batch, until, Some(answer)).await?;
            if begun == Begun::Well || Instant::now() >= until || answer.is_closed() {
                return Ok(());
            }
        }
    }

    /// Keeps a message that is too large for any answer where an operator finds it.
    async fn refuse(
        &self,
        receiving: &Receiving,
        delivery: &Delivery,
        channel: &Channel,
    ) -> Result<(), QueueError> {
        let sending = self.sending.get(&self.config).await?;
        let Sending { link, channel: confirming } = &*sending;
        let why = format!("it has {} bytes, more than {BATCH_BYTES_MAX}", delivery.data.len());
        put_aside(link, confirming, self.config.prefix(), delivery, &why).await.map_err(told)?;
        let ack = channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default());
        receiving.link.within(ack).await.map_err(told)
    }
}

/// Puts a delivery back into its queue.
pub(super) async fn requeue(receiving: &Receiving, tag: &Tag) -> Result<(), QueueError> {
    // One by one: of many at once, RabbitMQ mixes up the order.
    let options = BasicNackOptions { multiple: false, requeue: true };
    receiving.link.within(tag.channel.basic_nack(tag.tag, options)).await.map_err(told)
}

/// Asks for some, one by one; returns whether all of them were there.
async fn get(receiving: &Receiving, name: &str, many: usize, batch: &mut Batch) -> Result<bool, QueueError> {
    let channel = receiving.desk().await?;
    for _ in 0..many.min(batch.left()) {
        let getting = channel.basic_get(name.into(), BasicGetOptions::default());
        match receiving.link.find(getting).await.map_err(told)? {
            Some(Some(message)) => batch.push(message.delivery, &channel),
            Some(None) => {
                receiving.put_back(channel);
                return Ok(false);
            }
            // Deleted in this moment, and the channel is closed.
            None => return Ok(false),
        }
    }
    receiving.put_back(channel);
    Ok(true)
}

/// Whether RabbitMQ did what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    Well,
    NotYet,
}

/// Is a consumer for as long as it takes to get so many, or until nothing more comes.
async fn consume(
    receiving: &Receiving,
    name: &str,
    many: usize,
    batch: &mut Batch,
    until: Instant,
    answer: Option<&mut oneshot::Sender<Answer>>,
) -> Result<Begun, QueueError> {
    let link = &receiving.link;
    let tag = receiving.subscription();
    let channel = receiving.desk().await?;
    let prefetch = u16::try_from(many).unwrap_or(u16::MAX);
    link.within(channel.basic_qos(prefetch, BasicQosOptions::default())).await.map_err(told)?;
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(name.into(), tag.as_str().into(), options, FieldTable::default());
    let mut deliveries = match timeout(BEGIN_MAX, link.find(consuming)).await {
        Ok(Ok(Some(deliveries))) => deliveries,
        // Deleted in this moment, and the channel is closed.
        Ok(Ok(None)) => return Ok(Begun::Well),
        Ok(Err(error)) => return Err(told(error)),
        Err(_) => return Ok(Begun::NotYet),
    };
    let gone = async {
        match answer {
            Some(answer) => answer.closed().await,
            None => std::future::pending().await,
        }
    };
    let coming = async {
        let mut until = until;
        let mut came = 0;
        while came < many
            && let Ok(Some(Ok(delivery))) = timeout_at(until, deliveries.next()).await
        {
            batch.push(delivery, &channel);
            came += 1;
            until = Instant::now() + GAP_MAX;
        }
    };
    let ended = tokio::select! {
        ended = link.while_open(coming) => ended,
        () = gone => Ok(()),
    };
    ended.map_err(told)?;
    let cancelled = link.within(channel.basic_cancel(tag.into(), BasicCancelOptions::default())).await;
    if let Err(error) = cancelled {
        // Else it might go on to be sent what nobody takes.
        let _ = link.within(channel.close(200, "a consumer can't be ended".into())).await;
        return Err(told(error));
    }
    // Up to the confirmation it may have been sent more.
    while let Ok(Some(Ok(delivery))) = timeout(REST_MAX, deliveries.next()).await {
        batch.push(delivery, &channel);
    }
    receiving.put_back(channel);
    Ok(Begun::Well)
}
