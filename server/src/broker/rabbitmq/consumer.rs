//! Takes tasks from their queues, hands them to the driver, and acknowledges what is claimed.

use super::{
    Shared, dead,
    link::{Link, RabbitMqError},
    message,
    state::{QueueName, Side, Tag},
    topology::{self, Use},
};
use futures_util::{
    FutureExt, StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use lapin::{
    Channel,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions,
    },
    types::{FieldTable, ShortString},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future,
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};

/// How often it is looked whether something is missing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many deliveries are taken at a time.
const BATCH_MAX: usize = 256;

/// Most deliveries that a queue may have out with us: more is not meant for quorum queues.
const PREFETCH_MAX: u32 = 2000;

/// What a queue says.
enum Said {
    Delivery(Box<Delivery>),
    /// It is consumed no more under this number: that was our wish, or it was deleted, or the connection failed.
    End(QueueName, u64),
}

/// Consumes until the connection fails. `number` counts the connections.
pub(super) async fn run(shared: &Shared, link: &Link, number: u64) -> RabbitMqError {
    match Consumer::new(shared, link, number).await {
        Ok(mut consumer) => {
            let Err(error) = consumer.consume().await;
            error
        }
        Err(error) => error,
    }
}

struct Consumer<'a> {
    shared: &'a Shared,
    link: &'a Link,
    number: u64,
    /// For deliveries and their acknowledgements.
    channel: Channel,
    /// For questions, and for what can't be understood.
    aside: Channel,
    /// The queues that are consumed, and under which number.
    queues: BTreeMap<QueueName, u64>,
    subscriptions: u64,
    said: SelectAll<BoxStream<'static, Said>>,
    /// How many deliveries each queue may have out.
    prefetch: u32,
    /// Delivered, not acknowledged.
    unacked: BTreeSet<u64>,
    /// The highest that was delivered, and the highest below which all are acknowledged.
    delivered: u64,
    acked: u64,
}

impl<'a> Consumer<'a> {
    async fn new(shared: &'a Shared, link: &'a Link, number: u64) -> Result<Self, RabbitMqError> {
        let (channel, aside) = (link.channel().await?, link.channel().await?);
        link.within(aside.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self {
            shared,
            link,
            number,
            channel,
            aside,
            queues: BTreeMap::new(),
            subscriptions: 0,
            said: SelectAll::new(),
            prefetch: 0,
            unacked: BTreeSet::new(),
            delivered: 0,
            acked: 0,
        })
    }

