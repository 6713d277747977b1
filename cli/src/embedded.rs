//! A coordinator and an agent in this process, for one machine.

use crate::{context::Context, error::CliError, exit_code};
use piecework_proto::address::{listen_address, web_origin};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// How the agent in this process runs tasks.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EmbeddedArgs {
    /// How many tasks run at a time. Without it: one for each processor.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) slots: Option<u32>,
    /// What tasks run in. `process` gives no isolation from this machine.
    #[arg(long, value_name = "RUNTIME", default_value = "auto")]
    pub(crate) runtime: RuntimeArg,
}

/// What tasks run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RuntimeArg {
    /// Docker if it answers, else plain processes.
    Auto,
    /// Docker containers.
    Docker,
    /// Plain processes of this machine.
    Process,
}

/// Where the coordinator in this process listens beside its socket.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ListenArgs {
    /// Also listen on this IP address and port, for agents and clients of other hosts; with TLS from the first byte.
    ///
    /// Agents join with a token from `piecework agents join-token`; clients need one from `piecework tokens create`.
    #[arg(long, env = "PIECEWORK_LISTEN", value_name = "ADDRESS:PORT", value_parser = listen_address, hide_env_values = true)]
    pub(crate) listen: Option<SocketAddr>,
    /// A name or address under which other hosts know this one; may be given again.
    #[arg(long = "tls-name", value_name = "NAME", requires = "listen")]
    pub(crate) tls_names: Vec<String>,
    /// The origin of web pages that may use the queues over HTTP, such as `https://app.example`, or `*` for all; may be given again, or
    /// several with commas between them.
    #[arg(long = "cors-origin", env = "PIECEWORK_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = web_origin, requires = "listen", hide_env_values = true)]
    pub(crate) cors_origins: Vec<String>,
}

/// Which broker carries the tasks to do.
#[cfg(feature = "embedded")]
pub(crate) use piecework_server::config::BrokerOptions as BrokerArgs;

/// There is no coordinator that could use one.
#[cfg(not(feature = "embedded"))]
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct BrokerArgs {}

#[cfg(feature = "embedded")]
mod rabbitmq;
#[cfg(feature = "embedded")]
pub(crate) use rabbitmq::{RabbitMqArgs, RabbitMqContainer};
#[cfg(not(feature = "embedded"))]
pub(crate) use without::{RabbitMqArgs, RabbitMqContainer};

/// Where to start, and how.
#[derive(Clone, Debug)]
pub(crate) struct EmbeddedConfig {
    pub(crate) data: PathBuf,
    /// None means the one in the data directory.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) listen: ListenArgs,
    pub(crate) broker: BrokerArgs,
    /// The agent's name; none means the host's.
    pub(crate) name: Option<String>,
    pub(crate) args: EmbeddedArgs,
    /// What is logged to stderr unless `PIECEWORK_LOG` says otherwise.
    pub(crate) log: &'static str,
}

#[cfg(feature = "embedded")]
pub(crate) mod fleet;
#[cfg(feature = "embedded")]
pub(crate) mod part;
#[cfg(feature = "embedded")]
pub(crate) use with::Embedded;
#[cfg(not(feature = "embedded"))]
pub(crate) use without::Embedded;

#[cfg(feature = "embedded")]
mod with {
    use super::{Context, EmbeddedConfig, RuntimeArg, SocketAddr};
    use crate::{error::CliError, exit_code, output::LogWriter};
    use piecework_agent::{Agent, AgentConfig, RuntimeChoice, runtime::RuntimeKind};
    use piecework_proto::address::Address;
    use piecework_server::{AGENT_LIFE_DEFAULT, ListenConfig, Server, ServerConfig, StartError};
    use std::{collections::BTreeMap, path::Path, sync::Arc};
    use tracing_subscriber::EnvFilter;

    /// A running coordinator and its agent.
    #[derive(Debug)]
    pub(crate) struct Embedded {
        server: Server,
        agent: Agent,
    }

    impl Embedded {
        /// Starts both. None if another coordinator holds the data directory.
        pub(crate) async fn start(
            context: &Context,
            config: EmbeddedConfig,
        ) -> Result<Option<Self>, CliError> {
            let EmbeddedConfig { data, socket, listen, broker, name, args, log } = config;
            log_to_stderr(context, log);
            let listen = listen.listen.map(|address| ListenConfig {
                address,
                names: listen.tls_names,
                certificate: None,
                agent_life: AGENT_LIFE_DEFAULT,
                cors_origins: listen.cors_origins,
            });
            let broker = broker.config(std::env::args());
            let broker = broker.map_err(|error| CliError::new(exit_code::BAD_INPUT, error.to_string()))?;
            let server = ServerConfig { socket, listen, broker, ..ServerConfig::new(data.clone()) };
            let server = match Box::pin(Server::start(server)).await {
                Ok(server) => server,
                Err(StartError::Locked(_)) => return Ok(None),
                Err(error) => return Err(not_started("the coordinator", &error)),
            };
            let agent = AgentConfig {
                data: data.join("agent"),
                server: Address::Socket(server.socket().to_owned()),
                join: None,
                name,
                slots: args.slots,
                cpus_milli: None,
                memory_bytes: None,
                runtime: match args.runtime {
                    RuntimeArg::Auto => RuntimeChoice::Auto,
                    RuntimeArg::Docker => RuntimeChoice::Docker,
                    RuntimeArg::Process => RuntimeChoice::Process,
                },
                labels: BTreeMap::new(),
            };
            match Agent::start(agent).await {
                Ok(agent) => Ok(Some(Self { server, agent })),
                Err(error) => {
                    server.shutdown().await;
                    Err(not_started("the agent", &error))
                }
            }
        }

