//! What performs the core's effects: attempts, uploads and open streams.

use crate::{
    domain::{Assignment, AttemptKey, OutputStream},
    pool::Pool,
    session::{Lines, Uploads},
    supervisor::{ConnectionId, ToCoordinator, driver::Hands},
};

/// The real hands.
pub(super) struct AgentHands {
    pub(super) pool: Pool,
    pub(super) uploads: Uploads,
    pub(super) lines: Lines,
}

impl Hands for AgentHands {
    fn forget(&mut self, attempt: AttemptKey) {
        self.uploads.forget(attempt);
    }

    fn release(&mut self, attempts: Vec<AttemptKey>) {
        self.pool.release(&attempts);
    }

    fn kill(&mut self, attempt: AttemptKey) {
        self.pool.kill(attempt);
    }

    fn take_back(&mut self) {
        self.pool.take_back();
    }

    fn start(&mut self, assignments: Vec<Assignment>) {
        self.pool.start(assignments);
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
