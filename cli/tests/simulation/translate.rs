//! Between the two sides' types: what the wire does in earnest.

use crate::host::AgentHost;
use piecework_agent::{
    domain as agent,
    supervisor::{FromCoordinator, ToCoordinator},
};
use piecework_server::{
    coordinator::{FromAgent, Hello, ToAgent},
    domain as server,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(crate) fn up(key: agent::AttemptKey) -> server::AttemptKey {
    let phase = match key.phase {
        agent::Phase::Split => server::Phase::Split,
        agent::Phase::Task => server::Phase::Task,
        agent::Phase::Reassemble => server::Phase::Reassemble,
    };
    server::TaskKey { project: server::ProjectId(key.project), phase, index: key.index }.attempt(key.attempt)
}

pub(crate) fn down(key: server::AttemptKey) -> agent::AttemptKey {
    let phase = match key.task.phase {
        server::Phase::Split => agent::Phase::Split,
        server::Phase::Task => agent::Phase::Task,
        server::Phase::Reassemble => agent::Phase::Reassemble,
    };
    agent::AttemptKey { project: key.task.project.0, phase, index: key.task.index, attempt: key.attempt }
}

fn all_up(keys: Vec<agent::AttemptKey>) -> Vec<server::AttemptKey> {
    keys.into_iter().map(up).collect()
}

fn all_down(keys: Vec<server::AttemptKey>) -> Vec<agent::AttemptKey> {
    keys.into_iter().map(down).collect()
}

pub(crate) fn outcome(outcome: &agent::Outcome) -> server::Outcome {
    match outcome {
        agent::Outcome::Exited(code) => server::Outcome::Exited(*code),
        agent::Outcome::Cancelled => server::Outcome::Cancelled,
        agent::Outcome::WorkerLost(why) => server::Outcome::WorkerLost(why.clone()),
        other => panic!("no simulated worker ends with {other:?}"),
    }
}

fn output(output: agent::Output) -> server::Output {
    match output {
        agent::Output::Inline(bytes) => server::Output::inline(bytes),
        agent::Output::Spooled { length, sha256 } => {
            server::Output { length, body: server::OutputBody::Stored(sha256) }
        }
    }
}

fn report(report: agent::Report) -> server::Report {
    server::Report {
        attempt: up(report.attempt),
        outcome: outcome(&report.outcome),
        usage: server::Usage::default(),
        stdout: output(report.stdout),
        stderr: output(report.stderr),
    }
}

pub(crate) fn hello(message: ToCoordinator, host: &AgentHost) -> Hello {
    let ToCoordinator::Hello { live, unrecorded, coordinator_epoch_seen } = message else {
        panic!("{message:?} is no Hello")
    };
    Hello {
        enrolled: None,
        address: String::new(),
        name: host.name.clone(),
        identity: host.name.clone(),
        instance: host.instance.to_string(),
        version: "simulated".to_owned(),
        slots: host.slots,
        runtime: "simulated".to_owned(),
        labels: host.labels.clone(),
        cpus_milli: Some(host.cpus_milli),
        memory_bytes: Some(host.memory_bytes),
        live: all_up(live),
        unrecorded: all_up(unrecorded),
        epoch_seen: coordinator_epoch_seen,
    }
}

/// None for a repeated Hello, which the service refuses.
pub(crate) fn to_coordinator(message: ToCoordinator) -> Option<FromAgent> {
    Some(match message {
        ToCoordinator::Hello { .. } => return None,
        ToCoordinator::Heartbeat => FromAgent::Heartbeat,
        ToCoordinator::Credits { attempts_max, not_ready } => FromAgent::Credits { attempts_max, not_ready },
        ToCoordinator::Reports(reports) => FromAgent::Reports(reports.into_iter().map(report).collect()),
        ToCoordinator::Returned(attempts) => FromAgent::Returned(all_up(attempts)),
    })
}

pub(crate) fn to_agent(message: ToAgent) -> FromCoordinator {
    match message {
        ToAgent::Welcome { coordinator_epoch, session_epoch, discard } => FromCoordinator::Welcome {
            coordinator_epoch: coordinator_epoch.0,
            session_epoch: session_epoch.0,
            heartbeat: Duration::from_millis(500),
            discard: all_down(discard),
        },
        ToAgent::Assign(attempts) => {
            let spec = Arc::new(run_spec());
            FromCoordinator::Assign(
                attempts
                    .into_iter()
                    .map(|attempt| agent::Assignment {
                        attempt: down(attempt),
                        command: vec!["simulated".to_owned()],
                        stdin: bytes::Bytes::new(),
                        spec: spec.clone(),
                    })
                    .collect(),
            )
        }
        ToAgent::Settled(attempts) => FromCoordinator::Settled(all_down(attempts)),
        ToAgent::Heartbeat => FromCoordinator::Heartbeat,
        ToAgent::Recall(attempts) => FromCoordinator::Recall(all_down(attempts)),
        ToAgent::Cancel(attempts) => FromCoordinator::Cancel(all_down(attempts)),
    }
}

fn run_spec() -> agent::RunSpec {
    agent::RunSpec {
        project_name: "simulated".to_owned(),
        image: agent::ImageSpec::Reference("simulated".to_owned()),
        env: BTreeMap::new(),
        workdir: None,
        timeout: None,
        cpus_milli: None,
        memory_bytes: None,
        pids_max: None,
        network: false,
        output_bytes_max: 1,
        stdin: agent::StdinFrom::Nothing,
        isolation: agent::Isolation::Sealed,
    }
}
