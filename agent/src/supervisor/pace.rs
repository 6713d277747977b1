//! How fast attempts end, and so how many to hold beyond the slots: enough that no slot waits for the coordinator or for
//! the shell, and none where that would only keep long work from other agents.

use std::time::Duration;

/// The most attempts that are asked for beyond the slots, in attempts.
pub const BACKLOG_ATTEMPTS_MAX: u32 = 4096;

/// How much work waits beyond the slots, in milliseconds: as long as it takes from an ending to the next assignment, with
/// both sides committing in batches on busy processors.
const BACKLOG_MILLIS: u64 = 150;

/// How much of that is dispatched before a slot is free for it, in milliseconds.
const AHEAD_MILLIS: u64 = 100;

/// With slots that end less than half an attempt each in this time, in milliseconds, work is long.
const QUICK_MILLIS: u64 = 50;

/// With runs that take no longer than this on average, in milliseconds, one more than runs waits here for each slot, not
/// dispatched: else a slot would be idle from each ending until the coordinator has recorded it and answered.
const NEXT_WALL_MILLIS_MAX: u64 = 2000;

/// The same in microseconds.
const WALL_MICROS_MAX: u64 = NEXT_WALL_MILLIS_MAX * 1000;

/// How much the newest run counts in that average, in parts of this.
const WALL_WEIGHT: u64 = 8;

/// How long one step of the window is, in milliseconds. Once a step everything is weighed anew.
const STEP_MILLIS: u64 = 25;

/// How long the window is, in steps. Long enough that slots that end all at once don't look like quick work.
const WINDOW_STEPS: usize = 8;

/// How many of the last steps alone must show as much work as the whole window: slow work shows in them at once.
const RECENT_STEPS: usize = 2;

/// By how much the backlog may grow with each step.
const GROWTH_FACTOR_MAX: u32 = 4;

/// What was observed, and what follows from it.
#[derive(Debug)]
pub(super) struct Pace {
    slots: u32,
    /// The number of the step under way, since the beginning of time.
    step: u64,
    /// Endings in the step under way.
    endings: u32,
    /// Endings in the steps before, the last one first.
    window: [u32; WINDOW_STEPS],
    backlog: u32,
    ahead: u32,
    /// After attempts had to be taken back: how many ended since. Until that shows that all slots move, none goes ahead.
    since_taken_back: Option<u32>,
    /// How long runs take on average, in microseconds; 0 while that is unknown.
    wall_micros: u64,
    /// A slot was idle in the step under way.
    idle: bool,
    now: Duration,
    last_ended: Duration,
}

impl Pace {
    pub(super) const fn new(slots: u32) -> Self {
        Self {
            slots,
            step: 0,
            endings: 0,
            window: [0; WINDOW_STEPS],
            backlog: 0,
            ahead: 0,
            since_taken_back: None,
            wall_micros: 0,
            idle: false,
            now: Duration::ZERO,
            last_ended: Duration::ZERO,
        }
    }

    /// How many attempts to ask for beyond the slots.
    pub(super) fn backlog(&self) -> u32 {
        let next = if self.now < self.next_until() { self.slots } else { 0 };
        self.backlog.max(next)
    }

    /// Until when each slot has a next one. When nothing ends any more, the average says nothing.
    fn next_until(&self) -> Duration {
        match self.wall_micros {
            1..=WALL_MICROS_MAX => self.last_ended + Duration::from_millis(2 * NEXT_WALL_MILLIS_MAX),
            _ => Duration::ZERO,
        }
    }

    /// How many attempts to dispatch beyond the slots. Never more than the backlog.
    pub(super) const fn ahead(&self) -> u32 {
        self.ahead
    }

    /// An attempt ended that ran for this long.
    pub(super) fn ended(&mut self, wall_micros: u64) {
        self.endings = self.endings.saturating_add(1);
        if let Some(since) = &mut self.since_taken_back {
            *since = since.saturating_add(1);
        }
        self.last_ended = self.now;
        self.wall_micros = match self.wall_micros {
            0 => wall_micros,
            smooth => smooth.saturating_mul(WALL_WEIGHT - 1).saturating_add(wall_micros) / WALL_WEIGHT,
        };
    }

