//! Tests of the link against frames written by hand: order, offsets, and what a dead or lying init does.

use super::*;
use crate::domain::Phase;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

/// The far end, played by the test.
struct Far(DuplexStream);

impl Far {
    async fn send(&mut self, event: &Event) {
        let mut bytes = Vec::new();
        event.encode(&mut bytes).unwrap();
        self.0.write_all(&bytes).await.unwrap();
    }

    async fn request(&mut self) -> Request {
        let mut bytes = Vec::new();
        loop {
            bytes.push(self.0.read_u8().await.unwrap());
            if let Some((request, _)) = frame::decode(&bytes).unwrap() {
                return request;
            }
        }
    }
}

async fn open_with(hello: Event) -> (Far, Result<(InitSender, InitReceiver, InitState), LinkError>) {
    let (near, far) = duplex(1 << 20);
    let mut far = Far(far);
    far.send(&hello).await;
    (far, open(Box::new(near)).await)
}

async fn open_in(state: frame::State) -> (Far, InitSender, InitReceiver, InitState) {
    let (far, opened) = open_with(Event::Hello { version: frame::FRAME_VERSION, state }).await;
    let (sender, receiver, state) = opened.unwrap();
    (far, sender, receiver, state)
}

fn output(offset: u64, bytes: &[u8]) -> Event {
    Event::Output { stream: frame::Stream::Stdout, offset, bytes: bytes.to_vec() }
}

fn exited(stdout_length: u64) -> Event {
    Event::Exited(frame::Exit {
        outcome: frame::Outcome::Exited(3),
        usage: frame::Usage::default(),
        stdout_length,
        stderr_length: 0,
    })
}

fn command() -> RunCommand {
    RunCommand {
        attempt: AttemptKey { project: 7, phase: Phase::Task, index: 12, attempt: 2 },
        command: vec!["true".into()],
        env: vec![("A".into(), "1".into())],
        workdir: None,
        timeout: Some(Duration::from_secs(3)),
        output_bytes_max: 5,
        has_stdin: true,
    }
}

#[tokio::test]
async fn an_attempt_from_run_to_exit() {
    let (mut far, mut sender, mut receiver, state) = open_in(frame::State::Idle).await;
    assert_eq!(state, InitState::Idle);
    sender.run(&command()).await.unwrap();
    let Request::Run(run) = far.request().await else { panic!() };
    assert_eq!(
        (run.attempt.as_str(), run.timeout, run.has_stdin),
        ("7-task-12-2", Some(Duration::from_secs(3)), true)
    );
    far.send(&Event::Started).await;
    far.send(&output(0, b"ab")).await;
    far.send(&output(2, b"c")).await;
    far.send(&exited(3)).await;
    assert_eq!(receiver.next().await.unwrap(), InitEvent::Started);
    for (offset, bytes) in [(0, &b"ab"[..]), (2, b"c")] {
        let event = InitEvent::Output { stream: OutputStream::Stdout, offset, bytes: bytes.into() };
        assert_eq!(receiver.next().await.unwrap(), event);
    }
    let InitEvent::Exited(exit) = receiver.next().await.unwrap() else { panic!() };
    assert_eq!((exit.outcome, exit.stdout_length), (Outcome::Exited(3), 3));
    drop(far);
    assert!(matches!(receiver.next().await, Err(LinkError::Closed)));
    assert!(matches!(sender.release().await, Err(LinkError::Closed)));
}

/// What init says after a Run from the agent; the receiver must refuse the last of it.
async fn check_untrue(events: &[Event]) {
    let (mut far, mut sender, mut receiver, _) = open_in(frame::State::Idle).await;
    sender.run(&command()).await.unwrap();
    for event in events {
        far.send(event).await;
    }
    for _ in 1..events.len() {
        receiver.next().await.unwrap();
    }
    let last = receiver.next().await;
    assert!(matches!(last, Err(LinkError::Protocol(_))), "{last:?}");
}

