//! A coordinator that listens on TCP, and those who dial it: agents with certificates, clients with tokens, and anybody.

use crate::bench::{Bench, within};
use piecework_proto::{
    address::Address,
    dial,
    token::Token,
    trust::{Identity, Pin, client_config},
    v1::{self as pb, agent_session_client::AgentSessionClient},
};
use piecework_server::{AGENT_LIFE_DEFAULT, ListenConfig};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint, Uri},
};

/// A coordinator that listens on a free port of this machine.
pub(crate) async fn start() -> Bench {
    Bench::start_with(|config| config.listen = Some(listen())).await
}

pub(crate) fn listen() -> ListenConfig {
    ListenConfig {
        address: ([127, 0, 0, 1], 0).into(),
        names: Vec::new(),
        certificate: None,
        agent_life: AGENT_LIFE_DEFAULT,
        cors_origins: Vec::new(),
    }
}

pub(crate) fn address(bench: &Bench) -> Address {
    let address = bench.server().address().unwrap();
    Address::Tls { host: address.ip().to_string(), port: address.port() }
}

/// A connection by somebody who knows the coordinator by a pin.
pub(crate) async fn dial(
    address: Address,
    pin: Pin,
    identity: Option<Identity>,
) -> Result<Channel, tonic::transport::Error> {
    let tls = Arc::new(client_config(pin, identity).unwrap());
    let connector = dial::connector(Arc::new(address), move || Some(tls.clone()));
    let endpoint = Endpoint::from(Uri::from_static("http://coordinator"));
    within(endpoint.connect_with_connector(connector)).await
}

/// A token for agents.
pub(crate) async fn join_token(bench: &Bench, request: pb::CreateJoinTokenRequest) -> Token {
    let answer = within(bench.agents().create_join_token(request)).await.unwrap().into_inner();
    answer.token.parse().unwrap()
}

/// A token for clients, which is good for so long; 0 means for ever.
pub(crate) async fn client_token(bench: &Bench, life_millis: u64) -> (Token, String) {
    let request = pb::CreateClientTokenRequest { name: "me".to_owned(), life_millis };
    let answer = within(bench.admin().create_client_token(request)).await.unwrap().into_inner();
    (answer.token.parse().unwrap(), answer.info.unwrap().id)
}

/// A call that shows a token.
pub(crate) fn with_token<T>(message: T, token: &Token) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// What an agent has on its way to a certificate, and then.
pub(crate) struct Joining {
    pub(crate) key: KeyPair,
    pub(crate) pin: Pin,
    pub(crate) address: Address,
}

impl Joining {
    pub(crate) fn new(bench: &Bench, pin: Pin) -> Self {
        Self { key: KeyPair::generate().unwrap(), pin, address: address(bench) }
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        CertificateParams::default().serialize_request(&self.key).unwrap().der().to_vec()
    }

    /// Asks for a certificate.
    pub(crate) async fn enrol(&self, token: &Token, name: &str) -> Result<Vec<u8>, Status> {
        let request = pb::EnrolRequest {
            token: token.to_string(),
            name: name.to_owned(),
            certificate_request: self.request(),
        };
        let channel = dial(self.address.clone(), self.pin, None).await.unwrap();
        let answer = within(AgentSessionClient::new(channel).enrol(request)).await?;
        Ok(answer.into_inner().certificate)
    }

    /// Dials with a certificate.
    pub(crate) async fn dial(&self, certificate: &[u8]) -> Channel {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let identity = Identity { chain: vec![CertificateDer::from(certificate.to_vec())], key };
        dial(self.address.clone(), self.pin, Some(identity)).await.unwrap()
    }
}

/// An agent that has enrolled under this name; its connection, and what it has.
pub(crate) async fn enrolled(bench: &Bench, name: &str) -> (Channel, Joining, Vec<u8>) {
    let token = join_token(bench, pb::CreateJoinTokenRequest::default()).await;
    let joining = Joining::new(bench, token.pin);
    let certificate = joining.enrol(&token, name).await.unwrap();
    (joining.dial(&certificate).await, joining, certificate)
}
