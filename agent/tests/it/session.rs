//! Sessions: Hello, reports, reconnecting, stopping.

use crate::bench::{Bench, check, key, specs, until};
use piecework_agent::{domain::Outcome, runtime::Runtime as _};
use piecework_proto::v1::agent_message::Message;
use std::time::Duration;

#[tokio::test]
async fn an_attempt_runs_is_reported_and_settled() {
    let mut bench = Bench::new();
    let (agent, mut session) = bench.in_session().await;
    assert_eq!((session.hello.name.as_str(), session.hello.slots), ("here", 4));
    assert_eq!(session.hello.runtime, "scripted");
    assert_eq!(session.hello.identity.len(), 32);
    session.assign(specs(), &[(key(1), &["scripted", "print=hello", "err=oh", "exit=3"])]).await;
    check(&session.report().await, key(1), &Outcome::Exited(3), b"hello\n", b"oh\n");
    session.settle(&[key(1)]).await;
    bench.no_workers_held().await;
    drop(session);
    let session = bench.coordinator.session().await;
    assert_eq!((session.live(), session.unrecorded()), (vec![], vec![]));
    agent.shutdown().await;
    let (_agent, session) = (bench.agent().await, bench.coordinator.session().await);
    assert_eq!((session.live(), session.unrecorded()), (vec![], vec![]));
}

#[tokio::test]
async fn a_report_that_was_not_settled_is_sent_again() {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(key(1), &["scripted", "print=one"])]).await;
    check(&session.report().await, key(1), &Outcome::Exited(0), b"one\n", b"");
    drop(session);
    let mut session = bench.coordinator.session().await;
    assert_eq!((session.live(), session.unrecorded()), (vec![], vec![key(1)]));
    session.welcome(2, &[]).await;
    session.credits().await;
    check(&session.report().await, key(1), &Outcome::Exited(0), b"one\n", b"");
    session.settle(&[key(1)]).await;
    session.assign(specs(), &[(key(2), &["scripted"])]).await;
    check(&session.report().await, key(2), &Outcome::Exited(0), b"", b"");
}

#[tokio::test]
async fn attempts_outlive_their_session_and_the_coordinator() {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    let slow: &[&str] = &["scripted", "print=a", "sleep=400ms", "print=b"];
    session.assign(specs(), &[(key(1), slow), (key(2), &["scripted", "hang"])]).await;
    bench.workers_held(2).await;
    bench.coordinator.stop().await;
    drop(session);
    // One has ended, and its ending is in the outbox.
    bench.workers_held(1).await;
    bench.coordinator.restart();
    let mut session = bench.coordinator.session().await;
    assert_eq!((session.live(), session.unrecorded()), (vec![key(2)], vec![key(1)]));
    session.welcome(2, &[]).await;
    session.credits().await;
    check(&session.report().await, key(1), &Outcome::Exited(0), b"a\nb\n", b"");
}

#[tokio::test]
async fn what_welcome_discards_goes_without_a_report() {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(key(1), &["scripted", "hang"]), (key(2), &["scripted"])]).await;
    check(&session.report().await, key(2), &Outcome::Exited(0), b"", b"");
    drop(session);
    let mut session = bench.coordinator.session().await;
    session.welcome(2, &[key(1), key(2)]).await;
    session.credits().await;
    bench.no_workers_held().await;
    session.assign(specs(), &[(key(3), &["scripted", "print=next"])]).await;
    check(&session.report().await, key(3), &Outcome::Exited(0), b"next\n", b"");
}

#[tokio::test]
async fn a_refused_coordinator_is_left_and_dialled_again() {
    let mut bench = Bench::new();
    let (_agent, session) = bench.in_session().await;
    drop(session);
    let mut stale = bench.coordinator.session().await;
    stale.welcome(1, &[]).await;
    let mut session = bench.coordinator.welcomed(2).await;
    session.assign(specs(), &[(key(1), &["scripted"])]).await;
    check(&session.report().await, key(1), &Outcome::Exited(0), b"", b"");
}

#[tokio::test]
async fn nonsense_from_the_coordinator_ends_the_session_and_no_more() {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(key(1), &["scripted", "hang"])]).await;
    session.assign(vec![], &[(key(2), &[])]).await;
    let session = bench.coordinator.session().await;
    assert_eq!(session.live(), [key(1)]);
}

#[tokio::test]
async fn a_runtime_that_is_not_ready_is_told() {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    bench.runtime.set_not_ready(Some("the engine is down"));
    assert_eq!(session.credits().await, (0, "the engine is down".into()));
    session.assign(specs(), &[(key(1), &["scripted"])]).await;
    assert_eq!(session.returned().await, [key(1)]);
    bench.runtime.set_not_ready(None);
    assert_eq!(session.credits().await, (4, String::new()));
}

#[tokio::test]
async fn a_stop_hands_back_what_runs_and_keeps_what_ended() {
    let mut bench = Bench::new();
    let (agent, mut session) = bench.in_session().await;
    let hang: &[&str] = &["scripted", "hang"];
    session.assign(specs(), &[(key(1), hang), (key(2), &["scripted", "print=two"])]).await;
    check(&session.report().await, key(2), &Outcome::Exited(0), b"two\n", b"");
    let stop = tokio::spawn(agent.shutdown());
    assert_eq!(session.credits().await, (0, "stopping".into()));
    assert_eq!(session.returned().await, [key(1)]);
    // Who goes will not record it.
    drop(session);
    stop.await.expect("stops");
    assert_eq!(bench.runtime.workers().await.expect("lists"), []);
    let _agent = bench.agent().await;
    let session = bench.coordinator.session().await;
    assert_eq!((session.live(), session.unrecorded()), (vec![], vec![key(2)]));
}

#[tokio::test]
async fn a_drain_lets_end_what_runs() {
    let mut bench = Bench::new();
    let (agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(key(1), &["scripted", "print=before", "sleep=500ms", "print=after"])]).await;
    let coordinator = &bench.coordinator;
    until("it runs", || async { coordinator.bulk().outputs.contains_key(&(key(1), 1)) }).await;
    let stop = tokio::spawn(async move {
        agent.drain(Duration::from_secs(60)).await;
        agent.shutdown().await;
    });
    assert_eq!(session.credits().await, (0, "stopping".into()));
    check(&session.report().await, key(1), &Outcome::Exited(0), b"before\nafter\n", b"");
    session.settle(&[key(1)]).await;
    session.ended().await;
    stop.await.expect("stops");
    assert_eq!(bench.runtime.workers().await.expect("lists"), []);
}

#[tokio::test]
async fn heartbeats_come_and_silence_ends_the_session() {
    let mut bench = Bench::new();
    let _agent = bench.agent().await;
    let mut session = bench.coordinator.session().await;
    session.welcome_with_heartbeats(1, 500).await;
    session.credits().await;
    assert!(matches!(session.next().await, Message::Heartbeat(_)));
    // Nothing was answered.
    bench.coordinator.session().await;
}
