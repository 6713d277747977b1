//! The command line: what all commands share, and which commands there are.

use crate::{commands::Command, output::Format};
use clap::Parser;
use piecework_proto::address::Address;
use std::path::PathBuf;

/// Code on demand for your own Docker hosts: runs one command over many items, in containers, and gives the results back
/// in order.
#[derive(Debug, Parser)]
#[command(name = "piecework", version, max_term_width = 100, after_long_help = after_help(), subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What all commands share.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// The coordinator: the path of its socket, or https://HOST:PORT. Without it: `piecework.sock` in the data directory.
    #[arg(long, global = true, env = "PIECEWORK_SERVER", value_name = "ADDRESS", hide_env_values = true)]
    pub(crate) server: Option<Address>,
    /// A file with the token for a coordinator at https://HOST:PORT. Without it: the variable PIECEWORK_TOKEN has the token.
    #[arg(long, global = true, env = "PIECEWORK_TOKEN_FILE", value_name = "FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// The data directory of the coordinator on this machine. Without it: `piecework` where the user's data are kept
    /// (`$XDG_DATA_HOME`, else `~/.local/share`).
    #[arg(long, global = true, env = "PIECEWORK_DATA", value_name = "DIR", hide_env_values = true)]
    pub(crate) data: Option<PathBuf>,
    /// How data are written to stdout. Errors, notes and progress always go to stderr, for people.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    pub(crate) output: Format,
    /// Leave out notes and progress; errors stay.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

fn after_help() -> String {
    let codes: Vec<String> =
        crate::exit_code::ALL.iter().map(|(code, meaning)| format!("  {code:>3}  {meaning}")).collect();
    format!(
        "Exit codes:\n{}\n\nA first project: `piecework new queens`, then `piecework run queens/queens.yaml`.",
        codes.join("\n")
    )
}
