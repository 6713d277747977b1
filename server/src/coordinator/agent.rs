//! One agent: its session, what it holds, and how much room that leaves.

use super::{
    AgentView, SessionId,
    capacity::{Load, Need},
    health::Health,
    seats::{ClassId, Place, Standing},
};
use crate::{
    domain::{AttemptKey, Phase, ProjectId, SessionEpoch, TaskKey},
    store::KnownAgent,
};
use std::{collections::BTreeMap, time::Duration};

/// How long an operator is told of what does not happen again.
const WARNING_TIME: Duration = Duration::from_secs(3600);

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
    cancelled: BTreeMap<AttemptKey, Need>,
    /// What all of these ask for.
    load: Load,
    /// How many of those it was asked to hand back.
    recalled: u32,
    pub(super) attempts_max: u32,
    pub(super) not_ready: String,
    /// An operator wants it to take no attempts.
    pub(super) draining: bool,
    /// Another process that says it is this agent, while this one is connected.
    pub(super) rival: Option<Rival>,
    /// What an operator should look at, and when it was seen last.
    pub(super) warning: Option<Warning>,
    pub(super) about: About,
    pub(super) health: Health,
    pub(super) reserved: Option<Reserved>,
    /// Its seats for each class; kept by the collection of all agents.
    pub(super) places: Vec<Place>,
}

/// It is kept free for attempts of one class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    pub(super) class: ClassId,
    pub(super) since: Duration,
    /// If none of them has begun by then, it was in vain.
    pub(super) until: Duration,
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

/// What an operator should look at.
#[derive(Debug)]
pub(super) struct Warning {
    pub(super) text: String,
    /// When it was called for last.
    pub(super) seen: Duration,
}

impl Warning {
    pub(super) fn is_current(&self, now: Duration) -> bool {
        now.saturating_sub(self.seen) <= WARNING_TIME
    }
}

/// What kind of attempt it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kind {
    pub(super) class: ClassId,
    pub(super) need: Need,
}

