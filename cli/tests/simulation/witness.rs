//! The witness: knows what really happened, outside of everything that is tested, and compares.

use crate::{
    host::{AgentHost, GPU},
    world::{Client, LEASE},
};
use piecework_server::{
    domain::{
        AttemptKey, BuiltIn, FailurePolicy, ImageSpec, Isolation, ItemSource, LeaseLossPolicy, Network,
        Outcome, OutcomeClass, Phase, Placement, ProjectId, ProjectSpec, ProjectState, Reassemble, Resources,
        RetryOn, TaskKey, TaskSpec,
    },
    store::{Write, sqlite::Writer},
};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// What a client wants.
#[derive(Clone, Debug)]
pub(crate) struct ProjectPlan {
    pub(crate) tasks: u32,
    pub(crate) split: bool,
    /// Its tasks are added.
    pub(crate) open: Option<OpenPlan>,
    pub(crate) sum: bool,
    pub(crate) command: bool,
    pub(crate) retries: u32,
    /// Asks for an agent with the label.
    pub(crate) gpu: bool,
    pub(crate) cpus_milli: Option<u32>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) max_parallel: Option<u32>,
    pub(crate) pack: bool,
    /// A lost lease is the end of a task.
    pub(crate) stop: bool,
}

/// How an open project ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenPlan {
    /// Its client says so.
    pub(crate) is_told: bool,
    idle: Option<Duration>,
}

impl OpenPlan {
    fn random(rng: &mut StdRng) -> Self {
        let is_told = rng.random_bool(0.6);
        let is_idle = !is_told || rng.random_bool(0.3);
        Self { is_told, idle: is_idle.then(|| Duration::from_millis(rng.random_range(1_000..8_000))) }
    }
}

impl ProjectPlan {
    pub(crate) fn random(rng: &mut StdRng, quick: bool) -> Self {
        let open = rng.random_bool(0.3).then(|| OpenPlan::random(rng));
        Self {
            open,
            tasks: if quick { 40 * rng.random_range(1..5) } else { rng.random_range(1..15) },
            split: rng.random_bool(0.3) && open.is_none(),
            sum: rng.random_bool(0.3),
            command: rng.random_bool(0.2),
            retries: rng.random_range(0..3),
            gpu: rng.random_bool(0.3),
            cpus_milli: *[None, None, Some(500), Some(1000), Some(2000)].choose(rng).unwrap_or(&None),
            memory_bytes: *[None, None, Some(512 << 20), Some(2 << 30)].choose(rng).unwrap_or(&None),
            max_parallel: rng.random_bool(0.2).then(|| rng.random_range(1..4)),
            pack: rng.random_bool(0.3),
            stop: rng.random_bool(0.2),
        }
    }

    pub(crate) fn spec(&self) -> Arc<ProjectSpec> {
        let task = TaskSpec {
            command: vec!["simulated".to_owned()],
            env: BTreeMap::new(),
            workdir: None,
            timeout_millis: None,
            retries: self.retries,
            retry_on: RetryOn::ALL.to_vec(),
            resources: Resources {
                cpus_milli: self.cpus_milli,
                memory_bytes: self.memory_bytes,
                ..Resources::default()
            },
            network: Network::None,
            isolation: Isolation::Sealed,
            stdin: None,
            requires: if self.gpu {
                BTreeMap::from([(GPU.to_owned(), "true".to_owned())])
            } else {
                BTreeMap::new()
            },
            output_bytes_max: None,
        };
        Arc::new(ProjectSpec {
            name: "simulated".to_owned(),
            image: ImageSpec::Reference("simulated".to_owned()),
            items: match (self.split, self.open) {
                (true, _) => ItemSource::Split(task.clone()),
                (false, None) => ItemSource::List(self.tasks),
                (false, Some(OpenPlan { idle, .. })) => {
                    ItemSource::Open { idle_millis: idle.map(|idle| idle.as_millis() as u64) }
                }
            },
            reassemble: match (self.command, self.sum) {
                (true, _) => Reassemble::Command(task.clone()),
                (false, true) => Reassemble::BuiltIn(BuiltIn::Sum),
                (false, false) => Reassemble::BuiltIn(BuiltIn::Concat),
            },
            task,
            on_failure: FailurePolicy::Continue,
            weight: 1,
            max_parallel: self.max_parallel,
            placement: if self.pack { Placement::Pack } else { Placement::Spread },
            on_lease_loss: if self.stop { LeaseLossPolicy::Stop } else { LeaseLossPolicy::Rerun },
        })
    }

