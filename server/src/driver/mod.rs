//! The driver: the one task that owns the coordinator's core. It takes all inputs that wait, handles them, commits the
//! writes as one transaction, and only then performs the other effects.

use crate::{
    coordinator::{AgentView, FromAgent, Hello, NewProject, ToAgent},
    domain::{AttemptKey, CoordinatorEpoch, Item, ProjectId, ProjectSpec},
};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Why the driver did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The commit failed. What was asked may have been done or not; ask again under the same idempotency key.
    #[error("the store failed, and the coordinator is recovering: try again")]
    Recovering,
    /// The coordinator has stopped.
    #[error("the coordinator is stopping")]
    Stopped,
}

/// How everybody else reaches the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    epoch: CoordinatorEpoch,
}

impl Handle {
    /// The epoch of this coordinator.
    #[must_use]
    pub fn epoch(&self) -> CoordinatorEpoch {
        self.epoch
    }

    /// Makes a complete submission a project; returns once it is durable.
    ///
    /// # Errors
    /// If it may not be durable.
    pub async fn submit(&self, project: NewProject) -> Result<(), DriverError> {
        let _ = project;
        unimplemented!()
    }

    /// Cancels a project; false if it is not active.
    ///
    /// # Errors
    /// If that may not be durable.
    pub async fn cancel(&self, project: ProjectId) -> Result<bool, DriverError> {
        let _ = project;
        unimplemented!()
    }

    /// The agents, by name.
    ///
    /// # Errors
    /// If the coordinator is stopping.
    pub async fn agents(&self) -> Result<Vec<AgentView>, DriverError> {
        unimplemented!()
    }

    /// Opens a session for an agent that said Hello. The first outgoing message is Welcome (or the stream ends with a
    /// refusal).
    ///
    /// # Errors
    /// If the coordinator is stopping.
    pub async fn open_session(&self, hello: Hello) -> Result<(SessionSender, SessionReceiver), DriverError> {
        let _ = hello;
        unimplemented!()
    }

    /// Changes whenever a reader of this project could see something new in the store. Subscribe, then read the store, then
    /// wait for a change, then read again.
    #[must_use]
    pub fn changes(&self, project: ProjectId) -> watch::Receiver<u64> {
        let _ = project;
        unimplemented!()
    }
}

/// The agent's side of a session, into the driver. Dropping it closes the session.
#[derive(Debug)]
pub struct SessionSender {}

impl SessionSender {
    /// Passes a message on; waits while the driver's queue is full.
    ///
    /// # Errors
    /// If the coordinator is stopping.
    pub async fn send(&self, seq: u64, message: FromAgent) -> Result<(), DriverError> {
        let _ = (seq, message);
        unimplemented!()
    }
}

/// The coordinator's side of a session, out of the driver. Ends when the session is closed.
#[derive(Debug)]
pub struct SessionReceiver {
    /// Messages with their numbers, and at the end perhaps the reason for closing.
    pub messages: mpsc::Receiver<Outgoing>,
}

/// What goes out of a session.
#[derive(Debug)]
pub enum Outgoing {
    /// A message other than `ToAgent::Assign`.
    Message {
        /// Its number within the session, from 1.
        seq: u64,
        /// What it says.
        message: ToAgent,
    },
    /// Attempts to run.
    Assign {
        /// The message's number.
        seq: u64,
        /// The attempts.
        attempts: Vec<Assigned>,
    },
    /// The session is closed, and why.
    Close(String),
}

/// One attempt to run, with all that its command is made from.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// Which.
    pub attempt: AttemptKey,
    /// Its project.
    pub spec: Arc<ProjectSpec>,
    /// Its item, if it is in the store; a range or a matrix makes it from the index.
    pub item: Option<Item>,
}
