//! Very many agents in this process, for `piecework bench`, as if each had a host of its own. Each is a whole one: it joins with
//! the token, has its own data directory, outbox, connection and slots. Only that no program is started for a task.

use super::{
    part::{failed, stdin_ended},
    with::{log_to_stderr, not_started},
};
use crate::{context::Context, error::CliError};
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::{join_all, select_all},
    stream,
};
use piecework_agent::{Agent, AgentConfig, RuntimeChoice};
use piecework_proto::{address::Address, token::Token};
use piecework_server::open_files;
use std::{collections::BTreeMap, path::PathBuf};

/// How many of them start at a time.
const STARTS_AT_ONCE: usize = 16;

/// Runs so many agents until stdin ends.
pub(crate) async fn run(
    context: &Context,
    data: PathBuf,
    server: Address,
    join: Token,
    agents: u32,
    slots: u32,
) -> Result<(), CliError> {
    log_to_stderr(context, "warn");
    // Each has its files.
    open_files::raise();
    let start = |number| {
        Agent::start(AgentConfig {
            data: data.join(format!("{number:04}")),
            server: server.clone(),
            join: Some(join.clone()),
            name: Some(format!("bench-{number:04}")),
            slots: Some(slots),
            // As much for each slot as a task may ask for.
            cpus_milli: Some(slots.saturating_mul(1000)),
            memory_bytes: None,
            runtime: RuntimeChoice::Scripted,
            labels: BTreeMap::new(),
        })
    };
    let starting = stream::iter(0..agents).map(start).buffer_unordered(STARTS_AT_ONCE).try_collect();
    let agents: Vec<Agent> = tokio::select! {
        started = starting => started.map_err(|error| not_started("an agent", &error))?,
        () = stdin_ended() => return Ok(()),
    };
    let failure = tokio::select! {
        () = stdin_ended() => None,
        (why, ..) = select_all(agents.iter().map(|agent| Box::pin(agent.failed()))) => {
            Some(failed("an agent", why))
        }
    };
    join_all(agents.into_iter().map(Agent::shutdown)).await;
    failure.map_or(Ok(()), Err)
}
