//! The `piecework-server` program: options, logging, start, signals, stop.

use clap::Parser as _;
use piecework_server::{Server, config::Options, open_files, telemetry};
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// It ended because it could not go on.
const EXIT_FAILED: u8 = 1;
/// It could not start. (Wrong options are 2, by clap.)
const EXIT_NOT_STARTED: u8 = 3;
/// A second signal cut the graceful stop short.
const EXIT_HURRIED: i32 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    telemetry::start();
    open_files::raise();
    let (mut signals, mut server) = match start(options).await {
        Ok(started) => started,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(EXIT_NOT_STARTED);
        }
    };
    let code = tokio::select! {
        () = signals.next() => ExitCode::SUCCESS,
        why = server.failed() => {
            tracing::error!("{why}");
            ExitCode::from(EXIT_FAILED)
        }
    };
    tokio::select! {
        () = server.shutdown() => code,
        // Not by returning: that would wait for what still runs.
        () = signals.next() => std::process::exit(EXIT_HURRIED),
    }
}

async fn start(options: Options) -> Result<(Signals, Server), Box<dyn std::error::Error>> {
    // Before the start, so that a signal during a slow one is not lost.
    let signals = Signals::new()?;
    Ok((signals, Server::start(options.try_into()?).await?))
}

/// The signals that ask the program to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
