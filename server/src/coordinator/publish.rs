//! Publishing and claiming: which task goes next, and to which agent.

use super::{
    Coordinator, Dispatch, Effects, Planted,
    project::{Open, OpenState},
    seats::ClassId,
    share::Tag,
};
use crate::{
    domain::{AgentId, AttemptKey, ProjectId},
    store::{Noted, Write},
};
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

impl Coordinator {
    /// Publishes as many tasks as there is room for, in fair order. Of a class for which no agent has a seat nothing is
    /// published: it would only stand in the way.
    pub fn publish(&mut self, fx: &mut Effects) {
        let window = self.agents.free().saturating_add(self.limits.lookahead);
        if self.prefetch != self.agents.free() {
            self.prefetch = self.agents.free();
            fx.prefetch = Some(self.prefetch);
        }
        if self.published >= window {
            return;
        }
        let floor = self.share.floor();
        let heads = self.share.heads().filter(|&(class, _, _)| self.has_room(class));
        let mut heads: BinaryHeap<_> =
            heads.map(|(class, tag, project)| Reverse((tag, project, class))).collect();
        // Projects whose tasks wait for another agent than the one that has a seat.
        let mut passed = BTreeSet::new();
        let now = self.now;
        let mut latest = None;
        while self.published < window {
            let Some(Reverse((place, id, class))) = heads.pop() else { break };
            let number = self.dispatch + 1;
            let shunned = self.shunned(id, class);
            let had = if place < floor { self.share.lift(class, place, floor) } else { Tag::MIN };
            let published = self.update_project(id, |project| {
                project.lift(had);
                Some((project.publish(number, shunned, now)?, project.account.tag(0)))
            });
            if let Some((task, without_out)) = published.flatten() {
                self.dispatch = number;
                self.share.reach(class, place.max(floor), without_out);
                fx.publish.push(Dispatch { task, number });
                latest = latest.max(Some(place));
            } else {
                passed.insert(id);
            }
            if let Some((tag, project)) = self.share.head_but(class, &passed)
                && self.has_room(class)
            {
                heads.push(Reverse((tag, project, class)));
            }
        }
        if let Some(latest) = latest {
            self.passed_over(latest);
        }
    }

    /// The agent on which the project's next task has failed, if no other has a seat now, but another could have one later. So
    /// a bad host gets other tasks, and shows that it is one.
    fn shunned(&self, id: ProjectId, class: ClassId) -> Option<AgentId> {
        let agent = self.projects.get(&id)?.failed_on()?;
        let is_sole = self.agents.class(class)?.sole() == Some(agent);
        (is_sole && self.could_run_elsewhere(agent, class)).then_some(agent)
    }

    /// Whether another agent could run attempts of this class if it held nothing else.
    pub(super) fn could_run_elsewhere(&self, agent: AgentId, class: ClassId) -> bool {
        self.agents.iter().any(|(other, _)| other != agent && self.could_run_on(other, class))
    }

    /// Whether more tasks of a class may be published.
    pub(super) fn has_room(&self, class: ClassId) -> bool {
        self.agents.class(class).is_some_and(|class| {
            let seats = class.seats();
            seats > 0 && u64::from(class.published) < seats + u64::from(self.limits.lookahead)
        })
    }

    /// The broker delivered a task: claim it for the agent that its project's placement wants, among those with a free slot,
    /// or else with room in their backlog.
    pub(super) fn delivered(&mut self, dispatch: Dispatch, fx: &mut Effects) {
        fx.acks.push(dispatch);
        let task = dispatch.task;
        let Some(project) = self.projects.get(&task.project) else { return };
        let Some(open) = project.open(task) else { return };
        if open.state != OpenState::Published(dispatch.number) {
            return;
        }
        let stored_item = project.has_stored_items(task.phase);
        let class = project.kind_of(task.phase).class;
        // Where it has failed it goes only if there is no other.
        let avoid = open.failed_on();
        // An attempt that was taken for lost may have come back meanwhile.
        let may_run = project.with_agents() < project.parallel_max;
        let shuns = open.shuns(self.now);
        let agent = self.agents.pick(class, project.spec.placement, avoid);
        let agent = agent
            .filter(|&agent| may_run && (shuns != Some(agent) || !self.could_run_elsewhere(agent, class)));
        let Some(agent) = agent else {
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
        self.seated(class, agent);
        self.outgoing_to(agent, |out| out.assign.push(attempt));
    }

    /// The broker has lost a task: it is published again, under another number, so that it does not matter if it turns up.
    pub(super) fn unpublished(&mut self, dispatch: Dispatch) {
        let task = dispatch.task;
        let open = self.projects.get(&task.project).and_then(|project| project.open(task));
        if let Some(open) = open.filter(|open| open.state == OpenState::Published(dispatch.number))
            && !self.limits.has(Planted::BrokerLossIgnored)
        {
            self.set(task, Open { state: OpenState::Ready, ..open });
        }
    }

    /// The attempt runs with the agent from now on.
    pub(super) fn run(&mut self, attempt: AttemptKey, agent: AgentId, open: Open) {
        let last = Some((attempt.attempt, agent));
        let (task, now) = (attempt.task, self.now);
        let kind = self.update_project(task.project, |project| {
            project.begins(now);
            project.set(task, Open { state: OpenState::Running, last, noted: Noted::Nothing, ..open });
            project.kind_of(task.phase)
        });
        self.assigned += 1;
        let order = self.assigned;
        self.agents.update(agent, |agent| agent.hold(attempt, order, kind.unwrap_or_default()));
    }
}
