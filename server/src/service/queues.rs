//! Queues for anybody's messages.

use super::{
    Context,
    limits::{LIST_DEFAULT, LIST_MAX},
    status,
};
use crate::{
    queues::{DeleteIf, Nack, QueueError},
    wire,
};
use piecework_proto::v1::{self as pb, queues_server::Queues};
use std::time::Duration;
use tonic::{Request, Response, Status};

pub(super) struct QueuesService {
    context: Context,
}

impl QueuesService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    async fn ask<T>(
        &self,
        name_field: &str,
        done: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, Status> {
        ask(&self.context, name_field, done).await
    }
}

/// What is done with queues, for as long as the coordinator runs. Where the request has the queue's name in `name_field`.
pub(super) async fn ask<T>(
    context: &Context,
    name_field: &str,
    done: impl Future<Output = Result<T, QueueError>>,
) -> Result<T, Status> {
    tokio::select! {
        done = done => done.map_err(|error| status::queue(error, name_field)),
        () = context.stop.cancelled() => Err(status::stopping()),
    }
}

/// The same for receipts, some of which may be of no use any more: how many were settled, and those.
pub(super) async fn settle(
    context: &Context,
    done: impl Future<Output = Result<u32, QueueError>>,
) -> Result<(u32, Vec<String>), Status> {
    let done = async {
        match done.await {
            Ok(settled) => Ok((settled, Vec::new())),
            Err(QueueError::UnknownReceipt { unknown, settled }) => Ok((settled, unknown)),
            Err(error) => Err(error),
        }
    };
    ask(context, "queue", done).await
}

#[tonic::async_trait]
impl Queues for QueuesService {
    async fn create(
        &self,
        request: Request<pb::CreateQueueRequest>,
    ) -> Result<Response<pb::CreateQueueResponse>, Status> {
        let name = request.into_inner().name;
        let created = self.ask("name", self.context.queues.create(&name)).await?;
        let queue = Some(wire::queue_to_proto(created.queue));
        Ok(Response::new(pb::CreateQueueResponse { queue, is_new: created.is_new }))
    }

    async fn get(&self, request: Request<pb::GetQueueRequest>) -> Result<Response<pb::Queue>, Status> {
        let name = request.into_inner().name;
        let queue = self.ask("name", self.context.queues.get(&name)).await?;
        Ok(Response::new(wire::queue_to_proto(queue)))
    }

    async fn list(
        &self,
        request: Request<pb::ListQueuesRequest>,
    ) -> Result<Response<pb::ListQueuesResponse>, Status> {
        let pb::ListQueuesRequest { limit, after } = request.into_inner();
        let limit = if limit == 0 { LIST_DEFAULT } else { limit.min(LIST_MAX) };
        let after = (!after.is_empty()).then_some(after.as_str());
        let page = self.ask("name", self.context.queues.list(after, limit as usize)).await?;
        Ok(Response::new(pb::ListQueuesResponse {
            queues: page.queues.into_iter().map(wire::queue_to_proto).collect(),
            next: page.next.unwrap_or_default(),
        }))
    }

    async fn send(&self, request: Request<pb::SendRequest>) -> Result<Response<pb::SendResponse>, Status> {
        let pb::SendRequest { queue, messages } = request.into_inner();
        let messages = messages.into_iter().map(wire::new_message).collect();
        let ids = self.ask("queue", self.context.queues.send(&queue, messages)).await?;
        Ok(Response::new(pb::SendResponse { ids }))
    }

    async fn receive(
        &self,
        request: Request<pb::ReceiveRequest>,
    ) -> Result<Response<pb::ReceiveResponse>, Status> {
        let (queue, receive) = wire::receive(request.into_inner()).map_err(status::wire)?;
        let received = self.ask("queue", self.context.queues.receive(&queue, receive)).await?;
        let messages = received.into_iter().map(wire::received_to_proto).collect();
        Ok(Response::new(pb::ReceiveResponse { messages }))
    }

    async fn ack(&self, request: Request<pb::AckRequest>) -> Result<Response<pb::AckResponse>, Status> {
        let pb::AckRequest { queue, receipts } = request.into_inner();
        let (settled, unknown) = settle(&self.context, self.context.queues.ack(&queue, &receipts)).await?;
        Ok(Response::new(pb::AckResponse { settled, unknown }))
    }

    async fn nack(&self, request: Request<pb::NackRequest>) -> Result<Response<pb::NackResponse>, Status> {
        let pb::NackRequest { queue, receipts, extend_millis } = request.into_inner();
        let how = match extend_millis {
            0 => Nack::Requeue,
            millis => Nack::Extend(Duration::from_millis(millis.into())),
        };
        let (settled, unknown) =
            settle(&self.context, self.context.queues.nack(&queue, &receipts, how)).await?;
        Ok(Response::new(pb::NackResponse { settled, unknown }))
    }

    async fn peek(&self, request: Request<pb::PeekRequest>) -> Result<Response<pb::PeekResponse>, Status> {
        let pb::PeekRequest { queue, max } = request.into_inner();
        let shown = self.ask("queue", self.context.queues.peek(&queue, wire::count(max))).await?;
        Ok(Response::new(pb::PeekResponse {
            messages: shown.into_iter().map(wire::message_to_proto).collect(),
        }))
    }

    async fn purge(&self, request: Request<pb::PurgeRequest>) -> Result<Response<pb::PurgeResponse>, Status> {
        let name = request.into_inner().name;
        let removed = self.ask("name", self.context.queues.purge(&name)).await?;
        Ok(Response::new(pb::PurgeResponse { removed }))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteQueueRequest>,
    ) -> Result<Response<pb::DeleteQueueResponse>, Status> {
        let pb::DeleteQueueRequest { name, if_empty, if_unused } = request.into_inner();
        let conditions = DeleteIf { empty: if_empty, unused: if_unused };
        let removed = self.ask("name", self.context.queues.delete(&name, conditions)).await?;
        Ok(Response::new(pb::DeleteQueueResponse { removed }))
    }
}
