//! `piecework agents`

mod join_token;

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
use std::{collections::BTreeMap, time::Duration};

/// How often it is looked whether a drained agent still holds attempts.
const DRAIN_POLL: Duration = Duration::from_millis(500);

/// List the agents that the coordinator knows, and manage them.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the agents; the same as without a command.
    Ls,
    /// Show one agent, with the attempts that it holds.
    Show {
        /// Its name.
        name: String,
    },
    /// Give agents no more attempts, as before work on their hosts.
    ///
    /// What they run goes on to its end; what has not begun there runs elsewhere. They stay drained, also over restarts,
    /// until they are undrained.
    Drain {
        /// Their names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Return only when they hold nothing any more.
        #[arg(long)]
        wait: bool,
    },
    /// Give drained agents attempts again.
    Undrain {
        /// Their names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove agents, and revoke their certificates at once.
    ///
    /// An agent that is removed ends. To have it back, it has to join anew. One on the coordinator's own socket needs no
    /// certificate: stop it first.
    Remove {
        /// Their names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Also those that hold attempts. Their tasks then run elsewhere, or have failed if their project says
        /// `on_lease_loss: stop`.
        #[arg(long)]
        force: bool,
    },
    JoinToken(join_token::Args),
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.connect().await?;
    match args.command {
        None | Some(Command::Ls) => list(context, &client).await,
        Some(Command::Show { name }) => show(context, &client.agent(&name).await?).await,
        Some(Command::Drain { names, wait }) => {
            for name in &names {
                client.drain(name).await?;
            }
            for name in &names {
                let agent = if wait { drained(&client, name).await? } else { client.agent(name).await? };
                drains(context, &agent).await?;
            }
            Ok(())
        }
        Some(Command::Undrain { names }) => {
            for name in &names {
                let agent = client.undrain(name).await?;
                if context.is_json() {
                    context.screen.json(&json::Agent::from(&agent)).await?;
                } else {
                    context.screen.note(&format!("agent {name} takes attempts again"));
                }
            }
            Ok(())
        }
        Some(Command::Remove { names, force }) => {
            for name in &names {
                client.remove_agent(name, force).await?;
                context.screen.note(&format!("agent {name} is removed"));
            }
            if context.is_json() {
                context.screen.json(&Removed { removed: names }).await?;
            }
            Ok(())
        }
        Some(Command::JoinToken(args)) => join_token::run(context, &client, args).await,
    }
}

async fn list(context: &Context, client: &Client) -> Result<(), CliError> {
    let agents = client.agents().await?;
    if context.is_json() {
        let agents = agents.iter().map(json::Agent::from).collect();
        return context.screen.json(&json::Agents { agents }).await;
    }
    if agents.is_empty() {
        context
            .screen
            .note("no agent has ever connected; `piecework up` brings one along, and others join with `piecework agents join-token`");
    }
    for agent in agents.iter().filter(|agent| !agent.warning.is_empty()) {
        context.screen.note(&human::one_line(&format!("agent {}: {}", agent.name, agent.warning)));
    }
    for agent in agents.iter().filter(|agent| !agent.quarantine.is_empty()) {
        let note = format!("agent {} is quarantined {}", agent.name, agent.quarantine);
        context.screen.note(&human::one_line(&note));
    }
    context
        .screen
        .print(human::table(
            &["AGENT", "STATE", "SLOTS", "HELD", "RUNTIME", "LABELS", "VERSION", "HEARD", "MESSAGE"],
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
        labels(&agent.labels),
        agent.version.clone(),
        heard(agent),
        agent.message.clone(),
    ]
}

fn heard(agent: &v1::Agent) -> String {
    format!("{} ago", human::duration(Duration::from_millis(agent.last_heard_millis)))
}

/// Labels as they are given: in a fixed order.
fn labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    if labels.is_empty() {
        return "-".to_owned();
    }
    labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

async fn show(context: &Context, agent: &v1::Agent) -> Result<(), CliError> {
    if context.is_json() {
        return context.screen.json(&json::Agent::from(agent)).await;
    }
    let state = human::agent_state(agent.state());
    let state =
        if agent.message.is_empty() { state.to_owned() } else { format!("{state}: {}", agent.message) };
    let from = if agent.address.is_empty() { "this host" } else { &agent.address };
    let mut lines = vec![
        ("agent", agent.name.clone()),
        ("state", state),
        ("slots", agent.slots.to_string()),
        ("labels", labels(&agent.labels)),
        ("runtime", agent.runtime.clone()),
        ("version", agent.version.clone()),
        ("connected", format!("from {from}")),
        ("heard", heard(agent)),
        ("holds", agent.held.to_string()),
    ];
    if agent.cpus_milli > 0 {
        let (used, cpus) = (agent.cpus_used_milli as f64 / 1000.0, f64::from(agent.cpus_milli) / 1000.0);
        lines.push(("cpus", format!("{cpus}, of which {used} are asked for")));
    }
    if agent.memory_bytes > 0 {
        let (used, memory) = (human::bytes(agent.memory_used_bytes), human::bytes(agent.memory_bytes));
        lines.push(("memory", format!("{memory}, of which {used} are asked for")));
    }
    if !agent.quarantine.is_empty() {
        lines.push(("quarantine", agent.quarantine.clone()));
    }
    if !agent.warning.is_empty() {
        lines.push(("warning", agent.warning.clone()));
    }
    let mut text = String::new();
    for (name, value) in lines {
        text.push_str(&format!("{name:<10} {}\n", human::one_line(&value)));
    }
    for attempt in &agent.attempts {
        text.push_str(&format!("  {}\n", human::attempt_key(attempt)));
    }
    context.screen.print(text).await
}

/// Waits until an agent holds nothing.
async fn drained(client: &Client, name: &str) -> Result<v1::Agent, CliError> {
    loop {
        let agent = client.agent(name).await?;
        if agent.held == 0 {
            return Ok(agent);
        }
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

async fn drains(context: &Context, agent: &v1::Agent) -> Result<(), CliError> {
    if context.is_json() {
        return context.screen.json(&json::Agent::from(agent)).await;
    }
    let name = &agent.name;
    context.screen.note(&match agent.held {
        0 => format!("agent {name} is drained: it holds nothing"),
        held => format!("agent {name} takes no more attempts; it still holds {held}"),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_an_order() {
        let found = [("zone", "b"), ("gpu", "true")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(labels(found.iter().map(|(key, value)| (key, value))), "gpu=true,zone=b");
        assert_eq!(labels(None::<(&String, &String)>), "-");
    }
}
