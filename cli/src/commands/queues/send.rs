//! `piecework queues send`

use crate::{
    client::Client,
    commands::lines::Lines,
    context::Context,
    error::CliError,
    exit_code,
    output::{
        human,
        json::{Line, Sent},
    },
};
use bytes::Bytes;
use piecework_proto::v1;
use std::{
    collections::HashMap,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Longest body of a message.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// What a message counts for beside its body, and each header beside its texts.
const OVERHEAD_BYTES: usize = 128;
const HEADER_OVERHEAD_BYTES: usize = 16;

/// Put messages into a queue, and print their ids.
///
/// When its id is there, a message is safe. Lines of a file are sent as they come, so that another program can go on writing them.
#[derive(Debug, clap::Args)]
#[command(override_usage = "piecework queues send [OPTIONS] <QUEUE> [MESSAGE]...")]
#[command(group = clap::ArgGroup::new("what").args(["messages", "file", "body"]).required(true).multiple(true))]
pub(super) struct Args {
    /// The queue.
    queue: String,
    /// The messages.
    #[arg(value_name = "MESSAGE")]
    messages: Vec<String>,
    /// Also the lines of this file, a message each; `-` is standard input. Empty lines are left out.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// One message: the bytes of this file, whatever they are, at most 1 MiB; `-` is standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["messages", "file"])]
    body: Option<PathBuf>,
    /// What the messages are, such as `application/json`.
    #[arg(long, value_name = "TYPE", default_value = "")]
    content_type: String,
    /// A small text beside each message; may be given again.
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is not KEY=VALUE".to_owned()),
    }
}

pub(super) async fn run(context: &Context, client: &Client, args: Args) -> Result<(), CliError> {
    let Args { queue, messages, file, body, content_type, headers } = args;
    let beside: usize =
        headers.iter().map(|(key, value)| key.len() + value.len() + HEADER_OVERHEAD_BYTES).sum();
    let headers: HashMap<_, _> = headers.into_iter().collect();
    let message =
        |body: Bytes| v1::NewMessage { body, content_type: content_type.clone(), headers: headers.clone() };
    let mut sender = Sender { context, client, queue, sent: 0 };
    if let Some(path) = body {
        let read = tokio::task::spawn_blocking(move || whole(&path)).await;
        let body = read.map_err(|error| CliError::new(exit_code::LOCAL_FAILURE, error.to_string()))??;
        sender.send(vec![message(body.into())]).await?;
    }
    let mut lines = Lines::read(messages, file);
    loop {
        let call = lines.next_call(OVERHEAD_BYTES + content_type.len() + beside).await?;
        if call.is_empty() {
            return sender.finish();
        }
        sender.send(call.into_iter().map(|text| message(text.into())).collect()).await?;
    }
}

/// The bytes of a file, or a little more than a message may have.
fn whole(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().take(BODY_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(BODY_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| {
        CliError::new(exit_code::BAD_INPUT, format!("can't read {}", path.display())).cause(error)
    })?;
    if bytes.len() as u64 > BODY_BYTES_MAX {
        let heading = format!("{} is too long for a message", path.display());
        return Err(CliError::new(exit_code::BAD_INPUT, heading).hint("a message has at most 1 MiB"));
    }
    Ok(bytes)
}

struct Sender<'c> {
    context: &'c Context,
    client: &'c Client,
    queue: String,
    sent: u64,
}

impl Sender<'_> {
    async fn send(&mut self, messages: Vec<v1::NewMessage>) -> Result<(), CliError> {
        let ids = self.client.send(&self.queue, messages).await?;
        self.sent += ids.len() as u64;
        if !self.context.is_json() {
            return self.context.screen.print(ids.iter().map(|id| format!("{id}\n")).collect()).await;
        }
        for id in ids {
            self.context.screen.json(&Line::Sent(Sent { queue: self.queue.clone(), id })).await?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), CliError> {
        self.context.screen.note(&format!(
            "{} sent to queue {}",
            human::count(self.sent, "message"),
            self.queue
        ));
        Ok(())
    }
}
