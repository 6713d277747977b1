//! Bad hosts: an agent on which everything fails gets no attempts for a while, and comes back by itself, with one attempt on
//! probation. Only what the coordinator has seen counts, and it is forgotten with the process.
//!
//! A host is told from a project by how the project does elsewhere. What fails there, too, says nothing of the host. As long
//! as nothing has ended elsewhere, what runs there speaks for the project; a verdict on its word alone is taken back if the
//! first ending elsewhere is no better.

use crate::domain::{Outcome, ProjectId, TaskKey};
use std::time::Duration;

/// So many different tasks in a row that end for a reason which points at the host convict it.
const BLAMED_TASKS_MAX: usize = 5;
/// So many different tasks in a row that fail in whatever way, of projects that succeed elsewhere, do, too. Many, as projects
/// may be such that tasks fail.
const FAILED_TASKS_MAX: usize = 20;
/// So many of those are enough on probation.
const FAILED_TASKS_PROBATION_MAX: usize = 3;
/// The first quarantine.
const QUARANTINE_MIN: Duration = Duration::from_secs(60);
/// The longest; each is twice as long as the one before.
const QUARANTINE_MAX: Duration = Duration::from_secs(15 * 60);
/// A probation ends so long after its first attempt began, if nothing was said against the host.
const PROBATION_TIME: Duration = Duration::from_secs(60);

/// How a project does on other agents than the one where a task of it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// Of the last tasks that ended there, one succeeded.
    Succeeds,
    /// All failed.
    Fails,
    /// Nothing has ended there yet, and something runs.
    Runs,
    /// Nothing is known.
    Unknown,
}

/// Why a host was convicted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) why: String,
    /// Its workers can't be made or are lost; else its tasks fail.
    by_blame: bool,
    /// Projects of which nothing has ended elsewhere; without one that succeeds there, theirs is the only word.
    pub(super) accusers: Vec<ProjectId>,
}

/// What is known of an agent's host.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// The tasks that ended last of all for a reason which points at the host, but of projects that fail elsewhere, too.
    blamed: Vec<(TaskKey, Elsewhere)>,
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
    Out { until: Duration, verdict: Verdict },
    /// It gets one attempt at a time; when it was first seen with one.
    Probation { began: Option<Duration>, verdict: Verdict },
}

