//! `piecework dead-letters`

use crate::{
    context::Context,
    error::CliError,
    output::{human, json},
};
use piecework_proto::v1;

/// How many characters of a message `ls` shows.
const SHOWN_CHARS: usize = 60;

/// List messages of the broker that were refused, and replay or remove them.
///
/// With `--broker`, the coordinator puts aside what comes into its queues and can't be understood or done, such as tasks for a project
/// that is not there. Nothing is lost by that: once the cause is gone, the messages can be replayed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List them, oldest first.
    Ls {
        /// List at most this many.
        #[arg(short = 'n', long, value_name = "NUMBER", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Put them back into the queues that they were in, to be looked at again.
    Replay(Chosen),
    /// Remove them for good.
    Rm(Chosen),
}

#[derive(Debug, clap::Args)]
struct Chosen {
    /// Their ids, as `ls` shows them.
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ID")]
    ids: Vec<String>,
    /// All that there are.
    #[arg(long)]
    all: bool,
}

impl From<Chosen> for v1::ChosenDeadLetters {
    fn from(Chosen { ids, all }: Chosen) -> Self {
        Self { ids, all }
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    match args.command {
        Command::Ls { limit } => {
            let letters = client.dead_letters(limit).await?;
            if context.is_json() {
                let letters = letters.iter().map(json::DeadLetter::from).collect();
                return context.screen.json(&json::DeadLetters { letters }).await;
            }
            if letters.is_empty() {
                context.screen.note("no message was refused");
            }
            let rows = letters.iter().map(row).collect();
            context
                .screen
                .print(human::table(&["ID", "QUEUE", "REFUSED", "BYTES", "REASON", "MESSAGE"], rows))
                .await
        }
        Command::Replay(chosen) => {
            let (named, count) = (chosen.ids.len(), client.replay_dead_letters(chosen.into()).await?);
            tell(context, "replayed", named, count).await
        }
        Command::Rm(chosen) => {
            let (named, count) = (chosen.ids.len(), client.drop_dead_letters(chosen.into()).await?);
            tell(context, "removed", named, count).await
        }
    }
}

/// What was done with how many; `named` is 0 if all were meant.
async fn tell(context: &Context, done: &str, named: usize, count: u32) -> Result<(), CliError> {
    let missing = named.saturating_sub(count as usize);
    let messages = if count == 1 { "message" } else { "messages" };
    context.screen.note(&format!("{count} {messages} {done}"));
    if missing > 0 {
        context.screen.note(&format!("{missing} of those that were named are not there"));
    }
    if context.is_json() {
        context.screen.json(&json::TreatedDeadLetters { count }).await?;
    }
    Ok(())
}

fn row(letter: &v1::DeadLetter) -> Vec<String> {
    let text = String::from_utf8_lossy(&letter.beginning);
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if letter.bytes > shown.len() as u64 {
        shown.push('…');
    }
    let refused = match letter.refused_millis {
        0 => "-".to_owned(),
        millis => human::ago(millis),
    };
    let bytes = letter.bytes.to_string();
    vec![letter.id.clone(), letter.queue.clone(), refused, bytes, letter.reason.clone(), shown]
}
