//! Open projects: tasks are added while they run, once for each key, until they are closed.

use crate::{
    agent::{Agent, hello, report},
    bench::{Bench, built_in, check_bad_field, check_refused, spec, task, within},
    running::results,
};
use piecework_proto::v1::{self as pb, item_source::Source, watch_event::Event};
use tonic::{Code, Status};

pub(crate) fn open_spec(idle_millis: u64) -> pb::ProjectSpec {
    let source = Source::Open(pb::ItemOpen { idle_millis });
    pb::ProjectSpec { items: Some(pb::ItemSource { source: Some(source) }), ..spec(1) }
}

fn new_task(key: &str) -> pb::NewTask {
    let item = pb::Item { text: format!("item {key}"), ..Default::default() };
    pb::NewTask { key: key.to_owned(), item: Some(item) }
}

async fn call(bench: &Bench, request: pb::AddTasksRequest) -> Result<pb::AddTasksResponse, Status> {
    within(bench.projects().add_tasks(request)).await.map(tonic::Response::into_inner)
}

/// Adds tasks under these keys.
async fn add(bench: &Bench, project: u64, keys: &[&str], end: bool) -> Result<pb::AddTasksResponse, Status> {
    let tasks = keys.iter().map(|key| new_task(key)).collect();
    call(bench, pb::AddTasksRequest { project: project.to_string(), tasks, end }).await
}

/// Adds what must be taken; what became of each, and the project.
async fn added(bench: &Bench, project: u64, keys: &[&str], end: bool) -> (Vec<(u32, bool)>, pb::Project) {
    let answer = add(bench, project, keys, end).await.unwrap();
    (answer.tasks.iter().map(|task| (task.index, task.existed)).collect(), answer.project.unwrap())
}

#[tokio::test]
async fn tasks_are_added_run_and_read_while_the_project_is_open() {
    let bench = Bench::start().await;
    let project = bench.submit_good(open_spec(0)).await;
    let request = pb::ResultsRequest { project: project.to_string(), ..Default::default() };
    let mut chunks = within(bench.projects().results(request)).await.unwrap().into_inner();
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    let shown = bench.get("test").await.unwrap();
    assert_eq!((shown.tasks, shown.state(), shown.open), (0, pb::ProjectState::Running, true));
    assert_eq!(shown.waiting, "tasks to be added, or the word that no more follow");

    let print = |command: &[String]| format!("{}\n", command[1]).into_bytes();
    let (places, grown) = added(&bench, project, &["a", "b"], false).await;
    assert_eq!(places, [(0, false), (1, false)]);
    assert_eq!((grown.tasks, grown.open), (2, true));
    agent.work(2, print).await;
    let mut early = Vec::new();
    while early.len() < b"item a\nitem b\n".len() {
        early.extend(within(chunks.message()).await.unwrap().unwrap().data);
    }
    assert_eq!(early, b"item a\nitem b\n");
    // All have ended, and it goes on.
    let shown = bench.get("test").await.unwrap();
    assert_eq!((shown.succeeded, shown.state(), shown.open), (2, pb::ProjectState::Running, true));

    let (places, closed) = added(&bench, project, &["b", "c"], true).await;
    assert_eq!(places, [(1, true), (2, false)]);
    assert_eq!((closed.tasks, closed.state(), closed.open), (3, pb::ProjectState::Running, false));
    check_refused(
        add(&bench, project, &["d"], false).await,
        Code::FailedPrecondition,
        "takes no more tasks: it was closed",
    );
    agent.work(1, print).await;
    let (bytes, end) = results(&bench, project, "").await;
    assert_eq!(bytes, b"item a\nitem b\nitem c\n");
    assert_eq!((end.state(), end.tasks, end.succeeded), (pb::ProjectState::Succeeded, 3, 3));
    check_refused(
        add(&bench, project, &["c", "d"], true).await,
        Code::FailedPrecondition,
        "it has ended (succeeded)",
    );
    // A call whose answer was lost is answered as it would have been.
    let (places, end) = added(&bench, project, &["b", "c"], true).await;
    assert_eq!(places, [(1, true), (2, true)]);
    assert_eq!(end.state(), pb::ProjectState::Succeeded);
}

#[tokio::test]
async fn a_restart_forgets_neither_tasks_nor_keys_nor_that_it_is_open() {
    let mut bench = Bench::start().await;
    let sum = pb::ProjectSpec { reassemble: Some(built_in(pb::BuiltInReassemble::Sum)), ..open_spec(0) };
    let project = bench.submit_good(sum).await;
    added(&bench, project, &["a"], false).await;
    bench.restart().await;
    let (places, grown) = added(&bench, project, &["a", "b"], false).await;
    assert_eq!((places, grown.tasks), (vec![(0, true), (1, false)], 2));
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent.work(2, |_| b"21\n".to_vec()).await;
    drop(agent);
    added(&bench, project, &[], true).await;
    let (bytes, end) = results(&bench, project, "").await;
    assert_eq!((&bytes[..], end.state()), (&b"42\n"[..], pb::ProjectState::Succeeded));
    bench.restart().await;
    assert_eq!(added(&bench, project, &["b"], true).await.0, [(1, true)]);
}

