//! The board: which attempts wait, which lanes there are, and who gets a slot. Plain data behind one lock; nothing in it
//! waits.
//!
//! Attempts that can share workers are a *class*: those of one project that need the same of a worker. Slots go to the
//! class whose first attempt has waited longest. A lane that has a slot keeps it for as long as its class has work,
//! unless another class waits longer and has no slot at all.

use crate::domain::{Assignment, AttemptKey, Isolation, RunSpec};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// How much work is sent to a worker ahead of need, in microseconds of observed run time.
const AHEAD_MICROS: u64 = 20_000;

/// How much the newest run time counts, in parts of this.
const WALL_WEIGHT: u64 = 8;

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

/// What a lane is told.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// It has a slot.
    pub(super) awake: bool,
    /// It is to end as soon as it can.
    pub(super) retire: bool,
    /// Attempts of its own to kill.
    pub(super) kill: Vec<AttemptKey>,
    /// The highest run whose ending is in the outbox, with those of all before it.
    pub(super) released: u64,
}

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting(ClassId),
    Lane(LaneId, u64),
}

#[derive(Debug)]
struct Waiting {
    /// The order of arrival, over all classes.
    turn: u64,
    assignment: Assignment,
}

#[derive(Debug)]
struct Class {
    project: u64,
    run: Arc<RunSpec>,
    waiting: VecDeque<Waiting>,
    /// Lanes without a slot; the last one was used last.
    idle: Vec<LaneId>,
    /// Lanes that have a slot.
    busy: usize,
    /// Those of them that have not asked for work yet.
    opening: usize,
    /// How long a run takes, smoothed; none while that is unknown.
    wall_micros: Option<u64>,
}

#[derive(Debug)]
struct Lane {
    class: ClassId,
    mail: Mail,
    notify: Arc<Notify>,
    has_slot: bool,
    opening: bool,
    idle_since: Instant,
}

/// What became of a wish to kill.
#[derive(Debug)]
pub(super) enum Kill {
    /// It had not been taken by any lane, and is gone from the board.
    Waited,
    /// Its lane was told.
    Told(LaneId),
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
    closing: bool,
}