    /// Whether a host may be given its attempts at all.
    fn fits(&self, host: &AgentHost) -> bool {
        let labelled = !self.gpu || host.labels.get(GPU).is_some_and(|value| value == "true");
        labelled
            && self.cpus_milli.unwrap_or(0) <= host.cpus_milli
            && self.memory_bytes.unwrap_or(0) <= host.memory_bytes
    }

    /// How many attempts of a task fail by its own fault. Some more than its retries allow.
    fn failures(&self, task: TaskKey) -> u32 {
        if task.phase == Phase::Task && task.index % 5 == 3 { 1 + task.index % 3 } else { 0 }
    }

    fn fails(&self, task: TaskKey) -> bool {
        self.failures(task) > self.retries
    }
}

/// What really happened.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    plans: BTreeMap<ProjectId, ProjectPlan>,
    /// Attempts whose command was begun.
    started: BTreeSet<AttemptKey>,
    killed: BTreeSet<AttemptKey>,
    taken_back: BTreeSet<AttemptKey>,
    endings: BTreeMap<AttemptKey, Outcome>,
    /// Attempts that went down with their host.
    lost: BTreeSet<AttemptKey>,
    recorded: BTreeMap<TaskKey, AttemptKey>,
    /// Failures by the task's own fault that the store knows.
    failed: BTreeMap<TaskKey, u32>,
    claimed: BTreeMap<AttemptKey, u64>,
    agents: BTreeMap<u64, String>,
    heard: BTreeMap<usize, Duration>,
    folded: Duration,
    cancelled: BTreeSet<ProjectId>,
    /// What each agent has, as the store knows it.
    held: BTreeMap<AttemptKey, u64>,
    recalled: BTreeSet<AttemptKey>,
    /// Tasks that failed because their lease was lost.
    stopped: BTreeSet<TaskKey>,
    /// When an open project was created, or got tasks last.
    grew: BTreeMap<ProjectId, Duration>,
    end_asked: BTreeSet<ProjectId>,
    closed: BTreeSet<ProjectId>,
    pub(crate) counts: Counts,
}

/// How often it has happened that something had to do with a backlog or an open project, or a host was quarantined.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) beyond_slots: usize,
    pub(crate) given_back: usize,
    pub(crate) recalled_and_returned: usize,
    pub(crate) quarantines: usize,
    pub(crate) known: usize,
    pub(crate) refused: usize,
    pub(crate) idle: usize,
}

impl Witness {
    pub(crate) fn submitted(&mut self, project: ProjectId, plan: ProjectPlan) {
        self.plans.insert(project, plan);
    }

    pub(crate) fn began(&mut self, attempt: AttemptKey) {
        assert!(self.started.insert(attempt), "{attempt} was started twice");
        assert!(self.claimed.contains_key(&attempt), "{attempt} was started, and nobody claimed it durably");
        assert!(!self.taken_back.contains(&attempt), "{attempt} was started after it was taken back");
    }

    /// Dispatched attempts went back into their agent's queue.
    pub(crate) fn given_back(&mut self, count: usize) {
        self.counts.given_back += count;
    }

    /// The coordinator asks for attempts.
    pub(crate) fn recalled(&mut self, attempts: &[AttemptKey]) {
        self.recalled.extend(attempts);
    }

    /// An agent has never more than it asked for at the most.
    fn holds(&mut self, attempt: AttemptKey, agent: u64, hosts: &[AgentHost]) {
        self.held.insert(attempt, agent);
        let count = self.held.values().filter(|holder| **holder == agent).count();
        let host = hosts.iter().find(|host| Some(&host.name) == self.agents.get(&agent));
        let Some(host) = host else { panic!("{attempt} was claimed for nobody") };
        let asked = host.asked_max as usize;
        assert!(count <= asked, "{} was given {count} attempts, and wanted {asked} at the most", host.name);
        if count > host.slots as usize {
            self.counts.beyond_slots += 1;
        }
        self.is_well_placed(attempt, agent, host);
    }

    /// An agent gets what it fits, and no more than it could run at a time; a project has no more out than it may.
    fn is_well_placed(&self, attempt: AttemptKey, agent: u64, host: &AgentHost) {
        let project = attempt.task.project;
        let plan = &self.plans[&project];
        assert!(plan.fits(host), "{attempt} was given to {}, which does not fit: {plan:?}", host.name);
        let out = self.held.keys().filter(|attempt| attempt.task.project == project).count();
        let most = plan.max_parallel.map_or(usize::MAX, |most| most as usize);
        assert!(out <= most, "{attempt} is one of {out} of its project, which may have {most} out");
        let at_once = |asks: fn(&ProjectPlan) -> u64| {
            let holders = self.held.iter().filter(|(_, holder)| **holder == agent);
            let mut asked: Vec<_> =
                holders.map(|(attempt, _)| asks(&self.plans[&attempt.task.project])).collect();
            asked.sort_unstable_by(|a, b| b.cmp(a));
            asked.iter().take(host.slots as usize).sum::<u64>()
        };
        let cpus = at_once(|plan| plan.cpus_milli.unwrap_or(0).into());
        let memory = at_once(|plan| plan.memory_bytes.unwrap_or(0));
        let asks = (plan.cpus_milli.is_some(), plan.memory_bytes.is_some());
        // What asks for nothing makes nothing worse, also where what came back is too much.
        let fits = (!asks.0 || cpus <= host.cpus_milli.into()) && (!asks.1 || memory <= host.memory_bytes);
        assert!(fits, "with {attempt}, {} may run what asks for {cpus} m, {memory} bytes", host.name);
    }

