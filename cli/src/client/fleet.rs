//! Calls about agents, and about the tokens that let agents and clients in.

use super::{Client, ClientError};
use piecework_proto::v1;

impl Client {
    /// The agents.
    ///
    /// # Errors
    /// As of all calls.
    pub async fn agents(&self) -> Result<Vec<v1::Agent>, ClientError> {
        Ok(self.agents.clone().list(v1::ListAgentsRequest {}).await?.into_inner().agents)
    }

    /// One agent, with the attempts that it holds.
    ///
    /// # Errors
    /// If there is no such agent.
    pub async fn agent(&self, name: &str) -> Result<v1::Agent, ClientError> {
        let request = v1::GetAgentRequest { name: name.to_owned() };
        Ok(self.agents.clone().get(request).await?.into_inner())
    }

    /// Gives an agent no more attempts.
    ///
    /// # Errors
    /// If there is no such agent.
    pub async fn drain(&self, name: &str) -> Result<v1::Agent, ClientError> {
        let request = v1::DrainAgentRequest { name: name.to_owned() };
        Ok(self.agents.clone().drain(request).await?.into_inner())
    }

    /// Gives a drained agent attempts again.
    ///
    /// # Errors
    /// If there is no such agent.
    pub async fn undrain(&self, name: &str) -> Result<v1::Agent, ClientError> {
        let request = v1::UndrainAgentRequest { name: name.to_owned() };
        Ok(self.agents.clone().undrain(request).await?.into_inner())
    }

    /// Removes an agent; one that holds attempts, only by force.
    ///
    /// # Errors
    /// If there is no such agent, or it holds attempts.
    pub async fn remove_agent(&self, name: &str, force: bool) -> Result<(), ClientError> {
        let request = v1::RemoveAgentRequest { name: name.to_owned(), force };
        self.agents.clone().remove(request).await?;
        Ok(())
    }

    /// Makes a token for joining.
    ///
    /// # Errors
    /// If the coordinator does not listen on TCP, or there are too many tokens.
    pub async fn create_join_token(
        &self,
        request: v1::CreateJoinTokenRequest,
    ) -> Result<v1::CreateJoinTokenResponse, ClientError> {
        Ok(self.agents.clone().create_join_token(request).await?.into_inner())
    }

    /// The tokens for joining.
    ///
    /// # Errors
    /// As of all calls.
    pub async fn join_tokens(&self) -> Result<Vec<v1::JoinToken>, ClientError> {
        Ok(self.agents.clone().list_join_tokens(v1::ListJoinTokensRequest {}).await?.into_inner().tokens)
    }

    /// Removes a token for joining.
    ///
    /// # Errors
    /// If there is no such token.
    pub async fn remove_join_token(&self, id: &str) -> Result<(), ClientError> {
        let request = v1::RemoveJoinTokenRequest { id: id.to_owned() };
        self.agents.clone().remove_join_token(request).await?;
        Ok(())
    }

    /// Makes a token for a client.
    ///
    /// # Errors
    /// If the coordinator does not listen on TCP, or there are too many tokens.
    pub async fn create_client_token(
        &self,
        request: v1::CreateClientTokenRequest,
    ) -> Result<v1::CreateClientTokenResponse, ClientError> {
        Ok(self.admin.clone().create_client_token(request).await?.into_inner())
    }

    /// The tokens of clients.
    ///
    /// # Errors
    /// As of all calls.
    pub async fn client_tokens(&self) -> Result<Vec<v1::ClientToken>, ClientError> {
        Ok(self.admin.clone().list_client_tokens(v1::ListClientTokensRequest {}).await?.into_inner().tokens)
    }

    /// Removes a token of a client.
    ///
    /// # Errors
    /// If there is no such token.
    pub async fn remove_client_token(&self, id: &str) -> Result<(), ClientError> {
        let request = v1::RemoveClientTokenRequest { id: id.to_owned() };
        self.admin.clone().remove_client_token(request).await?;
        Ok(())
    }

    /// Messages of the broker that were refused, oldest first; at most so many.
    ///
    /// # Errors
    /// If the coordinator uses no broker, or can't reach it.
    pub async fn dead_letters(&self, limit: u32) -> Result<Vec<v1::DeadLetter>, ClientError> {
        let request = v1::ListDeadLettersRequest { limit };
        Ok(self.admin.clone().list_dead_letters(request).await?.into_inner().letters)
    }

    /// Puts refused messages back into their queues; returns how many.
    ///
    /// # Errors
    /// See [`Self::dead_letters`].
    pub async fn replay_dead_letters(&self, chosen: v1::ChosenDeadLetters) -> Result<u32, ClientError> {
        Ok(self.admin.clone().replay_dead_letters(chosen).await?.into_inner().count)
    }

    /// Removes refused messages for good; returns how many.
    ///
    /// # Errors
    /// See [`Self::dead_letters`].
    pub async fn drop_dead_letters(&self, chosen: v1::ChosenDeadLetters) -> Result<u32, ClientError> {
        Ok(self.admin.clone().drop_dead_letters(chosen).await?.into_inner().count)
    }
}
