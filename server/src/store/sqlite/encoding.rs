//! Domain values as columns, and back. The numbers are on disk: never change one.

use crate::{
    domain::{Item, Outcome, Output, OutputBody, Phase, ProjectSpec, ProjectState, Usage},
    store::{StoreError, TaskRowState},
};
use bytes::Bytes;
use rusqlite::Row;
use std::{collections::BTreeMap, sync::Arc};

/// The state of a submission that is not complete.
pub(super) const SUBMITTING: i64 = 0;

pub(super) const TODO: i64 = 0;
pub(super) const RUNNING: i64 = 1;
pub(super) const SUCCEEDED: i64 = 2;
pub(super) const FAILED: i64 = 3;

pub(super) fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::Damaged(what.into())
}

pub(super) fn labels_column(labels: &BTreeMap<String, String>) -> Result<String, StoreError> {
    serde_json::to_string(labels).map_err(|error| damaged(format!("labels can't be written: {error}")))
}

pub(super) fn read_labels(row: &Row<'_>, column: usize) -> Result<BTreeMap<String, String>, StoreError> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| damaged(format!("labels can't be read: {error}")))
}

pub(super) const fn project_state_code(state: ProjectState) -> i64 {
    match state {
        ProjectState::Splitting => 1,
        ProjectState::Running => 2,
        ProjectState::Reassembling => 3,
        ProjectState::Succeeded => 4,
        ProjectState::Failed => 5,
        ProjectState::Cancelled => 6,
    }
}

pub(super) fn project_state(code: i64) -> Result<ProjectState, StoreError> {
    Ok(match code {
        1 => ProjectState::Splitting,
        2 => ProjectState::Running,
        3 => ProjectState::Reassembling,
        4 => ProjectState::Succeeded,
        5 => ProjectState::Failed,
        6 => ProjectState::Cancelled,
        _ => return Err(damaged(format!("unknown project state {code}"))),
    })
}

pub(super) const fn phase_code(phase: Phase) -> i64 {
    match phase {
        Phase::Split => 0,
        Phase::Task => 1,
        Phase::Reassemble => 2,
    }
}

pub(super) fn phase(code: i64) -> Result<Phase, StoreError> {
    Ok(match code {
        0 => Phase::Split,
        1 => Phase::Task,
        2 => Phase::Reassemble,
        _ => return Err(damaged(format!("unknown phase {code}"))),
    })
}

pub(super) const fn task_state_code(state: TaskRowState) -> i64 {
    match state {
        TaskRowState::Todo => TODO,
        TaskRowState::Running => RUNNING,
        TaskRowState::Succeeded => SUCCEEDED,
        TaskRowState::Failed => FAILED,
    }
}

pub(super) fn task_state(code: i64) -> Result<TaskRowState, StoreError> {
    Ok(match code {
        TODO => TaskRowState::Todo,
        RUNNING => TaskRowState::Running,
        SUCCEEDED => TaskRowState::Succeeded,
        FAILED => TaskRowState::Failed,
        _ => return Err(damaged(format!("unknown task state {code}"))),
    })
}

/// Kind, code and message.
pub(super) fn outcome_columns(outcome: &Outcome) -> (i64, i64, &str) {
    match outcome {
        Outcome::Exited(code) => (1, i64::from(*code), ""),
        Outcome::Signaled(signal) => (2, i64::from(*signal), ""),
        Outcome::TimedOut => (3, 0, ""),
        Outcome::OutOfMemory => (4, 0, ""),
        Outcome::CouldNotStart(why) => (5, 0, why),
        Outcome::ImageUnavailable(why) => (6, 0, why),
        Outcome::OutputLimit => (7, 0, ""),
        Outcome::WorkerLost(why) => (8, 0, why),
        Outcome::EngineLost(why) => (9, 0, why),
        Outcome::LeaseLost => (10, 0, ""),
        Outcome::Cancelled => (11, 0, ""),
        Outcome::PidsLimit => (12, 0, ""),
    }
}

/// The kind of [`Outcome::LeaseLost`].
pub(super) const LEASE_LOST: i64 = 10;

pub(super) fn outcome(kind: i64, code: i64, message: String) -> Result<Outcome, StoreError> {
    let code = || i32::try_from(code).map_err(|_| damaged(format!("exit code {code} is out of range")));
    Ok(match kind {
        1 => Outcome::Exited(code()?),
        2 => Outcome::Signaled(code()?),
        3 => Outcome::TimedOut,
        4 => Outcome::OutOfMemory,
        5 => Outcome::CouldNotStart(message),
        6 => Outcome::ImageUnavailable(message),
        7 => Outcome::OutputLimit,
        8 => Outcome::WorkerLost(message),
        9 => Outcome::EngineLost(message),
        LEASE_LOST => Outcome::LeaseLost,
        11 => Outcome::Cancelled,
        12 => Outcome::PidsLimit,
        _ => return Err(damaged(format!("unknown outcome {kind}"))),
    })
}

/// The columns `outcome`, `code`, `message`, beginning with the given one.
pub(super) fn read_outcome(row: &Row<'_>, first: usize) -> Result<Outcome, StoreError> {
    outcome(row.get(first)?, row.get(first + 1)?, row.get(first + 2)?)
}

