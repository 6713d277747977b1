//! Reassembly over a real store and a real directory.

use super::*;
use crate::{
    domain::{
        BuiltIn, CoordinatorEpoch, ItemSource, Outcome, Output, OutputBody, OutputStream, Phase, ProjectSpec,
        ProjectState, Reassemble, TaskKey,
    },
    output::{CHUNK_BYTES_MAX, INLINE_BYTES_MAX},
    store::{
        Begun, Write,
        fixture::{AGENT, claim, create, move_to, report, spec, task, task_spec},
        sqlite::SqliteStore,
    },
};
use futures_util::TryStreamExt;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tempfile::TempDir;

const GOOD: Outcome = Outcome::Exited(0);
const BAD: Outcome = Outcome::Exited(1);

/// One project in a real store.
struct Bench {
    _dir: TempDir,
    store: Arc<SqliteStore>,
    outputs: Outputs,
    reassembler: Reassembler,
    epoch: CoordinatorEpoch,
    project: ProjectId,
    tasks: u32,
    changes: watch::Sender<u64>,
}

impl Bench {
    async fn new(spec: ProjectSpec, tasks: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&dir.path().join("store.db")).unwrap());
        let outputs = Outputs::open(&dir.path().join("output")).unwrap();
        let epoch = store.open_epoch().await.unwrap();
        let Begun::New(project) = store.begin_submission("").await.unwrap() else { panic!("not new") };
        store.commit(epoch, vec![create(project, spec, tasks)]).await.unwrap();
        let reassembler = Reassembler::new(Arc::clone(&store) as Arc<dyn Store>, outputs.clone());
        Self { _dir: dir, store, outputs, reassembler, epoch, project, tasks, changes: watch::Sender::new(0) }
    }

    async fn built_in(how: BuiltIn, tasks: u32) -> Self {
        Self::new(spec(Reassemble::BuiltIn(how)), tasks).await
    }

    async fn commit(&self, writes: Vec<Write>) {
        self.store.commit(self.epoch, writes).await.unwrap();
        self.changes.send_modify(|version| *version += 1);
    }

    /// The task runs and ends; long output goes the way of bulk bytes.
    async fn end(&self, task: TaskKey, outcome: Outcome, stdout: &[u8]) {
        let attempt = task.attempt(1);
        let mut report = report(attempt, outcome, b"");
        report.stdout = if stdout.len() <= INLINE_BYTES_MAX {
            Output::inline(Bytes::copy_from_slice(stdout))
        } else {
            let mut upload = self.outputs.upload(attempt, OutputStream::Stdout).await.unwrap();
            upload.write(0, Bytes::copy_from_slice(stdout)).await.unwrap();
            let stored = upload.finish().await.unwrap();
            Output { length: stored.length, body: OutputBody::Stored(stored.sha256) }
        };
        self.commit(vec![claim(attempt), Write::Record { agent: AGENT, report }]).await;
    }

    async fn end_task(&self, index: u32, outcome: Outcome, stdout: &[u8]) {
        self.end(task(self.project, index), outcome, stdout).await;
    }

    async fn end_project(&self, state: ProjectState) {
        self.commit(vec![move_to(self.project, state, self.tasks)]).await;
    }

    fn results(&self, cursor: Cursor, wait: bool) -> ResultsStream {
        self.reassembler.results(self.project, cursor, self.changes.subscribe(), wait)
    }

    /// Everything from a cursor on, and where it ends.
    async fn all(&self, cursor: Cursor, wait: bool) -> (Vec<u8>, Cursor) {
        read(self.results(cursor, wait), cursor).await.unwrap()
    }

    async fn ordered(&self, offset: u64) -> Result<Vec<u8>, ReassembleError> {
        let mut stream = self.reassembler.ordered_output(self.project, offset);
        let mut all = Vec::new();
        while let Some(bytes) = stream.try_next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    async fn kept(&self) -> Output {
        self.store.result(self.project, Generation::FIRST).await.unwrap().unwrap()
    }
}

