//! Projects, tasks, attempts and agents as readers see them.

use super::{
    error::{WireError, Within, known, unspecified},
    key::{attempt_key_to_proto, task_key_to_proto},
    outcome::{outcome_to_proto, usage_to_proto},
    spec::spec_to_proto,
};
use crate::{
    coordinator::AgentView,
    domain::{Phase, Project, ProjectState},
    plan,
    store::{AttemptRow, TaskRow, TaskRowState},
};
use piecework_proto::v1 as pb;

/// A project.
#[must_use]
pub fn project_to_proto(project: &Project) -> pb::Project {
    let state = match project.state {
        ProjectState::Splitting => pb::ProjectState::Splitting,
        ProjectState::Running => pb::ProjectState::Running,
        ProjectState::Reassembling => pb::ProjectState::Reassembling,
        ProjectState::Succeeded => pb::ProjectState::Succeeded,
        ProjectState::Failed => pb::ProjectState::Failed,
        ProjectState::Cancelled => pb::ProjectState::Cancelled,
    };
    pb::Project {
        id: project.id.0,
        spec: Some(spec_to_proto(&project.spec)),
        state: state.into(),
        message: project.message.clone(),
        tasks: project.counts.total,
        succeeded: project.counts.succeeded,
        failed: project.counts.failed,
        running: project.counts.running,
        created_millis: project.created_millis,
        ended_millis: project.ended_millis.unwrap_or_default(),
        generation: project.generation.0,
        waiting: String::new(),
        open: project.open,
    }
}

/// A task, with the attempts that were asked for.
#[must_use]
pub fn task_to_proto(project: &Project, row: TaskRow, attempts: &[AttemptRow]) -> pb::Task {
    let item = if row.key.phase == Phase::Task {
        plan::item(&project.spec, row.key.index, row.item.as_ref())
    } else {
        crate::domain::Item::default()
    };
    pb::Task {
        key: Some(task_key_to_proto(row.key)),
        state: task_state_to_proto(row.state).into(),
        item: item.text,
        resource: item.resource.unwrap_or_default(),
        attempt: row.attempt,
        agent: row.agent,
        attempts: attempts.iter().map(attempt_to_proto).collect(),
    }
}

/// The states of tasks that are asked for.
///
/// # Errors
/// If one is unknown or unspecified.
pub fn task_states(values: &[i32]) -> Result<Vec<TaskRowState>, WireError> {
    let one = |value: i32| {
        Ok(match known("", "TaskState", value)? {
            pb::TaskState::Unspecified => return Err(unspecified("", "TaskState")),
            pb::TaskState::Todo => TaskRowState::Todo,
            pb::TaskState::Running => TaskRowState::Running,
            pb::TaskState::Succeeded => TaskRowState::Succeeded,
            pb::TaskState::Failed => TaskRowState::Failed,
        })
    };
    values.iter().enumerate().map(|(n, value)| one(*value).within_nth("states", n)).collect()
}

const fn task_state_to_proto(state: TaskRowState) -> pb::TaskState {
    match state {
        TaskRowState::Todo => pb::TaskState::Todo,
        TaskRowState::Running => pb::TaskState::Running,
        TaskRowState::Succeeded => pb::TaskState::Succeeded,
        TaskRowState::Failed => pb::TaskState::Failed,
    }
}

/// An ended attempt, with its task.
fn attempt_to_proto(row: &AttemptRow) -> pb::Attempt {
    pb::Attempt {
        attempt: row.key.attempt,
        agent: row.agent.clone(),
        outcome: Some(outcome_to_proto(&row.outcome)),
        usage: Some(usage_to_proto(row.usage)),
        stdout_bytes: row.stdout_bytes,
        stderr_bytes: row.stderr_bytes,
        ended_millis: row.ended_millis,
    }
}

/// An ended attempt, as a watcher sees it.
#[must_use]
pub fn attempt_ended_to_proto(row: &AttemptRow) -> pb::AttemptEnded {
    pb::AttemptEnded {
        attempt: Some(attempt_key_to_proto(row.key)),
        outcome: Some(outcome_to_proto(&row.outcome)),
        recorded: row.recorded,
        agent: row.agent.clone(),
    }
}

/// An agent.
#[must_use]
pub fn agent_to_proto(agent: AgentView) -> pb::Agent {
    let state = match (agent.connected, agent.draining, agent.not_ready.is_empty()) {
        (false, _, _) => pb::AgentState::Lost,
        (true, true, _) => pb::AgentState::Draining,
        (true, false, false) => pb::AgentState::NotReady,
        (true, false, true) => pb::AgentState::Ready,
    };
    pb::Agent {
        name: agent.name,
        state: state.into(),
        message: agent.not_ready,
        slots: agent.slots,
        held: agent.held,
        runtime: agent.runtime,
        version: agent.version,
        last_heard_millis: agent.last_heard_millis,
        labels: agent.labels.into_iter().collect(),
        address: agent.address,
        cpus_milli: agent.cpus_milli.unwrap_or_default(),
        memory_bytes: agent.memory_bytes.unwrap_or_default(),
        attempts: agent.attempts.into_iter().map(attempt_key_to_proto).collect(),
        warning: agent.warning,
        cpus_used_milli: agent.cpus_used_milli,
        memory_used_bytes: agent.memory_used_bytes,
        quarantine: agent.quarantine,
    }
}
