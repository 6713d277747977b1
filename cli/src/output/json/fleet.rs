//! Agents, and the tokens that let agents and clients in.

use crate::output::human;
use piecework_proto::v1;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// What `agents` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Agents {
    /// The agents, by name.
    pub agents: Vec<Agent>,
}

/// One agent.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// `ready`, `not ready`, `draining` or `lost`.
    pub state: String,
    /// Why it is in that state, if there is more to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How many attempts it runs at a time.
    pub slots: u32,
    /// How many attempts it holds.
    pub held: u32,
    /// `docker` or `process`.
    pub runtime: String,
    /// Its version.
    pub version: String,
    /// Milliseconds since it was last heard.
    pub last_heard_millis: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// From where it is connected; missing over the coordinator's own socket.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// What should be looked at, such as a second process with its identity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub warning: String,
    /// Processors that it offers, in thousandths; missing if it has not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_milli: Option<u32>,
    /// Memory that it offers; missing if it has not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processors that what it holds asks for, in thousandths.
    pub cpus_used_milli: u64,
    /// Memory that what it holds asks for.
    pub memory_used_bytes: u64,
    /// Why it gets no attempts for a while.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub quarantine: String,
    /// The attempts that it holds, at most 1000, such as `7/task/12#1`. Only from `show`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<String>,
}

impl From<&v1::Agent> for Agent {
    fn from(agent: &v1::Agent) -> Self {
        Self {
            name: agent.name.clone(),
            state: human::agent_state(agent.state()).to_owned(),
            message: agent.message.clone(),
            slots: agent.slots,
            held: agent.held,
            runtime: agent.runtime.clone(),
            version: agent.version.clone(),
            last_heard_millis: agent.last_heard_millis,
            labels: agent.labels.clone().into_iter().collect(),
            address: agent.address.clone(),
            warning: agent.warning.clone(),
            cpus_milli: (agent.cpus_milli > 0).then_some(agent.cpus_milli),
            memory_bytes: (agent.memory_bytes > 0).then_some(agent.memory_bytes),
            cpus_used_milli: agent.cpus_used_milli,
            memory_used_bytes: agent.memory_used_bytes,
            quarantine: agent.quarantine.clone(),
            attempts: agent.attempts.iter().map(human::attempt_key).collect(),
        }
    }
}

/// A token for joining, without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub struct JoinToken {
    /// Which.
    pub id: String,
    /// What the names of the agents must match.
    pub names: String,
    /// Labels that the agents get.
    pub labels: BTreeMap<String, String>,
    /// How many agents it is still good for.
    pub uses_left: u32,
    /// When it was made, in milliseconds since 1970.
    pub created_millis: i64,
    /// When it ends, in milliseconds since 1970.
    pub expires_millis: i64,
}

impl From<&v1::JoinToken> for JoinToken {
    fn from(token: &v1::JoinToken) -> Self {
        Self {
            id: token.id.clone(),
            names: token.names.clone(),
            labels: token.labels.clone().into_iter().collect(),
            uses_left: token.uses_left,
            created_millis: token.created_millis,
            expires_millis: token.expires_millis,
        }
    }
}

/// A token for joining that was just made.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NewJoinToken {
    /// The token. It is never shown again.
    pub token: String,
    /// Where the coordinator listens, as far as it knows.
    pub address: String,
    /// What is kept of it.
    #[serde(flatten)]
    pub info: JoinToken,
}

/// What `agents join-token ls` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct JoinTokens {
    /// Oldest first.
    pub tokens: Vec<JoinToken>,
}

/// A token of a client, without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClientToken {
    /// Which.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created_millis: i64,
    /// When it ends, in milliseconds since 1970; missing means never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_millis: Option<i64>,
}

impl From<&v1::ClientToken> for ClientToken {
    fn from(token: &v1::ClientToken) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            created_millis: token.created_millis,
            expires_millis: Some(token.expires_millis).filter(|&millis| millis != 0),
        }
    }
}

/// A token of a client that was just made.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NewClientToken {
    /// The token. It is never shown again.
    pub token: String,
    /// Where the coordinator listens, as far as it knows.
    pub address: String,
    /// What is kept of it.
    #[serde(flatten)]
    pub info: ClientToken,
}

/// What `tokens ls` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClientTokens {
    /// Oldest first.
    pub tokens: Vec<ClientToken>,
}

/// What was removed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Removed {
    /// Names of agents or queues, or ids of tokens.
    pub removed: Vec<String>,
}
