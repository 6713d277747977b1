//! `piecework tokens`

use crate::{
    context::Context,
    error::CliError,
    output::{
        human,
        json::{self, Removed},
    },
};
use piecework_proto::v1;
use std::time::Duration;

/// Make, list and remove the tokens by which clients on other hosts are known.
///
/// On this machine, whoever can open the coordinator's socket needs none.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a token for a client.
    ///
    /// It is written to stdout, this once: the coordinator keeps only a digest of it.
    Create {
        /// Whose it is, for people.
        name: String,
        /// How long it is good, such as `12h` or `90d`. Without it: until it is removed.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
    },
    /// List the tokens, without their secrets.
    Ls,
    /// Remove tokens. The next call with one is refused.
    Rm {
        /// Their ids, as `ls` shows them.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    match args.command {
        Command::Create { name, expires } => {
            // 0 would mean for ever.
            let life = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
            let request = v1::CreateClientTokenRequest { name, life_millis: expires.map_or(0, life) };
            let v1::CreateClientTokenResponse { token, info, address } =
                client.create_client_token(request).await?;
            if context.is_json() {
                let info = json::ClientToken::from(&info.unwrap_or_default());
                return context.screen.json(&json::NewClientToken { token, address, info }).await;
            }
            context
                .screen
                .note(&format!("on the client: export PIECEWORK_SERVER={address} PIECEWORK_TOKEN={token}"));
            context.screen.print(format!("{token}\n")).await
        }
        Command::Ls => {
            let tokens = client.client_tokens().await?;
            if context.is_json() {
                let tokens = tokens.iter().map(json::ClientToken::from).collect();
                return context.screen.json(&json::ClientTokens { tokens }).await;
            }
            let rows = tokens.iter().map(|token| {
                let expires = match token.expires_millis {
                    0 => "never".to_owned(),
                    millis => human::until(millis),
                };
                vec![token.id.clone(), token.name.clone(), expires]
            });
            context.screen.print(human::table(&["ID", "NAME", "EXPIRES"], rows.collect())).await
        }
        Command::Rm { ids } => {
            for id in &ids {
                client.remove_client_token(id).await?;
                context.screen.note(&format!("token {id} is removed"));
            }
            if context.is_json() {
                context.screen.json(&Removed { removed: ids }).await?;
            }
            Ok(())
        }
    }
}
