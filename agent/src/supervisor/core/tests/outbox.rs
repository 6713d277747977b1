//! Endings: kept, uploaded, reported, settled; and an outbox that can't be written.

use super::bench::*;
use crate::{
    domain::{Outcome, Report},
    supervisor::{ConnectionId, FromCoordinator, Input, ToCoordinator},
};
use std::time::Duration;

#[test]
fn an_ending_stays_until_it_is_settled() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.step(Input::Ended(vec![exited(1)]), &[Do::Send(1, 3, ToCoordinator::Reports(vec![exited(1)]))]);
    bench.step(Input::Disconnected(ConnectionId(1)), &[Do::Persist(key(1)), Do::Release(key(1))]);
    bench.step(Input::Connected(ConnectionId(2)), &[Do::Send(2, 1, hello(&[], &[key(1)], 1))]);
    bench.step(
        from(2, 1, welcome(1, 2)),
        &[Do::Send(2, 2, credits(1)), Do::Send(2, 3, ToCoordinator::Reports(vec![exited(1)]))],
    );
    bench.step(from(2, 2, FromCoordinator::Settled(vec![key(1)])), &[Do::Forget(key(1))]);
    bench.quiet(Input::Disconnected(ConnectionId(2)));
    bench.step(Input::Connected(ConnectionId(3)), &[Do::Send(3, 1, hello(&[], &[], 1))]);
}

#[test]
fn attempts_go_on_without_a_session_and_their_endings_wait() {
    let mut bench = Bench::in_session(2);
    bench.take(from(1, 2, assign(&[key(1), key(2), key(3)])));
    bench.quiet(Input::Disconnected(ConnectionId(1)));
    bench.step(Input::Ended(vec![exited(2)]), &[Do::Persist(key(2)), Do::Release(key(2)), Do::Start(key(3))]);
    bench.step(Input::Connected(ConnectionId(2)), &[Do::Send(2, 1, hello(&[key(1), key(3)], &[key(2)], 1))]);
    bench.step(
        from(2, 1, welcome(1, 2)),
        &[Do::Send(2, 2, credits(2)), Do::Send(2, 3, ToCoordinator::Reports(vec![exited(2)]))],
    );
}

#[test]
fn a_second_ending_of_an_attempt_is_ignored() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(Input::Ended(vec![exited(1)]));
    bench.quiet(Input::Ended(vec![exited(1)]));
    bench.take(from(1, 3, FromCoordinator::Settled(vec![key(1)])));
    bench.quiet(Input::Ended(vec![exited(1)]));
}

#[test]
fn spooled_output_is_uploaded_before_its_report_is_sent() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.step(
        Input::Ended(vec![spooled(1, 100_000)]),
        &[Do::Persist(key(1)), Do::Release(key(1)), Do::Upload(key(1))],
    );
    bench.step(Input::Uploaded(key(1)), &[Do::Send(1, 3, ToCoordinator::Reports(vec![spooled(1, 100_000)]))]);
    bench.quiet(Input::Uploaded(key(1)));
}

#[test]
fn an_ending_whose_output_is_lost_becomes_a_lost_worker() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(Input::Ended(vec![spooled(1, 100_000)]));
    let failed = || Input::UploadFailed { attempt: key(1), why: "it is gone".into() };
    let outcome = Outcome::WorkerLost("its output can't be read: it is gone".into());
    let lost = Report { outcome, ..cancelled(key(1)) };
    bench.step(failed(), &[Do::Persist(key(1)), Do::Send(1, 3, ToCoordinator::Reports(vec![lost]))]);
    bench.quiet(failed());
    bench.quiet(Input::Uploaded(key(1)));
}

#[test]
fn uploads_wait_for_welcome_and_are_asked_for_in_each_session() {
    let mut bench = Bench::with(1, vec![key(1)], vec![spooled(2, 100_000)]);
    bench.step(Input::Ended(vec![spooled(1, 50_000)]), &[Do::Persist(key(1)), Do::Release(key(1))]);
    bench.take(Input::Connected(ConnectionId(1)));
    bench.step(
        from(1, 1, welcome(1, 1)),
        &[Do::Upload(key(2)), Do::Upload(key(1)), Do::Send(1, 2, credits(1))],
    );
    bench.take(Input::Uploaded(key(2)));
    bench.take(Input::Connected(ConnectionId(2)));
    bench.step(
        from(2, 1, welcome(1, 2)),
        &[
            Do::Upload(key(1)),
            Do::Send(2, 2, credits(1)),
            Do::Send(2, 3, ToCoordinator::Reports(vec![spooled(2, 100_000)])),
        ],
    );
}

#[test]
fn what_is_uploaded_without_a_session_is_reported_in_the_next() {
    let mut bench = Bench::with(1, vec![], vec![spooled(2, 100_000)]);
    bench.quiet(Input::Uploaded(key(2)));
    bench.take(Input::Connected(ConnectionId(1)));
    bench.step(
        from(1, 1, welcome(1, 1)),
        &[Do::Send(1, 2, credits(1)), Do::Send(1, 3, ToCoordinator::Reports(vec![spooled(2, 100_000)]))],
    );
}

#[test]
fn an_ending_that_is_settled_soon_is_only_released() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(Input::Ended(vec![exited(1)]));
    bench.step(from(1, 3, FromCoordinator::Settled(vec![key(1)])), &[Do::Release(key(1))]);
    bench.pass(Duration::from_secs(1));
    bench.quiet(Input::Tick);
}

