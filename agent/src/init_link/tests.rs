//! Tests of the link against frames written by hand: order, offsets, and what a dead or lying init does.

use super::*;
use crate::domain::Phase;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

/// For tests that wait for one event after the other.
impl InitLink {
    /// The next event, when it comes; what is to be said is said meanwhile.
    pub(crate) async fn event(&mut self) -> Result<InitEvent, LinkError> {
        loop {
            if let Some(event) = self.heard()? {
                return Ok(event);
            }
            self.exchange().await?;
        }
    }

    /// Says all that is to be said.
    pub(crate) async fn flush(&mut self) -> Result<(), LinkError> {
        while self.has_to_say() {
            self.exchange().await?;
        }
        Ok(())
    }
}

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

fn hello(held: Vec<Held>) -> Event {
    Event::Hello { version: frame::FRAME_VERSION, runs_max: 4, held, spent: None }
}

async fn open_with(hello: Event) -> (Far, Result<(InitLink, Hello), LinkError>) {
    let (near, far) = duplex(1 << 20);
    let mut far = Far(far);
    far.send(&hello).await;
    (far, InitLink::open(Box::new(near)).await)
}

async fn open_holding(held: Vec<Held>) -> (Far, InitLink) {
    let (far, opened) = open_with(hello(held.clone())).await;
    let (link, told) = opened.unwrap();
    assert_eq!(told, Hello { runs_max: 4, held, spent: None });
    (far, link)
}

fn held(run: u64, state: HeldState) -> Held {
    Held { run, attempt: format!("7-task-{run}-1"), state }
}

fn output(run: u64, offset: u64, bytes: &[u8]) -> Event {
    Event::Output { run, stream: Stream::Stdout, offset, bytes: bytes.to_vec() }
}

fn exited(run: u64, stdout_length: u64) -> Event {
    let exit = frame::Exit {
        outcome: frame::Outcome::Exited(3),
        usage: frame::Usage::default(),
        stdout_length,
        stderr_length: 0,
    };
    Event::Exited { run, exit }
}

