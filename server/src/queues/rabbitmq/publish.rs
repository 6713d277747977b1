//! Sends messages to a queue of RabbitMQ, and waits until they are on its disks.

use super::{
    RabbitMq, closed,
    lines::{Sending, told},
    message::properties,
};
use crate::queues::{carrier::QueueKey, error::QueueError, message::Message};
use lapin::{Confirmation, options::BasicPublishOptions};

/// What became of a batch.
#[derive(Default)]
struct Told {
    confirmed: usize,
    /// Given back, as there is no such queue.
    returned: usize,
    /// Refused, as the queue is as long as an operator lets it be.
    refused: usize,
}

impl RabbitMq {
    /// Well once all are confirmed.
    pub(in crate::queues) async fn publish(
        &self,
        queue: &QueueKey,
        messages: &[Message],
    ) -> Result<(), QueueError> {
        let told = self.publish_once(queue, messages).await?;
        if told.returned == 0 || told.returned < messages.len() {
            return told.judge(queue);
        }
        // Deleted in RabbitMQ by somebody: none of them is anywhere.
        tracing::warn!(queue = queue.name.as_str(), "a queue was deleted in RabbitMQ, and is made anew");
        self.declare(queue).await?;
        self.publish_once(queue, messages).await?.judge(queue)
    }

    async fn publish_once(&self, queue: &QueueKey, messages: &[Message]) -> Result<Told, QueueError> {
        let _place = self.sends.acquire().await.map_err(|_| closed())?;
        let sending = self.sending.get(&self.config).await?;
        let Sending { link, channel } = &*sending;
        if link.is_blocked() {
            return Err(QueueError::Unavailable(format!(
                "RabbitMQ at {} takes no messages for now: it lacks memory or disk",
                link.node()
            )));
        }
        let name = self.queue_name(queue);
        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let (exchange, key) = ("".into(), name.as_str().into());
            let publishing =
                channel.basic_publish(exchange, key, options, &message.body, properties(message));
            confirms.push(link.within(publishing).await.map_err(told)?);
        }
        let mut told_all = Told::default();
        for confirm in confirms {
            match link.within(confirm).await.map_err(told)? {
                Confirmation::Ack(None) => told_all.confirmed += 1,
                Confirmation::Ack(Some(_)) => told_all.returned += 1,
                Confirmation::Nack(_) | Confirmation::NotRequested => told_all.refused += 1,
            }
        }
        Ok(told_all)
    }
}

impl Told {
    fn judge(self, queue: &QueueKey) -> Result<(), QueueError> {
        let Self { confirmed, returned, refused } = self;
        match (confirmed, returned, refused) {
            (_, 0, 0) => Ok(()),
            (0, 0, _) => Err(QueueError::Full {
                name: queue.name.to_string(),
                why: "RabbitMQ refuses more, by a policy of its own".to_owned(),
            }),
            _ => Err(QueueError::Unavailable(format!(
                "of the messages for queue `{}`, RabbitMQ took {confirmed}, and refused or returned {}",
                queue.name,
                refused + returned
            ))),
        }
    }
}
