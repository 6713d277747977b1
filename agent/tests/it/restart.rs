//! The agent dies without a word, and another is started on its directory.

use crate::bench::{Bench, alphabet, check, key, reassemble, specs, until};
use piecework_agent::{
    Agent, StartError,
    domain::{Outcome, Output},
    runtime::Runtime as _,
};
use sha2::{Digest, Sha256};

/// The stdin of what reassembles is empty, but its end does not come before [`go_on`].
fn waits(bench: &Bench) {
    bench.coordinator.bulk().stdin.insert(reassemble(), vec![]);
    bench.coordinator.bulk().stdin_stalls = true;
}

fn go_on(bench: &Bench) {
    bench.coordinator.bulk().stdin_stalls = false;
}

#[tokio::test]
async fn its_attempts_are_adopted_and_its_results_kept() {
    let mut bench = Bench::new();
    waits(&bench);
    let (agent, mut session) = bench.in_session().await;
    let slow: &[&str] = &["scripted", "print=before", "cat", "print=after"];
    session.assign(specs(), &[(reassemble(), slow), (key(2), &["scripted", "print=two"])]).await;
    check(&session.report().await, key(2), &Outcome::Exited(0), b"two\n", b"");
    // Nobody settles it, so it goes into the outbox.
    bench.workers_held(1).await;
    drop(agent);
    let _agent = bench.agent().await;
    let mut session = bench.coordinator.session().await;
    assert_eq!((session.live(), session.unrecorded()), (vec![reassemble()], vec![key(2)]));
    session.welcome(2, &[]).await;
    session.credits().await;
    check(&session.report().await, key(2), &Outcome::Exited(0), b"two\n", b"");
    go_on(&bench);
    check(&session.report().await, reassemble(), &Outcome::Exited(0), b"before\nafter\n", b"");
    session.settle(&[reassemble(), key(2)]).await;
    bench.no_workers_held().await;
}

#[tokio::test]
async fn what_was_reported_and_neither_settled_nor_persisted_is_reported_again() {
    let mut bench = Bench::new();
    let (agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(key(1), &["scripted", "print=one", "exit=3"])]).await;
    check(&session.report().await, key(1), &Outcome::Exited(3), b"one\n", b"");
    drop((agent, session));
    let _agent = bench.agent().await;
    let mut session = bench.coordinator.session().await;
    // A slow machine may have persisted it after all.
    assert_eq!([session.live(), session.unrecorded()].concat(), [key(1)]);
    session.welcome(2, &[]).await;
    session.credits().await;
    check(&session.report().await, key(1), &Outcome::Exited(3), b"one\n", b"");
    session.settle(&[key(1)]).await;
    bench.no_workers_held().await;
}

#[tokio::test]
async fn an_engine_that_does_not_answer_yet_costs_no_worker() {
    let mut bench = Bench::new();
    waits(&bench);
    let (agent, mut session) = bench.in_session().await;
    let slow: &[&str] = &["scripted", "print=before", "cat", "print=after"];
    session.assign(specs(), &[(reassemble(), slow)]).await;
    let coordinator = &bench.coordinator;
    until("it runs", || async { coordinator.bulk().outputs.contains_key(&(reassemble(), 1)) }).await;
    drop((agent, session));
    bench.runtime.set_deaf(true);
    let _agent = bench.agent().await;
    let mut session = bench.coordinator.session().await;
    assert_eq!(session.live(), [reassemble()]);
    session.welcome(2, &[]).await;
    session.credits().await;
    bench.runtime.set_deaf(false);
    go_on(&bench);
    check(&session.report().await, reassemble(), &Outcome::Exited(0), b"before\nafter\n", b"");
}

#[tokio::test]
async fn a_used_worker_that_is_reached_late_costs_nothing() {
    let mut bench = Bench::new();
    let (agent, mut session) = bench.in_session().await;
    let quick: &[&str] = &["scripted", "print=quick"];
    let slow: &[&str] = &["scripted", "print=before", "sleep=2s", "print=after"];
    // Four workers, of which the first is then sent a quick one and, before that is released, a slow one.
    let first = [0, 1, 2, 3].map(|index| (key(index), quick));
    let second = [(key(4), quick), (key(5), slow)];
    for (assigned, count) in [(&first[..], 4), (&second, 1)] {
        session.assign(specs(), assigned).await;
        let mut ended = Vec::new();
        while ended.len() < count {
            ended.extend(session.reports().await.iter().map(|report| report.attempt));
        }
        session.settle(&ended).await;
    }
    let coordinator = &bench.coordinator;
    until("it runs", || async { coordinator.bulk().outputs.contains_key(&(key(5), 1)) }).await;
    drop((agent, session));
    bench.runtime.set_deaf(true);
    let _agent = bench.agent().await;
    let mut session = bench.coordinator.session().await;
    assert!(session.live().contains(&key(5)), "{:?}", session.live());
    session.welcome(2, &[]).await;
    session.credits().await;
    bench.runtime.set_deaf(false);
    let mut ended = Vec::new();
    // What was settled may be told of once more.
    while ended.is_empty() {
        let reports = session.reports().await;
        ended.extend(reports.into_iter().filter(|report| report.attempt == key(5)));
    }
    for report in ended {
        check(&report, report.attempt, &Outcome::Exited(0), b"before\nafter\n", b"");
    }
}

