//! Unit tests of the core: what it wants, and that it wants nothing else.

mod bench;
mod fleet;
mod growth;
mod placement;
mod quarantine;
mod recall;
mod starved;

use super::{FromAgent, Input, Job, ReplyId, SessionId, ToAgent};
use crate::{
    domain::{
        AgentId, BuiltIn, FailurePolicy, ItemSource, Outcome, Phase, ProjectId, ProjectSpec, ProjectState,
        Reassemble, SessionEpoch, TaskKey, TaskSpec,
    },
    store::{KnownAgent, Noted, OpenTask, Snapshot},
};
use bench::{Bench, hello, report, spec, task, task_spec};
use std::time::Duration;

/// A project of so many tasks, and an agent `a` in session 1 that wants two attempts.
fn bench(tasks: u32) -> Bench {
    let mut bench = Bench::new();
    bench.submit(1, spec(), Some(tasks));
    bench.join(1, hello("a", "i"), 2, &[]);
    bench
}

fn with_retries(retries: u32) -> ProjectSpec {
    ProjectSpec { task: TaskSpec { retries, ..task_spec() }, ..spec() }
}

#[test]
fn a_project_goes_its_way() {
    let mut bench = bench(3);
    let (a, b, c) = (task(1, 0).attempt(1), task(1, 1).attempt(1), task(1, 2).attempt(1));
    assert_eq!(bench.wrote(), ["claim 1/task/0#1 for 1", "claim 1/task/1#1 for 1"]);
    assert_eq!(bench.sent(), [(1, ToAgent::Assign(vec![a, b]))]);
    bench.ends(1, b, Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 1/task/1#1: exit code 0", "claim 1/task/2#1 for 1"]);
    assert_eq!(bench.sent(), [(1, ToAgent::Settled(vec![b])), (1, ToAgent::Assign(vec![c]))]);
    bench.say(1, FromAgent::Reports(vec![report(a, Outcome::Exited(0)), report(c, Outcome::Exited(0))]));
    assert_eq!(
        bench.wrote(),
        ["record 1/task/0#1: exit code 0", "record 1/task/2#1: exit code 0", "1 succeeded"]
    );
    assert_eq!(bench.sent(), [(1, ToAgent::Settled(vec![a, c]))]);
    bench.silent();
    assert!(bench.core.is_idle());
}

#[test]
fn a_failed_task_is_tried_again_as_its_policy_says_and_then_fails_the_project() {
    let mut bench = Bench::new();
    bench.submit(1, with_retries(1), Some(1));
    bench.join(1, hello("a", "i"), 2, &[]);
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(7));
    assert_eq!(
        bench.wrote(),
        [
            "claim 1/task/0#1 for 1",
            "requeue 1/task/0#1: exit code 7 (1 failures, 0 crashes)",
            "claim 1/task/0#2 for 1"
        ]
    );
    bench.ends(1, task(1, 0).attempt(2), Outcome::TimedOut);
    assert_eq!(bench.wrote(), ["record 1/task/0#2: timed out", "1 failed: 1 of 1 task failed"]);
}

#[test]
fn an_ending_that_would_repeat_is_not_tried_again() {
    let mut bench = Bench::new();
    bench.submit(1, with_retries(5), Some(1));
    bench.join(1, hello("a", "i"), 2, &[]);
    bench.wrote();
    bench.ends(1, task(1, 0).attempt(1), Outcome::CouldNotStart("no such command".to_owned()));
    assert_eq!(
        bench.wrote(),
        ["record 1/task/0#1: could not start: no such command", "1 failed: 1 of 1 task failed"]
    );
}

#[test]
fn losses_are_tried_again_up_to_the_crash_limit() {
    let mut bench = bench(1);
    for attempt in 1..=5 {
        bench.wrote();
        bench.ends(1, task(1, 0).attempt(attempt), Outcome::WorkerLost("gone".to_owned()));
        assert!(bench.wrote()[0].starts_with("requeue"), "attempt {attempt}");
    }
    bench.ends(1, task(1, 0).attempt(6), Outcome::WorkerLost("gone".to_owned()));
    assert_eq!(bench.wrote(), ["record 1/task/0#6: worker lost: gone", "1 failed: 1 of 1 task failed"]);
}

