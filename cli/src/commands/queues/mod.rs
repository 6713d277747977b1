//! `piecework queues`

mod receive;
mod send;

use crate::{
    client::Client,
    context::Context,
    error::CliError,
    exit_code,
    output::{
        human,
        json::{self, Removed},
    },
};
use piecework_proto::v1;
use std::time::Duration;

/// How many characters of a message `peek` shows.
const SHOWN_CHARS: usize = 60;
/// Most queues on a page, and most messages or receipts in a call.
const PAGE_MAX: u32 = 1000;

/// Named queues for anybody's messages, beside those that carry tasks.
///
/// A message that was sent is safe, and is delivered at least once. The coordinator carries them, or RabbitMQ does if it has one
/// (`--broker`).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a queue, unless it is there.
    Create {
        /// Its name: 1 to 128 letters, digits, `-`, `_` and `.`, which begins with neither `-` nor `.`.
        name: String,
    },
    /// List the queues, by name.
    #[command(visible_alias = "list")]
    Ls {
        /// List at most this many.
        #[arg(short = 'n', long, value_name = "NUMBER", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one queue.
    Show {
        /// Its name.
        name: String,
    },
    Send(send::Args),
    Receive(receive::Args),
    /// Acknowledge messages that were received with `--ack manual`: they are gone for good.
    Ack {
        /// The queue.
        queue: String,
        /// The receipts.
        #[arg(required = true, value_name = "RECEIPT")]
        receipts: Vec<String>,
    },
    /// Give back messages that were received with `--ack manual`.
    Nack {
        /// The queue.
        queue: String,
        /// The receipts.
        #[arg(required = true, value_name = "RECEIPT")]
        receipts: Vec<String>,
        /// Do not give them back, but hold them for this long from now on, such as `5m`: 100 ms to 20 min, and no more than 25 min
        /// since they were received.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        extend: Option<Duration>,
    },
    /// Show the oldest messages that wait in a queue, also in one of the system's, and leave them there.
    Peek {
        /// The queue.
        queue: String,
        /// Show at most this many.
        #[arg(short = 'n', long, value_name = "NUMBER", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE_MAX)))]
        limit: u32,
    },
    /// Remove all messages that wait in a queue. Those that are received and not yet acknowledged stay.
    Purge {
        /// The queue.
        queue: String,
    },
    /// Remove queues with all that is in them.
    #[command(visible_alias = "delete")]
    Rm {
        /// Their names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Only if nothing is in them, delivered or not.
        #[arg(long)]
        if_empty: bool,
        /// Only if nobody waits for their messages, and none is delivered and not yet acknowledged.
        #[arg(long)]
        if_unused: bool,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    match args.command {
        Command::Create { name } => {
            let (queue, is_new) = client.create_queue(&name).await?;
            if context.is_json() {
                let queue = json::Queue::from(&queue);
                return context.screen.json(&json::CreatedQueue { queue, is_new }).await;
            }
            context
                .screen
                .note(&format!("queue {name} {}", if is_new { "is made" } else { "is there already" }));
            Ok(())
        }
        Command::Ls { limit } => {
            let queues = all(&client, limit).await?;
            tell(context, &queues, async |queues| context.screen.json(&json::Queues { queues }).await).await
        }
        Command::Show { name } => {
            let queue = client.queue(&name).await?;
            tell(context, &[queue], async |mut queues| match queues.pop() {
                Some(queue) => context.screen.json(&queue).await,
                None => Ok(()),
            })
            .await
        }
        Command::Send(args) => send::run(context, &client, args).await,
        Command::Receive(args) => receive::run(context, &client, args).await,
        Command::Ack { queue, receipts } => {
            let settled = client.ack(&queue, receipts).await?;
            tell_settled(context, "acknowledged", settled.into()).await
        }
        Command::Nack { queue, receipts, extend } => {
            let done = if extend.is_some() { "held for longer" } else { "given back" };
            // 0 would give them back.
            let extend = extend.map_or(0, |time| millis(time).max(1));
            tell_settled(context, done, client.nack(&queue, receipts, extend).await?.into()).await
        }
        Command::Peek { queue, limit } => {
            let messages = client.peek(&queue, limit).await?;
            if context.is_json() {
                let messages = messages.into_iter().map(json::Message::from).collect();
                return context.screen.json(&json::Messages { messages }).await;
            }
            if messages.is_empty() {
                context.screen.note("no message waits");
            }
            let header = ["ID", "SENT", "DELIVERED", "BYTES", "TYPE", "MESSAGE"];
            context.screen.print(human::table(&header, messages.iter().map(message_row).collect())).await
        }
        Command::Purge { queue } => {
            let messages = client.purge(&queue).await?;
            context.screen.note(&format!("{} removed", human::count(messages, "message")));
            if context.is_json() {
                context.screen.json(&json::Purged { messages }).await?;
            }
            Ok(())
        }
        Command::Rm { names, if_empty, if_unused } => {
            for name in &names {
                let request = v1::DeleteQueueRequest { name: name.clone(), if_empty, if_unused };
                let messages = client.delete_queue(request).await?;
                let with = if messages == 0 {
                    String::new()
                } else {
                    format!(", with {}", human::count(messages, "message"))
                };
                context.screen.note(&format!("queue {name} is removed{with}"));
            }
            if context.is_json() {
                context.screen.json(&Removed { removed: names }).await?;
            }
            Ok(())
        }
    }
}

/// The first queues, page by page.
async fn all(client: &Client, limit: u32) -> Result<Vec<v1::Queue>, CliError> {
    let (mut queues, mut after) = (Vec::new(), String::new());
    loop {
        let left = limit.saturating_sub(u32::try_from(queues.len()).unwrap_or(u32::MAX));
        if left == 0 {
            return Ok(queues);
        }
        let page = client.list_queues(v1::ListQueuesRequest { limit: left.min(PAGE_MAX), after }).await?;
        queues.extend(page.queues);
        if page.next.is_empty() {
            return Ok(queues);
        }
        after = page.next;
    }
}

/// Writes queues as a table, or as JSON.
async fn tell(
    context: &Context,
    queues: &[v1::Queue],
    as_json: impl AsyncFnOnce(Vec<json::Queue>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    if context.is_json() {
        return as_json(queues.iter().map(json::Queue::from).collect()).await;
    }
    let header = ["NAME", "READY", "UNACKED", "CONSUMERS", "IN/S", "OUT/S", "NOTE"];
    context.screen.print(human::table(&header, queues.iter().map(queue_row).collect())).await
}

fn queue_row(queue: &v1::Queue) -> Vec<String> {
    let name = queue.name.clone();
    if !queue.trouble.is_empty() {
        let unknown = || "-".to_owned();
        let note = queue.trouble.clone();
        return vec![name, unknown(), unknown(), unknown(), unknown(), unknown(), note];
    }
    vec![
        name,
        queue.ready.to_string(),
        queue.unacked.to_string(),
        queue.consumers.to_string(),
        format!("{:.1}", queue.in_per_sec),
        format!("{:.1}", queue.out_per_sec),
        if queue.system { "the system's" } else { "" }.to_owned(),
    ]
}

fn message_row(message: &v1::Message) -> Vec<String> {
    let text = String::from_utf8_lossy(&message.body);
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    let sent = match message.sent_millis {
        0 => "-".to_owned(),
        millis => human::ago(millis),
    };
    vec![
        message.id.clone(),
        sent,
        message.redeliveries.to_string(),
        message.body.len().to_string(),
        message.content_type.clone(),
        shown,
    ]
}

async fn tell_settled(
    context: &Context,
    done: &str,
    receipts: json::SettledReceipts,
) -> Result<(), CliError> {
    context.screen.note(&format!("{} {done}", human::count(receipts.settled.into(), "message")));
    if context.is_json() {
        context.screen.json(&receipts).await?;
    }
    if receipts.unknown.is_empty() {
        return Ok(());
    }
    let heading = format!("{} not known (any more)", human::count(receipts.unknown.len() as u64, "receipt"));
    let error = CliError::new(exit_code::NOT_FOUND, heading);
    let error = receipts.unknown.iter().fold(error, |error, receipt| error.cause(human::one_line(receipt)));
    Err(error
        .hint("they are settled already, or their time is over: then the messages are in the queue again"))
}

/// As many milliseconds as a request can ask for.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
