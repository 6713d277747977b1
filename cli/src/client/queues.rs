//! Calls about queues for anybody's messages.

use super::{Client, ClientError};
use piecework_proto::v1;

/// What became of receipts.
#[derive(Debug)]
pub struct Settled {
    /// How many were known.
    pub settled: u32,
    /// Those that were not, or not any more.
    pub unknown: Vec<String>,
}

impl Client {
    /// Makes a queue, unless it is there; and whether it was not.
    ///
    /// # Errors
    /// If there are too many, or the name can't be used.
    pub async fn create_queue(&self, name: &str) -> Result<(v1::Queue, bool), ClientError> {
        let request = v1::CreateQueueRequest { name: name.to_owned() };
        let v1::CreateQueueResponse { queue, is_new } =
            self.queues.clone().create(request).await?.into_inner();
        Ok((queue.ok_or(ClientError::BadAnswer("it lacks the queue"))?, is_new))
    }

    /// One queue.
    ///
    /// # Errors
    /// If there is none of this name, as of all calls that follow.
    pub async fn queue(&self, name: &str) -> Result<v1::Queue, ClientError> {
        let request = v1::GetQueueRequest { name: name.to_owned() };
        Ok(self.queues.clone().get(request).await?.into_inner())
    }

    /// A page of queues.
    ///
    /// # Errors
    /// As of all calls.
    pub async fn list_queues(
        &self,
        request: v1::ListQueuesRequest,
    ) -> Result<v1::ListQueuesResponse, ClientError> {
        Ok(self.queues.clone().list(request).await?.into_inner())
    }

    /// Puts messages into a queue, and returns their ids.
    ///
    /// # Errors
    /// If the queue is full, or a message is against the limits.
    pub async fn send(&self, queue: &str, messages: Vec<v1::NewMessage>) -> Result<Vec<String>, ClientError> {
        let request = v1::SendRequest { queue: queue.to_owned(), messages };
        Ok(self.queues.clone().send(request).await?.into_inner().ids)
    }

    /// Takes messages out of a queue.
    ///
    /// # Errors
    /// If too many messages are held, or too many calls wait.
    pub async fn receive(
        &self,
        request: v1::ReceiveRequest,
    ) -> Result<Vec<v1::ReceivedMessage>, ClientError> {
        Ok(self.queues.clone().receive(request).await?.into_inner().messages)
    }

    /// The same for one that goes on for as long as messages come: it outlives a restart of the coordinator.
    ///
    /// # Errors
    /// As [`Self::receive`], or if the coordinator is away for too long.
    pub async fn receive_more(
        &self,
        request: &v1::ReceiveRequest,
    ) -> Result<Vec<v1::ReceivedMessage>, ClientError> {
        self.patiently(|| self.receive(request.clone())).await
    }

    /// Removes received messages for good. Outlives a restart of the coordinator: it knows their receipts no more then.
    ///
    /// # Errors
    /// If there are none or too many receipts, or the coordinator is away for too long.
    pub async fn ack(&self, queue: &str, receipts: Vec<String>) -> Result<Settled, ClientError> {
        let request = v1::AckRequest { queue: queue.to_owned(), receipts };
        let ask = || async { Ok(self.queues.clone().ack(request.clone()).await?.into_inner()) };
        let v1::AckResponse { settled, unknown } = self.patiently(ask).await?;
        Ok(Settled { settled, unknown })
    }

    /// Gives received messages back; or holds them for longer, if that is not 0.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn nack(
        &self,
        queue: &str,
        receipts: Vec<String>,
        extend_millis: u32,
    ) -> Result<Settled, ClientError> {
        let request = v1::NackRequest { queue: queue.to_owned(), receipts, extend_millis };
        let v1::NackResponse { settled, unknown } = self.queues.clone().nack(request).await?.into_inner();
        Ok(Settled { settled, unknown })
    }

    /// The oldest messages that wait in a queue; they stay there.
    ///
    /// # Errors
    /// As of all calls about one queue.
    pub async fn peek(&self, queue: &str, max: u32) -> Result<Vec<v1::Message>, ClientError> {
        let request = v1::PeekRequest { queue: queue.to_owned(), max };
        Ok(self.queues.clone().peek(request).await?.into_inner().messages)
    }

    /// Removes all messages that wait in a queue, and returns how many.
    ///
    /// # Errors
    /// If it is the system's.
    pub async fn purge(&self, name: &str) -> Result<u64, ClientError> {
        let request = v1::PurgeRequest { name: name.to_owned() };
        Ok(self.queues.clone().purge(request).await?.into_inner().removed)
    }

    /// Removes a queue, and returns how many messages were in it.
    ///
    /// # Errors
    /// If it is the system's, or a condition does not hold.
    pub async fn delete_queue(&self, request: v1::DeleteQueueRequest) -> Result<u64, ClientError> {
        Ok(self.queues.clone().delete(request).await?.into_inner().removed)
    }
}
