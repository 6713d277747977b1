//! What performs the core's effects: attempts, uploads and open streams.

use crate::{
    attempt::Attempts,
    domain::{Assignment, AttemptKey, OutputStream},
    session::{Lines, Uploads},
    supervisor::{ConnectionId, ToCoordinator, driver::Hands},
};

/// The real hands.
pub(super) struct AgentHands {
    pub(super) attempts: Attempts,
    pub(super) uploads: Uploads,
    pub(super) lines: Lines,
}

impl Hands for AgentHands {
    fn forget(&mut self, attempt: AttemptKey) {
        self.uploads.forget(attempt);
    }

    fn release(&mut self, attempt: AttemptKey) {
        self.attempts.release(attempt);
    }

    fn kill(&mut self, attempt: AttemptKey) {
        self.attempts.kill(attempt);
    }

    fn start(&mut self, assignment: Assignment) {
        self.attempts.start(assignment);
    }

    fn upload(&mut self, attempt: AttemptKey, outputs: Vec<(OutputStream, u64)>) {
        self.uploads.begin(attempt, outputs);
    }

    fn send(&mut self, connection: ConnectionId, seq: u64, message: ToCoordinator) {
        self.lines.send(connection, seq, &message);
    }

    fn close(&mut self, connection: ConnectionId, why: &str) {
        tracing::warn!(connection = connection.0, "the connection is closed: {why}");
        self.lines.close(connection);
    }
}
