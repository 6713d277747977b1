//! What the store knows of tokens and certificates. Beside the coordinator's commits: who may come in is asked before the
//! core hears of anybody.

use super::{KnownAgent, StoreError};
use crate::domain::{AgentId, Certificate, Certified, EnrolRefusal, Enrolment, Sha256, Token, TokenId};
use async_trait::async_trait;

/// The most tokens that are kept at a time.
pub const TOKENS_MAX: u32 = 1000;

/// Tokens and certificates. Every change is durable when it is answered.
#[async_trait]
pub trait Access {
    /// Keeps a new token with the digest of its secret; those that have expired are removed. False if there are
    /// [`TOKENS_MAX`].
    async fn add_token(&self, token: Token, secret: Sha256) -> Result<bool, StoreError>;

    /// All tokens, oldest first.
    async fn tokens(&self) -> Result<Vec<Token>, StoreError>;

    /// A token and the digest of its secret.
    async fn token(&self, id: TokenId) -> Result<Option<(Token, Sha256)>, StoreError>;

    /// Removes a token; false if there is none.
    async fn remove_token(&self, id: TokenId) -> Result<bool, StoreError>;

    /// Uses up a token for one more agent, whose name is not taken. The same key enrols once, however often it asks.
    async fn enrol(&self, enrolment: Enrolment) -> Result<Result<KnownAgent, EnrolRefusal>, StoreError>;

    /// Keeps a new certificate for an agent. One that it never used is forgotten.
    async fn add_certificate(&self, agent: AgentId, certificate: Certificate) -> Result<(), StoreError>;

    /// Whose this certificate is.
    async fn certified(&self, sha256: Sha256) -> Result<Option<Certified>, StoreError>;

    /// The agent has begun to use this certificate: its older ones are superseded.
    async fn use_certificate(&self, sha256: Sha256) -> Result<(), StoreError>;
}
