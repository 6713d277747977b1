//! The coordinator's core: a state machine without I/O, clock or async. Inputs go in, effects come out; the driver
//! performs them once the writes among them are committed.
//!
//! A task's way through the core, beside the store's view of it:
//!
//! ```text
//!            publish            deliver, claim              report, recorded
//!  untouched ──────▶ Published ───────────────▶ Running ───────────────────────▶ (gone: the store has its result)
//!   or Ready ◀────────────────────────────────────┘
//!              report to be retried; lease lost; handed back
//! ```
//!
//! The core holds only what is alive: untouched tasks are a frontier, ended ones two counters. A report counts iff its
//! attempt is the task's highest, from the agent that has or had it, and nothing is recorded; so a late one may cancel a
//! requeue. When a commit fails, the core is dropped and folded back from the store ([`Coordinator::fold`]), without
//! sessions: the agents dial again and say what they hold.

mod agent;
mod agents;
mod capacity;
mod check;
mod effects;
mod fleet;
mod growth;
mod health;
mod hello;
mod input;
mod kinds;
mod limits;
mod project;
mod publish;
mod recall;
mod reports;
mod reserve;
mod seats;
mod share;
#[cfg(test)]
mod tests;
mod waiting;

pub use effects::{AgentView, Effects, Job, Reply, ToAgent};
pub use input::{Dispatch, Enrolled, FromAgent, Hello, Input, NewProject, ReplyId, SessionId};
pub use limits::{Limits, Planted};

use crate::{
    domain::{
        AgentId, AttemptKey, CoordinatorEpoch, FailurePolicy, Phase, ProjectId, ProjectSpec, ProjectState,
        Reassemble, TaskKey,
    },
    store::{Snapshot, Write},
};
use agent::{Agent, Kind};
use agents::Agents;
use capacity::Need;
use kinds::Kinds;
use project::{Active, Next, Open};
use seats::Requirement;
use share::{Share, Tag};
use std::{collections::BTreeMap, time::Duration};

/// The core.
#[derive(Debug)]
pub struct Coordinator {
    epoch: CoordinatorEpoch,
    limits: Limits,
    /// When the input that is being handled came.
    now: Duration,
    agents: Agents,
    projects: BTreeMap<ProjectId, Active>,
    share: Share,
    /// The number of the newest dispatch.
    dispatch: u64,
    /// How many attempts were given to agents.
    assigned: u64,
    /// How many tasks of all projects wait in TODO.
    published: u32,
    /// What the broker was told last.
    prefetch: u32,
    /// Messages of this batch, gathered so that each session gets one of a kind.
    outgoing: BTreeMap<SessionId, Outgoing>,
}

#[derive(Debug, Default)]
struct Outgoing {
    heartbeat: bool,
    settled: Vec<AttemptKey>,
    cancel: Vec<AttemptKey>,
    recall: Vec<AttemptKey>,
    assign: Vec<AttemptKey>,
}

impl Coordinator {
    /// Goes on where the store stands. `now` starts the leases of the agents that hold attempts.
    #[must_use]
    pub fn fold(
        epoch: CoordinatorEpoch,
        snapshot: Snapshot,
        limits: Limits,
        now: Duration,
    ) -> (Self, Effects) {
        let mut core = Self {
            epoch,
            now,
            agents: Agents::default(),
            projects: BTreeMap::new(),
            share: Share::default(),
            dispatch: 0,
            assigned: 0,
            published: 0,
            prefetch: 0,
            outgoing: BTreeMap::new(),
            limits,
        };
        let mut fx = Effects::default();
        for known in snapshot.agents {
            core.agents.add(known.id, Agent::known(known, now));
        }
        core.agents.skip_to(snapshot.agent_max);
        let forget_gaps = core.limits.has(Planted::GapsForgotten);
        let forget_open = core.limits.has(Planted::OpenForgotten);
        for mut from in snapshot.projects {
            from.is_open &= !forget_open;
            let split = from.split.is_some();
            let kinds = core.enter_kinds(&from.spec);
            let mut project = Active::fold(from, kinds, forget_gaps);
            for (attempt, agent) in project.running() {
                let kind = project.kind_of(attempt.task.phase);
                core.agents.update(agent, |agent| agent.hold(attempt, 0, kind));
            }
            project.account.begins(now);
            match project.state {
                ProjectState::Splitting if split => fx.jobs.push(Job::Split(project.id)),
                ProjectState::Reassembling if matches!(project.spec.reassemble, Reassemble::BuiltIn(_)) => {
                    fx.jobs.push(Job::Reassemble(project.id));
                }
                _ => {}
            }
            core.take_in(project);
        }
        (core, fx)
    }

