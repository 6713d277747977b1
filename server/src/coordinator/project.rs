//! An active project in the core: what is open of it, and what could be published next.

use super::{
    agent::Kind,
    growth::Growth,
    kinds::Kinds,
    share::{Account, Tag},
};
use crate::{
    domain::{
        AgentId, AttemptKey, AttemptNo, BuiltIn, FailurePolicy, ItemSource, Phase, ProjectId, ProjectSpec,
        ProjectState, Reassemble, TaskKey, TaskSpec,
    },
    store::{ActiveProject, Noted},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// A project that has not ended.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) id: ProjectId,
    pub(super) spec: Arc<ProjectSpec>,
    pub(super) state: ProjectState,
    pub(super) total: u32,
    pub(super) succeeded: u32,
    pub(super) failed: u32,
    /// Tasks can be added; none if `total` is all there will be.
    pub(super) growth: Option<Growth>,
    /// Tasks of the task phase from here on are untouched: no row, no memory.
    frontier: u32,
    /// Tasks that are published, claimed, or back in TODO.
    open: BTreeMap<(Phase, u32), Open>,
    /// Those of `open` that wait and are not published; they go before the frontier.
    ready: BTreeSet<(Phase, u32)>,
    /// How many of `open` wait in TODO.
    published: u32,
    /// How many of `open` run.
    running: u32,
    /// How many attempts it may have with agents at a time.
    pub(super) parallel_max: u32,
    /// What kind of attempts each phase has.
    kinds: Kinds,
    pub(super) account: Account,
    /// How the last task ended on each of the agents that were heard of last, the latest first.
    endings: [Option<(AgentId, bool)>; ENDINGS_AGENTS_MAX],
    /// The agent that was convicted while nothing of this project had ended elsewhere.
    pub(super) accused: Option<AgentId>,
}

/// A task that was touched and has not ended. Failures and crashes count its attempts so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) state: OpenState,
    /// The highest attempt, and who has or had it.
    pub(super) last: Option<(AttemptNo, AgentId)>,
    /// What is noted of the ending of `last`. Nothing, as long as it runs.
    pub(super) noted: Noted,
    pub(super) failures: u32,
    pub(super) crashes: u32,
    /// When `last` ended by the infrastructure's fault.
    pub(super) lost: Option<Duration>,
}

/// Where an open task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenState {
    /// To be published.
    Ready,
    /// In TODO, under this dispatch number.
    Published(u64),
    /// `last` runs.
    Running,
}

/// Of how many agents a project remembers how its last task ended there: so many that few bad ones don't hide a good one.
const ENDINGS_AGENTS_MAX: usize = 4;
/// How many tasks that have failed on a shunned agent are passed over to find one that has not.
const SHUNNED_TASKS_MAX: usize = 64;
/// How long a task that was lost on an agent waits for another one to have a seat.
const SHUNNED_TIME: Duration = Duration::from_secs(10);

impl Open {
    /// Where its last attempt has failed.
    pub(super) fn failed_on(&self) -> Option<AgentId> {
        self.last.filter(|_| self.noted == Noted::Ending).map(|(_, agent)| agent)
    }

    /// Without the crash that was charged for a lost lease, if `last` turns up after all.
    pub(super) fn without_lost_lease(self) -> Self {
        match self.noted {
            Noted::LostLease => {
                Self { noted: Noted::Nothing, crashes: self.crashes.saturating_sub(1), ..self }
            }
            Noted::Nothing | Noted::Ending => self,
        }
    }

    /// Where it was lost just now: it should go to another agent, and can wait for it.
    pub(super) fn shuns(&self, now: Duration) -> Option<AgentId> {
        self.failed_on().filter(|_| self.lost.is_some_and(|lost| now.saturating_sub(lost) < SHUNNED_TIME))
    }

    const UNTOUCHED: Self = Self {
        state: OpenState::Ready,
        last: None,
        noted: Noted::Nothing,
        failures: 0,
        crashes: 0,
        lost: None,
    };
}

/// What comes after the last task of the task phase has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The project has ended in this state.
    End(ProjectState, String),
    /// The shell makes the result.
    BuiltIn,
    /// One more task makes the result.
    Command,
}

