//! The client against a coordinator that fails: nothing is lost, doubled or waited for without end.

use crate::fake::{Fake, State};
use piecework_cli::{
    client::{Client, ClientError},
    project_file::{Input, Submission},
};
use piecework_proto::{address::Address, v1};
use std::{collections::VecDeque, path::Path, sync::Arc, time::Duration};

/// A patience that a test never exhausts unless it means to.
const LONG: Duration = Duration::from_secs(120);

async fn connect(fake: &Fake, patience: Duration) -> Client {
    let note = Arc::new(|_: &str| {});
    Client::connect(Address::Socket(fake.socket()).into(), note).await.unwrap().with_patience(patience)
}

fn submission(dir: &Path, items: &str) -> Submission {
    std::fs::write(dir.join("tool"), vec![7; 3 << 20]).unwrap();
    let file = dir.join("project.yaml");
    let text = format!(
        "build: {{from: scratch, copy: {{tool: /tool}}}}\nitems: {items}\ntask: {{command: [/tool, '{{item}}']}}\n"
    );
    std::fs::write(&file, text).unwrap();
    Input::of(&file).load("debian:bookworm-slim").unwrap().remove(0)
}

async fn result(client: &Client) -> Result<(Vec<u8>, v1::Project), ClientError> {
    let mut results = client.results(1, false);
    let (mut bytes, mut end) = (Vec::new(), None);
    while let Some(chunk) = results.next().await? {
        bytes.extend_from_slice(&chunk.data);
        end = chunk.end.or(end);
    }
    Ok((bytes, end.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_repeated_under_the_same_key() {
    let fake = Fake::start(State { unanswered: 2, ..State::default() });
    let submission = submission(fake.dir(), "[a, b]");
    let project = connect(&fake, LONG).await.submit(&submission).await.unwrap();
    assert_eq!(project.id, 1);
    fake.with(|state| {
        assert_eq!(state.received.len(), 3);
        for received in &state.received {
            assert_eq!(received.key, state.received[0].key);
            assert_eq!(received.items.len(), 2);
            assert!(received.files.values().all(|file| *file == vec![7; 3 << 20]));
        }
        assert_eq!(state.received[0].key.len(), 32);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn two_submissions_have_two_keys() {
    let fake = Fake::start(State::default());
    let submission = submission(fake.dir(), "[a]");
    let client = connect(&fake, LONG).await;
    assert_eq!(client.submit(&submission).await.unwrap().id, 1);
    assert_eq!(client.submit(&submission).await.unwrap().id, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_items_go_in_chunks_and_in_order() {
    let fake = Fake::start(State::default());
    let lines: String = (0..25_000).map(|n| format!("{n}\n")).collect();
    std::fs::write(fake.dir().join("items.txt"), lines + &"x".repeat(100_000) + "\n").unwrap();
    let submission = submission(fake.dir(), "{file: items.txt}");
    connect(&fake, LONG).await.submit(&submission).await.unwrap();
    fake.with(|state| {
        let received = &state.received[0];
        assert_eq!(received.chunks, [10_000, 10_000, 5_001]);
        let in_order =
            received.items.iter().take(25_000).enumerate().all(|(n, item)| item.text == n.to_string());
        assert!(in_order);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn long_items_go_in_chunks_of_bounded_size() {
    let fake = Fake::start(State::default());
    std::fs::write(fake.dir().join("items.txt"), (("x".repeat(100_000)) + "\n").repeat(40)).unwrap();
    let submission = submission(fake.dir(), "{file: items.txt}");
    connect(&fake, LONG).await.submit(&submission).await.unwrap();
    fake.with(|state| assert!(state.received[0].chunks.iter().all(|chunk| *chunk == 10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_changes_meanwhile_is_not_submitted() {
    let fake = Fake::start(State::default());
    let submission = submission(fake.dir(), "[a]");
    std::fs::write(fake.dir().join("tool"), "other").unwrap();
    let error = connect(&fake, LONG).await.submit(&submission).await.unwrap_err();
    assert!(matches!(error, ClientError::Input(_)), "{error}");
    fake.with(|state| assert!(state.received.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_repeated() {
    let refuse = Some(tonic::Status::invalid_argument("no"));
    let fake = Fake::start(State { refuse, ..State::default() });
    let submission = submission(fake.dir(), "[a]");
    let error = connect(&fake, LONG).await.submit(&submission).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_go_on_where_a_stream_broke() {
    let chunks: Vec<Vec<u8>> = (0..50_u8).map(|n| vec![n; 10]).collect();
    let breaks = VecDeque::from([0, 1, 3, 0, 20]);
    let fake = Fake::start(State { result: chunks.clone(), breaks, ..State::default() });
    let (bytes, end) = result(&connect(&fake, LONG).await).await.unwrap();
    assert_eq!(bytes, chunks.concat());
    assert_eq!(end.state(), v1::ProjectState::Succeeded);
    fake.with(|state| assert_eq!(state.cursors, ["", "", "1", "4", "4", "24"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_goes_on_where_a_stream_broke() {
    let ended = |n| v1::AttemptEnded {
        attempt: Some(v1::AttemptKey {
            task: Some(v1::TaskKey { project_id: 1, phase: i32::from(v1::Phase::Task), index: n }),
            attempt: 1,
        }),
        recorded: true,
        ..v1::AttemptEnded::default()
    };
    let state =
        State { attempts: (0..20).map(ended).collect(), breaks: VecDeque::from([1, 5]), ..State::default() };
    let fake = Fake::start(state);
    let mut events = connect(&fake, LONG).await.watch(1);
    let mut cursors = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        cursors.push(event.cursor.parse::<u32>().unwrap());
    }
    assert_eq!(cursors, (1..=22).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_coordinator_is_waited_for() {
    let state = State { until_cancelled: true, ..State::default() };
    let mut fake = Fake::start(state);
    let client = connect(&fake, LONG).await;
    let reading = tokio::spawn({
        let client = client.clone();
        async move { result(&client).await }
    });
    fake.wait_for(|state| state.cursors.len() == 1).await;
    fake.kill();
    fake.serve();
    // It comes back to the new one with the cursor of what it has.
    fake.wait_for(|state| state.cursors.len() >= 2).await;
    client.cancel("1").await.unwrap();
    let (bytes, _) = reading.await.unwrap().unwrap();
    assert_eq!(bytes, b"one\ntwo\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_ends() {
    let mut fake = Fake::start(State { until_cancelled: true, ..State::default() });
    let client = connect(&fake, Duration::from_millis(300)).await;
    let reading = tokio::spawn({
        let client = client.clone();
        async move { result(&client).await }
    });
    fake.wait_for(|state| state.cursors.len() == 1).await;
    fake.kill();
    let error = reading.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Lost { .. }), "{error}");
    let submitted = client.submit(&submission(fake.dir(), "[a]")).await;
    assert!(matches!(submitted, Err(ClientError::Lost { .. })), "{submitted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_project_is_refused_at_once() {
    let fake = Fake::start(State::default());
    let error = connect(&fake, LONG).await.watch(99).next().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(status) if status.code() == tonic::Code::NotFound),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::connect(Address::Socket(dir.path().join("none.sock")).into(), Arc::new(|_: &str| {}))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NoCoordinator { .. }), "{error}");
}
