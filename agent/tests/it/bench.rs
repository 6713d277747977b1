//! An agent and its coordinator in one directory.

use crate::coordinator::{Coordinator, SLOTS, Session, WAIT};
use piecework_agent::{
    Agent, AgentConfig, RuntimeChoice,
    domain::{AttemptKey, Outcome, Output, Phase, Report},
    runtime::scripted::ScriptedRuntime,
};
use piecework_proto::{address::Address, v1};
use std::{collections::BTreeMap, future::Future, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;

pub(crate) struct Bench {
    pub(crate) coordinator: Coordinator,
    pub(crate) runtime: ScriptedRuntime,
    pub(crate) dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let coordinator = Coordinator::start(dir.path());
        Self { coordinator, runtime: ScriptedRuntime::new(), dir }
    }

    pub(crate) fn config(&self, runtime: RuntimeChoice) -> AgentConfig {
        AgentConfig {
            data: self.data(),
            server: Address::Socket(self.coordinator.socket.clone()),
            join: None,
            name: Some("here".into()),
            slots: Some(SLOTS),
            cpus_milli: None,
            memory_bytes: None,
            runtime,
            labels: BTreeMap::new(),
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// An agent on the scripted runtime. The next one finds the workers of the one before.
    pub(crate) async fn agent(&self) -> Agent {
        let runtime = Arc::new(self.runtime.clone());
        Agent::start_with(self.config(RuntimeChoice::Scripted), runtime).await.expect("starts")
    }

    /// An agent in its first session.
    pub(crate) async fn in_session(&mut self) -> (Agent, Session) {
        let agent = self.agent().await;
        let session = self.coordinator.welcomed(1).await;
        (agent, session)
    }

    /// Waits until no worker holds an attempt: those that are left are idle.
    pub(crate) async fn no_workers_held(&self) {
        self.workers_held(0).await;
    }

    /// Waits until so many workers hold an attempt that runs, or whose ending is not in the outbox.
    pub(crate) async fn workers_held(&self, count: usize) {
        let what = format!("{count} workers are held");
        until(&what, || async { self.runtime.held_workers() == count }).await;
    }

    pub(crate) fn spooled_files(&self) -> usize {
        std::fs::read_dir(self.data().join("outbox/spool")).expect("lists").count()
    }
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let waited = tokio::time::timeout(WAIT, async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain until {what}");
}

/// Attempt 1 of task `index` of project 7.
pub(crate) fn key(index: u32) -> AttemptKey {
    AttemptKey { project: 7, phase: Phase::Task, index, attempt: 1 }
}

/// What reassembles project 7.
pub(crate) fn reassemble() -> AttemptKey {
    AttemptKey { project: 7, phase: Phase::Reassemble, index: 0, attempt: 1 }
}

pub(crate) fn spec(phase: v1::Phase, image: &str) -> v1::RunSpec {
    let image = v1::image_spec::Image::Reference(image.into());
    v1::RunSpec {
        project_id: 7,
        phase: phase.into(),
        project_name: "test".into(),
        image: Some(v1::ImageSpec { image: Some(image) }),
        task: Some(v1::TaskSpec::default()),
        has_input: phase == v1::Phase::Reassemble,
    }
}

pub(crate) fn specs() -> Vec<v1::RunSpec> {
    vec![spec(v1::Phase::Task, "test:local"), spec(v1::Phase::Reassemble, "test:local")]
}

/// What the scripted step `bytes=N` prints.
pub(crate) fn alphabet(count: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(count).collect()
}

/// One check for every ending: which attempt, how, and what it printed inline.
#[track_caller]
pub(crate) fn check(report: &Report, attempt: AttemptKey, outcome: &Outcome, stdout: &[u8], stderr: &[u8]) {
    assert_eq!((report.attempt, &report.outcome), (attempt, outcome));
    for (output, expected) in [(&report.stdout, stdout), (&report.stderr, stderr)] {
        match output {
            Output::Inline(bytes) => assert_eq!(bytes[..], *expected, "{}", bytes.escape_ascii()),
            Output::Spooled { length, .. } => panic!("{length} bytes are spooled"),
        }
    }
}
