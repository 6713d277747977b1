//! Reassembly over a real store and a real directory.

mod concat;
mod made;

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

    fn results(&self, cursor: Cursor, wait: bool) -> Results {
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

async fn read(mut results: Results, mut cursor: Cursor) -> Result<(Vec<u8>, Cursor), ReassembleError> {
    let mut all = Vec::new();
    while let Some(part) = results.next().await? {
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
