//! Tests of the scripted runtime: each word of a script does what it says.

use super::*;
use crate::{
    domain::{AttemptKey, Isolation, Outcome, OutputStream, Phase},
    init_link::{self, Held, HeldState, InitEvent, InitExit, InitLink, LinkError, Offsets, RunCommand},
    runtime::{PreparedImage, WorkerShape},
    sweep::{Swept, sweep},
};
use std::{collections::BTreeSet, path::PathBuf, time::Duration};

struct NoBlobs;

#[async_trait]
impl Blobs for NoBlobs {
    async fn fetch(&self, _sha256: &[u8; 32]) -> Result<PathBuf, ImageError> {
        Err(ImageError::Unavailable("no blobs".into()))
    }
}

pub(crate) fn spec(id: &str, image: &str) -> WorkerSpec {
    let image = PreparedImage { handle: image.into(), env: Vec::new(), workdir: None, volumes: Vec::new() };
    let shape = WorkerShape {
        image: Arc::new(image),
        isolation: Isolation::Sealed,
        cpus_milli: None,
        memory_bytes: None,
        pids_max: None,
        network: false,
        workdir: None,
    };
    WorkerSpec { id: WorkerId(id.into()), shape: Arc::new(shape) }
}

fn command(steps: &[&str]) -> RunCommand {
    numbered(1, steps)
}

fn attempt(index: u32) -> AttemptKey {
    AttemptKey { project: 1, phase: Phase::Task, index, attempt: 1 }
}

fn numbered(number: u32, steps: &[&str]) -> RunCommand {
    RunCommand {
        number: number.into(),
        attempt: attempt(number),
        command: ["scripted"].iter().chain(steps).map(ToString::to_string).collect(),
        env: Vec::new(),
        workdir: None,
        timeout: None,
        output_bytes_max: 10_000_000,
        has_stdin: false,
    }
}

