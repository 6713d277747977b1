//! `piecework completions`

use crate::{context::Context, error::CliError};
use clap::CommandFactory;
use clap_complete::{Shell, generate};

/// Print a script that completes commands and options in a shell.
///
/// For bash, write it to `~/.local/share/bash-completion/completions/piecework`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let mut script = Vec::new();
    generate(args.shell, &mut crate::args::Args::command(), "piecework", &mut script);
    context.screen.print(String::from_utf8_lossy(&script).into_owned()).await
}