#[tokio::test]
async fn what_can_t_be_true_is_refused() {
    check_untrue(&[output(1, b"gap")]).await;
    check_untrue(&[output(0, b"ab"), output(1, b"overlap")]).await;
    check_untrue(&[output(0, b"ab"), exited(3)]).await;
    check_untrue(&[output(u64::MAX, b"ab")]).await;
    check_untrue(&[Event::Hello { version: 1, state: frame::State::Idle }]).await;
    let (_, opened) = open_with(Event::Started).await;
    assert!(matches!(opened, Err(LinkError::Protocol(_))));
    let (_, opened) = open_with(Event::Hello { version: 999, state: frame::State::Idle }).await;
    assert!(matches!(opened, Err(LinkError::Protocol(why)) if why.contains("999")));
}

#[tokio::test]
async fn output_goes_on_from_where_it_was_asked_for() {
    let ended = frame::State::Ended { attempt: "7-task-12-2".into() };
    let (mut far, mut sender, mut receiver, state) = open_in(ended).await;
    assert_eq!(state, InitState::Ended { attempt: "7-task-12-2".into() });
    sender.resume(10, 0).await.unwrap();
    far.send(&output(10, b"x")).await;
    far.send(&exited(11)).await;
    assert!(matches!(receiver.next().await, Ok(InitEvent::Output { offset: 10, .. })));
    assert!(matches!(receiver.next().await, Ok(InitEvent::Exited(_))));
}

#[tokio::test]
async fn stdin_has_a_window_over_all_connections() {
    let state = frame::State::Running { attempt: "a".into(), stdin_bytes: 1000, stdin_waiting_bytes: 100 };
    let (mut far, mut sender, mut receiver, _) = open_in(state).await;
    assert_eq!((sender.stdin_sent(), sender.stdin_room()), (1000, STDIN_WINDOW_BYTES - 100));
    sender.stdin(Bytes::from(vec![0; 100_000])).await.unwrap();
    assert_eq!((sender.stdin_sent(), sender.stdin_room()), (101_000, STDIN_WINDOW_BYTES - 100_100));
    let mut received = 0;
    while received < 100_000 {
        let Request::Stdin(bytes) = far.request().await else { panic!() };
        assert!(bytes.len() <= CHUNK_BYTES_MAX);
        received += bytes.len();
    }
    far.send(&Event::StdinWritten { bytes: 100_100 }).await;
    receiver.next().await.unwrap();
    assert_eq!(sender.stdin_room(), STDIN_WINDOW_BYTES);
    let flood = sender.stdin(Bytes::from(vec![0; STDIN_BYTES_MAX + 1])).await;
    assert!(matches!(flood, Err(LinkError::Protocol(_))));
}

#[tokio::test]
async fn a_command_that_is_too_long_leaves_the_connection_good() {
    let (mut far, mut sender, _receiver, _) = open_in(frame::State::Idle).await;
    let long = RunCommand { command: vec!["x".repeat(frame::RUN_FRAME_BYTES_MAX)], ..command() };
    assert!(matches!(sender.run(&long).await, Err(LinkError::Frame(FrameError::TooLong { .. }))));
    sender.kill(Duration::ZERO).await.unwrap();
    assert_eq!(far.request().await, Request::Kill { grace: Duration::ZERO });
}

/// `next` in a `select!` that drops it again and again loses nothing.
#[tokio::test]
async fn waiting_can_be_cancelled() {
    let (mut far, mut sender, mut receiver, _) = open_in(frame::State::Idle).await;
    sender.run(&command()).await.unwrap();
    let mut bytes = Vec::new();
    output(0, b"hello").encode(&mut bytes).unwrap();
    for byte in bytes {
        tokio::select! {
            biased;
            event = receiver.next() => panic!("{event:?}"),
            () = tokio::task::yield_now() => {}
        }
        far.0.write_all(&[byte]).await.unwrap();
    }
    assert!(matches!(receiver.next().await, Ok(InitEvent::Output { bytes, .. }) if bytes == "hello"));
}
