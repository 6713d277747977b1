//! The coordinator or the agent alone in this process, for `piecework bench`, which holds the other end of its stdin: when
//! that ends, so does this, however `bench` ended.

use super::{
    BrokerArgs,
    with::{log_to_stderr, not_started},
};
use crate::{context::Context, error::CliError, exit_code};
use piecework_agent::{Agent, AgentConfig, RuntimeChoice};
use piecework_proto::{address::Address, token::Token};
use piecework_server::{ListenConfig, Server, ServerConfig, open_files};
use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};
use tokio::io::AsyncReadExt;

/// What tasks run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PartRuntime {
    /// Docker containers.
    Docker,
    /// Plain processes.
    Process,
    /// Nothing: tasks end as their command says.
    Scripted,
}

/// Runs a coordinator on a data directory until stdin ends.
pub(crate) async fn coordinator(
    context: &Context,
    data: PathBuf,
    listen: bool,
    broker: BrokerArgs,
) -> Result<(), CliError> {
    log_to_stderr(context, "warn");
    open_files::raise();
    let listen = listen.then(|| ListenConfig::new((Ipv4Addr::LOCALHOST, 0).into()));
    let broker = broker.config([]);
    let broker = broker.map_err(|error| CliError::new(exit_code::BAD_INPUT, error.to_string()))?;
    let config = ServerConfig { listen, broker, ..ServerConfig::new(data) };
    let mut server = Server::start(config).await.map_err(|error| not_started("the coordinator", &error))?;
    let failed = tokio::select! {
        () = stdin_ended() => None,
        why = server.failed() => Some(failed("the coordinator", why)),
    };
    server.shutdown().await;
    failed.map_or(Ok(()), Err)
}

/// Runs an agent on a data directory until stdin ends.
pub(crate) async fn agent(
    context: &Context,
    data: PathBuf,
    server: Address,
    join: Option<Token>,
    slots: u32,
    runtime: PartRuntime,
) -> Result<(), CliError> {
    log_to_stderr(context, "warn");
    let config = AgentConfig {
        data,
        server,
        join,
        name: Some("bench".into()),
        slots: Some(slots),
        cpus_milli: None,
        memory_bytes: None,
        runtime: match runtime {
            PartRuntime::Docker => RuntimeChoice::Docker,
            PartRuntime::Process => RuntimeChoice::Process,
            PartRuntime::Scripted => RuntimeChoice::Scripted,
        },
        labels: BTreeMap::new(),
    };
    let agent = Agent::start(config).await.map_err(|error| not_started("the agent", &error))?;
    let failed = tokio::select! {
        () = stdin_ended() => None,
        why = agent.failed() => Some(failed("the agent", why)),
    };
    agent.shutdown().await;
    failed.map_or(Ok(()), Err)
}

pub(super) async fn stdin_ended() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 64];
    while let Ok(1..) = stdin.read(&mut ignored).await {}
}

pub(super) fn failed(what: &str, why: impl ToString) -> CliError {
    CliError::new(exit_code::LOCAL_FAILURE, format!("{what} failed")).cause(why)
}