#[tokio::test]
async fn many_clients_add_the_same_tasks_once() {
    const CLIENTS: usize = 8;
    const TASKS: usize = 50;
    let bench = Bench::start().await;
    let project = bench.submit_good(open_spec(0)).await;
    let clients = (0..CLIENTS).map(|client| {
        let bench = &bench;
        async move {
            let mut places = Vec::new();
            for n in 0..TASKS {
                // Each begins elsewhere.
                let key = (n + client * 7) % TASKS;
                let (place, _) = added(bench, project, &[&key.to_string()], false).await;
                places.push((key, place[0].0));
            }
            places.sort_unstable();
            places
        }
    });
    let places = futures_util::future::join_all(clients).await;
    assert!(places.windows(2).all(|pair| pair[0] == pair[1]), "one index for each key");
    assert_eq!(bench.get("test").await.unwrap().tasks as usize, TASKS);
}

#[tokio::test]
async fn what_is_wrong_with_an_addition_is_said_and_nothing_is_added() {
    let bench = Bench::start().await;
    let closed = bench.submit_good(spec(3)).await;
    check_refused(
        add(&bench, closed, &["a"], false).await,
        Code::FailedPrecondition,
        "takes no tasks: it was not submitted as an open project",
    );
    check_refused(add(&bench, closed, &[], true).await, Code::FailedPrecondition, "not submitted as an open");
    check_refused(add(&bench, 99, &["a"], false).await, Code::NotFound, "there is no project `99`");
    let no_command = pb::ProjectSpec { task: Some(task(&[])), ..open_spec(0) };
    let project = bench.submit_good(no_command).await;
    let key = "k".repeat(129);
    check_bad_field(
        add(&bench, project, &["a", &key], false).await,
        "tasks[1].key",
        "at most 128 bytes, not 129",
    );
    check_bad_field(add(&bench, project, &[""], false).await, "tasks[0].key", "needs a key");
    check_bad_field(add(&bench, project, &["a"], false).await, "tasks[0].item.args", "no command");
    let call = |tasks| call(&bench, pb::AddTasksRequest { project: project.to_string(), tasks, end: false });
    let no_item = pb::NewTask { key: "a".to_owned(), item: None };
    check_bad_field(call(vec![no_item]).await, "tasks[0].item", "missing");
    check_bad_field(
        call(vec![new_task("a"); 10_001]).await,
        "tasks",
        "at most 10000 tasks are added at once",
    );
    assert_eq!(bench.get(&project.to_string()).await.unwrap().tasks, 0);
    let refused = bench.submit(vec![crate::bench::header("", open_spec(999))]).await;
    check_bad_field(refused, "items.open.idle_millis", "an idle time is from 1000 to");
}

#[tokio::test]
async fn a_project_ends_by_itself_when_nothing_is_added() {
    let bench = Bench::start().await;
    let project = bench.submit_good(open_spec(1000)).await;
    added(&bench, project, &["a"], false).await;
    let request = pb::WatchRequest { project: project.to_string(), ..Default::default() };
    let mut events = within(bench.projects().watch(request)).await.unwrap().into_inner();
    let mut agent = Agent::connect(&bench, pb::Hello { slots: 1, ..hello("host") }, 1).await;
    let attempt = agent.assigned(1).await.remove(0).attempt.unwrap();
    agent.report(report(attempt, 0, b"x")).await;
    let mut seen = Vec::new();
    while let Some(event) = within(events.message()).await.unwrap() {
        if let Some(Event::Project(project)) = event.event {
            seen.push((project.state(), project.open));
        }
    }
    assert_eq!(seen[0], (pb::ProjectState::Running, true));
    assert_eq!(seen.last(), Some(&(pb::ProjectState::Succeeded, false)));
    check_refused(add(&bench, project, &["b"], false).await, Code::FailedPrecondition, "it has ended");
}

#[tokio::test]
async fn a_cancelled_project_takes_no_more() {
    let bench = Bench::start().await;
    let project = bench.submit_good(open_spec(0)).await;
    added(&bench, project, &["a"], false).await;
    let cancel = pb::CancelProjectRequest { project: project.to_string() };
    let cancelled = within(bench.projects().cancel(cancel)).await.unwrap().into_inner();
    assert_eq!((cancelled.state(), cancelled.open, cancelled.tasks), (pb::ProjectState::Cancelled, false, 1));
    check_refused(
        add(&bench, project, &["b"], false).await,
        Code::FailedPrecondition,
        "it has ended (cancelled)",
    );
}
