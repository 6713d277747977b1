//! What tests of the store and of its readers are made from.

use super::Write;
use crate::domain::{
    AgentId, AttemptKey, BuiltIn, FailurePolicy, ImageSpec, Isolation, ItemSource, LeaseLossPolicy, Network,
    Outcome, Output, Phase, Placement, ProjectId, ProjectSpec, ProjectState, Reassemble, Report, Resources,
    RetryOn, SessionEpoch, TaskKey, TaskSpec, Usage,
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

/// The agent that runs everything, unless a test is about agents.
pub(crate) const AGENT: AgentId = AgentId(1);

pub(crate) fn task_spec() -> TaskSpec {
    TaskSpec {
        command: vec!["echo".into(), "{item}".into()],
        env: BTreeMap::from([("LANG".into(), "C".into())]),
        workdir: None,
        timeout_millis: Some(1000),
        retries: 1,
        retry_on: RetryOn::ALL.to_vec(),
        resources: Resources { cpus_milli: Some(500), ..Resources::default() },
        network: Network::None,
        isolation: Isolation::Sealed,
        stdin: None,
        requires: BTreeMap::new(),
        output_bytes_max: None,
    }
}

pub(crate) fn spec(reassemble: Reassemble) -> ProjectSpec {
    ProjectSpec {
        name: "greetings".into(),
        image: ImageSpec::Reference("busybox:local".into()),
        items: ItemSource::Range { first: 1, last: 10, step: 1 },
        task: task_spec(),
        reassemble,
        on_failure: FailurePolicy::Continue,
        weight: 1,
        max_parallel: None,
        placement: Placement::Spread,
        on_lease_loss: LeaseLossPolicy::Rerun,
    }
}

pub(crate) fn concat() -> ProjectSpec {
    spec(Reassemble::BuiltIn(BuiltIn::Concat))
}

pub(crate) fn task(project: ProjectId, index: u32) -> TaskKey {
    TaskKey { project, phase: Phase::Task, index }
}

pub(crate) fn create(project: ProjectId, spec: ProjectSpec, tasks: u32) -> Write {
    let state = if matches!(spec.items, ItemSource::Split(_)) {
        ProjectState::Splitting
    } else {
        ProjectState::Running
    };
    Write::CreateProject { project, spec: Arc::new(spec), state, tasks }
}

pub(crate) fn move_to(project: ProjectId, state: ProjectState, tasks: u32) -> Write {
    Write::MoveProject { project, state, message: String::new(), tasks }
}

pub(crate) fn claim(attempt: AttemptKey) -> Write {
    Write::Claim { attempt, agent: AGENT, stored_item: false }
}

pub(crate) fn report(attempt: AttemptKey, outcome: Outcome, stdout: &[u8]) -> Box<Report> {
    Box::new(Report {
        attempt,
        outcome,
        usage: Usage {
            wall_micros: 1,
            user_micros: 2,
            system_micros: 3,
            peak_memory_bytes: 4,
            oom_kills: 5,
            pids_refused: 6,
        },
        stdout: Output::inline(Bytes::copy_from_slice(stdout)),
        stderr: Output::inline(Bytes::from_static(b"warning")),
    })
}

pub(crate) fn record(attempt: AttemptKey, outcome: Outcome, stdout: &[u8]) -> Write {
    Write::Record { agent: AGENT, report: report(attempt, outcome, stdout) }
}

pub(crate) fn session(agent: AgentId, name: &str, epoch: u64) -> Write {
    Write::Session {
        agent,
        name: name.into(),
        identity: format!("directory of {name}"),
        instance: format!("process {epoch}"),
        epoch: SessionEpoch(epoch),
    }
}
