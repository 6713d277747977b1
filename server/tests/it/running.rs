//! A project on its way: watched, its results and logs read, across reconnections and a restart.

use crate::{
    agent::{Agent, hello, inline, report},
    bench::{
        Bench, blob, built_in, check_bad_field, check_refused, header, items, list_spec, sha256, spec, task,
        within,
    },
};
use piecework_proto::v1::{self as pb, item_source::Source, reassemble_spec::How, watch_event::Event};
use tonic::{Code, Status, Streaming};

/// The whole result from a cursor on, and the project as it ended.
pub(crate) async fn results(bench: &Bench, project: u64, cursor: &str) -> (Vec<u8>, pb::Project) {
    let request =
        pb::ResultsRequest { project: project.to_string(), cursor: cursor.to_owned(), no_wait: false };
    let chunks = within(bench.projects().results(request)).await.unwrap().into_inner();
    let (bytes, _, end) = drain(chunks).await.unwrap();
    (bytes, end)
}

async fn drain(mut chunks: Streaming<pb::ResultsChunk>) -> Result<(Vec<u8>, String, pb::Project), Status> {
    let mut bytes = Vec::new();
    loop {
        let chunk = within(chunks.message()).await?.expect("a last chunk");
        bytes.extend_from_slice(&chunk.data);
        if let Some(end) = chunk.end {
            assert!(within(chunks.message()).await?.is_none());
            return Ok((bytes, chunk.cursor, end));
        }
    }
}

async fn watch(bench: &Bench, project: u64, cursor: &str) -> Streaming<pb::WatchEvent> {
    let request = pb::WatchRequest { project: project.to_string(), cursor: cursor.to_owned() };
    within(bench.projects().watch(request)).await.unwrap().into_inner()
}

/// What a watcher has seen.
#[derive(Default)]
struct Seen {
    cursor: String,
    /// Indices of the tasks whose attempts ended, in the order told.
    ended: Vec<u32>,
    projects: Vec<pb::Project>,
}

impl Seen {
    fn take(&mut self, event: pb::WatchEvent) {
        self.cursor = event.cursor;
        match event.event.unwrap() {
            Event::Project(project) => self.projects.push(project),
            Event::AttemptsEnded(ended) => {
                self.ended.extend(ended.attempts.iter().map(|one| one.attempt.unwrap().task.unwrap().index));
            }
        }
    }

    /// Watches until so many endings were told.
    async fn until_ended(&mut self, events: &mut Streaming<pb::WatchEvent>, count: usize) {
        while self.ended.len() < count {
            self.take(within(events.message()).await.unwrap().unwrap());
        }
    }

    /// Watches until the end.
    async fn until_end(&mut self, events: &mut Streaming<pb::WatchEvent>) {
        while let Some(event) = within(events.message()).await.unwrap() {
            self.take(event);
        }
    }
}

#[tokio::test]
async fn results_come_in_order_however_tasks_end() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(4)).await;
    let request = pb::ResultsRequest { project: project.to_string(), ..Default::default() };
    let mut chunks = within(bench.projects().results(request.clone())).await.unwrap().into_inner();
    let mut agent = Agent::connect(&bench, hello("host"), 4).await;
    let mut assignments = agent.assigned(4).await;
    assignments.sort_by_key(|one| one.attempt.unwrap().task.unwrap().index);
    let outputs: [&[u8]; 4] = [b"first\n", b"", b"\xff\x00binary", b"no newline"];
    let mut send = async |n: usize| {
        agent.report(report(assignments[n].attempt.unwrap(), 0, outputs[n])).await;
        agent.settled(1).await;
    };
    send(3).await;
    send(0).await;
    // The first is there while others still run.
    let first = within(chunks.message()).await.unwrap().unwrap();
    assert_eq!((&first.data[..], first.end), (outputs[0], None));
    let no_wait = pb::ResultsRequest { no_wait: true, ..request.clone() };
    let (bytes, _, end) =
        drain(within(bench.projects().results(no_wait)).await.unwrap().into_inner()).await.unwrap();
    assert_eq!((&bytes[..], end.state()), (outputs[0], pb::ProjectState::Running));
    send(2).await;
    send(1).await;
    let (rest, cursor, end) = drain(chunks).await.unwrap();
    assert_eq!([first.data.to_vec(), rest.clone()].concat(), outputs.concat());
    assert_eq!((end.state(), end.succeeded, end.running), (pb::ProjectState::Succeeded, 4, 0));
    // From a cursor on, the rest; from the last one, nothing.
    assert_eq!(results(&bench, project, &first.cursor).await.0, rest);
    assert_eq!(results(&bench, project, &cursor).await, (Vec::new(), end));
}

