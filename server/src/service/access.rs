//! Who calls, and what they may do. Looked at once, before any service sees the call.
//!
//! | caller | known by | may |
//! | --- | --- | --- |
//! | the owner | the coordinator's socket | everything |
//! | a client | a token with each call | everything but what agents alone do |
//! | an agent | its certificate | what agents do |
//! | anybody | | ask for health, and enrol |
//!
//! All clients may do the same so far: a token's role is to be told here, in [`Caller::Client`], and asked for in [`may`].

use super::{Context, limits::STRANGER_BYTES_MAX, status, tokens, web};
use crate::{
    domain::{Certified, Grant, Standing, TokenId},
    store::Store,
    tls::{self, Peer},
};
use axum::response::IntoResponse;
use futures_util::future::BoxFuture;
use http_body_util::Limited;
use piecework_proto::{
    token::{Token, TokenKind},
    v1::agent_session_server::SERVICE_NAME as AGENT_SESSION,
};
use std::{
    fmt,
    sync::Arc,
    task::{self, Poll},
};
use tonic::{Code, Status, body::Body, codegen::http};
use tower::{Layer, Service};

/// Who calls.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// Whoever can open the coordinator's socket.
    Owner,
    /// Whoever was given a token.
    Client {
        /// Which.
        token: TokenId,
        /// Whose it is.
        name: String,
    },
    /// An agent that has enrolled.
    Agent {
        /// Which, and what its certificate is worth.
        certified: Arc<Certified>,
        /// By which certificate.
        certificate: [u8; 32],
        /// From where.
        address: String,
    },
    /// Anybody.
    Nobody {
        /// From where.
        address: String,
    },
}

/// For the log.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("the owner"),
            Self::Client { token, name } => write!(f, "client {name} (token {})", tokens::id_text(*token)),
            Self::Agent { certified, address, .. } => write!(f, "agent {} from {address}", certified.name),
            Self::Nobody { address } => write!(f, "somebody from {address}"),
        }
    }
}

/// Puts who calls beside each call, or refuses it.
#[derive(Clone)]
pub struct AccessLayer {
    context: Context,
}

impl AccessLayer {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessService { inner, context: self.context.clone() }
    }
}

/// See [`AccessLayer`].
#[derive(Clone)]
pub struct AccessService<S> {
    inner: S,
    context: Context,
}

impl<S> Service<http::Request<Body>> for AccessService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that is ready is the one to be used.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let context = self.context.clone();
        let peer = request.extensions().get::<Peer>().cloned();
        let authorization = request.headers().get(http::header::AUTHORIZATION).cloned();
        let path = request.uri().path().to_owned();
        let is_grpc = web::is_grpc(request.headers());
        Box::pin(async move {
            let allowed = async {
                let caller = caller(&context, peer.as_ref(), authorization).await?;
                may(&context, &caller, &path).await?;
                tracing::debug!(%caller, path, "a call");
                Ok::<_, Status>(caller)
            };
            let caller = match allowed.await {
                Ok(caller) => caller,
                Err(status) => return Ok(refusal(status, is_grpc)),
            };
            let _place = match (&caller, peer) {
                // What anybody may do is small, and is done for a few at a time.
                (Caller::Nobody { .. }, _) => {
                    let Ok(place) = context.strangers.clone().try_acquire_owned() else {
                        let status =
                            status::try_again(Code::ResourceExhausted, "too many strangers call at once");
                        return Ok(refusal(status, is_grpc));
                    };
                    request = request.map(|body| Body::new(Limited::new(body, STRANGER_BYTES_MAX)));
                    Some(place)
                }
                (_, peer) => {
                    if let Some(peer) = peer {
                        peer.is_known();
                    }
                    None
                }
            };
            request.extensions_mut().insert(caller);
            inner.call(request).await
        })
    }
}

/// In words that the caller understands.
fn refusal(status: Status, is_grpc: bool) -> http::Response<Body> {
    if is_grpc { status.into_http() } else { web::Problem::from(status).into_response().map(Body::new) }
}

