//! A core under test, and a strict record of what it wants done.

use crate::{
    domain::{
        Assignment, AttemptKey, ImageSpec, Isolation, Outcome, Output, Phase, Report, RunSpec, StdinFrom,
        Usage,
    },
    supervisor::{ConnectionId, Core, CoreConfig, Effects, FromCoordinator, Input, Stop, ToCoordinator},
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// At once.
pub(super) const STOP: Input = Input::Stop(Stop::Drain(Duration::ZERO));

pub(super) const HEARTBEAT: Duration = Duration::from_secs(2);

/// One thing that the core wants done, in the order of [`Effects`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Do {
    Persist(AttemptKey),
    Forget(AttemptKey),
    Release(AttemptKey),
    TakeBack,
    Kill(AttemptKey),
    Start(AttemptKey),
    Upload(AttemptKey),
    /// Connection, number, message.
    Send(u64, u64, ToCoordinator),
    Close(u64),
    Stopped,
}

pub(super) struct Bench {
    pub(super) core: Core,
    pub(super) now: Duration,
}

impl Bench {
    pub(super) fn new(slots: u32) -> Self {
        Self::with(slots, vec![], vec![])
    }

    pub(super) fn with(slots: u32, adopted: Vec<AttemptKey>, outbox: Vec<Report>) -> Self {
        let core = Core::new(CoreConfig::new(slots), adopted, outbox);
        core.check();
        Self { core, now: Duration::from_secs(1000) }
    }

    /// A core with a welcomed session on connection 1; its Hello and Credits were sent, and Welcome was handled.
    pub(super) fn in_session(slots: u32) -> Self {
        let mut bench = Self::new(slots);
        bench.take(Input::Connected(ConnectionId(1)));
        bench.take(from(1, 1, welcome(1, 1)));
        bench
    }

    /// Handles one input, and returns all that it calls for.
    pub(super) fn take(&mut self, input: Input) -> Vec<Do> {
        self.take_all([input])
    }

    /// Handles several inputs as one batch.
    pub(super) fn take_all(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Do> {
        let mut effects = Effects::default();
        for input in inputs {
            self.core.handle(input, self.now, &mut effects);
            self.core.check();
        }
        flatten(effects)
    }

    /// Handles one input, which must call for exactly this.
    #[track_caller]
    pub(super) fn step(&mut self, input: Input, expected: &[Do]) {
        assert_eq!(self.take(input), expected);
    }

    #[track_caller]
    pub(super) fn quiet(&mut self, input: Input) {
        self.step(input, &[]);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

fn flatten(effects: Effects) -> Vec<Do> {
    let mut all = Vec::new();
    all.extend(effects.persist.into_iter().map(|report| Do::Persist(report.attempt)));
    all.extend(effects.forget.into_iter().map(Do::Forget));
    all.extend(effects.release.into_iter().map(Do::Release));
    all.extend(effects.take_back.then_some(Do::TakeBack));
    all.extend(effects.kill.into_iter().map(Do::Kill));
    all.extend(effects.start.into_iter().map(|assignment| Do::Start(assignment.attempt)));
    all.extend(effects.upload.into_iter().map(Do::Upload));
    all.extend(
        effects.sends.into_iter().map(|(connection, seq, message)| Do::Send(connection.0, seq, message)),
    );
    all.extend(effects.closes.into_iter().map(|(connection, _)| Do::Close(connection.0)));
    if effects.stopped {
        all.push(Do::Stopped);
    }
    all
}

/// Attempt 1 of task `index`.
pub(super) fn key(index: u32) -> AttemptKey {
    AttemptKey { project: 7, phase: Phase::Task, index, attempt: 1 }
}

/// Another attempt of task `index`.
pub(super) fn retry(index: u32, attempt: u32) -> AttemptKey {
    AttemptKey { attempt, ..key(index) }
}

pub(super) fn report(attempt: AttemptKey, outcome: Outcome) -> Report {
    let output = |text: &'static str| Output::Inline(Bytes::from_static(text.as_bytes()));
    Report { attempt, outcome, usage: Usage::default(), stdout: output("out"), stderr: output("") }
}

pub(super) fn exited(index: u32) -> Report {
    report(key(index), Outcome::Exited(0))
}

pub(super) fn cancelled(attempt: AttemptKey) -> Report {
    Report::without_output(attempt, Outcome::Cancelled)
}

/// An ending whose stdout must be uploaded first.
pub(super) fn spooled(index: u32, length: u64) -> Report {
    Report { stdout: Output::Spooled { length, sha256: [1; 32] }, ..exited(index) }
}

pub(super) fn from(connection: u64, seq: u64, message: FromCoordinator) -> Input {
    Input::FromCoordinator { connection: ConnectionId(connection), seq, message }
}

pub(super) fn welcome(coordinator_epoch: u64, session_epoch: u64) -> FromCoordinator {
    FromCoordinator::Welcome { coordinator_epoch, session_epoch, heartbeat: HEARTBEAT, discard: vec![] }
}

pub(super) fn discarding(session_epoch: u64, discard: Vec<AttemptKey>) -> FromCoordinator {
    FromCoordinator::Welcome { coordinator_epoch: 1, session_epoch, heartbeat: HEARTBEAT, discard }
}

pub(super) fn assign(attempts: &[AttemptKey]) -> FromCoordinator {
    let spec = Arc::new(RunSpec {
        project_name: "test".into(),
        image: ImageSpec::Reference("test:local".into()),
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
    });
    let assignment = |attempt: &AttemptKey| Assignment {
        attempt: *attempt,
        command: vec!["true".into()],
        stdin: Bytes::new(),
        spec: spec.clone(),
    };
    FromCoordinator::Assign(attempts.iter().map(assignment).collect())
}

pub(super) fn hello(live: &[AttemptKey], unrecorded: &[AttemptKey], epoch: u64) -> ToCoordinator {
    ToCoordinator::Hello {
        live: live.to_vec(),
        unrecorded: unrecorded.to_vec(),
        coordinator_epoch_seen: epoch,
    }
}

pub(super) fn credits(attempts_max: u32) -> ToCoordinator {
    ToCoordinator::Credits { attempts_max, not_ready: String::new() }
}

pub(super) fn no_credits(why: &str) -> ToCoordinator {
    ToCoordinator::Credits { attempts_max: 0, not_ready: why.into() }
}
