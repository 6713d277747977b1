//! Connections, Hello and Welcome, numbers, epochs, heartbeats, credits.

use super::bench::*;
use crate::supervisor::{ConnectionId, FromCoordinator, Input, ToCoordinator};
use std::time::Duration;

#[test]
fn hello_comes_first_and_says_all_that_is_held() {
    let mut bench = Bench::with(2, vec![key(1)], vec![exited(2)]);
    bench.step(Input::Connected(ConnectionId(1)), &[Do::Send(1, 1, hello(&[key(1)], &[key(2)], 0))]);
}

#[test]
fn after_welcome_come_credits_and_then_everything_unrecorded() {
    let mut bench = Bench::with(2, vec![], vec![exited(5), exited(2)]);
    bench.take(Input::Connected(ConnectionId(1)));
    bench.step(
        from(1, 1, welcome(1, 1)),
        &[Do::Send(1, 2, credits(2)), Do::Send(1, 3, ToCoordinator::Reports(vec![exited(5), exited(2)]))],
    );
}

#[test]
fn nothing_is_said_or_done_before_welcome() {
    let mut bench = Bench::with(2, vec![key(1)], vec![exited(2)]);
    bench.take(Input::Connected(ConnectionId(1)));
    bench.step(Input::Ended(vec![exited(1)]), &[Do::Persist(key(1)), Do::Release(key(1))]);
    bench.pass(HEARTBEAT * 3);
    bench.quiet(Input::Tick);
    bench.step(from(1, 1, assign(&[key(3)])), &[Do::Close(1)]);
    bench.quiet(from(1, 2, welcome(1, 1)));
}

#[test]
fn hello_that_nobody_answers_closes_the_connection() {
    let mut bench = Bench::new(1);
    bench.take(Input::Connected(ConnectionId(1)));
    let at = bench.core.next_timer(bench.now).expect("a timer");
    bench.now = at - Duration::from_millis(1);
    bench.quiet(Input::Tick);
    bench.now = at;
    bench.step(Input::Tick, &[Do::Close(1)]);
    assert_eq!(bench.core.next_timer(bench.now), None);
}

#[test]
fn a_repeated_message_is_dropped() {
    let mut bench = Bench::in_session(2);
    bench.step(from(1, 2, assign(&[key(1)])), &[Do::Start(key(1))]);
    bench.quiet(from(1, 2, assign(&[key(2)])));
    bench.quiet(from(1, 1, welcome(1, 2)));
    bench.step(from(1, 3, assign(&[key(2)])), &[Do::Start(key(2))]);
}

#[test]
fn a_gap_closes_the_connection_and_nothing_more_is_heard_on_it() {
    let mut bench = Bench::in_session(2);
    bench.step(from(1, 3, assign(&[key(1)])), &[Do::Close(1)]);
    bench.quiet(from(1, 2, assign(&[key(1)])));
    bench.quiet(Input::Disconnected(ConnectionId(1)));
}

#[test]
fn a_first_message_with_a_later_number_closes_the_connection() {
    let mut bench = Bench::new(2);
    bench.take(Input::Connected(ConnectionId(1)));
    bench.step(from(1, 2, welcome(1, 1)), &[Do::Close(1)]);
}

#[test]
fn a_second_welcome_closes_the_connection() {
    let mut bench = Bench::in_session(2);
    bench.step(from(1, 2, welcome(1, 2)), &[Do::Close(1)]);
}

#[test]
fn only_the_newest_connection_counts() {
    let mut bench = Bench::in_session(2);
    bench.step(Input::Connected(ConnectionId(2)), &[Do::Send(2, 1, hello(&[], &[], 1)), Do::Close(1)]);
    bench.quiet(from(1, 2, assign(&[key(1)])));
    bench.quiet(Input::Disconnected(ConnectionId(1)));
    bench.step(from(2, 1, welcome(1, 2)), &[Do::Send(2, 2, credits(2))]);
    bench.step(Input::Connected(ConnectionId(1)), &[Do::Close(1)]);
    bench.step(from(2, 2, assign(&[key(1)])), &[Do::Start(key(1))]);
}

