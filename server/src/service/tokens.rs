//! Tokens: made, listed and removed, for agents and for clients alike. A token is shown once, when it is made.

use super::{Context, now_millis, status};
use crate::{
    domain::{Grant, Token, TokenId},
    store::TOKENS_MAX,
    tls,
};
use piecework_proto::token::{TokenKind, token_id, token_id_text};
use std::time::Duration;
use tonic::Status;

/// The longest life of a token: ten years.
const LIFE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A token that was made: as it is shown, what is kept of it, and where the coordinator listens.
pub(super) struct Made {
    pub(super) text: String,
    pub(super) token: Token,
    pub(super) address: String,
}

/// Makes one.
pub(super) async fn make(context: &Context, grant: Grant, life: Option<Duration>) -> Result<Made, Status> {
    let tls = context.tls.as_ref().ok_or_else(status::not_listening)?;
    if life.is_some_and(|life| life > LIFE_MAX) {
        return Err(status::bad_field("life_millis", "at most ten years"));
    }
    let kind = match grant {
        Grant::Join { .. } => TokenKind::Join,
        Grant::Client { .. } => TokenKind::Client,
    };
    let (text, id, secret) =
        tls::make_token(kind, tls.pin).map_err(|error| status::internal("a token can't be made", &error))?;
    let created_millis = now_millis();
    let life_millis = life.map(|life| i64::try_from(life.as_millis()).unwrap_or(i64::MAX));
    let token = Token {
        id: TokenId(id),
        grant,
        created_millis,
        expires_millis: life_millis.map(|life| created_millis.saturating_add(life)),
    };
    if !context.store.add_token(token.clone(), secret).await.map_err(status::store)? {
        return Err(Status::resource_exhausted(format!("there are {TOKENS_MAX} tokens: remove some first")));
    }
    Ok(Made { text, token, address: tls.address.clone() })
}

/// All of one kind.
pub(super) async fn list(context: &Context, kind: TokenKind) -> Result<Vec<Token>, Status> {
    let mut tokens = context.store.tokens().await.map_err(status::store)?;
    tokens.retain(|token| kind == kind_of(token));
    Ok(tokens)
}

/// Removes one of this kind.
pub(super) async fn remove(context: &Context, kind: TokenKind, id: &str) -> Result<(), Status> {
    let known = match token_id(id) {
        Some(id) => context.store.token(TokenId(id)).await.map_err(status::store)?,
        None => None,
    };
    match known {
        Some((token, _)) if kind == kind_of(&token) => {
            context.store.remove_token(token.id).await.map_err(status::store)?;
            Ok(())
        }
        _ => Err(Status::not_found("there is no such token")),
    }
}

/// The id of a token as people see it.
pub(super) fn id_text(id: TokenId) -> String {
    token_id_text(id.0)
}

fn kind_of(token: &Token) -> TokenKind {
    match token.grant {
        Grant::Join { .. } => TokenKind::Join,
        Grant::Client { .. } => TokenKind::Client,
    }
}
