//! Stopping: nothing starts, what runs is killed and handed back, what ended stays.

use super::bench::*;
use crate::{
    domain::Outcome,
    supervisor::{ConnectionId, FromCoordinator, Input, Stop, ToCoordinator},
};
use std::time::Duration;

const GRACE: Input = Input::Stop(Stop::Drain(Duration::from_secs(60)));

const LEAVE: Input = Input::Stop(Stop::Leave);

fn settled(index: u32) -> FromCoordinator {
    FromCoordinator::Settled(vec![key(index)])
}

#[test]
fn a_stop_kills_and_hands_back() {
    let mut bench = Bench::in_session(2);
    bench.take(from(1, 2, assign(&[key(1), key(2), key(3)])));
    bench.step(
        STOP,
        &[
            Do::TakeBack,
            Do::Kill(key(1)),
            Do::Kill(key(2)),
            Do::Send(1, 3, no_credits("stopping")),
            Do::Send(1, 4, ToCoordinator::Returned(vec![key(3)])),
        ],
    );
    bench.quiet(STOP);
    bench.step(
        Input::Ended(vec![report(key(1), Outcome::Cancelled)]),
        &[Do::Forget(key(1)), Do::Release(key(1)), Do::Send(1, 5, ToCoordinator::Returned(vec![key(1)]))],
    );
    // It ended by itself just before the kill: that is a result.
    bench.step(
        Input::Ended(vec![exited(2)]),
        &[Do::Persist(key(2)), Do::Release(key(2)), Do::Send(1, 6, ToCoordinator::Reports(vec![exited(2)]))],
    );
    bench.step(from(1, 3, settled(2)), &[Do::Forget(key(2)), Do::Stopped]);
}

#[test]
fn nothing_starts_after_a_stop() {
    let mut bench = Bench::in_session(2);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(STOP);
    bench.step(from(1, 3, assign(&[key(2)])), &[Do::Send(1, 4, ToCoordinator::Returned(vec![key(2)]))]);
}

#[test]
fn what_would_start_in_the_batch_of_the_stop_is_handed_back() {
    let mut bench = Bench::in_session(1);
    let done = bench.take_all([from(1, 2, assign(&[key(1), key(2)])), STOP]);
    assert_eq!(
        done,
        [
            Do::TakeBack,
            Do::Send(1, 3, no_credits("stopping")),
            Do::Send(1, 4, ToCoordinator::Returned(vec![key(1), key(2)])),
            Do::Stopped,
        ]
    );
}

#[test]
fn an_idle_agent_stops_at_once() {
    Bench::in_session(1).step(STOP, &[Do::TakeBack, Do::Send(1, 3, no_credits("stopping")), Do::Stopped]);
    Bench::new(1).step(STOP, &[Do::TakeBack, Do::Stopped]);
}

#[test]
fn what_was_cancelled_before_the_stop_is_reported() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(from(1, 3, FromCoordinator::Cancel(vec![key(1)])));
    bench.step(STOP, &[Do::TakeBack, Do::Send(1, 3, no_credits("stopping"))]);
    let killed = report(key(1), Outcome::Cancelled);
    bench.step(
        Input::Ended(vec![killed.clone()]),
        &[Do::Persist(key(1)), Do::Release(key(1)), Do::Send(1, 4, ToCoordinator::Reports(vec![killed]))],
    );
    bench.step(from(1, 4, settled(1)), &[Do::Forget(key(1)), Do::Stopped]);
}

#[test]
fn without_a_coordinator_a_stop_waits_a_little_for_one() {
    let mut bench = Bench::with(1, vec![key(1)], vec![]);
    bench.step(STOP, &[Do::TakeBack, Do::Kill(key(1))]);
    bench.step(
        Input::Ended(vec![report(key(1), Outcome::Cancelled)]),
        &[Do::Forget(key(1)), Do::Release(key(1))],
    );
    bench.now = bench.core.next_timer(bench.now).expect("a timer");
    bench.step(Input::Tick, &[Do::Stopped]);
}

