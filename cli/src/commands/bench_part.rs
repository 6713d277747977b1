//! `piecework bench-part`: what `bench` starts as processes of their own.

use crate::{
    context::Context,
    embedded::{
        BrokerArgs, fleet,
        part::{self, PartRuntime},
    },
    error::CliError,
    exit_code,
};
use piecework_proto::{address::Address, token::Token};
use std::{fs, path::PathBuf};

/// Run the coordinator or the agents of a measurement, until stdin ends.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// The coordinator, on the data directory of `--data`.
    Coordinator {
        /// Listens on TCP, too: on a free port of this machine alone.
        #[arg(long)]
        listen: bool,
        /// Uses the RabbitMQ of PIECEWORK_BROKER.
        #[arg(long)]
        rabbitmq: bool,
        #[command(flatten)]
        broker: BrokerArgs,
    },
    /// The agent, on the data directory of `--data`, for the coordinator of `--server`.
    Agent {
        /// How many tasks run at a time.
        #[arg(long)]
        slots: u32,
        /// What tasks run in.
        #[arg(long)]
        runtime: PartRuntime,
        /// A file with a token to join with.
        #[arg(long)]
        join_file: Option<PathBuf>,
    },
    /// Many agents, each on a directory of its own below `--data`, for the coordinator of `--server`. Their tasks end as their
    /// command says.
    Fleet {
        /// How many.
        #[arg(long)]
        agents: u32,
        /// How many tasks each of them runs at a time.
        #[arg(long)]
        slots: u32,
        /// A file with a token to join with.
        #[arg(long)]
        join_file: PathBuf,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    match args.part {
        Part::Coordinator { listen, rabbitmq, broker } => {
            let broker = if rabbitmq { broker } else { BrokerArgs::default() };
            part::coordinator(context, context.data()?, listen, broker).await
        }
        Part::Agent { slots, runtime, join_file } => {
            let join = join_file.map(token_in).transpose()?;
            part::agent(context, context.data()?, server(context)?, join, slots, runtime).await
        }
        Part::Fleet { agents, slots, join_file } => {
            let join = token_in(join_file)?;
            fleet::run(context, context.data()?, server(context)?, join, agents, slots).await
        }
    }
}

fn server(context: &Context) -> Result<Address, CliError> {
    let missing = || CliError::new(exit_code::BAD_INPUT, "agents need --server");
    context.server().cloned().ok_or_else(missing)
}

fn token_in(path: PathBuf) -> Result<Token, CliError> {
    let text = fs::read_to_string(&path).map_err(|error| CliError::file("read", &path, &error))?;
    let none = |error| CliError::new(exit_code::BAD_INPUT, "there is no usable token").cause(error);
    text.parse().map_err(none)
}
