//! `piecework agents`

use crate::{
    context::Context,
    error::CliError,
    output::{
        human,
        json::{Agent, Agents},
    },
};
use piecework_proto::v1;
use std::time::Duration;

/// List the agents that the coordinator knows.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(context: &Context, _args: Args) -> Result<(), CliError> {
    let agents = context.connect().await?.agents().await?;
    if context.is_json() {
        return context.screen.json(&Agents { agents: agents.iter().map(Agent::from).collect() }).await;
    }
    if agents.is_empty() {
        context.screen.note("no agent has ever connected; `piecework up` brings one along");
    }
    context
        .screen
        .print(human::table(
            &["AGENT", "STATE", "SLOTS", "HELD", "RUNTIME", "VERSION", "HEARD", "MESSAGE"],
            agents.iter().map(row).collect(),
        ))
        .await
}

fn row(agent: &v1::Agent) -> Vec<String> {
    vec![
        agent.name.clone(),
        human::agent_state(agent.state()).to_owned(),
        agent.slots.to_string(),
        agent.held.to_string(),
        agent.runtime.clone(),
        agent.version.clone(),
        format!("{} ago", human::duration(Duration::from_millis(agent.last_heard_millis))),
        agent.message.clone(),
    ]
}