#[test]
fn a_coordinator_that_comes_back_during_a_stop_is_told() {
    let mut bench = Bench::with(1, vec![key(1)], vec![exited(2)]);
    bench.take(STOP);
    bench.take(Input::Ended(vec![report(key(1), Outcome::Cancelled)]));
    bench.step(Input::Connected(ConnectionId(1)), &[Do::Send(1, 1, hello(&[key(1)], &[key(2)], 0))]);
    bench.step(
        from(1, 1, welcome(1, 1)),
        &[
            Do::Send(1, 2, no_credits("stopping")),
            Do::Send(1, 3, ToCoordinator::Reports(vec![exited(2)])),
            Do::Send(1, 4, ToCoordinator::Returned(vec![key(1)])),
        ],
    );
    bench.step(from(1, 2, settled(2)), &[Do::Forget(key(2)), Do::Stopped]);
}

#[test]
fn a_stop_does_not_wait_for_ever_for_what_does_not_end() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(STOP);
    bench.pass(Duration::from_secs(19));
    let done = bench.take(Input::Tick);
    assert!(!done.contains(&Do::Stopped), "{done:?}");
    bench.pass(Duration::from_secs(1));
    let done = bench.take(Input::Tick);
    assert!(done.contains(&Do::Stopped), "{done:?}");
}

#[test]
fn a_drain_lets_end_what_runs_and_hands_back_the_rest() {
    let mut bench = Bench::in_session(2);
    bench.take(from(1, 2, assign(&[key(1), key(2), key(3)])));
    bench.step(
        GRACE,
        &[
            Do::TakeBack,
            Do::Send(1, 3, no_credits("stopping")),
            Do::Send(1, 4, ToCoordinator::Returned(vec![key(3)])),
        ],
    );
    bench.pass(Duration::from_secs(1));
    let done = bench.take(Input::Ended(vec![exited(1)]));
    assert!(done.contains(&Do::Persist(key(1))) && !done.contains(&Do::Stopped), "{done:?}");
    let done = bench.take(Input::Ended(vec![exited(2)]));
    assert!(done.contains(&Do::Persist(key(2))) && !done.contains(&Do::Stopped), "{done:?}");
    bench.step(from(1, 3, settled(1)), &[Do::Forget(key(1))]);
    bench.step(from(1, 4, settled(2)), &[Do::Forget(key(2)), Do::Stopped]);
}

#[test]
fn a_drain_waits_until_what_was_long_is_uploaded_and_recorded() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(GRACE);
    bench.pass(Duration::from_secs(10));
    let done = bench.take(Input::Ended(vec![spooled(1, 100_000_000)]));
    assert!(done.contains(&Do::Upload(key(1))) && !done.contains(&Do::Stopped), "{done:?}");
    bench.pass(Duration::from_secs(45));
    let stopped = |done: Vec<Do>| done.contains(&Do::Stopped);
    assert!(!stopped(bench.take(Input::Uploaded(key(1)))), "it is reported, and not recorded");
    assert!(stopped(bench.take(from(1, 3, settled(1)))));
}

#[test]
fn a_drain_does_not_wait_for_records_beyond_its_grace() {
    for (grace, waits) in [(60, 60), (3, 20), (0, 20)] {
        let mut bench = Bench::with(1, vec![], vec![spooled(1, 100_000)]);
        bench.take(Input::Connected(ConnectionId(1)));
        bench.take(from(1, 1, welcome(1, 1)));
        bench.take(Input::Stop(Stop::Drain(Duration::from_secs(grace))));
        let wait = Duration::from_secs(waits);
        let (mut now, until) = (bench.now, bench.now + wait);
        while now < until {
            // What is heard meanwhile keeps the session.
            now = bench.core.next_timer(now).expect("a timer").min(until);
            bench.now = now;
            let done = bench.take_all([from(1, 1, FromCoordinator::Heartbeat), Input::Tick]);
            assert_eq!(done.contains(&Do::Stopped), now == until, "{done:?} with {grace} s of grace");
        }
    }
}

