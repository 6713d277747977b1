//! An exchange to which messages are published in batches, for readers with queues of their own.

use super::{
    keep::Patience,
    link::{Link, RabbitMqError},
    message::{JSON, PERSISTENT},
    topology,
};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

/// A message on its way to an exchange.
#[derive(Debug)]
pub(crate) struct Publication {
    /// What readers choose by.
    pub routing_key: String,
    /// By which a reader knows it again.
    pub id: String,
    /// What it says, in JSON.
    pub body: Vec<u8>,
}

/// A topic exchange on an open connection.
pub(crate) struct Exchange<'l> {
    link: &'l Link,
    channel: Channel,
    name: &'l str,
}

impl<'l> Exchange<'l> {
    /// Makes it unless it is there.
    ///
    /// # Errors
    /// If it was made otherwise, or the connection fails.
    pub(crate) async fn open(link: &'l Link, name: &'l str) -> Result<Self, RabbitMqError> {
        let channel = link.channel().await?;
        link.within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        link.within(topology::declare_exchange(&channel, name)).await?;
        Ok(Self { link, channel, name })
    }

    /// Publishes all of these, in their order. Well once all are confirmed: each queue that is bound for one has it. While
    /// RabbitMQ lacks memory or disk, it is waited for.
    ///
    /// # Errors
    /// If that is not known of some: then all are to be published again.
    pub(crate) async fn publish(&self, publications: Vec<Publication>) -> Result<(), RabbitMqError> {
        // Told by those who publish tasks.
        let tell = |_: Option<String>| {};
        let mut patience = Patience::new(self.link, &tell);
        let mut confirms = Vec::with_capacity(publications.len());
        for Publication { routing_key, id, body } in publications {
            let properties = BasicProperties::default()
                .with_delivery_mode(PERSISTENT)
                .with_content_type(JSON.into())
                .with_message_id(id.into());
            let options = BasicPublishOptions::default();
            let (exchange, key) = (self.name.into(), routing_key.into());
            let sending = self.channel.basic_publish(exchange, key, options, &body, properties);
            confirms.push(patience.wait(sending).await?.map_err(|error| self.link.error(&error))?);
            patience.heard();
        }
        for confirm in confirms {
            let confirmation = patience.wait(confirm).await?.map_err(|error| self.link.error(&error))?;
            patience.heard();
            if let Confirmation::Nack(_) = confirmation {
                let why = "a queue that is bound to the exchange did not take a message".to_owned();
                return Err(RabbitMqError::Unreachable { node: self.link.node().to_owned(), why });
            }
        }
        Ok(())
    }
}
