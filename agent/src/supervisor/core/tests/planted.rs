//! Each bug that can be planted changes what the core does, in a step that shows it.

use super::bench::*;
use crate::supervisor::{
    ConnectionId, Core, CoreConfig, FromCoordinator, Input, Planted, PlantedBug, ToCoordinator,
};

/// A core with this bug, live attempt 1, unrecorded 2, and a session of coordinator epoch 5 on connection 1.
fn with(bug: PlantedBug) -> (Bench, Vec<Do>) {
    let config = CoreConfig { planted: Planted::one(bug), ..CoreConfig::new(2) };
    let mut bench = Bench::new(2);
    bench.core = Core::new(config, vec![key(1)], vec![exited(2)]);
    let mut done = bench.take(Input::Connected(ConnectionId(1)));
    done.extend(bench.take(from(1, 1, welcome(5, 1))));
    (bench, done)
}

#[test]
fn hello_omits() {
    let (_, done) = with(PlantedBug::HelloOmitsLive);
    assert_eq!(done[0], Do::Send(1, 1, hello(&[], &[key(2)], 0)));
    let (_, done) = with(PlantedBug::HelloOmitsUnrecorded);
    assert_eq!(done[0], Do::Send(1, 1, hello(&[key(1)], &[], 0)));
}

#[test]
fn releases_before_it_persists() {
    let (mut bench, _) = with(PlantedBug::ReleaseBeforePersist);
    bench.step(from(1, 2, assign(&[key(3)])), &[Do::Start(key(3))]);
    bench.step(
        Input::Ended(vec![exited(3)]),
        &[Do::Release(key(3)), Do::Send(1, 4, ToCoordinator::Reports(vec![exited(3)]))],
    );
}

#[test]
fn forgets_too_early() {
    let (mut bench, _) = with(PlantedBug::ForgetAtDisconnect);
    bench.step(Input::Disconnected(ConnectionId(1)), &[Do::Forget(key(2))]);
    let (_, done) = with(PlantedBug::ForgetOnSend);
    assert!(done.contains(&Do::Forget(key(2))), "{done:?}");
}

#[test]
fn starts_twice() {
    let (mut bench, _) = with(PlantedBug::RepeatedAssignStartsTwice);
    bench.step(from(1, 2, assign(&[key(1)])), &[Do::Start(key(1))]);
}

#[test]
fn obeys_an_old_coordinator() {
    let (mut bench, _) = with(PlantedBug::OldCoordinatorEpochAccepted);
    bench.take(Input::Connected(ConnectionId(2)));
    bench.take(from(2, 1, welcome(4, 2)));
    bench.step(from(2, 2, assign(&[key(3)])), &[Do::Start(key(3))]);
}

#[test]
fn ignores_numbers() {
    let (mut bench, _) = with(PlantedBug::SeqGapIgnored);
    bench.step(from(1, 9, assign(&[key(3)])), &[Do::Start(key(3))]);
    let (mut bench, _) = with(PlantedBug::SeqDuplicateNotDropped);
    bench.take(from(1, 2, FromCoordinator::Settled(vec![])));
    bench.step(from(1, 2, assign(&[key(3)])), &[Do::Start(key(3))]);
}

#[test]
fn obeys_a_stale_connection() {
    let (mut bench, _) = with(PlantedBug::StaleConnectionAccepted);
    bench.take(Input::Connected(ConnectionId(2)));
    bench.step(from(1, 2, assign(&[key(3)])), &[Do::Start(key(3))]);
}

#[test]
fn recalls_too_much_or_too_little() {
    let recall = || FromCoordinator::Recall(vec![key(1), key(4)]);
    let (mut bench, _) = with(PlantedBug::RecallHandsBackRunning);
    bench.take(from(1, 2, assign(&[key(3), key(4)])));
    let done = bench.take(from(1, 3, recall()));
    let both = ToCoordinator::Returned(vec![key(1), key(4)]);
    assert!(matches!(&done[..], [Do::Send(1, _, message)] if *message == both), "{done:?}");
    let (mut bench, _) = with(PlantedBug::RecallKeepsQueued);
    bench.take(from(1, 2, assign(&[key(3), key(4)])));
    bench.take(from(1, 3, recall()));
    let done = bench.take(Input::Ended(vec![exited(1)]));
    assert!(done.contains(&Do::Start(key(4))), "{done:?}");
}

#[test]
fn forgets_what_never_began() {
    let (mut bench, _) = with(PlantedBug::NotBegunForgotten);
    bench.take(from(1, 2, assign(&[key(3)])));
    let FromCoordinator::Assign(assignments) = assign(&[key(3)]) else { panic!("no Assign") };
    bench.quiet(Input::NotBegun(assignments));
}
