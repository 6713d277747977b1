//! The agents that the coordinator knows: their sessions, what they hold, and who has room.

use super::{AgentView, SessionId};
use crate::{
    domain::{AgentId, AttemptKey, SessionEpoch},
    store::KnownAgent,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// One agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) name: String,
    /// The epoch of its newest session.
    pub(super) epoch: SessionEpoch,
    pub(super) session: Option<Session>,
    /// When anything was last heard from it; its lease counts from here.
    pub(super) heard: Duration,
    /// Attempts that are running with it, as far as the store knows.
    pub(super) held: BTreeMap<AttemptKey, Holding>,
    /// Attempts that nobody wants any longer; they take up room until it says that they ended.
    pub(super) cancelled: BTreeSet<AttemptKey>,
    /// How many of those it was asked to hand back.
    recalled: u32,
    pub(super) attempts_max: u32,
    pub(super) not_ready: String,
    /// An operator wants it to take no attempts.
    pub(super) draining: bool,
    /// Another process that says it is this agent, while this one is connected.
    pub(super) rival: Option<Rival>,
    /// What an operator should look at.
    pub(super) warning: String,
    pub(super) about: About,
}

/// A second process with an agent's identity. Either the first is dead and its stream's end not heard of yet, or there are two
/// copies of the agent's data directory.
#[derive(Debug)]
pub(super) struct Rival {
    /// When it called last.
    pub(super) called: Duration,
    /// From where.
    pub(super) address: String,
}

/// How an agent has come to an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    /// Its place in the order of assigning.
    pub(super) order: u64,
    /// The agent was asked to hand it back if it has not begun.
    pub(super) recalled: bool,
}

/// How much room an agent has, and how much it holds that another could run at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    /// How many slots are free.
    slots_free: u32,
    /// How many more attempts it wants, for its slots and its backlog.
    free: u32,
    /// How many it holds beyond its slots and was not asked to hand back.
    excess: u32,
    /// How many it was asked to hand back and may yet.
    awaited: u32,
}

/// What an agent said of itself. For people, but for `identity` and `instance`.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) identity: String,
    pub(super) instance: String,
    pub(super) version: String,
    pub(super) runtime: String,
    pub(super) slots: u32,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) address: String,
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    /// The number of the last message received.
    pub(super) seq: u64,
}

impl Agent {
    pub(super) fn new(name: String, epoch: SessionEpoch, now: Duration) -> Self {
        Self {
            name,
            epoch,
            session: None,
            heard: now,
            held: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            recalled: 0,
            attempts_max: 0,
            not_ready: String::new(),
            draining: false,
            rival: None,
            warning: String::new(),
            about: About::default(),
        }
    }

    /// As the store knows it.
    pub(super) fn known(known: KnownAgent, now: Duration) -> Self {
        let mut agent = Self::new(known.name, known.epoch, now);
        agent.about.identity = known.identity;
        agent.about.instance = known.instance;
        agent.about.labels = known.labels;
        agent.draining = known.draining;
        agent
    }

    fn standing(&self) -> Standing {
        if self.session.is_none() {
            return Standing::default();
        }
        let slots = self.about.slots;
        let wanted = if self.draining { 0 } else { self.attempts_max };
        let held = count(self.held.len());
        let taken = held.saturating_add(count(self.cancelled.len()));
        let beyond_slots = held.saturating_sub(slots);
        Standing {
            slots_free: slots.min(wanted).saturating_sub(taken),
            free: wanted.saturating_sub(taken),
            excess: beyond_slots.saturating_sub(self.recalled),
            // What does not come back is in a slot.
            awaited: beyond_slots.min(self.recalled),
        }
    }

    /// It holds one more, the latest in this order.
    pub(super) fn hold(&mut self, attempt: AttemptKey, order: u64) {
        self.let_go(attempt);
        self.held.insert(attempt, Holding { order, recalled: false });
    }

    /// It holds one no more.
    pub(super) fn let_go(&mut self, attempt: AttemptKey) {
        if self.held.remove(&attempt).is_some_and(|holding| holding.recalled) {
            self.recalled -= 1;
        }
    }

    /// A new session: it was not asked for anything yet.
    pub(super) fn forget_recalls(&mut self) {
        self.recalled = 0;
        self.held.values_mut().for_each(|holding| holding.recalled = false);
    }

    /// Everything that it holds and was not asked for yet: what has begun is not handed back.
    pub(super) fn recall_all(&mut self) -> Vec<AttemptKey> {
        let asked = self.held.iter_mut().filter(|(_, holding)| !holding.recalled);
        let asked: Vec<_> = asked
            .map(|(&attempt, holding)| {
                holding.recalled = true;
                attempt
            })
            .collect();
        self.recalled += count(asked.len());
        asked
    }

    /// The newest that it holds beyond its slots, at most so many; each is named once.
    pub(super) fn recall_newest(&mut self, attempts_max: u32) -> Vec<AttemptKey> {
        let recall = self.standing().excess.min(attempts_max);
        let mut newest: Vec<_> = self
            .held
            .iter()
            .filter(|(_, holding)| !holding.recalled)
            .map(|(&attempt, holding)| (holding.order, attempt))
            .collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        newest.truncate(recall as usize);
        for (_, attempt) in &newest {
            if let Some(holding) = self.held.get_mut(attempt) {
                holding.recalled = true;
                self.recalled += 1;
            }
        }
        newest.into_iter().map(|(_, attempt)| attempt).collect()
    }