#[test]
fn a_report_counts_only_for_the_highest_attempt_by_its_own_agent() {
    let mut bench = bench(1);
    bench.join(2, hello("b", "i"), 2, &[]);
    bench.wrote();
    bench.sent();
    for stale in [task(1, 0).attempt(2), task(1, 5).attempt(1), task(9, 0).attempt(1)] {
        bench.ends(1, stale, Outcome::Exited(0));
        assert_eq!(bench.sent(), [(1, ToAgent::Settled(vec![stale]))]);
        bench.silent();
    }
    bench.ends(2, task(1, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.sent(), [(2, ToAgent::Settled(vec![task(1, 0).attempt(1)]))]);
    bench.silent();
}

#[test]
fn a_closed_session_keeps_its_attempts_until_the_lease_ends() {
    let mut bench = bench(1);
    bench.join(2, hello("b", "i"), 1, &[]);
    bench.wrote();
    bench.sent();
    bench.turn([Input::SessionClosed { session: SessionId(1) }]);
    bench.now += Duration::from_secs(15);
    bench.say(2, FromAgent::Heartbeat);
    assert_eq!(bench.sent(), [(2, ToAgent::Heartbeat)]);
    bench.turn([Input::Tick]);
    bench.silent();
    bench.now += Duration::from_millis(1);
    bench.turn([Input::Tick]);
    assert_eq!(
        bench.wrote(),
        [
            "requeue 1/task/0#1: lease lost: its agent was not heard from (0 failures, 1 crashes)",
            "claim 1/task/0#2 for 2"
        ]
    );
    // A report of the lost attempt comes too late: the task was assigned anew.
    bench.sent();
    bench.join(3, hello("a", "i"), 0, &[]);
    bench.ends(3, task(1, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.sent(), [(3, ToAgent::Settled(vec![task(1, 0).attempt(1)]))]);
    bench.silent();
}

#[test]
fn a_late_report_cancels_a_requeue() {
    let mut bench = bench(1);
    bench.turn([Input::SessionClosed { session: SessionId(1) }]);
    bench.now += Duration::from_secs(16);
    bench.turn([Input::Tick]);
    bench.wrote();
    bench.sent();
    let mut back = hello("a", "i");
    back.unrecorded = vec![task(1, 0).attempt(1)];
    bench.join(2, back, 0, &[]);
    bench.ends(2, task(1, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 1/task/0#1: exit code 0", "1 succeeded"]);
}

#[test]
fn a_failure_that_is_sent_again_is_counted_once() {
    let mut bench = Bench::new();
    bench.submit(1, with_retries(5), Some(1));
    bench.join(1, hello("a", "i"), 1, &[]);
    bench.turn([Input::SessionClosed { session: SessionId(1) }]);
    bench.wrote();
    bench.sent();
    let mut back = hello("a", "i");
    back.unrecorded = vec![task(1, 0).attempt(1)];
    bench.join(2, back.clone(), 0, &[]);
    bench.ends(2, task(1, 0).attempt(1), Outcome::Exited(1));
    assert_eq!(bench.wrote(), ["requeue 1/task/0#1: exit code 1 (1 failures, 0 crashes)"]);
    bench.sent();
    bench.join(3, back, 0, &[task(1, 0).attempt(1)]);
    bench.ends(3, task(1, 0).attempt(1), Outcome::Exited(1));
    assert_eq!(bench.wrote(), Vec::<String>::new());
}

#[test]
fn hello_brings_both_sides_together() {
    let mut bench = bench(4);
    bench.wrote();
    bench.sent();
    // Task 0 still runs; task 1 never arrived; 7 is not of this world.
    let mut back = hello("a", "i");
    back.live = vec![task(1, 0).attempt(1), task(7, 0).attempt(1)];
    bench.join(2, back, 2, &[task(7, 0).attempt(1)]);
    assert_eq!(bench.closed(), [1]);
    assert_eq!(bench.wrote(), ["return 1/task/1#1", "claim 1/task/1#2 for 1"]);
    assert_eq!(bench.sent(), [(2, ToAgent::Assign(vec![task(1, 1).attempt(2)]))]);
    // The old session is not heard any more.
    bench.say(1, FromAgent::Returned(vec![task(1, 0).attempt(1)]));
    bench.silent();
}

#[test]
fn a_live_attempt_that_was_requeued_is_readopted() {
    let mut bench = bench(1);
    bench.turn([Input::SessionClosed { session: SessionId(1) }]);
    bench.now += Duration::from_secs(16);
    bench.turn([Input::Tick]);
    bench.wrote();
    bench.sent();
    let mut back = hello("a", "i");
    back.live = vec![task(1, 0).attempt(1)];
    bench.join(2, back, 2, &[]);
    assert_eq!(bench.wrote(), ["readopt 1/task/0#1"]);
    bench.ends(2, task(1, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 1/task/0#1: exit code 0", "1 succeeded"]);
}

#[test]
fn a_lost_lease_is_not_charged_to_an_attempt_that_lives() {
    let mut bench = bench(1);
    for session in 2..20 {
        bench.turn([Input::SessionClosed { session: SessionId(session - 1) }]);
        bench.now += Duration::from_secs(16);
        bench.turn([Input::Tick]);
        let mut back = hello("a", "i");
        back.live = vec![task(1, 0).attempt(1)];
        bench.join(session, back, 2, &[]);
    }
    bench.wrote();
    bench.ends(19, task(1, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 1/task/0#1: exit code 0", "1 succeeded"]);
}

#[test]
fn another_agent_of_the_same_name_is_refused_while_the_lease_runs() {
    let mut bench = bench(1);
    bench.wrote();
    bench.sent();
    bench.turn([Input::SessionClosed { session: SessionId(1) }]);
    let other = || {
        let mut other = hello("a", "other");
        other.identity = "another data directory".to_owned();
        other
    };
    bench.turn([Input::Hello { session: SessionId(2), hello: Box::new(other()) }]);
    assert_eq!(bench.closed(), [2]);
    bench.silent();
    bench.now += Duration::from_secs(16);
    bench.turn([Input::Tick]);
    bench.wrote();
    bench.join(3, other(), 1, &[]);
    assert_eq!(bench.wrote(), ["claim 1/task/0#2 for 1"]);
}

#[test]
fn a_restarted_agent_has_lost_what_it_does_not_name() {
    let mut bench = bench(1);
    bench.turn([Input::SessionClosed { session: SessionId(1) }]);
    bench.wrote();
    bench.join(2, hello("a", "another"), 0, &[]);
    assert_eq!(
        bench.wrote(),
        [
            "requeue 1/task/0#1: worker lost: the agent was restarted, and its worker was gone (0 failures, 1 crashes)"
        ]
    );
}

#[test]
fn a_second_agent_of_the_same_name_is_refused() {
    let mut bench = bench(0);
    bench.wrote();
    let mut other = hello("a", "i");
    other.identity = "another data directory".to_owned();
    bench.turn([Input::Hello { session: SessionId(2), hello: Box::new(other) }]);
    assert_eq!(bench.closed(), [2]);
    bench.silent();
}

#[test]
fn a_coordinator_of_an_older_store_is_refused() {
    let mut bench = Bench::new();
    let mut far = hello("a", "i");
    far.epoch_seen = 4;
    bench.turn([Input::Hello { session: SessionId(1), hello: Box::new(far) }]);
    assert_eq!(bench.closed(), [1]);
    bench.silent();
}

#[test]
fn repeated_messages_are_dropped_and_a_gap_closes_the_session() {
    let mut bench = bench(2);
    bench.wrote();
    bench.sent();
    let back = || FromAgent::Returned(vec![task(1, 0).attempt(1)]);
    // Hello was 1 and Credits 2.
    bench.turn([Input::FromAgent { session: SessionId(1), seq: 2, message: back() }]);
    bench.silent();
    bench.turn([Input::FromAgent { session: SessionId(1), seq: 4, message: back() }]);
    assert_eq!(bench.closed(), [1]);
    bench.silent();
}

#[test]
fn a_repeated_message_is_a_sign_of_life() {
    let mut bench = bench(1);
    bench.wrote();
    bench.sent();
    for _ in 0..5 {
        bench.now += Duration::from_secs(14);
        // The number of Hello: whatever the agent has numbered since waits for its disk.
        let message = FromAgent::Heartbeat;
        bench.turn([Input::FromAgent { session: SessionId(1), seq: 1, message }, Input::Tick]);
        assert_eq!(bench.sent(), [(1, ToAgent::Heartbeat)], "or the agent would take it for gone");
    }
    bench.now += Duration::from_secs(16);
    bench.turn([Input::Tick]);
    assert_eq!(bench.closed(), [1]);
}

#[test]
fn cancel_kills_what_runs_and_frees_its_room_when_it_has_ended() {
    let mut bench = bench(5);
    bench.wrote();
    bench.sent();
    bench.turn([Input::Cancel { project: ProjectId(1), reply: ReplyId(9) }]);
    let (a, b) = (task(1, 0).attempt(1), task(1, 1).attempt(1));
    assert_eq!(bench.wrote(), ["1 cancelled"]);
    assert_eq!(bench.sent(), [(1, ToAgent::Cancel(vec![a, b]))]);
    bench.cancelled_reply(9);
    bench.submit(2, spec(), Some(1));
    bench.silent();
    bench.ends(1, a, Outcome::Cancelled);
    assert_eq!(bench.wrote(), ["claim 2/task/0#1 for 1"]);
    assert_eq!(
        bench.sent(),
        [(1, ToAgent::Settled(vec![a])), (1, ToAgent::Assign(vec![task(2, 0).attempt(1)]))]
    );
}

#[test]
fn the_first_failure_stops_a_project_that_says_so() {
    let mut bench = Bench::new();
    bench.submit(1, ProjectSpec { on_failure: FailurePolicy::Stop, ..spec() }, Some(9));
    bench.join(1, hello("a", "i"), 2, &[]);
    bench.wrote();
    bench.sent();
    bench.ends(1, task(1, 1).attempt(1), Outcome::Exited(3));
    assert_eq!(
        bench.wrote(),
        [
            "record 1/task/1#1: exit code 3",
            "1 failed: task 1 failed (exit code 3), and the project stops at the first failure"
        ]
    );
    assert_eq!(
        bench.sent(),
        [
            (1, ToAgent::Settled(vec![task(1, 1).attempt(1)])),
            (1, ToAgent::Cancel(vec![task(1, 0).attempt(1)]))
        ]
    );
}

#[test]
fn split_tasks_and_a_reassemble_command_follow_each_other() {
    let mut bench = Bench::new();
    let spec = ProjectSpec {
        items: ItemSource::Split(task_spec()),
        reassemble: Reassemble::Command(task_spec()),
        ..spec()
    };
    bench.submit(1, spec, None);
    bench.join(1, hello("a", "i"), 2, &[]);
    let key = |phase| TaskKey { project: ProjectId(1), phase, index: 0 }.attempt(1);
    assert_eq!(bench.wrote(), ["claim 1/split/0#1 for 1"]);
    bench.ends(1, key(Phase::Split), Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 1/split/0#1: exit code 0"]);
    assert_eq!(bench.jobs(), [Job::Split(ProjectId(1))]);
    bench.turn([Input::SplitDone { project: ProjectId(1), items: Ok(1) }]);
    assert_eq!(bench.wrote(), ["1 running", "claim 1/task/0#1 for 1"]);
    bench.ends(1, key(Phase::Task), Outcome::Exited(0));
    assert_eq!(
        bench.wrote(),
        ["record 1/task/0#1: exit code 0", "1 reassembling", "claim 1/reassemble/0#1 for 1"]
    );
    bench.ends(1, key(Phase::Reassemble), Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 1/reassemble/0#1: exit code 0", "1 succeeded"]);
}

#[test]
fn a_sum_is_made_by_the_shell_and_not_at_all_after_a_failure() {
    let sum = || ProjectSpec { reassemble: Reassemble::BuiltIn(BuiltIn::Sum), ..spec() };
    let mut bench = Bench::new();
    bench.submit(1, sum(), Some(1));
    bench.submit(2, sum(), Some(1));
    bench.join(1, hello("a", "i"), 2, &[]);
    bench.wrote();
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(1));
    assert_eq!(bench.wrote()[1], "1 failed: 1 of 1 task failed");
    bench.ends(1, task(2, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.wrote()[1], "2 reassembling");
    assert_eq!(bench.jobs(), [Job::Reassemble(ProjectId(2))]);
    let done = || Input::ReassembleDone { project: ProjectId(2), result: Ok(()) };
    bench.turn([done(), done()]);
    assert_eq!(bench.wrote(), ["2 succeeded"]);
}

#[test]
fn projects_share_the_slots_by_weight() {
    let mut bench = Bench::new();
    bench.submit(1, spec(), Some(100));
    bench.submit(2, ProjectSpec { weight: 3, ..spec() }, Some(100));
    bench.join(1, hello("a", "i"), 8, &[]);
    let claims = bench.wrote();
    assert_eq!(claims.iter().filter(|claim| claim.starts_with("claim 1/")).count(), 2);
    assert_eq!(claims.iter().filter(|claim| claim.starts_with("claim 2/")).count(), 6);
}

#[test]
fn tasks_go_to_the_agent_with_the_most_room() {
    let mut bench = Bench::new();
    bench.join(1, hello("a", "i"), 1, &[]);
    bench.join(2, hello("b", "i"), 2, &[]);
    bench.submit(1, spec(), Some(3));
    assert_eq!(bench.wrote(), ["claim 1/task/0#1 for 2", "claim 1/task/1#1 for 2", "claim 1/task/2#1 for 1"]);
}

#[test]
fn a_folded_core_goes_on_where_the_store_stands() {
    let mut project = Bench::active(with_retries(3), 10);
    project.counts.succeeded = 2;
    project.frontier = 6;
    project.gaps = vec![4];
    let open = |index, running| OpenTask {
        task: task(1, index),
        attempt: 2,
        agent: AgentId(5),
        running,
        noted: if running { Noted::Nothing } else { Noted::Ending },
        failures: 1,
        crashes: 0,
    };
    project.open = vec![open(2, true), open(3, false), open(5, true)];
    let agents = vec![KnownAgent {
        id: AgentId(5),
        name: "a".to_owned(),
        identity: "data directory of a".to_owned(),
        instance: "i".to_owned(),
        epoch: SessionEpoch(8),
        labels: std::collections::BTreeMap::new(),
        draining: false,
    }];
    let mut bench = Bench::fold(Snapshot { agents, agent_max: AgentId(5), projects: vec![project] });
    let mut back = hello("a", "i");
    back.live = vec![task(1, 2).attempt(2)];
    bench.join(1, back, 5, &[]);
    assert_eq!(
        bench.wrote(),
        [
            "return 1/task/5#2",
            "claim 1/task/3#3 for 5",
            "claim 1/task/4#1 for 5",
            "claim 1/task/5#3 for 5",
            "claim 1/task/6#1 for 5"
        ]
    );
}

#[test]
fn a_folded_core_starts_its_jobs_again() {
    let split = |id, split: Option<Outcome>| {
        let mut project = Bench::active(ProjectSpec { items: ItemSource::Split(task_spec()), ..spec() }, 0);
        project.id = ProjectId(id);
        project.state = ProjectState::Splitting;
        project.split = split;
        project
    };
    let mut sum = Bench::active(ProjectSpec { reassemble: Reassemble::BuiltIn(BuiltIn::Sum), ..spec() }, 1);
    (sum.id, sum.state, sum.counts.succeeded, sum.frontier) =
        (ProjectId(3), ProjectState::Reassembling, 1, 1);
    let projects = vec![split(1, Some(Outcome::Exited(0))), split(2, None), sum];
    let mut bench = Bench::fold(Snapshot { agents: Vec::new(), agent_max: AgentId(0), projects });
    assert_eq!(bench.jobs(), [Job::Split(ProjectId(1)), Job::Reassemble(ProjectId(3))]);
    bench.join(1, hello("a", "i"), 5, &[]);
    assert_eq!(bench.wrote(), ["claim 2/split/0#1 for 1"]);
}
