//! Parses protobuf into domain types, once, and back. What comes out of here can't be wrong in form; whether it makes
//! sense is asked elsewhere (`plan`, the store).

mod error;
mod key;
mod outcome;
mod project;
mod queue;
mod report;
mod session;
mod spec;

#[cfg(test)]
mod tests;

pub use error::{WireError, WireErrorKind, Within, sha256};
pub use key::{attempt_key, attempt_key_to_proto, phase, phase_to_proto, stream, stream_to_proto};
pub use outcome::{outcome, outcome_to_proto};
pub use project::{agent_to_proto, attempt_ended_to_proto, project_to_proto, task_states, task_to_proto};
pub use queue::{count, message_to_proto, new_message, queue_to_proto, receive, received_to_proto};
pub use report::{lost, report, report_or_lost};
pub use session::{from_agent, hello, labels, run_spec_to_proto, to_agent};
pub use spec::{added_to_proto, item, new_tasks, spec, spec_to_proto};
