//! `piecework agents join-token`

use crate::{
    client::Client,
    context::Context,
    error::CliError,
    output::{
        human,
        json::{self, Removed},
    },
};
use piecework_proto::v1;
use std::time::Duration;

/// Make a token with which agents of other hosts join, and list or remove such tokens.
///
/// The token is written to stdout, this once: the coordinator keeps only a digest of it. It says by what the coordinator is
/// known, so nothing else has to be copied to the host. Agents that have joined don't need it any more.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// For how many agents it is good.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    uses: u32,
    /// How long it is good, such as `30m` or `7d`.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// What the names of these agents must match, with `*` and `?`.
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    name: String,
    /// A label that these agents get, whatever they say themselves; may be given again.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the tokens that are still good, without their secrets.
    Ls,
    /// Remove tokens. Agents that have joined with them stay.
    Rm {
        /// Their ids, as `ls` shows them.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

pub(super) async fn run(context: &Context, client: &Client, args: Args) -> Result<(), CliError> {
    match args.command {
        None => create(context, client, args).await,
        Some(Command::Ls) => list(context, client).await,
        Some(Command::Rm { ids }) => {
            for id in &ids {
                client.remove_join_token(id).await?;
                context.screen.note(&format!("token {id} is removed"));
            }
            if context.is_json() {
                context.screen.json(&Removed { removed: ids }).await?;
            }
            Ok(())
        }
    }
}

async fn create(context: &Context, client: &Client, args: Args) -> Result<(), CliError> {
    let request = v1::CreateJoinTokenRequest {
        names: args.name,
        labels: args.labels.into_iter().collect(),
        uses: args.uses,
        life_millis: u64::try_from(args.expires.as_millis()).unwrap_or(u64::MAX),
    };
    let v1::CreateJoinTokenResponse { token, info, address } = client.create_join_token(request).await?;
    if context.is_json() {
        let info = json::JoinToken::from(&info.unwrap_or_default());
        return context.screen.json(&json::NewJoinToken { token, address, info }).await;
    }
    context.screen.note(&format!(
        "on the host that is to join: PIECEWORK_JOIN_TOKEN={token} piecework-agent --server {address} --data DIR"
    ));
    context.screen.print(format!("{token}\n")).await
}

async fn list(context: &Context, client: &Client) -> Result<(), CliError> {
    let tokens = client.join_tokens().await?;
    if context.is_json() {
        let tokens = tokens.iter().map(json::JoinToken::from).collect();
        return context.screen.json(&json::JoinTokens { tokens }).await;
    }
    let rows = tokens.iter().map(|token| {
        vec![
            token.id.clone(),
            token.names.clone(),
            super::labels(&token.labels),
            token.uses_left.to_string(),
            human::until(token.expires_millis),
        ]
    });
    context
        .screen
        .print(human::table(&["ID", "NAMES", "LABELS", "USES LEFT", "EXPIRES"], rows.collect()))
        .await
}
