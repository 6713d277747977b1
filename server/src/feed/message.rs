//! The messages of DONE: JSON of a documented, versioned shape.

use crate::{
    broker::rabbitmq::Publication,
    domain::{AttemptKey, Outcome, Output, OutputBody, Project, Usage},
    rfc3339::rfc3339,
    store::{Recorded, RecordedResult},
};
use data_encoding::{BASE64, HEXLOWER};
use serde::Serialize;
use std::str;

/// The shape's version. Fields may be added to it; what is there stays.
const VERSION: u32 = 1;

/// A message of DONE.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Done {
    /// A task has its result.
    Result(Box<TaskResult>),
    /// A project has ended, and all of its results were published before.
    Project(ProjectEnd),
}

/// The result of a task.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TaskResult {
    /// 1.
    version: u32,
    /// The project's number.
    project: u64,
    /// The project's name; empty if it has none.
    project_name: String,
    /// The project's generation, from 1.
    generation: u32,
    /// `split`, `task` or `reassemble`: which part of the project the task belongs to.
    phase: String,
    /// The task's index within the phase, from 0.
    index: u32,
    /// The key under which the task was added to its open project.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The attempt that is the task's result, from 1.
    attempt: u32,
    /// The agent that ran it.
    agent: String,
    /// It ended in success.
    success: bool,
    /// How it ended.
    outcome: Ending,
    /// When that was recorded, as RFC 3339.
    ended: String,
    /// What it used.
    usage: Used,
    /// What it printed on stdout.
    stdout: Printed,
    /// What it printed on stderr.
    stderr: Printed,
}

/// How an attempt ended.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Ending {
    /// `exited`, `signaled`, `timed_out`, `out_of_memory`, `pids_limit`, `could_not_start`, `image_unavailable`,
    /// `output_limit`, `worker_lost`, `engine_lost`, `lease_lost` or `cancelled`.
    kind: &'static str,
    /// The exit code or the signal's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// What an attempt used.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Used {
    /// Time from its start to its end, in microseconds.
    wall_micros: u64,
    /// Processor time in user mode, in microseconds.
    user_micros: u64,
    /// Processor time in the kernel, in microseconds.
    system_micros: u64,
    /// Largest resident set of any one process, in bytes.
    peak_memory_bytes: u64,
}

/// What an attempt printed on one stream: `text` if it is UTF-8, `base64` if not. Longer than 32 KiB it is neither: its digest
/// is, and `piecework logs` has it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Printed {
    /// Its length in bytes.
    length: u64,
    /// The bytes as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// The SHA-256 of the bytes, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// A project that has ended.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ProjectEnd {
    /// 1.
    version: u32,
    /// The project's number.
    project: u64,
    /// The project's name; empty if it has none.
    project_name: String,
    /// The project's generation, from 1.
    generation: u32,
    /// `succeeded`, `failed` or `cancelled`.
    state: String,
    /// Why, if there is more to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[cfg_attr(test, schemars(default))]
    message: String,
    /// How many tasks it has.
    tasks: u32,
    /// How many of them ended in success.
    succeeded: u32,
    /// How many of them ended in failure.
    failed: u32,
    /// When it was submitted, as RFC 3339.
    created: String,
    /// When it ended, as RFC 3339.
    ended: String,
}

impl Done {
    fn new(recorded: &Recorded) -> Self {
        match recorded {
            Recorded::Result(result) => Self::Result(Box::new(TaskResult::new(result))),
            Recorded::End { project, .. } => Self::Project(ProjectEnd::new(project)),
        }
    }
}

impl Publication for Recorded {
    /// `PROJECT.PHASE.success`, `PROJECT.PHASE.failure` or `PROJECT.project.STATE`.
    fn routing_key(&self) -> String {
        match self {
            Self::Result(result) => {
                let task = result.attempt.key.task;
                let how = if result.attempt.outcome.is_success() { "success" } else { "failure" };
                format!("{}.{}.{how}", task.project.0, task.phase)
            }
            Self::End { project, .. } => format!("{}.project.{}", project.id.0, project.state),
        }
    }

    /// The same whenever this is published again, and of no other message of this installation.
    fn id(&self) -> String {
        match self {
            Self::Result(result) => {
                let AttemptKey { task, attempt } = result.attempt.key;
                format!("{}/{}/{}#{attempt}", task.project.0, task.phase, task.index)
            }
            Self::End { project, .. } => format!("{}/end/{}", project.id.0, project.generation.0),
        }
    }

