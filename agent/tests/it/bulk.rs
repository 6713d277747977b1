//! Bulk bytes: long output, output that grows, stdin.

use crate::bench::{Bench, alphabet, check, key, reassemble, specs, until};
use piecework_agent::domain::{Outcome, Output, Report};
use sha2::{Digest, Sha256};

const LONG: usize = 5 * 1024 * 1024;

#[track_caller]
fn check_spooled(output: &Output, expected: &[u8]) {
    let sha256 = Sha256::digest(expected).into();
    assert_eq!(*output, Output::Spooled { length: expected.len() as u64, sha256 });
}

async fn long_output(bench: &mut Bench, breaks: Vec<usize>) -> Report {
    bench.coordinator.bulk().breaks = breaks;
    let (agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(key(1), &["scripted", &format!("bytes={LONG}"), "err=short"])]).await;
    let report = session.report().await;
    // The report leaves after the bytes are durable.
    let whole = bench.coordinator.bulk().complete.contains(&(key(1), 1));
    assert!(whole || !bench.coordinator.bulk().unwanted.is_empty());
    session.settle(&[key(1)]).await;
    let bench: &Bench = bench;
    until("the spool is empty", || async { bench.spooled_files() == 0 }).await;
    agent.shutdown().await;
    report
}

#[tokio::test]
async fn long_output_is_uploaded_before_it_is_reported() {
    let mut bench = Bench::new();
    let report = long_output(&mut bench, vec![]).await;
    assert_eq!(report.outcome, Outcome::Exited(0));
    check_spooled(&report.stdout, &alphabet(LONG));
    assert_eq!(report.stderr, Output::Inline("short\n".into()));
    assert_eq!(bench.coordinator.bulk().outputs[&(key(1), 1)], alphabet(LONG));
    assert!(!bench.coordinator.bulk().complete.contains(&(key(1), 2)), "short output rides in the report");
}

#[tokio::test]
async fn an_upload_that_breaks_goes_on_where_it_was() {
    let mut bench = Bench::new();
    let report = long_output(&mut bench, vec![2_000_000, 0, 1_000_000, 0]).await;
    check_spooled(&report.stdout, &alphabet(LONG));
    assert_eq!(bench.coordinator.bulk().outputs[&(key(1), 1)], alphabet(LONG));
    assert!(bench.coordinator.bulk().calls["UploadOutput"] >= 5);
}

#[tokio::test]
async fn output_that_is_not_wanted_is_not_sent() {
    let mut bench = Bench::new();
    bench.coordinator.bulk().unwanted.push(key(1));
    let report = long_output(&mut bench, vec![]).await;
    check_spooled(&report.stdout, &alphabet(LONG));
    assert_eq!(bench.coordinator.bulk().outputs[&(key(1), 1)], b"");
}

#[tokio::test]
async fn an_attempt_whose_upload_is_refused_or_whose_spool_file_is_gone_is_lost() {
    for refused in [true, false] {
        let mut bench = Bench::new();
        bench.coordinator.bulk().breaks = vec![0; 1000];
        let (_agent, mut session) = bench.in_session().await;
        session.assign(specs(), &[(key(1), &["scripted", &format!("bytes={LONG}")])]).await;
        let coordinator = &bench.coordinator;
        until("the upload has begun", || async { coordinator.bulk().breaks.len() < 1000 }).await;
        if refused {
            coordinator.bulk().refused.push(key(1));
        } else {
            let path = bench.data().join("outbox/spool").join(format!("{}.out", key(1)));
            std::fs::remove_file(path).expect("removed");
        }
        coordinator.bulk().breaks.clear();
        let report = session.report().await;
        let why = if refused { "the test refuses it" } else { "can't be read" };
        assert!(matches!(&report.outcome, Outcome::WorkerLost(text) if text.contains(why)), "{report:?}");
        assert_eq!(report.stdout, Output::Inline("".into()));
        until("the spool is empty", || async { bench.spooled_files() == 0 }).await;
    }
}

#[tokio::test]
async fn what_a_running_attempt_prints_can_be_followed() {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    let script: &[&str] = &["scripted", "print=early", "err=error", "sleep=1s", "print=late", "hang"];
    session.assign(specs(), &[(key(1), script)]).await;
    let coordinator = &bench.coordinator;
    let has = |stream: i32, expected: &'static [u8]| async move {
        coordinator.bulk().outputs.get(&(key(1), stream)).is_some_and(|output| output == expected)
    };
    until("what came early is seen", || has(1, b"early\n")).await;
    until("stderr is seen", || has(2, b"error\n")).await;
    until("what came late is seen", || has(1, b"early\nlate\n")).await;
    session.cancel(key(1)).await;
    check(&session.report().await, key(1), &Outcome::Cancelled, b"early\nlate\n", b"error\n");
    assert!(bench.coordinator.bulk().complete.is_empty(), "it rides in the report after all");
}

#[tokio::test]
async fn an_attempt_whose_output_finds_no_place_can_be_cancelled() {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    // A directory is where the spool file is to be: as good as a full disk.
    let path = bench.data().join("outbox/spool").join(format!("{}.out", key(1)));
    std::fs::create_dir(path).expect("made");
    session.assign(specs(), &[(key(1), &["scripted", &format!("bytes={LONG}"), "hang"])]).await;
    bench.workers_held(1).await;
    session.cancel(key(1)).await;
    assert_eq!(session.report().await.outcome, Outcome::Cancelled);
    bench.no_workers_held().await;
}

#[tokio::test]
async fn stdin_comes_from_the_coordinator_over_breaks() {
    let mut bench = Bench::new();
    let input = alphabet(2_000_000);
    bench.coordinator.bulk().stdin.insert(reassemble(), input.clone());
    bench.coordinator.bulk().breaks = vec![700_000, 0, 100_001];
    let (_agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(reassemble(), &["scripted", "cat"])]).await;
    let report = session.report().await;
    assert_eq!(report.outcome, Outcome::Exited(0));
    check_spooled(&report.stdout, &input);
    assert_eq!(bench.coordinator.bulk().outputs[&(reassemble(), 1)], input);
}

#[tokio::test]
async fn an_attempt_whose_stdin_is_refused_is_lost() {
    let mut bench = Bench::new();
    let (_agent, mut session) = bench.in_session().await;
    session.assign(specs(), &[(reassemble(), &["scripted", "cat"])]).await;
    let report = session.report().await;
    assert!(
        matches!(&report.outcome, Outcome::WorkerLost(why) if why.contains("no such stdin")),
        "{report:?}"
    );
}
