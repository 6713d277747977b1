//! Keys: phases, tasks, attempts, streams.

use super::error::{WireError, WireErrorKind, Within, known, unspecified};
use crate::domain::{AttemptKey, OutputStream, Phase, ProjectId, TaskKey};
use piecework_proto::v1 as pb;

/// A phase; none if it is unspecified.
///
/// # Errors
/// If it is unknown.
pub fn phase(field: &str, value: i32) -> Result<Option<Phase>, WireError> {
    Ok(match known(field, "Phase", value)? {
        pb::Phase::Unspecified => None,
        pb::Phase::Split => Some(Phase::Split),
        pb::Phase::Task => Some(Phase::Task),
        pb::Phase::Reassemble => Some(Phase::Reassemble),
    })
}

/// A phase for the wire.
#[must_use]
pub const fn phase_to_proto(phase: Phase) -> pb::Phase {
    match phase {
        Phase::Split => pb::Phase::Split,
        Phase::Task => pb::Phase::Task,
        Phase::Reassemble => pb::Phase::Reassemble,
    }
}

/// One attempt, its path given by the caller.
///
/// # Errors
/// If it or its task is missing, or it has no number.
pub fn attempt_key(key: Option<pb::AttemptKey>) -> Result<AttemptKey, WireError> {
    let key = key.ok_or_else(|| WireError::missing(""))?;
    let task = key.task.ok_or_else(|| WireError::missing("task"))?;
    if task.project_id == 0 {
        return Err(WireError::new("task.project_id", WireErrorKind::Zero));
    }
    if key.attempt == 0 {
        return Err(WireError::new("attempt", WireErrorKind::Zero));
    }
    let phase = phase("task.phase", task.phase)?.ok_or_else(|| unspecified("task.phase", "Phase"))?;
    Ok(TaskKey { project: ProjectId(task.project_id), phase, index: task.index }.attempt(key.attempt))
}

/// A list of attempts.
///
/// # Errors
/// As [`attempt_key`].
pub(super) fn attempt_keys(field: &str, keys: Vec<pb::AttemptKey>) -> Result<Vec<AttemptKey>, WireError> {
    keys.into_iter().enumerate().map(|(n, key)| attempt_key(Some(key)).within_nth(field, n)).collect()
}

/// One task for the wire.
pub(super) fn task_key_to_proto(key: TaskKey) -> pb::TaskKey {
    pb::TaskKey { project_id: key.project.0, phase: phase_to_proto(key.phase).into(), index: key.index }
}

/// One attempt for the wire.
#[must_use]
pub fn attempt_key_to_proto(key: AttemptKey) -> pb::AttemptKey {
    pb::AttemptKey { task: Some(task_key_to_proto(key.task)), attempt: key.attempt }
}

/// An output stream.
///
/// # Errors
/// If it is unknown or unspecified.
pub fn stream(field: &str, value: i32) -> Result<OutputStream, WireError> {
    match known(field, "OutputStream", value)? {
        pb::OutputStream::Unspecified => Err(unspecified(field, "OutputStream")),
        pb::OutputStream::Stdout => Ok(OutputStream::Stdout),
        pb::OutputStream::Stderr => Ok(OutputStream::Stderr),
    }
}

/// An output stream for the wire.
#[must_use]
pub const fn stream_to_proto(stream: OutputStream) -> pb::OutputStream {
    match stream {
        OutputStream::Stdout => pb::OutputStream::Stdout,
        OutputStream::Stderr => pb::OutputStream::Stderr,
    }
}
