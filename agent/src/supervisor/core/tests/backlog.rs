//! More than the slots hold: what is asked for, dispatched ahead, given back by the shell, and recalled.

use super::bench::*;
use crate::{
    domain::{AttemptKey, Outcome},
    supervisor::{FromCoordinator, Input, ToCoordinator},
};
use std::time::Duration;

/// How many attempts the coordinator has handed out.
const ASSIGNED: u32 = 2_000;

/// A core with two slots and a long queue, whose attempts end five a millisecond.
struct Quick {
    bench: Bench,
    /// Those that were started, in order.
    started: Vec<AttemptKey>,
    ended: usize,
    credits: Vec<u32>,
}

impl Quick {
    fn new() -> Self {
        let mut quick = Self { bench: Bench::in_session(2), started: vec![], ended: 0, credits: vec![] };
        let all: Vec<_> = (0..ASSIGNED).map(key).collect();
        quick.take(from(1, 2, assign(&all)));
        assert_eq!(quick.started, [key(0), key(1)]);
        for _ in 0..300 {
            quick.millisecond();
        }
        quick
    }

    fn take(&mut self, input: Input) -> Vec<Do> {
        let done = self.bench.take(input);
        for done in &done {
            match done {
                Do::Start(attempt) => self.started.push(*attempt),
                Do::Send(_, _, ToCoordinator::Credits { attempts_max, .. }) => {
                    self.credits.push(*attempts_max);
                }
                _ => {}
            }
        }
        done
    }

    fn end(&mut self, count: usize) {
        let running = &self.started[self.ended..];
        let reports: Vec<_> =
            running.iter().take(count).map(|attempt| report(*attempt, Outcome::Exited(0))).collect();
        self.ended += reports.len();
        self.take(Input::Ended(reports));
    }

    fn millisecond(&mut self) {
        self.bench.pass(Duration::from_millis(1));
        // No more than what runs can end: at first only as many as there are slots.
        self.end(5);
    }

    fn running(&self) -> Vec<AttemptKey> {
        self.started[self.ended..].to_vec()
    }
}

fn given_back(attempts: &[AttemptKey]) -> Input {
    let FromCoordinator::Assign(assignments) = assign(attempts) else { panic!("no Assign") };
    Input::NotBegun(assignments)
}

fn returned(done: &[Do]) -> Vec<AttemptKey> {
    let returned = |done: &Do| match done {
        Do::Send(_, _, ToCoordinator::Returned(attempts)) => attempts.clone(),
        _ => vec![],
    };
    done.iter().flat_map(returned).collect()
}

#[test]
fn quick_attempts_are_asked_for_and_dispatched_ahead() {
    let quick = Quick::new();
    let last = *quick.credits.last().expect("credits were raised");
    assert!((452..=752).contains(&last), "2 slots and 150 ms of 5 a millisecond: {:?}", quick.credits);
    assert!(quick.credits.len() <= 10, "each costs a message: {:?}", quick.credits);
    let running = quick.running().len();
    assert!((302..=502).contains(&running), "2 slots and 100 ms of 5 a millisecond: {running}");
}

#[test]
fn when_nothing_ends_any_more_the_backlog_goes_by_itself() {
    let mut quick = Quick::new();
    // The step under way was a busy one, and two empty ones must follow.
    let idle_since = quick.bench.now;
    while quick.bench.now < idle_since + Duration::from_millis(75) {
        let now = quick.bench.now;
        let timer = quick.bench.core.next_timer(now).expect("a timer");
        assert!(timer <= now + Duration::from_millis(25), "a step");
        quick.bench.now = timer;
        quick.take(Input::Tick);
    }
    assert_eq!(quick.credits.last(), Some(&2));
    quick.end(1);
    assert!(quick.running().len() > 2, "what is dispatched stays so");
}

#[test]
fn what_never_began_is_queued_again_in_front_and_in_order() {
    let mut quick = Quick::new();
    let running = quick.running();
    let (begun, stuck) = running.split_at(2);
    let next = stuck.last().expect("some wait").index;
    quick.started.truncate(quick.ended + 2);
    let done = quick.take(given_back(stuck));
    assert_eq!(done, [], "both slots are busy, and nothing goes ahead");
    quick.end(2);
    assert_eq!(quick.running(), stuck[..2], "{begun:?} have ended");
    for attempt in &stuck[2..] {
        quick.end(1);
        assert_eq!(quick.running().last(), Some(attempt));
    }
    quick.end(1);
    assert_eq!(quick.running().last(), Some(&key(next + 1)), "the rest of the queue comes after them");
}

