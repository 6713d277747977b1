//! What `piecework bench` measures, and the way there: a place with everything that the measurements need, one after the
//! other in it, and nothing left of it at the end, however it comes.

mod behind;
mod broker;
mod control;
mod cpu;
mod docker;
mod error;
mod fleet;
mod fresh;
mod host;
mod latency;
mod memory;
mod output;
mod parts;
mod place;
mod project;
mod queens;
mod spawn;
mod submit;
mod tls;

use crate::{
    context::Context,
    embedded::RuntimeArg,
    error::CliError,
    exit_code,
    output::bench::{Bench, BenchRow, BenchWhy},
};
use clap::ValueEnum;
use error::BenchError;
use place::{Needs, Place};
use std::path::PathBuf;

/// How long one run of either side may take, in seconds.
const RUN_SECS_MAX: u64 = 3600;

pub(crate) const ROUNDS_DEFAULT: u32 = 3;
pub(crate) const SLOTS_DEFAULT: u32 = 2;
pub(crate) const OUTPUT_MIB_DEFAULT: u32 = 1024;
pub(crate) const BOARD_DEFAULT: u32 = 15;
pub(crate) const AGENTS_DEFAULT: u32 = 1000;
pub(crate) const IDLE_SECS_DEFAULT: u32 = 30;

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// Tasks that do nothing, against `xargs` on this machine.
    Spawn,
    /// Coordinator and agent alone, with tasks that end at once.
    Control,
    /// A submission of very many items, against bare SQLite; and the coordinator's memory.
    Submit,
    /// One task from submission to result, against `docker exec`.
    Latency,
    /// Tasks with a new container each, against `docker run`.
    Fresh,
    /// One task that prints very much, against `docker run | cat`; and memory.
    Output,
    /// Tasks that compute, against the bare solver.
    Queens,
    /// Coordinator and agent over TCP with TLS, against the Unix socket.
    Tls,
    /// A small project behind a large one.
    Behind,
    /// One coordinator with very many agents, against one agent.
    Fleet,
    /// Coordinator and agent with RabbitMQ between them, against a bare program that does as much with it.
    Broker,
}

/// What is to be measured, and how.
pub(crate) struct Options {
    /// None means all.
    pub(crate) names: Vec<Name>,
    pub(crate) rounds: u32,
    pub(crate) tasks: Option<u32>,
    pub(crate) slots: u32,
    pub(crate) output_mib: u32,
    pub(crate) board: u32,
    pub(crate) agents: u32,
    pub(crate) idle_secs: u32,
    pub(crate) runtime: RuntimeArg,
    pub(crate) dir: PathBuf,
    /// The URL of a RabbitMQ, perhaps with its password.
    pub(crate) broker: Option<String>,
}

impl Name {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What it can't do without.
    const fn needs(self) -> Needs {
        match self {
            Self::Control | Self::Submit | Self::Tls | Self::Behind | Self::Fleet => Needs::Nothing,
            Self::Spawn | Self::Output | Self::Queens => Needs::Programs,
            Self::Latency | Self::Fresh => Needs::Docker,
            Self::Broker => Needs::RabbitMq,
        }
    }

    async fn measure(self, place: &Place<'_>) -> Result<Vec<BenchRow>, BenchError> {
        match self {
            Self::Spawn => Box::pin(spawn::measure(place)).await,
            Self::Control => Box::pin(control::measure(place)).await,
            Self::Submit => Box::pin(submit::measure(place)).await,
            Self::Latency => Box::pin(latency::measure(place)).await,
            Self::Fresh => Box::pin(fresh::measure(place)).await,
            Self::Output => Box::pin(output::measure(place)).await,
            Self::Queens => Box::pin(queens::measure(place)).await,
            Self::Tls => Box::pin(tls::measure(place)).await,
            Self::Behind => Box::pin(behind::measure(place)).await,
            Self::Fleet => Box::pin(fleet::measure(place)).await,
            Self::Broker => Box::pin(broker::measure(place)).await,
        }
    }
}

/// Measures what is asked for, and tidies up.
pub(crate) async fn run(context: &Context, mut options: Options) -> Result<Bench, CliError> {
    if options.names.is_empty() {
        options.names = Name::value_variants().to_vec();
    }
    let failed = |error| CliError::new(exit_code::LOCAL_FAILURE, "can't measure").cause(error);
    let mut place = Place::new(context, options).map_err(failed)?;
    let measured = async {
        let left_out = place.furnish().await.map_err(failed)?;
        Ok(measure_all(&place, left_out).await)
    };
    let measured = tokio::select! {
        measured = Box::pin(measured) => measured,
        () = context.interrupts.at_least(1) => {
            context.screen.note("tidying up; once more ends at once");
            Err(CliError::quiet(exit_code::INTERRUPTED))
        }
    };
    tokio::select! {
        () = place.clear() => {}
        () = context.interrupts.at_least(2) => {}
    }
    measured
}

async fn measure_all(place: &Place<'_>, left_out: Vec<BenchWhy>) -> Bench {
    let mut bench = Bench {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: place.machine(),
        slots: place.options.slots,
        rounds: place.options.rounds,
        rows: Vec::new(),
        left_out,
        failed: Vec::new(),
    };
    for name in &place.options.names {
        if bench.left_out.iter().any(|left_out| left_out.name == name.name()) {
            continue;
        }
        place.say(&name.name());
        let measured = tokio::select! {
            measured = name.measure(place) => measured,
            error = place.parts.failed() => Err(error),
        };
        // Also after a failure: the next measurement begins with nothing.
        place.parts.stop().await;
        match measured {
            Ok(rows) => bench.rows.extend(rows),
            Err(error) => bench.failed.push(BenchWhy { name: name.name(), why: error.to_string() }),
        }
    }
    bench
}
