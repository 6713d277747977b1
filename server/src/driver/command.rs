//! What reaches the driver, and how it becomes an input of the core.

use super::handle::{DriverError, Outgoing};
use crate::{
    coordinator::{AgentView, Hello, Input, NewProject, Reply, ReplyId, SessionId},
    domain::ProjectId,
};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, oneshot};

/// Something for the driver.
#[derive(Debug)]
pub(super) enum Command {
    Submit { project: NewProject, reply: oneshot::Sender<Result<(), DriverError>> },
    AddTasks { project: ProjectId, tasks: u32, end: bool, reply: oneshot::Sender<Result<bool, DriverError>> },
    Cancel { project: ProjectId, reply: oneshot::Sender<Result<bool, DriverError>> },
    ListAgents { reply: oneshot::Sender<Result<Vec<AgentView>, DriverError>> },
    GetAgent { name: String, reply: oneshot::Sender<Result<Option<AgentView>, DriverError>> },
    Waiting { project: ProjectId, reply: oneshot::Sender<Result<Option<String>, DriverError>> },
    Drain { name: String, draining: bool, reply: oneshot::Sender<Result<bool, DriverError>> },
    RemoveAgent { name: String, force: bool, reply: oneshot::Sender<Result<Removed, DriverError>> },
    Open { session: SessionId, hello: Box<Hello>, sender: mpsc::Sender<Outgoing> },
    Input(Input),
}

/// What became of the wish to remove an agent.
#[derive(Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Done,
    /// There is none.
    NoAgent,
    /// It holds so many attempts, and stays.
    Holds(u32),
    /// It is connected over the coordinator's own socket, and would be back at once.
    IsLocal,
}

/// Who waits for an answer.
#[derive(Debug)]
enum Waiter {
    Submit(oneshot::Sender<Result<(), DriverError>>),
    AddTasks(oneshot::Sender<Result<bool, DriverError>>),
    Cancel(oneshot::Sender<Result<bool, DriverError>>),
    ListAgents(oneshot::Sender<Result<Vec<AgentView>, DriverError>>),
    GetAgent(oneshot::Sender<Result<Option<AgentView>, DriverError>>),
    Waiting(oneshot::Sender<Result<Option<String>, DriverError>>),
    Drain(oneshot::Sender<Result<bool, DriverError>>),
    RemoveAgent(oneshot::Sender<Result<Removed, DriverError>>),
}

/// The requests of the turn under way. Each is answered in the turn in which it was handled.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    next: u64,
    waiting: BTreeMap<ReplyId, Waiter>,
}

impl Waiters {
    fn add(&mut self, waiter: Waiter) -> ReplyId {
        self.next += 1;
        let reply = ReplyId(self.next);
        self.waiting.insert(reply, waiter);
        reply
    }

    pub(super) fn answer(&mut self, id: ReplyId, reply: Reply) {
        // Who no longer waits does not mind.
        match (self.waiting.remove(&id), reply) {
            (Some(Waiter::Submit(waiter)), Reply::Done) => drop(waiter.send(Ok(()))),
            (Some(Waiter::AddTasks(waiter)), Reply::Done) => drop(waiter.send(Ok(true))),
            (Some(Waiter::AddTasks(waiter)), Reply::NotOpen) => drop(waiter.send(Ok(false))),
            (Some(Waiter::Cancel(waiter)), Reply::Done) => drop(waiter.send(Ok(true))),
            (Some(Waiter::Cancel(waiter)), Reply::NotActive) => drop(waiter.send(Ok(false))),
            (Some(Waiter::ListAgents(waiter)), Reply::Agents(agents)) => drop(waiter.send(Ok(agents))),
            (Some(Waiter::GetAgent(waiter)), Reply::Agents(agents)) => {
                drop(waiter.send(Ok(agents.into_iter().next())));
            }
            (Some(Waiter::GetAgent(waiter)), Reply::NoAgent) => drop(waiter.send(Ok(None))),
            (Some(Waiter::Waiting(waiter)), Reply::Waiting(why)) => drop(waiter.send(Ok(why))),
            (Some(Waiter::Drain(waiter)), Reply::Done) => drop(waiter.send(Ok(true))),
            (Some(Waiter::Drain(waiter)), Reply::NoAgent) => drop(waiter.send(Ok(false))),
            (Some(Waiter::RemoveAgent(waiter)), Reply::Done) => drop(waiter.send(Ok(Removed::Done))),
            (Some(Waiter::RemoveAgent(waiter)), Reply::NoAgent) => drop(waiter.send(Ok(Removed::NoAgent))),
            (Some(Waiter::RemoveAgent(waiter)), Reply::Holds(held)) => {
                drop(waiter.send(Ok(Removed::Holds(held))));
            }
            (Some(Waiter::RemoveAgent(waiter)), Reply::IsLocal) => drop(waiter.send(Ok(Removed::IsLocal))),
            (waiter, reply) => debug_assert!(waiter.is_none(), "{waiter:?} got {reply:?}"),
        }
    }

    /// The turn failed.
    pub(super) fn refuse_all(&mut self, why: DriverError) {
        for waiter in std::mem::take(&mut self.waiting).into_values() {
            match waiter {
                Waiter::Submit(waiter) => drop(waiter.send(Err(why))),
                Waiter::AddTasks(waiter) | Waiter::Cancel(waiter) => drop(waiter.send(Err(why))),
                Waiter::ListAgents(waiter) => drop(waiter.send(Err(why))),
                Waiter::GetAgent(waiter) => drop(waiter.send(Err(why))),
                Waiter::Waiting(waiter) => drop(waiter.send(Err(why))),
                Waiter::Drain(waiter) => drop(waiter.send(Err(why))),
                Waiter::RemoveAgent(waiter) => drop(waiter.send(Err(why))),
            }
        }
    }
}

impl Command {
    /// Keeps what waits for an answer or for messages, and leaves the input.
    pub(super) fn into_input(
        self,
        waiters: &mut Waiters,
        sessions: &mut BTreeMap<SessionId, mpsc::Sender<Outgoing>>,
    ) -> Input {
        match self {
            Self::Submit { project, reply } => {
                Input::Submit { project, reply: waiters.add(Waiter::Submit(reply)) }
            }
            Self::AddTasks { project, tasks, end, reply } => {
                Input::AddTasks { project, tasks, end, reply: waiters.add(Waiter::AddTasks(reply)) }
            }
            Self::Cancel { project, reply } => {
                Input::Cancel { project, reply: waiters.add(Waiter::Cancel(reply)) }
            }
            Self::ListAgents { reply } => Input::ListAgents { reply: waiters.add(Waiter::ListAgents(reply)) },
            Self::GetAgent { name, reply } => {
                Input::GetAgent { name, reply: waiters.add(Waiter::GetAgent(reply)) }
            }
            Self::Waiting { project, reply } => {
                Input::Waiting { project, reply: waiters.add(Waiter::Waiting(reply)) }
            }
            Self::Drain { name, draining, reply } => {
                Input::Drain { name, draining, reply: waiters.add(Waiter::Drain(reply)) }
            }
            Self::RemoveAgent { name, force, reply } => {
                Input::RemoveAgent { name, force, reply: waiters.add(Waiter::RemoveAgent(reply)) }
            }
            Self::Open { session, hello, sender } => {
                sessions.insert(session, sender);
                Input::Hello { session, hello }
            }
            Self::Input(input) => {
                if let Input::SessionClosed { session } = &input {
                    sessions.remove(session);
                }
                input
            }
        }
    }
}
