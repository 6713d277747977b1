//! The writer and the readers over real databases.

mod conditions;
mod feed;
mod growth;
mod questions;

use super::*;
use crate::{
    domain::{
        AgentId, AttemptNo, ItemSource, Outcome, OutputBody, ProjectSpec, ProjectState, Reassemble,
        SessionEpoch, TaskCounts,
    },
    store::{
        TaskRowState,
        fixture::{AGENT, claim, concat, create, move_to, record, report, session, spec, task, task_spec},
    },
};
use proptest::prelude::*;

const EXITED: Outcome = Outcome::Exited(0);

/// A writer in memory, its epoch, and a running project.
struct Bench {
    writer: Writer,
    epoch: CoordinatorEpoch,
    project: ProjectId,
}

impl Bench {
    fn new() -> Self {
        Self::on(Writer::in_memory().unwrap())
    }

    fn on(mut writer: Writer) -> Self {
        let epoch = writer.open_epoch().unwrap();
        let project = begin(&mut writer, "");
        let mut bench = Self { writer, epoch, project };
        bench.made([create(project, concat(), 10), session(AGENT, "alpha", 1)]);
        bench
    }

    fn commit(&mut self, writes: impl IntoIterator<Item = Write>) -> Result<Committed, StoreError> {
        let writes: Vec<_> = writes.into_iter().collect();
        self.writer.commit(self.epoch, &writes)
    }

    fn made(&mut self, writes: impl IntoIterator<Item = Write>) {
        self.commit(writes).unwrap();
    }

    /// The write is a conflict, and whatever came with it is rolled back.
    fn refused(&mut self, write: Write) {
        let before = self.state();
        let witness = claim(task(self.project, 4_000_000).attempt(1));
        let done = self.commit([witness, write.clone()]);
        assert!(matches!(done, Err(StoreError::Conflict(_))), "{write:?}: {done:?}");
        assert_eq!(self.state(), before, "{write:?}");
    }

    /// All that readers can see of the project and the agents.
    fn state(&mut self) -> String {
        let (project, reads) = (self.project, self.writer.reads());
        let filter = TaskFilter { limit: 1000, ..TaskFilter::default() };
        let mut seen = format!("{:?}", reads.project(project).unwrap());
        seen += &format!("{:?}", reads.tasks(project, &filter).unwrap());
        seen += &format!("{:?}", reads.attempts_after(project, 0, 1000).unwrap());
        seen + &format!("{:?}", self.writer.load().unwrap())
    }

    fn attempt(&self, index: u32, attempt: AttemptNo) -> AttemptKey {
        task(self.project, index).attempt(attempt)
    }
}

fn begin(writer: &mut Writer, key: &str) -> ProjectId {
    match writer.begin_submission(key).unwrap() {
        Begun::New(project) => project,
        other => panic!("{other:?}"),
    }
}

fn requeue(attempt: AttemptKey, outcome: Outcome, failures: u32, crashes: u32) -> Write {
    Write::Requeue { agent: AGENT, report: report(attempt, outcome, b"partial"), failures, crashes }
}
