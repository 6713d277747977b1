//! Every way in which an attempt can end.

use crate::bench::{Bench, check, key, reassemble, spec, specs, until};
use piecework_agent::domain::Outcome;
use piecework_proto::v1;

/// Runs one scripted attempt on an image, and checks its outcome.
async fn ends(image: &str, script: &[&str], is: impl Fn(&Outcome) -> bool) {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    let command = [&["scripted"], script].concat();
    session.assign(vec![spec(v1::Phase::Task, image)], &[(key(1), &command)]).await;
    let report = session.report().await;
    assert!(is(&report.outcome), "{image} {script:?}: {report:?}");
    bench.no_workers_held().await;
}

#[tokio::test]
async fn by_itself() {
    ends("any", &["exit=0"], |outcome| *outcome == Outcome::Exited(0)).await;
    ends("any", &["exit=7"], |outcome| *outcome == Outcome::Exited(7)).await;
    ends("any", &["signal=11"], |outcome| *outcome == Outcome::Signaled(11)).await;
    ends("any", &["oom"], |outcome| *outcome == Outcome::OutOfMemory).await;
    ends("any", &["start-failure"], |outcome| matches!(outcome, Outcome::CouldNotStart(_))).await;
}

#[tokio::test]
async fn with_its_worker() {
    ends("any", &["worker-lost"], |outcome| matches!(outcome, Outcome::WorkerLost(_))).await;
    ends("any", &["worker-oom"], |outcome| *outcome == Outcome::OutOfMemory).await;
    ends("any", &["engine-lost"], |outcome| matches!(outcome, Outcome::EngineLost(_))).await;
}

#[tokio::test]
async fn before_it_started() {
    ends("missing", &[], |outcome| matches!(outcome, Outcome::ImageUnavailable(_))).await;
    ends("no-engine", &[], |outcome| matches!(outcome, Outcome::EngineLost(_))).await;
    ends("no-worker", &[], |outcome| matches!(outcome, Outcome::WorkerLost(_))).await;
}

#[tokio::test]
async fn what_a_lost_worker_printed_is_kept() {
    let mut bench = Bench::new();
    bench.coordinator.bulk().stdin.insert(reassemble(), vec![]);
    bench.coordinator.bulk().stdin_stalls = true;
    let (_agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(reassemble(), &["scripted", "print=last words", "cat", "worker-lost"])]).await;
    let coordinator = &bench.coordinator;
    until("it has printed", || async {
        coordinator.bulk().outputs.get(&(reassemble(), 1)).is_some_and(|output| output == b"last words\n")
    })
    .await;
    bench.coordinator.bulk().stdin_stalls = false;
    let report = session.report().await;
    assert!(matches!(report.outcome, Outcome::WorkerLost(_)), "{report:?}");
    check(&report, reassemble(), &report.outcome, b"last words\n", b"");
}

#[tokio::test]
async fn cancelled() {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    let hang: &[&str] = &["scripted", "print=a", "hang"];
    let all: Vec<_> = (0..6).map(|index| (key(index), hang)).collect();
    session.assign(specs(), &all).await;
    // The last two wait for a slot, and never get one.
    for index in [5, 4] {
        session.cancel(key(index)).await;
        check(&session.report().await, key(index), &Outcome::Cancelled, b"", b"");
    }
    session.cancel(key(0)).await;
    let report = session.report().await;
    assert_eq!((report.attempt, report.outcome), (key(0), Outcome::Cancelled));
}

#[tokio::test]
async fn at_its_timeout_and_at_its_output_limit() {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    let mut limited = spec(v1::Phase::Task, "any");
    limited.task =
        Some(v1::TaskSpec { timeout_millis: 100, output_bytes_max: 1000, ..v1::TaskSpec::default() });
    session.assign(vec![limited], &[(key(1), &["scripted", "hang"])]).await;
    assert_eq!(session.report().await.outcome, Outcome::TimedOut);
    session.assign(vec![], &[(key(2), &["scripted", "bytes=5000", "hang"])]).await;
    assert_eq!(session.report().await.outcome, Outcome::OutputLimit);
}
