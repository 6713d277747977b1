//! The output of one task: what there is, what there is not, and what comes.

use crate::{
    agent::{Agent, hello, report},
    bench::{Bench, check_bad_field, check_refused, header, items, list_spec, spec, task, within},
};
use piecework_proto::v1::{self as pb, agent_message::Message as Say};
use tonic::{Code, Status};

/// Stdout and stderr.
pub(crate) async fn logs(bench: &Bench, request: pb::LogsRequest) -> Result<(Vec<u8>, Vec<u8>), Status> {
    let mut chunks = within(bench.projects().logs(request)).await?.into_inner();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunk) = within(chunks.message()).await? {
        match chunk.stream() {
            pb::OutputStream::Stdout => stdout.extend_from_slice(&chunk.data),
            _ => stderr.extend_from_slice(&chunk.data),
        }
    }
    Ok((stdout, stderr))
}

#[tokio::test]
async fn logs_tell_what_there_is_and_what_there_is_not() {
    let bench = Bench::start().await;
    let spec = pb::ProjectSpec { task: Some(pb::TaskSpec { retries: 1, ..task(&["x"]) }), ..list_spec(2) };
    let project = bench.submit(vec![header("", spec), items(&["a", "b"])]).await.unwrap().project.unwrap().id;
    let request = pb::LogsRequest { project: project.to_string(), ..Default::default() };
    let ask = async |request| logs(&bench, request).await;
    check_refused(
        ask(request.clone()).await,
        Code::FailedPrecondition,
        "task 0 of project 1 has not run yet: ask again later, or follow it",
    );
    check_refused(
        ask(pb::LogsRequest { index: 2, ..request.clone() }).await,
        Code::NotFound,
        "project 1 has no task 2: the last one is 1",
    );
    let phase = pb::Phase::Split.into();
    check_refused(
        ask(pb::LogsRequest { phase, ..request.clone() }).await,
        Code::NotFound,
        "project 1 has no split task",
    );
    check_bad_field(
        ask(pb::LogsRequest { phase: 9, ..request.clone() }).await,
        "phase",
        "9 is no value of Phase",
    );
    check_bad_field(
        ask(pb::LogsRequest { streams: vec![0], ..request.clone() }).await,
        "streams",
        "0 is no value",
    );
    check_refused(
        ask(pb::LogsRequest { project: "nobody".to_owned(), ..request.clone() }).await,
        Code::NotFound,
        "there is no project `nobody`: `piecework ls -a` lists",
    );
    check_bad_field(ask(pb::LogsRequest::default()).await, "project", "name a project by its number or name");

    // A follower that comes early gets the first attempt whole.
    let follow = pb::LogsRequest { follow: true, ..request.clone() };
    let mut early = within(bench.projects().logs(follow.clone())).await.unwrap().into_inner();
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    let first = agent.assigned(1).await.remove(0).attempt.unwrap();
    agent.report(report(first, 1, b"no\n")).await;
    let chunk = within(early.message()).await.unwrap().unwrap();
    assert_eq!(&chunk.data[..], b"no\n");
    let second = agent.assigned(1).await.remove(0).attempt.unwrap();
    assert_eq!((second.task, second.attempt), (first.task, 2));
    check_refused(
        ask(request.clone()).await,
        Code::FailedPrecondition,
        "attempt 2 of task 0 of project 1 has not ended yet",
    );
    agent.report(report(second, 0, b"yes\n")).await;
    agent.settled(1).await;

    assert_eq!(ask(request.clone()).await.unwrap(), (b"yes\n".to_vec(), b"a complaint\n".to_vec()));
    assert_eq!(ask(follow).await.unwrap().0, b"yes\n");
    assert_eq!(ask(pb::LogsRequest { attempt: 1, ..request.clone() }).await.unwrap().0, b"no\n");
    check_refused(
        ask(pb::LogsRequest { attempt: 3, ..request.clone() }).await,
        Code::NotFound,
        "has no attempt 3: the highest is 2",
    );
    let streams = vec![pb::OutputStream::Stderr.into()];
    assert_eq!(
        ask(pb::LogsRequest { streams, ..request.clone() }).await.unwrap(),
        (Vec::new(), b"a complaint\n".to_vec())
    );

    // A follower of a task that never runs is told when that is clear.
    let waiting = pb::LogsRequest { index: 1, follow: true, attempt: 2, ..request.clone() };
    let mut waiting = within(bench.projects().logs(waiting)).await.unwrap().into_inner();
    let cancel = pb::CancelProjectRequest { project: project.to_string() };
    within(bench.projects().cancel(cancel)).await.unwrap();
    let ended = within(waiting.message()).await.unwrap_err();
    assert!(matches!(ended.code(), Code::FailedPrecondition | Code::NotFound), "{ended}");
}

#[tokio::test]
async fn of_an_ended_project_nothing_more_is_promised() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(2)).await.to_string();
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent.assigned(1).await;
    within(bench.projects().cancel(pb::CancelProjectRequest { project: project.clone() })).await.unwrap();
    let ask = async |index| {
        logs(&bench, pb::LogsRequest { project: project.clone(), index, ..Default::default() }).await
    };
    check_refused(
        ask(0).await,
        Code::FailedPrecondition,
        "attempt 1 of task 0 of project 1 has no recorded output: the project has ended before it (cancelled)",
    );
    check_refused(
        ask(1).await,
        Code::FailedPrecondition,
        "task 1 of project 1 never ran: the project has ended (cancelled)",
    );
}

#[tokio::test]
async fn a_follower_goes_on_with_the_next_attempt_when_one_is_handed_back() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(1)).await.to_string();
    let mut leaving = Agent::connect(&bench, hello("leaving"), 1).await;
    let first = leaving.assigned(1).await.remove(0).attempt.unwrap();
    let any = pb::LogsRequest { project, follow: true, ..Default::default() };
    let mut any_follower = within(bench.projects().logs(any.clone())).await.unwrap().into_inner();
    let one = pb::LogsRequest { attempt: 1, ..any };
    let mut one_follower = within(bench.projects().logs(one)).await.unwrap().into_inner();
    leaving.say(Say::Credits(pb::Credits { attempts_max: 0, not_ready: "stopping".to_owned() })).await;
    leaving.say(Say::Returned(pb::Returned { attempts: vec![first] })).await;
    let mut next = Agent::connect(&bench, hello("next"), 1).await;
    let second = next.assigned(1).await.remove(0).attempt.unwrap();
    assert_eq!((second.task, second.attempt), (first.task, 2));
    let handed_back = within(one_follower.message()).await;
    check_refused(
        handed_back,
        Code::FailedPrecondition,
        "attempt 1 of task 0 of project 1 was handed back unfinished",
    );
    next.report(report(second, 0, b"yes\n")).await;
    assert_eq!(&within(any_follower.message()).await.unwrap().unwrap().data[..], b"yes\n");
}
