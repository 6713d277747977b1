//! The pool over scripted workers. Time is paused: it goes on only when nothing else does.

mod adoption;

use super::*;
use crate::{
    attempt::{
        FOLLOWS_MAX,
        stdin::{StdinError, StdinSource},
    },
    domain::{Output, Phase},
    outbox::Spool,
    readiness::Readiness,
    runtime::{Blobs, ImageError, Runtime, scripted::ScriptedRuntime},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::BoxStream};
use std::{
    collections::{BTreeSet, VecDeque},
    path::PathBuf,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Longer than anything here takes, of paused time.
const WAIT: Duration = Duration::from_secs(600);

struct Nothing;

#[async_trait]
impl Blobs for Nothing {
    async fn fetch(&self, _sha256: &[u8; 32]) -> Result<PathBuf, ImageError> {
        Err(ImageError::Unavailable("no blobs".into()))
    }
}

impl StdinSource for Nothing {
    fn read(&self, _attempt: AttemptKey, _offset: u64) -> BoxStream<'static, Result<Bytes, StdinError>> {
        stream::empty().boxed()
    }
}

/// A pool, and what it tells the core.
struct Bench {
    runtime: ScriptedRuntime,
    pool: Pool,
    inputs: mpsc::Receiver<Input>,
    reports: VecDeque<Report>,
    dir: TempDir,
}

impl Bench {
    fn new(slots: usize) -> Self {
        Self::over(ScriptedRuntime::new(), PoolConfig { slots, makes_ahead: false })
    }

