//! What `--output json` writes. The shapes are documented by the JSON Schema that is made of these types.
//!
//! A command that answers once writes one object. A command that streams writes one [`Line`] after the other, each with its
//! `type`.

mod added;
mod dead_letters;
mod fleet;
mod queues;

pub use added::Added;
pub use dead_letters::{DeadLetter, DeadLetters, TreatedDeadLetters};
pub use fleet::{
    Agent, Agents, ClientToken, ClientTokens, JoinToken, JoinTokens, NewClientToken, NewJoinToken, Removed,
};
pub use queues::{CreatedQueue, Message, Messages, Purged, Queue, Queues, Sent, SettledReceipts};

use crate::output::human;
use base64::{Engine, engine::general_purpose::STANDARD};
use piecework_proto::v1;
use schemars::JsonSchema;
use serde::Serialize;

/// A line of a stream: of `run`, `submit`, `add`, `watch`, `results`, `logs`, `queues send`, `queues receive` and `up`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// The coordinator and the agent are up.
    Up(Up),
    /// A project was submitted, and is durable.
    Submitted(Project),
    /// A task was added to an open project, or was there already, and is durable.
    Added(Added),
    /// A project as it is now: at first, when its state changes, and last.
    Project(Project),
    /// An attempt ended.
    Attempt(AttemptEnded),
    /// The next bytes of a project's result.
    Result(ResultBytes),
    /// The next bytes of a task's output.
    Log(LogBytes),
    /// A message was put into a queue, and is durable.
    Sent(Sent),
    /// A message was received from a queue.
    Message(Message),
}

/// Where a coordinator listens, and what its agent runs tasks in.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Up {
    /// The socket.
    pub socket: String,
    /// The address and port on TCP, if it listens there too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// The data directory.
    pub data: String,
    /// `docker` or `process`.
    pub runtime: String,
    /// Why the runtime is not Docker, if it was to be chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not_docker: Option<String>,
    /// Where the RabbitMQ is that was started with `--rabbitmq`, without its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rabbitmq: Option<String>,
    /// The file with its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rabbitmq_password_file: Option<String>,
}

/// Some bytes of a result.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ResultBytes {
    /// The project's number.
    pub project: u64,
    /// The bytes.
    #[serde(flatten)]
    pub data: Data,
}

/// Some bytes of a task's output.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LogBytes {
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The bytes.
    #[serde(flatten)]
    pub data: Data,
}

/// Bytes.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// As text, if they are UTF-8.
    Text(String),
    /// In base64, if they are not.
    Base64(String),
}

impl Data {
    /// What these bytes are; none of none.
    #[must_use]
    pub fn of(bytes: Vec<u8>) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        Some(match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Base64(STANDARD.encode(error.as_bytes())),
        })
    }
}

/// Cuts a stream of bytes into [`Data`], so that no character is cut in two.
#[derive(Debug, Default)]
pub struct DataCutter {
    /// The beginning of a character: at most three bytes.
    rest: Vec<u8>,
}

impl DataCutter {
    /// The data of the next bytes; none if they are only the beginning of a character.
    pub fn cut(&mut self, bytes: &[u8]) -> Option<Data> {
        let mut bytes = [std::mem::take(&mut self.rest), bytes.to_vec()].concat();
        if let Err(error) = std::str::from_utf8(&bytes)
            && error.error_len().is_none()
        {
            self.rest = bytes.split_off(error.valid_up_to());
        }
        Data::of(bytes)
    }

    /// What is left at the end of the stream.
    pub fn finish(&mut self) -> Option<Data> {
        Data::of(std::mem::take(&mut self.rest))
    }
}

/// A project; what `cancel` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Project {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `splitting`, `running`, `reassembling`, `succeeded`, `failed` or `cancelled`.
    pub state: String,
    /// Why it is in that state, if there is more to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How many tasks it has; 0 until the split has ended. Grows while it is open.
    pub tasks: u32,
    /// Tasks can be added to it. Left out if not.
    #[serde(skip_serializing_if = "is_false")]
    #[schemars(default)]
    pub open: bool,
    /// How many tasks ended in success.
    pub succeeded: u32,
    /// How many tasks ended in failure.
    pub failed: u32,
    /// How many attempts run.
    pub running: u32,
    /// When it was submitted, as RFC 3339.
    pub created: String,
    /// When it ended, as RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// The current generation, from 1.
    pub generation: u32,
}