impl Active {
    pub(super) fn new(id: ProjectId, spec: Arc<ProjectSpec>, tasks: Option<u32>, kinds: Kinds) -> Self {
        let mut project = Self {
            id,
            account: Account::new(spec.weight),
            parallel_max: spec.max_parallel.unwrap_or(u32::MAX),
            growth: Growth::of(&spec),
            spec,
            state: if tasks.is_some() { ProjectState::Running } else { ProjectState::Splitting },
            total: tasks.unwrap_or(0),
            succeeded: 0,
            failed: 0,
            frontier: 0,
            open: BTreeMap::new(),
            ready: BTreeSet::new(),
            published: 0,
            running: 0,
            kinds,
            endings: [None; ENDINGS_AGENTS_MAX],
            accused: None,
        };
        if tasks.is_none() {
            project.add(Phase::Split, 0, Open::UNTOUCHED);
        }
        project
    }

    /// As the store knows it. `forget_gaps` plants a bug.
    pub(super) fn fold(from: ActiveProject, kinds: Kinds, forget_gaps: bool) -> Self {
        let mut project = Self {
            id: from.id,
            account: Account::new(from.spec.weight),
            parallel_max: from.spec.max_parallel.unwrap_or(u32::MAX),
            growth: Growth::of(&from.spec).filter(|_| from.is_open),
            spec: from.spec,
            state: from.state,
            total: from.counts.total,
            succeeded: from.counts.succeeded,
            failed: from.counts.failed,
            frontier: from.frontier,
            open: BTreeMap::new(),
            ready: BTreeSet::new(),
            published: 0,
            running: 0,
            kinds,
            endings: [None; ENDINGS_AGENTS_MAX],
            accused: None,
        };
        if !forget_gaps {
            for index in from.gaps {
                project.add(Phase::Task, index, Open::UNTOUCHED);
            }
        }
        for task in from.open {
            let open = Open {
                state: if task.running { OpenState::Running } else { OpenState::Ready },
                last: Some((task.attempt, task.agent)),
                noted: task.noted,
                failures: task.failures,
                crashes: task.crashes,
                lost: None,
            };
            project.add(task.task.phase, task.task.index, open);
        }
        match project.state {
            ProjectState::Splitting if from.split.is_none() => project.add_if_missing(Phase::Split),
            ProjectState::Reassembling
                if from.reassemble.is_none() && matches!(project.spec.reassemble, Reassemble::Command(_)) =>
            {
                project.add_if_missing(Phase::Reassemble);
            }
            _ => {}
        }
        project
    }

    fn add_if_missing(&mut self, phase: Phase) {
        if !self.open.contains_key(&(phase, 0)) {
            self.add(phase, 0, Open::UNTOUCHED);
        }
    }

    fn add(&mut self, phase: Phase, index: u32, open: Open) {
        self.take(phase, index);
        match open.state {
            OpenState::Ready => {
                self.ready.insert((phase, index));
            }
            OpenState::Published(_) => self.published += 1,
            OpenState::Running => self.running += 1,
        }
        self.open.insert((phase, index), open);
    }

    fn take(&mut self, phase: Phase, index: u32) {
        let Some(open) = self.open.remove(&(phase, index)) else { return };
        match open.state {
            OpenState::Ready => {
                self.ready.remove(&(phase, index));
            }
            OpenState::Published(_) => self.published -= 1,
            OpenState::Running => self.running -= 1,
        }
    }

    pub(super) fn key(&self, phase: Phase, index: u32) -> TaskKey {
        TaskKey { project: self.id, phase, index }
    }

    /// An open task.
    pub(super) fn open(&self, task: TaskKey) -> Option<Open> {
        self.open.get(&(task.phase, task.index)).copied()
    }

    /// Replaces an open task's state.
    pub(super) fn set(&mut self, task: TaskKey, open: Open) {
        self.add(task.phase, task.index, open);
    }

    /// A task has its result.
    pub(super) fn close(&mut self, task: TaskKey, success: bool) {
        self.take(task.phase, task.index);
        if task.phase == Phase::Task {
            if success {
                self.succeeded += 1;
            } else {
                self.failed += 1;
            }
        }
    }

    /// Something could be published.
    pub(super) fn is_hungry(&self) -> bool {
        self.has_more() && self.out() < self.parallel_max
    }