    /// Handles one input. After the last one of a batch, [`Coordinator::publish`] and [`Coordinator::flush`] must follow.
    pub fn handle(&mut self, input: Input, now: Duration, fx: &mut Effects) {
        self.now = now;
        match input {
            Input::Submit { project, reply } => self.submit(project, reply, fx),
            Input::AddTasks { project, tasks, end, reply } => self.add_tasks(project, tasks, end, reply, fx),
            Input::Cancel { project, reply } => self.cancel(project, reply, fx),
            Input::ListAgents { reply } => {
                let mut views: Vec<_> = self.agents.iter().map(|(_, agent)| agent.view(now)).collect();
                views.sort_by(|a, b| a.name.cmp(&b.name));
                fx.replies.push((reply, Reply::Agents(views)));
            }
            Input::GetAgent { name, reply } => self.get_agent(&name, reply, now, fx),
            Input::Waiting { project, reply } => {
                fx.replies.push((reply, Reply::Waiting(self.waiting(project))))
            }
            Input::Drain { name, draining, reply } => self.drain(&name, draining, reply, fx),
            Input::RemoveAgent { name, force, reply } => self.remove_agent(&name, force, reply, fx),
            Input::Enrolled(known) => self.enrolled(known, now),
            Input::OldCertificate { agent, address } => self.old_certificate(agent, &address, fx),
            Input::Hello { session, hello } => self.hello(session, *hello, now, fx),
            Input::FromAgent { session, seq, message } => self.agent_said(session, seq, message, now, fx),
            Input::SessionClosed { session } => self.session_closed(session, fx),
            Input::Delivered(dispatches) => {
                for dispatch in dispatches {
                    self.delivered(dispatch, fx);
                }
            }
            Input::Lost(dispatches) => {
                for dispatch in dispatches {
                    self.unpublished(dispatch);
                }
            }
            Input::SplitDone { project, items } => self.split_done(project, items, fx),
            Input::ReassembleDone { project, result } => self.reassemble_done(project, result, fx),
            Input::Tick => {
                self.tick(now, fx);
                self.close_idle(fx);
            }
        }
    }

    /// Turns what a batch has gathered for the agents into messages.
    pub fn flush(&mut self, fx: &mut Effects) {
        self.recall(fx);
        for (session, out) in std::mem::take(&mut self.outgoing) {
            // Settled first: it frees the agent's outbox. Cancel before assign: it frees the agent's slots.
            if !out.settled.is_empty() {
                fx.sends.push((session, ToAgent::Settled(out.settled)));
            }
            if !out.cancel.is_empty() {
                fx.sends.push((session, ToAgent::Cancel(out.cancel)));
            }
            if !out.recall.is_empty() {
                fx.sends.push((session, ToAgent::Recall(out.recall)));
            }
            if !out.assign.is_empty() {
                fx.sends.push((session, ToAgent::Assign(out.assign)));
            }
            if out.heartbeat {
                fx.sends.push((session, ToAgent::Heartbeat));
            }
        }
    }

