//! The driver with a journal that fails on command, and hands that tell what they do.

use super::*;
use crate::{
    domain::{ImageSpec, Isolation, Outcome, Phase, RunSpec, StdinFrom},
    supervisor::{CoreConfig, FromCoordinator, Stop},
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::mpsc::UnboundedReceiver;

/// At once.
const STOP: Input = Input::Stop(Stop::Drain(Duration::ZERO));

const WAIT: Duration = Duration::from_secs(20);

/// Says what it is asked to commit, and does, or fails.
struct FakeJournal {
    told: mpsc::UnboundedSender<String>,
    full: AtomicBool,
    kept: Mutex<Vec<AttemptKey>>,
    /// How long a commit takes.
    takes: Mutex<Duration>,
}

impl Journal for FakeJournal {
    fn commit(&self, persist: &[Report], forget: &[AttemptKey]) -> Result<(), OutboxError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(OutboxError::Full);
        }
        let takes = *self.takes.lock().expect("not poisoned");
        std::thread::sleep(takes);
        let mut kept = self.kept.lock().expect("not poisoned");
        kept.extend(persist.iter().map(|report| report.attempt));
        kept.retain(|attempt| !forget.contains(attempt));
        let _ = self.told.send(format!("commit +{} -{}", persist.len(), forget.len()));
        Ok(())
    }
}

fn names(attempts: impl IntoIterator<Item = AttemptKey>) -> String {
    attempts.into_iter().map(|attempt| attempt.to_string()).collect::<Vec<_>>().join(" ")
}

struct FakeHands(mpsc::UnboundedSender<String>);

impl FakeHands {
    fn tell(&self, what: String) {
        let _ = self.0.send(what);
    }
}

impl Hands for FakeHands {
    fn forget(&mut self, attempt: AttemptKey) {
        self.tell(format!("forget {attempt}"));
    }
    fn release(&mut self, attempts: Vec<AttemptKey>) {
        self.tell(format!("release {}", names(attempts)));
    }
    fn kill(&mut self, attempt: AttemptKey) {
        self.tell(format!("kill {attempt}"));
    }
    fn take_back(&mut self) {
        self.tell("take back".into());
    }
    fn start(&mut self, assignments: Vec<Assignment>) {
        self.tell(format!("start {}", names(assignments.iter().map(|assignment| assignment.attempt))));
    }
    fn upload(&mut self, attempt: AttemptKey, _outputs: Vec<(OutputStream, u64)>) {
        self.tell(format!("upload {attempt}"));
    }
    fn send(&mut self, connection: ConnectionId, seq: u64, message: ToCoordinator) {
        let what = match message {
            ToCoordinator::Hello { live, unrecorded, .. } => {
                format!("hello {} {}", live.len(), unrecorded.len())
            }
            ToCoordinator::Heartbeat => "heartbeat".into(),
            ToCoordinator::Credits { attempts_max, not_ready } => {
                format!("credits {attempts_max} {not_ready}")
            }
            ToCoordinator::Reports(reports) => format!("reports {}", reports.len()),
            ToCoordinator::Returned(attempts) => format!("returned {}", attempts.len()),
        };
        self.tell(format!("{}#{seq} {what}", connection.0));
    }
    fn close(&mut self, connection: ConnectionId, why: &str) {
        self.tell(format!("close {} {why}", connection.0));
    }
}

struct Bench {
    inputs: mpsc::Sender<Input>,
    told: UnboundedReceiver<String>,
    journal: Arc<FakeJournal>,
    driver: tokio::task::JoinHandle<Driven<FakeHands>>,
}

