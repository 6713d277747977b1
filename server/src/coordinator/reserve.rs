//! Reservations: what needs much of an agent is not kept out for ever by small attempts that fill each gap. After a while
//! one agent is kept free for it: it gets nothing else until the first of that class has begun there.

use super::{
    Coordinator, Planted,
    seats::{ClassId, Starved},
};
use crate::domain::AgentId;
use std::cmp::Reverse;

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
            if waits || class.reserved.is_some() {
                class.starved.get_or_insert(Starved { since: now, assigned, passed_over: 0 });
            } else {
                class.starved = None;
            }
            let reserved = class.reserved;
            if let Some(agent) = reserved {
                // It may be gone, or nobody wants it any more.
                if left == 0 || self.share.head(id).is_none() || !self.could_run_on(agent, id) {
                    self.agents.unreserve(agent);
                } else {
                    left -= 1;
                }
            }
        }
        for id in self.agents.class_ids() {
            let Some(class) = self.agents.class(id) else { continue };
            let Some(Starved { since, assigned, .. }) = class.starved else { continue };
            let is_starved =
                self.now.saturating_sub(since) >= self.limits.reserve_after && self.assigned > assigned;
            if left == 0 || class.reserved.is_some() || !is_starved || !self.waits_for_much(id) {
                continue;
            }
            let fitting = self.agents.iter().filter(|&(agent, _)| self.could_run_on(agent, id));
            let emptiest = fitting
                .filter(|(_, agent)| agent.reserved.is_none())
                .max_by_key(|(agent, state)| (state.standing().free_share(), Reverse(*agent)));
            let Some((agent, _)) = emptiest else { continue };
            self.passed_over(id, |count| count + 1);
            if self.limits.has(Planted::ReservationForgotten) {
                continue;
            }
            left -= 1;
            self.agents.reserve(agent, id);
            self.passed_over(id, |_| 0);
            // What waits in its backlog need not begin there.
            let asked = self.agents.update(agent, |agent| agent.recall_newest(|_| true));
            self.outgoing_to(agent, |out| out.recall.extend(asked.unwrap_or_default()));
        }
    }

    fn passed_over(&mut self, id: ClassId, count: impl FnOnce(u32) -> u32) {
        if let Some(starved) = self.agents.class_mut(id).and_then(|class| class.starved.as_mut()) {
            starved.passed_over = count(starved.passed_over);
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
    pub(super) fn could_run_on(&self, agent: AgentId, class: ClassId) -> bool {
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
            let starved = self.agents.class(id).and_then(|class| class.starved);
            let passed_over = starved.map_or(0, |starved| starved.passed_over);
            assert_eq!(passed_over, 0, "{id:?} is starved, and an agent could be kept free for it");
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
