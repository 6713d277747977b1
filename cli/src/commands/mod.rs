//! The commands, one file each. Their doc comments are the help.

mod add;
mod agents;
#[cfg(feature = "embedded")]
mod bench;
#[cfg(feature = "embedded")]
mod bench_part;
mod cancel;
mod completions;
mod dead_letters;
mod lines;
mod logs;
mod ls;
pub(crate) mod new;
mod queues;
mod results;
mod run;
mod show;
mod submit;
mod tasks;
mod tokens;
mod up;
mod watch;

use crate::{context::Context, error::CliError};

/// One command with its arguments.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Up(up::Args),
    Run(run::Args),
    Submit(submit::Args),
    Add(add::Args),
    Watch(watch::Args),
    Results(results::Args),
    Logs(logs::Args),
    Ls(ls::Args),
    Show(show::Args),
    Tasks(tasks::Args),
    Cancel(cancel::Args),
    Agents(agents::Args),
    Tokens(tokens::Args),
    Queues(queues::Args),
    DeadLetters(dead_letters::Args),
    New(new::Args),
    #[cfg(feature = "embedded")]
    Bench(bench::Args),
    #[cfg(feature = "embedded")]
    BenchPart(bench_part::Args),
    Completions(completions::Args),
}

impl Command {
    /// Whether the command ends by itself, in good order, when the user interrupts it.
    pub(crate) const fn ends_by_itself_when_interrupted(&self) -> bool {
        match self {
            Self::Up(_) | Self::Run(_) => true,
            #[cfg(feature = "embedded")]
            Self::Bench(_) | Self::BenchPart(_) => true,
            _ => false,
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Up(args) => Box::pin(up::run(context, args)).await,
            Self::Run(args) => Box::pin(run::run(context, args)).await,
            Self::Submit(args) => Box::pin(submit::run(context, args)).await,
            Self::Add(args) => Box::pin(add::run(context, args)).await,
            Self::Watch(args) => Box::pin(watch::run(context, args)).await,
            Self::Results(args) => Box::pin(results::run(context, args)).await,
            Self::Logs(args) => Box::pin(logs::run(context, args)).await,
            Self::Ls(args) => Box::pin(ls::run(context, args)).await,
            Self::Tasks(args) => Box::pin(tasks::run(context, args)).await,
            Self::Show(args) => Box::pin(show::run(context, args)).await,
            Self::Cancel(args) => Box::pin(cancel::run(context, args)).await,
            Self::Agents(args) => Box::pin(agents::run(context, args)).await,
            #[cfg(feature = "embedded")]
            Self::Bench(args) => Box::pin(bench::run(context, args)).await,
            #[cfg(feature = "embedded")]
            Self::BenchPart(args) => Box::pin(bench_part::run(context, args)).await,
            Self::Tokens(args) => Box::pin(tokens::run(context, args)).await,
            Self::Queues(args) => Box::pin(queues::run(context, args)).await,
            Self::DeadLetters(args) => Box::pin(dead_letters::run(context, args)).await,
            Self::New(args) => Box::pin(new::run(context, &args)).await,
            Self::Completions(args) => Box::pin(completions::run(context, &args)).await,
        }
    }
}