impl Bench {
    /// A driver with a welcomed session and two adopted attempts.
    async fn new(heartbeat: Duration) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
        let journal = Arc::new(FakeJournal {
            told: tell.clone(),
            full: AtomicBool::new(false),
            kept: Mutex::default(),
            takes: Mutex::default(),
        });
        let core = Core::new(CoreConfig::new(2), vec![key(1), key(2)], vec![]);
        let driver = tokio::spawn(Driver::new(core, journal.clone(), FakeHands(tell), receiver).run());
        let mut bench = Self { inputs, told, journal, driver };
        bench.session(1, heartbeat).await;
        bench.expect(&["1#1 hello 2 0", "1#2 credits 2 "]).await;
        bench
    }

    async fn session(&mut self, number: u64, heartbeat: Duration) {
        let connection = ConnectionId(number);
        self.put(Input::Connected(connection)).await;
        let message = FromCoordinator::Welcome {
            coordinator_epoch: 1,
            session_epoch: number,
            heartbeat,
            discard: vec![],
        };
        self.put(Input::FromCoordinator { connection, seq: 1, message }).await;
    }

    async fn put(&self, input: Input) {
        self.inputs.send(input).await.expect("the driver runs");
    }

    async fn next(&mut self) -> String {
        tokio::time::timeout(WAIT, self.told.recv()).await.expect("in time").expect("the driver runs")
    }

    async fn expect(&mut self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.next().await, *expected);
        }
    }
}

fn key(index: u32) -> AttemptKey {
    AttemptKey { project: 7, phase: Phase::Task, index, attempt: 1 }
}

/// One that can't wait to be settled.
fn ended(index: u32) -> Input {
    Input::Ended(vec![Report::without_output(key(index), Outcome::WorkerLost("gone".into()))])
}

fn assignment(index: u32) -> Assignment {
    let spec = RunSpec {
        project_name: "test".into(),
        image: ImageSpec::Reference("test:local".into()),
        env: BTreeMap::new(),
        workdir: None,
        timeout: None,
        cpus_milli: None,
        memory_bytes: None,
        pids_max: None,
        network: false,
        output_bytes_max: 1,
        stdin: StdinFrom::Nothing,
        isolation: Isolation::Sealed,
    };
    Assignment {
        attempt: key(index),
        command: vec!["true".into()],
        stdin: Bytes::new(),
        spec: Arc::new(spec),
    }
}

/// The second message of a session.
fn from(connection: u64, message: FromCoordinator) -> Input {
    Input::FromCoordinator { connection: ConnectionId(connection), seq: 2, message }
}

const SELDOM: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_commit_comes_before_everything_else() {
    let mut bench = Bench::new(SELDOM).await;
    bench.put(ended(1)).await;
    bench.expect(&["commit +1 -0", "release 7-task-1-1", "1#3 reports 1"]).await;
}

#[tokio::test]
async fn what_is_settled_soon_is_never_committed() {
    let mut bench = Bench::new(SELDOM).await;
    bench.put(ended(1)).await;
    bench.expect(&["commit +1 -0", "release 7-task-1-1", "1#3 reports 1"]).await;
    bench.put(from(1, FromCoordinator::Assign(vec![assignment(3)]))).await;
    bench.expect(&["start 7-task-3-1"]).await;
    bench.put(Input::Ended(vec![Report::without_output(key(3), Outcome::Exited(0))])).await;
    bench.expect(&["1#4 reports 1"]).await;
    let message = FromCoordinator::Settled(vec![key(3)]);
    bench.put(Input::FromCoordinator { connection: ConnectionId(1), seq: 3, message }).await;
    bench.expect(&["release 7-task-3-1"]).await;
}

#[tokio::test]
async fn inputs_that_wait_are_committed_as_one() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
    let journal = Arc::new(FakeJournal {
        told: tell.clone(),
        full: AtomicBool::new(false),
        kept: Mutex::default(),
        takes: Mutex::default(),
    });
    for input in [ended(1), ended(2), STOP] {
        inputs.send(input).await.expect("room");
    }
    let core = Core::new(CoreConfig::new(2), vec![key(1), key(2)], vec![]);
    tokio::spawn(Driver::new(core, journal, FakeHands(tell), receiver).run());
    assert_eq!(told.recv().await.as_deref(), Some("commit +2 -0"));
}

#[tokio::test]
async fn heartbeats_leave_without_any_input() {
    let mut bench = Bench::new(Duration::from_millis(20)).await;
    bench.expect(&["1#3 heartbeat", "1#4 heartbeat"]).await;
}

