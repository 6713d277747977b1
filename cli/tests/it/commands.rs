//! The commands against a coordinator: what they print, and how they end.

use crate::{
    fake::{Fake, State, project},
    program::{piecework, said},
};
use piecework_proto::v1;
use std::fs;

/// A snapshot of how the program ends with this coordinator.
async fn check(name: &str, fake: &Fake, args: &[&str]) {
    let output = piecework(fake.dir()).env("PIECEWORK_SERVER", fake.socket()).args(args).output().unwrap();
    // How long ago something was changes from day to day.
    insta::assert_snapshot!(name, without_ages(&said(fake.dir(), &output)));
}

/// Replaces `2 years ago` by `AGE`, and the space around it, which depends on its length.
fn without_ages(text: &str) -> String {
    let line = |line: &str| {
        let columns: Vec<&str> =
            line.split("   ").map(str::trim).filter(|column| !column.is_empty()).collect();
        let age =
            |column: &&str| if column.ends_with(" ago") { "AGE".to_owned() } else { (*column).to_owned() };
        match line.split_once(" (").filter(|(_, age)| age.ends_with(" ago)")) {
            Some((before, _)) => format!("{before} (AGE)"),
            None if line.contains(" ago") || line.contains("SUBMITTED") => {
                columns.iter().map(age).collect::<Vec<_>>().join("   ")
            }
            None => line.to_owned(),
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn outcome(kind: v1::OutcomeKind, code: i32) -> Option<v1::Outcome> {
    Some(v1::Outcome { kind: i32::from(kind), code, message: String::new() })
}

fn key(index: u32) -> Option<v1::TaskKey> {
    Some(v1::TaskKey { project_id: 1, phase: i32::from(v1::Phase::Task), index })
}

fn failed_state() -> State {
    let ended = |index, attempt, kind, code, recorded| v1::AttemptEnded {
        attempt: Some(v1::AttemptKey { task: key(index), attempt }),
        outcome: outcome(kind, code),
        recorded,
        agent: "host-a".to_owned(),
    };
    let attempt = |attempt, kind, code| v1::Attempt {
        attempt,
        agent: "host-a".to_owned(),
        outcome: outcome(kind, code),
        usage: Some(v1::Usage { wall_micros: 1500, peak_memory_bytes: 4096, ..v1::Usage::default() }),
        stderr_bytes: 20,
        ..v1::Attempt::default()
    };
    let chunk = |stream, data: &'static [u8]| v1::LogsChunk { stream: i32::from(stream), data: data.into() };
    State {
        project: v1::Project {
            succeeded: 1,
            failed: 1,
            message: "1 of 2 tasks failed".to_owned(),
            ..project(v1::ProjectState::Failed)
        },
        attempts: vec![
            ended(0, 1, v1::OutcomeKind::Exited, 0, true),
            ended(1, 1, v1::OutcomeKind::TimedOut, 0, false),
            ended(1, 2, v1::OutcomeKind::Exited, 3, true),
        ],
        tasks: vec![v1::Task {
            key: key(1),
            state: i32::from(v1::TaskState::Failed),
            item: "two\x1b[2J".to_owned(),
            attempt: 2,
            agent: "host-a".to_owned(),
            attempts: vec![attempt(1, v1::OutcomeKind::TimedOut, 0), attempt(2, v1::OutcomeKind::Exited, 3)],
            ..v1::Task::default()
        }],
        logs: vec![
            chunk(v1::OutputStream::Stdout, b"out\n"),
            chunk(v1::OutputStream::Stderr, b"trouble\nmore \x07trouble\nx: Read-only file system\n"),
        ],
        result: vec![b"one\n".to_vec()],
        ..State::default()
    }
}

fn write_project(fake: &Fake) {
    fs::write(fake.dir().join("p.yaml"), "image: a\nitems: [one, two]\ntask: {command: [echo, '{item}']}\n")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_succeeds() {
    let fake = Fake::start(State::default());
    write_project(&fake);
    check("run", &fake, &["run", "p.yaml"]).await;
    check("run_quiet", &fake, &["run", "-q", "p.yaml"]).await;
    check("submit", &fake, &["submit", "p.yaml"]).await;
    check("submit_watch", &fake, &["submit", "--watch", "p.yaml"]).await;
    check("watch", &fake, &["watch", "hello"]).await;
    check("results", &fake, &["results", "1"]).await;
    check("results_no_wait", &fake, &["results", "1", "--no-wait", "--output", "json"]).await;
    check("results_to_file", &fake, &["results", "1", "-o", "result.txt"]).await;
    assert_eq!(fs::read(fake.dir().join("result.txt")).unwrap(), b"one\ntwo\n");
    check("ls", &fake, &["ls"]).await;
    check("ls_all", &fake, &["ls", "-a"]).await;
    check("ls_json", &fake, &["ls", "-a", "--output", "json"]).await;
    check("cancel", &fake, &["cancel", "1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_come_in_pages_each_with_its_cause() {
    let limits = v1::TaskSpec {
        timeout_millis: 60_000,
        resources: Some(v1::Resources { memory_bytes: 64 << 20, pids_max: 128, cpus_milli: 0 }),
        ..v1::TaskSpec::default()
    };
    let task = |index, state, kind, code, usage| v1::Task {
        key: key(index),
        state: i32::from(state),
        item: format!("item {index}"),
        attempt: 1,
        agent: "host-a".to_owned(),
        attempts: vec![v1::Attempt {
            attempt: 1,
            agent: "host-a".to_owned(),
            outcome: outcome(kind, code),
            usage: Some(usage),
            ..v1::Attempt::default()
        }],
        ..v1::Task::default()
    };
    let used = v1::Usage { wall_micros: 61_000_000, user_micros: 1_500_000, ..v1::Usage::default() };
    let failed = |index, kind, code| task(index, v1::TaskState::Failed, kind, code, used);
    let refused = v1::Usage { pids_refused: 3, ..used };
    let spec = v1::ProjectSpec { task: Some(limits), ..v1::ProjectSpec::default() };
    let fake = Fake::start(State {
        project: v1::Project { spec: Some(spec), ..project(v1::ProjectState::Running) },
        tasks: vec![
            task(0, v1::TaskState::Succeeded, v1::OutcomeKind::Exited, 0, used),
            failed(1, v1::OutcomeKind::Signaled, 11),
            failed(2, v1::OutcomeKind::TimedOut, 0),
            failed(3, v1::OutcomeKind::OutOfMemory, 0),
            task(4, v1::TaskState::Failed, v1::OutcomeKind::PidsLimit, 0, refused),
            failed(5, v1::OutcomeKind::OutputLimit, 0),
            task(6, v1::TaskState::Todo, v1::OutcomeKind::WorkerLost, 0, used),
        ],
        ..State::default()
    });
    check("tasks", &fake, &["tasks", "1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_fails() {
    let fake = Fake::start(failed_state());
    write_project(&fake);
    check("failed_run", &fake, &["run", "p.yaml"]).await;
    check("failed_watch_json", &fake, &["watch", "1", "--output", "json"]).await;
    check("failed_results", &fake, &["results", "1"]).await;
    check("failed_tasks", &fake, &["tasks", "1"]).await;
    check("failed_tasks_json", &fake, &["tasks", "1", "--failed", "--json"]).await;
    check("failed_show", &fake, &["show", "1"]).await;
    check("failed_show_json", &fake, &["show", "1", "--output", "json"]).await;
    check("logs", &fake, &["logs", "1", "1"]).await;
    check("logs_stderr", &fake, &["logs", "1", "1", "--stderr"]).await;
    check("logs_json", &fake, &["logs", "1", "1", "--output", "json"]).await;
    check("logs_split", &fake, &["logs", "1", "--phase", "split"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_was_cancelled() {
    let fake = Fake::start(State { project: project(v1::ProjectState::Cancelled), ..State::default() });
    check("cancelled_results", &fake, &["results", "1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_waits_says_what_for() {
    let waiting = v1::Project { succeeded: 0, ended_millis: 0, ..project(v1::ProjectState::Running) };
    let agent = |name: &str, state, message: &str, held| v1::Agent {
        name: name.to_owned(),
        state: i32::from(state),
        message: message.to_owned(),
        slots: 2,
        held,
        runtime: "docker".to_owned(),
        version: "0.1.0".to_owned(),
        last_heard_millis: 1200,
        ..v1::Agent::default()
    };
    let fake = Fake::start(State { project: waiting, ..State::default() });
    fake.with(|state| {
        state.project.waiting = "an agent with the label gpu=true: no connected agent has it".to_owned();
    });
    check("show_waits", &fake, &["show", "1"]).await;
    fake.with(|state| {
        state.agents = vec![
            agent("host-a", v1::AgentState::NotReady, "Docker does not answer", 0),
            agent("host-b", v1::AgentState::Lost, "", 1),
        ];
    });
    check("agents", &fake, &["agents"]).await;
    check("agents_json", &fake, &["agents", "--output", "json"]).await;
}

/// A coordinator with one open project.
fn open_project() -> Fake {
    let open = v1::ItemOpen { idle_millis: 600_000 };
    let source = v1::ItemSource { source: Some(v1::item_source::Source::Open(open)) };
    let running = project(v1::ProjectState::Running);
    let spec = v1::ProjectSpec { items: Some(source), ..running.spec.clone().unwrap() };
    let project = v1::Project {
        spec: Some(spec),
        tasks: 0,
        succeeded: 0,
        ended_millis: 0,
        open: true,
        waiting: "tasks to be added: if none is within 8 minutes, no more are taken".to_owned(),
        ..running
    };
    Fake::start(State { project, ..State::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_added_to_an_open_project() {
    let fake = open_project();
    check("show_open", &fake, &["show", "hello"]).await;
    check("add", &fake, &["add", "hello", "one", "two", "--key", "k"]).await;
    check("add_again", &fake, &["add", "1", "one", "two", "three", "--key", "k"]).await;
    check("add_json", &fake, &["add", "1", "four", "--key", "own", "--output", "json"]).await;
    fs::write(fake.dir().join("items.txt"), "five\n\nsix\n").unwrap();
    check("add_file", &fake, &["add", "1", "-k", "f", "-f", "items.txt", "zero"]).await;
    check("add_bad_file", &fake, &["add", "1", "-f", "missing.txt"]).await;
    check("add_nothing", &fake, &["add", "1"]).await;
    check("add_end", &fake, &["add", "1", "--end"]).await;
    fake.with(|state| {
        let added: Vec<_> = state.added.iter().map(|(key, item)| format!("{key}={item}")).collect();
        assert_eq!(added, ["k.0=one", "k.1=two", "k.2=three", "own=four", "f.0=zero", "f.1=five", "f.2=six"]);
        state.refuse =
            Some(tonic::Status::failed_precondition("project 1 takes no more tasks: it was closed"));
    });
    check("add_refused", &fake, &["add", "1", "late"]).await;
    check("add_unknown_project", &fake, &["add", "nope", "late"]).await;
}

/// The keys of a call are its own, and stay the same while it is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn lines_are_added_once_though_answers_are_lost() {
    let fake = open_project();
    let lines: String = (0..2500).map(|n| format!("line {n}\n")).collect();
    for round in 1..=2 {
        fake.with(|state| state.unanswered = 2);
        let mut add = piecework(fake.dir());
        add.env("PIECEWORK_SERVER", fake.socket()).args(["add", "1", "-f", "-", "--quiet"]);
        let output = add.write_stdin(lines.clone()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 2500);
        fake.with(|state| assert_eq!(state.added.len(), round * 2500));
    }
    fake.with(|state| {
        let items = state.added.iter().map(|(_, item)| format!("{item}\n"));
        assert_eq!(items.collect::<String>(), lines.repeat(2));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_tell_fields_and_exit_codes() {
    use tonic_types::{ErrorDetails, StatusExt};
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("task.command[1]", "unknown placeholder {x}");
    let status = tonic::Status::with_error_details(
        tonic::Code::InvalidArgument,
        "task.command[1]: unknown placeholder {x}",
        details,
    );
    let fake = Fake::start(State { refuse: Some(status), ..State::default() });
    write_project(&fake);
    check("refused_input", &fake, &["submit", "p.yaml"]).await;
    fake.with(|state| state.refuse = Some(tonic::Status::resource_exhausted("the disk is full")));
    check("refused_full", &fake, &["submit", "p.yaml"]).await;
    check("unknown_project", &fake, &["show", "nope"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_two_projects_is_run_in_order() {
    let fake = Fake::start(State::default());
    let list = r#"[{"cmd":"echo","id_project":2,"id_task":1},{"cmd":"echo","id_project":1,"id_task":1}]"#;
    fs::write(fake.dir().join("list.json"), list).unwrap();
    check("run_list", &fake, &["run", "list.json", "--image", "busybox:local"]).await;
    fake.with(|state| {
        let names: Vec<&str> = state.received.iter().map(|received| received.spec.name.as_str()).collect();
        assert_eq!(names, ["list-1", "list-2"]);
    });
}

/// Events and result are streams of their own: only the order within each is certain.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_for_programs_tells_events_and_result() {
    let fake = Fake::start(State::default());
    write_project(&fake);
    let output = piecework(fake.dir())
        .env("PIECEWORK_SERVER", fake.socket())
        .args(["run", "p.yaml", "--output", "json"])
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["type"], "submitted");
    let of = |kind: &str, field: &str| -> Vec<String> {
        let lines = lines.iter().filter(|line| line["type"] == kind);
        lines.map(|line| line[field].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(of("result", "text"), ["one\n", "two\n"]);
    assert_eq!(of("project", "state"), ["running", "succeeded"]);
    assert_eq!(output.stderr, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_unchanged() {
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let fake =
        Fake::start(State { result: vec![binary.clone(), b"no newline".to_vec()], ..State::default() });
    let output =
        piecework(fake.dir()).env("PIECEWORK_SERVER", fake.socket()).args(["results", "1"]).output().unwrap();
    assert_eq!(output.stdout, [binary, b"no newline".to_vec()].concat());
}