/// Follows the next run to its end, acknowledging all; what it printed, and how it ended.
async fn follow(link: &mut InitLink) -> Result<([Vec<u8>; 2], InitExit), LinkError> {
    let mut outputs = [Vec::new(), Vec::new()];
    loop {
        match link.event().await? {
            InitEvent::Output { run, stream, offset, bytes } => {
                outputs[usize::from(stream == OutputStream::Stderr)].extend_from_slice(&bytes);
                link.ack(run, stream, offset + bytes.len() as u64);
            }
            InitEvent::Exited(run, exit) => {
                link.release(run);
                return Ok((outputs, exit));
            }
            InitEvent::Started(_) | InitEvent::StdinWritten => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn start(runtime: &ScriptedRuntime, id: &str) -> InitLink {
    let connection = runtime.create(&spec(id, "any")).await.unwrap();
    InitLink::open(connection).await.unwrap().0
}

async fn run(command: &RunCommand) -> Result<([Vec<u8>; 2], InitExit), LinkError> {
    let mut link = start(&ScriptedRuntime::new(), "w").await;
    link.run(command)?;
    follow(&mut link).await
}

async fn check(steps: &[&str], expected: Outcome, stdout: &str) {
    let ([out, _], exit) = run(&command(steps)).await.unwrap();
    assert_eq!((exit.outcome, String::from_utf8(out).unwrap().as_str()), (expected, stdout), "{steps:?}");
}

#[tokio::test]
async fn every_ending() {
    check(&["print=hello", "err=no", "raw=x"], Outcome::Exited(0), "hello\nx").await;
    check(&["sleep=1ms", "exit=3", "print=never"], Outcome::Exited(3), "").await;
    check(&["signal=9"], Outcome::Signaled(9), "").await;
    check(&["oom"], Outcome::OutOfMemory, "").await;
    check(&["pids"], Outcome::PidsLimit, "").await;
    check(&["start-failure"], Outcome::CouldNotStart("the script says so".into()), "").await;
    let timeout = Some(Duration::from_millis(20));
    let (_, exit) = run(&RunCommand { timeout, ..command(&["hang"]) }).await.unwrap();
    assert_eq!(exit.outcome, Outcome::TimedOut);
    let ([out, _], exit) = run(&RunCommand { output_bytes_max: 30, ..command(&["bytes=31"]) }).await.unwrap();
    assert_eq!((exit.outcome, out.len()), (Outcome::OutputLimit, 30));
}

#[tokio::test]
async fn more_output_than_is_kept_comes_through_whole() {
    let ([out, _], exit) = run(&command(&["bytes=5000000", "err=end"])).await.unwrap();
    assert_eq!((exit.stdout_length, out.len()), (5_000_000, 5_000_000));
    assert!(out.iter().zip((b'a'..=b'z').cycle()).all(|(is, wanted)| *is == wanted));
}

#[tokio::test]
async fn stdin_is_copied_and_credited() {
    let mut link = start(&ScriptedRuntime::new(), "w").await;
    link.run(&RunCommand { has_stdin: true, ..command(&["cat", "sleep=1s", "exit=1"]) }).unwrap();
    assert_eq!(link.event().await.unwrap(), InitEvent::Started(1));
    link.stdin(1, b"ab").unwrap();
    link.stdin(1, b"c").unwrap();
    assert_eq!(link.stdin_room(1), init_link::STDIN_WINDOW_BYTES - 3);
    while link.stdin_room(1) < init_link::STDIN_WINDOW_BYTES {
        assert_eq!(link.event().await.unwrap(), InitEvent::StdinWritten);
    }
    link.close_stdin(1);
    let ([out, _], exit) = follow(&mut link).await.unwrap();
    assert_eq!((out.as_slice(), exit.outcome), (b"abc".as_slice(), Outcome::Exited(1)));
}

#[tokio::test]
async fn losses_are_told_apart() {
    for (step, expected) in [
        ("worker-lost", Gone::Worker("the script says so".into())),
        ("worker-oom", Gone::OutOfMemory),
        ("engine-lost", Gone::Engine("the script says so".into())),
    ] {
        let runtime = ScriptedRuntime::new();
        let spec = spec("w", "any");
        let mut link = start(&runtime, "w").await;
        let runs = [numbered(1, &["exit=0"]), numbered(2, &["print=a", step]), numbered(3, &["exit=0"])];
        runtime.note(&spec.id, &[1, 2, 3].map(|index| (index.into(), attempt(index))), 1).unwrap();
        for run in &runs {
            link.run(run).unwrap();
        }
        follow(&mut link).await.unwrap();
        let lost = follow(&mut link).await;
        assert!(matches!(lost, Err(LinkError::Closed)), "{lost:?}");
        assert_eq!(runtime.why_gone(&spec.id).await, expected);
        assert_eq!(runtime.begun(&spec.id), Some(Begun { run: 2, attempts: vec![(2, attempt(2))] }));
        assert!(runtime.connect(&spec.id).await.is_err());
    }
}

#[tokio::test]
async fn a_new_agent_adopts_what_runs_and_what_ended() {
    let runtime = ScriptedRuntime::new();
    let spec = spec("w", "any");
    let mut first = start(&runtime, "w").await;
    first.run(&command(&["print=one", "hang"])).unwrap();
    assert_eq!(first.event().await.unwrap(), InitEvent::Started(1));

    let state = HeldState::Running { stdin_bytes: 0, stdin_waiting_bytes: 0 };
    let (mut second, hello) = connect(&runtime, &spec.id).await;
    assert_eq!(hello.held, [Held { run: 1, attempt: "1-task-1-1".into(), state }]);
    second.resume(vec![Offsets { run: 1, stdout: 0, stderr: 0 }]);
    while !matches!(second.event().await.unwrap(), InitEvent::Output { .. }) {}
    second.kill(1, Duration::from_secs(9));
    let killed = second.event().await.unwrap();
    assert!(matches!(killed, InitEvent::Exited(1, exit) if exit.outcome == Outcome::Cancelled));
    while first.event().await.is_ok() {}

    let (mut third, hello) = connect(&runtime, &spec.id).await;
    assert_eq!(hello.held, [Held { run: 1, attempt: "1-task-1-1".into(), state: HeldState::Ended }]);
    third.resume(vec![Offsets { run: 1, stdout: 4, stderr: 0 }]);
    assert!(matches!(third.event().await.unwrap(), InitEvent::Exited(1, _)));
    third.release(1);
    // It is answered after all that was said before it.
    third.recall(0);
    assert_eq!(third.event().await.unwrap(), InitEvent::Recalled(1));
    assert_eq!(connect(&runtime, &spec.id).await.1.held, []);
}

async fn connect(runtime: &ScriptedRuntime, id: &WorkerId) -> (InitLink, init_link::Hello) {
    InitLink::open(runtime.connect(id).await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn runs_wait_for_each_other_and_what_waits_can_be_taken_back_or_killed() {
    let mut link = start(&ScriptedRuntime::new(), "w").await;
    for (number, steps) in [(1, "hang"), (2, "print=never"), (3, "print=two"), (4, "print=never")] {
        link.run(&numbered(number, &[steps])).unwrap();
    }
    assert_eq!(link.event().await.unwrap(), InitEvent::Started(1));
    link.recall(4);
    assert_eq!(link.event().await.unwrap(), InitEvent::Recalled(4));
    link.kill(2, Duration::ZERO);
    link.kill(1, Duration::ZERO);
    for _ in 0..2 {
        let ([out, _], exit) = follow(&mut link).await.unwrap();
        assert_eq!((out.len(), exit.outcome), (0, Outcome::Cancelled));
    }
    assert_eq!(follow(&mut link).await.unwrap().0[0], b"two\n");
}

#[tokio::test]
async fn a_spoilt_worker_ends_its_run_and_begins_no_other() {
    let runtime = ScriptedRuntime::new();
    let mut link = start(&runtime, "w").await;
    link.run(&command(&["spoil", "exit=4"])).unwrap();
    link.run(&numbered(2, &["exit=0"])).unwrap();
    let (_, exit) = follow(&mut link).await.unwrap();
    assert_eq!(exit.outcome, Outcome::Exited(4));
    assert_eq!(link.event().await.unwrap(), InitEvent::Recalled(2));
    let InitEvent::Spent(why) = link.event().await.unwrap() else { panic!() };
    assert_eq!(connect(&runtime, &WorkerId("w".into())).await.1.spent, Some(why));
}

#[tokio::test]
async fn images_and_engines_fail_on_command() {
    let runtime = ScriptedRuntime::new();
    let prepare = |name: &str| ImageSpec::Reference(name.into());
    assert!(matches!(runtime.prepare(&prepare("missing"), &NoBlobs).await, Err(ImageError::Unavailable(_))));
    assert!(matches!(runtime.prepare(&prepare("no-engine"), &NoBlobs).await, Err(ImageError::Engine(_))));
    assert!(runtime.prepare(&prepare("any"), &NoBlobs).await.is_ok());
    let half_made = spec("a", "no-worker");
    assert!(matches!(runtime.create(&half_made).await, Err(WorkerError::Worker(_))));
    runtime.discard(&half_made.id).await.unwrap();
    runtime.set_not_ready(Some("down"));
    assert_eq!(runtime.ready().await, Err("down".into()));
    assert!(matches!(runtime.create(&spec("a", "any")).await, Err(WorkerError::Engine(_))));
    assert_eq!(runtime.workers().await.unwrap(), []);
}

#[tokio::test]
async fn the_sweep_leaves_what_was_adopted() {
    let runtime = ScriptedRuntime::new();
    for number in 0..20 {
        drop(runtime.create(&spec(&format!("w{number}"), "any")).await.unwrap());
    }
    let adopted = BTreeSet::from([WorkerId("w3".into()), WorkerId("not-there".into())]);
    assert_eq!(sweep(&runtime, &adopted).await.unwrap(), Swept { removed: 19, failed: 0 });
    assert_eq!(runtime.workers().await.unwrap(), [WorkerId("w3".into())]);
    runtime.discard(&WorkerId("w3".into())).await.unwrap();
    runtime.discard(&WorkerId("w3".into())).await.unwrap();
}
