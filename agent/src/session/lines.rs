//! The open streams, as the driver sees them: something to send on, and something to close.

use crate::{
    supervisor::{ConnectionId, ToCoordinator},
    wire::{HelloFacts, outgoing},
};
use piecework_proto::v1;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

/// How many messages wait to be sent on one stream, in messages. All of a full outbox fits; whoever lets more wait does
/// not read.
const MESSAGES_MAX: usize = 256;

#[derive(Debug)]
struct Line {
    messages: mpsc::Sender<v1::AgentMessage>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    open: BTreeMap<ConnectionId, Line>,
}

/// All open streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines {
    facts: Arc<HelloFacts>,
    state: Arc<Mutex<State>>,
}

impl Lines {
    /// None yet; Hello will carry these facts.
    #[must_use]
    pub fn new(facts: HelloFacts) -> Self {
        Self { facts: Arc::new(facts), state: Arc::default() }
    }

    /// A new stream: its name, what is to be sent on it, and the wish to close it.
    pub(super) fn open(&self) -> (ConnectionId, mpsc::Receiver<v1::AgentMessage>, CancellationToken) {
        let (messages, receiver) = mpsc::channel(MESSAGES_MAX);
        let closed = CancellationToken::new();
        let mut state = self.state();
        state.last += 1;
        let connection = ConnectionId(state.last);
        state.open.insert(connection, Line { messages, closed: closed.clone() });
        (connection, receiver, closed)
    }

    /// Sends a message. One for a stream that is closed is dropped: the core will hear of the end.
    pub fn send(&self, connection: ConnectionId, seq: u64, message: &ToCoordinator) {
        let mut state = self.state();
        let Some(line) = state.open.get(&connection) else { return };
        match line.messages.try_send(outgoing(&self.facts, seq, message)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::warn!("the coordinator does not read: {MESSAGES_MAX} messages wait for it");
                line.closed.cancel();
                state.open.remove(&connection);
            }
            Err(TrySendError::Closed(_)) => {
                state.open.remove(&connection);
            }
        }
    }

    /// Closes a stream at once. What waits to be sent on it is dropped.
    pub fn close(&self, connection: ConnectionId) {
        if let Some(line) = self.state().open.remove(&connection) {
            line.closed.cancel();
        }
    }

    /// Ends all streams after what was sent on them.
    pub fn end(&self) {
        self.state().open.clear();
    }

    /// A panic while the lock was held leaves nothing half done.
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Lines {
        Lines::new(HelloFacts {
            name: "host".into(),
            identity: "d".into(),
            instance: "i".into(),
            slots: 1,
            runtime: "scripted",
            labels: BTreeMap::new(),
            cpus_milli: 1000,
            memory_bytes: 1,
        })
    }

    #[tokio::test]
    async fn what_was_sent_leaves_before_the_end() {
        let lines = lines();
        let (first, mut receiver, closed) = lines.open();
        lines.send(first, 1, &ToCoordinator::Heartbeat);
        lines.end();
        lines.send(first, 2, &ToCoordinator::Heartbeat);
        assert_eq!(receiver.recv().await.map(|message| message.seq), Some(1));
        assert!(receiver.recv().await.is_none());
        assert!(!closed.is_cancelled());
    }

    #[tokio::test]
    async fn a_coordinator_that_does_not_read_is_dropped() {
        let lines = lines();
        let (first, _receiver, closed) = lines.open();
        let (second, _other, other_closed) = lines.open();
        assert!(first < second);
        for seq in 1..=MESSAGES_MAX as u64 {
            lines.send(first, seq, &ToCoordinator::Heartbeat);
        }
        assert!(!closed.is_cancelled());
        lines.send(first, 0, &ToCoordinator::Heartbeat);
        assert!(closed.is_cancelled());
        assert!(!other_closed.is_cancelled());
    }
}
