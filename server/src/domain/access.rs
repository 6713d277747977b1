//! Who may do what: tokens, and the certificates of agents.

use super::AgentId;
use std::collections::BTreeMap;

/// Names a token. No secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 5]);

/// SHA-256 of a certificate, a key or a secret.
pub type Sha256 = [u8; 32];

/// The identity of every agent that has enrolled: its certificate tells it from others. One over the coordinator's own socket
/// names its own.
pub const ENROLLED: &str = "enrolled";

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Which.
    pub id: TokenId,
    /// What it is good for.
    pub grant: Grant,
    /// When it was made, in milliseconds since 1970.
    pub created_millis: i64,
    /// When it ends, in milliseconds since 1970; none means never.
    pub expires_millis: Option<i64>,
}

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Agents enrol with it.
    Join {
        /// What their names must match; `*` and `?` as in a shell.
        names: String,
        /// Labels that they get, over those that they name themselves.
        labels: BTreeMap<String, String>,
        /// How many agents it is still good for.
        uses_left: u32,
    },
    /// A client shows it. So far all clients may do everything that the socket's owner may.
    Client {
        /// Whose it is, for people.
        name: String,
    },
}

/// What an agent wants to enrol with.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// The token,
    pub token: TokenId,
    /// and proof of it.
    pub secret: Sha256,
    /// The agent's name.
    pub name: String,
    /// What it gets. A key that has enrolled with this token already gets its answer again.
    pub certificate: Certificate,
    /// When it is, in milliseconds since 1970.
    pub now_millis: i64,
}

/// Why an agent can't enrol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolRefusal {
    /// Unknown, revoked, or another secret: not to be told apart from outside.
    #[error("this token is not known here: it was revoked or removed, or is of another coordinator")]
    Unknown,
    /// Too late.
    #[error("this token has expired: make another with `piecework agents join-token`")]
    Expired,
    /// Used up.
    #[error("this token was used as often as it may be: make another with `piecework agents join-token`")]
    UsedUp,
    /// Not this name.
    #[error("this token is not for an agent of this name: see `piecework agents join-token --name`")]
    Name,
    /// Another agent has the name.
    #[error(
        "another agent has this name: give this one another with --name, or remove that one with `piecework agents remove`"
    )]
    NameTaken,
}

/// A certificate of an agent, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// By which it is known.
    pub sha256: Sha256,
    /// The key that it certifies.
    pub key: Sha256,
    /// When it ends, in milliseconds since 1970.
    pub expires_millis: i64,
}

/// Whose a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The agent.
    pub agent: AgentId,
    /// Its name.
    pub name: String,
    /// Labels that it was given when it enrolled.
    pub labels: BTreeMap<String, String>,
    /// It is to take no attempts.
    pub draining: bool,
    /// What the certificate is worth.
    pub standing: Standing,
}

/// What a certificate is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Made, and not yet used. An older one is good until it is.
    Fresh,
    /// In use.
    Current,
    /// A newer one was used since. Whoever shows it has a copy of what the agent had.
    Superseded,
    /// Its agent was removed.
    Revoked,
}