#[tokio::test]
async fn a_commit_that_takes_its_time_is_covered_by_signs_of_life() {
    let mut bench = Bench::new(Duration::from_millis(500)).await;
    *bench.journal.takes.lock().expect("not poisoned") = Duration::from_millis(1700);
    bench.put(ended(1)).await;
    // Repeated numbers: what waits for the commit has its numbers already.
    bench.expect(&["1#1 heartbeat", "1#1 heartbeat", "1#1 heartbeat"]).await;
    bench.expect(&["commit +1 -0", "release 7-task-1-1", "1#3 reports 1"]).await;
}

#[tokio::test]
async fn what_came_due_during_a_commit_is_not_forgotten() {
    let mut bench = Bench::new(Duration::from_millis(500)).await;
    *bench.journal.takes.lock().expect("not poisoned") = Duration::from_millis(700);
    bench.put(ended(1)).await;
    bench.expect(&["1#1 heartbeat", "commit +1 -0", "release 7-task-1-1", "1#3 reports 1"]).await;
    // The reports were made before the commit, and count as a sign of life from then on.
    bench.expect(&["1#4 heartbeat"]).await;
}

#[tokio::test]
async fn what_could_not_be_committed_leaves_once_it_is() {
    let mut bench = Bench::new(SELDOM).await;
    bench.journal.full.store(true, Ordering::SeqCst);
    bench.put(ended(1)).await;
    bench.expect(&["close 1 the outbox can't be written"]).await;
    bench.put(ended(2)).await;
    bench.session(2, SELDOM).await;
    bench.expect(&["2#1 hello 0 2", "2#2 credits 0 the disk that holds the outbox is full"]).await;
    bench.journal.full.store(false, Ordering::SeqCst);
    bench.expect(&["commit +2 -0", "release 7-task-1-1 7-task-2-1", "2#3 credits 2 ", "2#4 reports 2"]).await;
    assert_eq!(*bench.journal.kept.lock().expect("not poisoned"), [key(1), key(2)]);
}

#[tokio::test]
async fn what_was_to_be_started_with_a_failed_commit_is_handed_back() {
    let mut bench = Bench::new(SELDOM).await;
    bench.journal.full.store(true, Ordering::SeqCst);
    // One batch: the ending frees the slot.
    bench.put(ended(1)).await;
    bench.put(from(1, FromCoordinator::Assign(vec![assignment(3), assignment(4)]))).await;
    bench.expect(&["close 1 the outbox can't be written"]).await;
    bench.session(2, SELDOM).await;
    bench.expect(&["2#1 hello 3 1", "2#2 credits 0 the disk that holds the outbox is full"]).await;
    bench.expect(&["2#3 returned 2"]).await;
    bench.journal.full.store(false, Ordering::SeqCst);
    bench.expect(&["commit +1 -0", "release 7-task-1-1", "2#4 credits 2 ", "2#5 reports 1"]).await;
}

#[tokio::test]
async fn it_ends_once_the_core_has_stopped() {
    let mut bench = Bench::new(SELDOM).await;
    bench.put(ended(1)).await;
    bench.expect(&["commit +1 -0", "release 7-task-1-1", "1#3 reports 1"]).await;
    bench.put(STOP).await;
    bench.expect(&["take back", "kill 7-task-2-1", "1#4 credits 0 stopping"]).await;
    bench.put(Input::Ended(vec![Report::without_output(key(2), Outcome::Exited(0))])).await;
    bench.expect(&["commit +1 -0", "release 7-task-2-1", "1#5 reports 1"]).await;
    bench.put(from(1, FromCoordinator::Settled(vec![key(1), key(2)]))).await;
    bench.expect(&["commit +0 -2", "forget 7-task-1-1", "forget 7-task-2-1"]).await;
    let driven = tokio::time::timeout(WAIT, bench.driver).await.expect("in time").expect("no panic");
    assert!(driven.all_committed);
}

#[test]
fn commits_that_did_not_wait_make_no_later_one_wait_longer() {
    let every = Duration::from_millis(COMMIT_EVERY_MILLIS);
    let mut paced = Paced::default();
    let now = Instant::now();
    let latest = (0..1000).filter_map(|_| paced.next(now)).max();
    assert_eq!(latest, Some(now + every));
    // Those that wait come one each period.
    assert_eq!(paced.next(now + every), Some(now + every * 2));
}
