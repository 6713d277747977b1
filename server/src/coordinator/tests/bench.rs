//! A core on the bench: inputs by short words, and everything that it wants must be asked for.

use crate::{
    broker::{Embedded, Specs},
    coordinator::{
        AgentView, Coordinator, Effects, FromAgent, Hello, Input, Job, Limits, NewProject, Reply, ReplyId,
        SessionId, ToAgent,
    },
    domain::{
        AgentId, AttemptKey, BuiltIn, CoordinatorEpoch, FailurePolicy, ImageSpec, Isolation, ItemSource,
        LeaseLossPolicy, Network, Outcome, Output, Phase, Placement, ProjectId, ProjectSpec, ProjectState,
        Reassemble, Report, Resources, RetryOn, TaskKey, TaskSpec, Usage,
    },
    driver::turn,
    store::{ActiveProject, Snapshot, Write},
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A core, its broker, and what it wanted and nobody has asked for yet.
pub(super) struct Bench {
    pub(super) core: Coordinator,
    broker: Embedded,
    pub(super) now: Duration,
    left: Effects,
    seqs: BTreeMap<SessionId, u64>,
}

pub(super) fn task_spec() -> TaskSpec {
    TaskSpec {
        command: vec!["true".to_owned()],
        env: BTreeMap::new(),
        workdir: None,
        timeout_millis: None,
        retries: 0,
        retry_on: RetryOn::ALL.to_vec(),
        resources: Resources::default(),
        network: Network::None,
        isolation: Isolation::Sealed,
        stdin: None,
        requires: BTreeMap::new(),
        output_bytes_max: None,
    }
}

pub(super) fn spec() -> ProjectSpec {
    ProjectSpec {
        name: "bench".to_owned(),
        image: ImageSpec::Reference("busybox:local".to_owned()),
        items: ItemSource::Range { first: 1, last: 1, step: 1 },
        task: task_spec(),
        reassemble: Reassemble::BuiltIn(BuiltIn::Concat),
        on_failure: FailurePolicy::Continue,
        weight: 1,
        max_parallel: None,
        placement: Placement::Spread,
        on_lease_loss: LeaseLossPolicy::Rerun,
    }
}

pub(super) fn task(project: u64, index: u32) -> TaskKey {
    TaskKey { project: ProjectId(project), phase: Phase::Task, index }
}

pub(super) fn report(attempt: AttemptKey, outcome: Outcome) -> Report {
    let stdout = Output::inline(Bytes::from(attempt.to_string()));
    Report { attempt, outcome, usage: Usage::default(), stdout, stderr: Output::empty() }
}

pub(super) fn hello(name: &str, instance: &str) -> Hello {
    Hello {
        enrolled: None,
        address: String::new(),
        name: name.to_owned(),
        identity: format!("data directory of {name}"),
        instance: instance.to_owned(),
        version: "0".to_owned(),
        slots: 2,
        runtime: "scripted".to_owned(),
        labels: BTreeMap::new(),
        cpus_milli: None,
        memory_bytes: None,
        live: Vec::new(),
        unrecorded: Vec::new(),
        epoch_seen: 0,
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::fold(Snapshot::default())
    }

    pub(super) fn fold(snapshot: Snapshot) -> Self {
        let now = Duration::from_secs(100);
        let (core, left) = Coordinator::fold(CoordinatorEpoch(3), snapshot, Limits::default(), now);
        core.check();
        Self { core, broker: Embedded::default(), now, left, seqs: BTreeMap::new() }
    }

    /// A snapshot with one running project.
    pub(super) fn active(spec: ProjectSpec, total: u32) -> ActiveProject {
        ActiveProject {
            id: ProjectId(1),
            spec: Arc::new(spec),
            state: ProjectState::Running,
            counts: crate::domain::TaskCounts { total, ..Default::default() },
            is_open: false,
            frontier: 0,
            gaps: Vec::new(),
            open: Vec::new(),
            split: None,
            reassemble: None,
        }
    }

    /// One turn. What it wants is added to what nobody has asked for yet.
    pub(super) fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) {
        let fx = turn(&mut self.core, &mut self.broker, &Specs::default(), inputs, self.now);
        self.core.check();
        self.left.writes.extend(fx.writes);
        self.left.sends.extend(fx.sends);
        self.left.closes.extend(fx.closes);
        self.left.replies.extend(fx.replies);
        self.left.jobs.extend(fx.jobs);
        self.left.warnings.extend(fx.warnings);
        assert!(fx.publish.is_empty() && fx.acks.is_empty(), "the embedded broker takes these at once");
    }

    pub(super) fn submit(&mut self, id: u64, spec: ProjectSpec, tasks: Option<u32>) {
        let project = NewProject { id: ProjectId(id), spec: Arc::new(spec), tasks };
        self.turn([Input::Submit { project, reply: ReplyId(id) }]);
        assert!(matches!(self.left.replies.pop(), Some((ReplyId(reply), Reply::Done)) if reply == id));
        let is_its = |write: &Write| matches!(write, Write::CreateProject { project, .. } if project.0 == id);
        let Some(created) = self.left.writes.iter().position(is_its) else { panic!("it is not written") };
        self.left.writes.remove(created);
    }

    /// What a project waits for.
    pub(super) fn waiting(&mut self, id: u64) -> Option<String> {
        self.turn([Input::Waiting { project: ProjectId(id), reply: ReplyId(0) }]);
        match self.reply() {
            Reply::Waiting(why) => why,
            other => panic!("no answer but {other:?}"),
        }
    }

    /// An agent, as operators see it.
    pub(super) fn agent(&mut self, name: &str) -> AgentView {
        self.turn([Input::GetAgent { name: name.to_owned(), reply: ReplyId(0) }]);
        match self.reply() {
            Reply::Agents(mut agents) => agents.remove(0),
            other => panic!("no answer but {other:?}"),
        }
    }

    /// The newest answer.
    pub(super) fn reply(&mut self) -> Reply {
        self.left.replies.pop().expect("an answer").1
    }

    /// The cancellation was answered.
    pub(super) fn cancelled_reply(&mut self, id: u64) {
        assert!(matches!(self.left.replies.pop(), Some((ReplyId(reply), Reply::Done)) if reply == id));
    }

    /// An agent comes with a new session, and wants so many attempts. Its Welcome is checked for what it discards.
    pub(super) fn join(&mut self, session: u64, hello: Hello, attempts_max: u32, discards: &[AttemptKey]) {
        let session = SessionId(session);
        self.seqs.insert(session, 1);
        self.turn([Input::Hello { session, hello: Box::new(hello) }]);
        let Some(first) = self.left.sends.iter().position(|(to, _)| *to == session) else {
            panic!("no Welcome")
        };
        match self.left.sends.remove(first).1 {
            ToAgent::Welcome { discard, coordinator_epoch: CoordinatorEpoch(3), .. } => {
                assert_eq!(discard, discards)
            }
            other => panic!("no Welcome but {other:?}"),
        }
        let Some(opened) = self.left.writes.iter().position(|write| matches!(write, Write::Session { .. }))
        else {
            panic!("the session's epoch is not written")
        };
        self.left.writes.remove(opened);
        self.say(session.0, FromAgent::Credits { attempts_max, not_ready: String::new() });
    }

    /// The next message of a session.
    pub(super) fn say(&mut self, session: u64, message: FromAgent) {
        let session = SessionId(session);
        let seq = self.seqs.entry(session).or_insert(1);
        *seq += 1;
        let seq = *seq;
        self.turn([Input::FromAgent { session, seq, message }]);
    }

    pub(super) fn ends(&mut self, session: u64, attempt: AttemptKey, outcome: Outcome) {
        self.say(session, FromAgent::Reports(vec![report(attempt, outcome)]));
    }

    /// The same for an attempt that took so long.
    pub(super) fn ends_after(&mut self, session: u64, attempt: AttemptKey, wall: Duration) {
        let mut report = report(attempt, Outcome::Exited(0));
        report.usage.wall_micros = wall.as_micros() as u64;
        self.say(session, FromAgent::Reports(vec![report]));
    }

    pub(super) fn sent(&mut self) -> Vec<(u64, ToAgent)> {
        std::mem::take(&mut self.left.sends)
            .into_iter()
            .map(|(session, message)| (session.0, message))
            .collect()
    }

    pub(super) fn closed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.left.closes).into_iter().map(|(session, _)| session.0).collect()
    }

    pub(super) fn jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.left.jobs)
    }

    /// The writes in few words.
    pub(super) fn wrote(&mut self) -> Vec<String> {
        std::mem::take(&mut self.left.writes).iter().map(words).collect()
    }

    /// What was logged for operators.
    pub(super) fn warned(&mut self) -> Vec<String> {
        std::mem::take(&mut self.left.warnings)
    }

    /// What an operator should look at.
    pub(super) fn warning(&self, agent: AgentId) -> &str {
        self.core.agents.get(agent).expect("is known").warning.as_ref().map_or("", |warning| &warning.text)
    }

    /// Nobody may have been told anything that the test did not ask for.
    pub(super) fn silent(&mut self) {
        assert_eq!(self.sent(), []);
        assert_eq!(self.wrote(), Vec::<String>::new());
        assert_eq!(self.closed(), Vec::<u64>::new());
        assert_eq!(self.jobs(), []);
        assert!(self.left.replies.is_empty());
    }
}

fn words(write: &Write) -> String {
    match write {
        Write::CreateProject { project, .. } => format!("create {project}"),
        Write::MoveProject { project, state, message, .. } if message.is_empty() => {
            format!("{project} {state}")
        }
        Write::MoveProject { project, state, message, .. } => format!("{project} {state}: {message}"),
        Write::AddTasks { project, tasks } => format!("{project} has {tasks} tasks"),
        Write::Close { project } => format!("close {project}"),
        Write::Claim { attempt, agent, .. } => format!("claim {attempt} for {}", agent.0),
        Write::Record { report, .. } => format!("record {}: {}", report.attempt, report.outcome),
        Write::Requeue { report, failures, crashes, .. } => {
            format!("requeue {}: {} ({failures} failures, {crashes} crashes)", report.attempt, report.outcome)
        }
        Write::Return { attempt, .. } => format!("return {attempt}"),
        Write::Readopt { attempt, .. } => format!("readopt {attempt}"),
        Write::Session { name, epoch, .. } => format!("session {name} {}", epoch.0),
        Write::Drain { agent, draining } => format!("drain {}: {draining}", agent.0),
        Write::RemoveAgent { agent, .. } => format!("remove {}", agent.0),
    }
}
