//! What comes back to the board, and what leaves it without having had a lane.

use super::{Answer, Board, Do, LaneId, Place, class::Waiting};
use crate::domain::{Assignment, AttemptKey};
use std::time::Duration;
use tokio::time::Instant;

/// How often an attempt that never began may be put back because its worker died, in times.
const LOSSES_MAX: u8 = 3;

/// How long attempts may wait on the board while no slot is free, in milliseconds.
const WAIT_MILLIS: u64 = 100;

impl Board {
    /// What a lane could not begin goes back to the front. Returns what does not, and whether it was to be killed: that, and
    /// what has been put back too often because its worker died.
    pub(in crate::pool) fn put_back(
        &mut self,
        lane: LaneId,
        assignments: Vec<Assignment>,
        worker_died: bool,
        to_do: &mut Vec<Do>,
    ) -> Vec<(AttemptKey, bool)> {
        let mut kept_off = Vec::new();
        let Some(class_id) = self.lanes.get(&lane).map(|lane| lane.class) else { return kept_off };
        let fronts = self.classes.values().filter_map(|class| class.waiting.front());
        // They had waited longer than all that wait now.
        let turn = fronts.map(|first| first.turn).min().unwrap_or(self.next).saturating_sub(1);
        let since = Instant::now();
        for assignment in assignments.into_iter().rev() {
            let attempt = assignment.attempt;
            let killed =
                matches!(self.places.get(&attempt), Some(Place::Lane(_, _, kill)) if kill.is_cancelled());
            let losses = self.losses.get(&attempt).copied().unwrap_or(0) + u8::from(worker_died);
            if killed || losses > LOSSES_MAX {
                self.forget(attempt);
                kept_off.push((attempt, killed));
                continue;
            }
            if losses > 0 {
                self.losses.insert(attempt, losses);
            }
            self.places.insert(attempt, Place::Waiting(class_id));
            if let Some(class) = self.classes.get_mut(&class_id) {
                class.waiting.push_front(Waiting { turn, since, assignment });
            }
        }
        self.give_slots(to_do);
        self.call_busy(to_do);
        kept_off
    }

    /// Takes all that wait in a lane's class, in their order: nobody can begin them now.
    pub(in crate::pool) fn take_all(&mut self, lane: LaneId) -> Vec<Assignment> {
        let class = self.lanes.get(&lane).and_then(|lane| self.classes.get_mut(&lane.class));
        let waiting = class.map(|class| std::mem::take(&mut class.waiting)).unwrap_or_default();
        let all: Vec<_> = waiting.into_iter().map(|waiting| waiting.assignment).collect();
        for assignment in &all {
            self.forget(assignment.attempt);
        }
        all
    }

    /// Nothing begins any more: takes all that waits, in its order. Each lane that may hold more owes an answer.
    pub(in crate::pool) fn take_back(&mut self, answer: &Answer) -> (Vec<Assignment>, Vec<LaneId>) {
        let lanes = self.close();
        // Others have been given nothing, or have nothing left.
        for lane in self.lanes.values_mut().filter(|lane| lane.has_slot && !lane.opening) {
            lane.mail.take_back = Some(answer.clone());
        }
        (self.take_stuck(), lanes)
    }

    /// What has waited for too long while no slot was free: it is not for the pool to keep. Lanes that are about to take
    /// their first keep it, unless nothing begins any more.
    pub(in crate::pool) fn take_stuck(&mut self) -> Vec<Assignment> {
        if self.has_free_slot() && !self.closing {
            return Vec::new();
        }
        let (mut stuck, mut emptied) = (Vec::new(), Vec::new());
        for (id, class) in &mut self.classes {
            let waits_long = |waiting: &Waiting| {
                self.closing || waiting.since.elapsed() >= Duration::from_millis(WAIT_MILLIS)
            };
            let kept = if self.closing { 0 } else { class.opening };
            if class.waiting.get(kept).is_some_and(waits_long) {
                stuck.extend(class.waiting.drain(kept..).map(|waiting| (waiting.turn, waiting.assignment)));
                emptied.push(*id);
            }
        }
        for class in emptied {
            self.drop_class(class);
        }
        stuck.sort_by_key(|(turn, _)| *turn);
        let stuck: Vec<_> = stuck.into_iter().map(|(_, assignment)| assignment).collect();
        for assignment in &stuck {
            self.forget(assignment.attempt);
        }
        stuck
    }
}
