//! The agents that the coordinator knows: their sessions, what they hold, and who has room.

use super::{AgentView, SessionId};
use crate::domain::{AgentId, AttemptKey, SessionEpoch};
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
    pub(super) held: BTreeSet<AttemptKey>,
    /// Attempts that nobody wants any longer; they take up room until it says that they ended.
    pub(super) cancelled: BTreeSet<AttemptKey>,
    pub(super) attempts_max: u32,
    pub(super) not_ready: String,
    pub(super) about: About,
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
            held: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            attempts_max: 0,
            not_ready: String::new(),
            about: About::default(),
        }
    }

    /// How many more attempts it wants.
    pub(super) fn free(&self) -> u32 {
        if self.session.is_none() {
            return 0;
        }
        let taken = self.held.len() + self.cancelled.len();
        self.attempts_max.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    pub(super) fn view(&self, now: Duration) -> AgentView {
        AgentView {
            name: self.name.clone(),
            connected: self.session.is_some(),
            not_ready: self.not_ready.clone(),
            slots: self.about.slots,
            held: u32::try_from(self.held.len()).unwrap_or(u32::MAX),
            runtime: self.about.runtime.clone(),
            version: self.about.version.clone(),
            last_heard_millis: u64::try_from(now.saturating_sub(self.heard).as_millis()).unwrap_or(u64::MAX),
            labels: self.about.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }
}

/// All agents, with indexes by name, by session and by room.
#[derive(Debug, Default)]
pub(super) struct Agents {
    by_id: BTreeMap<AgentId, Agent>,
    by_name: BTreeMap<String, AgentId>,
    by_session: BTreeMap<SessionId, AgentId>,
    /// (free, agent) for every agent with room: the last has the most.
    room: BTreeSet<(u32, AgentId)>,
    free: u32,
}

impl Agents {
    pub(super) fn add(&mut self, id: AgentId, agent: Agent) {
        self.by_name.insert(agent.name.clone(), id);
        self.by_id.insert(id, agent);
    }

    pub(super) fn next_id(&self) -> AgentId {
        AgentId(self.by_id.last_key_value().map_or(1, |(id, _)| id.0 + 1))
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
        let (free_before, session_before) = (agent.free(), agent.session.as_ref().map(|s| s.id));
        let out = change(agent);
        let (free, session) = (agent.free(), agent.session.as_ref().map(|s| s.id));
        if session != session_before {
            if let Some(session) = session_before {
                self.by_session.remove(&session);
            }
            if let Some(session) = session {
                self.by_session.insert(session, id);
            }
        }
        if free != free_before {
            self.room.remove(&(free_before, id));
            if free > 0 {
                self.room.insert((free, id));
            }
            self.free = self.free.saturating_sub(free_before).saturating_add(free);
        }
        Some(out)
    }

    /// How many more attempts all agents together want.
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// The agent with the most room.
    pub(super) fn roomiest(&self) -> Option<AgentId> {
        self.room.last().map(|&(_, id)| id)
    }

    /// Panics if an index is wrong.
    pub(super) fn check(&self) {
        let free: u32 = self.by_id.values().map(Agent::free).sum();
        assert_eq!(self.free, free, "sum of free attempts");
        let room: BTreeSet<_> =
            self.by_id.iter().filter(|(_, a)| a.free() > 0).map(|(&id, a)| (a.free(), id)).collect();
        assert_eq!(self.room, room, "index of room");
        let sessions: BTreeMap<_, _> =
            self.by_id.iter().filter_map(|(&id, a)| Some((a.session.as_ref()?.id, id))).collect();
        assert_eq!(self.by_session, sessions, "index of sessions");
        for (id, agent) in &self.by_id {
            assert_eq!(self.by_name.get(&agent.name), Some(id), "index of names");
            assert!(agent.held.is_disjoint(&agent.cancelled), "{} is held and cancelled", agent.name);
        }
    }
}