#[tokio::test]
async fn a_watcher_sees_everything_once() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(20)).await;
    let mut events = watch(&bench, project, "").await;
    let mut seen = Seen::default();
    seen.take(within(events.message()).await.unwrap().unwrap());
    assert_eq!(seen.projects[0].state(), pb::ProjectState::Running);
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent.work(7, |_| b"x\n".to_vec()).await;
    seen.until_ended(&mut events, 7).await;
    drop(events);
    agent.work(5, |_| b"x\n".to_vec()).await;

    // Another one goes on where that one was.
    let mut events = watch(&bench, project, &seen.cursor).await;
    let first = within(events.message()).await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Project(_))));
    agent.work(8, |_| b"x\n".to_vec()).await;
    seen.until_end(&mut events).await;
    assert_eq!(seen.ended, (0..20).collect::<Vec<_>>());
    let last = seen.projects.last().unwrap();
    assert_eq!((last.state(), last.succeeded), (pb::ProjectState::Succeeded, 20));
    assert_eq!(last, &bench.get("test").await.unwrap());

    // An ended one tells the same from the start.
    let mut late = Seen::default();
    late.until_end(&mut watch(&bench, project, "").await).await;
    assert_eq!(late.ended, seen.ended);
}

#[tokio::test]
async fn a_restart_interrupts_readers_and_loses_nothing() {
    let mut bench = Bench::start().await;
    let project = bench.submit_good(spec(6)).await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent.work(2, |command| format!("{}\n", command[1]).into_bytes()).await;
    let running = agent.assigned(1).await.remove(0).attempt.unwrap();
    let mut events = watch(&bench, project, "").await;
    let mut seen = Seen::default();
    seen.until_ended(&mut events, 2).await;
    let request = pb::ResultsRequest { project: project.to_string(), ..Default::default() };
    let mut chunks = within(bench.projects().results(request)).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    let mut cursor = String::new();
    while bytes != b"1\n2\n" {
        let chunk = within(chunks.message()).await.unwrap().unwrap();
        bytes.extend_from_slice(&chunk.data);
        cursor = chunk.cursor;
    }

    // Open streams don't hold it up: they end.
    bench.restart().await;
    check_refused(within(chunks.message()).await, Code::Unavailable, "the coordinator is stopping");
    loop {
        match within(events.message()).await {
            Ok(Some(event)) => seen.take(event),
            ended => break check_refused(ended, Code::Unavailable, "the coordinator is stopping"),
        }
    }

    // What ran goes on: the attempt is announced, and not assigned again.
    let welcome_back = pb::Hello { live: vec![running], ..hello("host") };
    let mut agent = Agent::connect(&bench, welcome_back, 1).await;
    assert!(agent.welcome.discard.is_empty());
    agent.report(report(running, 0, b"3\n")).await;
    assert_eq!(agent.settled(1).await, [running]);
    agent.work(3, |command| format!("{}\n", command[1]).into_bytes()).await;
    let (rest, end) = results(&bench, project, &cursor).await;
    assert_eq!([bytes, rest].concat(), b"1\n2\n3\n4\n5\n6\n");
    assert_eq!(end.state(), pb::ProjectState::Succeeded);
    seen.until_end(&mut watch(&bench, project, &seen.cursor.clone()).await).await;
    assert_eq!(seen.ended, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_failed_task_fails_the_project_and_is_left_out() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(3)).await;
    let mut agent = Agent::connect(&bench, hello("host"), 3).await;
    for assignment in agent.assigned(3).await {
        let attempt = assignment.attempt.unwrap();
        let code = i32::from(attempt.task.unwrap().index == 1);
        agent.report(report(attempt, code, format!("{}\n", assignment.command[1]).as_bytes())).await;
    }
    agent.settled(3).await;
    let (bytes, end) = results(&bench, project, "").await;
    assert_eq!(bytes, b"1\n3\n");
    assert_eq!((end.state(), end.succeeded, end.failed), (pb::ProjectState::Failed, 2, 1));
    assert!(!end.message.is_empty());
}

