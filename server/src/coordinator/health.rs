//! Bad hosts: an agent on which everything fails gets no attempts for a while, and comes back by itself, with one attempt on
//! probation. Only what the coordinator has seen counts, and it is forgotten with the process.

use crate::domain::{Outcome, TaskKey};
use std::time::Duration;

/// So many different tasks in a row that end for a reason which points at the host convict it.
const BLAMED_TASKS_MAX: usize = 5;
/// So many different tasks in a row that fail in whatever way, of projects that succeed elsewhere, do, too. Many, as projects
/// may be such that tasks fail.
const FAILED_TASKS_MAX: usize = 20;
/// The first quarantine.
const QUARANTINE_MIN: Duration = Duration::from_secs(60);
/// The longest; each is twice as long as the one before.
const QUARANTINE_MAX: Duration = Duration::from_secs(15 * 60);

/// What is known of an agent's host.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// The tasks that ended last of all for a reason which points at the host, and whether their projects succeed elsewhere.
    blamed: Vec<(TaskKey, bool)>,
    /// The tasks that failed last of all while their projects succeed elsewhere.
    failed: Vec<TaskKey>,
    state: State,
    /// How many quarantines there were in a row.
    quarantines: u32,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Well,
    /// It gets nothing until then.
    Out { until: Duration, why: String },
    /// It gets one attempt.
    Probation { why: String },
}

/// Whether an ending points at the host, and not at the task.
fn points_at_host(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::CouldNotStart(_)
            | Outcome::ImageUnavailable(_)
            | Outcome::WorkerLost(_)
            | Outcome::EngineLost(_)
    )
}

impl Health {
    /// How many of the attempts that the agent wants it may hold.
    pub(super) fn attempts_max(&self, wanted: u32) -> u32 {
        match self.state {
            State::Well => wanted,
            State::Out { .. } => 0,
            State::Probation { .. } => wanted.min(1),
        }
    }

    /// Nothing is held against it.
    pub(super) fn is_spotless(&self) -> bool {
        matches!(self.state, State::Well)
            && self.quarantines == 0
            && self.blamed.is_empty()
            && self.failed.is_empty()
    }

    pub(super) fn is_out(&self) -> bool {
        matches!(self.state, State::Out { .. })
    }

    /// A task ended in success there.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A task failed there; its project's last task elsewhere succeeded, or not, or there was none. Whether this convicts the
    /// host, and of what.
    pub(super) fn failed(
        &mut self,
        task: TaskKey,
        outcome: &Outcome,
        well_elsewhere: bool,
    ) -> Option<String> {
        if self.is_out() {
            return None;
        }
        if points_at_host(outcome) {
            self.blamed.retain(|(other, _)| *other != task);
            self.blamed.push((task, well_elsewhere));
            drop_oldest(&mut self.blamed, BLAMED_TASKS_MAX);
        } else {
            // Its worker was there, and its command began.
            self.blamed.clear();
        }
        if well_elsewhere {
            self.failed.retain(|other| *other != task);
            self.failed.push(task);
            drop_oldest(&mut self.failed, FAILED_TASKS_MAX);
        } else {
            self.failed.clear();
        }
        let on_probation = matches!(self.state, State::Probation { .. });
        let least = |least: usize| if on_probation { 1 } else { least };
        // One project alone that can start nowhere is no host's fault.
        let first = self.blamed.first().map(|(task, _)| task.project);
        let not_the_project =
            on_probation || self.blamed.iter().any(|(task, well)| *well || Some(task.project) != first);
        let tasks = self.blamed.len();
        if tasks >= least(BLAMED_TASKS_MAX) && not_the_project {
            return Some(format!("{} in a row ended there like the last: {outcome}", tasks_in_words(tasks)));
        }
        let tasks = self.failed.len();
        if tasks >= least(FAILED_TASKS_MAX) {
            return Some(format!(
                "{} in a row failed there, of projects that succeed elsewhere; the last: {outcome}",
                tasks_in_words(tasks)
            ));
        }
        None
    }

    /// It was convicted, and too many others are. What was held against it is forgotten.
    pub(super) fn acquitted(&mut self) {
        self.blamed.clear();
        self.failed.clear();
    }