    fn submit(&mut self, new: NewProject, reply: ReplyId, fx: &mut Effects) {
        let kinds = self.enter_kinds(&new.spec);
        let project = Active::new(new.id, new.spec, new.tasks, kinds);
        fx.writes.push(Write::CreateProject {
            project: project.id,
            spec: project.spec.clone(),
            state: project.state,
            tasks: project.total,
        });
        fx.changed.insert(project.id);
        fx.replies.push((reply, Reply::Done));
        self.take_in(project);
    }

    fn cancel(&mut self, project: ProjectId, reply: ReplyId, fx: &mut Effects) {
        if self.projects.contains_key(&project) {
            self.end(project, ProjectState::Cancelled, String::new(), fx);
            fx.replies.push((reply, Reply::Done));
        } else {
            fx.replies.push((reply, Reply::NotActive));
        }
    }

    /// Ends a project: what runs is killed, what waits is forgotten.
    fn end(&mut self, id: ProjectId, state: ProjectState, message: String, fx: &mut Effects) {
        let Some(project) = self.projects.remove(&id) else { return };
        self.share.remove(id);
        self.count_published_of(project.kind().class, project.published(), true);
        for (attempt, agent) in project.running() {
            self.agents.update(agent, |agent| agent.cancel(attempt));
            self.outgoing_to(agent, |out| out.cancel.push(attempt));
        }
        for kind in project.kinds().all() {
            self.agents.leave(kind.class);
            if self.agents.class(kind.class).is_none_or(|class| class.users() == 0) {
                self.share.forget(kind.class);
            }
        }
        fx.writes.push(Write::MoveProject { project: id, state, message, tasks: project.total });
        fx.changed.insert(id);
    }

    /// The classes of a project's phases, until it ends.
    fn enter_kinds(&mut self, spec: &ProjectSpec) -> Kinds {
        let limits = &self.limits;
        Kinds::enter(spec, |mut kind, mut labels| {
            if limits.has(Planted::LabelsIgnored) {
                labels.clear();
            }
            if limits.has(Planted::CapacityIgnored) {
                kind.need = Need::default();
            }
            Kind { class: self.agents.enter(Requirement { labels, need: kind.need }), ..kind }
        })
    }

    fn take_in(&mut self, mut project: Active) {
        if self.limits.has(Planted::ParallelIgnored) {
            project.parallel_max = u32::MAX;
        }
        if let Some(growth) = &mut project.growth {
            growth.waits_from(self.now);
        }
        let id = project.id;
        self.projects.insert(id, project);
        self.update_project(id, |_| ());
    }

    /// Changes a project, and keeps what is counted over all of them true, and the fair order.
    fn update_project<T>(&mut self, id: ProjectId, change: impl FnOnce(&mut Active) -> T) -> Option<T> {
        let next = if self.share.place(id).is_none() { Some(self.next_tag()) } else { None };
        let project = self.projects.get_mut(&id)?;
        let (class_before, before) = (project.kind().class, project.published());
        let out = change(project);
        let (class, after) = (project.kind().class, project.published());
        if project.is_hungry() {
            if let Some(next) = next {
                project.account.come(next.saturating_sub(self.share.shift(class)));
            } else if class_before != class {
                project.account.change_line(self.share.shift(class_before), self.share.shift(class));
            }
            self.share.put(id, class, project.tag());
        } else {
            self.share.remove(id);
        }
        if (class_before, before) != (class, after) {
            self.count_published_of(class_before, before, true);
            self.count_published_of(class, after, false);
        }
        Some(out)
    }

    /// What those whose turn is next have had, but for what they have out: a newcomer begins with the same.
    fn next_tag(&self) -> Tag {
        let heads = self.share.heads().filter_map(|(class, _, project)| {
            let tag = self.projects.get(&project)?.account.tag(0);
            Some(tag.saturating_add(self.share.shift(class)))
        });
        heads.min().unwrap_or(self.share.reached())
    }

