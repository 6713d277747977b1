//! Sessions: who is let in, what is assigned, and what is made of reports.

use crate::{
    agent::{Agent, hello, inline, open, report},
    bench::{Bench, LEASE, check_bad_field, check_refused, spec, task, within},
};
use piecework_proto::{
    MESSAGE_BYTES_MAX, PROTOCOL_VERSION,
    v1::{
        self as pb, agent_message::Message as Say, coordinator_message::Message as Hear, image_spec::Image,
    },
};
use tonic::Code;

#[tokio::test]
async fn a_session_begins_with_a_hello_of_our_protocol() {
    let bench = Bench::start().await;
    let refused = open(&bench, Say::Heartbeat(pb::Heartbeat {})).await;
    check_refused(refused, Code::FailedPrecondition, "the first message of a session must be Hello");
    for version in [0, PROTOCOL_VERSION + 2] {
        let refused =
            open(&bench, Say::Hello(pb::Hello { protocol_version: version, ..hello("host") })).await;
        check_refused(
            refused,
            Code::FailedPrecondition,
            &format!("the agent speaks version {version} of the protocol"),
        );
    }
    let refused = open(&bench, Say::Hello(pb::Hello { name: String::new(), ..hello("host") })).await;
    check_bad_field(refused, "hello.name", "hello.name: missing");
    let refused =
        open(&bench, Say::Hello(pb::Hello { live: vec![pb::AttemptKey::default()], ..hello("host") })).await;
    check_bad_field(refused, "hello.live[0].task", "missing");
}

#[tokio::test]
async fn welcome_tells_epochs_and_times() {
    let mut bench = Bench::start().await;
    let first = Agent::connect(&bench, hello("host"), 0).await.welcome;
    assert_eq!(u128::from(first.lease_millis), LEASE.as_millis());
    assert!(first.heartbeat_millis > 0 && first.heartbeat_millis * 2 < first.lease_millis);
    bench.restart().await;
    let second = Agent::connect(
        &bench,
        pb::Hello { coordinator_epoch_seen: first.coordinator_epoch, ..hello("host") },
        0,
    )
    .await
    .welcome;
    assert!(second.coordinator_epoch > first.coordinator_epoch);
    assert!(second.session_epoch > first.session_epoch);
}

