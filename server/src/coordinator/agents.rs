//! The agents that the coordinator knows, by name, by session, and by who has seats for what.

use super::{
    SessionId,
    agent::{Agent, Reserved},
    seats::{Class, ClassId, Classes, Place, Requirement, Standing},
};
use crate::domain::{AgentId, Placement};
use std::collections::{BTreeMap, BTreeSet};

/// All agents, with indexes by name, by session, by room and by excess.
#[derive(Debug, Default)]
pub(super) struct Agents {
    by_id: BTreeMap<AgentId, Agent>,
    by_name: BTreeMap<String, AgentId>,
    by_session: BTreeMap<SessionId, AgentId>,
    /// The highest number that an agent ever had.
    id_max: AgentId,
    classes: Classes,
    /// (excess, agent) for every agent that has some: the last has the most.
    excess: BTreeSet<(u32, AgentId)>,
    free: u32,
    awaited: u32,
}

impl Agents {
    /// Takes in an agent without a session.
    pub(super) fn add(&mut self, id: AgentId, agent: Agent) {
        self.by_name.insert(agent.name.clone(), id);
        self.by_id.insert(id, agent);
        self.id_max = self.id_max.max(id);
        self.relabelled(id);
    }

    /// Forgets an agent without a session and without attempts. Its number is not used again.
    pub(super) fn remove(&mut self, id: AgentId) {
        self.unreserve(id);
        if let Some(agent) = self.by_id.remove(&id) {
            self.by_name.remove(&agent.name);
        }
    }

    /// No agent gets this number or a lower one.
    pub(super) fn skip_to(&mut self, id: AgentId) {
        self.id_max = self.id_max.max(id);
    }

    pub(super) fn next_id(&self) -> AgentId {
        AgentId(self.id_max.0 + 1)
    }

    pub(super) fn named(&self, name: &str) -> Option<AgentId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn of_session(&self, session: SessionId) -> Option<AgentId> {
        self.by_session.get(&session).copied()
    }

    pub(super) fn get(&self, id: AgentId) -> Option<&Agent> {
        self.by_id.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (AgentId, &Agent)> {
        self.by_id.iter().map(|(&id, agent)| (id, agent))
    }

    /// Changes an agent, and keeps the indexes true.
    pub(super) fn update<T>(&mut self, id: AgentId, change: impl FnOnce(&mut Agent) -> T) -> Option<T> {
        let agent = self.by_id.get_mut(&id)?;
        let (before, session_before) = (agent.standing(), agent.session.as_ref().map(|s| s.id));
        let out = change(agent);
        let (after, session) = (agent.standing(), agent.session.as_ref().map(|s| s.id));
        if session != session_before {
            if let Some(session) = session_before {
                self.by_session.remove(&session);
            }
            if let Some(session) = session {
                self.by_session.insert(session, id);
            }
        }
        if after != before {
            self.classes.reseat(id, &after, &mut agent.places);
            if after.excess != before.excess {
                self.excess.remove(&(before.excess, id));
                if after.excess > 0 {
                    self.excess.insert((after.excess, id));
                }
            }
            let moved = |sum: u32, before: u32, after: u32| sum.saturating_sub(before).saturating_add(after);
            self.free = moved(self.free, before.free, after.free);
            self.awaited = moved(self.awaited, before.awaited, after.awaited);
        }
        Some(out)
    }

    /// An agent has other labels than before.
    pub(super) fn relabelled(&mut self, id: AgentId) {
        let Some(agent) = self.by_id.get_mut(&id) else { return };
        for class in self.classes.ids() {
            self.classes.match_place(class, &agent.about.labels, &mut agent.places);
        }
        self.classes.reseat(id, &agent.standing(), &mut agent.places);
    }

    /// The class of a requirement, for as long as it is not left.
    pub(super) fn enter(&mut self, asks: Requirement) -> ClassId {
        let (class, is_new) = self.classes.enter(asks);
        if is_new {
            for (&id, agent) in &mut self.by_id {
                self.classes.match_place(class, &agent.about.labels, &mut agent.places);
                self.classes.reseat(id, &agent.standing(), &mut agent.places);
            }
        }
        class
    }

    pub(super) fn leave(&mut self, class: ClassId) {
        if self.class(class).is_some_and(|class| class.users() == 1) {
            self.unreserve_all(class);
        }
        if self.classes.leave(class) {
            self.by_id.values_mut().for_each(|agent| Classes::forget_place(class, &mut agent.places));
        }
    }

    pub(super) fn class(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(id)
    }

    pub(super) fn class_mut(&mut self, id: ClassId) -> Option<&mut Class> {
        self.classes.get_mut(id)
    }

    pub(super) fn class_ids(&self) -> Vec<ClassId> {
        self.classes.ids()
    }

    /// How many more attempts all agents together want.
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// How many attempts were asked back and may yet come.
    pub(super) fn awaited(&self) -> u32 {
        self.awaited
    }

    /// The best agent with a seat for this class; `avoid` only if there is no other.
    pub(super) fn pick(
        &self,
        class: ClassId,
        placement: Placement,
        avoid: Option<AgentId>,
    ) -> Option<AgentId> {
        self.class(class)?.pick(placement, avoid)
    }

    /// Keeps an agent free for a class.
    pub(super) fn reserve(&mut self, id: AgentId, reserved: Reserved) {
        if self.update(id, |agent| agent.reserved = Some(reserved)).is_some()
            && let Some(class) = self.class_mut(reserved.class)
        {
            class.reserved.insert(id);
        }
    }

    /// An agent is for all again. For whom it was kept.
    pub(super) fn unreserve(&mut self, id: AgentId) -> Option<Reserved> {
        let reserved = self.update(id, |agent| agent.reserved.take()).flatten()?;
        if let Some(class) = self.class_mut(reserved.class) {
            class.reserved.remove(&id);
        }
        Some(reserved)
    }

    /// The agents that are kept free for a class are for all again.
    pub(super) fn unreserve_all(&mut self, class: ClassId) {
        while let Some(&agent) = self.class(class).and_then(|class| class.reserved.first()) {
            if self.unreserve(agent).is_none() {
                return;
            }
        }
    }

    /// Those that hold more than they have slots, the fullest first.
    pub(super) fn fullest(&self) -> impl Iterator<Item = AgentId> {
        self.excess.iter().rev().map(|&(_, id)| id)
    }

    /// Panics if an index is wrong.
    pub(super) fn check(&self) {
        let standings: BTreeMap<_, _> =
            self.by_id.iter().map(|(&id, agent)| (id, agent.standing())).collect();
        let sum = |of: fn(&Standing) -> u32| standings.values().map(of).sum::<u32>();
        assert_eq!(self.free, sum(|standing| standing.free), "sum of free attempts");
        assert_eq!(self.awaited, sum(|standing| standing.awaited), "sum of awaited attempts");
        let excess: BTreeSet<_> = standings
            .iter()
            .filter(|(_, standing)| standing.excess > 0)
            .map(|(&id, standing)| (standing.excess, id))
            .collect();
        assert_eq!(self.excess, excess, "index of excess");
        self.classes.check(self.by_id.iter().map(|(&id, agent)| {
            let places: &[Place] = &agent.places;
            (id, &agent.about.labels, agent.standing(), places)
        }));
        let sessions: BTreeMap<_, _> =
            self.by_id.iter().filter_map(|(&id, a)| Some((a.session.as_ref()?.id, id))).collect();
        assert_eq!(self.by_session, sessions, "index of sessions");
        for (id, agent) in &self.by_id {
            assert_eq!(self.by_name.get(&agent.name), Some(id), "index of names");
            agent.check();
        }
    }
}