    pub(super) fn view(&self, now: Duration) -> AgentView {
        AgentView {
            name: self.name.clone(),
            connected: self.session.is_some(),
            not_ready: self.not_ready.clone(),
            slots: self.about.slots,
            held: count(self.held.len()),
            runtime: self.about.runtime.clone(),
            version: self.about.version.clone(),
            last_heard_millis: u64::try_from(now.saturating_sub(self.heard).as_millis()).unwrap_or(u64::MAX),
            labels: self.about.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            draining: self.draining,
            address: self.about.address.clone(),
            warning: self.warning.clone(),
            attempts: Vec::new(),
        }
    }
}

fn count(attempts: usize) -> u32 {
    u32::try_from(attempts).unwrap_or(u32::MAX)
}

/// All agents, with indexes by name, by session, by room and by excess.
#[derive(Debug, Default)]
pub(super) struct Agents {
    by_id: BTreeMap<AgentId, Agent>,
    by_name: BTreeMap<String, AgentId>,
    by_session: BTreeMap<SessionId, AgentId>,
    /// The highest number that an agent ever had.
    id_max: AgentId,
    /// (free slots, free, agent) for every agent with room: the last has the most free slots, then the most room.
    room: BTreeSet<(u32, u32, AgentId)>,
    /// (excess, agent) for every agent that has some: the last has the most.
    excess: BTreeSet<(u32, AgentId)>,
    free: u32,
    slots_free: u32,
    awaited: u32,
}

impl Agents {
    pub(super) fn add(&mut self, id: AgentId, agent: Agent) {
        self.by_name.insert(agent.name.clone(), id);
        self.by_id.insert(id, agent);
        self.id_max = self.id_max.max(id);
    }

    /// Forgets an agent without a session and without attempts. Its number is not used again.
    pub(super) fn remove(&mut self, id: AgentId) {
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
            self.room.remove(&(before.slots_free, before.free, id));
            if after.free > 0 {
                self.room.insert((after.slots_free, after.free, id));
            }
            if after.excess != before.excess {
                self.excess.remove(&(before.excess, id));
                if after.excess > 0 {
                    self.excess.insert((after.excess, id));
                }
            }
            let moved = |sum: u32, before: u32, after: u32| sum.saturating_sub(before).saturating_add(after);
            self.free = moved(self.free, before.free, after.free);
            self.slots_free = moved(self.slots_free, before.slots_free, after.slots_free);
            self.awaited = moved(self.awaited, before.awaited, after.awaited);
        }
        Some(out)
    }

    /// How many more attempts all agents together want.
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// How many slots of all agents together are free, beyond those that wait for attempts to be handed back.
    pub(super) fn slots_idle(&self) -> u32 {
        self.slots_free.saturating_sub(self.awaited)
    }

    /// The agent with the most free slots; if no slot is free, the one with the most room in its backlog.
    pub(super) fn roomiest(&self) -> Option<AgentId> {
        self.room.last().map(|&(_, _, id)| id)
    }

    /// The agent that holds the most beyond its slots.
    pub(super) fn fullest(&self) -> Option<AgentId> {
        self.excess.last().map(|&(_, id)| id)
    }

    /// Panics if an index is wrong.
    pub(super) fn check(&self) {
        let standings: BTreeMap<_, _> =
            self.by_id.iter().map(|(&id, agent)| (id, agent.standing())).collect();
        let sum = |of: fn(&Standing) -> u32| standings.values().map(of).sum::<u32>();
        assert_eq!(self.free, sum(|standing| standing.free), "sum of free attempts");
        assert_eq!(self.slots_free, sum(|standing| standing.slots_free), "sum of free slots");
        assert_eq!(self.awaited, sum(|standing| standing.awaited), "sum of awaited attempts");
        let room: BTreeSet<_> = standings
            .iter()
            .filter(|(_, standing)| standing.free > 0)
            .map(|(&id, standing)| (standing.slots_free, standing.free, id))
            .collect();
        assert_eq!(self.room, room, "index of room");
        let excess: BTreeSet<_> = standings
            .iter()
            .filter(|(_, standing)| standing.excess > 0)
            .map(|(&id, standing)| (standing.excess, id))
            .collect();
        assert_eq!(self.excess, excess, "index of excess");
        let sessions: BTreeMap<_, _> =
            self.by_id.iter().filter_map(|(&id, a)| Some((a.session.as_ref()?.id, id))).collect();
        assert_eq!(self.by_session, sessions, "index of sessions");
        for (id, agent) in &self.by_id {
            assert_eq!(self.by_name.get(&agent.name), Some(id), "index of names");
            let both = agent.cancelled.iter().find(|attempt| agent.held.contains_key(attempt));
            assert_eq!(both, None, "held by {} and cancelled", agent.name);
            let recalled = agent.held.values().filter(|holding| holding.recalled).count();
            assert_eq!(agent.recalled as usize, recalled, "recalled from {}", agent.name);
        }
    }
}
