//! The board: which attempts wait, which lanes there are, and who gets a slot. Plain data behind one lock; nothing in it
//! waits.
//!
//! Attempts that can share workers are a *class*: those of one project that need the same of a worker. Slots go to the
//! class whose first attempt has waited longest. A lane that has a slot keeps it for as long as its class has work,
//! unless another class waits longer and has no slot at all.

mod class;
mod returns;

use crate::domain::{Assignment, AttemptKey, RunSpec};
use class::{Class, Waiting, alike};
use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Where numbers begin: below is room for what is put back.
const FIRST_NUMBER: u64 = 1 << 32;

/// Names a lane, for as long as the pool lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneId(pub(super) u64);

/// Names a class likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassId(u64);

/// What the pool is to do after the board has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Do {
    /// Start a lane, which has a slot already.
    Open(LaneId, ClassId),
    /// Nothing more is to be done for it: a lane was told something and must look.
    Look(LaneId),
}

/// Held by whoever owes an answer, which is to let go of it.
pub(super) type Answer = mpsc::Sender<Infallible>;

/// What a lane is told.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// It has a slot.
    pub(super) awake: bool,
    /// It is to end as soon as it can.
    pub(super) retire: bool,
    /// It is to give back what has not begun.
    pub(super) take_back: Option<Answer>,
    /// Attempts of its own to kill.
    pub(super) kill: Vec<AttemptKey>,
    /// The highest run whose ending is in the outbox, with those of all before it.
    pub(super) released: u64,
}

/// Where an attempt is.
#[derive(Debug)]
enum Place {
    Waiting(ClassId),
    /// With a lane, as this run; the token tells everything that works on it that it is to be killed.
    Lane(LaneId, u64, CancellationToken),
}

/// An attempt that a lane was given.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) assignment: Assignment,
    pub(super) kill: CancellationToken,
}

#[derive(Debug)]
struct Lane {
    class: ClassId,
    mail: Mail,
    notify: Arc<Notify>,
    has_slot: bool,
    opening: bool,
    /// It takes no more work, and ends as soon as it can.
    leaving: bool,
    idle_since: Instant,
}