    async fn consume(&mut self) -> Result<Infallible, RabbitMqError> {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.subscribe().await?;
            self.acknowledge().await?;
            tokio::select! {
                Some(said) = self.said.next() => self.take(said).await?,
                () = self.shared.to_consumer.notified() => {}
                _ = looks.tick() => self.look().await?,
            }
        }
    }

    /// Consumes what is to be consumed, and no more. With a larger capacity than before, all is consumed anew.
    async fn subscribe(&mut self) -> Result<(), RabbitMqError> {
        let (wanted, prefetch): (BTreeMap<_, _>, _) = {
            let state = self.shared.state();
            (state.queues().collect(), state.prefetch().clamp(1, PREFETCH_MAX))
        };
        let is_larger = prefetch > self.prefetch;
        let unwanted: Vec<_> =
            self.queues.extract_if(.., |name, _| is_larger || !wanted.contains_key(name)).collect();
        for (_, number) in unwanted {
            let cancel = self.channel.basic_cancel(consumer_tag(number), BasicCancelOptions::default());
            self.link.within(cancel).await?;
        }
        if is_larger {
            // A little more than now, so that it need not be done often.
            self.prefetch = prefetch.next_power_of_two().min(PREFETCH_MAX);
            let most = u16::try_from(self.prefetch).unwrap_or(u16::MAX);
            self.link.within(self.channel.basic_qos(most, BasicQosOptions::default())).await?;
        }
        for (name, has_labels) in wanted {
            if self.queues.contains_key(&name) {
                continue;
            }
            self.subscriptions += 1;
            let number = self.subscriptions;
            let what = if has_labels { Use::TodoOfLabels } else { Use::Todo };
            self.link.within(topology::declare(&self.aside, &name, what)).await?;
            let options = BasicConsumeOptions::default();
            let (queue, tag) = ((&*name).into(), consumer_tag(number));
            let consuming = self.channel.basic_consume(queue, tag, options, FieldTable::default());
            let consumer = self.link.within(consuming).await?;
            let deliveries = consumer.filter_map(|delivery| future::ready(delivery.ok().map(Box::new)));
            let end = stream::iter([Said::End(name.clone(), number)]);
            self.said.push(deliveries.map(Said::Delivery).chain(end).boxed());
            self.queues.insert(name, number);
        }
        Ok(())
    }

    /// Takes what a queue says, and what others have said already.
    async fn take(&mut self, first: Said) -> Result<(), RabbitMqError> {
        let mut next = Some(first);
        let mut dead = Vec::new();
        let mut gone = Vec::new();
        {
            let mut state = self.shared.state();
            let mut taken = 0;
            while let Some(said) = next.take() {
                match said {
                    Said::Delivery(delivery) => {
                        let tag = delivery.delivery_tag;
                        self.unacked.insert(tag);
                        self.delivered = self.delivered.max(tag);
                        match message::read(&delivery.data) {
                            Ok((generation, dispatch)) => {
                                state.deliver(generation, dispatch, Tag { connection: self.number, tag });
                            }
                            Err(why) => dead.push((delivery, why)),
                        }
                    }
                    Said::End(name, number) => gone.push((name, number)),
                }
                taken += 1;
                // What is taken from the stream is handled: not one more than that.
                if taken < BATCH_MAX {
                    next = self.said.next().now_or_never().flatten();
                }
            }
        }
        for (delivery, why) in dead {
            dead::put_aside(self.link, &self.aside, self.shared.config.prefix(), &delivery, &why).await?;
            self.shared.state().put_aside(Tag { connection: self.number, tag: delivery.delivery_tag });
        }
        for (name, number) in gone {
            self.end(&name, number)?;
        }
        if self.shared.state().has_arrived() {
            self.shared.to_driver.notify_one();
        }
        Ok(())
    }

    /// A queue is consumed no more. If that was not our wish, it was deleted: what was in it is lost, and it is made anew.
    fn end(&mut self, name: &QueueName, number: u64) -> Result<(), RabbitMqError> {
        if !self.channel.status().connected() {
            return Err(self.link.closed("its channel"));
        }
        if self.queues.get(name) == Some(&number) {
            tracing::warn!(queue = &**name, "a queue was deleted; what was in it is published again");
            self.queues.remove(name);
            self.shared.state().queue_gone(name);
        }
        Ok(())
    }

    /// Acknowledges what is claimed: with one word, all below the lowest that is not.
    async fn acknowledge(&mut self) -> Result<(), RabbitMqError> {
        for tag in self.shared.state().take_acks(self.number) {
            self.unacked.remove(&tag);
        }
        let all_below = self.unacked.first().map_or(self.delivered, |first| first - 1);
        if all_below > self.acked {
            self.acked = all_below;
            let options = BasicAckOptions { multiple: true };
            self.link.within(self.channel.basic_ack(all_below, options)).await?;
        }
        Ok(())
    }

    /// Counts the queues from which something should have arrived.
    async fn look(&mut self) -> Result<(), RabbitMqError> {
        let late = self.shared.state().look();
        for name in late {
            let ready = self.link.within(topology::ready(&self.aside, &name)).await?;
            self.shared.state().counted(&name, ready);
        }
        if self.shared.state().has_arrived() {
            self.shared.to_driver.notify_one();
        }
        self.shared.tell(Side::Consumer, None);
        Ok(())
    }
}

/// Ours are numbered.
fn consumer_tag(number: u64) -> ShortString {
    format!("piecework-{number}").into()
}
