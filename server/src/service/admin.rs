//! The coordinator itself.

use super::Context;
use piecework_proto::v1::{GetServerInfoRequest, ServerInfo, admin_server::Admin};
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
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<ServerInfo>, Status> {
        Ok(Response::new(ServerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            coordinator_epoch: self.context.driver.epoch().0,
            uptime_millis: u64::try_from(self.context.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }))
    }
}
