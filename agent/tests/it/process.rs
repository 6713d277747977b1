//! The process runtime: real programs under a real init.

use crate::bench::{Bench, check, key, reassemble, specs};
use piecework_agent::{Agent, RuntimeChoice, domain::Outcome, runtime::RuntimeKind};

async fn agent(bench: &Bench) -> Agent {
    Agent::start(bench.config(RuntimeChoice::Process)).await.expect("starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_run_and_are_cancelled() {
    let mut bench = Bench::new();
    let agent = agent(&bench).await;
    assert_eq!(agent.runtime(), RuntimeKind::Process);
    let mut session = bench.coordinator.welcomed(1).await;
    session.assign(specs(), &[(key(1), &["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])]).await;
    check(&session.report().await, key(1), &Outcome::Exited(3), b"out\n", b"err\n");
    session.assign(vec![], &[(key(2), &["/no/such/program"])]).await;
    let report = session.report().await;
    assert!(matches!(report.outcome, Outcome::CouldNotStart(_)), "{report:?}");
    session.assign(vec![], &[(key(3), &["/bin/sleep", "1000"])]).await;
    session.cancel(key(3)).await;
    check(&session.report().await, key(3), &Outcome::Cancelled, b"", b"");
    session.settle(&[key(1), key(2), key(3)]).await;
    agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_go_through() {
    let mut bench = Bench::new();
    let agent = agent(&bench).await;
    let input: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    bench.coordinator.bulk().stdin.insert(reassemble(), input.clone());
    let mut session = bench.coordinator.welcomed(1).await;
    session.assign(specs(), &[(reassemble(), &["/bin/cat"])]).await;
    assert_eq!(session.report().await.outcome, Outcome::Exited(0));
    assert!(bench.coordinator.bulk().outputs[&(reassemble(), 1)] == input, "the bytes are the same");
    session.settle(&[reassemble()]).await;
    agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_outlive_their_agent_and_run_once() {
    let mut bench = Bench::new();
    let first = agent(&bench).await;
    let mut session = bench.coordinator.welcomed(1).await;
    let (starts, go) = (bench.dir.path().join("starts"), bench.dir.path().join("go"));
    let script = format!(
        "echo start >> {}; echo a; until [ -e {} ]; do sleep 0.05; done; echo b",
        starts.display(),
        go.display()
    );
    session.assign(specs(), &[(key(1), &["/bin/sh", "-c", &script])]).await;
    crate::bench::until("it has started", || async { starts.exists() }).await;
    drop((first, session));
    let second = agent(&bench).await;
    let mut session = bench.coordinator.session().await;
    assert_eq!(session.live(), [key(1)]);
    session.welcome(2, &[]).await;
    session.credits().await;
    std::fs::write(go, "").expect("writes");
    check(&session.report().await, key(1), &Outcome::Exited(0), b"a\nb\n", b"");
    session.settle(&[key(1)]).await;
    second.shutdown().await;
    assert_eq!(std::fs::read_to_string(starts).expect("reads"), "start\n");
    let left = std::fs::read_dir(bench.data().join("workers/process")).expect("lists").count();
    assert_eq!(left, 0, "no worker is left over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_choice_goes_on_with_the_processes_that_are_left() {
    let mut bench = Bench::new();
    let first = agent(&bench).await;
    let mut session = bench.coordinator.welcomed(1).await;
    let (starts, go) = (bench.dir.path().join("starts"), bench.dir.path().join("go"));
    let script = format!(
        "echo start >> {}; until [ -e {} ]; do sleep 0.05; done; echo once",
        starts.display(),
        go.display()
    );
    session.assign(specs(), &[(key(1), &["/bin/sh", "-c", &script])]).await;
    crate::bench::until("it has started", || async { starts.exists() }).await;
    drop((first, session));
    // Whether an engine answers here or not.
    let second = Agent::start(bench.config(RuntimeChoice::Auto)).await.expect("starts");
    assert_eq!(second.runtime(), RuntimeKind::Process);
    let mut session = bench.coordinator.session().await;
    assert_eq!(session.live(), [key(1)]);
    session.welcome(2, &[]).await;
    session.credits().await;
    std::fs::write(go, "").expect("writes");
    check(&session.report().await, key(1), &Outcome::Exited(0), b"once\n", b"");
    session.settle(&[key(1)]).await;
    second.shutdown().await;
    assert_eq!(std::fs::read_to_string(starts).expect("reads"), "start\n");
}