#[test]
fn an_ending_that_is_not_settled_soon_is_persisted() {
    let mut bench = Bench::in_session(1);
    bench.take(from(1, 2, assign(&[key(1)])));
    bench.take(Input::Ended(vec![exited(1)]));
    let wait = bench.core.next_timer(bench.now).expect("a timer") - bench.now;
    assert_eq!(wait, Duration::from_millis(100));
    bench.pass(wait);
    bench.step(Input::Tick, &[Do::Persist(key(1)), Do::Release(key(1))]);
    bench.step(from(1, 3, FromCoordinator::Settled(vec![key(1)])), &[Do::Forget(key(1))]);
}

#[test]
fn what_no_init_may_be_keeping_is_persisted_at_once() {
    let lost = |index, outcome| report(key(index), outcome);
    let outcomes = [
        Outcome::OutOfMemory,
        Outcome::CouldNotStart("no".into()),
        Outcome::ImageUnavailable("no".into()),
        Outcome::WorkerLost("gone".into()),
        Outcome::EngineLost("gone".into()),
    ];
    for (index, outcome) in (1..).zip(outcomes) {
        let mut bench = Bench::in_session(1);
        bench.take(from(1, 2, assign(&[key(index)])));
        let reports = ToCoordinator::Reports(vec![lost(index, outcome.clone())]);
        bench.step(
            Input::Ended(vec![lost(index, outcome)]),
            &[Do::Persist(key(index)), Do::Release(key(index)), Do::Send(1, 3, reports)],
        );
    }
}

#[test]
fn the_ending_of_an_adopted_attempt_is_persisted_at_once() {
    let mut bench = Bench::with(1, vec![key(1)], vec![]);
    bench.take(Input::Connected(ConnectionId(1)));
    bench.take(from(1, 1, welcome(1, 1)));
    let reports = ToCoordinator::Reports(vec![exited(1)]);
    bench.step(
        Input::Ended(vec![exited(1)]),
        &[Do::Persist(key(1)), Do::Release(key(1)), Do::Send(1, 3, reports)],
    );
}

#[test]
fn endings_are_released_in_the_order_of_ending() {
    let mut bench = Bench::in_session(3);
    bench.take(from(1, 2, assign(&[key(1), key(2), key(3)])));
    bench.take(Input::Ended(vec![exited(2), exited(1), exited(3)]));
    bench.quiet(from(1, 3, FromCoordinator::Settled(vec![key(1)])));
    let settled = from(1, 4, FromCoordinator::Settled(vec![key(2)]));
    bench.step(settled, &[Do::Release(key(2)), Do::Release(key(1))]);
}

#[test]
fn what_must_be_persisted_takes_along_what_waits() {
    let mut bench = Bench::in_session(3);
    bench.take(from(1, 2, assign(&[key(1), key(2), key(3)])));
    bench.take(Input::Ended(vec![exited(2), exited(1)]));
    bench.quiet(from(1, 3, FromCoordinator::Settled(vec![key(1)])));
    let lost = report(key(3), Outcome::WorkerLost("gone".into()));
    bench.step(
        Input::Ended(vec![lost.clone()]),
        &[
            Do::Persist(key(2)),
            Do::Persist(key(3)),
            Do::Release(key(2)),
            Do::Release(key(1)),
            Do::Release(key(3)),
            Do::Send(1, 4, ToCoordinator::Reports(vec![lost])),
        ],
    );
}

#[test]
fn no_more_endings_wait_than_may() {
    let mut bench = Bench::in_session(2000);
    let keys: Vec<_> = (0..1025).map(key).collect();
    bench.take(from(1, 2, assign(&keys)));
    bench.take(Input::Ended((0..1024).map(exited).collect()));
    let done = bench.take(Input::Ended(vec![exited(1024)]));
    assert_eq!(done.iter().filter(|done| matches!(done, Do::Persist(_))).count(), 1025);
}

#[test]
fn while_the_outbox_fails_the_session_says_so_and_reports_nothing() {
    let mut bench = Bench::in_session(2);
    bench.take(from(1, 2, assign(&[key(1), key(2), key(3)])));
    bench.take(Input::Ended(vec![exited(1)]));
    // What was to leave after that commit did not: its number is lost, so the session is, too.
    bench.step(
        Input::OutboxFailed { why: "disk full".into() },
        &[Do::Persist(key(1)), Do::Release(key(1)), Do::Close(1)],
    );
    bench.take(Input::Connected(ConnectionId(2)));
    bench.step(from(2, 1, welcome(1, 2)), &[Do::Send(2, 2, no_credits("disk full"))]);
    bench.step(Input::Ended(vec![exited(2)]), &[Do::Persist(key(2)), Do::Release(key(2))]);
    bench.pass(HEARTBEAT);
    bench.step(Input::Tick, &[Do::Send(2, 3, ToCoordinator::Heartbeat)]);
    bench.step(from(2, 2, assign(&[key(4)])), &[Do::Send(2, 4, ToCoordinator::Returned(vec![key(4)]))]);
    bench.step(
        Input::OutboxWorks,
        &[Do::Send(2, 5, credits(2)), Do::Send(2, 6, ToCoordinator::Reports(vec![exited(1), exited(2)]))],
    );
}