    /// How many tasks could be published.
    pub(super) fn hunger(&self) -> u32 {
        let untouched = if self.has_untouched() { self.total - self.frontier } else { 0 };
        let ready = u32::try_from(self.ready.len()).unwrap_or(u32::MAX);
        ready.saturating_add(untouched).min(self.parallel_max.saturating_sub(self.out()))
    }

    /// Something waits that is not published.
    pub(super) fn has_more(&self) -> bool {
        !self.ready.is_empty() || self.has_untouched()
    }

    /// How many of its attempts are with agents.
    pub(super) fn with_agents(&self) -> u32 {
        self.running
    }

    /// How many of its tasks are with agents, or on their way.
    pub(super) fn out(&self) -> u32 {
        self.running.saturating_add(self.published)
    }

    /// Its place in the fair order.
    pub(super) fn tag(&self) -> Tag {
        self.account.tag(self.out())
    }

    /// It need not make up for more than this.
    pub(super) fn lift(&mut self, tag: Tag) {
        let out = self.out();
        self.account.lift(tag, out);
    }

    /// What kind of attempts it has now.
    pub(super) fn kind(&self) -> Kind {
        self.kind_of(match self.state {
            ProjectState::Splitting => Phase::Split,
            ProjectState::Reassembling => Phase::Reassemble,
            _ => Phase::Task,
        })
    }

    pub(super) fn kind_of(&self, phase: Phase) -> Kind {
        self.kinds.of(phase)
    }

    pub(super) fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// One more of its attempts is with an agent.
    pub(super) fn begins(&mut self, now: Duration) {
        if self.running == 0 {
            self.account.begins(now);
        }
    }

    /// Whether the last task on another agent ended in success, on any of those that were heard of last; none if none has ended.
    pub(super) fn is_well_elsewhere(&self, agent: AgentId) -> Option<bool> {
        let elsewhere = self.endings.iter().flatten().filter(|(other, _)| *other != agent);
        elsewhere.map(|&(_, success)| success).max()
    }

    /// A task ended on this agent.
    pub(super) fn ended_on(&mut self, agent: AgentId, success: bool) {
        let known = self.endings.iter().position(|ending| ending.is_some_and(|(other, _)| other == agent));
        self.endings[..=known.unwrap_or(ENDINGS_AGENTS_MAX - 1)].rotate_right(1);
        self.endings[0] = Some((agent, success));
    }

    fn has_untouched(&self) -> bool {
        self.state == ProjectState::Running && self.frontier < self.total
    }

    /// Where the next task to publish has failed, if it has.
    pub(super) fn failed_on(&self) -> Option<AgentId> {
        self.open.get(self.ready.first()?)?.failed_on()
    }

    /// The next task to publish, which from now on waits in TODO under this number. What has failed on the shunned agent
    /// goes behind what has not, and what was lost there just now waits: then there may be none.
    pub(super) fn publish(
        &mut self,
        number: u64,
        shunned: Option<AgentId>,
        now: Duration,
    ) -> Option<TaskKey> {
        let first = match shunned {
            None => self.ready.first(),
            Some(_) => {
                let first = |failed: fn(&Open, Duration) -> Option<AgentId>| {
                    let mut ready = self.ready.iter().take(SHUNNED_TASKS_MAX);
                    ready.find(|key| self.open.get(key).and_then(|open| failed(open, now)) != shunned)
                };
                let has_not_failed = first(|open, _| open.failed_on());
                has_not_failed.or_else(|| if self.has_untouched() { None } else { first(Open::shuns) })
            }
        };
        let (phase, index) = if let Some(&first) = first {
            first
        } else if self.has_untouched() {
            let index = self.frontier;
            self.frontier += 1;
            (Phase::Task, index)
        } else {
            return None;
        };
        let key = self.key(phase, index);
        let open = self.open(key).unwrap_or(Open::UNTOUCHED);
        self.set(key, Open { state: OpenState::Published(number), ..open });
        Some(key)
    }

    /// The items are known.
    pub(super) fn begin_tasks(&mut self, total: u32) {
        self.state = ProjectState::Running;
        self.total = total;
    }

    /// The project has more tasks.
    pub(super) fn grow(&mut self, total: u32, now: Duration) {
        self.total = total;
        if let Some(growth) = &mut self.growth {
            growth.waits_from(now);
        }
    }

