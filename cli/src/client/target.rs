//! Which coordinator, and by what this client is known there.

use super::ClientError;
use piecework_proto::{address::Address, token::Token, trust};
use rustls::ClientConfig;
use std::{fmt, io, sync::Arc};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

/// Which coordinator, and by what this client is known there.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// Needed over TCP alone: it also says by what the coordinator is known.
    pub token: Option<Token>,
}

impl From<Address> for Target {
    fn from(address: Address) -> Self {
        Self { address, token: None }
    }
}

/// What to dial with.
pub(super) fn tls(
    address: &Address,
    token: Option<&Token>,
) -> Result<Option<Arc<ClientConfig>>, ClientError> {
    if let Address::Socket(_) = address {
        return Ok(None);
    }
    let token = token.ok_or_else(|| ClientError::NoToken(address.clone()))?;
    let config = trust::client_config(token.pin, None).map_err(|error| ClientError::NoCoordinator {
        address: address.clone(),
        source: io::Error::other(error),
    })?;
    Ok(Some(Arc::new(config)))
}

/// Shows the token with each call.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    pub(super) fn new(token: Option<&Token>) -> Self {
        let value = token.and_then(|token| MetadataValue::try_from(format!("Bearer {token}")).ok());
        Self(value.map(|mut value| {
            value.set_sensitive(true);
            value
        }))
    }
}

/// Without the token.
impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").finish_non_exhaustive()
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}