/// What became of a wish to kill.
#[derive(Debug)]
pub(super) enum Kill {
    /// It had not been taken by any lane, and is gone from the board.
    Waited,
    /// Its lane was told.
    Told,
    /// It is not here.
    Unknown,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Board {
    slots: usize,
    busy: usize,
    idle_max: usize,
    next: u64,
    classes: BTreeMap<ClassId, Class>,
    lanes: HashMap<LaneId, Lane>,
    places: HashMap<AttemptKey, Place>,
    /// How often attempts were put back because their worker died.
    losses: HashMap<AttemptKey, u8>,
    closing: bool,
}

impl Board {
    pub(super) fn new(slots: usize, idle_max: usize) -> Self {
        Self {
            slots,
            busy: 0,
            idle_max,
            next: FIRST_NUMBER,
            classes: BTreeMap::new(),
            lanes: HashMap::new(),
            places: HashMap::new(),
            losses: HashMap::new(),
            closing: false,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn class_of(&mut self, assignment: &Assignment) -> ClassId {
        let project = assignment.attempt.project;
        let fits = |class: &Class| {
            class.project == project
                && (Arc::ptr_eq(&class.run, &assignment.spec) || alike(&class.run, &assignment.spec))
        };
        if let Some((id, _)) = self.classes.iter().rev().find(|(_, class)| fits(class)) {
            return *id;
        }
        let id = ClassId(self.number());
        self.classes.insert(id, Class::new(project, assignment.spec.clone()));
        id
    }

    /// Takes attempts to run, in this order. One that is here already is not taken a second time.
    pub(super) fn add(&mut self, assignments: Vec<Assignment>, to_do: &mut Vec<Do>) {
        let since = Instant::now();
        for assignment in assignments {
            let attempt = assignment.attempt;
            if self.places.contains_key(&attempt) {
                tracing::error!(%attempt, "an attempt was to be started twice");
                continue;
            }
            let class = self.class_of(&assignment);
            let turn = self.number();
            self.places.insert(attempt, Place::Waiting(class));
            if let Some(class) = self.classes.get_mut(&class) {
                class.waiting.push_back(Waiting { turn, since, assignment });
            }
        }
        self.give_slots(to_do);
        self.call_busy(to_do);
    }

    /// Lanes that work may have room for more.
    fn call_busy(&self, to_do: &mut Vec<Do>) {
        for (id, lane) in &self.lanes {
            let waits = || self.classes.get(&lane.class).is_some_and(|class| !class.waiting.is_empty());
            if lane.has_slot && !lane.opening && waits() {
                to_do.push(Do::Look(*id));
            }
        }
    }

    /// Gives free slots to the classes that have waited longest.
    fn give_slots(&mut self, to_do: &mut Vec<Do>) {
        while self.busy < self.slots && !self.closing {
            let unserved = |class: &Class| class.waiting.get(class.opening).map(|waiting| waiting.turn);
            let oldest = self.classes.iter().filter_map(|(id, class)| Some((unserved(class)?, *id))).min();
            let Some((_, id)) = oldest else { return };
            let lane = self.number();
            let Some(class) = self.classes.get_mut(&id) else { return };
            self.busy += 1;
            class.busy += 1;
            class.opening += 1;
            if let Some(idle) = class.idle.pop() {
                if let Some(lane) = self.lanes.get_mut(&idle) {
                    lane.has_slot = true;
                    lane.opening = true;
                    lane.mail.awake = true;
                }
                to_do.push(Do::Look(idle));
            } else {
                self.insert_lane(LaneId(lane), id, true);
                to_do.push(Do::Open(LaneId(lane), id));
                self.limit_idle(to_do);
            }
        }
    }

    fn insert_lane(&mut self, id: LaneId, class: ClassId, opening: bool) {
        let lane = Lane {
            class,
            mail: Mail::default(),
            notify: Arc::default(),
            has_slot: true,
            opening,
            leaving: false,
            idle_since: Instant::now(),
        };
        self.lanes.insert(id, lane);
    }

    /// A lane for attempts that run already. It has a slot, even if there are too many of its kind.
    pub(super) fn adopt(
        &mut self,
        attempts: &[(u64, AttemptKey)],
        run: Arc<RunSpec>,
    ) -> (LaneId, Vec<CancellationToken>) {
        let (id, class) = (LaneId(self.number()), ClassId(self.number()));
        // Its worker was made from what is not known any more: nothing else is ever alike, and no project has this number.
        self.classes.insert(class, Class { busy: 1, ..Class::new(u64::MAX, run) });
        self.busy += 1;
        self.insert_lane(id, class, false);
        let kills: Vec<_> = attempts.iter().map(|_| CancellationToken::new()).collect();
        for ((run, attempt), kill) in attempts.iter().zip(&kills) {
            self.places.insert(*attempt, Place::Lane(id, *run, kill.clone()));
        }
        (id, kills)
    }

    pub(super) fn notify(&self, lane: LaneId) -> Option<Arc<Notify>> {
        self.lanes.get(&lane).map(|lane| lane.notify.clone())
    }

    /// What the attempts of a class need, and how many of them wait.
    pub(super) fn class(&self, id: ClassId) -> Option<(Arc<RunSpec>, usize)> {
        self.classes.get(&id).map(|class| (class.run.clone(), class.waiting.len()))
    }

    /// What a lane is told since it looked last.
    pub(super) fn read_mail(&mut self, lane: LaneId) -> Mail {
        let Some(lane) = self.lanes.get_mut(&lane) else { return Mail { retire: true, ..Mail::default() } };
        let released = lane.mail.released;
        std::mem::replace(&mut lane.mail, Mail { released, ..Mail::default() })
    }

    /// Work for a lane that has a slot: what its class may have now, as far as the lane has room. `held` runs are with its
    /// init and have not ended, of at most `held_max`; the first of those now given has the number `first`. Another one is
    /// sent ahead only while all of them are within `bytes`: they are in the worker's memory.
    pub(super) fn pull(
        &mut self,
        lane_id: LaneId,
        held: usize,
        held_max: usize,
        first: u64,
        mut bytes: usize,
    ) -> Vec<Pulled> {
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return Vec::new() };
        if !lane.has_slot || self.closing {
            return Vec::new();
        }
        let class_id = lane.class;
        let opening = std::mem::take(&mut lane.opening);
        // Whoever waits longer and has no slot has to get this one.
        let starving = self
            .classes
            .iter()
            .filter(|(_, class)| class.busy == 0)
            .filter_map(|(id, class)| Some((class.waiting.front()?.turn, *id)))
            .min();
        // Ordered as where slots are given: else a lane could be given one that it must not use, again and again.
        let may_have = |turn| starving.is_none_or(|starving| (turn, class_id) < starving);
        let all_busy = self.busy >= self.slots;
        let Some(class) = self.classes.get_mut(&class_id) else { return Vec::new() };
        class.opening -= usize::from(opening);
        let room = class.runs_at_once().min(held_max).saturating_sub(held);
        // What waits is divided between the lanes that work.
        let share = class.waiting.len().div_ceil(class.busy.max(1));
        let mut pulled = Vec::new();
        while pulled.len() < room.min(share)
            && let Some(waiting) = class.waiting.pop_front_if(|waiting| {
                let fits = held + pulled.len() == 0 || waiting.assignment.bytes() <= bytes;
                fits && (!all_busy || may_have(waiting.turn))
            })
        {
            let (run, kill) = (first + pulled.len() as u64, CancellationToken::new());
            let assignment = waiting.assignment;
            bytes = bytes.saturating_sub(assignment.bytes());
            self.places.insert(assignment.attempt, Place::Lane(lane_id, run, kill.clone()));
            pulled.push(Pulled { assignment, kill });
        }
        pulled
    }

    /// Takes the one that has waited longest in a lane's class, to be ended without a worker.
    pub(super) fn take_first(&mut self, lane: LaneId) -> Option<Assignment> {
        let class = self.lanes.get(&lane).and_then(|lane| self.classes.get_mut(&lane.class))?;
        let assignment = class.waiting.pop_front()?.assignment;
        self.forget(assignment.attempt);
        Some(assignment)
    }

    /// How long a run took, or has taken so far.
    pub(super) fn observe(&mut self, lane: LaneId, wall: Duration, is_over: bool) {
        if let Some(class) = self.lanes.get(&lane).and_then(|lane| self.classes.get_mut(&lane.class)) {
            class.observe(wall, is_over);
        }
    }

    /// A lane has nothing to do: its slot is free.
    pub(super) fn rest(&mut self, lane_id: LaneId, to_do: &mut Vec<Do>) {
        self.free_slot(lane_id);
        if let Some(lane) = self.lanes.get_mut(&lane_id) {
            lane.idle_since = Instant::now();
            if let Some(class) = self.classes.get_mut(&lane.class) {
                class.idle.push(lane_id);
            }
        }
        self.give_slots(to_do);
        self.limit_idle(to_do);
    }

    fn free_slot(&mut self, lane_id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return };
        if !std::mem::take(&mut lane.has_slot) {
            return;
        }
        self.busy -= 1;
        if let Some(class) = self.classes.get_mut(&lane.class) {
            class.busy -= 1;
            class.opening -= usize::from(std::mem::take(&mut lane.opening));
        }
    }