async fn caller(
    context: &Context,
    peer: Option<&Peer>,
    authorization: Option<http::HeaderValue>,
) -> Result<Caller, Status> {
    // Connections over the socket carry none.
    let Some(peer) = peer else { return Ok(Caller::Owner) };
    let address = peer.address.ip().to_string();
    if let Some(certificate) = peer.certificate {
        let certified = context.store.certified(certificate).await.map_err(status::store)?;
        let certified = certified.ok_or_else(|| {
            Status::unauthenticated(
                "this coordinator does not know the agent's certificate: was an old data directory restored?",
            )
        })?;
        return Ok(Caller::Agent { certified: Arc::new(certified), certificate, address });
    }
    let Some(header) = authorization else { return Ok(Caller::Nobody { address }) };
    let text = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    let text = text.ok_or_else(|| Status::unauthenticated("authorization must be `Bearer TOKEN`"))?;
    let token: Token = text.parse().map_err(|error| Status::unauthenticated(format!("{error}")))?;
    if token.kind != TokenKind::Client {
        return Err(Status::unauthenticated(
            "this token is for agents to join with: make one for clients with `piecework tokens create`",
        ));
    }
    client(&*context.store, token).await
}

async fn client(store: &dyn Store, token: Token) -> Result<Caller, Status> {
    let id = TokenId(token.id);
    let found = store.token(id).await.map_err(status::store)?;
    let secret = tls::secret_sha256(&token.secret);
    // Digests of 160 random bits: how long the comparison takes says nothing of use.
    let found = found.filter(|(_, known)| *known == secret).map(|(found, _)| found);
    match found {
        Some(found) if found.expires_millis.is_some_and(|expires| expires <= super::now_millis()) => Err(
            Status::unauthenticated("this token has expired: make another with `piecework tokens create`"),
        ),
        Some(crate::domain::Token { grant: Grant::Client { name }, .. }) => {
            Ok(Caller::Client { token: id, name })
        }
        _ => Err(Status::unauthenticated(
            "this token is not known here: it was removed, or is of another coordinator",
        )),
    }
}

/// Whether the caller may make this call.
async fn may(context: &Context, caller: &Caller, path: &str) -> Result<(), Status> {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    if service == "grpc.health.v1.Health" || (service == AGENT_SESSION && method == "Enrol") {
        return Ok(());
    }
    let is_for_agents = service == AGENT_SESSION;
    match caller {
        Caller::Owner => Ok(()),
        Caller::Client { .. } if is_for_agents => {
            Err(Status::permission_denied("this is for agents, which are known by their certificate"))
        }
        Caller::Client { .. } => Ok(()),
        Caller::Agent { certified, certificate, address } => {
            match certified.standing {
                Standing::Fresh => {
                    context.store.use_certificate(*certificate).await.map_err(status::store)?;
                }
                Standing::Current => {}
                // What the agent takes for its end.
                Standing::Revoked => {
                    return Err(Status::permission_denied(format!("agent {} was removed", certified.name)));
                }
                Standing::Superseded => {
                    let told = context.driver.old_certificate(certified.agent, address.clone()).await;
                    told.map_err(status::driver)?;
                    return Err(Status::unauthenticated(format!(
                        "agent {} has a newer certificate than this: is this a copy of its data directory?",
                        certified.name
                    )));
                }
            }
            if is_for_agents {
                Ok(())
            } else {
                Err(Status::permission_denied("an agent may not do this: use a token for clients"))
            }
        }
        Caller::Nobody { .. } => {
            let hint = if is_for_agents {
                "only agents may do this, with the certificate that they got when they joined"
            } else {
                "a token is needed: make one with `piecework tokens create` where the coordinator runs, and set PIECEWORK_TOKEN"
            };
            Err(Status::unauthenticated(hint))
        }
    }
}

/// Who makes this call. Beside every call that has come through [`AccessLayer`].
pub(super) fn caller_of<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Status::internal("a call came in past the check of who calls"))
}