#[tokio::test]
async fn agents_are_listed() {
    let bench = Bench::start().await;
    let list =
        async || within(bench.agents().list(pb::ListAgentsRequest {})).await.unwrap().into_inner().agents;
    assert!(list().await.is_empty());
    let labels = [("gpu".to_owned(), "no".to_owned())].into();
    let mut ready = Agent::connect(&bench, pb::Hello { labels, ..hello("a-ready") }, 4).await;
    let mut broken = Agent::connect(&bench, hello("b-broken"), 0).await;
    broken.say(Say::Credits(pb::Credits { attempts_max: 0, not_ready: "no engine".to_owned() })).await;
    bench.submit_good(spec(2)).await;
    ready.assigned(2).await;
    within(async {
        while list().await[1].state() != pb::AgentState::NotReady {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let agents = list().await;
    assert_eq!(
        (agents[0].name.as_str(), agents[0].state(), agents[0].held),
        ("a-ready", pb::AgentState::Ready, 2)
    );
    assert_eq!(
        (agents[0].runtime.as_str(), agents[0].slots, agents[0].labels["gpu"].as_str()),
        ("scripted", 4, "no")
    );
    assert_eq!((agents[1].name.as_str(), agents[1].message.as_str()), ("b-broken", "no engine"));
    drop(broken);
    within(async {
        while list().await[1].state() != pb::AgentState::Lost {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_phase_is_described_once_before_its_first_attempt() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(3)).await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent.work(3, |command| command[1].clone().into_bytes()).await;
    assert_eq!(agent.run_specs.len(), 1);
    let run = &agent.run_specs[0];
    assert_eq!(
        (run.project_id, run.phase(), run.project_name.as_str(), run.has_input),
        (project, pb::Phase::Task, "test", false)
    );
    assert_eq!(run.image.as_ref().unwrap().image, Some(Image::Reference("busybox".to_owned())));
    // What the project leaves open, the coordinator decides.
    assert_eq!(run.task.as_ref().unwrap().output_bytes_max, 1 << 30);
    assert_eq!(run.task.as_ref().unwrap().command, ["echo", "{item}"]);
}

#[tokio::test]
async fn large_assignments_are_split_over_messages() {
    let bench = Bench::start().await;
    let command =
        task(&["echo", "{index}", &"x".repeat(100_000), &"y".repeat(100_000), &"z".repeat(100_000)]);
    bench.submit_good(pb::ProjectSpec { task: Some(command), ..spec(40) }).await;
    // 40 commands of 300 kB each are 12 MB: more than any one message may carry.
    let mut agent = Agent::connect(&bench, pb::Hello { slots: 40, ..hello("host") }, 40).await;
    let assignments = agent.assigned(40).await;
    let bytes: usize = assignments.iter().flat_map(|one| &one.command).map(String::len).sum();
    assert!(bytes > 2 * MESSAGE_BYTES_MAX);
    assert_eq!(agent.run_specs.len(), 1);
}

#[tokio::test]
async fn a_session_ends_with_the_reason() {
    let bench = Bench::start().await;
    let mut agent = Agent::connect(&bench, hello("host"), 0).await;
    agent.say(Say::Returned(pb::Returned { attempts: vec![pb::AttemptKey::default()] })).await;
    check_bad_field(within(agent.heard.message()).await, "returned.attempts[0].task", "missing");
    let mut agent = Agent::connect(&bench, hello("host"), 0).await;
    agent.say(Say::Hello(hello("host"))).await;
    check_bad_field(within(agent.heard.message()).await, "hello", "only once");
    // A newer session of the same agent closes the older one.
    let mut older = Agent::connect(&bench, hello("host"), 0).await;
    let _newer = Agent::connect(&bench, hello("host"), 0).await;
    let closed = within(older.heard.message()).await;
    check_refused(closed, Code::Aborted, "");
}

#[tokio::test]
async fn an_unintelligible_report_is_a_lost_worker_and_the_task_runs_again() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(1)).await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    let attempt = agent.assigned(1).await.remove(0).attempt.unwrap();
    let mut message = report(attempt, 0, b"");
    message.outcome.as_mut().unwrap().kind = 99;
    agent.report(message).await;
    let again = agent.assigned(1).await.remove(0).attempt.unwrap();
    assert_eq!((again.task, again.attempt), (attempt.task, 2));
    let attempts = attempts(&bench, project).await;
    let outcome = attempts[0].outcome.clone().unwrap();
    assert_eq!(outcome.kind(), pb::OutcomeKind::WorkerLost);
    assert!(outcome.message.contains("99 is no value of OutcomeKind"), "{}", outcome.message);
}

#[tokio::test]
async fn a_report_without_its_output_is_a_lost_worker() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(1)).await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    let attempt = agent.assigned(1).await.remove(0).attempt.unwrap();
    let stdout = pb::Output { length: 100_000, inline: bytes::Bytes::new(), sha256: vec![7; 32] };
    agent.report(pb::Report { stdout: Some(stdout), ..report(attempt, 0, b"") }).await;
    let again = agent.assigned(1).await.remove(0).attempt.unwrap();
    assert_eq!(again.attempt, 2);
    let outcome = attempts(&bench, project).await[0].outcome.clone().unwrap();
    assert_eq!(
        (outcome.kind(), outcome.message.as_str()),
        (pb::OutcomeKind::WorkerLost, "its output did not arrive")
    );
}

/// The ended attempts of the project's first task.
async fn attempts(bench: &Bench, project: u64) -> Vec<pb::Attempt> {
    let request =
        pb::ListTasksRequest { project: project.to_string(), with_attempts: true, ..Default::default() };
    within(bench.projects().list_tasks(request)).await.unwrap().into_inner().tasks.remove(0).attempts
}

#[tokio::test]
async fn cancelling_reaches_the_agent() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(5)).await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    let attempt = agent.assigned(1).await.remove(0).attempt.unwrap();
    let cancel = pb::CancelProjectRequest { project: project.to_string() };
    let cancelled = within(bench.projects().cancel(cancel.clone())).await.unwrap().into_inner();
    assert_eq!(cancelled.state(), pb::ProjectState::Cancelled);
    match agent.hear().await {
        Hear::Cancel(cancel) => assert_eq!(cancel.attempts, [attempt]),
        other => panic!("{other:?} instead of Cancel"),
    }
    let killed = pb::Outcome { kind: pb::OutcomeKind::Cancelled.into(), ..Default::default() };
    agent
        .report(pb::Report { outcome: Some(killed), stdout: Some(inline(b"")), ..report(attempt, 0, b"") })
        .await;
    assert_eq!(agent.settled(1).await, [attempt]);
    // Cancelling what has ended changes nothing.
    let again = within(bench.projects().cancel(cancel)).await.unwrap().into_inner();
    assert_eq!((again.state(), again.ended_millis), (pb::ProjectState::Cancelled, cancelled.ended_millis));
    let unknown = pb::CancelProjectRequest { project: "77".to_owned() };
    check_refused(within(bench.projects().cancel(unknown)).await, Code::NotFound, "there is no project `77`");
}

#[tokio::test]
async fn an_agent_one_version_newer_works() {
    let bench = Bench::start().await;
    let newer =
        pb::Hello { protocol_version: PROTOCOL_VERSION + 1, version: "9.0.0".to_owned(), ..hello("host") };
    let mut agent = Agent::connect(&bench, newer, 1).await;
    // It says something that this coordinator does not know: that it is alive, at least, is said.
    agent.say_unknown().await;
    assert!(matches!(agent.hear().await, Hear::Heartbeat(_)));
    let id = bench.submit_good(spec(3)).await;
    agent.work(3, |command| format!("{}\n", command.join(" ")).into_bytes()).await;
    within(async {
        while bench.get(&id.to_string()).await.unwrap().state() != pb::ProjectState::Succeeded {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
