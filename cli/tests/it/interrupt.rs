//! Ctrl-C, and a reader of stdout that goes away.

use crate::fake::{Fake, State, project};
use piecework_proto::v1;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a program that was interrupted may take to end on a machine that is very busy.
const END_MAX: Duration = Duration::from_secs(60);

fn write_project(fake: &Fake) {
    fs::write(fake.dir().join("p.yaml"), "image: a\nitems: [one, two]\ntask: {command: [echo, '{item}']}\n")
        .unwrap();
}

fn program(fake: &Fake, args: &[&str]) -> Command {
    let mut program = Command::new(assert_cmd::cargo::cargo_bin!("piecework"));
    program
        .current_dir(fake.dir())
        .env_clear()
        .env("PIECEWORK_SERVER", fake.socket())
        .args(args)
        .stdin(Stdio::piped());
    program
}

fn start(fake: &Fake, args: &[&str]) -> Child {
    write_project(fake);
    program(fake, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn interrupt(child: &Child) {
    send(child, "-INT");
}

fn send(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits for the program's end, and returns its exit code.
fn end(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + END_MAX;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            panic!("the program goes on");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn until_cancelled() -> State {
    State { until_cancelled: true, project: project(v1::ProjectState::Cancelled), ..State::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_what_runs() {
    let fake = Fake::start(until_cancelled());
    let mut child = start(&fake, &["run", "p.yaml"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The result is printed while the project still runs.
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fake.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_says_what_for() {
    let mut waits = until_cancelled();
    waits.project.waiting = "an agent with the label gpu=true: no connected agent has it".to_owned();
    let fake = Fake::start(waits);
    let mut child = start(&fake, &["run", "p.yaml"]);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = lines.find(|line| line.contains("waits for"));
    assert_eq!(
        told.as_deref(),
        Some("note: hello waits for an agent with the label gpu=true: no connected agent has it")
    );
    interrupt(&child);
    assert_eq!(end(&mut child), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_what_is_only_watched() {
    let fake = Fake::start(until_cancelled());
    let mut child = start(&fake, &["results", "1"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!fake.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stdout_ends_quietly() {
    let result = vec![vec![b'x'; 200_000]; 20];
    let fake = Fake::start(State { result, ..until_cancelled() });
    let mut child = start(&fake, &["run", "-q", "p.yaml"]);
    let mut first = [0; 10];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(fake.is_cancelled(), "nobody waits for the result any more");
}

/// As `| less` does it: what was read fills a screen, and the rest waits.
async fn interrupted_while_the_reader_pauses(args: &[&str]) {
    // Each chunk is more than a pipe holds.
    let result = vec![vec![b'x'; 200_000]; 20];
    let fake = Fake::start(State { result, ..until_cancelled() });
    let mut child = start(&fake, args);
    let mut stdout = child.stdout.take().unwrap();
    // The project's number and state come first as JSON, never as much as this.
    stdout.read_exact(&mut [0; 10_000]).unwrap();
    interrupt(&child);
    assert_eq!(end(&mut child), Some(130));
    assert!(fake.is_cancelled());
    drop(stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_while_the_reader_of_stdout_pauses() {
    interrupted_while_the_reader_pauses(&["run", "p.yaml"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_while_the_reader_of_json_pauses() {
    interrupted_while_the_reader_pauses(&["run", "p.yaml", "--output", "json"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_what_is_being_submitted() {
    let fake = Fake::start(State { holds_answers: true, ..until_cancelled() });
    let mut child = start(&fake, &["run", "p.yaml"]);
    fake.wait_for(|state| !state.received.is_empty()).await;
    interrupt(&child);
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
    let note = notes.next().unwrap().unwrap();
    assert!(note.contains("waiting for the submission's answer"), "{note}");
    fake.with(|state| state.holds_answers = false);
    assert_eq!(end(&mut child), Some(130));
    assert!(fake.is_cancelled());
}

/// Waits until the program handles both signals.
fn wait_for_handlers(child: &Child) {
    const INT_AND_TERM: u64 = 1 << (2 - 1) | 1 << (15 - 1);
    let deadline = Instant::now() + END_MAX;
    let status = format!("/proc/{}/status", child.id());
    loop {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        if u64::from_str_radix(caught, 16).unwrap() & INT_AND_TERM == INT_AND_TERM {
            return;
        }
        assert!(Instant::now() < deadline, "the signals are not handled");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_what_still_reads_its_input() {
    let fake = Fake::start(State::default());
    for signal in ["-INT", "-TERM"] {
        let mut child = start(&fake, &["run", "-"]);
        let stdin = child.stdin.take();
        wait_for_handlers(&child);
        send(&child, signal);
        assert_eq!(end(&mut child), Some(130), "{signal}");
        drop(stdin);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_signals_end_it_even_if_nobody_reads_stderr() {
    let fake = Fake::start(State { result: vec![vec![b'x'; 200_000]; 20], ..until_cancelled() });
    write_project(&fake);
    // As with `2>&1 | less`.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = program(&fake, &["run", "p.yaml"])
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    reader.read_exact(&mut [0; 10_000]).unwrap();
    // Not the same one twice: it could count once.
    send(&child, "-INT");
    send(&child, "-TERM");
    assert_eq!(end(&mut child), Some(130));
    drop(reader);
}