        /// Where the coordinator listens.
        pub(crate) fn socket(&self) -> &Path {
            self.server.socket()
        }

        /// Where it listens on TCP, if it does.
        pub(crate) fn listen(&self) -> Option<SocketAddr> {
            self.server.address()
        }

        /// What tasks run in.
        pub(crate) fn runtime(&self) -> &'static str {
            match self.agent.runtime() {
                RuntimeKind::Docker => "docker",
                RuntimeKind::Process => "process",
                RuntimeKind::Scripted => "scripted",
            }
        }

        /// Why that is not Docker, if it was to be chosen.
        pub(crate) fn why_not_docker(&self) -> Option<&str> {
            self.agent.why_not_docker()
        }

        /// Waits until one of them can't go on.
        pub(crate) async fn failed(&mut self) -> CliError {
            let (what, why) = tokio::select! {
                why = self.server.failed() => ("the coordinator", why),
                why = self.agent.failed() => ("the agent", why.to_string()),
            };
            CliError::new(exit_code::REFUSED, format!("{what} in this process failed"))
                .cause(why)
                .hint("what was submitted is safe: start it again with `piecework up`")
        }

        /// Stops both; what runs is killed and handed back.
        pub(crate) async fn shutdown(self) {
            self.agent.shutdown().await;
            self.server.shutdown().await;
        }
    }

    pub(super) fn not_started(what: &str, error: &dyn std::error::Error) -> CliError {
        CliError::new(exit_code::LOCAL_FAILURE, format!("{what} can't be started")).cause(error)
    }

    pub(super) fn log_to_stderr(context: &Context, default: &str) {
        let filter = EnvFilter::try_from_env("PIECEWORK_LOG")
            .unwrap_or_else(|_| EnvFilter::new(format!("{default},lapin=off")));
        let screen = Arc::clone(&context.screen);
        // It fails only if there is a subscriber already.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(move || LogWriter(Arc::clone(&screen)))
            .try_init();
    }
}

#[cfg(not(feature = "embedded"))]
mod without {
    use super::{BrokerArgs, Context, EmbeddedConfig, SocketAddr};
    use crate::{error::CliError, exit_code};
    use std::path::Path;

    /// There is no coordinator that could use one.
    #[derive(Clone, Debug, Default, clap::Args)]
    pub(crate) struct RabbitMqArgs {}

    /// Never there.
    #[derive(Debug)]
    pub(crate) enum RabbitMqContainer {}

    impl RabbitMqContainer {
        pub(crate) async fn start(
            _context: &Context,
            _data: &Path,
            _args: &RabbitMqArgs,
        ) -> Result<Option<Self>, CliError> {
            Ok(None)
        }

        pub(crate) fn url(&self) -> String {
            match *self {}
        }

        pub(crate) fn password_file(&self) -> &Path {
            match *self {}
        }

        pub(crate) fn broker(&self) -> BrokerArgs {
            match *self {}
        }

        pub(crate) async fn give_up(self, _context: &Context) {
            match self {}
        }

        pub(crate) async fn stop(self, _context: &Context) {
            match self {}
        }
    }

    /// Never there: this program was built without coordinator and agent.
    #[derive(Debug)]
    pub(crate) enum Embedded {}

    impl Embedded {
        pub(crate) async fn start(
            _context: &Context,
            config: EmbeddedConfig,
        ) -> Result<Option<Self>, CliError> {
            let EmbeddedConfig { data, socket, listen, broker, name, args, log } = config;
            drop((
                broker,
                data,
                socket,
                listen.listen,
                listen.tls_names,
                listen.cors_origins,
                name,
                args.slots,
                args.runtime,
                log,
            ));
            Err(CliError::new(
                exit_code::LOCAL_FAILURE,
                "this piecework was built without coordinator and agent",
            )
            .hint("start `piecework-server` and `piecework-agent`, or build with the feature `embedded`"))
        }

        pub(crate) fn socket(&self) -> &Path {
            match *self {}
        }

        pub(crate) fn listen(&self) -> Option<SocketAddr> {
            match *self {}
        }

        pub(crate) fn runtime(&self) -> &'static str {
            match *self {}
        }

        pub(crate) fn why_not_docker(&self) -> Option<&str> {
            match *self {}
        }

        pub(crate) async fn failed(&mut self) -> CliError {
            match *self {}
        }

        pub(crate) async fn shutdown(self) {
            match self {}
        }
    }
}

/// What to say when tasks do not run in Docker because it is missing.
pub(crate) fn docker_is_missing(why: &str) -> String {
    format!(
        "Docker can't be used ({}): tasks run as plain processes of this machine",
        crate::output::human::one_line(why)
    )
}

/// Starts a coordinator and an agent that must be the only ones on their data directory.
pub(crate) async fn start_alone(context: &Context, config: EmbeddedConfig) -> Result<Embedded, CliError> {
    let data = config.data.clone();
    Embedded::start(context, config).await?.ok_or_else(|| {
        another_is_running(exit_code::LOCAL_FAILURE, &data)
            .hint("use that one, stop it, or choose another directory with `--data`")
    })
}

/// Another coordinator holds the data directory.
pub(crate) fn another_is_running(exit_code: u8, data: &Path) -> CliError {
    CliError::new(exit_code, format!("another coordinator is running on {}", data.display()))
}

/// Stops both, unless the user has interrupted this often before it is done.
pub(crate) async fn shutdown(context: &Context, embedded: Embedded, interruptions: u32) {
    tokio::select! {
        biased;
        () = embedded.shutdown() => {}
        () = context.interrupts.at_least(interruptions) => context.screen.note(
            "tasks may still be running: the next start on this data directory adopts or removes them",
        ),
    }
}
