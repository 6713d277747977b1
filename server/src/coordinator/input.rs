//! What can happen to the coordinator.

use crate::{
    domain::{AgentId, AttemptKey, ProjectId, ProjectSpec, Report},
    store::KnownAgent,
};
use std::{collections::BTreeMap, sync::Arc};

/// Names one open stream from an agent, for as long as this process lives. Given by the shell, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Names a request that waits for its answer. Given by the shell, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A submission is complete: its items and files are in the store.
    Submit {
        /// The project.
        project: NewProject,
        /// Who waits for it to be durable.
        reply: ReplyId,
    },
    /// A client adds tasks to an open project: they are staged in the store.
    AddTasks {
        /// The project.
        project: ProjectId,
        /// How many tasks it has with them.
        tasks: u32,
        /// No more follow.
        end: bool,
        /// Who waits for it to be durable.
        reply: ReplyId,
    },
    /// A client wants a project cancelled.
    Cancel {
        /// The project.
        project: ProjectId,
        /// Who waits for it to be durable.
        reply: ReplyId,
    },
    /// Somebody asks which agents there are.
    ListAgents {
        /// Who.
        reply: ReplyId,
    },
    /// Somebody asks for one agent, with what it holds.
    GetAgent {
        /// Its name.
        name: String,
        /// Who asks.
        reply: ReplyId,
    },
    /// Somebody asks what the tasks of a project wait for.
    Waiting {
        /// The project.
        project: ProjectId,
        /// Who.
        reply: ReplyId,
    },
    /// An operator wants an agent to take no attempts, or to take them again.
    Drain {
        /// Its name.
        name: String,
        /// Which of the two.
        draining: bool,
        /// Who waits for it to be durable.
        reply: ReplyId,
    },
    /// An operator wants an agent removed.
    RemoveAgent {
        /// Its name.
        name: String,
        /// Also if it holds attempts.
        force: bool,
        /// Who waits for it to be durable.
        reply: ReplyId,
    },
    /// An agent has enrolled: the store knows it.
    Enrolled(KnownAgent),
    /// Somebody has shown an old certificate of an agent.
    OldCertificate {
        /// Whose.
        agent: AgentId,
        /// From where.
        address: String,
    },
    /// An agent opened a session.
    Hello {
        /// The stream.
        session: SessionId,
        /// What it said.
        hello: Box<Hello>,
    },
    /// An agent sent something in an open session.
    FromAgent {
        /// The stream.
        session: SessionId,
        /// The message's number within the session. Hello was number 1.
        seq: u64,
        /// What it said.
        message: FromAgent,
    },
    /// A stream ended, for whatever reason.
    SessionClosed {
        /// The stream.
        session: SessionId,
    },
    /// The broker delivered tasks to claim.
    Delivered(Vec<Dispatch>),
    /// Published tasks are not in TODO any more, or may not be.
    Lost(Vec<Dispatch>),
    /// The output of a split task has become items in the store, or can't.
    SplitDone {
        /// The project.
        project: ProjectId,
        /// The number of items, or what is wrong.
        items: Result<u32, String>,
    },
    /// A built-in reassembly is complete and durable, or can't be made.
    ReassembleDone {
        /// The project.
        project: ProjectId,
        /// What is wrong, if anything.
        result: Result<(), String>,
    },
    /// Time has passed. Sent after all inputs that waited were handled.
    Tick,
}

/// A project as it comes in.
#[derive(Clone, Debug)]
pub struct NewProject {
    /// Its number, given by the store when the submission began.
    pub id: ProjectId,
    /// What was submitted, validated.
    pub spec: Arc<ProjectSpec>,
    /// How many tasks it begins with, unless a split is to tell.
    pub tasks: Option<u32>,
}

/// How an agent introduces itself.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Who it is by its certificate; none over the coordinator's own socket, where it may say itself who it is.
    pub enrolled: Option<Enrolled>,
    /// From where it calls, for people; empty over the socket.
    pub address: String,
    /// Its name.
    pub name: String,
    /// Made once for its data directory, which one process at a time can hold.
    pub identity: String,
    /// Made anew each time that its process starts.
    pub instance: String,
    /// Its version, for people.
    pub version: String,
    /// How many attempts it runs at a time.
    pub slots: u32,
    /// Its runtime, for people.
    pub runtime: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The processors that it offers, in thousandths; none if only its slots count.
    pub cpus_milli: Option<u32>,
    /// The memory that it offers; none if only its slots count.
    pub memory_bytes: Option<u64>,
    /// What it is running.
    pub live: Vec<AttemptKey>,
    /// What ended and is still in its outbox.
    pub unrecorded: Vec<AttemptKey>,
    /// The highest coordinator epoch that it has seen.
    pub epoch_seen: u64,
}

/// An agent that is known by its certificate.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// Which.
    pub id: AgentId,
    /// Labels that it was given when it enrolled.
    pub labels: BTreeMap<String, String>,
    /// An operator has drained it.
    pub draining: bool,
}

/// What an agent says in an open session.
#[derive(Clone, Debug)]
pub enum FromAgent {
    /// It is alive.
    Heartbeat,
    /// How many attempts it wants to hold at once, and if none, why.
    Credits {
        /// The number.
        attempts_max: u32,
        /// Why it is not ready; empty if it is.
        not_ready: String,
    },
    /// Attempts ended.
    Reports(Vec<Report>),
    /// It gives attempts back unfinished; they run no more.
    Returned(Vec<AttemptKey>),
}

/// A task on its way through the broker: all that a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dispatch {
    /// The task.
    pub task: crate::domain::TaskKey,
    /// Raised with each publication of anything; a delivery with another number than the task's latest is stale.
    pub number: u64,
}
