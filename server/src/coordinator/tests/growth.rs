//! Open projects: they grow, and end once they are closed.

use super::{
    super::Reply,
    bench::{Bench, hello, spec, task, task_spec},
    *,
};

/// An open project, and an agent `a` in session 1 that wants two attempts.
fn open(idle_secs: Option<u64>) -> Bench {
    let mut bench = Bench::new();
    bench.submit(1, open_spec(idle_secs), Some(0));
    bench.join(1, hello("a", "i"), 2, &[]);
    bench.silent();
    bench
}

fn open_spec(idle_secs: Option<u64>) -> ProjectSpec {
    ProjectSpec { items: ItemSource::Open { idle_millis: idle_secs.map(|secs| secs * 1000) }, ..spec() }
}

fn add(tasks: u32, end: bool) -> Input {
    Input::AddTasks { project: ProjectId(1), tasks, end, reply: ReplyId(7) }
}

impl Bench {
    /// The addition is answered well.
    fn added(&mut self, tasks: u32, end: bool) {
        self.turn([add(tasks, end)]);
        assert!(matches!(self.reply(), Reply::Done));
    }

    fn not_open(&mut self, tasks: u32, end: bool) {
        self.turn([add(tasks, end)]);
        assert!(matches!(self.reply(), Reply::NotOpen));
        assert_eq!(self.wrote(), Vec::<String>::new());
    }

    fn passes(&mut self, secs: u64) {
        // The agent is heard often enough.
        for _ in 0..secs {
            self.now += Duration::from_secs(1);
            self.say(1, FromAgent::Heartbeat);
            self.turn([Input::Tick]);
        }
        self.sent();
    }
}

#[test]
fn an_open_project_grows_and_ends_once_it_is_closed() {
    let mut bench = open(None);
    bench.added(1, false);
    assert_eq!(bench.wrote(), ["1 has 1 tasks", "claim 1/task/0#1 for 1"]);
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 1/task/0#1: exit code 0"]);
    bench.passes(100);
    bench.silent();
    bench.added(3, false);
    assert_eq!(bench.wrote(), ["1 has 3 tasks", "claim 1/task/1#1 for 1", "claim 1/task/2#1 for 1"]);
    bench.added(3, true);
    assert_eq!(bench.wrote(), ["close 1"]);
    bench.not_open(4, false);
    bench.not_open(3, true);
    bench.ends(1, task(1, 1).attempt(1), Outcome::Exited(0));
    bench.ends(1, task(1, 2).attempt(1), Outcome::Exited(0));
    assert_eq!(
        bench.wrote(),
        ["record 1/task/1#1: exit code 0", "record 1/task/2#1: exit code 0", "1 succeeded"]
    );
    bench.sent();
    bench.not_open(4, false);
}

#[test]
fn the_last_word_may_come_with_tasks_or_after_all_have_ended_or_alone() {
    let mut bench = open(None);
    bench.added(1, true);
    assert_eq!(bench.wrote(), ["1 has 1 tasks", "close 1", "claim 1/task/0#1 for 1"]);
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 1/task/0#1: exit code 0", "1 succeeded"]);

    let mut bench = open(None);
    bench.added(1, false);
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(3));
    bench.wrote();
    bench.added(0, true);
    assert_eq!(bench.wrote(), ["close 1", "1 failed: 1 of 1 task failed"]);

    let mut bench = open(None);
    bench.added(0, true);
    assert_eq!(bench.wrote(), ["close 1", "1 succeeded"]);
    assert!(bench.core.is_idle());
}

#[test]
fn what_was_staged_early_may_come_in_with_what_was_staged_late() {
    let mut bench = open(None);
    bench.turn([add(5, true), add(3, false)]);
    assert!(matches!(bench.reply(), Reply::Done), "3 of the 5 are its");
    assert!(matches!(bench.reply(), Reply::Done));
    assert_eq!(bench.wrote()[..2], ["1 has 5 tasks", "close 1"]);
}