/// Whether attempts of two specs of one project can share workers: whether a worker would be made alike for both.
fn alike(one: &RunSpec, other: &RunSpec) -> bool {
    // All fields are named, so that a new one can't be forgotten.
    let RunSpec {
        project_name: _,
        image,
        isolation,
        env: _,
        workdir,
        timeout: _,
        cpus_milli,
        memory_bytes,
        pids_max,
        network,
        output_bytes_max: _,
        stdin: _,
    } = one;
    *isolation == other.isolation
        && *cpus_milli == other.cpus_milli
        && *memory_bytes == other.memory_bytes
        && *pids_max == other.pids_max
        && *network == other.network
        && *workdir == other.workdir
        && *image == other.image
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
        let class = Class {
            project,
            run: assignment.spec.clone(),
            waiting: VecDeque::new(),
            idle: Vec::new(),
            busy: 0,
            opening: 0,
            wall_micros: None,
        };
        self.classes.insert(id, class);
        id
    }

    /// Takes attempts to run, in this order. One that is here already is not taken a second time.
    pub(super) fn add(&mut self, assignments: Vec<Assignment>, to_do: &mut Vec<Do>) {
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
                class.waiting.push_back(Waiting { turn, assignment });
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
            idle_since: Instant::now(),
        };
        self.lanes.insert(id, lane);
    }

    /// A lane for attempts that run already. It has a slot, even if there are too many of its kind.
    pub(super) fn adopt(&mut self, attempts: &[(u64, AttemptKey)], run: Arc<RunSpec>) -> LaneId {
        let (id, class) = (LaneId(self.number()), ClassId(self.number()));
        let project = attempts.first().map_or(0, |(_, attempt)| attempt.project);
        // Its worker was made from what is not known any more: nothing else is ever alike.
        self.classes.insert(
            class,
            Class {
                // No project has this number.
                project: if attempts.is_empty() { project } else { u64::MAX },
                run,
                waiting: VecDeque::new(),
                idle: Vec::new(),
                busy: 1,
                opening: 0,
                wall_micros: None,
            },
        );
        self.busy += 1;
        self.insert_lane(id, class, false);
        for (run, attempt) in attempts {
            self.places.insert(*attempt, Place::Lane(id, *run));
        }
        id
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
    /// init and have not ended, of at most `held_max`; the first of those now given has the number `first`.
    pub(super) fn pull(&mut self, lane_id: LaneId, held: usize, held_max: usize, first: u64) -> Vec<Assignment> {
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
            && let Some(waiting) = class.waiting.pop_front_if(|waiting| !all_busy || may_have(waiting.turn))
        {
            let run = first + pulled.len() as u64;
            self.places.insert(waiting.assignment.attempt, Place::Lane(lane_id, run));
            pulled.push(waiting.assignment);
        }
        pulled
    }

    /// What a lane could not begin goes back to the front.
    pub(super) fn put_back(&mut self, lane: LaneId, assignments: Vec<Assignment>, to_do: &mut Vec<Do>) {
        let Some(class_id) = self.lanes.get(&lane).map(|lane| lane.class) else { return };
        // They had waited longer than all that wait now.
        let fronts = self.classes.values().filter_map(|class| class.waiting.front());
        let turn = fronts.map(|first| first.turn).min().unwrap_or(self.next).saturating_sub(1);
        for assignment in assignments.into_iter().rev() {
            self.places.insert(assignment.attempt, Place::Waiting(class_id));
            if let Some(class) = self.classes.get_mut(&class_id) {
                class.waiting.push_front(Waiting { turn, assignment });
            }
        }
        self.give_slots(to_do);
    }

    /// If no slot is free, takes everything of the lane's class that waits off the board: it is not for the pool to keep.
    pub(super) fn drain_if_full(&mut self, lane: LaneId) -> Vec<Assignment> {
        if self.has_free_slot() {
            return Vec::new();
        }
        let Some(class) = self.lanes.get(&lane).and_then(|lane| self.classes.get_mut(&lane.class)) else {
            return Vec::new();
        };
        let drained: Vec<_> = class.waiting.drain(..).map(|waiting| waiting.assignment).collect();
        for assignment in &drained {
            self.places.remove(&assignment.attempt);
        }
        drained
    }

    /// Takes the one that has waited longest in a lane's class, to be ended without a worker.
    pub(super) fn take_first(&mut self, lane: LaneId) -> Option<Assignment> {
        let class = self.lanes.get(&lane).and_then(|lane| self.classes.get_mut(&lane.class))?;
        let assignment = class.waiting.pop_front()?.assignment;
        self.places.remove(&assignment.attempt);
        Some(assignment)
    }

    /// How long a run took, or has taken so far.
    pub(super) fn observe(&mut self, lane: LaneId, wall: Duration, is_over: bool) {
        let Some(class) = self.lanes.get(&lane).and_then(|lane| self.classes.get_mut(&lane.class)) else { return };
        let micros = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX / WALL_WEIGHT).max(1);
        class.wall_micros = Some(match class.wall_micros {
            // One that is not over counts as the least that it can become.
            Some(smooth) if !is_over => smooth.max(micros),
            Some(smooth) => (smooth * (WALL_WEIGHT - 1) + micros) / WALL_WEIGHT,
            None => micros,
        });
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
        let idle = self.lanes.values().filter(|lane| !lane.has_slot && !lane.mail.retire).count();
        for _ in self.idle_max..idle {
            let idle = self.lanes.iter_mut().filter(|(_, lane)| !lane.has_slot && !lane.mail.retire);
            let Some((id, lane)) = idle.min_by_key(|(_, lane)| lane.idle_since) else { return };
            lane.mail.retire = true;
            if let Some(class) = self.classes.get_mut(&lane.class) {
                class.idle.retain(|other| other != id);
            }
            to_do.push(Do::Look(*id));
        }
    }

    /// A lane has nothing to do, and takes no more: its slot is free.
    pub(super) fn yield_slot(&mut self, lane_id: LaneId, to_do: &mut Vec<Do>) {
        self.free_slot(lane_id);
        if let Some(lane) = self.lanes.get_mut(&lane_id) {
            lane.mail.retire = true;
        }
        self.give_slots(to_do);
    }

    /// An idle lane has been so for too long. Not one that was given a slot just now.
    pub(super) fn retire(&mut self, lane_id: LaneId, to_do: &mut Vec<Do>) {
        let Some(lane) = self.lanes.get_mut(&lane_id).filter(|lane| !lane.has_slot) else { return };
        lane.mail.retire = true;
        if let Some(class) = self.classes.get_mut(&lane.class) {
            class.idle.retain(|other| *other != lane_id);
        }
        to_do.push(Do::Look(lane_id));
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
        self.places.retain(|_, place| !matches!(place, Place::Lane(lane, _) if *lane == lane_id));
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
    pub(super) fn kill(&mut self, attempt: AttemptKey) -> Kill {
        match self.places.get(&attempt) {
            Some(Place::Waiting(class)) => {
                let class_id = *class;
                self.places.remove(&attempt);
                if let Some(class) = self.classes.get_mut(&class_id) {
                    class.waiting.retain(|waiting| waiting.assignment.attempt != attempt);
                }
                self.drop_class(class_id);
                Kill::Waited
            }
            Some(Place::Lane(lane_id, _)) => match self.lanes.get_mut(lane_id) {
                Some(lane) => {
                    lane.mail.kill.push(attempt);
                    Kill::Told(*lane_id)
                }
                None => Kill::Unknown,
            },
            None => Kill::Unknown,
        }
    }

    /// Whether a lane was told to kill an attempt, and has not looked since.
    pub(super) fn is_to_kill(&self, lane: LaneId, attempt: AttemptKey) -> bool {
        self.lanes.get(&lane).is_some_and(|lane| lane.mail.kill.contains(&attempt))
    }

    /// An attempt's ending is in the outbox. Endings of one lane come in order.
    pub(super) fn release(&mut self, attempt: AttemptKey) -> Option<LaneId> {
        let Some(Place::Lane(lane_id, run)) = self.places.remove(&attempt) else { return None };
        let lane = self.lanes.get_mut(&lane_id)?;
        lane.mail.released = lane.mail.released.max(run);
        Some(lane_id)
    }

    /// No lane gets new work; those that are idle end.
    pub(super) fn close(&mut self) -> Vec<LaneId> {
        self.closing = true;
        for lane in self.lanes.values_mut() {
            lane.mail.retire = true;
        }
        self.lanes.keys().copied().collect()
    }

    /// How many lanes hold what the outbox does not have yet.
    pub(super) fn unreleased_lanes(&self) -> usize {
        let mut lanes: Vec<_> = self
            .places
            .values()
            .filter_map(|place| match place {
                Place::Lane(lane, _) => Some(*lane),
                Place::Waiting(_) => None,
            })
            .collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes.len()
    }
}

impl Class {
    /// How many runs a worker may hold at once.
    fn runs_at_once(&self) -> usize {
        let ahead = match self.wall_micros {
            Some(wall) if self.run.isolation == Isolation::Sealed => AHEAD_MICROS / wall.max(1),
            _ => 0,
        };
        1 + usize::try_from(ahead).unwrap_or(usize::MAX - 1)
    }
}

#[cfg(test)]
mod tests;
