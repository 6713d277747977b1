//! `piecework bench`

use crate::{
    bench::{
        self, AGENTS_DEFAULT, BOARD_DEFAULT, IDLE_SECS_DEFAULT, Name, OUTPUT_MIB_DEFAULT, Options,
        ROUNDS_DEFAULT, SLOTS_DEFAULT,
    },
    context::Context,
    embedded::RuntimeArg,
    error::CliError,
    exit_code,
};
use clap::value_parser;
use std::{env, path::PathBuf};

/// Where the RabbitMQ of `broker` is.
const BROKER_VARIABLE: &str = "PIECEWORK_BROKER";

/// Measure piecework on this machine, each figure in turn with what it is compared to.
///
/// A coordinator and an agent are started for it, as processes of their own on a new data directory, and stopped again; a
/// coordinator that is running is not touched. Everything that was made is removed at the end: data, workers, containers,
/// and the image, which holds programs of this machine. What can't be measured here is left out, and said so.
/// `broker` needs a RabbitMQ, whose URL PIECEWORK_BROKER has. docs/benchmarks.md explains each measurement. The machine should have nothing else to do meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure. Without it: everything.
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
    /// How often each side is measured, in turn.
    #[arg(long, value_name = "NUMBER", default_value_t = ROUNDS_DEFAULT, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many tasks (or items, or repetitions) a measurement has, instead of its own number.
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u32).range(1..=10_000_000))]
    tasks: Option<u32>,
    /// How many tasks run at a time, on both sides.
    #[arg(long, value_name = "NUMBER", default_value_t = SLOTS_DEFAULT, value_parser = value_parser!(u32).range(1..=1024))]
    slots: u32,
    /// How much the task of `output` prints, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = OUTPUT_MIB_DEFAULT, value_parser = value_parser!(u32).range(1..=8192))]
    output_mib: u32,
    /// The board of `queens`.
    #[arg(long, value_name = "N", default_value_t = BOARD_DEFAULT, value_parser = value_parser!(u32).range(4..=20))]
    board: u32,
    /// How many agents `fleet` has.
    #[arg(long, value_name = "NUMBER", default_value_t = AGENTS_DEFAULT, value_parser = value_parser!(u32).range(1..=5000))]
    agents: u32,
    /// How long `fleet` looks at agents that have nothing to do, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = IDLE_SECS_DEFAULT, value_parser = value_parser!(u32).range(1..=3600))]
    idle_secs: u32,
    /// What tasks run in.
    #[arg(long, value_name = "RUNTIME", default_value = "auto")]
    runtime: RuntimeArg,
    /// Where the data are kept meanwhile: a directory on the disk that is to be measured.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let Args { names, rounds, tasks, slots, output_mib, board, agents, idle_secs, runtime, dir } = args;
    let broker = env::var(BROKER_VARIABLE).ok().filter(|url| !url.is_empty());
    let options =
        Options { names, rounds, tasks, slots, output_mib, board, agents, idle_secs, runtime, dir, broker };
    let report = Box::pin(bench::run(context, options)).await?;
    if context.is_json() {
        context.screen.json(&report).await?;
    } else {
        context.screen.print(report.table()).await?;
    }
    if report.failed.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = report.failed.iter().map(|failed| failed.name.as_str()).collect();
    let heading = format!("could not be measured: {}", names.join(", "));
    let error = CliError::new(exit_code::LOCAL_FAILURE, heading);
    Err(report.failed.iter().fold(error, |error, failed| error.cause(&failed.why)))
}
