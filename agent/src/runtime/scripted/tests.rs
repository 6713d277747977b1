//! Tests of the scripted runtime: each word of a script does what it says.

use super::*;
use crate::{
    domain::{AttemptKey, Isolation, Outcome, OutputStream, Phase, RunSpec, StdinFrom},
    init_link::{self, InitEvent, InitExit, InitReceiver, InitSender, InitState, LinkError, RunCommand},
    runtime::PreparedImage,
    sweep::{Swept, sweep},
};
use bytes::Bytes;
use std::{collections::BTreeSet, path::PathBuf, time::Duration};

struct NoBlobs;

#[async_trait]
impl Blobs for NoBlobs {
    async fn fetch(&self, _sha256: &[u8; 32]) -> Result<PathBuf, ImageError> {
        Err(ImageError::Unavailable("no blobs".into()))
    }
}

pub(crate) fn spec(id: &str, image: &str) -> WorkerSpec {
    let run = RunSpec {
        project_name: "test".into(),
        image: ImageSpec::Reference(image.into()),
        env: BTreeMap::new(),
        workdir: None,
        timeout: None,
        cpus_milli: None,
        memory_bytes: None,
        pids_max: None,
        network: false,
        output_bytes_max: 1 << 20,
        stdin: StdinFrom::Nothing,
        isolation: Isolation::Sealed,
    };
    let image = PreparedImage { handle: image.into(), env: Vec::new(), workdir: None };
    WorkerSpec { id: WorkerId(id.into()), image: Arc::new(image), run: Arc::new(run) }
}

fn command(steps: &[&str]) -> RunCommand {
    RunCommand {
        attempt: AttemptKey { project: 1, phase: Phase::Task, index: 0, attempt: 1 },
        command: ["scripted"].iter().chain(steps).map(ToString::to_string).collect(),
        env: Vec::new(),
        workdir: None,
        timeout: None,
        output_bytes_max: 10_000_000,
        has_stdin: false,
    }
}

/// Follows an attempt to its end, acknowledging all; what it printed, and how it ended.
async fn follow(
    sender: &mut InitSender,
    receiver: &mut InitReceiver,
) -> Result<([Vec<u8>; 2], InitExit), LinkError> {
    let mut outputs = [Vec::new(), Vec::new()];
    loop {
        match receiver.next().await? {
            InitEvent::Output { stream, offset, bytes } => {
                outputs[usize::from(stream == OutputStream::Stderr)].extend_from_slice(&bytes);
                sender.ack(stream, offset + bytes.len() as u64).await?;
            }
            InitEvent::Exited(exit) => {
                sender.release().await?;
                return Ok((outputs, exit));
            }
            InitEvent::Started | InitEvent::StdinWritten { .. } => {}
        }
    }
}

async fn run(command: &RunCommand) -> Result<([Vec<u8>; 2], InitExit), LinkError> {
    let runtime = ScriptedRuntime::new();
    let connection = runtime.create(&spec("w", "any")).await.unwrap();
    let (mut sender, mut receiver, _) = init_link::open(connection).await?;
    sender.run(command).await?;
    follow(&mut sender, &mut receiver).await
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
    let runtime = ScriptedRuntime::new();
    let connection = runtime.create(&spec("w", "any")).await.unwrap();
    let (mut sender, mut receiver, _) = init_link::open(connection).await.unwrap();
    sender.run(&RunCommand { has_stdin: true, ..command(&["cat", "exit=1"]) }).await.unwrap();
    sender.stdin(Bytes::from("ab")).await.unwrap();
    sender.stdin(Bytes::from("c")).await.unwrap();
    sender.close_stdin().await.unwrap();
    let ([out, _], exit) = follow(&mut sender, &mut receiver).await.unwrap();
    assert_eq!((out.as_slice(), exit.outcome), (b"abc".as_slice(), Outcome::Exited(1)));
    assert_eq!(sender.stdin_room(), init_link::STDIN_WINDOW_BYTES);
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
        let connection = runtime.create(&spec).await.unwrap();
        let (mut sender, mut receiver, _) = init_link::open(connection).await.unwrap();
        sender.run(&command(&["print=a", step])).await.unwrap();
        let lost = follow(&mut sender, &mut receiver).await;
        assert!(matches!(lost, Err(LinkError::Closed)), "{lost:?}");
        assert_eq!(runtime.why_gone(&spec.id).await, expected);
        assert!(runtime.connect(&spec.id).await.is_err());
    }
}

#[tokio::test]
async fn a_new_agent_adopts_what_runs_and_what_ended() {
    let runtime = ScriptedRuntime::new();
    let spec = spec("w", "any");
    let connection = runtime.create(&spec).await.unwrap();
    let (mut sender, mut receiver, state) = init_link::open(connection).await.unwrap();
    assert_eq!(state, InitState::Idle);
    sender.run(&command(&["print=one", "hang"])).await.unwrap();
    assert_eq!(receiver.next().await.unwrap(), InitEvent::Started);

    let (mut second, mut events, state) =
        init_link::open(runtime.connect(&spec.id).await.unwrap()).await.unwrap();
    assert_eq!(state, InitState::Running { attempt: "1-task-0-1".into() });
    second.resume(0, 0).await.unwrap();
    while !matches!(events.next().await.unwrap(), InitEvent::Output { .. }) {}
    second.kill(Duration::from_secs(9)).await.unwrap();
    assert!(
        matches!(events.next().await.unwrap(), InitEvent::Exited(exit) if exit.outcome == Outcome::Cancelled)
    );
    while receiver.next().await.is_ok() {}

    let (mut third, mut events, state) =
        init_link::open(runtime.connect(&spec.id).await.unwrap()).await.unwrap();
    assert_eq!(state, InitState::Ended { attempt: "1-task-0-1".into() });
    third.resume(4, 0).await.unwrap();
    assert!(matches!(events.next().await.unwrap(), InitEvent::Exited(_)));
    third.release().await.unwrap();
    let (_, _, state) = init_link::open(runtime.connect(&spec.id).await.unwrap()).await.unwrap();
    assert_eq!(state, InitState::Idle);
}

#[tokio::test]
async fn images_and_engines_fail_on_command() {
    let runtime = ScriptedRuntime::new();
    let prepare = |name: &str| ImageSpec::Reference(name.into());
    assert!(matches!(runtime.prepare(&prepare("missing"), &NoBlobs).await, Err(ImageError::Unavailable(_))));
    assert!(matches!(runtime.prepare(&prepare("no-engine"), &NoBlobs).await, Err(ImageError::Engine(_))));
    assert!(runtime.prepare(&prepare("any"), &NoBlobs).await.is_ok());
    assert!(matches!(runtime.create(&spec("a", "no-worker")).await, Err(WorkerError::Worker(_))));
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