    /// The reassemble phase begins; if it is a task, that waits now.
    pub(super) fn begin_reassembly(&mut self) {
        self.state = ProjectState::Reassembling;
        if matches!(self.spec.reassemble, Reassemble::Command(_)) {
            self.add_if_missing(Phase::Reassemble);
        }
    }

    /// All that there are so far.
    pub(super) fn all_tasks_ended(&self) -> bool {
        self.state == ProjectState::Running && self.succeeded + self.failed == self.total
    }

    /// What comes after the task phase.
    pub(super) fn after_tasks(&self) -> Next {
        let failed = self.failed > 0 && self.spec.on_failure != FailurePolicy::Ignore;
        if failed {
            return Next::End(ProjectState::Failed, self.failures_in_words());
        }
        match &self.spec.reassemble {
            Reassemble::BuiltIn(BuiltIn::Concat | BuiltIn::None) => {
                Next::End(ProjectState::Succeeded, String::new())
            }
            Reassemble::BuiltIn(BuiltIn::Sum | BuiltIn::Json) => Next::BuiltIn,
            Reassemble::Command(_) => Next::Command,
        }
    }

    /// "3 of 120 tasks failed".
    pub(super) fn failures_in_words(&self) -> String {
        let noun = if self.total == 1 { "task" } else { "tasks" };
        format!("{} of {} {noun} failed", self.failed, self.total)
    }

    /// How the tasks of a phase run; as those of the task phase, if there is no such phase.
    pub(super) fn task_spec(&self, phase: Phase) -> &TaskSpec {
        self.spec.task_of(phase).unwrap_or(&self.spec.task)
    }

    /// Claims of the phase want their item from the store.
    pub(super) fn has_stored_items(&self, phase: Phase) -> bool {
        let items = &self.spec.items;
        let are_stored =
            matches!(items, ItemSource::List(_) | ItemSource::Split(_) | ItemSource::Open { .. });
        phase == Phase::Task && are_stored
    }

    /// Everything that runs, and with whom.
    pub(super) fn running(&self) -> impl Iterator<Item = (AttemptKey, AgentId)> {
        self.open.iter().filter_map(|(&(phase, index), open)| match (open.state, open.last) {
            (OpenState::Running, Some((attempt, agent))) => {
                Some((self.key(phase, index).attempt(attempt), agent))
            }
            _ => None,
        })
    }

    /// How many of its tasks wait in TODO.
    pub(super) fn published(&self) -> u32 {
        self.published
    }

    /// Panics if an index is wrong.
    pub(super) fn check(&self) {
        let ready: BTreeSet<_> =
            self.open.iter().filter(|(_, o)| o.state == OpenState::Ready).map(|(&key, _)| key).collect();
        assert_eq!(self.ready, ready, "project {}: index of ready tasks", self.id);
        let published =
            self.open.values().filter(|open| matches!(open.state, OpenState::Published(_))).count();
        assert_eq!(self.published as usize, published, "project {}: count of published tasks", self.id);
        let running = self.open.values().filter(|open| open.state == OpenState::Running).count();
        assert_eq!(self.running as usize, running, "project {}: count of running tasks", self.id);
        for (key, open) in &self.open {
            assert!(open.state != OpenState::Running || open.last.is_some(), "{key:?} runs nowhere");
            let runs_and_ended = open.state == OpenState::Running && open.noted != Noted::Nothing;
            assert!(!runs_and_ended, "{key:?} runs and has ended");
            assert!(key.0 != Phase::Task || key.1 < self.frontier, "{key:?} is beyond the frontier");
        }
        let open = self.open.keys().filter(|(phase, _)| *phase == Phase::Task).count();
        let ended = (self.succeeded + self.failed) as usize;
        assert_eq!(open + ended, self.frontier as usize, "project {}: open and ended tasks", self.id);
        let may_grow = self.growth.is_none() || self.state == ProjectState::Running;
        assert!(may_grow, "project {} is open, and {}", self.id, self.state);
        assert!(self.frontier <= self.total, "project {}: frontier beyond its end", self.id);
        assert!(!self.state.is_ended(), "project {} has ended and is still here", self.id);
    }
}
