//! Names of attempts.

use super::WireError;
use crate::domain::{AttemptKey, Phase};
use piecework_proto::v1;

/// Reads the name of an attempt.
///
/// # Errors
/// If a part is missing or unknown.
pub fn attempt_from_proto(key: Option<v1::AttemptKey>) -> Result<AttemptKey, WireError> {
    let key = key.ok_or(WireError::Missing("attempt"))?;
    let task = key.task.ok_or(WireError::Missing("attempt.task"))?;
    if key.attempt == 0 {
        return Err(WireError::Missing("attempt.attempt"));
    }
    Ok(AttemptKey {
        project: task.project_id,
        phase: phase_from_proto(task.phase)?,
        index: task.index,
        attempt: key.attempt,
    })
}

pub(super) fn attempts_from_proto(keys: Vec<v1::AttemptKey>) -> Result<Vec<AttemptKey>, WireError> {
    keys.into_iter().map(|key| attempt_from_proto(Some(key))).collect()
}

/// Writes the name of an attempt.
#[must_use]
pub fn attempt_to_proto(key: AttemptKey) -> v1::AttemptKey {
    let phase = match key.phase {
        Phase::Split => v1::Phase::Split,
        Phase::Task => v1::Phase::Task,
        Phase::Reassemble => v1::Phase::Reassemble,
    };
    v1::AttemptKey {
        task: Some(v1::TaskKey { project_id: key.project, phase: phase.into(), index: key.index }),
        attempt: key.attempt,
    }
}

pub(super) fn phase_from_proto(value: i32) -> Result<Phase, WireError> {
    match v1::Phase::try_from(value) {
        Ok(v1::Phase::Split) => Ok(Phase::Split),
        Ok(v1::Phase::Task) => Ok(Phase::Task),
        Ok(v1::Phase::Reassemble) => Ok(Phase::Reassemble),
        Ok(v1::Phase::Unspecified) => Err(WireError::Missing("phase")),
        Err(_) => Err(WireError::UnknownValue { field: "phase", value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_went() {
        for phase in [Phase::Split, Phase::Task, Phase::Reassemble] {
            let key = AttemptKey { project: 7, phase, index: 3, attempt: 2 };
            assert_eq!(attempt_from_proto(Some(attempt_to_proto(key))), Ok(key));
        }
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let key = AttemptKey { project: 7, phase: Phase::Task, index: 3, attempt: 2 };
        let good = attempt_to_proto(key);
        let task = |phase| Some(v1::TaskKey { project_id: 7, phase, index: 3 });
        for (bad, error) in [
            (v1::AttemptKey { task: None, ..good }, WireError::Missing("attempt.task")),
            (v1::AttemptKey { attempt: 0, ..good }, WireError::Missing("attempt.attempt")),
            (v1::AttemptKey { task: task(0), ..good }, WireError::Missing("phase")),
            (
                v1::AttemptKey { task: task(99), ..good },
                WireError::UnknownValue { field: "phase", value: 99 },
            ),
        ] {
            assert_eq!(attempt_from_proto(Some(bad)), Err(error));
        }
        assert_eq!(attempt_from_proto(None), Err(WireError::Missing("attempt")));
    }
}
