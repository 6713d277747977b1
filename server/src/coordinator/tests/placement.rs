//! Which agent gets what, and what waits for what.

use super::{
    bench::{Bench, hello, spec, task, task_spec},
    *,
};
use crate::{
    coordinator::Hello,
    domain::{AttemptKey, LeaseLossPolicy, Placement, Resources},
};

/// An agent of four slots with so many processors.
pub(super) fn host(name: &str, cpus: u32) -> Hello {
    Hello { slots: 4, cpus_milli: Some(cpus * 1000), ..hello(name, "i") }
}

fn labelled(name: &str, labels: &[(&str, &str)]) -> Hello {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Hello { labels, ..host(name, 4) }
}

pub(super) fn asking(cpus: u32) -> ProjectSpec {
    let resources = Resources { cpus_milli: Some(cpus * 1000), ..Resources::default() };
    ProjectSpec { task: TaskSpec { resources, ..task_spec() }, ..spec() }
}

pub(super) fn requiring(name: &str, value: &str) -> ProjectSpec {
    let requires = [(name.to_owned(), value.to_owned())].into();
    ProjectSpec { task: TaskSpec { requires, ..task_spec() }, ..spec() }
}

/// Everything that agents a to d hold, with their sessions.
fn held(bench: &mut Bench) -> Vec<(u64, AttemptKey)> {
    let agents = (1..).zip(["a", "b", "c", "d"]);
    agents
        .flat_map(|(session, name)| bench.agent(name).attempts.into_iter().map(move |at| (session, at)))
        .collect()
}

/// How many attempts each of two agents was given since this was asked last.
pub(super) fn given(bench: &mut Bench) -> [usize; 2] {
    let claims = bench.wrote();
    bench.sent();
    ["1", "2"].map(|agent| claims.iter().filter(|claim| claim.ends_with(&format!(" for {agent}"))).count())
}

#[test]
fn labels_decide_who_may_get_a_task() {
    let mut bench = Bench::new();
    bench.join(1, labelled("a", &[("gpu", "false")]), 4, &[]);
    bench.submit(1, requiring("gpu", "true"), Some(2));
    bench.silent();
    assert_eq!(
        bench.waiting(1).as_deref(),
        Some("an agent with the label gpu=true: no connected agent has it")
    );
    // What waits for agents of its own stands in nobody's way.
    bench.submit(2, spec(), Some(1));
    assert_eq!(given(&mut bench), [1, 0]);
    bench.join(2, labelled("b", &[("gpu", "true")]), 4, &[]);
    assert_eq!(given(&mut bench), [0, 2]);
    assert_eq!(bench.waiting(1), None);
}

#[test]
fn labels_count_as_they_are_now() {
    let mut bench = Bench::new();
    bench.submit(1, requiring("gpu", "true"), Some(9));
    bench.join(1, labelled("a", &[("gpu", "true")]), 1, &[]);
    assert_eq!(given(&mut bench), [1, 0]);
    let mut back = labelled("a", &[("gpu", "false")]);
    back.live = vec![task(1, 0).attempt(1)];
    bench.join(2, back, 4, &[]);
    assert_eq!(bench.closed(), [1]);
    bench.silent();
}

#[test]
fn an_agent_gets_no_more_than_its_processors_suffice_for() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 9, &[]);
    bench.submit(1, asking(3), Some(9));
    assert_eq!(given(&mut bench), [1, 0]);
    bench.submit(2, asking(1), Some(9));
    assert_eq!(given(&mut bench), [1, 0]);
    bench.submit(3, spec(), Some(2));
    assert_eq!(given(&mut bench), [2, 0], "what asks for nothing needs a slot alone");
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(bench.wrote().len(), 2, "one ended, one of either project began");
}

#[test]
fn a_backlog_is_given_of_what_all_slots_could_run() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 30, &[]);
    bench.submit(1, asking(1), Some(20));
    assert_eq!(given(&mut bench), [20, 0]);
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 30, &[]);
    bench.submit(1, asking(2), Some(20));
    assert_eq!(given(&mut bench), [2, 0]);
}

