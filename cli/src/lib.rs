//! The command line of Piecework: parses arguments, runs one command, and turns its end into an exit code.
//!
//! [`project_file`] reads what is submitted, [`client`] talks to the coordinator, [`output`] is what users and scripts read,
//! and [`error`] and [`exit_code`] are how it ends.

mod args;
#[cfg(feature = "embedded")]
mod bench;
pub mod client;
mod commands;
mod context;
mod embedded;
pub mod error;
pub mod exit_code;
mod failures;
mod follow;
pub mod manual;
pub mod output;
pub mod project_file;
mod session;

use clap::Parser;
use context::Context;
use error::CliError;
use std::{process::ExitCode, time::Duration};

/// How long what still runs in the background may hold up the end.
const SHUTDOWN_MAX: Duration = Duration::from_millis(200);

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let args = args::Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = CliError::new(exit_code::LOCAL_FAILURE, "can't start").cause(error);
            error.print();
            return ExitCode::from(error.exit_code());
        }
    };
    let ended = runtime.block_on(Box::pin(run(args)));
    // A write to a stuck stdout, say, must not keep the program from ending.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    match ended {
        Ok(()) => ExitCode::from(exit_code::OK),
        Err(error) => {
            error.print();
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(args: args::Args) -> Result<(), CliError> {
    let context = Context::new(args.global)?;
    let interrupts = context.interrupts.clone();
    let own_end = args.command.ends_by_itself_when_interrupted();
    tokio::select! {
        ended = args.command.run(&context) => ended,
        () = interrupts.at_least(1), if !own_end => Err(CliError::quiet(exit_code::INTERRUPTED)),
    }
}