    pub(crate) fn killed(&mut self, attempt: AttemptKey) {
        self.killed.insert(attempt);
    }

    pub(crate) fn worker_lost(&mut self, attempt: AttemptKey) {
        self.lost.insert(attempt);
    }

    pub(crate) fn heard(&mut self, host: usize, now: Duration) {
        self.heard.insert(host, now);
    }

    pub(crate) fn coordinator_folds(&mut self, now: Duration) {
        self.folded = now;
    }

    /// How an attempt ends that runs to its end now. The task's first failures come first.
    pub(crate) fn ending(&mut self, attempt: AttemptKey) -> Outcome {
        let plan = &self.plans[&attempt.task.project];
        let outcome = if self.killed.contains(&attempt) {
            Outcome::Cancelled
        } else if self.failed.get(&attempt.task).copied().unwrap_or(0) < plan.failures(attempt.task) {
            Outcome::Exited(1)
        } else {
            Outcome::Exited(0)
        };
        self.endings.insert(attempt, outcome.clone());
        outcome
    }

    /// Checks every write that is made against what really happened.
    pub(crate) fn writes(&mut self, writes: &[Write], now: Duration, hosts: &[AgentHost]) {
        for write in writes {
            match write {
                Write::Drain { .. } | Write::RemoveAgent { .. } => {}
                Write::Session { agent, name, .. } => {
                    self.agents.insert(agent.0, name.clone());
                }
                Write::Claim { attempt, agent, .. } => {
                    assert!(self.claimed.insert(*attempt, agent.0).is_none(), "{attempt} was claimed twice");
                    assert!(
                        !self.recorded.contains_key(&attempt.task),
                        "{attempt} was claimed after its task's result"
                    );
                    self.holds(*attempt, agent.0, hosts);
                }
                Write::Record { report, .. } => {
                    self.is_true(report.attempt, &report.outcome, now, hosts);
                    self.held.remove(&report.attempt);
                    if report.outcome == Outcome::LeaseLost {
                        assert!(self.plans[&report.attempt.task.project].stop, "a lost lease was an end");
                        self.stopped.insert(report.attempt.task);
                    }
                    let before = self.recorded.insert(report.attempt.task, report.attempt);
                    assert!(before.is_none(), "{} was recorded after {before:?}", report.attempt);
                }
                Write::Requeue { report, .. } => {
                    assert!(!self.recorded.contains_key(&report.attempt.task), "requeued after its result");
                    self.is_true(report.attempt, &report.outcome, now, hosts);
                    self.held.remove(&report.attempt);
                    let again = report.outcome != Outcome::LeaseLost
                        || !self.plans[&report.attempt.task.project].stop;
                    assert!(again, "{} may still run, and its task runs again", report.attempt);
                    if report.outcome.class() == OutcomeClass::TaskFailure {
                        *self.failed.entry(report.attempt.task).or_default() += 1;
                    }
                }
                Write::Return { attempt, .. } => {
                    assert!(!self.recorded.contains_key(&attempt.task), "returned after its result");
                    let harmless = !self.started.contains(attempt)
                        || self.lost.contains(attempt)
                        || self.endings.get(attempt) == Some(&Outcome::Cancelled);
                    assert!(harmless, "{attempt} was taken back, and had been started");
                    self.taken_back.insert(*attempt);
                    self.held.remove(attempt);
                    if self.recalled.contains(attempt) {
                        self.counts.recalled_and_returned += 1;
                    }
                }
                Write::Readopt { attempt, agent, .. } => {
                    self.held.insert(*attempt, agent.0);
                    assert!(!self.recorded.contains_key(&attempt.task), "readopted after its result");
                }
                Write::MoveProject { project, state, .. } => {
                    let may = *state == ProjectState::Cancelled || !self.is_open(*project);
                    assert!(may, "{project} is open, and is {state}");
                    if state.is_ended() {
                        self.held.retain(|attempt, _| attempt.task.project != *project);
                    }
                    if *state == ProjectState::Cancelled {
                        self.cancelled.insert(*project);
                    }
                }
                Write::CreateProject { project, .. } => {
                    self.grew.insert(*project, now);
                }
                Write::AddTasks { project, .. } => {
                    assert!(self.is_open(*project), "{project} grows, and is not open");
                    self.grew.insert(*project, now);
                }
                Write::Close { project } => self.closes(*project, now),
            }
        }
    }