#[test]
fn what_is_cancelled_takes_up_processors_until_it_has_ended() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 9, &[]);
    bench.submit(1, asking(4), Some(1));
    bench.submit(2, asking(4), Some(1));
    bench.turn([Input::Cancel { project: ProjectId(1), reply: ReplyId(9) }]);
    bench.cancelled_reply(9);
    assert_eq!(bench.wrote(), ["claim 1/task/0#1 for 1", "1 cancelled"]);
    bench.ends(1, task(1, 0).attempt(1), Outcome::Cancelled);
    assert_eq!(bench.wrote(), ["claim 2/task/0#1 for 1"]);
}

#[test]
fn what_is_too_large_for_any_agent_waits_and_says_so() {
    let mut bench = Bench::new();
    bench.submit(1, asking(8), Some(1));
    assert_eq!(bench.waiting(1).as_deref(), Some("an agent: none has ever connected"));
    bench.join(1, host("a", 4), 9, &[]);
    assert_eq!(
        bench.waiting(1).as_deref(),
        Some("a larger agent: the largest that fits has 4 cpus, and 8 are asked for")
    );
    bench.submit(2, asking(4), Some(2));
    assert_eq!(given(&mut bench), [1, 0]);
    assert_eq!(bench.waiting(2), None, "it waits for its own attempt");
    bench.submit(3, asking(1), Some(2));
    assert_eq!(
        bench.waiting(3).as_deref(),
        Some("processors or memory: on all agents that fit they are taken")
    );
}

#[test]
fn what_an_agent_does_not_say_is_no_limit() {
    let mut bench = Bench::new();
    bench.join(1, Hello { memory_bytes: Some(1 << 30), ..hello("a", "i") }, 2, &[]);
    let resources = Resources { cpus_milli: Some(8000), memory_bytes: Some(4 << 30), ..Resources::default() };
    bench.submit(1, ProjectSpec { task: TaskSpec { resources, ..task_spec() }, ..spec() }, Some(1));
    assert_eq!(
        bench.waiting(1).as_deref(),
        Some("a larger agent: the largest that fits has 1024 MiB of memory, and 4096 MiB are asked for")
    );
}

#[test]
fn spread_takes_the_emptiest_and_pack_the_fullest_that_fits() {
    let both = |placement| {
        let mut bench = Bench::new();
        bench.join(1, host("a", 4), 4, &[]);
        bench.join(2, host("b", 4), 4, &[]);
        bench.submit(1, ProjectSpec { placement, ..asking(1) }, Some(4));
        given(&mut bench)
    };
    assert_eq!(both(Placement::Spread), [2, 2]);
    assert_eq!(both(Placement::Pack), [4, 0]);
}

#[test]
fn spread_goes_by_the_part_that_is_free() {
    let mut bench = Bench::new();
    bench.join(1, Hello { slots: 8, ..host("a", 8) }, 8, &[]);
    bench.join(2, host("b", 4), 4, &[]);
    bench.submit(1, spec(), Some(6));
    assert_eq!(given(&mut bench), [4, 2]);
}

#[test]
fn a_project_has_no_more_attempts_out_than_it_may() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 30, &[]);
    bench.submit(1, ProjectSpec { max_parallel: Some(3), ..spec() }, Some(9));
    assert_eq!(given(&mut bench), [3, 0]);
    assert_eq!(bench.waiting(1).as_deref(), Some("its own attempts: max_parallel is 3, and so many are out"));
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(0));
    assert_eq!(given(&mut bench), [1, 0]);
    bench.submit(2, spec(), Some(1));
    assert_eq!(given(&mut bench), [1, 0], "it is in nobody's way");
}

#[test]
fn a_retry_goes_elsewhere_if_it_can() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 4, &[]);
    bench.submit(1, with_retries(3), Some(1));
    assert_eq!(given(&mut bench), [1, 0]);
    bench.ends(1, task(1, 0).attempt(1), Outcome::Exited(1));
    assert_eq!(given(&mut bench), [1, 0], "there is no other");
    bench.join(2, host("b", 4), 1, &[]);
    bench.ends(1, task(1, 0).attempt(2), Outcome::Exited(1));
    assert_eq!(given(&mut bench), [0, 1], "although the first is emptier");
}

#[test]
fn a_lost_lease_is_the_end_where_a_project_says_so() {
    let mut bench = Bench::new();
    bench.submit(1, ProjectSpec { on_lease_loss: LeaseLossPolicy::Stop, ..with_retries(5) }, Some(1));
    bench.join(1, hello("a", "i"), 2, &[]);
    bench.turn([Input::SessionClosed { session: SessionId(1) }]);
    bench.wrote();
    bench.now += Duration::from_secs(16);
    bench.turn([Input::Tick]);
    assert_eq!(
        bench.wrote(),
        ["record 1/task/0#1: lease lost: its agent was not heard from", "1 failed: 1 of 1 task failed"]
    );
}

