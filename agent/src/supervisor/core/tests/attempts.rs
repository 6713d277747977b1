//! Assigning, starting, cancelling, discarding.

use super::bench::*;
use crate::{
    domain::Outcome,
    supervisor::{ConnectionId, FromCoordinator, Input, ToCoordinator},
};

#[test]
fn no_more_run_than_there_are_slots() {
    let mut bench = Bench::in_session(2);
    bench
        .step(from(1, 2, assign(&[key(1), key(2), key(3), key(4)])), &[Do::Start(key(1)), Do::Start(key(2))]);
    bench.step(
        Input::Ended(vec![exited(2)]),
        &[Do::Start(key(3)), Do::Send(1, 3, ToCoordinator::Reports(vec![exited(2)]))],
    );
}

#[test]
fn adopted_attempts_take_slots() {
    let mut bench = Bench::with(1, vec![key(1), key(2)], vec![]);
    bench.take(Input::Connected(ConnectionId(1)));
    bench.take(from(1, 1, welcome(1, 1)));
    bench.quiet(from(1, 2, assign(&[key(3)])));
    bench.take(Input::Ended(vec![exited(1)]));
    let done = bench.take(Input::Ended(vec![exited(2)]));
    assert!(done.contains(&Do::Start(key(3))), "{done:?}");
}

#[test]
fn an_attempt_that_is_known_is_not_started_again() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1), key(2)])));
    bench.quiet(from(1, 3, assign(&[key(1), key(2)])));
    bench.take(Input::Ended(vec![exited(1)]));
    bench.quiet(from(1, 4, assign(&[key(1)])));
}

#[test]
fn a_higher_attempt_kills_the_lower_one() {
    let mut bench = Bench::in_session(2);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.step(from(1, 3, assign(&[retry(1, 2)])), &[Do::Kill(key(1)), Do::Start(retry(1, 2))]);
    // Whatever the lower one ended with is reported like any other; the coordinator knows what to do with it.
    let killed = report(key(1), Outcome::Cancelled);
    bench.step(
        Input::Ended(vec![killed.clone()]),
        &[Do::Persist(key(1)), Do::Release(key(1)), Do::Send(1, 3, ToCoordinator::Reports(vec![killed]))],
    );
}

#[test]
fn a_higher_attempt_replaces_a_lower_one_that_waits() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1), key(2)])));
    bench.quiet(from(1, 3, assign(&[retry(2, 2)])));
    let done = bench.take(Input::Ended(vec![exited(1)]));
    assert!(done.contains(&Do::Start(retry(2, 2))), "{done:?}");
    assert!(!done.contains(&Do::Start(key(2))), "{done:?}");
}

#[test]
fn a_lower_attempt_than_the_one_held_is_ignored() {
    let mut bench = Bench::in_session(2);
    bench.take(from(1, 2, assign(&[retry(1, 2)])));
    bench.quiet(from(1, 3, assign(&[key(1)])));
}

#[test]
fn cancel_kills_once_and_the_ending_is_reported() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.step(from(1, 3, FromCoordinator::Cancel(vec![key(1)])), &[Do::Kill(key(1))]);
    bench.quiet(from(1, 4, FromCoordinator::Cancel(vec![key(1)])));
    let killed = report(key(1), Outcome::Cancelled);
    bench.step(
        Input::Ended(vec![killed.clone()]),
        &[Do::Persist(key(1)), Do::Release(key(1)), Do::Send(1, 3, ToCoordinator::Reports(vec![killed]))],
    );
}

#[test]
fn what_is_cancelled_before_it_started_ends_without_being_started() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1), key(2)])));
    bench.step(
        from(1, 3, FromCoordinator::Cancel(vec![key(2)])),
        &[Do::Persist(key(2)), Do::Send(1, 3, ToCoordinator::Reports(vec![cancelled(key(2))]))],
    );
    let done = bench.take(Input::Ended(vec![exited(1)]));
    assert!(!done.contains(&Do::Start(key(2))), "{done:?}");
}

#[test]
fn what_is_cancelled_in_the_batch_that_would_start_it_never_starts() {
    let mut bench = Bench::in_session(1);
    let done = bench
        .take_all([from(1, 2, assign(&[key(1), key(2)])), from(1, 3, FromCoordinator::Cancel(vec![key(1)]))]);
    assert_eq!(
        done,
        [
            Do::Persist(key(1)),
            Do::Start(key(2)),
            Do::Send(1, 3, ToCoordinator::Reports(vec![cancelled(key(1))])),
        ]
    );
}

#[test]
fn what_welcome_discards_is_killed_and_forgotten() {
    let mut bench = Bench::with(1, vec![key(1)], vec![exited(2), exited(3)]);
    bench.take(Input::Connected(ConnectionId(1)));
    bench.step(
        from(1, 1, discarding(1, vec![key(1), key(2), key(9)])),
        &[
            Do::Forget(key(2)),
            Do::Kill(key(1)),
            Do::Send(1, 2, credits(1)),
            Do::Send(1, 3, ToCoordinator::Reports(vec![exited(3)])),
        ],
    );
    // It still has its slot until it has ended; its ending goes nowhere, whatever it is.
    bench.quiet(from(1, 2, assign(&[key(4)])));
    bench.step(Input::Ended(vec![exited(1)]), &[Do::Forget(key(1)), Do::Release(key(1)), Do::Start(key(4))]);
}

#[test]
fn what_is_discarded_is_in_no_later_hello() {
    let mut bench = Bench::with(2, vec![key(1), key(2)], vec![]);
    bench.take(Input::Connected(ConnectionId(1)));
    bench.take(from(1, 1, discarding(1, vec![key(1)])));
    let done = bench.take(Input::Connected(ConnectionId(2)));
    assert!(done.contains(&Do::Send(2, 1, hello(&[key(2)], &[], 1))), "{done:?}");
}

#[test]
fn what_waits_and_is_discarded_never_starts() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1), key(2)])));
    let done = bench.take(Input::Connected(ConnectionId(2)));
    assert!(done.contains(&Do::Send(2, 1, hello(&[key(1), key(2)], &[], 1))), "{done:?}");
    bench.step(from(2, 1, discarding(2, vec![key(2)])), &[Do::Send(2, 2, credits(1))]);
    let done = bench.take(Input::Ended(vec![exited(1)]));
    assert!(!done.contains(&Do::Start(key(2))), "{done:?}");
}
