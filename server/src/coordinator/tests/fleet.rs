//! Agents that are drained, removed, or there twice.

use super::{
    bench,
    bench::{Bench, hello, spec, task},
};
use crate::{
    coordinator::{Enrolled, FromAgent, Hello, Input, Reply, ReplyId, SessionId, ToAgent},
    domain::{AgentId, ENROLLED, Outcome, SessionEpoch},
    store::KnownAgent,
};
use std::{collections::BTreeMap, time::Duration};

fn drain(draining: bool) -> Input {
    Input::Drain { name: "a".to_owned(), draining, reply: ReplyId(7) }
}

#[test]
fn a_drained_agent_hands_back_what_has_not_begun_and_gets_no_more() {
    let mut bench = bench(4);
    let held = [task(1, 0).attempt(1), task(1, 1).attempt(1)];
    bench.wrote();
    bench.sent();
    bench.turn([drain(true)]);
    assert!(matches!(bench.reply(), Reply::Done));
    assert_eq!(bench.wrote(), ["drain 1: true"]);
    assert_eq!(bench.sent(), [(1, ToAgent::Recall(held.to_vec()))]);
    bench.say(1, FromAgent::Returned(vec![held[1]]));
    assert_eq!(bench.wrote(), ["return 1/task/1#1"]);
    bench.ends(1, held[0], Outcome::Exited(0));
    assert_eq!(bench.wrote(), ["record 1/task/0#1: exit code 0"]);
    bench.sent();
    bench.turn([drain(false)]);
    assert!(matches!(bench.reply(), Reply::Done));
    assert_eq!(bench.wrote(), ["drain 1: false", "claim 1/task/1#2 for 1", "claim 1/task/2#1 for 1"]);
}

#[test]
fn what_an_undrained_agent_runs_is_not_waited_for() {
    let mut bench = bench(9);
    bench.turn([drain(true)]);
    bench.reply();
    // Both have begun there: it hands back nothing.
    bench.turn([drain(false)]);
    bench.reply();
    bench.say(1, FromAgent::Credits { attempts_max: 9, not_ready: String::new() });
    bench.wrote();
    bench.sent();
    bench.join(2, hello("b", "i"), 2, &[]);
    let newest = [task(1, 8).attempt(1), task(1, 7).attempt(1)];
    assert_eq!(bench.sent(), [(1, ToAgent::Recall(newest.to_vec()))]);
}

#[test]
fn an_agent_that_holds_attempts_is_removed_only_by_force() {
    let mut bench = Bench::new();
    bench.submit(1, spec(), Some(1));
    let known = KnownAgent {
        id: AgentId(1),
        name: "a".to_owned(),
        identity: ENROLLED.to_owned(),
        instance: String::new(),
        epoch: SessionEpoch(0),
        labels: BTreeMap::new(),
        draining: false,
    };
    bench.turn([Input::Enrolled(known)]);
    let enrolled = Enrolled { id: AgentId(1), labels: BTreeMap::new(), draining: false };
    let by_certificate =
        || Hello { enrolled: Some(enrolled.clone()), identity: ENROLLED.to_owned(), ..hello("a", "i") };
    bench.join(1, by_certificate(), 1, &[]);
    bench.wrote();
    bench.sent();
    let remove = |force| Input::RemoveAgent { name: "a".to_owned(), force, reply: ReplyId(7) };
    bench.turn([remove(false)]);
    assert!(matches!(bench.reply(), Reply::Holds(1)));
    bench.silent();
    bench.turn([remove(true)]);
    assert!(matches!(bench.reply(), Reply::Done));
    assert_eq!(
        bench.wrote(),
        ["requeue 1/task/0#1: lease lost: its agent was not heard from (0 failures, 1 crashes)", "remove 1"]
    );
    assert_eq!(bench.closed(), [1]);
    bench.sent();
    // A Hello that was on its way changes nothing.
    bench.turn([Input::Hello { session: SessionId(5), hello: Box::new(by_certificate()) }]);
    assert_eq!(bench.closed(), [5]);
    bench.silent();
    // The name is free; whoever takes it is another agent.
    bench.join(2, hello("a", "i"), 1, &[]);
    assert_eq!(bench.wrote(), ["claim 1/task/0#2 for 2"]);
}

#[test]
fn of_two_processes_with_one_identity_the_one_that_is_alive_stays() {
    let mut bench = bench(0);
    bench.wrote();
    bench.sent();
    let copy = || Box::new(hello("a", "another process"));
    bench.now += Duration::from_secs(1);
    bench.turn([Input::Hello { session: SessionId(2), hello: copy() }]);
    assert_eq!(bench.closed(), [2]);
    // What the first sends within a heartbeat was on its way: it may have died since, and be what calls now.
    bench.say(1, FromAgent::Heartbeat);
    assert_eq!(bench.warning(AgentId(1)), "");
    bench.now += Duration::from_secs(4);
    bench.say(1, FromAgent::Heartbeat);
    let warning = bench.warning(AgentId(1));
    assert!(warning.contains("a second process with its identity calls from this host"), "{warning}");
    // When the first is silent for two heartbeats, it was a restart.
    bench.sent();
    bench.now += Duration::from_secs(7);
    bench.turn([Input::Hello { session: SessionId(3), hello: copy() }]);
    assert_eq!(bench.closed(), [1]);
    assert!(matches!(bench.sent()[..], [(3, ToAgent::Welcome { .. })]));
}

#[test]
fn an_agent_on_the_coordinators_own_socket_is_not_removed_while_it_is_connected() {
    let mut bench = bench(0);
    bench.wrote();
    bench.sent();
    let remove = || Input::RemoveAgent { name: "a".to_owned(), force: true, reply: ReplyId(7) };
    bench.turn([remove()]);
    assert!(matches!(bench.reply(), Reply::IsLocal));
    bench.silent();
    bench.turn([Input::SessionClosed { session: SessionId(1) }, remove()]);
    assert!(matches!(bench.reply(), Reply::Done));
    assert_eq!(bench.wrote(), ["remove 1"]);
}
