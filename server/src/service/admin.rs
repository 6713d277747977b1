//! The coordinator itself, and the tokens of its clients.

use super::{
    Context, dead_letters, status,
    tokens::{self, Made},
};
use crate::{
    broker::rabbitmq::Treatment,
    domain::{Grant, Token},
    plan,
};
use piecework_proto::{
    token::TokenKind,
    v1::{self as pb, admin_server::Admin},
};
use std::time::Duration;
use tonic::{Request, Response, Status};

pub(super) struct AdminService {
    context: Context,
}

impl AdminService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn get_server_info(
        &self,
        _: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::ServerInfo>, Status> {
        Ok(Response::new(pb::ServerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            coordinator_epoch: self.context.driver.epoch().0,
            uptime_millis: u64::try_from(self.context.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }))
    }

    async fn create_client_token(
        &self,
        request: Request<pb::CreateClientTokenRequest>,
    ) -> Result<Response<pb::CreateClientTokenResponse>, Status> {
        let pb::CreateClientTokenRequest { name, life_millis } = request.into_inner();
        if !plan::is_name(&name) {
            return Err(status::bad_field("name", format!("not a name: {}", plan::NAME_RULE)));
        }
        let life = (life_millis > 0).then(|| Duration::from_millis(life_millis));
        let Made { text, token, address } = tokens::make(&self.context, Grant::Client { name }, life).await?;
        Ok(Response::new(pb::CreateClientTokenResponse { token: text, info: Some(info(token)), address }))
    }

    async fn list_client_tokens(
        &self,
        _: Request<pb::ListClientTokensRequest>,
    ) -> Result<Response<pb::ListClientTokensResponse>, Status> {
        let tokens = tokens::list(&self.context, TokenKind::Client).await?;
        Ok(Response::new(pb::ListClientTokensResponse { tokens: tokens.into_iter().map(info).collect() }))
    }

    async fn remove_client_token(
        &self,
        request: Request<pb::RemoveClientTokenRequest>,
    ) -> Result<Response<pb::RemoveClientTokenResponse>, Status> {
        tokens::remove(&self.context, TokenKind::Client, &request.into_inner().id).await?;
        Ok(Response::new(pb::RemoveClientTokenResponse {}))
    }

    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Result<Response<pb::ListDeadLettersResponse>, Status> {
        let letters = dead_letters::list(&self.context, request.into_inner().limit).await?;
        Ok(Response::new(pb::ListDeadLettersResponse { letters }))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<pb::ChosenDeadLetters>,
    ) -> Result<Response<pb::TreatedDeadLetters>, Status> {
        let count = dead_letters::treat(&self.context, request.into_inner(), Treatment::Replay).await?;
        Ok(Response::new(pb::TreatedDeadLetters { count }))
    }

    async fn drop_dead_letters(
        &self,
        request: Request<pb::ChosenDeadLetters>,
    ) -> Result<Response<pb::TreatedDeadLetters>, Status> {
        let count = dead_letters::treat(&self.context, request.into_inner(), Treatment::Drop).await?;
        Ok(Response::new(pb::TreatedDeadLetters { count }))
    }
}

fn info(token: Token) -> pb::ClientToken {
    let name = match token.grant {
        Grant::Client { name } => name,
        Grant::Join { .. } => String::new(),
    };
    pb::ClientToken {
        id: tokens::id_text(token.id),
        name,
        created_millis: token.created_millis,
        expires_millis: token.expires_millis.unwrap_or(0),
    }
}