    fn over(runtime: ScriptedRuntime, config: PoolConfig) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (inputs, receiver) = mpsc::channel(64);
        let env = Env {
            runtime: Arc::new(runtime.clone()),
            blobs: Arc::new(Nothing),
            stdin: Arc::new(Nothing),
            spool: Spool::open(&dir.path().join("spool")).expect("opens"),
            readiness: Readiness::new(Arc::new(runtime.clone()), dir.path().to_owned(), inputs.clone()),
            inputs,
            follows: mpsc::channel(FOLLOWS_MAX).0,
        };
        let pool = Pool::new(Arc::new(env), WorkerNames::new("a".into()), config);
        Self { runtime, pool, inputs: receiver, reports: VecDeque::new(), dir }
    }

    /// One whose first worker is there, and known to take no time for a task of project 1.
    async fn warm(slots: usize) -> Self {
        let mut bench = Self::new(slots);
        bench.run(task(1, 0, &["exit=0"])).await;
        bench
    }

    async fn input(&mut self) -> Input {
        tokio::time::timeout(WAIT, self.inputs.recv()).await.expect("in time").expect("the pool is there")
    }

    /// The next ending.
    async fn ended(&mut self) -> Report {
        loop {
            if let Some(report) = self.reports.pop_front() {
                return report;
            }
            match self.input().await {
                Input::Ended(reports) => self.reports.extend(reports),
                // As the core does with what waits for a slot.
                Input::NotBegun(back) => self.pool.start(back),
                _ => panic!("an input that is not the pool's"),
            }
        }
    }

    /// Checks an ending, and releases it.
    async fn ends(&mut self, project: u64, index: u32, outcome: &Outcome) {
        let report = self.ended().await;
        assert_eq!((report.attempt, &report.outcome), (key(project, index), outcome));
        self.pool.release(&[report.attempt]);
    }

    async fn run(&mut self, assignment: Assignment) {
        let attempt = assignment.attempt;
        self.pool.start(vec![assignment]);
        self.ends(attempt.project, attempt.index, &Outcome::Exited(0)).await;
    }

    async fn workers(&self) -> Vec<WorkerId> {
        self.runtime.workers().await.expect("lists")
    }

    async fn until(&self, what: &str, is: impl Fn(&ScriptedRuntime, usize) -> bool) {
        let waited = timeout_at(Instant::now() + WAIT, async {
            while !is(&self.runtime, self.workers().await.len()) {
                sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(waited.await.is_ok(), "waited in vain until {what}");
    }
}

fn key(project: u64, index: u32) -> AttemptKey {
    AttemptKey { project, phase: Phase::Task, index, attempt: 1 }
}

fn task(project: u64, index: u32, steps: &[&str]) -> Assignment {
    let spec = RunSpec { output_bytes_max: 1 << 20, ..(*unknown()).clone() };
    Assignment {
        attempt: key(project, index),
        command: ["scripted"].iter().chain(steps).map(ToString::to_string).collect(),
        stdin: Bytes::new(),
        spec: Arc::new(spec),
    }
}

fn fresh(index: u32, steps: &[&str]) -> Assignment {
    let task = task(1, index, steps);
    let spec = RunSpec { isolation: Isolation::Fresh, ..(*task.spec).clone() };
    Assignment { spec: Arc::new(spec), ..task }
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_used_again_by_its_project_and_by_no_other() {
    let mut bench = Bench::warm(2).await;
    let first = bench.workers().await;
    assert_eq!(first.len(), 1);
    for index in 1..20 {
        bench.run(task(1, index, &["print=more"])).await;
    }
    assert_eq!(bench.workers().await, first);
    bench.run(task(2, 0, &["exit=0"])).await;
    let both = bench.workers().await;
    assert!(both.len() == 2 && both.contains(&first[0]), "{both:?}");
    bench.run(task(1, 20, &["exit=0"])).await;
    assert_eq!(bench.workers().await, both);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_worker_has_not_begun_runs_elsewhere() {
    let mut bench = Bench::warm(1).await;
    let dead = bench.workers().await;
    let lost = task(1, 1, &["sleep=50ms", "worker-lost"]);
    bench.pool.start(vec![lost, task(1, 2, &["exit=2"]), task(1, 3, &["exit=3"])]);
    bench.until("all are sent ahead", |runtime, _| runtime.runs_held() == 3).await;
    let report = bench.ended().await;
    assert_eq!(report.attempt, key(1, 1));
    assert!(matches!(report.outcome, Outcome::WorkerLost(_)), "{report:?}");
    bench.pool.release(&[report.attempt]);
    bench.ends(1, 2, &Outcome::Exited(2)).await;
    bench.ends(1, 3, &Outcome::Exited(3)).await;
    bench.until("the dead one is discarded", |_, workers| workers == 1).await;
    assert_ne!(bench.workers().await, dead);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_worker_leaves_is_run_also_when_others_wait_for_its_slot() {
    let mut bench = Bench::warm(1).await;
    let lost = task(1, 1, &["sleep=50ms", "worker-lost"]);
    bench.pool.start(vec![lost, task(1, 2, &["exit=2"]), task(2, 0, &["exit=4"])]);
    let report = bench.ended().await;
    assert!(matches!(report.outcome, Outcome::WorkerLost(_)), "{report:?}");
    bench.pool.release(&[report.attempt]);
    bench.ends(1, 2, &Outcome::Exited(2)).await;
    bench.ends(2, 0, &Outcome::Exited(4)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_stuck_behind_a_long_one_comes_back() {
    let mut bench = Bench::warm(1).await;
    bench.pool.start(vec![task(1, 1, &["hang"]), task(1, 2, &["exit=2"]), task(1, 3, &["exit=3"])]);
    bench.until("all are sent ahead", |runtime, _| runtime.runs_held() == 3).await;
    let Input::NotBegun(back) = bench.input().await else { panic!() };
    let came: Vec<_> = back.iter().map(|assignment| assignment.attempt).collect();
    assert_eq!(came, [key(1, 2), key(1, 3)]);
    assert_eq!(bench.runtime.runs_held(), 1);
    bench.pool.kill(key(1, 1));
    bench.ends(1, 1, &Outcome::Cancelled).await;
    bench.pool.start(back);
    bench.ends(1, 2, &Outcome::Exited(2)).await;
    bench.ends(1, 3, &Outcome::Exited(3)).await;
}

#[tokio::test(start_paused = true)]
async fn a_spoilt_worker_is_discarded_once_its_endings_are_released() {
    let mut bench = Bench::warm(1).await;
    let spoilt = bench.workers().await;
    bench.pool.start(vec![task(1, 1, &["spoil", "print=dirty"]), task(1, 2, &["exit=2"])]);
    let report = bench.ended().await;
    assert_eq!((report.attempt, &report.outcome), (key(1, 1), &Outcome::Exited(0)));
    bench.ends(1, 2, &Outcome::Exited(2)).await;
    sleep(Duration::from_secs(5)).await;
    let workers = bench.workers().await;
    assert!(
        workers.len() == 2 && workers.contains(&spoilt[0]),
        "it keeps what is not in the outbox: {workers:?}, {spoilt:?}"
    );
    bench.pool.release(&[report.attempt]);
    bench.until("it is discarded", |_, workers| workers == 1).await;
    assert_ne!(bench.workers().await, spoilt);
}

#[tokio::test(start_paused = true)]
async fn kills_reach_what_waits_what_is_sent_ahead_and_what_runs() {
    let mut bench = Bench::warm(1).await;
    let worker = bench.workers().await;
    bench.pool.start(vec![task(1, 1, &["hang"]), task(1, 2, &["print=never"]), task(2, 0, &["print=never"])]);
    bench.until("two are sent", |runtime, _| runtime.runs_held() == 2).await;
    bench.pool.kill(key(2, 0));
    bench.ends(2, 0, &Outcome::Cancelled).await;
    bench.pool.kill(key(1, 2));
    bench.pool.kill(key(9, 9));
    bench.ends(1, 2, &Outcome::Cancelled).await;
    bench.pool.kill(key(1, 1));
    bench.ends(1, 1, &Outcome::Cancelled).await;
    bench.run(task(1, 3, &["exit=0"])).await;
    assert_eq!(bench.workers().await, worker);
}

#[tokio::test(start_paused = true)]
async fn a_kill_reaches_a_lane_that_waits_for_a_disk() {
    let mut bench = Bench::new(1);
    std::fs::create_dir(bench.dir.path().join("spool").join(format!("{}.out", key(1, 1)))).expect("made");
    bench.pool.start(vec![task(1, 1, &["bytes=500000", "hang"])]);
    bench.until("it runs", |runtime, _| runtime.runs_held() == 1).await;
    sleep(Duration::from_secs(5)).await;
    bench.pool.kill(key(1, 1));
    let report = bench.ended().await;
    assert_eq!((report.attempt, report.outcome), (key(1, 1), Outcome::Cancelled));
}

/// The next output of this task on stdout can't be spooled.
fn block(bench: &Bench, index: u32) -> PathBuf {
    let path = bench.dir.path().join("spool").join(format!("{}.out", key(1, index)));
    std::fs::create_dir(&path).expect("made");
    path
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_behind_one_that_waits_for_a_disk_comes_back() {
    let mut bench = Bench::warm(1).await;
    let path = block(&bench, 1);
    bench.pool.start(vec![task(1, 1, &["bytes=500000", "sleep=5s"]), task(1, 2, &["exit=2"])]);
    let input = bench.input().await;
    let Input::NotBegun(back) = input else { panic!("{input:?}") };
    assert_eq!(back.iter().map(|assignment| assignment.attempt).collect::<Vec<_>>(), [key(1, 2)]);
    std::fs::remove_dir(path).expect("removed");
    bench.pool.start(back);
    let report = bench.ended().await;
    assert_eq!((report.attempt, report.outcome), (key(1, 1), Outcome::Exited(0)));
    assert!(matches!(report.stdout, Output::Spooled { length: 500_000, .. }), "all of it came");
    bench.pool.release(&[report.attempt]);
    bench.ends(1, 2, &Outcome::Exited(2)).await;
}

#[tokio::test(start_paused = true)]
async fn what_can_not_keep_its_output_for_long_is_lost_and_its_worker_goes_on() {
    let mut bench = Bench::warm(1).await;
    let worker = bench.workers().await;
    block(&bench, 1);
    bench.pool.start(vec![task(1, 1, &["bytes=5000000", "hang"])]);
    let since = Instant::now();
    let report = bench.ended().await;
    assert_eq!(report.attempt, key(1, 1));
    let why = |why: &str| why.starts_with("what it printed can't be kept");
    assert!(matches!(&report.outcome, Outcome::WorkerLost(lost) if why(lost)), "{:?}", report.outcome);
    assert!(since.elapsed() < Duration::from_secs(90), "{:?}", since.elapsed());
    bench.pool.release(&[report.attempt]);
    bench.run(task(1, 2, &["exit=0"])).await;
    assert_eq!(bench.workers().await, worker);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_only_half_made_is_removed() {
    let mut bench = Bench::new(1);
    let mut half_made = task(1, 0, &["exit=0"]);
    Arc::make_mut(&mut half_made.spec).image = ImageSpec::Reference("no-worker".into());
    bench.pool.start(vec![half_made]);
    bench.runtime.set_deaf(true);
    let report = bench.ended().await;
    assert!(matches!(report.outcome, Outcome::WorkerLost(_)), "{:?}", report.outcome);
    assert_eq!(bench.workers().await.len(), 1);
    bench.runtime.set_deaf(false);
    bench.until("it is removed", |_, workers| workers == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_goes_after_a_minute() {
    let bench = Bench::warm(2).await;
    sleep(Duration::from_secs(55)).await;
    assert_eq!(bench.workers().await.len(), 1);
    let since = Instant::now();
    bench.until("it is gone", |_, workers| workers == 0).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_fresh_task_has_a_worker_of_its_own() {
    let mut bench = Bench::new(1);
    let mut all = BTreeSet::new();
    for index in 0..3 {
        bench.pool.start(vec![fresh(index, &["exit=0"])]);
        bench.ended().await;
        all.extend(bench.workers().await);
        bench.pool.release(&[key(1, index)]);
        bench.until("its worker is gone", |_, workers| workers == 0).await;
    }
    assert_eq!(all.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn fresh_workers_are_made_ahead_but_not_too_many() {
    let mut bench = Bench::over(ScriptedRuntime::new(), PoolConfig { slots: 2, makes_ahead: true });
    bench.pool.start((0..2).map(|index| fresh(index, &["hang"])).collect());
    bench
        .until("two run, and two are ready", |runtime, workers| workers == 4 && runtime.runs_held() == 2)
        .await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!((bench.workers().await.len(), bench.runtime.runs_held()), (4, 2));
    for index in 0..2 {
        bench.pool.kill(key(1, index));
        let killed = bench.ended().await.attempt;
        bench.pool.release(&[killed]);
    }
    bench.until("what nobody needed is gone", |_, workers| workers == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_finished_pool_leaves_no_worker_but_what_holds_an_ending() {
    let mut bench = Bench::warm(2).await;
    bench.run(task(2, 0, &["exit=0"])).await;
    bench.pool.start(vec![task(1, 1, &["exit=1"])]);
    bench.ended().await;
    let Bench { runtime, pool, inputs: _inputs, .. } = bench;
    pool.finish(Duration::from_secs(30)).await;
    assert_eq!((runtime.workers().await.expect("lists").len(), runtime.runs_held()), (1, 1));
}

/// What a pool that begins nothing any more hands back.
async fn taken_back(bench: &mut Bench) -> Vec<AttemptKey> {
    bench.pool.take_back();
    let mut back = Vec::new();
    loop {
        match bench.input().await {
            Input::NotBegun(assignments) => {
                back.extend(assignments.iter().map(|assignment| assignment.attempt));
            }
            Input::TakenBack => return back,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_and_what_is_sent_ahead_is_taken_back_and_what_runs_goes_on() {
    let mut bench = Bench::warm(1).await;
    bench.pool.start(vec![
        task(1, 1, &["sleep=50ms", "exit=1"]),
        task(1, 2, &["exit=2"]),
        task(2, 0, &["exit=3"]),
    ]);
    bench.until("two are sent", |runtime, _| runtime.runs_held() == 2).await;
    let mut back = taken_back(&mut bench).await;
    back.sort_unstable();
    assert_eq!(back, [key(1, 2), key(2, 0)]);
    bench.ends(1, 1, &Outcome::Exited(1)).await;
    bench.until("its worker goes", |_, workers| workers == 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_worker_is_taken_back_at_once() {
    let mut bench = Bench::new(1);
    bench.pool.start((0..3).map(|index| task(1, index, &["exit=0"])).collect());
    let since = Instant::now();
    assert_eq!(taken_back(&mut bench).await, [key(1, 0), key(1, 1), key(1, 2)]);
    assert_eq!(since.elapsed(), Duration::ZERO);
    bench.until("nothing is left", |_, workers| workers == 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_to_a_pool_that_begins_nothing_is_handed_back() {
    let mut bench = Bench::warm(1).await;
    bench.pool.start(vec![task(1, 1, &["sleep=50ms", "worker-lost"]), task(1, 2, &["exit=2"])]);
    bench.until("both are sent", |runtime, _| runtime.runs_held() == 2).await;
    // As if it had died before it was asked.
    let lanes = bench.pool.shared.with(|board, _| board.close());
    assert_eq!(lanes.len(), 1);
    let Input::NotBegun(back) = bench.input().await else { panic!() };
    assert_eq!(back.iter().map(|assignment| assignment.attempt).collect::<Vec<_>>(), [key(1, 2)]);
    assert!(matches!(bench.ended().await.outcome, Outcome::WorkerLost(_)));
}

/// What the pool tells when nothing can be begun: that first, and then what it hands back.
async fn check_handed_back(set: impl Fn(&ScriptedRuntime, bool), why: &str) {
    let mut bench = Bench::new(1);
    set(&bench.runtime, true);
    bench.pool.start((0..3).map(|index| task(1, index, &["exit=0"])).collect());
    match bench.input().await {
        Input::Runtime { not_ready } => assert!(not_ready.starts_with(why), "{not_ready}"),
        other => panic!("{other:?}"),
    }
    set(&bench.runtime, false);
    for index in 0..3 {
        // With what is handed back started again.
        bench.ends(1, index, &Outcome::Exited(0)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_engine_nothing_is_lost_but_handed_back() {
    let away = |runtime: &ScriptedRuntime, away: bool| {
        runtime.set_not_ready(away.then_some("the engine is away"));
    };
    check_handed_back(away, "the engine is away").await;
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_nothing_is_lost_but_handed_back() {
    check_handed_back(ScriptedRuntime::set_full, "the agent's disk is full").await;
}

#[tokio::test(start_paused = true)]
async fn what_a_host_in_trouble_says_of_an_image_counts_for_nothing() {
    let mut bench = Bench::new(1);
    bench.runtime.set_not_ready(Some("the engine is away"));
    let task = task(1, 0, &["exit=0"]);
    let spec = RunSpec { image: ImageSpec::Reference("missing".into()), ..(*task.spec).clone() };
    let task = Assignment { spec: Arc::new(spec), ..task };
    bench.pool.start(vec![task.clone()]);
    assert!(matches!(bench.input().await, Input::Runtime { .. }));
    let Input::NotBegun(back) = bench.input().await else { panic!() };
    assert_eq!(back.len(), 1);
    bench.runtime.set_not_ready(None);
    bench.pool.start(back);
    assert!(matches!(bench.ended().await.outcome, Outcome::ImageUnavailable(_)));
}
