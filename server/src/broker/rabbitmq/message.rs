//! What the messages say: JSON of a documented, versioned shape.

use crate::{
    coordinator::Dispatch,
    domain::{Phase, ProjectId, TaskKey},
};
use serde::{Deserialize, Serialize};

/// The shape's version. Fields may be added to it; a message of another version is not understood.
const VERSION: u32 = 1;

/// The delivery mode of messages that are kept on disk, as AMQP numbers it.
pub(crate) const PERSISTENT: u8 = 2;

/// What all our messages are.
pub(super) const JSON: &str = "application/json";

/// Longest message that is looked at.
const BYTES_MAX: usize = 1024;

/// A task to do. All else is in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Todo<'a> {
    version: u32,
    /// Of which coordinator's core it is; of any other's, it is stale.
    generation: &'a str,
    project: u64,
    phase: PhaseName,
    index: u32,
    /// The dispatch's number within the generation.
    number: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseName {
    Split,
    Task,
    Reassemble,
}

/// Writes a task to do.
pub(super) fn write(generation: &str, dispatch: Dispatch) -> Vec<u8> {
    let phase = match dispatch.task.phase {
        Phase::Split => PhaseName::Split,
        Phase::Task => PhaseName::Task,
        Phase::Reassemble => PhaseName::Reassemble,
    };
    let todo = Todo {
        version: VERSION,
        generation,
        project: dispatch.task.project.0,
        phase,
        index: dispatch.task.index,
        number: dispatch.number,
    };
    // Numbers and plain text can always be written.
    serde_json::to_vec(&todo).unwrap_or_default()
}

/// Reads a task to do, and its generation.
///
/// # Errors
/// With what is wrong with it.
pub(super) fn read(message: &[u8]) -> Result<(&str, Dispatch), String> {
    if message.len() > BYTES_MAX {
        return Err(format!("it has {} bytes, more than {BYTES_MAX}", message.len()));
    }
    let todo: Todo<'_> = serde_json::from_slice(message).map_err(|error| error.to_string())?;
    if todo.version != VERSION {
        return Err(format!("its version is {}, and only {VERSION} is understood", todo.version));
    }
    let phase = match todo.phase {
        PhaseName::Split => Phase::Split,
        PhaseName::Task => Phase::Task,
        PhaseName::Reassemble => Phase::Reassemble,
    };
    let task = TaskKey { project: ProjectId(todo.project), phase, index: todo.index };
    Ok((todo.generation, Dispatch { task, number: todo.number }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        for phase in [Phase::Split, Phase::Task, Phase::Reassemble] {
            let task = TaskKey { project: ProjectId(u64::MAX), phase, index: u32::MAX };
            let dispatch = Dispatch { task, number: u64::MAX };
            let written = write("7.2", dispatch);
            assert_eq!(read(&written), Ok(("7.2", dispatch)), "{}", String::from_utf8_lossy(&written));
        }
    }

    #[test]
    fn the_shape_is_the_documented_one() {
        let task = TaskKey { project: ProjectId(12), phase: Phase::Task, index: 3 };
        let written = String::from_utf8(write("7.2", Dispatch { task, number: 881 }));
        let expected =
            r#"{"version":1,"generation":"7.2","project":12,"phase":"task","index":3,"number":881}"#;
        assert_eq!(written.as_deref(), Ok(expected));
    }

    #[test]
    fn what_is_no_task_is_refused_with_a_reason() {
        let newer = br#"{"version":2,"generation":"1.1","project":1,"phase":"task","index":0,"number":1}"#;
        assert_eq!(read(newer), Err("its version is 2, and only 1 is understood".to_owned()));
        for wrong in [&b""[..], b"{}", b"[]", b"\xff\xfe", &[b' '; BYTES_MAX + 1]] {
            assert!(read(wrong).is_err_and(|why| !why.is_empty()), "{wrong:?}");
        }
    }
}
