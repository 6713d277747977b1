//! `piecework queues receive`

use super::{PAGE_MAX, millis};
use crate::{
    client::Client,
    context::Context,
    error::CliError,
    output::{
        human,
        json::{Line, Message},
    },
};
use bytes::Bytes;
use piecework_proto::v1;
use std::time::{Duration, Instant};

/// How long one call waits.
const CALL_WAIT: Duration = Duration::from_secs(30);
/// Most messages that `--follow` takes at a time: they are held until they are written.
const FOLLOWED_MAX: u32 = 100;

/// Take messages out of a queue, oldest first, and write each to stdout with a newline behind it.
///
/// If the queue is empty, nothing is written.
#[derive(Debug, clap::Args)]
#[command(override_usage = "piecework queues receive [OPTIONS] <QUEUE>")]
pub(super) struct Args {
    /// The queue.
    queue: String,
    /// Receive at most this many.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// How long to wait for the first one, such as `30s`.
    #[arg(short, long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s", hide_default_value = true)]
    wait: Duration,
    /// Go on with what comes, until interrupted; also over a restart of the coordinator.
    #[arg(short, long, conflicts_with_all = ["limit", "wait"])]
    follow: bool,
    /// When messages leave the queue for good.
    #[arg(long, value_name = "WHEN", default_value = "written")]
    ack: Ack,
    /// For how long they are kept from others until they are acknowledged: 100 ms to 20 min.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "30s")]
    visibility: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Ack {
    /// Once they are written to stdout.
    Written,
    /// As they are delivered: what gets lost on its way here is gone.
    Auto,
    /// With `queues ack`: each line begins with the receipt and a tab. Without it, they are in the queue again after a while.
    Manual,
}

pub(super) async fn run(context: &Context, client: &Client, args: Args) -> Result<(), CliError> {
    let Args { queue, limit, wait, follow, ack, visibility } = args;
    let deadline = Instant::now() + wait;
    let mut left = if follow { FOLLOWED_MAX } else { limit };
    let mut is_first = true;
    while left > 0 {
        let wait = match (follow, is_first) {
            (true, _) => CALL_WAIT,
            (false, true) => deadline.saturating_duration_since(Instant::now()).min(CALL_WAIT),
            // What is there besides.
            (false, false) => Duration::ZERO,
        };
        let request = v1::ReceiveRequest {
            queue: queue.clone(),
            max: left.min(PAGE_MAX),
            wait_millis: millis(wait),
            ack: i32::from(if ack == Ack::Auto { v1::AckMode::Auto } else { v1::AckMode::Manual }),
            // 0 would be the default.
            visibility_millis: millis(visibility).max(1),
        };
        let received =
            if follow { client.receive_more(&request).await? } else { client.receive(request).await? };
        if received.is_empty() {
            if follow || (is_first && Instant::now() < deadline) {
                continue;
            }
            break;
        }
        is_first = false;
        if !follow {
            left = left.saturating_sub(u32::try_from(received.len()).unwrap_or(u32::MAX));
        }
        take(context, client, &queue, ack, received).await?;
    }
    if is_first {
        context.screen.note("no message is there");
    }
    Ok(())
}

/// Writes what was received, and acknowledges it if that is to be done.
async fn take(
    context: &Context,
    client: &Client,
    queue: &str,
    ack: Ack,
    received: Vec<v1::ReceivedMessage>,
) -> Result<(), CliError> {
    let receipts: Vec<String> = received.iter().map(|received| received.receipt.clone()).collect();
    if context.is_json() {
        for received in received {
            let mut message = Message::from(received);
            if ack != Ack::Manual {
                message.receipt.clear();
            }
            context.screen.json(&Line::Message(message)).await?;
        }
    } else {
        context.screen.bytes(lines(received, ack == Ack::Manual)).await?;
    }
    if ack == Ack::Written {
        let unknown = client.ack(queue, receipts).await?.unknown.len() as u64;
        if unknown > 0 {
            let late = human::count(unknown, "message");
            context.screen.note(&format!("{late} took too long to be written, and will come again"));
        }
    }
    Ok(())
}

fn lines(received: Vec<v1::ReceivedMessage>, with_receipts: bool) -> Bytes {
    let mut lines = Vec::new();
    for v1::ReceivedMessage { message, receipt } in received {
        if with_receipts {
            lines.extend_from_slice(receipt.as_bytes());
            lines.push(b'\t');
        }
        lines.extend_from_slice(&message.unwrap_or_default().body);
        lines.push(b'\n');
    }
    lines.into()
}
