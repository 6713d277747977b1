//! The binary `piecework-agent`: an agent of its own on one host.
//!
//! Exit codes: 0 after a stop by SIGTERM or SIGINT, 1 if the agent could not start or could not go on, 2 for wrong
//! arguments, 4 if the coordinator has removed it, 130 after a second signal, which ends it at once.

use clap::{Parser, ValueEnum};
use piecework_agent::{Agent, AgentConfig, Failure, RuntimeChoice};
use piecework_proto::{address::Address, token::Token};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The agent could not start, or could not go on.
const EXIT_FAILED: u8 = 1;

/// The coordinator has removed this agent: starting it again is of no use.
const EXIT_REMOVED: u8 = 4;

/// A second signal came during the stop.
const EXIT_HURRIED: u8 = 130;

/// Runs tasks of Piecework projects on this host.
#[derive(Debug, Parser)]
#[command(name = "piecework-agent", version)]
struct Args {
    /// Directory for the outbox and for sockets of workers; made if it is missing
    #[arg(long, env = "PIECEWORK_AGENT_DATA", value_name = "DIR")]
    data: PathBuf,
    /// Where the coordinator is: https://HOST:PORT, or the path of its socket
    #[arg(long, env = "PIECEWORK_SERVER", value_name = "ADDRESS")]
    server: Address,
    /// A token from `piecework agents join-token`, to join with over TCP; not needed any more once the agent has joined
    ///
    /// Better given in the environment or in a file: other users of this host can see a program's arguments.
    #[arg(long, env = "PIECEWORK_JOIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    join: Option<String>,
    /// A file with such a token
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    join_file: Option<PathBuf>,
    /// Name of this agent; without it the host's. It is the name that it joins under, and stays
    #[arg(long, env = "PIECEWORK_AGENT_NAME")]
    name: Option<String>,
    /// How many tasks run at a time; without it one for each processor
    #[arg(long, env = "PIECEWORK_AGENT_SLOTS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: Option<u32>,
    /// What workers are made of
    #[arg(long, env = "PIECEWORK_AGENT_RUNTIME", value_enum, default_value = "docker")]
    runtime: RuntimeArg,
    /// A label that projects can ask for; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// What is logged to stderr, such as `info` or `piecework_agent=debug`
    #[arg(long, env = "PIECEWORK_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

/// The runtimes that a user may choose.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum RuntimeArg {
    /// Docker if an engine answers, else plain processes
    Auto,
    /// Docker containers
    Docker,
    /// Plain processes: nothing keeps tasks from this host's files
    Process,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

impl Args {
    fn into_config(self) -> Result<AgentConfig, String> {
        let join = match self.join_file {
            Some(path) => Some(token_in(&path)?),
            // Not by clap, which repeats what it can't read.
            None => {
                self.join.map(|text| text.parse().map_err(|error| format!("--join: {error}"))).transpose()?
            }
        };
        Ok(AgentConfig {
            data: self.data,
            server: self.server,
            join,
            name: self.name,
            slots: self.slots,
            runtime: match self.runtime {
                RuntimeArg::Auto => RuntimeChoice::Auto,
                RuntimeArg::Docker => RuntimeChoice::Docker,
                RuntimeArg::Process => RuntimeChoice::Process,
            },
            labels: self.labels.into_iter().collect::<BTreeMap<_, _>>(),
        })
    }
}

fn token_in(path: &Path) -> Result<Token, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
    text.parse().map_err(|error| format!("{}: {error}", path.display()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = match args.log.parse::<EnvFilter>() {
        Ok(filter) => filter,
        Err(error) => {
            let mut command = <Args as clap::CommandFactory>::command();
            command.error(clap::error::ErrorKind::InvalidValue, format!("--log: {error}")).exit()
        }
    };
    let ansi = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(ansi).with_env_filter(filter).init();
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals can't be listened for");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let config = match args.into_config() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let started = tokio::select! {
        started = Agent::start(config) => started,
        // It has begun nothing yet.
        () = signals.next() => return ExitCode::SUCCESS,
    };
    let agent = match started {
        Ok(agent) => agent,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    if let Some(why) = agent.why_not_docker() {
        tracing::warn!("no Docker, so tasks run as plain processes: {why}");
    }
    tracing::info!(runtime = ?agent.runtime(), "the agent runs");
    let code = tokio::select! {
        () = signals.next() => ExitCode::SUCCESS,
        why = agent.failed() => {
            tracing::error!("{why}");
            match why {
                Failure::Removed(..) => ExitCode::from(EXIT_REMOVED),
                Failure::Broken => return ExitCode::from(EXIT_FAILED),
            }
        }
    };
    tracing::info!("stopping: what runs is killed and handed back; a second signal ends the agent at once");
    tokio::select! {
        () = agent.shutdown() => code,
        () = signals.next() => ExitCode::from(EXIT_HURRIED),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_hold_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn labels_need_a_key() {
        assert_eq!(label("disk=ssd=1"), Ok(("disk".into(), "ssd=1".into())));
        assert!(label("=ssd").is_err());
        assert!(label("ssd").is_err());
    }
}
