//! `piecework results`

use crate::{
    client::has_ended,
    context::Context,
    error::CliError,
    follow::{self, Sink},
    output::{human, json::Line},
};
use std::path::PathBuf;

/// Print the result of a project.
///
/// The result comes in task order, as far as it is known, and goes on until the project ends. The exit code tells whether
/// it succeeded.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The project's number, or its name, which means the newest of that name.
    project: String,
    /// Write the result into this file instead of stdout.
    #[arg(short = 'o', long = "to", value_name = "FILE")]
    to: Option<PathBuf>,
    /// Print what there is, and end.
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    let project = client.project(&args.project).await?;
    let sink = match args.to {
        None => Sink::Stdout,
        Some(path) => Sink::file(path).await?,
    };
    let project = follow::results(context, &client, project.id, args.no_wait, sink).await?;
    if context.is_json() {
        context.screen.json(&Line::Project((&project).into())).await?;
    }
    if !has_ended(&project) {
        let state = human::project_state(project.state());
        context.screen.note(&format!("project {} is still {state}: the result may go on", project.id));
        return Ok(());
    }
    follow::verdict(&project)
}