    /// It gets nothing for a while. How long.
    pub(super) fn quarantine(&mut self, why: String, now: Duration) -> Duration {
        let doubled = QUARANTINE_MIN.saturating_mul(1 << self.quarantines.min(16));
        let time = doubled.min(QUARANTINE_MAX);
        let quarantines = self.quarantines.saturating_add(1);
        *self = Self { state: State::Out { until: now + time, why }, quarantines, ..Self::default() };
        time
    }

    /// If its time is over, it may show that it is well again. Whether it is.
    pub(super) fn comes_back(&mut self, now: Duration) -> bool {
        match &mut self.state {
            State::Out { until, why } if *until <= now => {
                self.state = State::Probation { why: std::mem::take(why) };
                true
            }
            _ => false,
        }
    }

    /// Why it gets fewer attempts than it wants; empty if it does not.
    pub(super) fn in_words(&self, now: Duration) -> String {
        match &self.state {
            State::Well => String::new(),
            State::Out { until, why } => {
                format!("for another {} s: {why}", until.saturating_sub(now).as_secs().max(1))
            }
            State::Probation { why } => format!("on probation, with one attempt: {why}"),
        }
    }
}

/// The latest say enough.
fn drop_oldest<T>(tasks: &mut Vec<T>, tasks_max: usize) {
    tasks.drain(..tasks.len().saturating_sub(tasks_max));
}

fn tasks_in_words(tasks: usize) -> String {
    if tasks == 1 { "1 task".to_owned() } else { format!("{tasks} tasks") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Phase, ProjectId};

    fn task(project: u64, index: u32) -> TaskKey {
        TaskKey { project: ProjectId(project), phase: Phase::Task, index }
    }

    fn lost() -> Outcome {
        Outcome::EngineLost("gone".to_owned())
    }

    #[test]
    fn five_tasks_that_point_at_the_host_convict_it_if_their_projects_are_well() {
        let mut health = Health::default();
        for index in 0..4 {
            assert_eq!(health.failed(task(1, index), &lost(), true), None);
            assert_eq!(health.failed(task(1, index), &lost(), true), None, "the same task again");
        }
        let why = health.failed(task(1, 4), &lost(), true);
        assert_eq!(why.as_deref(), Some("5 tasks in a row ended there like the last: engine lost: gone"));
    }

    #[test]
    fn one_project_that_runs_nowhere_convicts_nobody() {
        let mut health = Health::default();
        for index in 0..100 {
            assert_eq!(health.failed(task(1, index), &lost(), false), None);
        }
        assert!(health.failed(task(2, 0), &lost(), false).is_some(), "two do");
    }

    #[test]
    fn no_more_is_remembered_than_could_convict() {
        let mut health = Health::default();
        for index in 0..100 {
            assert_eq!(health.failed(task(1, index), &lost(), false), None);
            assert!(health.blamed.len() <= BLAMED_TASKS_MAX);
        }
        let mut health = Health::default();
        for index in 0..100 {
            health.failed(task(1, index), &Outcome::Exited(1), true);
            assert!(health.failed.len() <= FAILED_TASKS_MAX);
        }
        health.acquitted();
        assert!(health.is_spotless());
    }

    #[test]
    fn tasks_that_fail_by_themselves_need_to_be_many() {
        let mut health = Health::default();
        for index in 0..19 {
            assert_eq!(health.failed(task(1, index), &Outcome::Exited(1), true), None);
        }
        assert!(health.failed(task(1, 19), &Outcome::Exited(1), true).is_some());
        assert_eq!(health.failed(task(1, 20), &Outcome::Exited(1), false), None, "failed elsewhere, too");
        assert_eq!(health.failed(task(1, 21), &Outcome::Exited(1), true), None);
    }

    #[test]
    fn quarantines_grow_and_a_success_ends_them() {
        let mut health = Health::default();
        let mut now = Duration::ZERO;
        for secs in [60, 120, 240, 480, 900, 900] {
            assert_eq!(health.quarantine("why".to_owned(), now), Duration::from_secs(secs));
            assert_eq!(health.attempts_max(8), 0);
            assert!(!health.comes_back(now + Duration::from_secs(secs - 1)));
            now += Duration::from_secs(secs);
            assert!(health.comes_back(now));
            assert_eq!(health.attempts_max(8), 1);
            assert!(health.failed(task(1, 0), &lost(), false).is_some(), "one is enough now");
        }
        health.succeeded();
        assert_eq!((health.attempts_max(8), health.in_words(now)), (8, String::new()));
        assert_eq!(health.quarantine("why".to_owned(), now), QUARANTINE_MIN);
    }
}
