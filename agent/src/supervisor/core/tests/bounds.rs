//! Messages, the outbox and what is held stay within their bounds.

use super::bench::*;
use crate::{
    domain::{Output, Report},
    supervisor::{
        ConnectionId, FromCoordinator, Input, OUTBOX_REPORTS_MAX, OUTBOX_SPOOLED_BYTES_MAX, ToCoordinator,
    },
};
use bytes::Bytes;

const FULL: &str = "too many results wait in the agent's outbox to be recorded";

fn batches(done: &[Do]) -> Vec<&Vec<Report>> {
    let batch = |done| match done {
        &Do::Send(_, _, ToCoordinator::Reports(ref reports)) => Some(reports),
        _ => None,
    };
    done.iter().filter_map(batch).collect()
}

#[test]
fn a_message_carries_a_bounded_number_of_reports() {
    let outbox: Vec<_> = (0..2000).map(exited).collect();
    let mut bench = Bench::with(1, vec![], outbox.clone());
    bench.take(Input::Connected(ConnectionId(1)));
    let done = bench.take(from(1, 1, welcome(1, 1)));
    let batches = batches(&done);
    assert!(batches.iter().all(|batch| batch.len() <= 512));
    assert_eq!(batches.into_iter().flatten().cloned().collect::<Vec<_>>(), outbox);
}

#[test]
fn a_message_carries_a_bounded_number_of_bytes() {
    let big = |index| Report { stdout: Output::Inline(Bytes::from(vec![b'x'; 32 * 1024])), ..exited(index) };
    let mut bench = Bench::with(1, vec![], (0..200).map(big).collect());
    bench.take(Input::Connected(ConnectionId(1)));
    let done = bench.take(from(1, 1, welcome(1, 1)));
    let batches = batches(&done);
    assert_eq!(batches.iter().map(|batch| batch.len()).sum::<usize>(), 200);
    assert!(batches.iter().all(|batch| batch.len() <= 32), "32 of 32 KiB are 1 MiB");
}

#[test]
fn endings_of_one_batch_of_inputs_leave_in_one_message() {
    let mut bench = Bench::in_session(8);
    bench.take(from(1, 2, assign(&[key(1), key(2), key(3)])));
    let done = bench.take_all([3, 1, 2].map(|index| Input::Ended(vec![exited(index)])));
    assert_eq!(batches(&done), [&vec![exited(3), exited(1), exited(2)]]);
}

#[test]
fn a_full_outbox_asks_for_nothing_until_it_has_drained() {
    let count = u32::try_from(OUTBOX_REPORTS_MAX).expect("fits") + 1;
    let mut bench = Bench::with(1, vec![], (0..count).map(exited).collect());
    bench.take(Input::Connected(ConnectionId(1)));
    let done = bench.take(from(1, 1, welcome(1, 1)));
    assert_eq!(done.first(), Some(&Do::Send(1, 2, no_credits(FULL))));
    let settled = |indexes: std::ops::Range<u32>| FromCoordinator::Settled(indexes.map(key).collect());
    let done = bench.take(from(1, 2, settled(0..count / 2)));
    assert!(done.iter().all(|done| matches!(done, Do::Forget(_))), "not drained yet");
    let done = bench.take(from(1, 3, settled(count / 2..count)));
    assert!(matches!(done.last(), Some(Do::Send(1, _, message)) if *message == credits(1)), "{done:?}");
}

#[test]
fn spooled_output_fills_the_outbox_too() {
    let mut bench = Bench::with(1, vec![], vec![spooled(1, OUTBOX_SPOOLED_BYTES_MAX), spooled(2, 1)]);
    bench.take(Input::Connected(ConnectionId(1)));
    let done = bench.take(from(1, 1, welcome(1, 1)));
    assert!(done.contains(&Do::Send(1, 2, no_credits(FULL))), "{done:?}");
    bench.step(
        from(1, 2, FromCoordinator::Settled(vec![key(1)])),
        &[Do::Forget(key(1)), Do::Send(1, 3, credits(1))],
    );
}

#[test]
fn more_attempts_than_can_be_held_are_handed_back() {
    let mut bench = Bench::in_session(1);
    let all: Vec<_> = (0..10_001).map(key).collect();
    let done = bench.take(from(1, 2, assign(&all)));
    assert_eq!(done, [Do::Start(key(0)), Do::Send(1, 3, ToCoordinator::Returned(vec![key(10_000)]))]);
}