/// Whether an ending points at the host, and not at the task.
pub(super) fn points_at_host(outcome: &Outcome) -> bool {
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

    /// It gets fewer attempts than it wants.
    pub(super) fn is_held_back(&self) -> bool {
        !matches!(self.state, State::Well)
    }

    /// A task ended in success there.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A task failed there. Whether this convicts the host, and of what.
    pub(super) fn failed(
        &mut self,
        task: TaskKey,
        outcome: &Outcome,
        elsewhere: Elsewhere,
    ) -> Option<Verdict> {
        if self.is_out() {
            return None;
        }
        let points_at_host = points_at_host(outcome);
        if !points_at_host {
            // Its worker was there, and its command began.
            self.blamed.clear();
            if self.on_probation(true) {
                *self = Self::default();
            }
        }
        if elsewhere == Elsewhere::Fails {
            self.blamed.retain(|(other, _)| other.project != task.project);
            self.failed.retain(|other| other.project != task.project);
            return None;
        }
        if points_at_host {
            self.blamed.retain(|(other, _)| *other != task);
            self.blamed.push((task, elsewhere));
            drop_oldest(&mut self.blamed, BLAMED_TASKS_MAX);
        }
        if elsewhere == Elsewhere::Succeeds {
            self.failed.retain(|other| *other != task);
            self.failed.push(task);
            drop_oldest(&mut self.failed, FAILED_TASKS_MAX);
        }
        self.verdict(task, outcome)
    }

    fn verdict(&self, last: TaskKey, outcome: &Outcome) -> Option<Verdict> {
        let blamed_again = self.on_probation(true);
        let tasks = self.blamed.len();
        let least = if blamed_again { 1 } else { BLAMED_TASKS_MAX };
        // One project alone that nobody else has tried is no host's fault.
        let not_the_project = |&(task, elsewhere): &(TaskKey, Elsewhere)| {
            elsewhere != Elsewhere::Unknown || task.project != last.project
        };
        if tasks >= least && (blamed_again || self.blamed.iter().any(not_the_project)) {
            let why = format!("{} in a row ended there like the last: {outcome}", tasks_in_words(tasks));
            return Some(Verdict { why, by_blame: true, accusers: self.accusers() });
        }
        let tasks = self.failed.len();
        let least = if self.on_probation(false) { FAILED_TASKS_PROBATION_MAX } else { FAILED_TASKS_MAX };
        (tasks >= least).then(|| Verdict {
            why: format!(
                "{} in a row failed there, of projects that succeed elsewhere; the last: {outcome}",
                tasks_in_words(tasks)
            ),
            ..Verdict::default()
        })
    }

    fn accusers(&self) -> Vec<ProjectId> {
        if self.blamed.iter().any(|&(_, elsewhere)| elsewhere == Elsewhere::Succeeds) {
            return Vec::new();
        }
        let mut projects: Vec<_> = self.blamed.iter().map(|(task, _)| task.project).collect();
        projects.dedup();
        projects
    }

    fn on_probation(&self, was_blamed: bool) -> bool {
        matches!(&self.state, State::Probation { verdict, .. } if verdict.by_blame == was_blamed)
    }

    /// It was convicted, and too many others are. What was noted against it is forgotten.
    pub(super) fn let_off(&mut self) {
        self.blamed.clear();
        self.failed.clear();
    }

    /// It gets nothing for a while. How long.
    pub(super) fn quarantine(&mut self, verdict: Verdict, now: Duration) -> Duration {
        let doubled = QUARANTINE_MIN.saturating_mul(1 << self.quarantines.min(16));
        let time = doubled.min(QUARANTINE_MAX);
        let quarantines = self.quarantines.saturating_add(1);
        *self = Self { state: State::Out { until: now + time, verdict }, quarantines, ..Self::default() };
        time
    }

    /// A project on whose word it was convicted fails elsewhere, too. Whether that changes anything.
    pub(super) fn acquitted(&mut self, project: ProjectId) -> bool {
        let (State::Out { verdict, .. } | State::Probation { verdict, .. }) = &self.state else {
            return false;
        };
        let was_wrong = verdict.accusers.contains(&project);
        if was_wrong {
            *self = Self { quarantines: self.quarantines.saturating_sub(1), ..Self::default() };
        }
        was_wrong
    }

    /// If its time is over, it may show that it is well again; and if nothing was said against it then, it is. Whether either
    /// is so.
    pub(super) fn comes_back(&mut self, now: Duration, holds_any: bool) -> bool {
        let state = match &mut self.state {
            State::Out { until, verdict } if *until <= now => {
                State::Probation { began: None, verdict: std::mem::take(verdict) }
            }
            State::Probation { began, .. } => {
                if holds_any {
                    began.get_or_insert(now);
                }
                if began.is_none_or(|began| now.saturating_sub(began) < PROBATION_TIME) {
                    return false;
                }
                State::Well
            }
            _ => return false,
        };
        self.state = state;
        true
    }

    /// Why it gets fewer attempts than it wants; empty if it does not.
    pub(super) fn in_words(&self, now: Duration) -> String {
        match &self.state {
            State::Well => String::new(),
            State::Out { until, verdict } => {
                format!("for another {} s: {}", until.saturating_sub(now).as_secs().max(1), verdict.why)
            }
            State::Probation { verdict, .. } => format!("on probation, with one attempt: {}", verdict.why),
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
    use crate::domain::Phase;
    use Elsewhere::{Fails, Runs, Succeeds, Unknown};

    fn task(project: u64, index: u32) -> TaskKey {
        TaskKey { project: ProjectId(project), phase: Phase::Task, index }
    }

    fn lost() -> Outcome {
        Outcome::EngineLost("gone".to_owned())
    }

    /// A host that was convicted like this is on probation.
    fn on_probation(by_blame: bool) -> Health {
        let mut health = Health::default();
        health.quarantine(Verdict { by_blame, ..Verdict::default() }, Duration::ZERO);
        assert!(health.comes_back(QUARANTINE_MIN, false));
        health
    }

    #[test]
    fn five_tasks_that_point_at_the_host_convict_it_if_their_projects_are_well() {
        for elsewhere in [Succeeds, Runs] {
            let mut health = Health::default();
            for index in 0..4 {
                assert_eq!(health.failed(task(1, index), &lost(), elsewhere), None);
                assert_eq!(health.failed(task(1, index), &lost(), elsewhere), None, "the same task again");
            }
            let verdict = health.failed(task(1, 4), &lost(), elsewhere).expect("a verdict");
            assert_eq!(verdict.why, "5 tasks in a row ended there like the last: engine lost: gone");
            let accusers = if elsewhere == Runs { vec![ProjectId(1)] } else { Vec::new() };
            assert_eq!(verdict.accusers, accusers);
        }
    }

    #[test]
    fn one_project_that_nobody_else_has_tried_convicts_nobody() {
        let mut health = Health::default();
        for index in 0..100 {
            assert_eq!(health.failed(task(1, index), &lost(), Unknown), None);
        }
        assert!(health.failed(task(2, 0), &lost(), Unknown).is_some(), "two do");
    }

    #[test]
    fn what_fails_elsewhere_too_says_nothing_of_the_host() {
        let mut health = Health::default();
        for index in 0..100 {
            for project in 1..=2 {
                assert_eq!(health.failed(task(project, index), &lost(), Fails), None);
            }
        }
        for index in 0..4 {
            assert_eq!(health.failed(task(1, index), &lost(), Runs), None);
        }
        assert_eq!(health.failed(task(1, 4), &lost(), Fails), None, "nor what it said before");
        assert!(health.is_spotless());
    }

    #[test]
    fn no_more_is_remembered_than_could_convict() {
        let mut health = Health::default();
        for index in 0..100 {
            assert_eq!(health.failed(task(1, index), &lost(), Unknown), None);
            assert!(health.blamed.len() <= BLAMED_TASKS_MAX);
        }
        let mut health = Health::default();
        for index in 0..100 {
            health.failed(task(1, index), &Outcome::Exited(1), Succeeds);
            assert!(health.failed.len() <= FAILED_TASKS_MAX);
        }
        health.let_off();
        assert!(health.is_spotless());
    }

    #[test]
    fn tasks_that_fail_by_themselves_need_to_be_many() {
        let mut health = Health::default();
        for index in 0..19 {
            assert_eq!(health.failed(task(1, index), &Outcome::Exited(1), Succeeds), None);
            assert_eq!(health.failed(task(2, index), &Outcome::Exited(1), Fails), None);
        }
        assert!(health.failed(task(1, 19), &Outcome::Exited(1), Succeeds).is_some());
        assert_eq!(health.failed(task(1, 20), &Outcome::Exited(1), Fails), None, "failed elsewhere, too");
        assert_eq!(health.failed(task(1, 21), &Outcome::Exited(1), Succeeds), None);
    }

    #[test]
    fn a_verdict_is_taken_back_if_its_project_fails_elsewhere() {
        let accused_by = |accusers| {
            let mut health = Health::default();
            health.quarantine(Verdict { accusers, by_blame: true, ..Verdict::default() }, Duration::ZERO);
            health
        };
        let mut health = accused_by(vec![ProjectId(1)]);
        assert!(!health.acquitted(ProjectId(2)));
        assert!(health.acquitted(ProjectId(1)));
        assert!(health.is_spotless());
        assert!(!accused_by(Vec::new()).acquitted(ProjectId(1)), "it was not on its word");
    }

    #[test]
    fn quarantines_grow_and_a_success_ends_them() {
        let mut health = Health::default();
        let mut now = Duration::ZERO;
        let blame = || Verdict { by_blame: true, ..Verdict::default() };
        for secs in [60, 120, 240, 480, 900, 900] {
            assert_eq!(health.quarantine(blame(), now), Duration::from_secs(secs));
            assert_eq!(health.attempts_max(8), 0);
            assert!(!health.comes_back(now + Duration::from_secs(secs - 1), false));
            now += Duration::from_secs(secs);
            assert!(health.comes_back(now, false));
            assert_eq!(health.attempts_max(8), 1);
            assert!(health.failed(task(1, 0), &lost(), Unknown).is_some(), "one is enough now");
        }
        health.succeeded();
        assert_eq!((health.attempts_max(8), health.in_words(now)), (8, String::new()));
        assert_eq!(health.quarantine(blame(), now), QUARANTINE_MIN);
    }

    #[test]
    fn on_probation_a_host_is_judged_by_what_it_was_convicted_of() {
        let mut health = on_probation(true);
        assert_eq!(health.failed(task(1, 0), &lost(), Fails), None, "the project's fault");
        assert!(health.is_held_back());
        assert_eq!(health.failed(task(1, 0), &Outcome::Exited(1), Fails), None);
        assert!(health.is_spotless(), "its command began");

        let mut health = on_probation(false);
        for index in 0..2 {
            assert_eq!(health.failed(task(1, index), &Outcome::Exited(1), Succeeds), None);
        }
        assert_eq!(health.failed(task(2, 0), &Outcome::Exited(1), Fails), None);
        assert!(health.is_held_back());
        assert!(health.failed(task(1, 2), &Outcome::Exited(1), Succeeds).is_some());
    }

    #[test]
    fn a_probation_ends_if_nothing_is_said_against_the_host_for_long() {
        let mut health = on_probation(false);
        let began = Duration::from_secs(1000);
        assert!(!health.comes_back(began, false), "it had no attempt yet");
        assert!(!health.comes_back(began, true));
        assert!(!health.comes_back(began + PROBATION_TIME / 2, false));
        assert!(health.comes_back(began + PROBATION_TIME, false));
        assert!(!health.is_held_back());
        assert!(!health.is_spotless(), "the next quarantine is longer");
    }
}
