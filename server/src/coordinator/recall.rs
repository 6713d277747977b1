//! Recalling: when a slot is free somewhere and nothing is left to publish, what waits in another agent's backlog is asked
//! back, so that it can run there.

use super::{Coordinator, Effects, Planted};

/// The most attempts that are recalled in one turn, in attempts.
const RECALL_ATTEMPTS_MAX: u32 = 512;

impl Coordinator {
    /// Recalls as much as there are idle slots, the newest of the fullest agents. Each attempt is recalled once until it
    /// comes back, handed back or ended; a new session begins anew.
    pub(super) fn recall(&mut self, fx: &mut Effects) {
        // What is in TODO fills slots, too; and whoever is hungry publishes as soon as there is room.
        if self.share.front().is_some() {
            return;
        }
        let mut wanted = self.agents.slots_idle().saturating_sub(self.published).min(RECALL_ATTEMPTS_MAX);
        while wanted > 0 {
            let Some(id) = self.agents.fullest() else { return };
            let recalled = self.agents.update(id, |agent| agent.recall_newest(wanted)).unwrap_or_default();
            let count = u32::try_from(recalled.len()).unwrap_or(u32::MAX);
            debug_assert!(count > 0, "an agent with excess has something to recall");
            if count == 0 {
                return;
            }
            wanted -= count.min(wanted);
            if self.limits.has(Planted::RecallTakenForReturned) {
                for &attempt in &recalled {
                    self.returned(attempt, id, fx);
                }
            }
            self.outgoing_to(id, |out| out.recall.extend(recalled));
        }
    }
}