#[test]
fn once_all_slots_have_moved_some_go_ahead_again() {
    let mut quick = Quick::new();
    let stuck = quick.running().split_off(2);
    quick.started.truncate(quick.ended + 2);
    quick.take(given_back(&stuck));
    for _ in 0..24 {
        quick.millisecond();
        assert_eq!(quick.running().len(), 2);
    }
    quick.bench.pass(Duration::from_millis(25));
    quick.end(1);
    assert!(quick.running().len() > 2);
}

#[test]
fn what_never_began_and_was_killed_is_reported_as_cancelled() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1), key(2)])));
    bench.take(from(1, 3, FromCoordinator::Cancel(vec![key(1)])));
    bench.step(
        given_back(&[key(1)]),
        &[
            Do::Persist(key(1)),
            Do::Start(key(2)),
            Do::Send(1, 3, ToCoordinator::Reports(vec![cancelled(key(1))])),
        ],
    );
}

#[test]
fn a_kill_and_what_never_began_in_one_batch_kill_nothing() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    let done = bench.take_all([from(1, 3, FromCoordinator::Cancel(vec![key(1)])), given_back(&[key(1)])]);
    let told = Do::Send(1, 3, ToCoordinator::Reports(vec![cancelled(key(1))]));
    assert_eq!(done, [Do::Persist(key(1)), told]);
}

#[test]
fn what_never_began_and_is_unwanted_is_forgotten() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(Input::Connected(crate::supervisor::ConnectionId(2)));
    bench.take(from(2, 1, discarding(2, vec![key(1)])));
    bench.quiet(given_back(&[key(1)]));
    bench.step(from(2, 2, assign(&[key(1)])), &[Do::Start(key(1))]);
}

#[test]
fn what_never_began_is_handed_back_when_the_agent_stops() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(STOP);
    bench.step(given_back(&[key(1)]), &[Do::Send(1, 4, ToCoordinator::Returned(vec![key(1)])), Do::Stopped]);
}

#[test]
fn what_never_began_twice_or_is_unknown_changes_nothing() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1), key(2)])));
    bench.quiet(given_back(&[key(2), key(9)]));
    let done = bench.take_all([given_back(&[key(1)]), given_back(&[key(1)])]);
    assert_eq!(done, [Do::Start(key(1))]);
}

#[test]
fn recalled_attempts_are_handed_back_if_they_wait() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1), key(2), key(3)])));
    bench.step(
        from(1, 3, FromCoordinator::Recall(vec![key(3), key(1), key(9)])),
        &[Do::Send(1, 3, ToCoordinator::Returned(vec![key(3)]))],
    );
    bench.quiet(from(1, 4, FromCoordinator::Recall(vec![key(3), key(1)])));
    let done = bench.take(Input::Ended(vec![exited(1)]));
    assert!(
        done.contains(&Do::Send(1, 4, ToCoordinator::Reports(vec![exited(1)]))),
        "it ran to its end: {done:?}"
    );
    assert!(done.contains(&Do::Start(key(2))), "{done:?}");
    assert_eq!(bench.take(Input::Ended(vec![exited(2)])).len(), 1, "nothing is left to start");
}

#[test]
fn a_recalled_attempt_that_never_began_is_handed_back() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.quiet(from(1, 3, FromCoordinator::Recall(vec![key(1)])));
    let done = bench.take(given_back(&[key(1)]));
    assert_eq!(returned(&done), [key(1)]);
    bench.quiet(Input::Ended(vec![exited(1)]));
}

#[test]
fn a_recalled_attempt_can_still_be_killed() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(from(1, 3, FromCoordinator::Recall(vec![key(1)])));
    bench.step(from(1, 4, FromCoordinator::Cancel(vec![key(1)])), &[Do::Kill(key(1))]);
    bench.quiet(from(1, 5, FromCoordinator::Recall(vec![key(1)])));
    let done = bench.take(Input::Ended(vec![report(key(1), Outcome::Cancelled)]));
    assert!(done.contains(&Do::Persist(key(1))), "{done:?}");
}

/// Which endings a stop hands back does not depend on an earlier recall.
#[test]
fn a_stop_kills_recalled_attempts_too() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(from(1, 3, FromCoordinator::Recall(vec![key(1)])));
    assert!(bench.take(STOP).contains(&Do::Kill(key(1))));
}
