//! Agents: their control stream, and the bulk bytes on their way to and from them.
//!
//! ```text
//!  agent ── Hello ─▶ check ─▶ driver.open_session ─▶ Welcome, then outgoing.rs: driver ─▶ agent
//!    └──── then ───▶ incoming.rs: agent ─▶ driver, until either side ends
//! ```

mod enrol;
mod incoming;
mod input;
mod outgoing;
mod upload;

use super::{
    Context,
    access::{Caller, caller_of},
    context::Answer,
    limits::{ACKS_MAX, HELLO_WAIT},
    status,
};
use crate::{
    coordinator::Enrolled,
    domain::{AttemptKey, ENROLLED},
    wire::{self, Within},
};
use futures_util::StreamExt;
use piecework_proto::{
    PROTOCOL_VERSION,
    v1::{self as pb, agent_message::Message, agent_session_server::AgentSession},
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub(super) struct AgentSessionService {
    context: Context,
}

impl AgentSessionService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl AgentSession for AgentSessionService {
    type SessionStream = Answer<pb::CoordinatorMessage>;

    async fn session(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = caller_of(&request)?;
        let mut messages = request.into_inner();
        let first = self.context.before(HELLO_WAIT, "Hello", messages.message()).await?;
        let hello = match first.and_then(|first| first.message) {
            Some(Message::Hello(hello)) => hello,
            _ => return Err(Status::failed_precondition("the first message of a session must be Hello")),
        };
        check_protocol_version(hello.protocol_version)?;
        let mut hello = wire::hello(hello).within("hello").map_err(status::wire)?;
        if let Caller::Agent { certified, address, .. } = &caller {
            // Who it is, its certificate says, and nothing else.
            hello.name.clone_from(&certified.name);
            ENROLLED.clone_into(&mut hello.identity);
            hello.address.clone_from(address);
            hello.enrolled = Some(Enrolled {
                id: certified.agent,
                labels: certified.labels.clone(),
                draining: certified.draining,
            });
        }
        let (sender, receiver) = self.context.driver.open_session(hello).await.map_err(status::driver)?;
        let (failure, failed) = oneshot::channel();
        let outgoing = outgoing::Outgoing::new(&self.context, receiver, failed);
        let incoming = incoming::Incoming { outputs: self.context.outputs.clone(), sender, messages };
        let closed = outgoing.closed();
        self.context.tasks.spawn(async move {
            tokio::select! {
                () = closed.cancelled_owned() => {}
                Err(status) = incoming.run() => {
                    // If the other direction has ended too, nobody wants to know.
                    let _ = failure.send(status);
                }
                else => {}
            }
        });
        Ok(Response::new(self.context.until_stopped(outgoing.messages())))
    }

    type UploadOutputStream = Answer<pb::OutputAck>;

    async fn upload_output(
        &self,
        request: Request<Streaming<pb::OutputChunk>>,
    ) -> Result<Response<Self::UploadOutputStream>, Status> {
        let (acks, receiver) = mpsc::channel(ACKS_MAX);
        let context = self.context.clone();
        let caller = caller_of(&request)?;
        let chunks = request.into_inner();
        self.context.tasks.spawn(async move {
            tokio::select! {
                () = context.stop.cancelled() => {}
                () = acks.closed() => {}
                result = upload::upload(&context, &caller, chunks, &acks) => if let Err(status) = result {
                    // If the agent is gone, nobody wants to know.
                    let _ = acks.send(Err(status)).await;
                }
            }
        });
        Ok(Response::new(self.context.until_stopped(ReceiverStream::new(receiver))))
    }

    type ReadInputStream = Answer<pb::InputChunk>;

    async fn read_input(
        &self,
        request: Request<pb::ReadInputRequest>,
    ) -> Result<Response<Self::ReadInputStream>, Status> {
        let caller = caller_of(&request)?;
        let pb::ReadInputRequest { attempt, offset } = request.into_inner();
        let attempt = wire::attempt_key(attempt).within("attempt").map_err(status::wire)?;
        let chunks = input::input(&self.context, &caller, attempt, offset).await?;
        Ok(Response::new(self.context.until_stopped(chunks)))
    }

    type ReadBlobStream = Answer<pb::InputChunk>;

    async fn read_blob(
        &self,
        request: Request<pb::ReadBlobRequest>,
    ) -> Result<Response<Self::ReadBlobStream>, Status> {
        let sha256 = wire::sha256("sha256", &request.into_inner().sha256).map_err(status::wire)?;
        let bytes = self.context.outputs.read_blob(sha256).await.map_err(status::output)?;
        let chunks = bytes.map(|bytes| bytes.map(|data| pb::InputChunk { data }).map_err(status::output));
        Ok(Response::new(self.context.until_stopped(chunks)))
    }

    async fn enrol(&self, request: Request<pb::EnrolRequest>) -> Result<Response<pb::EnrolResponse>, Status> {
        let caller = caller_of(&request)?;
        enrol::enrol(&self.context, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let caller = caller_of(&request)?;
        enrol::renew(&self.context, &caller, request.into_inner()).await.map(Response::new)
    }
}

/// What a caller has to do with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It holds it.
    Holds,
    /// Another agent holds it.
    IsAnothers,
    /// Nobody does any longer.
    IsOver,
}

/// What the caller has to do with the attempt: an agent touches its own alone.
async fn claim(context: &Context, caller: &Caller, attempt: AttemptKey) -> Result<Claim, Status> {
    let owner = context.store.current_owner(attempt).await.map_err(status::store)?;
    Ok(match (owner, caller) {
        (None, _) => Claim::IsOver,
        (Some(owner), Caller::Agent { certified, .. }) if owner != certified.agent => Claim::IsAnothers,
        (Some(_), _) => Claim::Holds,
    })
}

/// Peers one version apart work together.
fn check_protocol_version(version: u32) -> Result<(), Status> {
    if version > 0 && version.abs_diff(PROTOCOL_VERSION) <= 1 {
        return Ok(());
    }
    let older = if version < PROTOCOL_VERSION { "agent" } else { "coordinator" };
    Err(Status::failed_precondition(format!(
        "the agent speaks version {version} of the protocol, this coordinator version {PROTOCOL_VERSION}: update the {older}"
    )))
}
