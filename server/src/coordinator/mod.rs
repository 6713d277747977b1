//! The coordinator's core: a state machine without I/O, clock or async.

mod effects;
mod input;

pub use effects::{AgentView, Effects, Job, Reply, ToAgent};
pub use input::{Dispatch, FromAgent, Hello, Input, NewProject, ReplyId, SessionId};