/// How an agent has come to an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    pub(super) kind: Kind,
    /// Its place in the order of assigning.
    pub(super) order: u64,
    /// The agent was asked to hand it back if it has not begun.
    pub(super) recalled: bool,
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
    pub(super) cpus_milli: Option<u32>,
    pub(super) memory_bytes: Option<u64>,
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
            cancelled: BTreeMap::new(),
            load: Load::default(),
            recalled: 0,
            attempts_max: 0,
            not_ready: String::new(),
            draining: false,
            rival: None,
            warning: None,
            about: About::default(),
            health: Health::default(),
            reserved: None,
            places: Vec::new(),
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

    /// How much room it has.
    pub(super) fn standing(&self) -> Standing {
        let reserved = self.reserved.map(|reserved| reserved.class);
        if self.session.is_none() {
            return Standing { reserved, ..Standing::default() };
        }
        let slots = self.about.slots;
        let wanted = self.wants();
        let held = count(self.held.len());
        let taken = held.saturating_add(count(self.cancelled.len()));
        let beyond_slots = held.saturating_sub(slots);
        Standing {
            slots,
            slots_free: slots.min(wanted).saturating_sub(taken),
            slots_left: slots.saturating_sub(taken),
            free: wanted.saturating_sub(taken),
            excess: beyond_slots.saturating_sub(self.recalled),
            // What does not come back is in a slot.
            awaited: beyond_slots.min(self.recalled),
            levels: self.load.levels(self.about.cpus_milli, self.about.memory_bytes),
            reserved,
        }
    }

    /// Whether it could begin one more of a class if it held nothing of others. If not, that waits for its own.
    pub(super) fn has_room_beside_own(&self, class: ClassId, need: Need) -> bool {
        let own = count(self.held.values().filter(|holding| holding.kind.class == class).count());
        own < self.about.slots && self.standing().levels.could_run(need.times(own.saturating_add(1)))
    }

    /// How many attempts it may hold.
    pub(super) fn wants(&self) -> u32 {
        if self.draining { 0 } else { self.health.attempts_max(self.attempts_max) }
    }

    /// Connected, and not drained: it may be given attempts, now or once it has room.
    pub(super) fn serves(&self) -> bool {
        self.session.is_some() && !self.draining
    }

    /// How many attempts of this project it holds.
    pub(super) fn held_of(&self, project: ProjectId) -> usize {
        let first = TaskKey { project, phase: Phase::Split, index: 0 }.attempt(0);
        self.held.range(first..).take_while(|(attempt, _)| attempt.task.project == project).count()
    }

    /// It holds one more, the latest in this order.
    pub(super) fn hold(&mut self, attempt: AttemptKey, order: u64, kind: Kind) {
        self.let_go(attempt);
        self.load.add(kind.need);
        self.held.insert(attempt, Holding { kind, order, recalled: false });
    }

    /// It holds one no more.
    pub(super) fn let_go(&mut self, attempt: AttemptKey) {
        self.take(attempt);
    }

    fn take(&mut self, attempt: AttemptKey) -> Option<Holding> {
        let holding = self.held.remove(&attempt)?;
        if holding.recalled {
            self.recalled -= 1;
        }
        self.load.remove(holding.kind.need);
        Some(holding)
    }

    /// Nobody wants one any longer. It takes up room until its end is heard of, or its session ends.
    pub(super) fn cancel(&mut self, attempt: AttemptKey) {
        if let Some(holding) = self.take(attempt)
            && self.session.is_some()
        {
            self.load.add(holding.kind.need);
            self.cancelled.insert(attempt, holding.kind.need);
        }
    }

    /// A cancelled one has ended, if it was one.
    pub(super) fn cancelled_ended(&mut self, attempt: AttemptKey) {
        if let Some(need) = self.cancelled.remove(&attempt) {
            self.load.remove(need);
        }
    }

    /// What was cancelled is not waited for any longer.
    pub(super) fn forget_cancelled(&mut self) {
        for need in std::mem::take(&mut self.cancelled).into_values() {
            self.load.remove(need);
        }
    }

    pub(super) fn has_cancelled(&self) -> bool {
        !self.cancelled.is_empty()
    }

    /// It was not asked for anything yet, or may keep what it was asked for and has.
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

    /// The newest that it holds beyond its slots, as far as somebody wants one of their class; each is named once.
    pub(super) fn recall_newest(&mut self, mut is_wanted: impl FnMut(ClassId) -> bool) -> Vec<AttemptKey> {
        let excess = self.standing().excess as usize;
        let mut newest: Vec<_> = self
            .held
            .iter()
            .filter(|(_, holding)| !holding.recalled)
            .map(|(&attempt, holding)| (holding.order, attempt, holding.kind.class))
            .collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        let recalled: Vec<_> = newest
            .into_iter()
            .filter(|&(_, _, class)| is_wanted(class))
            .map(|(_, attempt, _)| attempt)
            .take(excess)
            .collect();
        for attempt in &recalled {
            if let Some(holding) = self.held.get_mut(attempt) {
                holding.recalled = true;
                self.recalled += 1;
            }
        }
        recalled
    }

    /// Panics if something is counted wrong.
    pub(super) fn check(&self) {
        let both = self.cancelled.keys().find(|attempt| self.held.contains_key(attempt));
        assert_eq!(both, None, "held by {} and cancelled", self.name);
        let recalled = self.held.values().filter(|holding| holding.recalled).count();
        assert_eq!(self.recalled as usize, recalled, "recalled from {}", self.name);
        let needs =
            self.held.values().map(|holding| holding.kind.need).chain(self.cancelled.values().copied());
        let (cpus, memory) = needs.fold((0, 0), |(cpus, memory), need| {
            (cpus + u64::from(need.cpus_milli), memory + need.memory_bytes)
        });
        let load = (self.load.cpus_milli(), self.load.memory_bytes());
        assert_eq!(load, (cpus, memory), "what {} holds asks for", self.name);
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
            warning: self
                .warning
                .iter()
                .find(|it| it.is_current(now))
                .map_or_else(String::new, |it| it.text.clone()),
            cpus_milli: self.about.cpus_milli,
            memory_bytes: self.about.memory_bytes,
            cpus_used_milli: self.load.cpus_milli(),
            memory_used_bytes: self.load.memory_bytes(),
            quarantine: self.health.in_words(now),
            attempts: Vec::new(),
        }
    }
}

fn count(attempts: usize) -> u32 {
    u32::try_from(attempts).unwrap_or(u32::MAX)
}