#[tokio::test]
async fn a_project_with_split_and_reassemble_runs_through() {
    let bench = Bench::start().await;
    let split = pb::ItemSource { source: Some(Source::Split(task(&["seq", "3"]))) };
    let reassemble = pb::ReassembleSpec { how: Some(How::Command(task(&["rev"]))) };
    let spec = pb::ProjectSpec { items: Some(split), reassemble: Some(reassemble), ..spec(1) };
    let submitted = bench.submit(vec![header("", spec)]).await.unwrap().project.unwrap();
    assert_eq!((submitted.state(), submitted.tasks), (pb::ProjectState::Splitting, 0));
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent
        .work(1, |command| {
            assert_eq!(command, ["seq", "3"]);
            b"a\nb c\nd\n".to_vec()
        })
        .await;
    agent
        .work(3, |command| {
            assert_eq!(command[0], "echo");
            format!("<{}>", command[1]).into_bytes()
        })
        .await;
    let last = agent.assigned(1).await.remove(0);
    let phases: Vec<_> = agent.run_specs.iter().map(|one| (one.phase(), one.has_input)).collect();
    assert_eq!(phases, [(pb::Phase::Split, false), (pb::Phase::Task, false), (pb::Phase::Reassemble, true)]);
    assert_eq!(input(&bench, last.attempt, 0).await, b"<a><b c><d>");
    assert_eq!(input(&bench, last.attempt, 5).await, b" c><d>");
    agent.report(report(last.attempt.unwrap(), 0, b">d<>c b<>a<")).await;
    agent.settled(1).await;
    let (bytes, end) = results(&bench, submitted.id, "").await;
    assert_eq!((&bytes[..], end.tasks, end.state()), (&b">d<>c b<>a<"[..], 3, pb::ProjectState::Succeeded));
    let request = pb::LogsRequest {
        project: submitted.id.to_string(),
        phase: pb::Phase::Split.into(),
        ..Default::default()
    };
    assert_eq!(crate::logs::logs(&bench, request).await.unwrap().0, b"a\nb c\nd\n");
    let stale = pb::ReadInputRequest { attempt: last.attempt, offset: 0 };
    check_refused(
        within(bench.sessions().read_input(stale)).await,
        Code::FailedPrecondition,
        "not wanted any longer",
    );
}

async fn input(bench: &Bench, attempt: Option<pb::AttemptKey>, offset: u64) -> Vec<u8> {
    let request = pb::ReadInputRequest { attempt, offset };
    let mut chunks = within(bench.sessions().read_input(request)).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = within(chunks.message()).await.unwrap() {
        bytes.extend_from_slice(&chunk.data);
    }
    bytes
}

pub(crate) fn with_stdin(source: pb::stdin::Source) -> pb::TaskSpec {
    pb::TaskSpec { stdin: Some(pb::Stdin { source: Some(source) }), ..task(&["cat"]) }
}

#[tokio::test]
async fn a_stdin_from_the_item_is_assigned_and_can_be_read_again() {
    let bench = Bench::start().await;
    let stdin = pb::stdin::Source::Template("<{item}>{index}{{".to_owned());
    let spec = pb::ProjectSpec { task: Some(with_stdin(stdin)), ..list_spec(2) };
    bench.submit(vec![header("", spec), items(&["a", "b\n"])]).await.unwrap();
    let mut agent = Agent::connect(&bench, hello("host"), 2).await;
    let assigned = agent.assigned(2).await;
    let stdins: Vec<&[u8]> = assigned.iter().map(|one| &one.stdin[..]).collect();
    assert_eq!(stdins, [&b"<a>0{"[..], b"<b\n>1{"]);
    assert!(agent.run_specs[0].has_input, "for an agent that does not know of `stdin`");
    for (one, expected) in assigned.iter().zip(stdins) {
        assert_eq!(input(&bench, one.attempt, 0).await, expected);
        assert_eq!(input(&bench, one.attempt, 3).await, expected[3..]);
        assert_eq!(input(&bench, one.attempt, 99).await, b"");
    }
}

