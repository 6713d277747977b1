//! What the agent's core wants done. Nothing of it is done before `persist` and `forget` are committed to the outbox.

use super::input::ConnectionId;
use crate::domain::{Assignment, AttemptKey, Report};

/// Everything that a batch of inputs calls for, in the order in which it is performed.
#[derive(Debug, Default)]
pub struct Effects {
    /// First: reports to add to the outbox. One replaces an earlier one of the same attempt.
    pub persist: Vec<Report>,
    /// In the same transaction: reports to remove from it, with their spool files.
    pub forget: Vec<AttemptKey>,
    /// Then: endings that are in the outbox or settled, so that init need not keep them and the worker can go.
    pub release: Vec<AttemptKey>,
    /// All that was started and has not begun is to come back, as [`super::Input::NotBegun`]; then comes
    /// [`super::Input::TakenBack`]. Nothing is started any more.
    pub take_back: bool,
    /// Attempts to kill. Each ends with [`super::Input::Ended`] or [`super::Input::NotBegun`] all the same.
    pub kill: Vec<AttemptKey>,
    /// Attempts to start, in this order. There are more than slots if attempts end fast: those beyond wait in the shell
    /// for a slot, so that none waits for the core.
    pub start: Vec<Assignment>,
    /// Ended attempts whose spooled output is to be uploaded, until [`super::Input::Uploaded`] or
    /// [`super::Input::UploadFailed`].
    pub upload: Vec<AttemptKey>,
    /// Messages to the coordinator, in order.
    pub sends: Vec<(ConnectionId, u64, ToCoordinator)>,
    /// Connections to close, and why.
    pub closes: Vec<(ConnectionId, String)>,
    /// All is handed back: the process can end.
    pub stopped: bool,
}

impl Effects {
    /// Whether the coordinator is told of endings.
    #[must_use]
    pub fn has_reports(&self) -> bool {
        self.sends.iter().any(|(_, _, message)| matches!(message, ToCoordinator::Reports(_)))
    }
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq)]
pub enum ToCoordinator {
    /// Opens the session; the shell adds what never changes (name, version, slots).
    Hello {
        /// What is running.
        live: Vec<AttemptKey>,
        /// What is in the outbox.
        unrecorded: Vec<AttemptKey>,
        /// The highest coordinator epoch seen.
        coordinator_epoch_seen: u64,
    },
    /// It is alive.
    Heartbeat,
    /// How many attempts it wants to hold at once.
    Credits {
        /// The number.
        attempts_max: u32,
        /// Why none; empty if some.
        not_ready: String,
    },
    /// Attempts that ended.
    Reports(Vec<Report>),
    /// Attempts that are handed back unfinished.
    Returned(Vec<AttemptKey>),
}
