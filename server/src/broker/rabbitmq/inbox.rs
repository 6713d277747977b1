//! The queue into which other programs put tasks.

use super::{
    dead,
    link::{Link, RabbitMqError},
    topology::{self, Use, inbox_name},
};
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions},
    types::FieldTable,
};

/// How many messages may be out with us: as many as are taken at a time.
const PREFETCH: u16 = 200;

/// With this many bytes, no more are taken at a time.
const TAKEN_BYTES: usize = 1024 * 1024;

/// The inbox on an open connection.
pub(crate) struct Inbox<'l> {
    link: &'l Link,
    prefix: &'l str,
    channel: Channel,
    /// For what is put aside.
    aside: Channel,
    consumer: Consumer,
}

/// A message from another program. It comes again unless it is accepted or refused.
pub(crate) struct Letter(Delivery);

impl Letter {
    /// What it says.
    pub(crate) fn body(&self) -> &[u8] {
        &self.0.data
    }
}

impl<'l> Inbox<'l> {
    /// Makes the queue unless it is there, and consumes it.
    ///
    /// # Errors
    /// If it was made otherwise, or the connection fails. So for all that follow.
    pub(crate) async fn open(link: &'l Link, prefix: &'l str) -> Result<Self, RabbitMqError> {
        let (channel, aside) = (link.channel().await?, link.channel().await?);
        link.within(aside.confirm_select(ConfirmSelectOptions::default())).await?;
        let name = inbox_name(prefix);
        link.within(topology::declare(&channel, &name, Use::Inbox)).await?;
        link.within(channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let consuming =
            channel.basic_consume(name.into(), "piecework-inbox".into(), options, FieldTable::default());
        let consumer = link.within(consuming).await?;
        Ok(Self { link, prefix, channel, aside, consumer })
    }

    /// Waits for messages; those that are there already, in their order.
    pub(crate) async fn take(&mut self) -> Result<Vec<Letter>, RabbitMqError> {
        let (mut letters, mut bytes) = (Vec::new(), 0);
        let mut next = self.link.while_open(self.consumer.next()).await?;
        loop {
            // Ended: the queue was deleted, or the channel or the connection closed.
            let delivery = next.ok_or_else(|| self.link.closed("the inbox"))?;
            let delivery = delivery.map_err(|error| self.link.error(&error))?;
            bytes += delivery.data.len();
            letters.push(Letter(delivery));
            if letters.len() >= usize::from(PREFETCH) || bytes >= TAKEN_BYTES {
                return Ok(letters);
            }
            match self.consumer.next().now_or_never() {
                Some(found) => next = found,
                None => return Ok(letters),
            }
        }
    }

    /// All up to and with this message are done with.
    pub(crate) async fn accept(&self, last: &Letter) -> Result<(), RabbitMqError> {
        let options = BasicAckOptions { multiple: true };
        self.link.within(self.channel.basic_ack(last.0.delivery_tag, options)).await
    }

    /// Keeps a message with the reason for which it is refused; it is to be accepted then.
    pub(crate) async fn refuse(&self, letter: &Letter, why: &str) -> Result<(), RabbitMqError> {
        dead::put_aside(self.link, &self.aside, self.prefix, &letter.0, why).await
    }

    /// Ends with this, so that what was taken comes again over another connection.
    pub(crate) fn give_back(&self) -> RabbitMqError {
        let why = "what is taken from the inbox can't be added for now".to_owned();
        RabbitMqError::Unreachable { node: self.link.node().to_owned(), why }
    }
}