#[test]
fn slots_are_shared_by_time_and_not_by_tasks() {
    let mut bench = Bench::new();
    bench.submit(1, spec(), Some(10_000));
    bench.submit(2, spec(), Some(10_000));
    bench.join(1, host("a", 4), 2, &[]);
    bench.sent();
    let mut running: Vec<_> = vec![task(1, 0).attempt(1), task(2, 0).attempt(1)];
    let mut had = [0_u64; 2];
    bench.wrote();
    // The tasks of the first last ten times as long. Whoever runs longest ends next.
    let mut ends: Vec<u64> = vec![10, 1];
    for _ in 0..500 {
        let next = if ends[0] <= ends[1] { 0 } else { 1 };
        let (attempt, at) = (running[next], ends[next]);
        let lasted = if attempt.task.project == ProjectId(1) { 10 } else { 1 };
        had[usize::from(lasted == 1)] += lasted;
        bench.ends_after(1, attempt, Duration::from_millis(lasted * 100));
        let sent = bench.sent();
        let Some((_, ToAgent::Assign(assigned))) = sent.last() else { panic!("{sent:?}") };
        running[next] = assigned[0];
        ends[next] = at + if assigned[0].task.project == ProjectId(1) { 10 } else { 1 };
        bench.wrote();
    }
    let [first, second] = had;
    assert!(first.abs_diff(second) < (first + second) / 10, "{had:?}");
}

#[test]
fn who_comes_behind_a_large_project_is_next() {
    let mut bench = Bench::new();
    bench.submit(1, spec(), Some(100_000));
    bench.join(1, host("a", 4), 4, &[]);
    bench.wrote();
    let lasts = Duration::from_millis(100);
    for index in 0..50 {
        bench.ends_after(1, task(1, index).attempt(1), lasts);
    }
    bench.wrote();
    bench.submit(2, spec(), Some(10));
    for index in 50..54 {
        bench.ends_after(1, task(1, index).attempt(1), lasts);
    }
    let claims = bench.wrote();
    assert_eq!(claims.iter().filter(|claim| claim.starts_with("claim 2/")).count(), 4, "{claims:?}");
}

#[test]
fn an_agent_is_kept_free_for_what_small_ones_keep_out() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 9, &[]);
    bench.submit(1, asking(1), Some(1000));
    bench.submit(2, asking(4), Some(2));
    bench.wrote();
    let mut ended = 0;
    // One ends each half second, and another takes its place.
    let mut step = |bench: &mut Bench| {
        bench.now += Duration::from_millis(500);
        bench.turn([Input::Tick]);
        bench.ends(1, task(1, ended).attempt(1), Outcome::Exited(0));
        ended += 1;
        bench.wrote().iter().any(|write| write.starts_with("claim 2/"))
    };
    for _ in 0..20 {
        assert!(!step(&mut bench));
    }
    let begun = (0..30).position(|_| step(&mut bench));
    assert!(begun.is_some(), "it was kept out");
    bench.ends(1, task(2, 0).attempt(1), Outcome::Exited(0));
    assert!(!bench.wrote().is_empty(), "the agent is for all again");
}

#[test]
fn half_of_the_agents_stay_for_all() {
    let mut bench = Bench::new();
    for (session, name) in (1..).zip(["a", "b", "c", "d"]) {
        bench.join(session, host(name, 4), 4, &[]);
    }
    bench.submit(1, asking(1), Some(1000));
    bench.submit(2, asking(3), Some(9));
    bench.submit(3, asking(4), Some(9));
    bench.submit(4, asking(2), Some(9));
    for step in 0..60 {
        bench.now += Duration::from_millis(500);
        // All are heard of. The core's check counts those that are kept free.
        (1..=4).for_each(|session| bench.say(session, FromAgent::Heartbeat));
        bench.turn([Input::Tick]);
        let held = held(&mut bench);
        let (session, attempt) = held[step % held.len()];
        bench.ends(session, attempt, Outcome::Exited(0));
    }
    let large = bench.wrote().iter().filter(|write| write.starts_with("claim 3/")).count();
    assert!(large > 0, "the largest was kept out");
}