    /// The lanes that have been idle longest go when there are too many.
    fn limit_idle(&mut self, to_do: &mut Vec<Do>) {
        let idle = self.lanes.values().filter(|lane| !lane.has_slot && !lane.leaving).count();
        for _ in self.idle_max..idle {
            let idle = self.lanes.iter().filter(|(_, lane)| !lane.has_slot && !lane.leaving);
            let Some((&id, _)) = idle.min_by_key(|(_, lane)| lane.idle_since) else { return };
            self.dismiss(id);
            to_do.push(Do::Look(id));
        }
    }

    /// A lane has nothing to do, and takes no more: its slot is free.
    pub(super) fn yield_slot(&mut self, lane_id: LaneId, to_do: &mut Vec<Do>) {
        self.free_slot(lane_id);
        self.dismiss(lane_id);
        self.give_slots(to_do);
    }

    /// A lane gets no more work, and is to end.
    fn dismiss(&mut self, lane_id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return };
        lane.mail.retire = true;
        lane.leaving = true;
        if let Some(class) = self.classes.get_mut(&lane.class) {
            class.idle.retain(|other| *other != lane_id);
        }
    }

    /// An idle lane has been so for too long. Not one that was given a slot just now.
    pub(super) fn retire(&mut self, lane_id: LaneId, to_do: &mut Vec<Do>) {
        if self.lanes.get(&lane_id).is_some_and(|lane| !lane.has_slot) {
            self.dismiss(lane_id);
            to_do.push(Do::Look(lane_id));
        }
    }

