//! The binary `piecework-agent`: an agent of its own on one host.
//!
//! SIGTERM or SIGINT stops it: it takes nothing new, lets what runs end for a grace, and hands the rest back. A second one
//! ends the grace, a third the process. With `--on-stop leave` the workers go on without it, for its next start.
//!
//! Exit codes: 0 after a stop by SIGTERM or SIGINT, 1 if the agent could not start or could not go on, 2 for wrong
//! arguments, 4 if the coordinator has removed it, 130 after a signal
//! that ended it at once.

use clap::{Parser, ValueEnum};
use piecework_agent::{Agent, AgentConfig, Failure, RuntimeChoice, offer};
use piecework_proto::{address::Address, label, token::Token};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The agent could not start, or could not go on.
const EXIT_FAILED: u8 = 1;

/// The coordinator has removed this agent: starting it again is of no use.
const EXIT_REMOVED: u8 = 4;

/// How long what runs may go on after the signal to stop, if nothing else is said, in seconds.
const STOP_GRACE_SECS: u64 = 30;

/// The longest such time: a week.
const STOP_GRACE_SECS_MAX: u64 = 7 * 24 * 3600;

/// A signal more came during the stop.
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
    /// How many tasks run at a time; without it one for each processor that is offered
    #[arg(long, env = "PIECEWORK_AGENT_SLOTS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: Option<u32>,
    /// What workers are made of
    #[arg(long, env = "PIECEWORK_AGENT_RUNTIME", value_enum, default_value = "docker")]
    runtime: RuntimeArg,
    /// How many processors tasks may ask for together, such as `4` or `0.5`; without it all that there are
    #[arg(long, env = "PIECEWORK_AGENT_CPUS", value_parser = offer::cpus_milli)]
    cpus: Option<u32>,
    /// How much memory tasks may ask for together, such as `16GiB`; without it all that there is
    #[arg(long, env = "PIECEWORK_AGENT_MEMORY", value_name = "SIZE", value_parser = offer::memory_bytes)]
    memory: Option<u64>,
    /// A label that projects can ask for; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// What becomes of the tasks that run when a signal stops the agent
    #[arg(long, env = "PIECEWORK_AGENT_ON_STOP", value_enum, default_value = "drain")]
    on_stop: OnStop,
    /// How many seconds they may go on; what runs then is killed, and runs elsewhere
    #[arg(
        long,
        env = "PIECEWORK_AGENT_STOP_GRACE",
        value_name = "SECONDS",
        default_value_t = STOP_GRACE_SECS,
        value_parser = clap::value_parser!(u64).range(..=STOP_GRACE_SECS_MAX)
    )]
    stop_grace: u64,
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

/// What becomes of tasks when the agent stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnStop {
    /// They may end within the grace
    Drain,
    /// They go on in their workers; the agent's next start, within the lease, adopts them
    Leave,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    label::check(key, value).map_err(|why| why.to_string())?;
    Ok((key.into(), value.into()))
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
            cpus_milli: self.cpus,
            memory_bytes: self.memory,
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
    let (on_stop, grace) = (args.on_stop, Duration::from_secs(args.stop_grace));
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
    let (code, is_hurried) = tokio::select! {
        () = signals.next() => {
            if on_stop == OnStop::Leave {
                return leave(agent, &mut signals).await;
            }
            tracing::info!("stopping: what runs has {} s to end; a second signal kills it and hands it back", grace.as_secs());
            tokio::select! {
                () = agent.drain(grace) => (ExitCode::SUCCESS, false),
                () = signals.next() => (ExitCode::SUCCESS, true),
            }
        }
        why = agent.failed() => {
            tracing::error!("{why}");
            match why {
                Failure::Removed(..) => (ExitCode::from(EXIT_REMOVED), false),
                Failure::Broken => return ExitCode::from(EXIT_FAILED),
            }
        }
    };
    let signals_left = if is_hurried { "one more signal ends" } else { "two more signals end" };
    tracing::info!("stopping: what still runs is killed and handed back; {signals_left} the agent at once");
    let stop = agent.shutdown();
    let at_once = async {
        // One that comes as the grace ends by itself asks for what is done already.
        if !is_hurried {
            signals.next().await;
        }
        signals.next().await;
    };
    tokio::select! {
        () = stop => code,
        () = at_once => ExitCode::from(EXIT_HURRIED),
    }
}

/// Ends the agent, and not its workers.
async fn leave(agent: Agent, signals: &mut Signals) -> ExitCode {
    tracing::info!("stopping: what runs goes on in its workers, for the next start to adopt");
    tokio::select! {
        () = agent.leave() => ExitCode::SUCCESS,
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
