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

mod agents;
mod check;
mod effects;
mod fleet;
mod hello;
mod input;
mod limits;
mod project;
mod recall;
mod reports;
mod share;
#[cfg(test)]
mod tests;

pub use effects::{AgentView, Effects, Job, Reply, ToAgent};
pub use input::{Dispatch, Enrolled, FromAgent, Hello, Input, NewProject, ReplyId, SessionId};
pub use limits::{Limits, Planted};

use crate::{
    domain::{
        AgentId, AttemptKey, CoordinatorEpoch, FailurePolicy, Phase, ProjectId, ProjectState, Reassemble,
        TaskKey,
    },
    store::{Noted, Snapshot, Write},
};
use agents::{Agent, Agents};
use project::{Active, Next, Open, OpenState};
use share::Share;
use std::{collections::BTreeMap, time::Duration};

/// The core.
#[derive(Debug)]
pub struct Coordinator {
    epoch: CoordinatorEpoch,
    limits: Limits,
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
        for from in snapshot.projects {
            let split = from.split.is_some();
            let project = Active::fold(from, forget_gaps);
            for (attempt, agent) in project.running() {
                core.agents.update(agent, |agent| agent.hold(attempt, 0));
            }
            match project.state {
                ProjectState::Splitting if split => fx.jobs.push(Job::Split(project.id)),
                ProjectState::Reassembling if matches!(project.spec.reassemble, Reassemble::BuiltIn(_)) => {
                    fx.jobs.push(Job::Reassemble(project.id));
                }
                _ => {}
            }
            if project.is_hungry() {
                core.share.add(project.id);
            }
            core.projects.insert(project.id, project);
        }
        (core, fx)
    }

    /// Handles one input. After the last one of a batch, [`Coordinator::publish`] and [`Coordinator::flush`] must follow.
    pub fn handle(&mut self, input: Input, now: Duration, fx: &mut Effects) {
        match input {
            Input::Submit { project, reply } => self.submit(project, reply, fx),
            Input::Cancel { project, reply } => self.cancel(project, reply, fx),
            Input::ListAgents { reply } => {
                let mut views: Vec<_> = self.agents.iter().map(|(_, agent)| agent.view(now)).collect();
                views.sort_by(|a, b| a.name.cmp(&b.name));
                fx.replies.push((reply, Reply::Agents(views)));
            }
            Input::GetAgent { name, reply } => self.get_agent(&name, reply, now, fx),
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
            Input::SplitDone { project, items } => self.split_done(project, items, fx),
            Input::ReassembleDone { project, result } => self.reassemble_done(project, result, fx),
            Input::Tick => self.tick(now, fx),
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
        let project = Active::new(new.id, new.spec, new.tasks);
        fx.writes.push(Write::CreateProject {
            project: project.id,
            spec: project.spec.clone(),
            state: project.state,
            tasks: project.total,
        });
        fx.changed.insert(project.id);
        fx.replies.push((reply, Reply::Done));
        self.share.add(project.id);
        self.projects.insert(project.id, project);
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
        self.published -= project.published();
        for (attempt, agent) in project.running() {
            self.agents.update(agent, |agent| {
                agent.let_go(attempt);
                if agent.session.is_some() {
                    agent.cancelled.insert(attempt);
                }
            });
            self.outgoing_to(agent, |out| out.cancel.push(attempt));
        }
        fx.writes.push(Write::MoveProject { project: id, state, message, tasks: project.total });
        fx.changed.insert(id);
    }

    /// Changes a project, and keeps what is counted over all of them true.
    fn update_project<T>(&mut self, id: ProjectId, change: impl FnOnce(&mut Active) -> T) -> Option<T> {
        let project = self.projects.get_mut(&id)?;
        let before = project.published();
        let out = change(project);
        self.published = self.published - before + project.published();
        if project.is_hungry() {
            self.share.add(id);
        }
        Some(out)
    }

    fn outgoing_to(&mut self, agent: AgentId, add: impl FnOnce(&mut Outgoing)) {
        if let Some(session) = self.agents.get(agent).and_then(|agent| agent.session.as_ref()) {
            add(self.outgoing.entry(session.id).or_default());
        }
    }

    /// Publishes as many tasks as there is room for, in fair order.
    pub fn publish(&mut self, fx: &mut Effects) {
        let window = self.agents.free().saturating_add(self.limits.lookahead);
        if self.prefetch != self.agents.free() {
            self.prefetch = self.agents.free();
            fx.prefetch = Some(self.prefetch);
        }
        while self.published < window {
            let Some(id) = self.share.front() else { break };
            let number = self.dispatch + 1;
            let Some((task, weight, hungry)) = self.projects.get_mut(&id).and_then(|project| {
                let task = project.publish(number)?;
                Some((task, project.spec.weight, project.is_hungry()))
            }) else {
                self.share.drop_front();
                continue;
            };
            self.dispatch = number;
            self.published += 1;
            self.share.took_one(weight, hungry);
            fx.publish.push(Dispatch { task, number });
        }
    }

    /// The broker delivered a task: claim it for the agent with the most free slots, or else the most room.
    fn delivered(&mut self, dispatch: Dispatch, fx: &mut Effects) {
        fx.acks.push(dispatch);
        let task = dispatch.task;
        let Some(project) = self.projects.get(&task.project) else { return };
        let Some(open) = project.open(task) else { return };
        if open.state != OpenState::Published(dispatch.number) {
            return;
        }
        let stored_item = project.has_stored_items(task.phase);
        let Some(agent) = self.agents.roomiest() else {
            // The room is gone since: it is published again when there is some.
            self.set(task, Open { state: OpenState::Ready, ..open });
            return;
        };
        let last = open.last.map_or(0, |(attempt, _)| attempt);
        let planted = self.limits.has(Planted::AttemptNumberNotRaised) && last > 0;
        let attempt = task.attempt(if planted { last } else { last + 1 });
        fx.writes.push(Write::Claim { attempt, agent, stored_item });
        fx.changed.insert(task.project);
        self.run(attempt, agent, open);
        self.outgoing_to(agent, |out| out.assign.push(attempt));
    }

    /// The attempt runs with the agent from now on.
    fn run(&mut self, attempt: AttemptKey, agent: AgentId, open: Open) {
        let last = Some((attempt.attempt, agent));
        self.set(attempt.task, Open { state: OpenState::Running, last, noted: Noted::Nothing, ..open });
        self.assigned += 1;
        let order = self.assigned;
        self.agents.update(agent, |agent| agent.hold(attempt, order));
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

    /// Moves a project on if its task phase is complete.
    fn go_on(&mut self, id: ProjectId, fx: &mut Effects) {
        let Some(project) = self.projects.get(&id) else { return };
        if !project.all_tasks_ended() {
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
