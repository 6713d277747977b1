//! The agent of Piecework as a library: the long-lived process on a Docker host that runs attempts in workers.

pub mod attempt;
mod blocking;
pub mod boot;
pub mod credentials;
pub mod domain;
pub mod images;
pub mod init_link;
pub mod offer;
pub mod outbox;
pub mod pool;
pub mod readiness;
pub mod runtime;
pub mod session;
pub mod supervisor;
pub mod sweep;
pub mod wire;

pub use boot::{Agent, AgentConfig, Failure, RuntimeChoice, StartError};
