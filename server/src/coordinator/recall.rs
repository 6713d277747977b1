//! Recalling: when a slot is free somewhere and nothing is left to publish, what waits in another agent's backlog is asked
//! back, so that it can run there.

use super::{Coordinator, Effects, Planted, seats::ClassId};
use crate::domain::AgentId;
use std::collections::BTreeMap;

/// The most attempts that are recalled in one turn, in attempts.
const RECALL_ATTEMPTS_MAX: u32 = 512;

/// The most agents that are asked in one turn.
const RECALL_AGENTS_MAX: usize = 64;

impl Coordinator {
    /// Recalls as much as there are idle slots for, the newest of the fullest agents. Each attempt is recalled once until it
    /// comes back, handed back or ended; a new session begins anew.
    pub(super) fn recall(&mut self, fx: &mut Effects) {
        // What is in TODO fills slots, too; and whoever is hungry publishes as soon as there is room.
        if self.share.heads().any(|(class, _, _)| self.has_room(class)) {
            return;
        }
        let idle = self.agents.class_ids().into_iter().map(|class| (class, self.slots_idle(class)));
        let mut wanted: BTreeMap<ClassId, u32> = idle.filter(|&(_, idle)| idle > 0).collect();
        if wanted.is_empty() {
            return;
        }
        let mut left = RECALL_ATTEMPTS_MAX;
        let fullest: Vec<AgentId> = self.agents.fullest().take(RECALL_AGENTS_MAX).collect();
        for id in fullest {
            if left == 0 || wanted.values().all(|&idle| idle == 0) {
                return;
            }
            let recalled = self.agents.update(id, |agent| {
                agent.recall_newest(|class| {
                    if left == 0 || wanted.get(&class).is_none_or(|&idle| idle == 0) {
                        return false;
                    }
                    left -= 1;
                    // The same slot may be idle for more than one class.
                    wanted.values_mut().for_each(|idle| *idle = idle.saturating_sub(1));
                    true
                })
            });
            let recalled = recalled.unwrap_or_default();
            if self.limits.has(Planted::RecallTakenForReturned) {
                for &attempt in &recalled {
                    self.returned(attempt, id, fx);
                }
            }
            if !recalled.is_empty() {
                self.outgoing_to(id, |out| out.recall.extend(recalled));
            }
        }
    }

    /// How many slots are idle that could run attempts of a class, beyond those that wait for what was asked back or is in
    /// TODO.
    fn slots_idle(&self, class: ClassId) -> u32 {
        let at_once = self.agents.class(class).map_or(0, |class| class.at_once());
        let spoken_for = u64::from(self.agents.awaited()) + u64::from(self.published);
        u32::try_from(at_once.saturating_sub(spoken_for)).unwrap_or(u32::MAX)
    }
}