async fn read(mut stream: ResultsStream, mut cursor: Cursor) -> Result<(Vec<u8>, Cursor), ReassembleError> {
    let mut all = Vec::new();
    while let Some(part) = stream.try_next().await? {
        assert!(!part.bytes.is_empty() && part.bytes.len() <= CHUNK_BYTES_MAX);
        all.extend_from_slice(&part.bytes);
        cursor = part.cursor;
    }
    Ok((all, cursor))
}

fn cursor(index: u32, offset: u64) -> Cursor {
    Cursor { generation: Generation::FIRST, index, offset }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// How a task ends: success, and what it prints.
type Ending = (bool, Vec<u8>);

fn ending() -> impl Strategy<Value = Ending> {
    let short = prop::collection::vec(any::<u8>(), 0..50);
    let stdout = prop_oneof![
        4 => short,
        1 => Just(Vec::new()),
        1 => (0..INLINE_BYTES_MAX * 12, any::<u8>())
            .prop_map(|(length, seed)| (0..length).map(|place| seed ^ (place / 7) as u8).collect()),
    ];
    (prop::bool::weighted(0.8), stdout)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The heart of it: whatever the tasks print, in whatever order they end, a reader who waits from the start, one who
    /// comes late and one who reconnects at every part all get what a sequential run prints.
    #[test]
    fn the_result_is_the_sequential_concatenation(
        tasks in prop::collection::vec((ending(), any::<u32>()), 0..12),
    ) {
        runtime().block_on(async {
            let bench = Bench::built_in(BuiltIn::Concat, tasks.len() as u32).await;
            let expected: Vec<u8> =
                tasks.iter().filter(|((good, _), _)| *good).flat_map(|((_, stdout), _)| stdout.clone()).collect();
            let waiting = tokio::spawn(read(bench.results(Cursor::START, true), Cursor::START));
            let mut order: Vec<_> = (0_u32..).zip(&tasks).collect();
            order.sort_by_key(|(_, (_, place))| place);
            let mut seen = (Vec::new(), Cursor::START);
            for (index, ((good, stdout), _)) in order {
                bench.end_task(index, if *good { GOOD } else { BAD }, stdout).await;
                let (more, now) = bench.all(seen.1, false).await;
                seen.0.extend_from_slice(&more);
                seen.1 = now;
            }
            prop_assert_eq!(&bench.ordered(0).await.unwrap(), &expected);
            bench.end_project(ProjectState::Failed).await;
            prop_assert_eq!(&waiting.await.unwrap().unwrap().0, &expected, "waiting from the start");
            prop_assert_eq!(&seen.0, &expected, "after each ending");

            // Reconnecting after each part, through the cursor's text form.
            let (mut at, mut pieces) = (Cursor::START, Vec::new());
            while let Some(part) = bench.results(at, true).try_next().await.unwrap() {
                pieces.extend_from_slice(&part.bytes);
                at = part.cursor.to_string().parse().unwrap();
            }
            prop_assert_eq!(&pieces, &expected, "part by part");
            Ok(())
        })?;
    }

    /// A cursor may point at any byte.
    #[test]
    fn a_cursor_at_any_byte_resumes_there(
        tasks in prop::collection::vec(ending(), 1..6),
        place: prop::sample::Index,
        part: prop::sample::Index,
    ) {
        runtime().block_on(async {
            let bench = Bench::built_in(BuiltIn::Concat, tasks.len() as u32).await;
            for (index, (good, stdout)) in (0..).zip(&tasks) {
                bench.end_task(index, if *good { GOOD } else { BAD }, stdout).await;
            }
            bench.end_project(ProjectState::Succeeded).await;
            let bytes = |(good, stdout): &Ending| if *good { stdout.clone() } else { Vec::new() };
            let index = place.index(tasks.len());
            let first = bytes(&tasks[index]);
            let offset = part.index(first.len() + 1);
            let rest: Vec<u8> =
                first[offset..].iter().copied().chain(tasks[index + 1..].iter().flat_map(bytes)).collect();
            prop_assert_eq!(bench.all(cursor(index as u32, offset as u64), true).await.0, rest.clone());
            let before: usize = tasks[..index].iter().map(|task| bytes(task).len()).sum();
            prop_assert_eq!(bench.ordered((before + offset) as u64).await.unwrap(), rest);
            Ok(())
        })?;
    }

    #[test]
    fn a_sum_is_the_sum(tasks in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<i64>(), 0..9)), 0..9)) {
        runtime().block_on(async {
            let bench = Bench::built_in(BuiltIn::Sum, tasks.len() as u32).await;
            let mut expected = 0;
            for (index, (good, numbers)) in (0..).zip(&tasks) {
                let words: Vec<_> = numbers.iter().map(ToString::to_string).collect();
                bench.end_task(index, if *good { GOOD } else { BAD }, words.join("\n").as_bytes()).await;
                expected += numbers.iter().filter(|_| *good).map(|&number| i128::from(number)).sum::<i128>();
            }
            bench.reassembler.run_builtin(bench.project).await.unwrap();
            bench.end_project(ProjectState::Succeeded).await;
            prop_assert_eq!(bench.all(Cursor::START, true).await.0, format!("{expected}\n").into_bytes());
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn results_appear_while_later_tasks_still_run() {
    let bench = Bench::built_in(BuiltIn::Concat, 4).await;
    let mut results = bench.results(Cursor::START, true);
    bench.end_task(1, GOOD, b"one").await;
    bench.end_task(0, GOOD, b"zero").await;
    let parts = [results.try_next().await.unwrap().unwrap(), results.try_next().await.unwrap().unwrap()];
    let expected = [(cursor(0, 4), "zero"), (cursor(1, 3), "one")];
    assert_eq!(parts, expected.map(|(cursor, bytes)| ResultsPart { cursor, bytes: bytes.into() }));
    bench.end_task(3, GOOD, b"three").await;
    bench.end_task(2, BAD, b"two").await;
    assert_eq!(
        results.try_next().await.unwrap().unwrap().cursor,
        cursor(3, 5),
        "a failed one contributes nothing"
    );
    bench.end_project(ProjectState::Failed).await;
    assert_eq!(results.try_next().await.unwrap(), None);
}

#[tokio::test]
async fn a_cancelled_project_ends_at_the_first_task_without_a_result() {
    let bench = Bench::built_in(BuiltIn::Concat, 3).await;
    bench.end_task(0, GOOD, b"zero").await;
    bench.end_task(2, GOOD, b"two").await;
    bench.end_project(ProjectState::Cancelled).await;
    assert_eq!(bench.all(Cursor::START, true).await, (b"zero".to_vec(), cursor(0, 4)));
    let error = bench.ordered(0).await.unwrap_err();
    assert!(matches!(error, ReassembleError::Unfinished { index: 1 }), "{error:?}");
}

#[tokio::test]
async fn a_reader_who_waits_is_told_when_the_coordinator_stops() {
    let bench = Bench::built_in(BuiltIn::Concat, 2).await;
    bench.end_task(0, GOOD, b"zero").await;
    let mut results = bench.results(Cursor::START, true);
    results.try_next().await.unwrap().unwrap();
    let Bench { _dir, store, epoch, project, changes, .. } = bench;
    let mut other = Reassembler::new(store.clone(), Outputs::open(_dir.path()).unwrap()).results(
        project,
        cursor(1, 0),
        changes.subscribe(),
        true,
    );
    drop(changes);
    assert!(matches!(results.try_next().await, Err(ReassembleError::Stopping)));
    // Unless the project has ended.
    store.commit(epoch, vec![move_to(project, ProjectState::Cancelled, 2)]).await.unwrap();
    assert_eq!(other.try_next().await.unwrap(), None);
}

#[tokio::test]
async fn wrong_cursors_are_refused() {
    let bench = Bench::built_in(BuiltIn::Concat, 2).await;
    bench.end_task(0, GOOD, b"zero").await;
    bench.end_task(1, BAD, b"one").await;
    for place in [cursor(0, 5), cursor(1, 1)] {
        let error = read(bench.results(place, false), place).await.unwrap_err();
        assert!(matches!(error, ReassembleError::BehindEnd), "{error:?}");
    }
    let other = Cursor { generation: Generation(2), ..cursor(0, 0) };
    let error = read(bench.results(other, true), other).await.unwrap_err();
    assert!(matches!(error, ReassembleError::Generation { current: Generation(1), got: Generation(2) }));
    assert!(matches!(bench.ordered(5).await, Err(ReassembleError::BehindEnd)));
    let nobody = bench.reassembler.results(ProjectId(99), Cursor::START, bench.changes.subscribe(), true);
    assert!(matches!(read(nobody, Cursor::START).await, Err(ReassembleError::NoProject(ProjectId(99)))));
}

#[tokio::test]
async fn a_hundred_megabytes_over_several_outputs() {
    let bench = Bench::built_in(BuiltIn::Concat, 6).await;
    let length = |index: u32| [30_000_000, 0, 1, 4 * 1024 * 1024, 45_000_000, 25_000_000][index as usize];
    let noise: Vec<u8> =
        (0..65_521_u32).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let stdout = |index: u32| {
        let mut bytes = noise.repeat(length(index) / noise.len() + 1);
        bytes.rotate_left(index as usize);
        bytes.truncate(length(index));
        bytes
    };
    for index in [4, 0, 5, 2, 1, 3] {
        bench.end_task(index, GOOD, &stdout(index)).await;
    }
    bench.end_project(ProjectState::Succeeded).await;
    let (expected, mut total) = ((0..6).map(stdout).collect::<Vec<_>>().concat(), 0);
    let mut results = bench.results(Cursor::START, true);
    while let Some(part) = results.try_next().await.unwrap() {
        assert!(part.bytes == expected[total..total + part.bytes.len()], "after byte {total}");
        total += part.bytes.len();
    }
    assert!(total == expected.len() && total > 100_000_000, "{total}");
}

#[tokio::test]
async fn a_commands_stdout_is_the_result() {
    for (outcome, expected) in [(GOOD, "sorted"), (BAD, "")] {
        let bench = Bench::new(spec(Reassemble::Command(task_spec())), 1).await;
        bench.end_task(0, GOOD, b"unsorted").await;
        assert_eq!(bench.all(Cursor::START, false).await.0, b"");
        let mut waiting = bench.results(Cursor::START, true);
        let task = TaskKey { project: bench.project, phase: Phase::Reassemble, index: 0 };
        bench.end(task, outcome, b"sorted").await;
        bench.end_project(ProjectState::Succeeded).await;
        let all = async |cursor| bench.all(cursor, true).await;
        assert_eq!(all(Cursor::START).await.0, expected.as_bytes());
        if !expected.is_empty() {
            assert_eq!(waiting.try_next().await.unwrap().unwrap().cursor, cursor(0, 6));
            assert_eq!(all(cursor(0, 2)).await, (b"rted".to_vec(), cursor(0, 6)));
            assert_eq!(all(cursor(0, 6)).await.0, b"");
            let wrong = read(bench.results(cursor(1, 0), true), cursor(1, 0)).await;
            assert!(matches!(wrong, Err(ReassembleError::BehindEnd)));
        }
        assert_eq!(waiting.try_next().await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_built_in_result_is_sent_once_the_project_has_succeeded() {
    let bench = Bench::built_in(BuiltIn::Sum, 1).await;
    bench.end_task(0, GOOD, b"1 2").await;
    bench.reassembler.run_builtin(bench.project).await.unwrap();
    assert_eq!(bench.all(Cursor::START, false).await.0, b"");
    let mut waiting = bench.results(Cursor::START, true);
    bench.end_project(ProjectState::Succeeded).await;
    let part = waiting.try_next().await.unwrap().unwrap();
    assert_eq!((part.cursor, &part.bytes[..]), (cursor(0, 2), &b"3\n"[..]));
    assert_eq!(waiting.try_next().await.unwrap(), None);
    assert_eq!(bench.all(cursor(0, 1), true).await.0, b"\n");

    let none = Bench::built_in(BuiltIn::None, 1).await;
    none.end_task(0, GOOD, b"unheard").await;
    none.reassembler.run_builtin(none.project).await.unwrap();
    none.end_project(ProjectState::Succeeded).await;
    assert_eq!(none.all(Cursor::START, true).await.0, b"");
}

#[tokio::test]
async fn what_cannot_be_added_up_is_named() {
    let bench = Bench::built_in(BuiltIn::Sum, 3).await;
    bench.end_task(0, GOOD, b"1").await;
    let early = bench.reassembler.run_builtin(bench.project).await.unwrap_err();
    assert_eq!(early, "task 1 has no result yet");
    bench.end_task(1, BAD, b"not counted").await;
    bench.end_task(2, GOOD, b"2\nerror: no\n").await;
    let error = bench.reassembler.run_builtin(bench.project).await.unwrap_err();
    assert_eq!(error, "can't add up the output of task 2: \"error:\" is no integer");
}

#[tokio::test]
async fn json_is_one_array_short_or_long() {
    for length in [10, INLINE_BYTES_MAX * 20] {
        let bench = Bench::built_in(BuiltIn::Json, 5).await;
        let long = "\u{e9}\n".repeat(length / 3);
        bench.end_task(0, GOOD, b" {\"a\": 1.0}\n").await;
        bench.end_task(1, GOOD, long.as_bytes()).await;
        bench.end_task(2, BAD, b"2").await;
        bench.end_task(3, GOOD, b"").await;
        bench.end_task(4, GOOD, b"a\xff\"b").await;
        // Twice: an interrupted run is run again.
        for _ in 0..2 {
            bench.reassembler.run_builtin(bench.project).await.unwrap();
        }
        assert_eq!(matches!(bench.kept().await.body, OutputBody::Stored(_)), length > 10);
        bench.end_project(ProjectState::Succeeded).await;
        let (result, end) = bench.all(Cursor::START, true).await;
        assert_eq!(end, cursor(0, result.len() as u64));
        let parsed: serde_json::Value = serde_json::from_slice(&result).unwrap();
        assert_eq!(parsed, serde_json::json!([{"a": 1.0}, long, "", "a\u{fffd}\"b"]));
        let (rest, _) = bench.all(cursor(0, 5), true).await;
        assert!(rest == result[5..]);
    }
    let empty = Bench::built_in(BuiltIn::Json, 0).await;
    empty.reassembler.run_builtin(empty.project).await.unwrap();
    assert_eq!(empty.kept().await, Output::inline("[]\n".into()));
}

#[tokio::test]
async fn the_split_tasks_lines_become_items() {
    let split = || ProjectSpec {
        items: ItemSource::Split(task_spec()),
        ..spec(Reassemble::BuiltIn(BuiltIn::Concat))
    };
    let cases = [
        (GOOD, "a b\r\n\nc".to_owned(), Ok(3)),
        (GOOD, (0..25_000).map(|line| format!("line {line}\n")).collect(), Ok(25_000)),
        (GOOD, String::new(), Err("the split task printed no lines")),
        (BAD, "a\n".to_owned(), Err("the split task has no successful result")),
    ];
    for (outcome, stdout, expected) in cases {
        let bench = Bench::new(split(), 0).await;
        let task_of = |index| task(bench.project, index);
        let none = bench.reassembler.run_split(bench.project).await;
        assert_eq!(none.unwrap_err(), "the split task has no successful result");
        let split = TaskKey { project: bench.project, phase: Phase::Split, index: 0 };
        bench.end(split, outcome, stdout.as_bytes()).await;
        for _ in 0..2 {
            let done = bench.reassembler.run_split(bench.project).await;
            assert_eq!(done, expected.map_err(ToOwned::to_owned));
        }
        let Ok(count) = expected else { continue };
        let claims = (0..count).map(|index| Write::Claim {
            attempt: task_of(index).attempt(1),
            agent: AGENT,
            stored_item: true,
        });
        let items = bench.store.commit(bench.epoch, claims.collect()).await.unwrap().items;
        let texts: BTreeMap<_, _> =
            items.into_iter().map(|(key, item)| (key.task.index, item.text)).collect();
        assert!(texts.values().eq(stdout.lines()));
        let behind = Write::Claim { attempt: task_of(count).attempt(1), agent: AGENT, stored_item: true };
        assert!(bench.store.commit(bench.epoch, vec![behind]).await.is_err(), "there is no further item");
    }
}
