//! What can happen to the agent.

use crate::domain::{Assignment, AttemptKey, Report};
use std::time::Duration;

/// Names one connection to the coordinator, for as long as this process lives. Given by the shell, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A stream to the coordinator is open; nothing was said on it yet.
    Connected(ConnectionId),
    /// The coordinator sent something.
    FromCoordinator {
        /// Over which stream.
        connection: ConnectionId,
        /// The message's number within the session. Welcome is number 1.
        seq: u64,
        /// What it said.
        message: FromCoordinator,
    },
    /// A stream ended, for whatever reason.
    Disconnected(ConnectionId),
    /// Attempts ended, in this order. Their inits keep the endings until they are released.
    Ended(Vec<Report>),
    /// Attempts that were to be started, and for certain never began: they were stuck behind others, or their worker went
    /// before. In the order in which they were to be started. The shell has forgotten them.
    NotBegun(Vec<Assignment>),
    /// All that had not begun when the core wanted it back has come back before this.
    TakenBack,
    /// The spooled output of an ended attempt is durable with the coordinator, or unwanted.
    Uploaded(AttemptKey),
    /// The spooled output of an ended attempt can never be uploaded.
    UploadFailed {
        /// Whose.
        attempt: AttemptKey,
        /// Why, for people.
        why: String,
    },
    /// The runtime can make workers, or can't, and why.
    Runtime {
        /// Why not; empty if it can.
        not_ready: String,
    },
    /// The last effects' `persist` and `forget` could not be committed, and none of their `sends` was made. The shell
    /// keeps what needs them and performs it once the commit succeeds; what was to be started comes back at once.
    OutboxFailed {
        /// Why, for people.
        why: String,
    },
    /// Everything that could not be committed is committed now.
    OutboxWorks,
    /// The agent is to stop.
    Stop(Stop),
    /// Time has passed. Sent after all inputs that waited were handled.
    Tick,
}

/// How the agent is to stop. What waits is handed back, and nothing is started, either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What runs may end within this time; then it is killed and handed back. Asked again, it may be sooner.
    Drain(Duration),
    /// What runs goes on in its workers, for the next process of this agent to adopt.
    Leave,
}

/// What the coordinator says.
#[derive(Clone, Debug)]
pub enum FromCoordinator {
    /// Answers Hello.
    Welcome {
        /// The coordinator's epoch.
        coordinator_epoch: u64,
        /// The session's.
        session_epoch: u64,
        /// How often to send a heartbeat.
        heartbeat: Duration,
        /// Attempts of Hello that are not wanted.
        discard: Vec<AttemptKey>,
    },
    /// Attempts to run.
    Assign(Vec<Assignment>),
    /// Reports that need not be kept any longer.
    Settled(Vec<AttemptKey>),
    /// Answers a heartbeat.
    Heartbeat,
    /// Attempts to kill.
    Cancel(Vec<AttemptKey>),
    /// Attempts to hand back if they have not begun: another agent has a slot for them.
    Recall(Vec<AttemptKey>),
}
