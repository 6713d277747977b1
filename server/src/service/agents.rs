//! Agents, as operators see them.

use super::{
    Context, status,
    tokens::{self, Made},
};
use crate::{
    domain::{Grant, Token},
    driver::Removed,
    wire,
};
use piecework_proto::{
    token::TokenKind,
    v1::{self as pb, agents_server::Agents},
};
use std::time::Duration;
use tonic::{Request, Response, Status};

/// How long a token for joining is good, if nothing else is said.
const JOIN_LIFE_DEFAULT: Duration = Duration::from_secs(3600);

/// For how many agents a token may be at the most.
const USES_MAX: u32 = 10_000;

/// Longest pattern of names.
const NAMES_BYTES_MAX: usize = 255;

pub(super) struct AgentsService {
    context: Context,
}

impl AgentsService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    async fn get(&self, name: &str) -> Result<Response<pb::Agent>, Status> {
        let agent = self.context.driver.agent(name.to_owned()).await.map_err(status::driver)?;
        agent.map(wire::agent_to_proto).map(Response::new).ok_or_else(|| no_agent(name))
    }

    async fn drain(&self, name: String, draining: bool) -> Result<Response<pb::Agent>, Status> {
        if self.context.driver.drain(name.clone(), draining).await.map_err(status::driver)? {
            self.get(&name).await
        } else {
            Err(no_agent(&name))
        }
    }
}

fn no_agent(name: &str) -> Status {
    // Cut and escaped: it came from outside, and may be anything.
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    Status::not_found(format!("there is no agent `{shown}`: `piecework agents` lists those that there are"))
}

#[tonic::async_trait]
impl Agents for AgentsService {
    async fn list(
        &self,
        _: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let agents = self.context.driver.agents().await.map_err(status::driver)?;
        Ok(Response::new(pb::ListAgentsResponse {
            agents: agents.into_iter().map(wire::agent_to_proto).collect(),
        }))
    }

    async fn get(&self, request: Request<pb::GetAgentRequest>) -> Result<Response<pb::Agent>, Status> {
        self.get(&request.into_inner().name).await
    }

    async fn drain(&self, request: Request<pb::DrainAgentRequest>) -> Result<Response<pb::Agent>, Status> {
        self.drain(request.into_inner().name, true).await
    }

    async fn undrain(
        &self,
        request: Request<pb::UndrainAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        self.drain(request.into_inner().name, false).await
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveAgentRequest>,
    ) -> Result<Response<pb::RemoveAgentResponse>, Status> {
        let pb::RemoveAgentRequest { name, force } = request.into_inner();
        match self.context.driver.remove_agent(name.clone(), force).await.map_err(status::driver)? {
            Removed::Done => Ok(Response::new(pb::RemoveAgentResponse {})),
            Removed::NoAgent => Err(no_agent(&name)),
            Removed::IsLocal => Err(Status::failed_precondition(format!(
                "agent {name} is connected over the coordinator's own socket, and would be back at once: stop it first"
            ))),
            Removed::Holds(attempts) => Err(Status::failed_precondition(format!(
                "agent {name} holds {attempts} {}: drain it first and wait, or remove it by force. Then their tasks run elsewhere, or have failed where a project says `on_lease_loss: stop`",
                if attempts == 1 { "attempt" } else { "attempts" }
            ))),
        }
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<pb::CreateJoinTokenResponse>, Status> {
        let pb::CreateJoinTokenRequest { names, labels, uses, life_millis } = request.into_inner();
        if uses > USES_MAX {
            return Err(status::bad_field("uses", format!("at most {USES_MAX}")));
        }
        if names.len() > NAMES_BYTES_MAX || names.chars().any(char::is_control) {
            return Err(status::bad_field("names", format!("at most {NAMES_BYTES_MAX} bytes, on one line")));
        }
        let grant = Grant::Join {
            names: if names.is_empty() { "*".to_owned() } else { names },
            labels: wire::labels("labels", labels).map_err(status::wire)?,
            uses_left: uses.max(1),
        };
        let life = match life_millis {
            0 => JOIN_LIFE_DEFAULT,
            millis => Duration::from_millis(millis),
        };
        let Made { text, token, address } = tokens::make(&self.context, grant, Some(life)).await?;
        Ok(Response::new(pb::CreateJoinTokenResponse { token: text, info: Some(info(token)), address }))
    }

    async fn list_join_tokens(
        &self,
        _: Request<pb::ListJoinTokensRequest>,
    ) -> Result<Response<pb::ListJoinTokensResponse>, Status> {
        let tokens = tokens::list(&self.context, TokenKind::Join).await?;
        Ok(Response::new(pb::ListJoinTokensResponse { tokens: tokens.into_iter().map(info).collect() }))
    }

    async fn remove_join_token(
        &self,
        request: Request<pb::RemoveJoinTokenRequest>,
    ) -> Result<Response<pb::RemoveJoinTokenResponse>, Status> {
        tokens::remove(&self.context, TokenKind::Join, &request.into_inner().id).await?;
        Ok(Response::new(pb::RemoveJoinTokenResponse {}))
    }
}

fn info(token: Token) -> pb::JoinToken {
    let (names, labels, uses_left) = match token.grant {
        Grant::Join { names, labels, uses_left } => (names, labels, uses_left),
        Grant::Client { .. } => Default::default(),
    };
    pb::JoinToken {
        id: tokens::id_text(token.id),
        names,
        labels: labels.into_iter().collect(),
        uses_left,
        created_millis: token.created_millis,
        expires_millis: token.expires_millis.unwrap_or(0),
    }
}