    fn count_published_of(&mut self, class: seats::ClassId, tasks: u32, are_gone: bool) {
        let count = |all: &mut u32| *all = if are_gone { *all - tasks } else { *all + tasks };
        count(&mut self.published);
        if let Some(class) = self.agents.class_mut(class) {
            count(&mut class.published);
        }
    }

    fn outgoing_to(&mut self, agent: AgentId, add: impl FnOnce(&mut Outgoing)) {
        if let Some(session) = self.agents.get(agent).and_then(|agent| agent.session.as_ref()) {
            add(self.outgoing.entry(session.id).or_default());
        }
    }

    fn set(&mut self, task: TaskKey, open: Open) {
        self.update_project(task.project, |project| project.set(task, open));
    }

    fn split_done(&mut self, id: ProjectId, items: Result<u32, String>, fx: &mut Effects) {
        // A job that was started twice ends twice.
        let Some(project) = self.projects.get(&id) else { return };
        if project.state != ProjectState::Splitting {
            return;
        }
        match items {
            Ok(tasks) => {
                fx.writes.push(Write::MoveProject {
                    project: id,
                    state: ProjectState::Running,
                    message: String::new(),
                    tasks,
                });
                fx.changed.insert(id);
                self.update_project(id, |project| project.begin_tasks(tasks));
                self.go_on(id, fx);
            }
            Err(message) => self.end(id, ProjectState::Failed, message, fx),
        }
    }

    fn reassemble_done(&mut self, id: ProjectId, result: Result<(), String>, fx: &mut Effects) {
        let Some(project) = self.projects.get(&id) else { return };
        if project.state != ProjectState::Reassembling {
            return;
        }
        match result {
            Ok(()) => self.end(id, ProjectState::Succeeded, String::new(), fx),
            Err(message) => self.end(id, ProjectState::Failed, message, fx),
        }
    }

    /// Moves a project on if its task phase is complete: all tasks have ended, and no more can come.
    fn go_on(&mut self, id: ProjectId, fx: &mut Effects) {
        let Some(project) = self.projects.get(&id) else { return };
        let may_grow = project.growth.is_some() && !self.limits.has(Planted::EndsWhileOpen);
        if may_grow || !project.all_tasks_ended() {
            return;
        }
        match project.after_tasks() {
            Next::End(state, message) => self.end(id, state, message, fx),
            next @ (Next::BuiltIn | Next::Command) => {
                fx.writes.push(Write::MoveProject {
                    project: id,
                    state: ProjectState::Reassembling,
                    message: String::new(),
                    tasks: project.total,
                });
                fx.changed.insert(id);
                self.update_project(id, Active::begin_reassembly);
                if next == Next::BuiltIn {
                    fx.jobs.push(Job::Reassemble(id));
                }
            }
        }
    }

    /// A task has its result: count it, and draw the consequences.
    fn recorded(&mut self, task: TaskKey, outcome: &crate::domain::Outcome, fx: &mut Effects) {
        let success = outcome.is_success();
        let id = task.project;
        self.update_project(id, |project| project.close(task, success));
        fx.changed.insert(id);
        let Some(project) = self.projects.get(&id) else { return };
        match (task.phase, success) {
            (Phase::Split, true) => fx.jobs.push(Job::Split(id)),
            (Phase::Split, false) => {
                self.end(id, ProjectState::Failed, format!("the split task failed: {outcome}"), fx);
            }
            (Phase::Reassemble, true) => self.end(id, ProjectState::Succeeded, String::new(), fx),
            (Phase::Reassemble, false) => {
                self.end(id, ProjectState::Failed, format!("the reassemble task failed: {outcome}"), fx);
            }
            (Phase::Task, false) if project.spec.on_failure == FailurePolicy::Stop => {
                let message = format!(
                    "task {} failed ({outcome}), and the project stops at the first failure",
                    task.index
                );
                self.end(id, ProjectState::Failed, message, fx);
            }
            (Phase::Task, _) => self.go_on(id, fx),
        }
    }
}
