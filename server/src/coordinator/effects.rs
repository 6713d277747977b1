//! What the coordinator wants done. Nothing of it is done before `writes` are committed.

use super::input::{Dispatch, ReplyId, SessionId};
use crate::{
    domain::{AttemptKey, CoordinatorEpoch, ProjectId, SessionEpoch},
    store::Write,
};
use std::collections::BTreeSet;

/// Everything that a batch of inputs calls for, in the order in which it is performed.
#[derive(Debug, Default)]
pub struct Effects {
    /// First: one transaction.
    pub writes: Vec<Write>,
    /// Then, to the agents, in order for each session.
    pub sends: Vec<(SessionId, ToAgent)>,
    /// Sessions to close after what was sent to them, and why.
    pub closes: Vec<(SessionId, String)>,
    /// Tasks to publish in TODO, in fair order.
    pub publish: Vec<Dispatch>,
    /// Deliveries that are claimed durably, or stale: never to be delivered again.
    pub acks: Vec<Dispatch>,
    /// How many unacknowledged deliveries the broker may have with us, if that has changed.
    pub prefetch: Option<u32>,
    /// Answers to requests.
    pub replies: Vec<(ReplyId, Reply)>,
    /// Projects of which a reader could now see something new.
    pub changed: BTreeSet<ProjectId>,
    /// What an operator should find in the log.
    pub warnings: Vec<String>,
    /// Work that is too long for a turn; its end comes back as an input. Safe to start again.
    pub jobs: Vec<Job>,
}

/// A message to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToAgent {
    /// Answers Hello.
    Welcome {
        /// The coordinator's epoch.
        coordinator_epoch: CoordinatorEpoch,
        /// The session's.
        session_epoch: SessionEpoch,
        /// Attempts of Hello that are not wanted.
        discard: Vec<AttemptKey>,
    },
    /// Attempts to run.
    Assign(Vec<AttemptKey>),
    /// Reports that need not be kept any longer.
    Settled(Vec<AttemptKey>),
    /// Attempts to kill.
    Cancel(Vec<AttemptKey>),
    /// Attempts to hand back if they have not begun: another agent has a slot for them.
    Recall(Vec<AttemptKey>),
    /// Answers a heartbeat, so that a message that was lost last of all is noticed too.
    Heartbeat,
}

/// An answer to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// It is durable.
    Done,
    /// There is no such project that is still active; the store knows whether it ever was.
    NotActive,
    /// The project takes no tasks: it has ended, was closed, or never was open; the store knows which.
    NotOpen,
    /// The agents.
    Agents(Vec<AgentView>),
    /// What the tasks of a project wait for, if any do.
    Waiting(Option<String>),
    /// There is no such agent.
    NoAgent,
    /// It holds so many attempts, and is not removed.
    Holds(u32),
    /// The agent is connected over the coordinator's own socket: it would be back at once.
    IsLocal,
}

/// An agent, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentView {
    /// Its name.
    pub name: String,
    /// Connected.
    pub connected: bool,
    /// Why it takes no attempts; empty if it does.
    pub not_ready: String,
    /// How many attempts it runs at a time.
    pub slots: u32,
    /// How many it holds.
    pub held: u32,
    /// Its runtime.
    pub runtime: String,
    /// Its version.
    pub version: String,
    /// Milliseconds since it was last heard.
    pub last_heard_millis: u64,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// An operator wants it to take no attempts.
    pub draining: bool,
    /// From where it is connected.
    pub address: String,
    /// What an operator should look at.
    pub warning: String,
    /// The processors that it offers, in thousandths, if it has said.
    pub cpus_milli: Option<u32>,
    /// The memory that it offers, if it has said.
    pub memory_bytes: Option<u64>,
    /// The processors that what it holds asks for, in thousandths.
    pub cpus_used_milli: u64,
    /// The memory that what it holds asks for.
    pub memory_used_bytes: u64,
    /// Why it gets no attempts for a while; empty if it does.
    pub quarantine: String,
    /// What it holds, if that was asked for.
    pub attempts: Vec<AttemptKey>,
}

/// Long work for the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// Turn the split task's output into items.
    Split(ProjectId),
    /// Make the result of a project that reassembles by a built-in way.
    Reassemble(ProjectId),
}
