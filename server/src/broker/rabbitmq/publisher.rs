//! Sends tasks to their queues, and sees that the broker has taken them. On a connection of its own, as RabbitMQ stops
//! reading from those who publish when it lacks memory or disk.

use super::{
    Shared,
    keep::Patience,
    link::{Link, RabbitMqError},
    message::{self, JSON, PERSISTENT},
    state::{Message, QueueName, Side},
    topology::{self, Labels, Use, todo_name},
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use std::{collections::BTreeSet, convert::Infallible};

/// How many publications may be on their way, neither confirmed nor refused.
const UNCONFIRMED_MAX: usize = 2048;

/// How many are sent before confirmations are looked at.
const BATCH_MAX: usize = 256;

/// Publishes until the connection fails.
pub(super) async fn run(shared: &Shared, link: &Link) -> RabbitMqError {
    let Err(error) = publish(shared, link).await;
    error
}

async fn publish(shared: &Shared, link: &Link) -> Result<Infallible, RabbitMqError> {
    let channel = link.channel().await?;
    link.within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let plain = todo_name(shared.config.prefix(), &Labels::new());
    let mut declared: BTreeSet<QueueName> = BTreeSet::new();
    let mut confirming = FuturesUnordered::new();
    let tell = |trouble| shared.tell(Side::Publisher, trouble);
    let mut patience = Patience::new(link, &tell);
    loop {
        let room = UNCONFIRMED_MAX.saturating_sub(confirming.len()).min(BATCH_MAX);
        let messages = shared.state().take_waiting(room);
        if confirming.is_empty() {
            patience.heard();
        }
        for message in &messages {
            if !declared.contains(&message.queue) {
                let what = if *message.queue == *plain { Use::Todo } else { Use::TodoOfLabels };
                link.within(topology::declare(&channel, &message.queue, what)).await?;
                declared.insert(message.queue.clone());
            }
        }
        let is_idle = messages.is_empty();
        for message in messages {
            let confirm =
                patience.wait(send(&channel, &message)).await?.map_err(|error| link.error(&error))?;
            confirming.push(confirm.map(|confirmation| (message, confirmation)));
        }
        if !is_idle && confirming.len() < UNCONFIRMED_MAX {
            // More may wait already; what is confirmed meanwhile is taken along.
            let Some(Some(first)) = confirming.next().now_or_never() else { continue };
            patience.heard();
            settle(shared, link, &mut declared, first, &mut confirming)?;
            continue;
        }
        tokio::select! {
            Some(first) = confirming.next() => {
                patience.heard();
                settle(shared, link, &mut declared, first, &mut confirming)?;
            }
            () = shared.to_publisher.notified(), if confirming.len() < UNCONFIRMED_MAX => {}
            () = patience.tick() => patience.look(!confirming.is_empty())?,
        }
    }
}

async fn send(channel: &Channel, message: &Message) -> lapin::Result<PublisherConfirm> {
    let payload = message::write(&message.generation, message.dispatch);
    // Given back if there is no such queue.
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_content_type(JSON.into());
    channel.basic_publish("".into(), (&*message.queue).into(), options, &payload, properties).await
}

type Confirmed = (Message, lapin::Result<Confirmation>);

/// Takes note of what became of a publication, and of others that are known already.
fn settle<F: Future<Output = Confirmed>>(
    shared: &Shared,
    link: &Link,
    declared: &mut BTreeSet<QueueName>,
    first: Confirmed,
    confirming: &mut FuturesUnordered<F>,
) -> Result<(), RabbitMqError> {
    let mut next = Some(first);
    let mut state = shared.state();
    while let Some((message, confirmation)) = next {
        match confirmation {
            Ok(Confirmation::Ack(None)) => state.confirmed(&message),
            Ok(_) => {
                // Its queue is gone, or can't take it.
                declared.remove(&message.queue);
                state.refused(&message);
            }
            Err(error) => {
                drop(state);
                return Err(link.error(&error));
            }
        }
        next = confirming.next().now_or_never().flatten();
    }
    let has_arrived = state.has_arrived();
    drop(state);
    if has_arrived {
        shared.to_driver.notify_one();
    }
    Ok(())
}
