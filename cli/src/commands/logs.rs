//! `piecework logs`

use crate::{
    client::Client,
    context::Context,
    error::CliError,
    output::json::{DataCutter, Line, LogBytes},
};
use bytes::Bytes;
use piecework_proto::v1;
use std::io::Write;

/// Print what one task has printed.
///
/// Its stdout goes to stdout and its stderr to stderr. If only one of them is asked for, that one goes to stdout.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The project's number, or its name, which means the newest of that name.
    project: String,
    /// The task's index, from 0.
    #[arg(
        required_unless_present = "phase",
        default_value_if("phase", clap::builder::ArgPredicate::IsPresent, Some("0"))
    )]
    index: Option<u32>,
    /// Only what it printed on stdout.
    #[arg(long)]
    stdout: bool,
    /// Only what it printed on stderr.
    #[arg(long, conflicts_with = "stdout")]
    stderr: bool,
    /// Which attempt, from 1. Without it: the last one.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// The part of the project that the task belongs to.
    #[arg(long)]
    phase: Option<PhaseArg>,
    /// Wait for the task to end, and print what it prints meanwhile.
    #[arg(short, long)]
    follow: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PhaseArg {
    /// The task that made the items.
    Split,
    /// The tasks of the items.
    Task,
    /// The task that made the result.
    Reassemble,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    let streams = match (args.stdout, args.stderr) {
        (true, _) => vec![v1::OutputStream::Stdout],
        (_, true) => vec![v1::OutputStream::Stderr],
        _ => Vec::new(),
    };
    let request = v1::LogsRequest {
        project: args.project,
        phase: i32::from(match args.phase {
            None | Some(PhaseArg::Task) => v1::Phase::Task,
            Some(PhaseArg::Split) => v1::Phase::Split,
            Some(PhaseArg::Reassemble) => v1::Phase::Reassemble,
        }),
        index: args.index.unwrap_or_default(),
        attempt: args.attempt.unwrap_or_default(),
        streams: streams.iter().map(|stream| i32::from(*stream)).collect(),
        follow: args.follow,
    };
    print(context, &client, request, args.stderr).await
}

async fn print(
    context: &Context,
    client: &Client,
    request: v1::LogsRequest,
    only_stderr: bool,
) -> Result<(), CliError> {
    let mut chunks = client.logs(request).await?;
    let (mut stdout, mut stderr) = (DataCutter::default(), DataCutter::default());
    while let Some(chunk) = chunks.message().await.map_err(crate::client::ClientError::from)? {
        let is_stderr = chunk.stream() == v1::OutputStream::Stderr;
        if context.is_json() {
            let cutter = if is_stderr { &mut stderr } else { &mut stdout };
            log(context, is_stderr, cutter.cut(&chunk.data)).await?;
        } else if is_stderr && !only_stderr {
            write_stderr(chunk.data).await;
        } else {
            context.screen.bytes(chunk.data).await?;
        }
    }
    log(context, false, stdout.finish()).await?;
    log(context, true, stderr.finish()).await
}

async fn log(
    context: &Context,
    is_stderr: bool,
    data: Option<crate::output::json::Data>,
) -> Result<(), CliError> {
    let Some(data) = data else { return Ok(()) };
    let stream = if is_stderr { "stderr" } else { "stdout" }.to_owned();
    context.screen.json(&Line::Log(LogBytes { stream, data })).await
}

/// The task's own bytes, unchanged.
async fn write_stderr(bytes: Bytes) {
    let written = tokio::task::spawn_blocking(move || std::io::stderr().write_all(&bytes)).await;
    // Nothing can be done about a stderr that can't be written.
    drop(written);
}
