//! Who waits how long for an agent, as time passes: attempts last as long as their project's tasks do.

use super::{
    bench::{Bench, spec, task_spec},
    placement::{asking, host, requiring},
    *,
};
use crate::{
    coordinator::Hello,
    domain::{AttemptKey, Resources},
};
use std::collections::BTreeMap;

/// Steps of time.
const STEP: Duration = Duration::from_millis(500);

/// A fleet at work.
struct Fleet {
    bench: Bench,
    sessions: u64,
    /// How long the tasks of each project last.
    lasts: BTreeMap<ProjectId, Duration>,
    /// What runs, with whom, since when and until when.
    running: BTreeMap<AttemptKey, (u64, Duration, Duration)>,
    /// When each project's latest attempts began, and with whom.
    begun: Vec<(Duration, AttemptKey, u64)>,
}

impl Fleet {
    /// So many agents of four slots and four processors.
    fn new(agents: u64) -> Self {
        let mut bench = Bench::new();
        for session in 1..=agents {
            bench.join(session, host(&format!("agent-{session}"), 4), 4, &[]);
        }
        let (lasts, running, begun) = Default::default();
        Self { bench, sessions: agents, lasts, running, begun }
    }

    /// One more agent, with a label.
    fn join(&mut self, label: &str) {
        self.sessions += 1;
        let labels = [("kind".to_owned(), label.to_owned())].into();
        let host = Hello { labels, ..host(&format!("agent-{}", self.sessions), 4) };
        self.bench.join(self.sessions, host, 4, &[]);
    }

    /// A project of very many tasks that last so long.
    fn submit(&mut self, id: u64, spec: ProjectSpec, lasts: Duration) {
        self.lasts.insert(ProjectId(id), lasts);
        self.bench.submit(id, spec, Some(1_000_000));
        self.take();
    }

    /// Takes what was assigned.
    fn take(&mut self) {
        self.bench.wrote();
        for (session, message) in self.bench.sent() {
            let ToAgent::Assign(assigned) = message else { continue };
            for attempt in assigned {
                // Some longer, some shorter, so that not all end at a time.
                let lasts = self.lasts[&attempt.task.project] * (75 + attempt.task.index * 37 % 50) / 100;
                let until = self.bench.now + lasts;
                self.running.insert(attempt, (session, self.bench.now, until));
                self.begun.push((self.bench.now, attempt, session));
            }
        }
    }

    fn pass(&mut self, secs: u64) {
        let until = self.bench.now + Duration::from_secs(secs);
        while self.bench.now < until {
            self.bench.now += STEP;
            (1..=self.sessions).for_each(|session| self.bench.say(session, FromAgent::Heartbeat));
            let now = self.bench.now;
            let ended: Vec<_> = self.running.extract_if(.., |_, (_, _, until)| *until <= now).collect();
            for (attempt, (session, since, until)) in ended {
                self.bench.ends_after(session, attempt, until - since);
                self.take();
            }
            self.bench.turn([Input::Tick]);
            self.take();
        }
    }

    /// How many attempts of a project have begun so far.
    fn begun(&self, id: u64) -> usize {
        self.begun.iter().filter(|(_, attempt, _)| attempt.task.project == ProjectId(id)).count()
    }

    fn runs(&self, id: u64) -> usize {
        self.running.keys().filter(|attempt| attempt.task.project == ProjectId(id)).count()
    }
}

