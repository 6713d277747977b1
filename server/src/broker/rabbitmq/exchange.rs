//! An exchange to which messages are published in batches, for readers with queues of their own.
//!
//! ```text
//!  a batch ──▶ one message for each key that nobody heard ──▶ given back: nobody hears it now, so the others are left out
//!     └──────▶ all others, in their order
//! ```
//!
//! A message for which no queue is bound is for nobody, and costs as much as any other. So RabbitMQ is asked to give such messages
//! back, and of a routing key that nobody heard in the last batch only the first message of the next one goes out: if it comes back,
//! the rest would, too. All of a batch was there before it is asked, so a queue that is bound later was not meant to have it.

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
use std::collections::HashSet;

/// Most routing keys that are known as heard by nobody.
const UNHEARD_MAX: usize = 10_000;

/// A message on its way to an exchange.
pub(crate) trait Publication {
    /// What readers choose by.
    fn routing_key(&self) -> String;

    /// By which a reader knows it again.
    fn id(&self) -> String;

    /// What it says, in JSON.
    fn body(&self) -> Vec<u8>;
}

/// A topic exchange on an open connection.
pub(crate) struct Exchange<'l> {
    link: &'l Link,
    channel: Channel,
    name: &'l str,
    /// Routing keys for which no queue was bound when they were used last.
    unheard: HashSet<String>,
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
        Ok(Self { link, channel, name, unheard: HashSet::new() })
    }

    /// Publishes all of these, in their order. Well once all are confirmed: each queue that is bound for one has it. The first of a
    /// key that was bound just now may come twice. While RabbitMQ lacks memory or disk, it is waited for.
    ///
    /// # Errors
    /// If that is not known of some: then all are to be published again.
    pub(crate) async fn publish<P: Publication + Sync>(
        &mut self,
        publications: &[P],
    ) -> Result<(), RabbitMqError> {
        let keyed: Vec<(String, &P)> =
            publications.iter().map(|publication| (publication.routing_key(), publication)).collect();
        let mut asked = HashSet::new();
        let first_of_unheard =
            keyed.iter().filter(|(key, _)| self.unheard.contains(key) && asked.insert(key.as_str()));
        let heard = self.send(first_of_unheard).await?;
        for key in heard {
            self.unheard.remove(key);
        }
        let rest = || keyed.iter().filter(|(key, _)| !self.unheard.contains(key));
        let heard = self.send(rest()).await?;
        let unheard: Vec<String> =
            rest().filter(|(key, _)| !heard.contains(key.as_str())).map(|(key, _)| key.clone()).collect();
        if self.unheard.len() + unheard.len() > UNHEARD_MAX {
            self.unheard.clear();
        }
        self.unheard.extend(unheard);
        Ok(())
    }

    /// Publishes these, and returns the routing keys for which there were queues.
    async fn send<'p, P: Publication + 'p>(
        &self,
        publications: impl Iterator<Item = &'p (String, &'p P)>,
    ) -> Result<HashSet<&'p str>, RabbitMqError> {
        // Told by those who publish tasks.
        let tell = |_: Option<String>| {};
        let mut patience = Patience::new(self.link, &tell);
        let mut confirms = Vec::new();
        for (key, publication) in publications {
            let properties = BasicProperties::default()
                .with_delivery_mode(PERSISTENT)
                .with_content_type(JSON.into())
                .with_message_id(publication.id().into());
            // Given back if there is no queue for it.
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let (exchange, routing_key) = (self.name.into(), key.as_str().into());
            let body = publication.body();
            let sending = self.channel.basic_publish(exchange, routing_key, options, &body, properties);
            let confirm = patience.wait(sending).await?.map_err(|error| self.link.error(&error))?;
            confirms.push((key.as_str(), confirm));
            patience.heard();
        }
        let mut heard = HashSet::new();
        for (key, confirm) in confirms {
            let confirmation = patience.wait(confirm).await?.map_err(|error| self.link.error(&error))?;
            patience.heard();
            match confirmation {
                Confirmation::Ack(None) => drop(heard.insert(key)),
                Confirmation::Ack(Some(_)) => {}
                _ => {
                    let why = "a queue that is bound to the exchange did not take a message".to_owned();
                    return Err(RabbitMqError::Unreachable { node: self.link.node().to_owned(), why });
                }
            }
        }
        Ok(heard)
    }
}