/// SQLite's integers are signed; no true figure comes near the limit.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn read_unsigned(row: &Row<'_>, column: usize) -> Result<u64, StoreError> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| damaged(format!("negative number {value}")))
}

/// The columns `wall_micros`, `user_micros`, `system_micros`, `peak_bytes`, `oom_kills`, `pids_refused`, beginning with the
/// given one.
pub(super) fn read_usage(row: &Row<'_>, first: usize) -> Result<Usage, StoreError> {
    Ok(Usage {
        wall_micros: read_unsigned(row, first)?,
        user_micros: read_unsigned(row, first + 1)?,
        system_micros: read_unsigned(row, first + 2)?,
        peak_memory_bytes: read_unsigned(row, first + 3)?,
        oom_kills: row.get(first + 4)?,
        pids_refused: row.get(first + 5)?,
    })
}

/// Length, digest and bytes; one of the last two is null.
pub(super) fn output_columns(output: &Output) -> (i64, Option<&[u8]>, Option<&[u8]>) {
    match &output.body {
        OutputBody::Inline(bytes) => (bytes.len() as i64, None, Some(bytes)),
        OutputBody::Stored(sha256) => (integer(output.length), Some(sha256), None),
    }
}

/// The columns for length, digest and bytes.
pub(super) fn read_output(
    row: &Row<'_>,
    length: usize,
    sha256: usize,
    bytes: usize,
) -> Result<Output, StoreError> {
    if let Some(sha256) = row.get_ref(sha256)?.as_blob_or_null().map_err(rusqlite::Error::from)? {
        let sha256 = <[u8; 32]>::try_from(sha256).map_err(|_| damaged("a digest has not 32 bytes"))?;
        return Ok(Output { length: read_unsigned(row, length)?, body: OutputBody::Stored(sha256) });
    }
    let bytes = row.get_ref(bytes)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
    let bytes = bytes.ok_or_else(|| damaged("an output has neither bytes nor digest"))?;
    Ok(Output::inline(Bytes::copy_from_slice(bytes)))
}

/// Arguments as a JSON list, or null if there are none.
pub(super) fn args_column(item: &Item) -> Result<Option<String>, StoreError> {
    if item.args.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(&item.args).map(Some).map_err(|error| damaged(error.to_string()))
}

/// The columns `text`, `args`, `resource`, beginning with the given one; none if the text is null.
pub(super) fn read_item(row: &Row<'_>, first: usize) -> Result<Option<Item>, StoreError> {
    let Some(text) = row.get(first)? else { return Ok(None) };
    let args = match row.get_ref(first + 1)?.as_str_or_null().map_err(rusqlite::Error::from)? {
        Some(json) => {
            serde_json::from_str(json).map_err(|error| damaged(format!("an item's arguments: {error}")))?
        }
        None => Vec::new(),
    };
    Ok(Some(Item { text, args, resource: row.get(first + 2)? }))
}

pub(super) fn spec_column(spec: &ProjectSpec) -> Result<String, StoreError> {
    serde_json::to_string(spec)
        .map_err(|error| damaged(format!("a project's document can't be written: {error}")))
}

pub(super) fn read_spec(row: &Row<'_>, column: usize) -> Result<Arc<ProjectSpec>, StoreError> {
    let json = row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?;
    let spec =
        serde_json::from_str(json).map_err(|error| damaged(format!("a project's document: {error}")))?;
    Ok(Arc::new(spec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture;

    #[test]
    fn every_outcome_can_be_read_back() {
        let why = || String::from("no such file");
        for ending in [
            Outcome::Exited(0),
            Outcome::Exited(-7),
            Outcome::Signaled(9),
            Outcome::TimedOut,
            Outcome::OutOfMemory,
            Outcome::PidsLimit,
            Outcome::CouldNotStart(why()),
            Outcome::ImageUnavailable(why()),
            Outcome::OutputLimit,
            Outcome::WorkerLost(why()),
            Outcome::EngineLost(why()),
            Outcome::LeaseLost,
            Outcome::Cancelled,
        ] {
            let (kind, code, message) = outcome_columns(&ending);
            assert_eq!(outcome(kind, code, message.to_owned()).unwrap(), ending);
        }
        assert_eq!(outcome_columns(&Outcome::LeaseLost).0, LEASE_LOST);
        assert!(outcome(99, 0, why()).is_err());
    }

    #[test]
    fn a_document_without_an_isolation_is_sealed() {
        let spec = fixture::concat();
        let mut json: serde_json::Value = serde_json::from_str(&spec_column(&spec).unwrap()).unwrap();
        assert_eq!(json["task"].as_object_mut().unwrap().remove("isolation").unwrap(), "sealed");
        assert_eq!(serde_json::from_value::<ProjectSpec>(json).unwrap(), spec);
    }

    #[test]
    fn every_state_can_be_read_back() {
        for code in 1..=6 {
            assert_eq!(project_state_code(project_state(code).unwrap()), code);
        }
        for code in 0..=3 {
            assert_eq!(task_state_code(task_state(code).unwrap()), code);
        }
        for code in 0..=2 {
            assert_eq!(phase_code(phase(code).unwrap()), code);
        }
        assert!(project_state(SUBMITTING).is_err() && task_state(4).is_err() && phase(3).is_err());
    }
}