#[test]
fn what_runs_ahead_on_agents_of_its_own_changes_no_shares_elsewhere() {
    // (weight, how long each task lasts) of two projects, and the part of the first in per cent.
    for (first, second, part) in [((1, 60), (1, 1), 50), ((1, 30), (4, 30), 20)] {
        let mut fleet = Fleet::new(0);
        for label in ["g", "g", "g", "g", "x", "x"] {
            fleet.join(label);
        }
        fleet.submit(1, requiring("kind", "g"), secs(1));
        for (id, (weight, lasts)) in [(2, first), (3, second)] {
            fleet.submit(id, ProjectSpec { weight, ..requiring("kind", "x") }, secs(lasts));
        }
        fleet.pass(900);
        let had = [(2, first), (3, second)].map(|(id, (_, lasts))| fleet.begun(id) as u64 * lasts);
        let per_cent = had[0] * 100 / (had[0] + had[1]);
        assert!(per_cent.abs_diff(part) < 8, "{per_cent} % instead of {part}: {had:?}");
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn asking_both(cpus: u32, memory_bytes: u64) -> ProjectSpec {
    let resources =
        Resources { cpus_milli: Some(cpus * 1000), memory_bytes: Some(memory_bytes), ..Resources::default() };
    ProjectSpec { task: TaskSpec { resources, ..task_spec() }, ..spec() }
}

#[test]
fn no_agent_is_kept_free_for_what_waits_for_its_own_attempts() {
    let mut fleet = Fleet::new(1);
    fleet.submit(1, asking(4), secs(600));
    fleet.submit(2, spec(), secs(1));
    fleet.pass(120);
    assert!(fleet.begun(2) > 250, "three slots for two minutes, and {} were begun", fleet.begun(2));
}

#[test]
fn no_agent_is_kept_free_for_what_comes_later_in_the_fair_order() {
    let mut fleet = Fleet::new(1);
    fleet.submit(1, asking(1), secs(60));
    fleet.pass(30);
    // All slots are taken: as they are freed, it is due for as long as the first has had more.
    fleet.submit(2, spec(), secs(1));
    // The first slot is free at 45 s.
    fleet.pass(20);
    assert!(fleet.begun(2) >= 4, "{} were begun", fleet.begun(2));
}

#[test]
fn of_several_that_need_much_none_waits_for_ever() {
    let mut fleet = Fleet::new(1);
    fleet.submit(1, asking(3), secs(30));
    fleet.submit(2, asking_both(3, 1 << 20), secs(30));
    fleet.submit(3, asking(4), secs(30));
    fleet.submit(4, asking(1), secs(7));
    fleet.pass(1200);
    let begun = [1, 2, 3].map(|id| fleet.begun(id));
    assert!(begun.iter().all(|&begun| begun >= 6), "{begun:?}");
}

#[test]
fn what_needs_much_gets_its_share_of_a_busy_fleet() {
    for lasts in [5, 40] {
        let mut fleet = Fleet::new(10);
        fleet.submit(1, asking(1), secs(10));
        fleet.submit(2, asking(4), secs(lasts));
        fleet.pass(100);
        let runs: Vec<_> = (0..20)
            .map(|_| {
                fleet.pass(10);
                fleet.runs(2)
            })
            .collect();
        // Equal slot time: four slots of an agent, or one attempt that needs all of it. So up to eight agents of ten.
        let agents = runs.iter().sum::<usize>() / runs.len();
        assert!((4..=8).contains(&agents), "agents for attempts of {lasts} s: {runs:?}");
    }
}

#[test]
fn an_agent_that_does_not_get_free_is_given_up_for_another() {
    let mut fleet = Fleet::new(1);
    fleet.submit(1, ProjectSpec { max_parallel: Some(1), ..asking(1) }, secs(8 * 3600));
    fleet.join("any");
    fleet.submit(2, asking(1), secs(20));
    fleet.submit(3, asking(4), secs(20));
    fleet.pass(150);
    let kept = fleet.begun(3);
    assert!(kept > 0, "the agent that never gets free was kept for it");
}

#[test]
fn a_lone_agent_that_does_not_get_free_is_not_kept_all_the_time() {
    let mut fleet = Fleet::new(1);
    fleet.submit(1, ProjectSpec { max_parallel: Some(1), ..asking(1) }, secs(8 * 3600));
    fleet.submit(2, asking(1), secs(5));
    fleet.submit(3, asking(4), secs(20));
    fleet.pass(600);
    assert!(fleet.begun(2) > 90, "{} of 360", fleet.begun(2));
}
