//! Reservations: what needs much of an agent is not kept out for ever by small attempts that fill each gap. After a while
//! one agent is kept free for it: it gets nothing else until the first of that class has begun there.

use super::{
    Coordinator, Planted,
    agent::Agent,
    seats::{ClassId, Starved},
};
use crate::domain::AgentId;
use std::{cmp::Reverse, time::Duration};

/// Ticks come at least so often.
const OVERDUE: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Looks at what waits, and keeps agents free for it, at most half of them (rounded up) at a time.
    pub(super) fn reserve(&mut self) {
        let serving = self.agents.iter().filter(|(_, agent)| agent.serves()).count();
        let mut left = serving.div_ceil(2);
        for id in self.agents.class_ids() {
            let waits = self.waits_for_much(id);
            let assigned = self.assigned;
            let now = self.now;
            let Some(class) = self.agents.class_mut(id) else { continue };
            let since = if waits || class.reserved.is_some() {
                Some(*class.starved.get_or_insert(Starved { since: now, assigned }))
            } else {
                None
            };
            class.starved = since;
            let reserved = class.reserved;
            if let Some(agent) = reserved {
                // It may be gone, or nobody wants it any more.
                if left == 0 || self.share.head(id).is_none() || !self.can_keep_free(agent, id) {
                    self.agents.unreserve(agent);
                } else {
                    left -= 1;
                }
            }
        }
        for id in self.agents.class_ids() {
            let Some(class) = self.agents.class(id) else { continue };
            let Some(Starved { since, assigned }) = class.starved else { continue };
            let is_starved =
                self.now.saturating_sub(since) >= self.limits.reserve_after && self.assigned > assigned;
            if left == 0 || class.reserved.is_some() || !is_starved || !self.waits_for_much(id) {
                continue;
            }
            if self.limits.has(Planted::ReservationForgotten) {
                continue;
            }
            let fitting = self.agents.iter().filter(|&(agent, _)| self.can_keep_free(agent, id));
            let emptiest = fitting
                .filter(|(_, agent)| agent.reserved.is_none())
                .max_by_key(|(agent, state)| (state.standing().free_share(), Reverse(*agent)));
            let Some((agent, _)) = emptiest else { continue };
            left -= 1;
            self.agents.reserve(agent, id);
            // What waits in its backlog need not begin there.
            let asked = self.agents.update(agent, |agent| agent.recall_newest(|_| true));
            self.outgoing_to(agent, |out| out.recall.extend(asked.unwrap_or_default()));
        }
    }

    /// Something of this class is to be done, takes more than a slot, and has no seat anywhere.
    fn waits_for_much(&self, id: ClassId) -> bool {
        let class = self.agents.class(id);
        let has_no_seat = class
            .is_some_and(|class| !class.asks.need.is_nothing() && class.seats() == 0 && class.published == 0);
        has_no_seat && self.share.head(id).is_some()
    }

    /// Whether the agent could run attempts of this class if it held nothing else.
    pub(super) fn can_keep_free(&self, agent: AgentId, class: ClassId) -> bool {
        let (Some(agent), Some(class)) = (self.agents.get(agent), self.agents.class(class)) else {
            return false;
        };
        agent.serves()
            && agent.wants() > 0
            && class.asks.matches(&agent.about.labels)
            && agent.standing().levels.could_run(class.asks.need)
    }

    /// Panics if too many agents are kept free, or something is starved for long that one could be kept free for.
    pub(super) fn check_reservations(&self) {
        let kept = self.agents.iter().filter(|(_, agent)| agent.reserved.is_some()).count();
        let known = self.agents.iter().count();
        assert!(kept <= known.div_ceil(2), "{kept} of {known} agents are kept free");
        for id in self.agents.class_ids() {
            let Some(class) = self.agents.class(id) else { continue };
            let Some(Starved { since, assigned }) = class.starved else { continue };
            let could = |&(agent, state): &(AgentId, &Agent)| {
                state.reserved.is_none() && self.can_keep_free(agent, id)
            };
            let serving = self.agents.iter().filter(|(_, agent)| agent.serves()).count();
            let is_overdue = self.now.saturating_sub(since) > self.limits.reserve_after + OVERDUE;
            let is_starved = is_overdue && class.reserved.is_none() && self.assigned > assigned;
            assert!(
                !is_starved || kept >= serving.div_ceil(2) || !self.agents.iter().any(|agent| could(&agent)),
                "{id:?} is starved, and no agent is kept free for it"
            );
        }
    }

    /// An attempt of this class has a seat with this agent.
    pub(super) fn seated(&mut self, id: ClassId, agent: AgentId) {
        let Some(class) = self.agents.class_mut(id) else { return };
        class.starved = None;
        if class.reserved == Some(agent) {
            self.agents.unreserve(agent);
        }
    }
}
