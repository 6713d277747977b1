//! `piecework watch`

use crate::{context::Context, error::CliError, follow};

/// Show the progress of a project until it ends.
///
/// The exit code tells whether it succeeded.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The project's number, or its name, which means the newest of that name.
    project: String,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    let project = client.project(&args.project).await?;
    follow::verdict(&follow::watch(context, &client, &project).await?)
}
