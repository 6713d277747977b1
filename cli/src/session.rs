//! A coordinator to run projects on: the one that is there, or one in this process for as long as it is needed.

use crate::{
    client::{Client, ClientError, Target},
    context::Context,
    embedded::{self, BrokerArgs, Embedded, EmbeddedArgs, EmbeddedConfig, ListenArgs},
    error::CliError,
    exit_code,
};
use piecework_proto::address::Address;
use std::{future::Future, path::Path, time::Duration};
use tokio::time::Instant;

/// How long a coordinator that another `run` is just starting is waited for.
const START_MAX: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(50);

/// How long the coordinator of another `run` may be gone before this one starts its own on the same data: long enough for
/// somebody to restart a coordinator by hand, shorter than the client's patience.
const TAKE_OVER_AFTER: Duration = Duration::from_secs(10);
const TAKE_OVER_POLL: Duration = Duration::from_secs(1);

/// A connection, and the coordinator behind it if it is ours.
pub(crate) struct Session {
    pub(crate) client: Client,
    embedded: Option<Embedded>,
    /// What to start if the coordinator that was there goes away; none if it was named, so that it is not ours to replace.
    spare: Option<EmbeddedConfig>,
}

impl Session {
    /// Connects; if no coordinator is there and none was named, starts one.
    pub(crate) async fn open(context: &Context, args: &EmbeddedArgs) -> Result<Self, CliError> {
        let target = context.target()?;
        let error = match context.connect_to(target.clone()).await {
            Ok(client) => {
                let spare = match context.server() {
                    None => Some(config(context, args)?),
                    Some(_) => None,
                };
                return Ok(Self { client, embedded: None, spare });
            }
            Err(error) => error,
        };
        if context.server().is_some() || !is_absent(&error) {
            return Err(error.into());
        }
        let config = config(context, args)?;
        let Some(embedded) = start(context, config.clone()).await? else {
            // Somebody else was faster.
            return Ok(Self {
                client: wait_for(context, target, &config.data).await?,
                embedded: None,
                spare: Some(config),
            });
        };
        match context.connect_to(Address::Socket(embedded.socket().to_owned()).into()).await {
            Ok(client) => Ok(Self { client, embedded: Some(embedded), spare: None }),
            Err(error) => {
                embedded.shutdown().await;
                Err(error.into())
            }
        }
    }

    /// Does some work; fails early if the coordinator in this process does.
    pub(crate) async fn during<T>(
        &mut self,
        context: &Context,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        let embedded = &mut self.embedded;
        let coordinator = async {
            if let (None, Some(spare)) = (&embedded, &self.spare) {
                match take_over(context, self.client.address(), spare).await {
                    Ok(started) => *embedded = Some(started),
                    Err(error) => return error,
                }
            }
            match embedded {
                Some(embedded) => embedded.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = work => done,
            error = coordinator => Err(error),
        }
    }

    /// Stops what was started; a further interruption ends the waiting.
    pub(crate) async fn close(self, context: &Context, interruptions: u32) {
        if let Some(embedded) = self.embedded {
            embedded::shutdown(context, embedded, interruptions + 1).await;
        }
    }
}

fn config(context: &Context, args: &EmbeddedArgs) -> Result<EmbeddedConfig, CliError> {
    Ok(EmbeddedConfig {
        data: context.data()?,
        socket: None,
        listen: ListenArgs::default(),
        broker: BrokerArgs::default(),
        name: None,
        args: args.clone(),
        log: "error",
    })
}

/// Starts a coordinator and says so. None if another one holds the data directory.
async fn start(context: &Context, config: EmbeddedConfig) -> Result<Option<Embedded>, CliError> {
    let data = config.data.clone();
    let Some(embedded) = Embedded::start(context, config).await? else { return Ok(None) };
    context.screen.note(&format!(
        "no coordinator is running: started one for this run (data in {}, runtime {})",
        data.display(),
        embedded.runtime()
    ));
    if let Some(why) = embedded.why_not_docker() {
        context.screen.note(&embedded::docker_is_missing(why));
    }
    Ok(Some(embedded))
}

/// Waits until nobody has listened for a while, as when the `run` that had started the coordinator has ended, and starts one.
async fn take_over(
    context: &Context,
    address: &Address,
    config: &EmbeddedConfig,
) -> Result<Embedded, CliError> {
    let mut absent_since: Option<Instant> = None;
    loop {
        tokio::time::sleep(TAKE_OVER_POLL).await;
        match context.connect_to(address.clone().into()).await {
            Err(error) if is_absent(&error) => {
                if absent_since.get_or_insert_with(Instant::now).elapsed() < TAKE_OVER_AFTER {
                    continue;
                }
                if let Some(embedded) = start(context, config.clone()).await? {
                    return Ok(embedded);
                }
            }
            _ => {}
        }
        absent_since = None;
    }
}

/// Whether nobody listens there, as opposed to not letting us in.
fn is_absent(error: &ClientError) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, ClientError::NoCoordinator { source, .. } if matches!(source.kind(), NotFound | ConnectionRefused))
}

/// Waits for the coordinator that holds the data directory. It may be just starting; or it listens elsewhere.
async fn wait_for(context: &Context, target: Target, data: &Path) -> Result<Client, CliError> {
    let deadline = Instant::now() + START_MAX;
    loop {
        match context.connect_to(target.clone()).await {
            Ok(client) => return Ok(client),
            Err(error) if !is_absent(&error) => return Err(error.into()),
            Err(error) if Instant::now() >= deadline => {
                return Err(embedded::another_is_running(exit_code::NO_COORDINATOR, data)
                    .cause(error)
                    .hint("if it listens elsewhere, name its socket with `--server`; else stop it, or choose another directory with `--data`"));
            }
            Err(_) => tokio::time::sleep(START_POLL).await,
        }
    }
}