fn command(number: u64) -> RunCommand {
    RunCommand {
        number,
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
async fn what_a_dead_init_has_said_is_heard() {
    let (mut far, mut link) = open_holding(vec![]).await;
    link.run(&command(1)).unwrap();
    link.flush().await.unwrap();
    far.send(&Event::Started { run: 1 }).await;
    far.send(&exited(1, 0)).await;
    drop(far);
    link.run(&command(2)).unwrap();
    assert_eq!(link.event().await.unwrap(), InitEvent::Started(1));
    assert!(matches!(link.event().await.unwrap(), InitEvent::Exited(1, _)));
    assert!(matches!(link.event().await, Err(LinkError::Closed)));
}

#[tokio::test]
async fn an_attempt_from_run_to_exit() {
    let (mut far, mut link) = open_holding(vec![]).await;
    link.run(&command(1)).unwrap();
    assert!(link.has_to_say());
    link.flush().await.unwrap();
    let Request::Run(run) = far.request().await else { panic!() };
    assert_eq!(
        (run.number, run.attempt.as_str(), run.timeout, run.has_stdin),
        (1, "7-task-12-2", Some(Duration::from_secs(3)), true)
    );
    far.send(&Event::Started { run: 1 }).await;
    far.send(&output(1, 0, b"ab")).await;
    far.send(&output(1, 2, b"c")).await;
    far.send(&exited(1, 3)).await;
    assert_eq!(link.event().await.unwrap(), InitEvent::Started(1));
    for (offset, bytes) in [(0, &b"ab"[..]), (2, b"c")] {
        let event = InitEvent::Output { run: 1, stream: OutputStream::Stdout, offset, bytes: bytes.into() };
        assert_eq!(link.event().await.unwrap(), event);
    }
    let InitEvent::Exited(1, exit) = link.event().await.unwrap() else { panic!() };
    assert_eq!((exit.outcome, exit.stdout_length), (Outcome::Exited(3), 3));
    drop(far);
    assert!(matches!(link.event().await, Err(LinkError::Closed)));
    link.release(1);
    assert!(matches!(link.flush().await, Err(LinkError::Closed)));
}

#[tokio::test]
async fn runs_are_told_of_one_after_the_other_until_they_are_taken_back() {
    let (mut far, mut link) = open_holding(vec![]).await;
    for run in 1..=4 {
        link.run(&command(run)).unwrap();
    }
    link.recall(3);
    link.flush().await.unwrap();
    for number in 1..=4 {
        assert!(matches!(far.request().await, Request::Run(run) if run.number == number));
    }
    assert_eq!(far.request().await, Request::Recall { from: 3 });
    for event in [exited(1, 0), Event::Recalled { from: 3 }, Event::Started { run: 2 }, exited(2, 0)] {
        far.send(&event).await;
    }
    far.send(&Event::Spent("a process was left".into())).await;
    assert!(matches!(link.event().await, Ok(InitEvent::Exited(1, _))));
    assert_eq!(link.event().await.unwrap(), InitEvent::Recalled(3));
    assert_eq!(link.event().await.unwrap(), InitEvent::Started(2));
    assert!(matches!(link.event().await, Ok(InitEvent::Exited(2, _))));
    assert_eq!(link.event().await.unwrap(), InitEvent::Spent("a process was left".into()));
    far.send(&Event::Started { run: 3 }).await;
    assert!(matches!(link.event().await, Err(LinkError::Protocol(_))), "it was taken back");
}

/// What init says after two Runs from the agent; the last of it must be refused.
async fn check_untrue(events: &[Event]) {
    let (mut far, mut link) = open_holding(vec![]).await;
    link.run(&command(1)).unwrap();
    link.run(&command(2)).unwrap();
    for event in events {
        far.send(event).await;
    }
    for _ in 1..events.len() {
        link.event().await.unwrap();
    }
    let last = link.event().await;
    assert!(matches!(last, Err(LinkError::Protocol(_))), "{last:?}");
}

#[tokio::test]
async fn what_can_t_be_true_is_refused() {
    check_untrue(&[output(1, 1, b"gap")]).await;
    check_untrue(&[output(1, 0, b"ab"), output(1, 1, b"overlap")]).await;
    check_untrue(&[output(1, 0, b"ab"), exited(1, 3)]).await;
    check_untrue(&[output(1, u64::MAX, b"ab")]).await;
    check_untrue(&[hello(vec![])]).await;
    check_untrue(&[Event::Started { run: 2 }]).await;
    check_untrue(&[exited(2, 0)]).await;
    check_untrue(&[exited(1, 0), exited(1, 0)]).await;
    check_untrue(&[exited(1, 0), exited(2, 0), Event::Started { run: 3 }]).await;
    let (_, opened) = open_with(Event::Started { run: 1 }).await;
    assert!(matches!(opened, Err(LinkError::Protocol(_))));
    let disorder = [2, 1].map(|run| held(run, HeldState::Ended));
    let (_, opened) = open_with(hello(disorder.into())).await;
    assert!(matches!(opened, Err(LinkError::Protocol(why)) if why.contains("out of order")));
    let (_, opened) = open_with(Event::Hello { version: 999, runs_max: 1, held: vec![], spent: None }).await;
    assert!(matches!(opened, Err(LinkError::Protocol(why)) if why.contains("999")));
}

#[tokio::test]
async fn output_goes_on_from_where_it_was_asked_for() {
    let (mut far, mut link) = open_holding([2, 3].map(|run| held(run, HeldState::Ended)).into()).await;
    let offsets = vec![Offsets { run: 3, stdout: 10, stderr: 0 }];
    link.resume(offsets.clone());
    link.flush().await.unwrap();
    assert_eq!(far.request().await, Request::Resume(offsets));
    // Of run 2 nothing was asked for, so init decides where it begins.
    far.send(&output(2, 77, b"x")).await;
    far.send(&exited(2, 78)).await;
    far.send(&output(3, 10, b"x")).await;
    far.send(&exited(3, 11)).await;
    assert!(matches!(link.event().await, Ok(InitEvent::Output { run: 2, offset: 77, .. })));
    assert!(matches!(link.event().await, Ok(InitEvent::Exited(2, _))));
    assert!(matches!(link.event().await, Ok(InitEvent::Output { run: 3, offset: 10, .. })));
    assert!(matches!(link.event().await, Ok(InitEvent::Exited(3, _))));
}

#[tokio::test]
async fn a_held_run_that_was_released_may_be_passed_over() {
    let (mut far, mut link) = open_holding([2, 3].map(|run| held(run, HeldState::Ended)).into()).await;
    link.release(2);
    link.resume(vec![Offsets { run: 3, stdout: 10, stderr: 0 }]);
    far.send(&output(3, 9, b"xy")).await;
    assert!(matches!(link.event().await, Err(LinkError::Protocol(_))), "not from where it was asked for");
    let (mut far, mut link) = open_holding([2, 3].map(|run| held(run, HeldState::Ended)).into()).await;
    link.release(2);
    link.resume(vec![Offsets { run: 3, stdout: 10, stderr: 0 }]);
    far.send(&exited(3, 10)).await;
    assert!(matches!(link.event().await, Ok(InitEvent::Exited(3, _))));
}

#[tokio::test]
async fn stdin_has_a_window_over_all_connections() {
    let state = HeldState::Running { stdin_bytes: 1000, stdin_waiting_bytes: 100 };
    let (mut far, mut link) = open_holding(vec![held(5, state)]).await;
    assert_eq!((link.stdin_sent(5), link.stdin_room(5)), (1000, STDIN_WINDOW_BYTES - 100));
    link.stdin(5, &[0; 100_000]).unwrap();
    assert_eq!((link.stdin_sent(5), link.stdin_room(5)), (101_000, STDIN_WINDOW_BYTES - 100_100));
    link.flush().await.unwrap();
    let mut received = 0;
    while received < 100_000 {
        let Request::Stdin { run: 5, bytes } = far.request().await else { panic!() };
        assert!(bytes.len() <= CHUNK_BYTES_MAX);
        received += bytes.len();
    }
    far.send(&Event::StdinWritten { run: 5, bytes: 100_100 }).await;
    assert_eq!(link.event().await.unwrap(), InitEvent::StdinWritten);
    assert_eq!(link.stdin_room(5), STDIN_WINDOW_BYTES);
    assert!(matches!(link.stdin(6, b"x"), Err(LinkError::Protocol(_))), "there is no such run");
    let flood = link.stdin(5, &vec![0; STDIN_BYTES_MAX + 1]);
    assert!(matches!(flood, Err(LinkError::Protocol(_))));
}

#[tokio::test]
async fn a_command_that_is_too_long_leaves_the_connection_good() {
    let (mut far, mut link) = open_holding(vec![]).await;
    let long = RunCommand { command: vec!["x".repeat(frame::RUN_FRAME_BYTES_MAX)], ..command(1) };
    assert!(matches!(link.run(&long), Err(FrameError::TooLong { .. })));
    assert!(!link.has_to_say());
    link.kill(9, Duration::ZERO);
    link.flush().await.unwrap();
    assert_eq!(far.request().await, Request::Kill { run: 9, grace: Duration::ZERO });
}

/// `exchange` in a `select!` that drops it again and again loses nothing.
#[tokio::test]
async fn waiting_can_be_cancelled() {
    let (mut far, mut link) = open_holding(vec![]).await;
    link.run(&command(1)).unwrap();
    link.flush().await.unwrap();
    let mut bytes = Vec::new();
    output(1, 0, b"hello").encode(&mut bytes).unwrap();
    for byte in bytes {
        assert_eq!(link.heard().unwrap(), None);
        tokio::select! {
            biased;
            event = link.event() => panic!("{event:?}"),
            () = tokio::task::yield_now() => {}
        }
        far.0.write_all(&[byte]).await.unwrap();
    }
    assert!(matches!(link.event().await, Ok(InitEvent::Output { bytes, .. }) if bytes == "hello"));
}

/// Both sides have more to say than the pipe between them holds, and neither reads before it has written.
#[tokio::test]
async fn much_in_both_directions_does_not_wait_for_each_other() {
    let (near, far) = duplex(64);
    let mut far = Far(far);
    let opened = tokio::spawn(InitLink::open(Box::new(near)));
    far.send(&hello(vec![])).await;
    let (mut link, _) = opened.await.unwrap().unwrap();
    link.run(&RunCommand { env: vec![("LONG".into(), "x".repeat(10_000))], ..command(1) }).unwrap();
    let init = tokio::spawn(async move {
        far.send(&output(1, 0, &[b'o'; 10_000])).await;
        far.request().await
    });
    assert!(matches!(link.event().await, Ok(InitEvent::Output { bytes, .. }) if bytes.len() == 10_000));
    link.flush().await.unwrap();
    assert!(matches!(init.await.unwrap(), Request::Run(run) if run.env[0].1.len() == 10_000));
}