#[tokio::test]
async fn a_stdin_from_a_file_can_be_read_and_no_stdin_is_empty() {
    let bench = Bench::start().await;
    let contents = b"some words\n";
    let file = pb::StdinFile { sha256: sha256(contents), length: contents.len() as u64 };
    let stdin = with_stdin(pb::stdin::Source::File(file));
    let spec = pb::ProjectSpec { task: Some(stdin), ..spec(1) };
    let missing = bench.submit(vec![header("", spec.clone())]).await;
    check_bad_field(missing, "task.stdin.file", "the contents of the stdin (SHA-256");
    bench.submit(vec![header("", spec), blob(contents, contents, true)]).await.unwrap();
    let mut agent = Agent::connect(&bench, hello("host"), 2).await;
    let assigned = agent.assigned(1).await.remove(0);
    assert!(assigned.stdin.is_empty());
    assert_eq!(input(&bench, assigned.attempt, 0).await, contents);
    assert_eq!(input(&bench, assigned.attempt, 5).await, b"words\n");
    bench.submit_good(crate::bench::spec(1)).await;
    let assigned = agent.assigned(1).await.remove(0);
    assert_eq!(input(&bench, assigned.attempt, 0).await, b"");
}

#[tokio::test]
async fn sums_are_made_by_the_coordinator() {
    let bench = Bench::start().await;
    let spec = pb::ProjectSpec { reassemble: Some(built_in(pb::BuiltInReassemble::Sum)), ..spec(10) };
    let project = bench.submit_good(spec).await;
    let mut agent = Agent::connect(&bench, hello("host"), 1).await;
    agent.work(10, |command| format!("{}\n", command[1]).into_bytes()).await;
    let (bytes, end) = results(&bench, project, "").await;
    assert_eq!((&bytes[..], end.state()), (&b"55\n"[..], pb::ProjectState::Succeeded));
}

#[tokio::test]
async fn cursors_are_checked() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(1)).await.to_string();
    let results = async |cursor: &str| {
        let request =
            pb::ResultsRequest { project: project.clone(), cursor: cursor.to_owned(), no_wait: true };
        drain(within(bench.projects().results(request)).await?.into_inner()).await
    };
    check_bad_field(results("x").await, "cursor", "a cursor has the form generation.index.offset");
    check_bad_field(results("9.0.0").await, "cursor", "start again with an empty cursor");
    let watch = async |cursor: &str| {
        let request = pb::WatchRequest { project: project.clone(), cursor: cursor.to_owned() };
        within(within(bench.projects().watch(request)).await?.into_inner().message()).await
    };
    check_bad_field(watch("x").await, "cursor", "a watch cursor has the form generation.seq");
    check_bad_field(watch("9.0").await, "cursor", "the cursor is of generation 9, the project's is 1");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let bench = Bench::start().await;
    for _ in 0..5 {
        bench.submit_good(spec(3)).await;
    }
    let list = async |limit, before_id, active_only| {
        let request = pb::ListProjectsRequest { active_only, limit, before_id };
        let answer = within(bench.projects().list(request)).await?.into_inner();
        Ok::<_, Status>((answer.projects.iter().map(|one| one.id).collect::<Vec<_>>(), answer.more))
    };
    assert_eq!(list(2, 0, false).await.unwrap(), (vec![5, 4], true));
    assert_eq!(list(2, 4, false).await.unwrap(), (vec![3, 2], true));
    assert_eq!(list(2, 2, false).await.unwrap(), (vec![1], false));
    check_bad_field(list(1001, 0, false).await, "limit", "at most 1000, not 1001");
    within(bench.projects().cancel(pb::CancelProjectRequest { project: "3".to_owned() })).await.unwrap();
    assert_eq!(list(0, 0, true).await.unwrap(), (vec![5, 4, 2, 1], false));

    let mut agent = Agent::connect(&bench, hello("host"), 4).await;
    agent.assigned(4).await;
    let busy = within(bench.projects().list(pb::ListProjectsRequest::default())).await.unwrap().into_inner();
    let busy = busy.projects.iter().find(|one| one.running > 1).map_or(1, |one| one.id).to_string();
    let tasks = async |request: pb::ListTasksRequest| {
        let answer = within(bench.projects().list_tasks(request)).await?.into_inner();
        Ok::<_, Status>((answer.tasks, answer.more))
    };
    let request = pb::ListTasksRequest { project: busy, limit: 1, ..Default::default() };
    let (page, _) = tasks(request.clone()).await.unwrap();
    assert_eq!((page.len(), page[0].state(), page[0].agent.as_str()), (1, pb::TaskState::Running, "host"));
    let after = page[0].key;
    let (next, _) = tasks(pb::ListTasksRequest { after, ..request.clone() }).await.unwrap();
    assert!(next.iter().all(|one| one.key.unwrap().index > after.unwrap().index));
    let states = vec![pb::TaskState::Failed.into()];
    assert_eq!(tasks(pb::ListTasksRequest { states, ..request.clone() }).await.unwrap(), (Vec::new(), false));
    check_bad_field(
        tasks(pb::ListTasksRequest { states: vec![0], ..request.clone() }).await,
        "states[0]",
        "no value of TaskState",
    );
    let after = Some(pb::TaskKey::default());
    check_bad_field(tasks(pb::ListTasksRequest { after, ..request }).await, "after.phase", "missing");
}

