//! Requirement classes: what kinds of attempts there are by what they ask of an agent, and which agents have seats for each.
//!
//! Attempts that ask for nothing are the first class, and nearly always the only one. An agent's change costs each class
//! one step of an ordered set, and finding the best agent for an attempt another one.

use super::{
    capacity::{Levels, Need, SHARE_WHOLE},
    share::Tag,
};
use crate::domain::{AgentId, Placement};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What all attempts of a class ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Requirement {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) need: Need,
}

impl Requirement {
    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

/// Names a class for as long as it has users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClassId(usize);

impl ClassId {
    /// What asks for nothing.
    pub(super) const PLAIN: Self = Self(0);
}

/// How much room an agent has, and how much it holds that another could run at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// How many attempts it runs at a time.
    pub(super) slots: u32,
    /// How many slots are free.
    pub(super) slots_free: u32,
    /// How many slots have no attempt, wanted or not.
    pub(super) slots_left: u32,
    /// How many more attempts it wants, for its slots and its backlog.
    pub(super) free: u32,
    /// How many it holds beyond its slots and was not asked to hand back.
    pub(super) excess: u32,
    /// How many it was asked to hand back and may yet.
    pub(super) awaited: u32,
    pub(super) levels: Levels,
    /// It is kept free for this class.
    pub(super) reserved: Option<ClassId>,
}

impl Standing {
    /// The free part of its slots or of what is scarcer, in thousandths; at least 1 if a slot is free.
    pub(super) fn free_share(&self) -> u32 {
        if self.slots_free == 0 {
            return 0;
        }
        let by_slots = self.slots_free.saturating_mul(SHARE_WHOLE).checked_div(self.slots).unwrap_or(0);
        by_slots.min(self.levels.free_share()).max(1)
    }
}

/// What an agent has for one class. Without a seat, all is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seat {
    /// Its free part in thousandths; 0 if no slot is free.
    share: u32,
    /// How many more attempts it wants of any kind.
    free: u32,
    /// How many of this class it can take.
    seats: u32,
    /// How many of those would run at once.
    at_once: u32,
}

/// One agent beside one class.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) matches: bool,
    seat: Seat,
}

/// A class of attempts that no agent has a seat for, while others begin that come later in the fair order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Starved {
    /// When it was first passed over, since when it has not caught up.
    pub(super) since: Duration,
    /// When it was last passed over.
    pub(super) last: Duration,
    /// When one of it began last, or `since`.
    pub(super) served: Duration,
    /// The latest place in the fair order that went before it.
    pub(super) by: Tag,
    /// How many of it would have come before that one, when it was last passed over.
    pub(super) owed: usize,
    /// The agent that was last kept free for it in vain, and until when it is left alone.
    pub(super) in_vain: Option<(AgentId, Duration)>,
    /// How often an agent was kept free for another class that had waited less.
    pub(super) out_of_turn: u32,
}

impl Starved {
    /// It is passed over, for the first time.
    pub(super) fn new(now: Duration, by: Tag) -> Self {
        Self { since: now, last: now, served: now, by, owed: 0, in_vain: None, out_of_turn: 0 }
    }
}

/// One class.
#[derive(Debug, Default)]
pub(super) struct Class {
    pub(super) asks: Requirement,
    users: u32,
    /// (share, free, agent) for every agent with a seat: the last has the largest free share, then the most room.
    fits: BTreeSet<(u32, u32, AgentId)>,
    seats: u64,
    at_once: u64,
    /// How many tasks of it wait in TODO.
    pub(super) published: u32,
    pub(super) starved: Option<Starved>,
    /// The agents that are kept free for it.
    pub(super) reserved: BTreeSet<AgentId>,
}

impl Class {
    fn seat(&self, id: ClassId, standing: &Standing, matches: bool) -> Seat {
        let Standing { slots, slots_free, slots_left, free, levels, reserved, .. } = *standing;
        if !matches || free == 0 || reserved.is_some_and(|other| other != id) {
            return Seat::default();
        }
        let seats = levels.seats(self.asks.need, slots, slots_left, free);
        if seats == 0 {
            return Seat::default();
        }
        let share = standing.free_share();
        Seat { share, free, seats, at_once: seats.min(slots_free) }
    }

    fn moved(&mut self, agent: AgentId, before: Seat, after: Seat) {
        if before.seats > 0 {
            self.fits.remove(&(before.share, before.free, agent));
        }
        if after.seats > 0 {
            self.fits.insert((after.share, after.free, agent));
        }
        self.seats = self.seats - u64::from(before.seats) + u64::from(after.seats);
        self.at_once = self.at_once - u64::from(before.at_once) + u64::from(after.at_once);
    }

    pub(super) fn users(&self) -> u32 {
        self.users
    }

    /// How many attempts of it the agents together can take.
    pub(super) fn seats(&self) -> u64 {
        self.seats
    }

    /// How many of those would run at once.
    pub(super) fn at_once(&self) -> u64 {
        self.at_once
    }

    /// The one agent with a seat, if there are no more.
    pub(super) fn sole(&self) -> Option<AgentId> {
        let mut fits = self.fits.iter();
        fits.next().filter(|_| fits.next().is_none()).map(|&(_, _, agent)| agent)
    }