    pub(super) fn has_free_slot(&self) -> bool {
        self.busy < self.slots
    }

    pub(super) const fn is_closing(&self) -> bool {
        self.closing
    }

    /// Nobody is to be told when its ending is in the outbox.
    pub(super) fn forget(&mut self, attempt: AttemptKey) {
        self.places.remove(&attempt);
        if !self.losses.is_empty() {
            self.losses.remove(&attempt);
        }
    }

    /// A lane ends.
    pub(super) fn leave(&mut self, lane_id: LaneId, to_do: &mut Vec<Do>) {
        self.free_slot(lane_id);
        if let Some(lane) = self.lanes.remove(&lane_id) {
            if let Some(class) = self.classes.get_mut(&lane.class) {
                class.idle.retain(|other| *other != lane_id);
            }
            self.drop_class(lane.class);
        }
        self.places.retain(|_, place| !matches!(place, Place::Lane(lane, ..) if *lane == lane_id));
        self.give_slots(to_do);
    }

    /// A class without lanes and work is forgotten.
    fn drop_class(&mut self, id: ClassId) {
        let lanes = self.lanes.values().any(|lane| lane.class == id);
        if !lanes && self.classes.get(&id).is_some_and(|class| class.waiting.is_empty()) {
            self.classes.remove(&id);
        }
    }

    /// An attempt is to be killed.
    pub(super) fn kill(&mut self, attempt: AttemptKey, to_do: &mut Vec<Do>) -> Kill {
        match self.places.get(&attempt) {
            Some(Place::Waiting(class)) => {
                let class_id = *class;
                self.forget(attempt);
                if let Some(class) = self.classes.get_mut(&class_id) {
                    class.waiting.retain(|waiting| waiting.assignment.attempt != attempt);
                }
                // One that is being opened for it may be wanted no more.
                let opening = self.lanes.iter().filter(|(_, lane)| lane.class == class_id && lane.opening);
                to_do.extend(opening.map(|(id, _)| Do::Look(*id)));
                self.drop_class(class_id);
                Kill::Waited
            }
            Some(Place::Lane(lane_id, _, kill)) => {
                // At once, also where the lane waits for a disk or an engine.
                kill.cancel();
                let Some(lane) = self.lanes.get_mut(lane_id) else { return Kill::Unknown };
                lane.mail.kill.push(attempt);
                to_do.push(Do::Look(*lane_id));
                Kill::Told
            }
            None => Kill::Unknown,
        }
    }

    /// An attempt's ending is in the outbox. Endings of one lane come in order.
    pub(super) fn release(&mut self, attempt: AttemptKey) -> Option<LaneId> {
        let place = self.places.remove(&attempt);
        if !self.losses.is_empty() {
            self.losses.remove(&attempt);
        }
        let Some(Place::Lane(lane_id, run, _)) = place else { return None };
        let lane = self.lanes.get_mut(&lane_id)?;
        lane.mail.released = lane.mail.released.max(run);
        Some(lane_id)
    }

    /// No lane gets new work; those that are idle end.
    pub(super) fn close(&mut self) -> Vec<LaneId> {
        self.closing = true;
        for lane in self.lanes.values_mut() {
            lane.mail.retire = true;
            lane.leaving = true;
        }
        self.lanes.keys().copied().collect()
    }

    /// What a lane is charged with.
    pub(super) fn attempts_of(&self, lane: LaneId) -> Vec<AttemptKey> {
        let with = |place: &Place| matches!(place, Place::Lane(other, ..) if *other == lane);
        self.places.iter().filter(|(_, place)| with(place)).map(|(attempt, _)| *attempt).collect()
    }

    /// How many lanes hold what the outbox does not have yet.
    pub(super) fn unreleased_lanes(&self) -> usize {
        let mut lanes: Vec<_> = self
            .places
            .values()
            .filter_map(|place| match place {
                Place::Lane(lane, ..) => Some(*lane),
                Place::Waiting(_) => None,
            })
            .collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes.len()
    }
}

#[cfg(test)]
mod tests;
