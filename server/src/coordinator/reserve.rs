//! Reservations: what needs much of an agent is not kept out for ever by small attempts that fill each gap.
//!
//! A class of attempts is starved once others were published that come later in the fair order, while it had no seat, and
//! until it has caught up with them. After a while an agent is kept free for it: the agent gets nothing else until one of the
//! class has begun there. The longer it lasts, the more agents, as far as it is owed them; who has waited longest is first. An
//! agent on which something else goes on and on is given up for another one.

use super::{
    Coordinator, Planted,
    agent::Reserved,
    seats::{Class, ClassId, Starved},
    share::Tag,
};
use crate::domain::AgentId;
use std::{cmp::Reverse, time::Duration};

/// For how long an agent is kept free at the most: something may go on and on there.
const KEPT_MAX: Duration = Duration::from_secs(300);

/// Something of this class is to be done, takes more than a slot, and has no seat anywhere.
fn has_no_seat(class: &Class) -> bool {
    !class.asks.need.is_nothing() && class.seats() == 0 && class.published == 0
}

impl Coordinator {
    /// Something was published that has this place in the fair order. Those before it that have no seat were passed over.
    pub(super) fn passed_over(&mut self, by: Tag) {
        for (id, tag, project) in self.share.heads() {
            if tag < by
                && let Some(project) = self.projects.get(&project)
                && let Some(class) = self.agents.class_mut(id)
                && has_no_seat(class)
            {
                let starved = class.starved.get_or_insert(Starved::new(self.now, by));
                starved.last = self.now;
                starved.by = starved.by.max(by);
                starved.owed = usize::try_from((by - tag) / project.account.step()).unwrap_or(0) + 1;
            }
        }
    }

    /// An attempt of this class has a seat with this agent.
    pub(super) fn seated(&mut self, id: ClassId, agent: AgentId) {
        let Some(class) = self.agents.class_mut(id) else { return };
        if let Some(starved) = &mut class.starved {
            starved.served = self.now;
        }
        if class.reserved.contains(&agent) {
            self.agents.unreserve(agent);
        }
    }

    /// Looks at what waits, and keeps agents free for it, at most half of them (rounded up) at a time.
    pub(super) fn reserve(&mut self) {
        let serving = self.agents.iter().filter(|(_, agent)| agent.serves()).count();
        let mut left = serving.div_ceil(2);
        for id in self.agents.class_ids() {
            self.review(id, &mut left);
        }
        let waiting = self.agents.class_ids().into_iter().filter_map(|id| Some((self.waits_since(id)?, id)));
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_unstable();
        if self.limits.has(Planted::ReservationOutOfTurn) {
            waiting.reverse();
        }
        for (n, &(since, id)) in waiting.iter().enumerate() {
            if left == 0 {
                break;
            }
            let Some(agent) = self.emptiest(id) else { continue };
            for &(_, other) in waiting.iter().skip(n + 1).filter(|&&(other, _)| other < since) {
                if self.could_be_kept(agent, other) {
                    self.out_of_turn(other);
                }
            }
            if self.limits.has(Planted::ReservationForgotten) {
                continue;
            }
            left -= 1;
            self.keep_free(agent, id);
        }
    }

    /// Looks at a class that was passed over: whether it still is starved, and whether those that are kept free for it should be.
    fn review(&mut self, id: ClassId, left: &mut usize) {
        let now = self.now;
        let head = self.share.head(id).map(|(tag, _)| tag);
        let Some(starved) = self.agents.class(id).and_then(|class| class.starved) else { return };
        let is_past = now.saturating_sub(starved.last) >= self.limits.reserve_after;
        let has_caught_up = head.is_none_or(|tag| tag >= starved.by && is_past);
        // What no agent could run is in nobody's way, and nobody in its.
        let is_possible = || self.agents.iter().any(|(agent, _)| self.could_run_on(agent, id));
        let ends = has_caught_up || !is_possible();
        let Some(class) = self.agents.class_mut(id) else { return };
        if ends {
            class.starved = None;
            self.agents.unreserve_all(id);
            return;
        }
        for agent in class.reserved.clone() {
            let reserved = self.agents.get(agent).and_then(|agent| agent.reserved);
            let is_in_vain = reserved.is_some_and(|reserved| reserved.until <= now);
            // It may be gone, or fewer agents are left.
            if *left > 0 && !is_in_vain && self.could_run_on(agent, id) {
                *left -= 1;
                continue;
            }
            self.agents.unreserve(agent);
            if let Some(Reserved { since, .. }) = reserved.filter(|_| is_in_vain)
                && let Some(starved) = self.agents.class_mut(id).and_then(|class| class.starved.as_mut())
            {
                starved.in_vain = Some((agent, now + now.saturating_sub(since)));
            }
        }
    }