impl From<&v1::Project> for Project {
    fn from(project: &v1::Project) -> Self {
        Self {
            id: project.id,
            name: human::project_name(project).to_owned(),
            state: human::project_state(project.state()).to_owned(),
            message: project.message.clone(),
            tasks: project.tasks,
            open: project.open,
            succeeded: project.succeeded,
            failed: project.failed,
            running: project.running,
            created: human::rfc3339(project.created_millis),
            ended: (project.ended_millis > 0).then(|| human::rfc3339(project.ended_millis)),
            generation: project.generation,
        }
    }
}

/// An attempt that ended.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AttemptEnded {
    /// The project's number.
    pub project: u64,
    /// `split`, `task` or `reassemble`.
    pub phase: String,
    /// The task's index.
    pub index: u32,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// The task has its result with this; false if it is tried again.
    pub recorded: bool,
    /// The agent that ran it.
    pub agent: String,
}

impl From<&v1::AttemptEnded> for AttemptEnded {
    fn from(ended: &v1::AttemptEnded) -> Self {
        let key = ended.attempt.unwrap_or_default();
        let task = key.task.unwrap_or_default();
        Self {
            project: task.project_id,
            phase: human::phase(task.phase()).to_owned(),
            index: task.index,
            attempt: key.attempt,
            outcome: Outcome::from(ended.outcome.as_ref()),
            recorded: ended.recorded,
            agent: ended.agent.clone(),
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outcome {
    /// `exited`, `signaled`, `timed_out`, `out_of_memory`, `pids_limit`, `could_not_start`, `image_unavailable`,
    /// `output_limit`, `worker_lost`, `engine_lost`, `lease_lost` or `cancelled`.
    pub kind: String,
    /// The exit code or the signal's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// More about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl From<Option<&v1::Outcome>> for Outcome {
    fn from(outcome: Option<&v1::Outcome>) -> Self {
        let outcome = outcome.cloned().unwrap_or_default();
        let kind = outcome.kind().as_str_name();
        let coded = matches!(outcome.kind(), v1::OutcomeKind::Exited | v1::OutcomeKind::Signaled);
        Self {
            kind: kind.strip_prefix("OUTCOME_KIND_").unwrap_or(kind).to_ascii_lowercase(),
            code: coded.then_some(outcome.code),
            message: outcome.message,
        }
    }
}

/// What `ls` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Projects {
    /// The projects, newest first.
    pub projects: Vec<Project>,
}

/// What `show` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProjectDetails {
    /// The project.
    pub project: Project,
    /// Its image: a reference, or `built from …`.
    pub image: String,
    /// Where its items come from.
    pub items: String,
    /// The command of its tasks.
    pub command: Vec<String>,
    /// What becomes of the output.
    pub reassemble: String,
    /// Why nothing runs, if nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Failed tasks, the first of them.
    pub failed_tasks: Vec<FailedTask>,
}

/// A task that failed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FailedTask {
    /// `split`, `task` or `reassemble`.
    pub phase: String,
    /// Its index.
    pub index: u32,
    /// Its item.
    pub item: String,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// The last lines of its last attempt's stderr.
    pub stderr_tail: String,
    /// What to change in the project file, if that can be guessed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// One task, a line of `tasks`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Task {
    /// `split`, `task` or `reassemble`.
    pub phase: String,
    /// Its index.
    pub index: u32,
    /// Its item.
    pub item: String,
    /// Its item's resource, if it has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// `todo`, `running`, `succeeded` or `failed`.
    pub state: String,
    /// The number of its highest attempt.
    pub attempt: u32,
    /// The agent of its highest attempt.
    pub agent: String,
    /// How its last attempt that ended did so, its cause in the message; null if none has.
    pub outcome: Option<Outcome>,
    /// Its attempts that ended, oldest first; the newest 100 at the most.
    pub attempts: Vec<Attempt>,
    /// What its last attempt that ended has used; null if none has.
    pub usage: Option<Usage>,
}

/// What an attempt has used.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Usage {
    /// How long it ran, in microseconds.
    pub wall_micros: u64,
    /// Processor time of its own, in microseconds.
    pub user_micros: u64,
    /// Processor time in the kernel, in microseconds.
    pub system_micros: u64,
    /// The most memory that one of its processes had, in bytes.
    pub peak_memory_bytes: u64,
    /// How often the kernel killed one of its processes for want of memory.
    pub oom_kills: u32,
    /// How often the kernel refused it a process or thread for the pids limit.
    pub pids_refused: u32,
}

