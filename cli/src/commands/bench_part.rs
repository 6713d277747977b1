//! `piecework bench-part`: what `bench` starts as processes of their own.

use crate::{
    context::Context,
    embedded::part::{self, PartRuntime},
    error::CliError,
};

/// Run the coordinator or the agent of a measurement, until stdin ends.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// The coordinator, on the data directory of `--data`.
    Coordinator,
    /// The agent, on the data directory of `--data`, for the coordinator of `--server`.
    Agent {
        /// How many tasks run at a time.
        #[arg(long)]
        slots: u32,
        /// What tasks run in.
        #[arg(long)]
        runtime: PartRuntime,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    match args.part {
        Part::Coordinator => part::coordinator(context, context.data()?).await,
        Part::Agent { slots, runtime } => {
            part::agent(context, context.data()?, context.target()?.address, slots, runtime).await
        }
    }
}
