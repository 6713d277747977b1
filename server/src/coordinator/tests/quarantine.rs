//! Hosts on which everything fails.

use super::{
    bench::{Bench, spec, task},
    placement::{given, host},
    *,
};
use crate::domain::AttemptKey;

fn engine_lost() -> Outcome {
    Outcome::EngineLost("no daemon".to_owned())
}

#[test]
fn an_agent_on_which_everything_fails_gets_nothing_for_a_while() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 0, &[]);
    bench.join(2, host("b", 4), 4, &[]);
    bench.submit(1, spec(), Some(1000));
    bench.ends(2, task(1, 0).attempt(1), Outcome::Exited(0));
    given(&mut bench);
    bench.say(1, credits(4));
    for _ in 0..5 {
        // The other one is full: what has failed there makes way for what has not.
        let Some(&next) = bench.agent("a").attempts.first() else { panic!("nothing left to fail") };
        assert_eq!(next.attempt, 1);
        bench.ends(1, next, engine_lost());
    }
    assert_eq!(bench.warned().len(), 1);
    let view = bench.agent("a");
    assert_eq!(
        view.quarantine,
        "for another 60 s: 5 tasks in a row ended there like the last: engine lost: no daemon"
    );
    let held = bench.agent("a").attempts;
    bench.say(1, FromAgent::Returned(held));
    assert_eq!(bench.agent("a").attempts, []);
    bench.now += Duration::from_secs(61);
    bench.say(1, FromAgent::Heartbeat);
    bench.say(2, FromAgent::Heartbeat);
    bench.turn([Input::Tick]);
    assert_eq!(bench.agent("a").attempts.len(), 1, "on probation");
    let probe = bench.agent("a").attempts[0];
    bench.ends(1, probe, Outcome::Exited(0));
    assert_eq!(bench.agent("a").attempts.len(), 4);
    assert_eq!(bench.agent("a").quarantine, "");
}

#[test]
fn the_only_agent_is_never_quarantined() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 4, &[]);
    bench.submit(1, spec(), Some(10));
    bench.submit(2, spec(), Some(10));
    for _ in 0..12 {
        let Some(&next) = bench.agent("a").attempts.first() else { panic!("it was given nothing") };
        bench.ends(1, next, engine_lost());
    }
    assert!(bench.warned().is_empty());
}

fn credits(attempts_max: u32) -> FromAgent {
    FromAgent::Credits { attempts_max, not_ready: String::new() }
}

fn image_unavailable() -> Outcome {
    Outcome::ImageUnavailable("no space".to_owned())
}

/// The first that an agent holds.
fn first(bench: &mut Bench, agent: &str) -> Option<AttemptKey> {
    bench.agent(agent).attempts.first().copied()
}

/// So many of what an agent holds end, one after another.
fn end(bench: &mut Bench, session: u64, agent: &str, tasks: usize, outcome: &Outcome) {
    for _ in 0..tasks {
        let Some(next) = first(bench, agent) else { panic!("{agent} holds nothing") };
        bench.ends(session, next, outcome.clone());
    }
}

/// Time passes, and agents are heard of.
fn wait(bench: &mut Bench, secs: u64, sessions: u64) {
    for _ in 0..secs {
        bench.now += Duration::from_secs(1);
        (1..=sessions).for_each(|session| bench.say(session, FromAgent::Heartbeat));
        bench.turn([Input::Tick]);
    }
}

fn is_out(bench: &mut Bench, agent: &str) -> bool {
    !bench.agent(agent).quarantine.is_empty()
}

#[test]
fn a_bad_host_fails_no_project_before_anything_has_ended_elsewhere() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 4, &[]);
    bench.submit(1, spec(), Some(1000));
    bench.join(2, host("b", 4), 4, &[]);
    end(&mut bench, 2, "b", 5, &image_unavailable());
    assert!(is_out(&mut bench, "b"));
    let wrote = bench.wrote();
    assert!(!wrote.iter().any(|write| write.starts_with("record")), "{wrote:?}");
    end(&mut bench, 1, "a", 1, &Outcome::Exited(0));
    let wrote = bench.wrote();
    assert!(wrote.contains(&"claim 1/task/4#2 for 1".to_owned()), "it is tried elsewhere: {wrote:?}");
    end(&mut bench, 2, "b", 3, &image_unavailable());
    assert!(first(&mut bench, "b").is_none());
}

#[test]
fn two_bad_hosts_do_not_excuse_each_other() {
    let mut bench = Bench::new();
    for (session, name) in (1..).zip(["a", "b", "c", "d"]) {
        bench.join(session, host(name, 4), 4, &[]);
    }
    bench.submit(1, spec(), Some(1000));
    end(&mut bench, 4, "d", 1, &Outcome::Exited(0));
    end(&mut bench, 1, "a", 5, &engine_lost());
    end(&mut bench, 2, "b", 5, &engine_lost());
    assert!(is_out(&mut bench, "a") && is_out(&mut bench, "b"));
    // Those on probation count for the half that may be held back.
    wait(&mut bench, 61, 4);
    let probations = ["a", "b"].map(|name| bench.agent(name).quarantine);
    assert!(probations.iter().all(|why| why.starts_with("on probation")), "{probations:?}");
    end(&mut bench, 3, "c", 5, &engine_lost());
    assert!(!is_out(&mut bench, "c"));
}

#[test]
fn a_project_that_can_start_nowhere_costs_no_host_its_attempts() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 4, &[]);
    bench.join(2, host("b", 4), 4, &[]);
    bench.submit(1, spec(), Some(100));
    let typo = Outcome::CouldNotStart("no such command".to_owned());
    end(&mut bench, 1, "a", 4, &typo);
    assert!(!is_out(&mut bench, "a"));
    end(&mut bench, 1, "a", 1, &typo);
    assert!(is_out(&mut bench, "a"), "what runs elsewhere speaks for the project");
    end(&mut bench, 2, "b", 1, &typo);
    assert!(!is_out(&mut bench, "a"), "it was no better there");
    while let Some((session, next)) =
        [(2, "b"), (1, "a")].into_iter().find_map(|(session, name)| Some((session, first(&mut bench, name)?)))
    {
        bench.ends(session, next, typo.clone());
    }
    assert!(!is_out(&mut bench, "a") && !is_out(&mut bench, "b"));
    let wrote = bench.wrote();
    assert_eq!(wrote.last().map(String::as_str), Some("1 failed: 100 of 100 tasks failed"));
    let requeued = wrote.iter().filter(|write| write.starts_with("requeue")).count();
    assert_eq!(requeued, 5, "once it has failed elsewhere, nothing is tried again");
}

#[test]
fn what_was_lost_on_an_agent_waits_for_another() {
    let mut bench = Bench::new();
    bench.join(1, host("a", 4), 4, &[]);
    bench.submit(1, spec(), Some(4));
    bench.join(2, host("b", 4), 4, &[]);
    bench.submit(2, spec(), Some(3));
    assert_eq!(given(&mut bench), [4, 3]);
    end(&mut bench, 2, "b", 3, &engine_lost());
    assert_eq!(given(&mut bench), [0, 0]);
    bench.submit(3, spec(), Some(1));
    assert_eq!(given(&mut bench), [0, 1], "it is in nobody's way");
    end(&mut bench, 1, "a", 1, &Outcome::Exited(0));
    assert_eq!(given(&mut bench), [1, 0], "although the other has more room");
    wait(&mut bench, 9, 2);
    assert_eq!(given(&mut bench), [0, 0]);
    wait(&mut bench, 1, 2);
    assert_eq!(given(&mut bench), [0, 2], "not for ever");
}