    fn body(&self) -> Vec<u8> {
        // Texts and numbers can always be written.
        serde_json::to_vec(&Done::new(self)).unwrap_or_default()
    }
}

impl TaskResult {
    fn new(result: &RecordedResult) -> Self {
        let RecordedResult { project_name, generation, client_key, attempt, stdout, stderr } = result;
        let task = attempt.key.task;
        let Usage { wall_micros, user_micros, system_micros, peak_memory_bytes, .. } = attempt.usage;
        Self {
            version: VERSION,
            project: task.project.0,
            project_name: project_name.clone(),
            generation: generation.0,
            phase: task.phase.to_string(),
            index: task.index,
            key: client_key.clone(),
            attempt: attempt.key.attempt,
            agent: attempt.agent.clone(),
            success: attempt.outcome.is_success(),
            outcome: Ending::new(&attempt.outcome),
            ended: rfc3339(attempt.ended_millis),
            usage: Used { wall_micros, user_micros, system_micros, peak_memory_bytes },
            stdout: Printed::new(stdout),
            stderr: Printed::new(stderr),
        }
    }
}

impl ProjectEnd {
    fn new(project: &Project) -> Self {
        Self {
            version: VERSION,
            project: project.id.0,
            project_name: project.spec.name.clone(),
            generation: project.generation.0,
            state: project.state.to_string(),
            message: project.message.clone(),
            tasks: project.counts.total,
            succeeded: project.counts.succeeded,
            failed: project.counts.failed,
            created: rfc3339(project.created_millis),
            ended: rfc3339(project.ended_millis.unwrap_or_default()),
        }
    }
}

impl Ending {
    fn new(outcome: &Outcome) -> Self {
        let plain = |kind| Self { kind, code: None, message: None };
        let with_code = |kind, code: i32| Self { kind, code: Some(code), message: None };
        let because = |kind, why: &String| Self { kind, code: None, message: Some(why.clone()) };
        match outcome {
            Outcome::Exited(code) => with_code("exited", *code),
            Outcome::Signaled(signal) => with_code("signaled", *signal),
            Outcome::TimedOut => plain("timed_out"),
            Outcome::OutOfMemory => plain("out_of_memory"),
            Outcome::PidsLimit => plain("pids_limit"),
            Outcome::CouldNotStart(why) => because("could_not_start", why),
            Outcome::ImageUnavailable(why) => because("image_unavailable", why),
            Outcome::OutputLimit => plain("output_limit"),
            Outcome::WorkerLost(why) => because("worker_lost", why),
            Outcome::EngineLost(why) => because("engine_lost", why),
            Outcome::LeaseLost => plain("lease_lost"),
            Outcome::Cancelled => plain("cancelled"),
        }
    }
}

impl Printed {
    fn new(output: &Output) -> Self {
        let mut printed = Self { length: output.length, text: None, base64: None, sha256: None };
        match &output.body {
            OutputBody::Inline(bytes) => match str::from_utf8(bytes) {
                Ok(text) => printed.text = Some(text.to_owned()),
                Err(_) => printed.base64 = Some(BASE64.encode(bytes)),
            },
            OutputBody::Stored(sha256) => printed.sha256 = Some(HEXLOWER.encode(sha256)),
        }
        printed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::Addition;
    use schemars::JsonSchema;
    use std::{env, fs, path::Path};

    /// The messages that other programs read and write.
    #[derive(JsonSchema)]
    #[serde(untagged)]
    #[schemars(title = "Messages between Piecework and other programs, over RabbitMQ")]
    #[expect(dead_code, reason = "only its schema is of use")]
    enum QueueMessage {
        /// From the exchange DONE.
        Done(Done),
        /// Into the inbox.
        Addition(Addition),
    }

    #[test]
    fn the_published_schema_is_current() {
        let current = serde_json::to_string_pretty(&schemars::schema_for!(QueueMessage)).unwrap() + "\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/queue-messages.schema.json");
        if env::var_os("PIECEWORK_UPDATE_DOCS").is_some() {
            fs::write(&path, &current).unwrap();
        }
        let published = fs::read_to_string(&path).unwrap_or_default();
        let how = "run `PIECEWORK_UPDATE_DOCS=1 cargo test -p piecework-server published`";
        assert!(published == current, "docs/queue-messages.schema.json is not current: {how}");
    }
}