impl From<&v1::Usage> for Usage {
    fn from(usage: &v1::Usage) -> Self {
        Self {
            wall_micros: usage.wall_micros,
            user_micros: usage.user_micros,
            system_micros: usage.system_micros,
            peak_memory_bytes: usage.peak_memory_bytes,
            oom_kills: usage.oom_kills,
            pids_refused: usage.pids_refused,
        }
    }
}

/// An attempt that ended, with what it used.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Attempt {
    /// Its number.
    pub attempt: u32,
    /// The agent that ran it.
    pub agent: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it ran, in microseconds.
    pub wall_micros: u64,
    /// The most memory that one of its processes had, in bytes.
    pub peak_memory_bytes: u64,
    /// How often the kernel killed one of its processes for want of memory, if it did.
    #[serde(skip_serializing_if = "is_zero")]
    pub oom_kills: u32,
    /// How often the kernel refused it a process or thread for the pids limit, if it did.
    #[serde(skip_serializing_if = "is_zero")]
    pub pids_refused: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl From<&v1::Attempt> for Attempt {
    fn from(attempt: &v1::Attempt) -> Self {
        let usage = attempt.usage.unwrap_or_default();
        Self {
            attempt: attempt.attempt,
            agent: attempt.agent.clone(),
            outcome: Outcome::from(attempt.outcome.as_ref()),
            wall_micros: usage.wall_micros,
            peak_memory_bytes: usage.peak_memory_bytes,
            oom_kills: usage.oom_kills,
            pids_refused: usage.pids_refused,
        }
    }
}

/// What `new` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NewProject {
    /// The files that were written.
    pub files: Vec<String>,
    /// The one to run.
    pub project_file: String,
}

/// All that `--output json` may write, by command.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(title = "What piecework --output json writes")]
pub enum Output {
    /// `run`, `submit`, `add`, `watch`, `results`, `logs`, `queues send`, `queues receive`, `up`: one a line.
    Stream(Line),
    /// `ls`.
    Ls(Projects),
    /// `show`.
    Show(Box<ProjectDetails>),
    /// `tasks`, one a line.
    Tasks(Box<Task>),
    /// `cancel`.
    Cancel(Project),
    /// `agents`.
    Agents(Agents),
    /// `agents show`, `drain` and `undrain`.
    Agent(Box<Agent>),
    /// `agents join-token`.
    NewJoinToken(NewJoinToken),
    /// `agents join-token ls`.
    JoinTokens(JoinTokens),
    /// `tokens create`.
    NewClientToken(NewClientToken),
    /// `tokens ls`.
    ClientTokens(ClientTokens),
    /// `agents remove`, `agents join-token rm`, `tokens rm` and `queues rm`.
    Removed(Removed),
    /// `queues ls`.
    Queues(Queues),
    /// `queues show`.
    Queue(Queue),
    /// `queues create`.
    CreatedQueue(CreatedQueue),
    /// `queues peek`.
    Messages(Messages),
    /// `queues ack` and `queues nack`.
    SettledReceipts(SettledReceipts),
    /// `queues purge`.
    Purged(Purged),
    /// `dead-letters ls`.
    DeadLetters(DeadLetters),
    /// `dead-letters replay` and `dead-letters rm`.
    TreatedDeadLetters(TreatedDeadLetters),
    /// `new`.
    New(NewProject),
    /// `bench`.
    Bench(super::bench::Bench),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_never_cut_in_two() {
        let text = "aé😀b";
        for at in 0..=text.len() {
            let mut cutter = DataCutter::default();
            let (first, second) = text.as_bytes().split_at(at);
            let parts = [cutter.cut(first), cutter.cut(second), cutter.finish()];
            let joined: String = parts
                .into_iter()
                .flatten()
                .map(|part| match part {
                    Data::Text(text) => text,
                    Data::Base64(_) => panic!("not text at {at}"),
                })
                .collect();
            assert_eq!(joined, text);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let mut cutter = DataCutter::default();
        assert_eq!(cutter.cut(b"\xff\xfe"), Some(Data::Base64("//4=".to_owned())));
        assert_eq!(cutter.cut(b"\xc3"), None);
        assert_eq!(cutter.finish(), Some(Data::Base64("ww==".to_owned())));
    }

    #[test]
    fn the_published_schema_is_current() {
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(Output)).unwrap() + "\n";
        crate::manual::check_published("cli-output.schema.json", &schema);
    }
}
