//! The control stream between an agent and the coordinator.

use super::{
    error::{WireError, WireErrorKind, Within, nonzero},
    key::{attempt_key_to_proto, attempt_keys, phase_to_proto},
    report::report_or_lost,
    spec::{image_to_proto, line, task_to_proto},
};
use crate::{
    coordinator::{FromAgent, Hello, ToAgent},
    domain::{AttemptKey, Phase, ProjectId, ProjectSpec},
};
use pb::{agent_message::Message as Agent, coordinator_message::Message as Coordinator};
use piecework_proto::{
    label::{self, LABELS_MAX},
    v1 as pb,
};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// Longest name of an agent, its instance, runtime and version.
const WORD_BYTES_MAX: usize = 255;

/// Most attempts that an agent may run at a time.
const SLOTS_MAX: u32 = 4096;

/// Most attempts that an agent may hold at a time: its slots and its backlog.
const ATTEMPTS_MAX: u32 = SLOTS_MAX + 1024;

/// Longest reason for not being ready.
const NOT_READY_BYTES_MAX: usize = 8 * 1024;

/// How an agent introduces itself. Its version of the protocol, and who it is by its certificate, are the caller's to check
/// and to add.
///
/// # Errors
/// If something is missing or out of bounds.
pub fn hello(hello: pb::Hello) -> Result<Hello, WireError> {
    let word = |field: &str, text: String| {
        if text.is_empty() { Err(WireError::missing(field)) } else { line(field, text, WORD_BYTES_MAX) }
    };
    if hello.slots > SLOTS_MAX {
        let kind = WireErrorKind::TooMany { max: SLOTS_MAX as usize, got: hello.slots as usize };
        return Err(WireError::new("slots", kind));
    }
    Ok(Hello {
        enrolled: None,
        address: String::new(),
        name: word("name", hello.name)?,
        identity: word("identity", hello.identity)?,
        instance: word("instance", hello.instance)?,
        version: line("version", hello.version, WORD_BYTES_MAX)?,
        slots: hello.slots,
        runtime: line("runtime", hello.runtime, WORD_BYTES_MAX)?,
        labels: labels("labels", hello.labels)?,
        live: attempt_keys("live", hello.live)?,
        unrecorded: attempt_keys("unrecorded", hello.unrecorded)?,
        cpus_milli: nonzero(hello.cpus_milli),
        memory_bytes: nonzero(hello.memory_bytes),
        epoch_seen: hello.coordinator_epoch_seen,
    })
}

/// Labels of an agent.
///
/// # Errors
/// If there are too many, or one is against the rule.
pub fn labels(field: &str, labels: HashMap<String, String>) -> Result<BTreeMap<String, String>, WireError> {
    if labels.len() > LABELS_MAX {
        return Err(WireError::new(field, WireErrorKind::TooMany { max: LABELS_MAX, got: labels.len() }));
    }
    let label = |(name, value): (String, String)| match label::check(&name, &value) {
        Ok(()) => Ok((name, value)),
        Err(why) => Err(WireError::new(field, WireErrorKind::Label(why))),
    };
    labels.into_iter().map(label).collect()
}

/// What an agent says in an open session. Whether output that is not inline has arrived is the caller's to check.
///
/// # Errors
/// If something is missing, or it is a second Hello.
pub fn from_agent(message: pb::AgentMessage) -> Result<FromAgent, WireError> {
    // A newer agent says something that this version does not know: it lives, and the message's number counts.
    let Some(message) = message.message else { return Ok(FromAgent::Heartbeat) };
    Ok(match message {
        Agent::Hello(_) => return Err(WireError::new("hello", WireErrorKind::Repeated)),
        Agent::Heartbeat(pb::Heartbeat {}) => FromAgent::Heartbeat,
        Agent::Credits(pb::Credits { attempts_max, not_ready }) => {
            // More would be claimed in one turn than an agent can hold.
            let attempts_max = attempts_max.min(ATTEMPTS_MAX);
            FromAgent::Credits { attempts_max, not_ready: super::report::cut(not_ready, NOT_READY_BYTES_MAX) }
        }
        Agent::Reports(pb::Reports { reports }) => {
            let one = |(n, report)| report_or_lost(report).within_nth("reports.reports", n);
            FromAgent::Reports(reports.into_iter().enumerate().map(one).collect::<Result<_, _>>()?)
        }
        Agent::Returned(pb::Returned { attempts }) => {
            FromAgent::Returned(attempt_keys("attempts", attempts).within("returned")?)
        }
    })
}

/// A message to an agent. Assignments need more than the core knows: they are made by the session.
#[must_use]
pub fn to_agent(message: ToAgent, heartbeat: Duration, lease: Duration) -> Option<Coordinator> {
    let keys = |attempts: Vec<AttemptKey>| attempts.into_iter().map(attempt_key_to_proto).collect();
    Some(match message {
        ToAgent::Welcome { coordinator_epoch, session_epoch, discard } => Coordinator::Welcome(pb::Welcome {
            coordinator_epoch: coordinator_epoch.0,
            session_epoch: session_epoch.0,
            heartbeat_millis: millis(heartbeat),
            lease_millis: millis(lease),
            discard: keys(discard),
        }),
        ToAgent::Settled(attempts) => Coordinator::Settled(pb::Settled { attempts: keys(attempts) }),
        ToAgent::Cancel(attempts) => Coordinator::Cancel(pb::CancelAttempts { attempts: keys(attempts) }),
        ToAgent::Recall(attempts) => Coordinator::Recall(pb::Recall { attempts: keys(attempts) }),
        ToAgent::Heartbeat => Coordinator::Heartbeat(pb::Heartbeat {}),
        ToAgent::Assign(_) => return None,
    })
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// What all attempts of one phase of a project have in common. Without an output limit of its own, a task gets the
/// default one. None if the project has no such phase.
#[must_use]
pub fn run_spec_to_proto(
    project: ProjectId,
    phase: Phase,
    spec: &ProjectSpec,
    output_bytes_default: u64,
) -> Option<pb::RunSpec> {
    let mut task = task_to_proto(spec.task_of(phase)?);
    if task.output_bytes_max == 0 {
        task.output_bytes_max = output_bytes_default;
    }
    // An agent that doesn't know of `stdin` in the task reads it from here all the same.
    let has_input = phase == Phase::Reassemble || task.stdin.is_some();
    Some(pb::RunSpec {
        project_id: project.0,
        phase: phase_to_proto(phase).into(),
        project_name: spec.name.clone(),
        image: Some(image_to_proto(&spec.image)),
        task: Some(task),
        has_input,
    })
}
