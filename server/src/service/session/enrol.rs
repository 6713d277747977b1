//! How an agent comes to its certificate.

use super::super::{Context, access::Caller, now_millis, status};
use crate::{
    domain::{Certificate, EnrolRefusal, Enrolment, TokenId},
    plan,
    tls::{self, Issued, Request, Tls},
};
use piecework_proto::{
    token::{Token, TokenKind},
    v1 as pb,
};
use std::time::SystemTime;
use tonic::Status;

/// Makes the caller an agent.
pub(super) async fn enrol(
    context: &Context,
    caller: &Caller,
    request: pb::EnrolRequest,
) -> Result<pb::EnrolResponse, Status> {
    let pb::EnrolRequest { token, name, certificate_request } = request;
    let token: Token = token.parse().map_err(|error| status::bad_field("token", format!("{error}")))?;
    if token.kind != TokenKind::Join {
        return Err(status::bad_field(
            "token",
            "this token is for clients: make one for agents with `piecework agents join-token`",
        ));
    }
    if !plan::is_name(&name) {
        return Err(status::bad_field("name", format!("not a name: {}", plan::NAME_RULE)));
    }
    let secret = tls::secret_sha256(&token.secret);
    // Anybody can ask: what costs something is done only for those who have a token.
    let known = context.store.token(TokenId(token.id)).await.map_err(status::store)?;
    if known.is_none_or(|(_, known)| known != secret) {
        tracing::debug!(%caller, "somebody without a token of ours wants to enrol");
        return Err(Status::permission_denied(EnrolRefusal::Unknown.to_string()));
    }
    let (request, issued) = issue(context, &name, &certificate_request)?;
    let enrolment = Enrolment {
        token: TokenId(token.id),
        secret,
        name,
        certificate: known_by(&request, &issued),
        now_millis: now_millis(),
    };
    let agent = match context.store.enrol(enrolment).await.map_err(status::store)? {
        Ok(agent) => agent,
        Err(refusal) => {
            tracing::warn!(%caller, %refusal, "an agent was not let in");
            return Err(match refusal {
                EnrolRefusal::NameTaken => Status::already_exists(refusal.to_string()),
                EnrolRefusal::Unknown | EnrolRefusal::Expired | EnrolRefusal::UsedUp | EnrolRefusal::Name => {
                    Status::permission_denied(refusal.to_string())
                }
            });
        }
    };
    tracing::info!(agent = agent.name, %caller, "an agent has enrolled");
    context.driver.enrolled(agent).await.map_err(status::driver)?;
    Ok(pb::EnrolResponse { certificate: issued.der })
}

/// Makes a new certificate for an agent that has one.
pub(super) async fn renew(
    context: &Context,
    caller: &Caller,
    request: pb::RenewRequest,
) -> Result<pb::RenewResponse, Status> {
    let Caller::Agent { certified, .. } = caller else {
        return Err(Status::failed_precondition(
            "there is no certificate to renew: the call came without one",
        ));
    };
    let (request, issued) = issue(context, &certified.name, &request.certificate_request)?;
    let certificate = known_by(&request, &issued);
    context.store.add_certificate(certified.agent, certificate).await.map_err(status::store)?;
    tracing::info!(agent = certified.name, "an agent's certificate is renewed");
    Ok(pb::RenewResponse { certificate: issued.der })
}

fn issue(context: &Context, name: &str, request: &[u8]) -> Result<(Request, Issued), Status> {
    let Tls { authority, agent_life, .. } = tls_of(context)?;
    let request = Request::parse(request)
        .map_err(|error| status::bad_field("certificate_request", error.to_string()))?;
    let issued = authority
        .issue_agent(&request, name, SystemTime::now(), *agent_life)
        .map_err(|error| status::internal("a certificate can't be made", &error))?;
    Ok((request, issued))
}

fn known_by(request: &Request, issued: &Issued) -> Certificate {
    Certificate { sha256: issued.sha256, key: request.key_sha256, expires_millis: issued.expires_millis }
}

fn tls_of(context: &Context) -> Result<&Tls, Status> {
    context.tls.as_ref().ok_or_else(status::not_listening)
}
