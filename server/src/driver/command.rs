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
    Cancel { project: ProjectId, reply: oneshot::Sender<Result<bool, DriverError>> },
    ListAgents { reply: oneshot::Sender<Result<Vec<AgentView>, DriverError>> },
    Open { session: SessionId, hello: Box<Hello>, sender: mpsc::Sender<Outgoing> },
    Input(Input),
}

/// Who waits for an answer.
#[derive(Debug)]
enum Waiter {
    Submit(oneshot::Sender<Result<(), DriverError>>),
    Cancel(oneshot::Sender<Result<bool, DriverError>>),
    ListAgents(oneshot::Sender<Result<Vec<AgentView>, DriverError>>),
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
            (Some(Waiter::Cancel(waiter)), Reply::Done) => drop(waiter.send(Ok(true))),
            (Some(Waiter::Cancel(waiter)), Reply::NotActive) => drop(waiter.send(Ok(false))),
            (Some(Waiter::ListAgents(waiter)), Reply::Agents(agents)) => drop(waiter.send(Ok(agents))),
            (waiter, reply) => debug_assert!(waiter.is_none(), "{waiter:?} got {reply:?}"),
        }
    }

    /// The turn failed.
    pub(super) fn refuse_all(&mut self, why: DriverError) {
        for waiter in std::mem::take(&mut self.waiting).into_values() {
            match waiter {
                Waiter::Submit(waiter) => drop(waiter.send(Err(why))),
                Waiter::Cancel(waiter) => drop(waiter.send(Err(why))),
                Waiter::ListAgents(waiter) => drop(waiter.send(Err(why))),
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
            Self::Cancel { project, reply } => {
                Input::Cancel { project, reply: waiters.add(Waiter::Cancel(reply)) }
            }
            Self::ListAgents { reply } => Input::ListAgents { reply: waiters.add(Waiter::ListAgents(reply)) },
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