#[test]
fn a_project_is_closed_when_nothing_new_came_for_long_enough() {
    let mut bench = open(Some(60));
    bench.passes(59);
    bench.added(1, false);
    bench.wrote();
    bench.passes(59);
    // Known tasks are no news.
    bench.added(1, false);
    assert_eq!(bench.wrote(), Vec::<String>::new());
    bench.passes(1);
    assert_eq!(bench.wrote(), ["close 1"], "also while a task runs");
    bench.not_open(2, false);
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 1/task/0#1: exit code 0", "1 succeeded"]);
}

#[test]
fn an_open_project_is_folded_back_as_such_and_waits_anew() {
    let mut project = Bench::active(open_spec(Some(60)), 2);
    (project.is_open, project.counts.succeeded, project.frontier) = (true, 2, 2);
    let mut bench = Bench::fold(Snapshot { projects: vec![project.clone()], ..Snapshot::default() });
    bench.join(1, hello("a", "i"), 2, &[]);
    bench.passes(59);
    bench.silent();
    bench.passes(1);
    assert_eq!(bench.wrote(), ["close 1", "1 succeeded"]);

    project.is_open = false;
    project.counts.total = 3;
    let mut bench = Bench::fold(Snapshot { projects: vec![project], ..Snapshot::default() });
    bench.not_open(4, false);
    bench.join(1, hello("a", "i"), 2, &[]);
    assert_eq!(bench.wrote(), ["claim 1/task/2#1 for 1"]);
}

#[test]
fn an_open_project_can_be_cancelled_and_stops_at_a_failure() {
    let mut bench = open(None);
    bench.turn([Input::Cancel { project: ProjectId(1), reply: ReplyId(9) }]);
    assert_eq!(bench.wrote(), ["1 cancelled"]);
    bench.cancelled_reply(9);
    bench.not_open(1, false);

    let mut bench = Bench::new();
    bench.submit(1, ProjectSpec { on_failure: FailurePolicy::Stop, ..open_spec(None) }, Some(0));
    bench.join(1, hello("a", "i"), 2, &[]);
    bench.added(1, false);
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(3));
    assert!(bench.wrote()[3].starts_with("1 failed: task 0 failed"));
    bench.sent();
    bench.not_open(2, false);
}

#[test]
fn a_command_reassembles_what_an_open_project_has_printed() {
    let mut bench = Bench::new();
    bench.submit(1, ProjectSpec { reassemble: Reassemble::Command(task_spec()), ..open_spec(None) }, Some(0));
    bench.join(1, hello("a", "i"), 2, &[]);
    bench.added(1, false);
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(0));
    bench.wrote();
    bench.added(1, true);
    assert_eq!(bench.wrote(), ["close 1", "1 reassembling", "claim 1/reassemble/0#1 for 1"]);
}

#[test]
fn an_open_project_takes_part_in_the_fair_order_as_it_grows() {
    let mut bench = Bench::new();
    bench.submit(1, ProjectSpec { max_parallel: Some(1), ..open_spec(None) }, Some(0));
    bench.submit(2, spec(), Some(100));
    bench.join(1, hello("a", "i"), 2, &[]);
    bench.wrote();
    bench.added(2, false);
    assert_eq!(bench.wrote(), ["1 has 2 tasks"], "both slots are taken");
    bench.ends(1, task(2, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 2/task/0#1: exit code 0", "claim 1/task/0#1 for 1"]);
    bench.ends(1, task(2, 1).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 2/task/1#1: exit code 0", "claim 2/task/2#1 for 1"]);
}

#[test]
fn an_open_project_says_what_it_waits_for() {
    let waits = |idle| {
        let mut bench = open(idle);
        bench.now += Duration::from_secs(50);
        bench.waiting(1)
    };
    let within = |time: &str| Some(format!("tasks to be added: if none is within {time}, no more are taken"));
    assert_eq!(waits(None), Some("tasks to be added, or the word that no more follow".to_owned()));
    assert_eq!(waits(Some(60)), within("1 minute"));
    assert_eq!(waits(Some(600)), within("10 minutes"));
    assert_eq!(waits(Some(7200)), within("2 hours"));
    assert_eq!(waits(Some(7 * 24 * 3600)), within("7 days"));

    let mut bench = open(None);
    bench.added(1, false);
    assert_eq!(bench.waiting(1), None, "a task runs");
}