#[tokio::test]
async fn what_ended_while_no_agent_was_there_is_reported() {
    let mut bench = Bench::new();
    let (agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(key(1), &["scripted", "sleep=300ms", "print=alone", "exit=5"])]).await;
    bench.workers_held(1).await;
    drop((agent, session));
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let _agent = bench.agent().await;
    let mut session = bench.coordinator.session().await;
    let seen = (session.live(), session.unrecorded());
    assert!(seen == (vec![key(1)], vec![]) || seen == (vec![], vec![key(1)]), "{seen:?}");
    session.welcome(2, &[]).await;
    session.credits().await;
    check(&session.report().await, key(1), &Outcome::Exited(5), b"alone\n", b"");
}

#[tokio::test]
async fn long_output_goes_on_where_the_spool_ends() {
    let mut bench = Bench::new();
    waits(&bench);
    let (agent, mut session) = bench.in_session().await;
    // Far more than init keeps: what the first agent has spooled can't be had again.
    let script: &[&str] = &["scripted", "bytes=3000000", "cat", "bytes=3000000"];
    session.assign(specs(), &[(reassemble(), script)]).await;
    let spooled = bench.data().join("outbox/spool").join(format!("{}.out", reassemble()));
    until("the first half is spooled", || async {
        std::fs::metadata(&spooled).is_ok_and(|metadata| metadata.len() == 3_000_000)
    })
    .await;
    drop((agent, session));
    let _agent = bench.agent().await;
    let mut session = bench.coordinator.session().await;
    assert_eq!(session.live(), [reassemble()]);
    session.welcome(2, &[]).await;
    session.credits().await;
    go_on(&bench);
    let report = session.report().await;
    let expected = [alphabet(3_000_000), alphabet(3_000_000)].concat();
    assert_eq!(report.outcome, Outcome::Exited(0));
    assert_eq!(
        report.stdout,
        Output::Spooled { length: 6_000_000, sha256: Sha256::digest(&expected).into() }
    );
    assert!(bench.coordinator.bulk().outputs[&(reassemble(), 1)] == expected, "the bytes are the same");
}

#[tokio::test]
async fn stdin_goes_on_where_init_has_it() {
    let mut bench = Bench::new();
    let input = alphabet(3_000_000);
    bench.coordinator.bulk().stdin.insert(reassemble(), input.clone());
    // The first agent gets some of it, and then waits for the rest for ever.
    bench.coordinator.bulk().breaks = [vec![1_000_000], vec![0; 1000]].concat();
    let (agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(reassemble(), &["scripted", "cat"])]).await;
    let coordinator = &bench.coordinator;
    until("stdin breaks off", || async { coordinator.bulk().breaks.len() < 998 }).await;
    drop((agent, session));
    bench.coordinator.bulk().breaks.clear();
    let _agent = bench.agent().await;
    let mut session = bench.coordinator.session().await;
    assert_eq!(session.live(), [reassemble()]);
    session.welcome(2, &[]).await;
    session.credits().await;
    let report = session.report().await;
    assert_eq!(report.outcome, Outcome::Exited(0));
    assert!(bench.coordinator.bulk().outputs[&(reassemble(), 1)] == input, "the bytes are the same");
}

#[tokio::test]
async fn an_upload_that_was_under_way_goes_on() {
    let mut bench = Bench::new();
    bench.coordinator.bulk().breaks = [vec![1_000_000], vec![0; 1000]].concat();
    let (agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(key(1), &["scripted", "bytes=4000000"])]).await;
    let coordinator = &bench.coordinator;
    until("the upload breaks", || async { coordinator.bulk().breaks.len() < 998 }).await;
    bench.no_workers_held().await;
    drop((agent, session));
    bench.coordinator.bulk().breaks.clear();
    let _agent = bench.agent().await;
    let mut session = bench.coordinator.session().await;
    assert_eq!((session.live(), session.unrecorded()), (vec![], vec![key(1)]));
    session.welcome(2, &[]).await;
    session.credits().await;
    assert_eq!(session.report().await.outcome, Outcome::Exited(0));
    assert!(bench.coordinator.bulk().outputs[&(key(1), 1)] == alphabet(4_000_000), "the bytes are the same");
}

#[tokio::test]
async fn one_agent_at_a_time() {
    let bench = Bench::new();
    let _agent = bench.agent().await;
    let runtime = std::sync::Arc::new(bench.runtime.clone());
    let second = Agent::start_with(bench.config(piecework_agent::RuntimeChoice::Scripted), runtime).await;
    assert!(matches!(second, Err(StartError::Locked(path)) if path == bench.data()));
}

#[tokio::test]
async fn an_agent_that_leaves_hands_back_what_waits_and_its_next_start_goes_on_with_the_rest() {
    let mut bench = Bench::new();
    waits(&bench);
    let (agent, mut session) = bench.in_session().await;
    let slow: &[&str] = &["scripted", "print=before", "cat", "print=after"];
    session.assign(specs(), &[(key(1), &["scripted", "print=one"])]).await;
    let ended = session.report().await;
    session.settle(&[ended.attempt]).await;
    session.assign(specs(), &[(reassemble(), slow)]).await;
    let coordinator = &bench.coordinator;
    until("it runs", || async { coordinator.bulk().outputs.contains_key(&(reassemble(), 1)) }).await;
    let left = tokio::spawn(agent.leave());
    assert_eq!(session.credits().await, (0, "stopping".into()));
    session.ended().await;
    left.await.expect("ends");
    assert_eq!(
        bench.runtime.workers().await.expect("lists").len(),
        1,
        "its worker goes on, an idle one does not"
    );
    let _agent = bench.agent().await;
    let mut session = bench.coordinator.session().await;
    assert_eq!(session.live(), [reassemble()]);
    session.welcome(2, &[]).await;
    session.credits().await;
    go_on(&bench);
    check(&session.report().await, reassemble(), &Outcome::Exited(0), b"before\nafter\n", b"");
    session.settle(&[reassemble()]).await;
    bench.no_workers_held().await;
}
