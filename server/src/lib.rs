//! The coordinator of Piecework as a library: owns projects and queues, assigns attempts, records results, reassembles.

pub mod boot;
pub mod broker;
pub mod config;
pub mod coordinator;
pub mod domain;
pub mod driver;
pub mod feed;
pub mod inbox;
pub mod intake;
pub mod open_files;
pub mod output;
pub mod pace;
pub mod plan;
pub mod queues;
pub mod reassemble;
mod rfc3339;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod watch;
pub mod wire;

pub use boot::{
    CRASHES_MAX_DEFAULT, LEASE_DEFAULT, ListenConfig, SOCKET_NAME, Server, ServerConfig, StartError,
};
pub use tls::{AGENT_LIFE_DEFAULT, CertificateFiles};
