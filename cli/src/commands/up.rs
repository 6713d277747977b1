//! `piecework up`

use crate::{
    context::Context,
    embedded::{
        self, BrokerArgs, Embedded, EmbeddedArgs, EmbeddedConfig, ListenArgs, RabbitMqArgs, RabbitMqContainer,
    },
    error::CliError,
    exit_code,
    output::json::{Line, Up},
};
use piecework_proto::address::Address;
use std::path::Path;

/// Start a coordinator and one agent on this machine, in this process.
///
/// The coordinator listens on a Unix socket that only you can open, and with --listen also on TCP. It goes on with what was unfinished when it last
/// stopped. Ctrl-C stops both; a second Ctrl-C stops at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    embedded: EmbeddedArgs,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    rabbitmq: RabbitMqArgs,
    /// The agent's name. Without it: this machine's name.
    #[arg(long)]
    name: Option<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let data = context.data()?;
    let socket = match context.server() {
        None => None,
        Some(Address::Socket(path)) => Some(path.clone()),
        Some(address) => {
            return Err(CliError::new(
                exit_code::BAD_INPUT,
                format!("a coordinator can't be started at {address}"),
            )
            .hint("`up --server` names the socket to listen on; to listen on TCP as well, use `--listen`"));
        }
    };
    let rabbitmq = RabbitMqContainer::start(context, &data, &args.rabbitmq).await?;
    let config = EmbeddedConfig {
        data: data.clone(),
        socket,
        listen: args.listen,
        broker: rabbitmq.as_ref().map_or(args.broker, RabbitMqContainer::broker),
        name: args.name,
        args: args.embedded,
        log: "warn",
    };
    let started = tokio::select! {
        started = embedded::start_alone(context, config) => started,
        () = context.interrupts.at_least(1) => Err(CliError::quiet(exit_code::OK)),
    };
    let mut embedded = match started {
        Ok(embedded) => embedded,
        Err(error) => {
            if let Some(rabbitmq) = rabbitmq {
                rabbitmq.give_up(context).await;
            }
            return Err(error);
        }
    };
    let serve = async {
        announce(context, &embedded, rabbitmq.as_ref(), &data).await?;
        Err(embedded.failed().await)
    };
    let ended = tokio::select! {
        ended = serve => ended,
        () = context.interrupts.at_least(1) => {
            context.screen.note("stopping; once more stops at once");
            Ok(())
        }
    };
    embedded::shutdown(context, embedded, 2).await;
    if let Some(rabbitmq) = rabbitmq {
        tokio::select! {
            biased;
            () = rabbitmq.stop(context) => {}
            () = context.interrupts.at_least(2) => {
                context.screen.note("RabbitMQ's container may still be running: the next start adopts it");
            }
        }
    }
    ended
}

/// Says where the coordinator listens, and how to submit to it.
async fn announce(
    context: &Context,
    embedded: &Embedded,
    rabbitmq: Option<&RabbitMqContainer>,
    data: &Path,
) -> Result<(), CliError> {
    let socket = embedded.socket();
    if context.is_json() {
        let up = Line::Up(Up {
            socket: socket.display().to_string(),
            listen: embedded.listen().map(|address| address.to_string()),
            data: data.display().to_string(),
            runtime: embedded.runtime().to_owned(),
            why_not_docker: embedded.why_not_docker().map(str::to_owned),
            rabbitmq: rabbitmq.map(RabbitMqContainer::url),
            rabbitmq_password_file: rabbitmq.map(|rabbitmq| rabbitmq.password_file().display().to_string()),
        });
        context.screen.json(&up).await?;
    }
    let option = if context.server().is_some() {
        format!(" --server {}", shell_words::quote(&socket.to_string_lossy()))
    } else if context.is_data_given() {
        format!(" --data {}", shell_words::quote(&data.to_string_lossy()))
    } else {
        String::new()
    };
    let screen = &context.screen;
    screen.status(&format!("piecework {} is up", env!("CARGO_PKG_VERSION")));
    screen.status(&format!("  listens on   {}", socket.display()));
    if let Some(address) = embedded.listen() {
        screen.status(&format!("  and on       {address}"));
    }
    screen.status(&format!("  keeps data   {}", data.display()));
    screen.status(&format!(
        "  runs tasks   in {}",
        if embedded.runtime() == "docker" { "Docker" } else { "plain processes" }
    ));
    if let Some(rabbitmq) = rabbitmq {
        let file = rabbitmq.password_file().display();
        screen.status(&format!("  broker       {} (password in {file})", rabbitmq.url()));
    }
    screen.status(&format!("  submit with  piecework{option} run FILE"));
    if embedded.listen().is_some() {
        screen.status(&format!("  grow with    piecework{option} agents join-token"));
    }
    if let Some(why) = embedded.why_not_docker() {
        screen.note(&embedded::docker_is_missing(why));
    }
    Ok(())
}
