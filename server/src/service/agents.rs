//! Agents, as operators see them.

use super::{Context, status};
use crate::wire;
use piecework_proto::v1::{ListAgentsRequest, ListAgentsResponse, agents_server::Agents};
use tonic::{Request, Response, Status};

pub(super) struct AgentsService {
    context: Context,
}

impl AgentsService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Agents for AgentsService {
    async fn list(&self, _: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        let agents = self.context.driver.agents().await.map_err(status::driver)?;
        Ok(Response::new(ListAgentsResponse {
            agents: agents.into_iter().map(wire::agent_to_proto).collect(),
        }))
    }
}
