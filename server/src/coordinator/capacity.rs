//! What attempts need of an agent's processors and memory, and how many more of a kind it can take.
//!
//! An agent runs as many attempts at a time as it has slots, whichever of those that it holds. So what it can have out is
//! bounded by the sum of what it holds while that fits into its slots, and by its slots times the largest need beyond them.

use crate::domain::Resources;
use std::collections::BTreeMap;

/// What one attempt asks for. 0 counts for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need {
    pub(super) cpus_milli: u32,
    pub(super) memory_bytes: u64,
}

impl Need {
    pub(super) fn of(resources: Resources) -> Self {
        Self {
            cpus_milli: resources.cpus_milli.unwrap_or(0),
            memory_bytes: resources.memory_bytes.unwrap_or(0),
        }
    }

    /// What so many of these ask for.
    pub(super) fn times(self, attempts: u32) -> Self {
        Self {
            cpus_milli: self.cpus_milli.saturating_mul(attempts),
            memory_bytes: self.memory_bytes.saturating_mul(attempts.into()),
        }
    }

    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// What an agent holds of one thing: the sum, and how many attempts ask for how much.
#[derive(Debug, Default)]
struct Asked {
    sum: u64,
    counts: BTreeMap<u64, u32>,
}

impl Asked {
    fn add(&mut self, amount: u64) {
        if amount > 0 {
            self.sum += amount;
            *self.counts.entry(amount).or_default() += 1;
        }
    }

    fn remove(&mut self, amount: u64) {
        if let Some(count) = self.counts.get_mut(&amount) {
            self.sum -= amount;
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&amount);
            }
        }
    }

    fn level(&self, offered: Option<u64>) -> Level {
        Level {
            offered: offered.unwrap_or(u64::MAX),
            sum: self.sum,
            largest: self.counts.last_key_value().map_or(0, |(&amount, _)| amount),
        }
    }
}

/// What all attempts of an agent ask for together.
#[derive(Debug, Default)]
pub(super) struct Load {
    cpus: Asked,
    memory: Asked,
}

impl Load {
    pub(super) fn add(&mut self, need: Need) {
        self.cpus.add(need.cpus_milli.into());
        self.memory.add(need.memory_bytes);
    }

    pub(super) fn remove(&mut self, need: Need) {
        self.cpus.remove(need.cpus_milli.into());
        self.memory.remove(need.memory_bytes);
    }

    pub(super) fn cpus_milli(&self) -> u64 {
        self.cpus.sum
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory.sum
    }

    /// Beside what the agent offers.
    pub(super) fn levels(&self, cpus_milli: Option<u32>, memory_bytes: Option<u64>) -> Levels {
        Levels { cpus: self.cpus.level(cpus_milli.map(u64::from)), memory: self.memory.level(memory_bytes) }
    }
}

/// How much of one thing there is, and is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Level {
    offered: u64,
    sum: u64,
    largest: u64,
}

impl Level {
    /// How many more fit beside everything that is held.
    fn room(self, amount: u64) -> u64 {
        self.offered.saturating_sub(self.sum).checked_div(amount).unwrap_or(u64::MAX)
    }

    /// Whether all slots could run one of these, or the largest that is held.
    fn fills_slots(self, amount: u64, slots: u32) -> bool {
        amount == 0 || u64::from(slots).saturating_mul(amount.max(self.largest)) <= self.offered
    }

    /// The free part, in thousandths.
    fn free_share(self) -> u32 {
        if self.sum == 0 || self.offered == 0 {
            return SHARE_WHOLE;
        }
        let free = self.offered.saturating_sub(self.sum);
        u32::try_from(u128::from(free) * u128::from(SHARE_WHOLE) / u128::from(self.offered)).unwrap_or(0)
    }
}

/// A whole, in thousandths.
pub(super) const SHARE_WHOLE: u32 = 1000;

/// How full an agent's processors and memory are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Levels {
    cpus: Level,
    memory: Level,
}

impl Levels {
    /// Whether the agent could run one if it held nothing else.
    pub(super) fn could_run(self, need: Need) -> bool {
        u64::from(need.cpus_milli) <= self.cpus.offered && need.memory_bytes <= self.memory.offered
    }

    /// How many more of these the agent may hold, of `free` that it wants, with so many of its slots free.
    pub(super) fn seats(self, need: Need, slots: u32, slots_left: u32, free: u32) -> u32 {
        if need.is_nothing() {
            return free;
        }
        let (cpus, memory) = (u64::from(need.cpus_milli), need.memory_bytes);
        let room = self.cpus.room(cpus).min(self.memory.room(memory));
        if room >= u64::from(slots_left)
            && self.cpus.fills_slots(cpus, slots)
            && self.memory.fills_slots(memory, slots)
        {
            return free;
        }
        free.min(slots_left).min(u32::try_from(room).unwrap_or(u32::MAX))
    }

    /// The scarcer one's free part, in thousandths.
    pub(super) fn free_share(self) -> u32 {
        self.cpus.free_share().min(self.memory.free_share())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(cpus_milli: u32) -> Need {
        Need { cpus_milli, memory_bytes: 0 }
    }

    /// An agent of four slots and four processors that holds these.
    fn levels(held: &[Need]) -> Levels {
        let mut load = Load::default();
        held.iter().for_each(|&need| load.add(need));
        load.levels(Some(4000), Some(1 << 30))
    }

    #[test]
    fn what_asks_for_nothing_takes_all_that_is_wanted() {
        assert_eq!(levels(&[cpus(4000)]).seats(Need::default(), 4, 3, 50), 50);
    }

    #[test]
    fn a_backlog_is_for_what_all_slots_could_run() {
        assert_eq!(levels(&[]).seats(cpus(1000), 4, 4, 50), 50);
        assert_eq!(levels(&[cpus(1000); 4]).seats(cpus(1000), 4, 0, 46), 46);
        assert_eq!(levels(&[]).seats(cpus(2000), 4, 4, 50), 2);
        assert_eq!(levels(&[cpus(2000)]).seats(cpus(1000), 4, 3, 49), 2);
        assert_eq!(levels(&[cpus(2000), cpus(1000), cpus(1000)]).seats(cpus(500), 4, 1, 47), 0);
    }

    #[test]
    fn the_scarcer_thing_counts() {
        let need = Need { cpus_milli: 100, memory_bytes: 1 << 29 };
        assert_eq!(levels(&[]).seats(need, 4, 4, 4), 2);
        assert_eq!(levels(&[need]).seats(need, 4, 3, 3), 1);
        assert_eq!(levels(&[need]).free_share(), 500);
        assert!(!levels(&[]).could_run(Need { memory_bytes: 2 << 30, ..need }));
    }

    #[test]
    fn who_does_not_say_what_it_offers_is_bounded_by_its_slots_alone() {
        let levels = Load::default().levels(None, None);
        assert_eq!(levels.seats(cpus(1_000_000), 4, 4, 9), 9);
    }

    #[test]
    fn what_is_let_go_leaves_nothing_behind() {
        let mut load = Load::default();
        load.add(cpus(1000));
        load.add(cpus(3000));
        load.remove(cpus(3000));
        assert_eq!(load.levels(Some(4000), None).cpus, Level { offered: 4000, sum: 1000, largest: 1000 });
        load.remove(cpus(1000));
        assert_eq!(load.levels(Some(4000), None).cpus, Level { offered: 4000, sum: 0, largest: 0 });
    }
}