#[test]
fn within_its_grace_a_drain_waits_for_a_coordinator() {
    let mut bench = Bench::with(1, vec![key(1)], vec![]);
    bench.take(GRACE);
    bench.step(Input::Ended(vec![exited(1)]), &[Do::Persist(key(1)), Do::Release(key(1))]);
    bench.pass(Duration::from_secs(30));
    bench.quiet(Input::Tick);
    bench.step(Input::Connected(ConnectionId(1)), &[Do::Send(1, 1, hello(&[], &[key(1)], 0))]);
    let reports = ToCoordinator::Reports(vec![exited(1)]);
    bench.step(from(1, 1, welcome(1, 1)), &[Do::Send(1, 2, no_credits("stopping")), Do::Send(1, 3, reports)]);
    bench.step(from(1, 2, settled(1)), &[Do::Forget(key(1)), Do::Stopped]);

    let mut bench = Bench::with(1, vec![], vec![exited(1)]);
    bench.take(GRACE);
    bench.quiet(STOP);
    bench.pass(Duration::from_secs(2));
    bench.step(Input::Tick, &[Do::Stopped]);
}

#[test]
fn what_has_not_begun_during_a_drain_is_handed_back() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(GRACE);
    let FromCoordinator::Assign(stuck) = assign(&[key(1)]) else { unreachable!("it assigns") };
    let done = bench.take(Input::NotBegun(stuck));
    assert!(done.contains(&Do::Send(1, 4, ToCoordinator::Returned(vec![key(1)]))), "{done:?}");
    assert!(done.contains(&Do::Stopped), "{done:?}");
}

#[test]
fn a_drain_ends_with_its_grace_or_when_it_is_hurried() {
    for hurries in [false, true] {
        let mut bench = Bench::in_session(1);
        bench.take(from(1, 2, assign(&[key(1)])));
        let done = bench.take(Input::Stop(Stop::Drain(Duration::from_secs(3))));
        assert!(!done.contains(&Do::Kill(key(1))), "{done:?}");
        let done = if hurries {
            bench.take(STOP)
        } else {
            assert_eq!(
                bench.core.next_timer(bench.now + HEARTBEAT),
                Some(bench.now + Duration::from_secs(3))
            );
            bench.pass(Duration::from_secs(3));
            bench.take(Input::Tick)
        };
        assert!(done.contains(&Do::Kill(key(1))), "{done:?}");
        let done = bench.take(Input::Ended(vec![report(key(1), Outcome::Cancelled)]));
        assert!(done.contains(&Do::Stopped), "{done:?}");
    }
}

#[test]
fn leaving_keeps_what_runs_and_what_ended() {
    let mut bench = Bench::in_session(2);
    bench.take(from(1, 2, assign(&[key(1), key(2), key(3)])));
    bench.take(Input::Ended(vec![exited(1)]));
    bench.step(
        LEAVE,
        &[
            // Nobody else would know of it: init is asked no more.
            Do::Persist(key(1)),
            Do::Release(key(1)),
            Do::TakeBack,
            Do::Send(1, 4, no_credits("stopping")),
        ],
    );
    bench.step(Input::TakenBack, &[Do::Stopped]);
}

#[test]
fn leaving_hands_back_what_waits_and_what_has_not_begun() {
    let mut bench = Bench::in_session(2);
    bench.take(from(1, 2, assign(&[key(1), key(2), key(3)])));
    bench.step(
        LEAVE,
        &[
            Do::TakeBack,
            Do::Send(1, 3, no_credits("stopping")),
            Do::Send(1, 4, ToCoordinator::Returned(vec![key(3)])),
        ],
    );
    let FromCoordinator::Assign(not_begun) = assign(&[key(2)]) else { unreachable!("it assigns") };
    bench.step(Input::NotBegun(not_begun), &[Do::Send(1, 5, ToCoordinator::Returned(vec![key(2)]))]);
    bench.step(Input::TakenBack, &[Do::Stopped]);
}

#[test]
fn who_leaves_waits_only_a_little_for_what_does_not_come_back() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(LEAVE);
    bench.quiet(LEAVE);
    bench.pass(Duration::from_millis(999));
    bench.quiet(Input::Tick);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.core.next_timer(bench.now - Duration::from_millis(1)), Some(bench.now));
    bench.step(Input::Tick, &[Do::Stopped]);
}

#[test]
fn who_leaves_nothing_behind_waits_for_nothing() {
    Bench::in_session(1).step(LEAVE, &[Do::TakeBack, Do::Send(1, 3, no_credits("stopping")), Do::Stopped]);
}