    /// So many attempts were dispatched at this moment.
    pub(super) fn dispatched(&mut self, count: usize) {
        self.idle |= count < self.slots as usize;
    }

    /// Dispatched attempts were stuck, and had to be taken back.
    pub(super) fn taken_back(&mut self) {
        self.ahead = 0;
        self.since_taken_back = Some(0);
    }

    /// It is `now`.
    pub(super) fn pass(&mut self, now: Duration) {
        self.now = now;
        let step = u64::try_from(now.as_millis()).unwrap_or(u64::MAX) / STEP_MILLIS;
        let passed = usize::try_from(step.saturating_sub(self.step)).unwrap_or(usize::MAX).min(WINDOW_STEPS);
        if passed == 0 {
            return;
        }
        self.step = step;
        self.window.rotate_right(passed);
        self.window[..passed].fill(0);
        // The step under way was the first of those that passed. After a whole window it is the oldest of it.
        self.window[passed - 1] = std::mem::take(&mut self.endings);
        let was_idle = std::mem::take(&mut self.idle);
        self.weigh(was_idle);
    }

    /// How many attempts end in this time, by the last so many steps.
    fn endings_in(&self, millis: u64, steps: usize) -> u64 {
        let sum: u64 = self.window[..steps].iter().map(|endings| u64::from(*endings)).sum();
        sum * millis / (steps as u64 * STEP_MILLIS)
    }

    /// Whether what was dispatched ahead lasts for this long, and as long again.
    pub(super) fn is_ahead_by(&self, time: Duration) -> bool {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX / u64::from(u32::MAX));
        self.ahead > 0 && u64::from(self.ahead) >= 2 * self.endings_in(millis, RECENT_STEPS)
    }

    /// Follows what was observed; a slot was idle in the last step, or none was.
    fn weigh(&mut self, was_idle: bool) {
        let work = |millis| {
            let recent = self.endings_in(millis, RECENT_STEPS);
            match self.wall_micros {
                0 => recent.min(self.endings_in(millis, WINDOW_STEPS)),
                // Slots that end all at once are told from quick work by how long the runs take; and from how often they
                // end it is seen what they can do only if they had enough.
                wall => {
                    let can = u64::from(self.slots).saturating_mul(millis * 1000) / wall;
                    if was_idle && self.now < self.next_until() { can } else { recent.min(can) }
                }
            }
        };
        let long = work(QUICK_MILLIS) * 2 < u64::from(self.slots);
        let wanted = |millis| if long { 0 } else { bounded(work(millis)) };
        let (backlog, ahead) = (wanted(BACKLOG_MILLIS), wanted(AHEAD_MILLIS));
        let grown = |from: u32, to: u32| to.min((from * GROWTH_FACTOR_MAX).max(self.slots));
        let backlog = grown(self.backlog, backlog);
        // Each change is a message: small ones are let be.
        if backlog == 0 || backlog.abs_diff(self.backlog) * 4 > self.backlog {
            self.backlog = backlog;
        }
        self.ahead = match self.since_taken_back {
            Some(since) if since < self.slots => 0,
            _ => {
                self.since_taken_back = None;
                grown(self.ahead, ahead).min(self.backlog)
            }
        };
    }

    /// When to look again although nothing has happened: slow work shows by what does not end.
    pub(super) fn next_timer(&self) -> Option<Duration> {
        let step = (self.backlog > 0).then(|| Duration::from_millis((self.step + 1) * STEP_MILLIS));
        let next = Some(self.next_until()).filter(|until| self.now < *until);
        step.into_iter().chain(next).min()
    }

    /// Cross-checks the bounds.
    pub(super) fn check(&self) {
        assert!(self.backlog <= BACKLOG_ATTEMPTS_MAX, "a backlog of {}", self.backlog);
        assert!(self.ahead <= self.backlog, "{} ahead with a backlog of {}", self.ahead, self.backlog);
    }
}

