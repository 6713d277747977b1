//! How everybody else reaches the driver.

use super::{
    changes::Changes,
    command::{Command, Removed},
};
use crate::{
    coordinator::{AgentView, FromAgent, Hello, Input, NewProject, SessionId, ToAgent},
    domain::{AgentId, AttemptKey, CoordinatorEpoch, Item, ProjectId, ProjectSpec},
    store::KnownAgent,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{mpsc, oneshot, watch};

/// How many messages may wait for one agent's stream. An agent that reads slower than that loses its session.
const SESSION_MESSAGES_MAX: usize = 1024;

/// Why the driver did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
    pub(super) epoch: CoordinatorEpoch,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) changes: Changes,
    pub(super) sessions: Arc<AtomicU64>,
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
        self.ask(|reply| Command::Submit { project, reply }).await
    }

    /// Makes staged tasks a part of an open project, which has so many with them, and closes it if no more follow. False if it
    /// is not open.
    ///
    /// # Errors
    /// If that may not be durable.
    pub async fn add_tasks(&self, project: ProjectId, tasks: u32, end: bool) -> Result<bool, DriverError> {
        self.ask(|reply| Command::AddTasks { project, tasks, end, reply }).await
    }

    /// Cancels a project; false if it is not active.
    ///
    /// # Errors
    /// If that may not be durable.
    pub async fn cancel(&self, project: ProjectId) -> Result<bool, DriverError> {
        self.ask(|reply| Command::Cancel { project, reply }).await
    }

    /// The agents, by name.
    ///
    /// # Errors
    /// If the coordinator is stopping.
    pub async fn agents(&self) -> Result<Vec<AgentView>, DriverError> {
        self.ask(|reply| Command::ListAgents { reply }).await
    }

    /// One agent, with what it holds.
    ///
    /// # Errors
    /// If the coordinator is stopping.
    pub async fn agent(&self, name: String) -> Result<Option<AgentView>, DriverError> {
        self.ask(|reply| Command::GetAgent { name, reply }).await
    }

    /// What the tasks of a project wait for, if any do.
    ///
    /// # Errors
    /// If the coordinator is stopping.
    pub async fn waiting(&self, project: ProjectId) -> Result<Option<String>, DriverError> {
        self.ask(|reply| Command::Waiting { project, reply }).await
    }

    /// Drains an agent, or undrains it; false if there is none.
    ///
    /// # Errors
    /// If that may not be durable.
    pub async fn drain(&self, name: String, draining: bool) -> Result<bool, DriverError> {
        self.ask(|reply| Command::Drain { name, draining, reply }).await
    }

    /// Removes an agent.
    ///
    /// # Errors
    /// If that may not be durable.
    pub async fn remove_agent(&self, name: String, force: bool) -> Result<Removed, DriverError> {
        self.ask(|reply| Command::RemoveAgent { name, force, reply }).await
    }

    /// An agent has enrolled.
    ///
    /// # Errors
    /// If the coordinator is stopping.
    pub async fn enrolled(&self, agent: KnownAgent) -> Result<(), DriverError> {
        self.tell(Input::Enrolled(agent)).await
    }

    /// An old certificate of an agent was shown.
    ///
    /// # Errors
    /// If the coordinator is stopping.
    pub async fn old_certificate(&self, agent: AgentId, address: String) -> Result<(), DriverError> {
        self.tell(Input::OldCertificate { agent, address }).await
    }

    async fn tell(&self, input: Input) -> Result<(), DriverError> {
        self.commands.send(Command::Input(input)).await.map_err(|_| DriverError::Stopped)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, DriverError>>) -> Command,
    ) -> Result<T, DriverError> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(command(sender)).await.map_err(|_| DriverError::Stopped)?;
        receiver.await.map_err(|_| DriverError::Stopped)?
    }

    /// Opens a session for an agent that said Hello. The first outgoing message is Welcome, or the reason for a refusal.
    ///
    /// # Errors
    /// If the coordinator is stopping.
    pub async fn open_session(&self, hello: Hello) -> Result<(SessionSender, SessionReceiver), DriverError> {
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        let (sender, messages) = mpsc::channel(SESSION_MESSAGES_MAX);
        let open = Command::Open { session, hello: Box::new(hello), sender };
        self.commands.send(open).await.map_err(|_| DriverError::Stopped)?;
        Ok((SessionSender { session, commands: self.commands.clone() }, SessionReceiver { messages }))
    }

    /// Changes whenever a reader of this project could see something new in the store. Subscribe, then read the store, then
    /// wait for a change, then read again.
    #[must_use]
    pub fn changes(&self, project: ProjectId) -> watch::Receiver<u64> {
        self.changes.subscribe(project)
    }

    /// As [`Self::changes`], for a reader of all projects.
    #[must_use]
    pub fn all_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe_all()
    }
}

/// The agent's side of a session, into the driver. Dropping it closes the session.
#[derive(Debug)]
pub struct SessionSender {
    session: SessionId,
    commands: mpsc::Sender<Command>,
}

impl SessionSender {
    /// Passes a message on; waits while the driver's queue is full.
    ///
    /// # Errors
    /// If the coordinator is stopping.
    pub async fn send(&self, seq: u64, message: FromAgent) -> Result<(), DriverError> {
        let input = Input::FromAgent { session: self.session, seq, message };
        self.commands.send(Command::Input(input)).await.map_err(|_| DriverError::Stopped)
    }
}

impl Drop for SessionSender {
    fn drop(&mut self) {
        let closed = Command::Input(Input::SessionClosed { session: self.session });
        if let Err(mpsc::error::TrySendError::Full(closed)) = self.commands.try_send(closed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let commands = self.commands.clone();
            // At most one such task for each session; it ends with the driver.
            runtime.spawn(async move { commands.send(closed).await });
        }
    }
}

/// The coordinator's side of a session, out of the driver. Ends when the session is closed.
#[derive(Debug)]
pub struct SessionReceiver {
    /// In order. The wire numbers them.
    pub messages: mpsc::Receiver<Outgoing>,
}

/// What goes out of a session.
#[derive(Debug)]
pub enum Outgoing {
    /// A message other than [`ToAgent::Assign`].
    Message(ToAgent),
    /// Attempts to run.
    Assign(Vec<Assigned>),
    /// The session is closed, and why. The last of all.
    Close(String),
}

/// One attempt to run, with all that its command and stdin are made from.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// Which.
    pub attempt: AttemptKey,
    /// Its project.
    pub spec: Arc<ProjectSpec>,
    /// Its item, if it is in the store; a range or a matrix makes it from the index.
    pub item: Option<Item>,
}
