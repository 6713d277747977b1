//! Agents with a backlog: who gets what, and what is asked back.

use super::{
    bench::{Bench, hello, spec, task, task_spec},
    *,
};
use crate::{
    coordinator::{Effects, Hello, NewProject},
    domain::AttemptKey,
};
use std::{collections::BTreeMap, sync::Arc};

fn first(index: u32) -> AttemptKey {
    task(1, index).attempt(1)
}

/// So many tasks, all with agent `a` of two slots in session 1. Then agent `b` of two slots comes in session 2.
fn all_with_a(tasks: u32) -> Bench {
    let mut bench = Bench::new();
    bench.submit(1, spec(), Some(tasks));
    bench.join(1, hello("a", "i"), 100, &[]);
    assert_eq!(bench.sent(), [(1, ToAgent::Assign((0..tasks).map(first).collect()))]);
    bench.join(2, hello("b", "i"), 0, &[]);
    bench.wrote();
    bench.silent();
    bench
}

fn credits(attempts_max: u32) -> FromAgent {
    FromAgent::Credits { attempts_max, not_ready: String::new() }
}

#[test]
fn free_slots_go_before_any_backlog() {
    let mut bench = Bench::new();
    bench.join(1, hello("a", "i"), 100, &[]);
    bench.join(2, hello("b", "i"), 3, &[]);
    bench.submit(1, spec(), Some(4));
    assert_eq!(
        bench.sent(),
        [(1, ToAgent::Assign(vec![first(0), first(2)])), (2, ToAgent::Assign(vec![first(1), first(3)]))]
    );
    bench.wrote();
    bench.submit(2, spec(), Some(1));
    assert_eq!(bench.sent(), [(1, ToAgent::Assign(vec![task(2, 0).attempt(1)]))], "the most room");
}

#[test]
fn a_free_slot_gets_the_newest_of_anothers_backlog() {
    let mut bench = all_with_a(6);
    bench.say(2, credits(2));
    assert_eq!(bench.sent(), [(1, ToAgent::Recall(vec![first(5), first(4)]))]);
    // Each once: these two are awaited.
    bench.say(2, credits(3));
    bench.silent();
    bench.say(1, FromAgent::Returned(vec![first(5), first(4)]));
    assert_eq!(
        bench.wrote(),
        ["return 1/task/5#1", "return 1/task/4#1", "claim 1/task/4#2 for 2", "claim 1/task/5#2 for 2"]
    );
    let assigned = ToAgent::Assign(vec![task(1, 4).attempt(2), task(1, 5).attempt(2)]);
    assert_eq!(bench.sent(), [(2, assigned)]);
    bench.ends(2, task(1, 4).attempt(2), Outcome::Exited(0));
    assert_eq!(
        bench.sent(),
        [(1, ToAgent::Recall(vec![first(3)])), (2, ToAgent::Settled(vec![task(1, 4).attempt(2)]))]
    );
}

#[test]
fn the_newest_is_what_was_assigned_last_whatever_its_number() {
    let mut bench = Bench::new();
    bench.submit(1, spec(), Some(5));
    bench.join(1, hello("a", "i"), 4, &[]);
    bench.ends(1, first(0), Outcome::WorkerLost("gone".to_owned()));
    let again = task(1, 0).attempt(2);
    assert_eq!(
        bench.sent(),
        [
            (1, ToAgent::Assign(vec![first(0), first(1), first(2), first(3)])),
            (1, ToAgent::Settled(vec![first(0)])),
            (1, ToAgent::Assign(vec![again]))
        ]
    );
    bench.say(1, credits(5));
    bench.say(1, FromAgent::Returned(vec![first(3)]));
    bench.sent();
    bench.join(2, hello("b", "i"), 1, &[]);
    let sent = bench.sent();
    assert_eq!(sent, [(1, ToAgent::Recall(vec![task(1, 3).attempt(2)]))]);
}

#[test]
fn nothing_is_recalled_for_a_slot_that_a_published_task_is_about_to_take() {
    let mut bench = all_with_a(6);
    bench.say(1, credits(6));
    let core = &mut bench.core;
    let mut fx = Effects::default();
    let project = NewProject { id: ProjectId(2), spec: Arc::new(spec()), tasks: Some(1) };
    core.handle(Input::Submit { project, reply: ReplyId(2) }, bench.now, &mut fx);
    let credits = Input::FromAgent { session: SessionId(2), seq: 3, message: credits(2) };
    core.handle(credits, bench.now, &mut fx);
    core.publish(&mut fx);
    core.flush(&mut fx);
    assert_eq!(fx.publish.len(), 1, "a distant broker takes its time");
    assert_eq!(fx.sends, [(SessionId(1), ToAgent::Recall(vec![first(5)]))], "one slot is left over");
}

#[test]
fn who_holds_no_more_than_its_slots_is_left_alone() {
    let mut bench = all_with_a(2);
    bench.say(2, credits(2));
    bench.silent();
}

#[test]
fn room_in_a_backlog_is_no_reason_to_recall() {
    let mut bench = all_with_a(6);
    bench.say(2, credits(2));
    bench.say(1, FromAgent::Returned(vec![first(5), first(4)]));
    bench.sent();
    bench.wrote();
    // Both slots of b are busy.
    bench.say(2, credits(50));
    bench.silent();
}

#[test]
fn what_ended_instead_of_coming_back_makes_way_for_another_recall() {
    let mut bench = all_with_a(6);
    bench.say(2, credits(1));
    assert_eq!(bench.sent(), [(1, ToAgent::Recall(vec![first(5)]))]);
    bench.ends(1, first(5), Outcome::Exited(0));
    assert_eq!(bench.sent(), [(1, ToAgent::Settled(vec![first(5)])), (1, ToAgent::Recall(vec![first(4)]))]);
}

#[test]
fn a_new_session_is_asked_again() {
    let mut bench = all_with_a(4);
    bench.say(2, credits(2));
    assert_eq!(bench.sent(), [(1, ToAgent::Recall(vec![first(3), first(2)]))]);
    let mut back = hello("a", "i");
    back.live = (0..4).map(first).collect();
    bench.join(3, back, 100, &[]);
    assert_eq!(bench.closed(), [1]);
    assert_eq!(bench.sent(), [(3, ToAgent::Recall(vec![first(3), first(2)]))]);
}

#[test]
fn only_what_an_idle_slot_could_run_is_recalled() {
    let gpu = || BTreeMap::from([("gpu".to_owned(), "true".to_owned())]);
    let on_gpu = ProjectSpec { task: TaskSpec { requires: gpu(), ..task_spec() }, ..spec() };
    let mut bench = Bench::new();
    bench.submit(1, on_gpu, Some(4));
    bench.join(1, Hello { labels: gpu(), ..hello("a", "i") }, 100, &[]);
    bench.submit(2, spec(), Some(1));
    bench.submit(3, spec(), Some(1));
    bench.sent();
    bench.join(2, hello("b", "i"), 2, &[]);
    let others = vec![task(3, 0).attempt(1), task(2, 0).attempt(1)];
    assert_eq!(bench.sent(), [(1, ToAgent::Recall(others.clone()))], "the newest that b could run");
    bench.say(1, FromAgent::Returned(others));
    assert!(bench.sent().iter().all(|(session, _)| *session == 2));
}