#[tokio::test]
async fn names_mean_the_newest_and_numbers_win() {
    let bench = Bench::start().await;
    let named = |name: &str| pb::ProjectSpec { name: name.to_owned(), ..spec(1) };
    bench.submit_good(named("twin")).await;
    let second = bench.submit_good(named("twin")).await;
    let digits = bench.submit_good(named("1")).await;
    assert_eq!(bench.get("twin").await.unwrap().id, second);
    assert_eq!(bench.get("1").await.unwrap().id, 1);
    assert_eq!(bench.get(&digits.to_string()).await.unwrap().id, digits);
    check_refused(bench.get("no\nbody").await, Code::NotFound, "there is no project `no\\nbody`");
}

#[tokio::test]
async fn a_slow_reader_holds_nobody_up() {
    let bench = Bench::start().await;
    let project = bench.submit_good(spec(200)).await;
    // Opened, and not read.
    let mut slow = watch(&bench, project, "").await;
    let request = pb::ResultsRequest { project: project.to_string(), ..Default::default() };
    let _idle = within(bench.projects().results(request)).await.unwrap();
    // Opened, and read as fast as events come.
    let started = std::time::Instant::now();
    let mut fast = watch(&bench, project, "").await;
    let fast = tokio::spawn(async move {
        let mut seen = Seen::default();
        seen.until_end(&mut fast).await;
        seen
    });
    let mut agent = Agent::connect(&bench, hello("host"), 4).await;
    let mut done = 0;
    while done < 200 {
        for assignment in agent.assigned(1).await {
            let stdout = inline(&[b'x'; 30_000]);
            agent
                .report(pb::Report { stdout: Some(stdout), ..report(assignment.attempt.unwrap(), 0, b"") })
                .await;
            done += 1;
        }
    }
    let (bytes, end) = results(&bench, project, "").await;
    assert_eq!((bytes.len(), end.state()), (6_000_000, pb::ProjectState::Succeeded));
    let mut seen = Seen::default();
    seen.until_end(&mut slow).await;
    assert_eq!(seen.ended.len(), 200);
    let seen = within(fast).await.unwrap();
    assert_eq!(seen.ended.len(), 200);
    // Mere counts come at most ten times a second; besides, there are the first, the last, and a change of state.
    let most = started.elapsed().as_millis() / 100 + 4;
    assert!(seen.projects.len() as u128 <= most, "{} projects, at most {most}", seen.projects.len());
}