    pub(crate) fn end_is_asked_for(&mut self, project: ProjectId) {
        self.end_asked.insert(project);
    }

    fn is_open(&self, project: ProjectId) -> bool {
        self.plans[&project].open.is_some() && !self.closed.contains(&project)
    }

    /// Because its client said so, or because nothing came for long enough.
    fn closes(&mut self, project: ProjectId, now: Duration) {
        assert!(self.is_open(project), "{project} is closed twice");
        self.closed.insert(project);
        if self.end_asked.contains(&project) {
            return;
        }
        self.counts.idle += 1;
        let idle = self.plans[&project].open.and_then(|open| open.idle);
        let quiet = now - self.grew[&project].max(self.folded);
        assert!(idle.is_some_and(|idle| quiet >= idle), "{project} is closed after {quiet:?}, not {idle:?}");
    }

    /// The outcome is what really happened to that attempt.
    fn is_true(&self, attempt: AttemptKey, outcome: &Outcome, now: Duration, hosts: &[AgentHost]) {
        match outcome {
            Outcome::LeaseLost => {
                let Some(name) = self.claimed.get(&attempt).and_then(|agent| self.agents.get(agent)) else {
                    panic!("{attempt} was lost by nobody")
                };
                let host = hosts.iter().position(|host| host.name == *name);
                let heard = host.and_then(|host| self.heard.get(&host)).copied().unwrap_or_default();
                let silent = now - heard.max(self.folded);
                assert!(silent > LEASE, "{attempt}: lease ended after {silent:?}");
            }
            Outcome::WorkerLost(_) => {
                let gone = self.lost.contains(&attempt) || !self.started.contains(&attempt);
                assert!(
                    gone || self.killed.contains(&attempt),
                    "{attempt} was given up, and its worker is there"
                );
            }
            outcome => assert_eq!(self.endings.get(&attempt), Some(outcome), "{attempt} did not end so"),
        }
    }

    /// The project ended as it should, and the store has one true result for each task.
    pub(crate) fn final_check(&self, writer: &Writer, id: ProjectId, client: &Client) {
        let project = match writer.reads().project(id) {
            Ok(Some(project)) => project,
            other => panic!("project {id}: {other:?}"),
        };
        if self.cancelled.contains(&id) {
            assert_eq!(project.state, ProjectState::Cancelled, "project {id}");
            return;
        }
        let mut plan = client.plan.clone();
        if plan.open.is_some() {
            // Each task that was taken is there once, and no other.
            let indices: BTreeSet<_> = client.additions.indices.values().copied().collect();
            assert_eq!(indices, (0..project.counts.total).collect(), "tasks of project {id}");
            assert_eq!(indices.len(), client.additions.indices.len(), "tasks of project {id}");
            plan.tasks = project.counts.total;
        }
        let key = |phase, index| TaskKey { project: id, phase, index };
        let is_stopped = |phase| self.stopped.contains(&key(phase, 0));
        if is_stopped(Phase::Split) {
            assert_eq!((project.state, project.counts.total), (ProjectState::Failed, 0), "project {id}");
            return;
        }
        let fails = |task| plan.fails(task) || self.stopped.contains(&task);
        let failing = (0..plan.tasks).filter(|&index| fails(key(Phase::Task, index)));
        let failing = u32::try_from(failing.count()).unwrap_or(u32::MAX);
        let expected = if failing > 0 || is_stopped(Phase::Reassemble) {
            ProjectState::Failed
        } else {
            ProjectState::Succeeded
        };
        assert_eq!(project.state, expected, "project {id}: {}", project.message);
        assert_eq!(
            (project.counts.succeeded, project.counts.failed),
            (plan.tasks - failing, failing),
            "project {id}"
        );
        let results =
            writer.reads().results(id, Phase::Task, 0, 1_000).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(results.len(), plan.tasks as usize, "results of project {id}");
        for (index, row) in (0..).zip(&results) {
            let task = TaskKey { project: id, phase: Phase::Task, index };
            assert_eq!(Some(&row.key), self.recorded.get(&task), "the result of {task}");
            assert_eq!(row.success, !fails(task), "the result of {task}");
        }
    }
}