fn bounded(work: u64) -> u32 {
    u32::try_from(work).unwrap_or(u32::MAX).min(BACKLOG_ATTEMPTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Observed {
        pace: Pace,
        now: Duration,
    }

    impl Observed {
        fn new(slots: u32) -> Self {
            let mut pace = Pace::new(slots);
            let now = Duration::from_secs(1000);
            pace.pass(now);
            Self { pace, now }
        }

        /// Lets steps pass in each of which so many attempts end; gives back the backlog after each.
        fn steps(&mut self, endings: &[usize]) -> Vec<u32> {
            let step = |endings: &usize| {
                for _ in 0..*endings {
                    self.pace.ended(0);
                }
                self.now += Duration::from_millis(STEP_MILLIS);
                self.pace.pass(self.now);
                self.pace.check();
                self.pace.backlog()
            };
            endings.iter().map(step).collect()
        }
    }

    #[test]
    fn quick_work_makes_a_backlog_that_grows_step_by_step() {
        let mut observed = Observed::new(2);
        let grown = observed.steps(&[100; 20]);
        assert_eq!(grown[..5], [2, 8, 32, 128, 375]);
        assert_eq!(grown.last(), Some(&525), "nearly 150 ms of 4 endings a millisecond");
        assert_eq!(observed.pace.ahead(), 400);
    }

    #[test]
    fn the_backlog_is_bounded() {
        let mut observed = Observed::new(64);
        assert_eq!(observed.steps(&[100_000; 20]).last(), Some(&BACKLOG_ATTEMPTS_MAX));
    }

    #[test]
    fn long_work_has_none_even_if_all_slots_end_at_once() {
        let mut observed = Observed::new(64);
        for _ in 0..10 {
            assert_eq!(observed.steps(&[64, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [0; 10]);
        }
    }

    #[test]
    fn work_that_gets_slow_has_none_at_once() {
        let mut observed = Observed::new(2);
        observed.steps(&[100; 20]);
        assert!(observed.pace.next_timer().is_some(), "nothing else may happen any more");
        let slower = observed.steps(&[0, 0]);
        assert!(slower[0] <= 300, "{slower:?}");
        assert_eq!(slower[1], 0);
        assert_eq!((observed.pace.ahead(), observed.pace.next_timer()), (0, None));
    }

    #[test]
    fn runs_of_less_than_two_seconds_have_a_next_one_each() {
        let mut observed = Observed::new(2);
        let mut after = |wall_millis: u64| {
            for _ in 0..40 {
                observed.now += Duration::from_millis(wall_millis);
                observed.pace.pass(observed.now);
                observed.pace.ended(wall_millis * 1000);
            }
            (observed.pace.backlog(), observed.pace.ahead(), observed.pace.next_timer())
        };
        let (backlog, ahead, timer) = after(500);
        assert_eq!((backlog, ahead), (2, 0));
        assert_eq!(after(3000), (0, 0, None));
        let until = timer.expect("it ends when nothing ends any more");
        let mut observed = Observed::new(2);
        observed.pace.ended(500_000);
        observed.pace.pass(until);
        assert_eq!((observed.pace.backlog(), observed.pace.next_timer()), (0, None));
    }

    #[test]
    fn small_changes_are_let_be() {
        let mut observed = Observed::new(2);
        observed.steps(&[100; 20]);
        assert_eq!(observed.steps(&[110, 90, 95, 105, 120]), [525; 5]);
    }

    #[test]
    fn a_pause_leaves_nothing_of_the_window() {
        let mut observed = Observed::new(2);
        observed.steps(&[100; 20]);
        observed.now += Duration::from_secs(60);
        assert_eq!(observed.steps(&[100]), [0]);
    }

    #[test]
    fn after_attempts_were_stuck_none_goes_ahead_until_all_slots_have_moved() {
        let mut observed = Observed::new(2);
        observed.steps(&[100; 20]);
        observed.pace.taken_back();
        assert_eq!(observed.pace.ahead(), 0);
        observed.steps(&[1]);
        assert_eq!(observed.pace.ahead(), 0);
        observed.steps(&[100]);
        assert_eq!(observed.pace.ahead(), 2);
    }
}