#[test]
fn an_older_coordinator_is_refused() {
    let mut bench = Bench::new(1);
    bench.take(Input::Connected(ConnectionId(1)));
    bench.take(from(1, 1, welcome(5, 1)));
    bench.take(Input::Disconnected(ConnectionId(1)));
    bench.step(Input::Connected(ConnectionId(2)), &[Do::Send(2, 1, hello(&[], &[], 5))]);
    bench.step(from(2, 1, welcome(4, 2)), &[Do::Close(2)]);
    bench.quiet(from(2, 2, assign(&[key(1)])));
    bench.step(Input::Connected(ConnectionId(3)), &[Do::Send(3, 1, hello(&[], &[], 5))]);
    bench.step(from(3, 1, welcome(6, 3)), &[Do::Send(3, 2, credits(1))]);
}

#[test]
fn a_session_epoch_that_does_not_rise_is_refused() {
    let mut bench = Bench::new(1);
    bench.take(Input::Connected(ConnectionId(1)));
    bench.take(from(1, 1, welcome(1, 8)));
    for (connection, epoch) in [(2, 7), (3, 8)] {
        bench.take(Input::Connected(ConnectionId(connection)));
        bench.step(from(connection, 1, welcome(1, epoch)), &[Do::Close(connection)]);
    }
}

#[test]
fn heartbeats_leave_at_the_interval_that_welcome_named() {
    let mut bench = Bench::in_session(1);
    bench.pass(HEARTBEAT - Duration::from_millis(1));
    bench.quiet(Input::Tick);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.core.next_timer(bench.now - Duration::from_millis(1)), Some(bench.now));
    bench.step(Input::Tick, &[Do::Send(1, 3, ToCoordinator::Heartbeat)]);
    bench.quiet(Input::Tick);
    bench.quiet(from(1, 2, FromCoordinator::Heartbeat));
    // The process was held up: one is enough to catch up.
    bench.pass(HEARTBEAT * 5 / 2);
    bench.step(Input::Tick, &[Do::Send(1, 4, ToCoordinator::Heartbeat)]);
    bench.quiet(Input::Tick);
}

#[test]
fn a_session_in_which_nothing_is_heard_is_closed() {
    let mut bench = Bench::in_session(1);
    for seq in 3..5 {
        bench.pass(HEARTBEAT);
        bench.step(Input::Tick, &[Do::Send(1, seq, ToCoordinator::Heartbeat)]);
    }
    // Anything that is heard will do, also what was heard before.
    bench.quiet(from(1, 1, welcome(1, 1)));
    for seq in 5..7 {
        bench.pass(HEARTBEAT);
        bench.step(Input::Tick, &[Do::Send(1, seq, ToCoordinator::Heartbeat)]);
    }
    bench.pass(HEARTBEAT);
    bench.step(Input::Tick, &[Do::Close(1)]);
    assert_eq!(bench.core.next_timer(bench.now), None);
}

#[test]
fn a_runtime_that_is_not_ready_asks_for_nothing_and_says_why() {
    let mut bench = Bench::in_session(3);
    let down = || Input::Runtime { not_ready: "no Docker".into() };
    bench.step(down(), &[Do::Send(1, 3, no_credits("no Docker"))]);
    bench.quiet(down());
    bench.step(Input::Runtime { not_ready: String::new() }, &[Do::Send(1, 4, credits(3))]);
}

#[test]
fn what_waits_for_a_runtime_that_is_not_ready_is_handed_back() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1), key(2)])));
    bench.step(
        Input::Runtime { not_ready: "no Docker".into() },
        &[Do::Send(1, 3, no_credits("no Docker")), Do::Send(1, 4, ToCoordinator::Returned(vec![key(2)]))],
    );
    bench.step(from(1, 3, assign(&[key(3)])), &[Do::Send(1, 5, ToCoordinator::Returned(vec![key(3)]))]);
}

#[test]
fn a_runtime_that_was_never_ready_is_told_at_welcome() {
    let mut bench = Bench::new(1);
    bench.take(Input::Runtime { not_ready: "no Docker".into() });
    bench.take(Input::Connected(ConnectionId(1)));
    bench.step(from(1, 1, welcome(1, 1)), &[Do::Send(1, 2, no_credits("no Docker"))]);
}

#[test]
fn settled_and_cancel_of_strangers_change_nothing() {
    let mut bench = Bench::in_session(1);
    bench.quiet(from(1, 2, FromCoordinator::Settled(vec![key(1)])));
    bench.quiet(from(1, 3, FromCoordinator::Cancel(vec![key(1)])));
    bench.quiet(Input::Uploaded(key(1)));
    bench.quiet(Input::Ended(vec![exited(1)]));
}