    /// Since when a class waits that should have an agent, or one more, kept free for it.
    fn waits_since(&self, id: ClassId) -> Option<Duration> {
        let class = self.agents.class(id).filter(|class| has_no_seat(class))?;
        let starved = class.starved?;
        let (_, project) = self.share.head(id)?;
        let project = self.projects.get(&project)?;
        let waited = self.now.saturating_sub(starved.since).as_nanos();
        let by_time =
            usize::try_from(waited / self.limits.reserve_after.as_nanos().max(1)).unwrap_or(usize::MAX);
        let tasks = (project.hunger() as usize).saturating_add(self.share.in_line(id) - 1);
        (class.reserved.len() < by_time.min(starved.owed).min(tasks)).then_some(starved.served)
    }

    /// The agent that is best kept free for a class: the emptiest, and after the one where that was in vain.
    fn emptiest(&self, id: ClassId) -> Option<AgentId> {
        let in_vain = self.agents.class(id)?.starved?.in_vain.map(|(agent, _)| agent);
        let could = self.agents.iter().filter(|&(agent, _)| self.could_be_kept(agent, id));
        could
            .max_by_key(|&(agent, state)| {
                (state.standing().free_share(), Some(agent) > in_vain, Reverse(agent))
            })
            .map(|(agent, _)| agent)
    }

    fn could_be_kept(&self, agent: AgentId, id: ClassId) -> bool {
        let (Some(state), Some(class)) = (self.agents.get(agent), self.agents.class(id)) else {
            return false;
        };
        let in_vain = class.starved.and_then(|starved| starved.in_vain);
        state.reserved.is_none()
            && self.could_run_on(agent, id)
            && in_vain.is_none_or(|(other, until)| agent != other || until <= self.now)
            && state.has_room_beside_own(id, class.asks.need)
    }

    fn keep_free(&mut self, agent: AgentId, id: ClassId) {
        let now = self.now;
        let since =
            self.agents.class(id).and_then(|class| class.starved).map_or(now, |starved| starved.since);
        // As long as it has been starved by now. So each try is longer than those before together, up to a bound.
        let until = now + now.saturating_sub(since).min(KEPT_MAX);
        self.agents.reserve(agent, Reserved { class: id, since: now, until });
        // What waits in its backlog need not begin there.
        let asked = self.agents.update(agent, |agent| agent.recall_newest(|_| true));
        self.outgoing_to(agent, |out| out.recall.extend(asked.unwrap_or_default()));
    }

    fn out_of_turn(&mut self, id: ClassId) {
        if let Some(starved) = self.agents.class_mut(id).and_then(|class| class.starved.as_mut()) {
            starved.out_of_turn += 1;
        }
    }

    /// How long something has been passed over that an agent could run.
    #[must_use]
    pub fn starved_for(&self) -> Duration {
        let classes = self.agents.class_ids().into_iter();
        let served = classes.filter_map(|id| Some(self.agents.class(id)?.starved?.served)).min();
        served.map_or(Duration::ZERO, |served| self.now.saturating_sub(served))
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

    /// Panics if too many agents are kept free, or one for something that has waited less than another.
    pub(super) fn check_reservations(&self) {
        let kept = self.agents.iter().filter(|(_, agent)| agent.reserved.is_some()).count();
        let known = self.agents.iter().count();
        assert!(kept <= known.div_ceil(2), "{kept} of {known} agents are kept free");
        for id in self.agents.class_ids() {
            let Some(class) = self.agents.class(id) else { continue };
            let out_of_turn = class.starved.map_or(0, |starved| starved.out_of_turn);
            assert_eq!(out_of_turn, 0, "{id:?} has waited for longer than what an agent is kept free for");
            assert!(class.reserved.is_empty() || class.starved.is_some(), "{id:?} is not starved");
        }
    }
}