    /// The best agent with a seat; `avoid` only if there is no other.
    pub(super) fn pick(&self, placement: Placement, avoid: Option<AgentId>) -> Option<AgentId> {
        let other = |&&(_, _, agent): &&(u32, u32, AgentId)| Some(agent) != avoid;
        let best = match placement {
            Placement::Spread => self.fits.iter().rev().find(other),
            // Free slots go before any backlog.
            Placement::Pack => {
                let slots = self.fits.range((1, 0, AgentId(0))..);
                slots.chain(&self.fits).find(other)
            }
        };
        best.or_else(|| self.fits.last()).map(|&(_, _, agent)| agent)
    }
}

/// All classes that are in use.
#[derive(Debug)]
pub(super) struct Classes {
    /// Unused ones are given to the next requirement.
    all: Vec<Class>,
    by_asks: BTreeMap<Requirement, ClassId>,
}

impl Default for Classes {
    fn default() -> Self {
        // What asks for nothing is always there.
        let plain = Class { users: 1, ..Class::default() };
        Self { all: vec![plain], by_asks: BTreeMap::from([(Requirement::default(), ClassId::PLAIN)]) }
    }
}

impl Classes {
    pub(super) fn get(&self, id: ClassId) -> Option<&Class> {
        self.all.get(id.0)
    }

    pub(super) fn get_mut(&mut self, id: ClassId) -> Option<&mut Class> {
        self.all.get_mut(id.0)
    }

    /// Those in use.
    pub(super) fn ids(&self) -> Vec<ClassId> {
        self.by_asks.values().copied().collect()
    }

    /// The class of a requirement, with one more user. A new one is still unknown to all agents: `true`.
    pub(super) fn enter(&mut self, asks: Requirement) -> (ClassId, bool) {
        if let Some(&id) = self.by_asks.get(&asks) {
            if let Some(class) = self.all.get_mut(id.0) {
                class.users += 1;
            }
            return (id, false);
        }
        let class = Class { asks: asks.clone(), users: 1, ..Class::default() };
        let unused = self.all.iter().position(|class| class.users == 0);
        let id = ClassId(unused.unwrap_or(self.all.len()));
        match unused.and_then(|unused| self.all.get_mut(unused)) {
            Some(old) => *old = class,
            None => self.all.push(class),
        }
        self.by_asks.insert(asks, id);
        (id, true)
    }

    /// One user less. Without any, the class is forgotten, and the agents should forget it, too: `true`.
    pub(super) fn leave(&mut self, id: ClassId) -> bool {
        let Some(class) = self.all.get_mut(id.0) else { return false };
        class.users = class.users.saturating_sub(1);
        if class.users > 0 {
            return false;
        }
        self.by_asks.remove(&class.asks);
        *class = Class::default();
        true
    }

    /// Whether the agent has the labels that a class asks for.
    pub(super) fn match_place(
        &self,
        id: ClassId,
        labels: &BTreeMap<String, String>,
        places: &mut Vec<Place>,
    ) {
        places.resize(self.all.len().max(places.len()), Place::default());
        if let (Some(class), Some(place)) = (self.all.get(id.0), places.get_mut(id.0)) {
            place.matches = class.users > 0 && class.asks.matches(labels);
        }
    }

    /// An agent may have other seats than before.
    pub(super) fn reseat(&mut self, agent: AgentId, standing: &Standing, places: &mut [Place]) {
        for ((n, class), place) in self.all.iter_mut().enumerate().zip(places) {
            let seat = class.seat(ClassId(n), standing, place.matches);
            if seat != place.seat {
                class.moved(agent, place.seat, seat);
                place.seat = seat;
            }
        }
    }

    /// The class was forgotten.
    pub(super) fn forget_place(id: ClassId, places: &mut [Place]) {
        if let Some(place) = places.get_mut(id.0) {
            *place = Place::default();
        }
    }

    /// Panics if what is counted is not what the agents have: agent, labels, standing and places of each.
    pub(super) fn check<'a>(
        &self,
        agents: impl Iterator<Item = (AgentId, &'a BTreeMap<String, String>, Standing, &'a [Place])> + Clone,
    ) {
        for (n, class) in self.all.iter().enumerate() {
            let mut fits = BTreeSet::new();
            let (mut seats, mut at_once) = (0, 0);
            for (agent, labels, standing, places) in agents.clone() {
                let place = places.get(n).copied().unwrap_or_default();
                let matches = class.users > 0 && class.asks.matches(labels);
                assert_eq!(place.matches, matches, "class {n} and the labels of agent {}", agent.0);
                let seat = class.seat(ClassId(n), &standing, matches);
                assert_eq!(place.seat, seat, "seats of agent {} for class {n}", agent.0);
                seats += u64::from(seat.seats);
                at_once += u64::from(seat.at_once);
                if seat.seats > 0 {
                    fits.insert((seat.share, seat.free, agent));
                }
                let kept = standing.reserved == Some(ClassId(n));
                assert_eq!(kept, class.reserved.contains(&agent), "class {n} and agent {}", agent.0);
            }
            assert_eq!(class.fits, fits, "index of class {n}");
            assert_eq!((class.seats, class.at_once), (seats, at_once), "seats of class {n}");
        }
    }
}
