//! What operators do with agents, and what becomes of an agent that is there twice.

use super::{
    Coordinator, Effects, Hello, Planted, Reply, ReplyId, SessionId,
    agent::{Agent, Rival, Warning},
    health::{Elsewhere, Verdict, points_at_host},
};
use crate::{
    domain::{AgentId, ENROLLED, Outcome, OutcomeClass, ProjectId, TaskKey},
    store::{KnownAgent, Write},
};
use std::time::Duration;

/// The most attempts that are listed with an agent.
const ATTEMPTS_SHOWN_MAX: usize = 1000;

impl Coordinator {
    pub(super) fn get_agent(&self, name: &str, reply: ReplyId, now: Duration, fx: &mut Effects) {
        let agent = self.agents.named(name).and_then(|id| self.agents.get(id));
        let answer = agent.map_or(Reply::NoAgent, |agent| {
            let mut view = agent.view(now);
            view.attempts = agent.held.keys().take(ATTEMPTS_SHOWN_MAX).copied().collect();
            Reply::Agents(vec![view])
        });
        fx.replies.push((reply, answer));
    }

    /// Drains an agent, or undrains it. What it has not begun is asked back at once.
    pub(super) fn drain(&mut self, name: &str, draining: bool, reply: ReplyId, fx: &mut Effects) {
        let Some(id) = self.agents.named(name) else {
            fx.replies.push((reply, Reply::NoAgent));
            return;
        };
        let asked = self.agents.update(id, |agent| {
            agent.draining = draining;
            if draining {
                return agent.recall_all();
            }
            agent.forget_recalls();
            Vec::new()
        });
        self.outgoing_to(id, |out| out.recall.extend(asked.unwrap_or_default()));
        fx.writes.push(Write::Drain { agent: id, draining });
        fx.replies.push((reply, Reply::Done));
    }

    /// Removes an agent. What it holds is lost as if its lease had ended, and runs elsewhere.
    pub(super) fn remove_agent(&mut self, name: &str, force: bool, reply: ReplyId, fx: &mut Effects) {
        let Some((id, agent)) = self.agents.named(name).and_then(|id| Some((id, self.agents.get(id)?)))
        else {
            fx.replies.push((reply, Reply::NoAgent));
            return;
        };
        if agent.session.is_some() && agent.about.identity != ENROLLED {
            fx.replies.push((reply, Reply::IsLocal));
            return;
        }
        let held: Vec<_> = agent.held.keys().copied().collect();
        if !held.is_empty() && !force {
            fx.replies.push((reply, Reply::Holds(u32::try_from(held.len()).unwrap_or(u32::MAX))));
            return;
        }
        if let Some(session) = agent.session.as_ref().map(|session| session.id) {
            fx.closes.push((session, "an operator has removed this agent".to_owned()));
            self.session_closed(session, fx);
        }
        self.lose_all(id, fx);
        self.agents.remove(id);
        fx.writes.push(Write::RemoveAgent { agent: id });
        fx.replies.push((reply, Reply::Done));
    }

    pub(super) fn enrolled(&mut self, known: KnownAgent, now: Duration) {
        if self.agents.get(known.id).is_none() && self.agents.named(&known.name).is_none() {
            self.agents.add(known.id, Agent::known(known, now));
        }
    }

    pub(super) fn old_certificate(&mut self, id: AgentId, address: &str, fx: &mut Effects) {
        let warning = format!(
            "an old certificate of it was shown from {address}: is there a copy of its data directory? If this is not \
             you, remove the agent and let it join anew"
        );
        self.warn(id, warning, fx);
    }

    /// A task ended on an agent: draws conclusions about its host.
    pub(super) fn judge(&mut self, id: AgentId, task: TaskKey, outcome: &Outcome, fx: &mut Effects) {
        let class = outcome.class();
        if class == OutcomeClass::Cancelled {
            return;
        }
        let success = class == OutcomeClass::Success;
        let elsewhere = if success { Elsewhere::Unknown } else { self.elsewhere(id, task.project, outcome) };
        let Some(project) = self.projects.get_mut(&task.project) else { return };
        project.ended_on(id, success);
        if let Some(accused) = project.accused.take_if(|accused| *accused != id)
            && points_at_host(outcome)
        {
            self.acquit(accused, task.project, fx);
        }
        if success {
            if self.agents.get(id).is_some_and(|agent| !agent.health.is_spotless()) {
                self.agents.update(id, |agent| {
                    if agent.health.is_out() {
                        agent.forget_recalls();
                    }
                    agent.health.succeeded();
                });
            }
            return;
        }
        let verdict = self.agents.update(id, |agent| agent.health.failed(task, outcome, elsewhere));
        if let Some(verdict) = verdict.flatten() {
            self.convict(id, verdict, fx);
        }
    }

    /// How a project does on other agents than this one, where a task of it failed.
    pub(super) fn elsewhere(&self, id: AgentId, project: ProjectId, outcome: &Outcome) -> Elsewhere {
        let Some(project) = self.projects.get(&project) else { return Elsewhere::Unknown };
        match project.is_well_elsewhere(id) {
            Some(true) => Elsewhere::Succeeds,
            Some(false) => Elsewhere::Fails,
            None if !points_at_host(outcome) => Elsewhere::Unknown,
            None => {
                let here = self.agents.get(id).map_or(0, |agent| agent.held_of(project.id));
                let runs = project.with_agents() as usize > here;
                if runs { Elsewhere::Runs } else { Elsewhere::Unknown }
            }
        }
    }

    fn convict(&mut self, id: AgentId, verdict: Verdict, fx: &mut Effects) {
        // What fails everywhere is not the hosts' fault: half of them stay.
        let serving = || self.agents.iter().filter(|(_, agent)| agent.serves());
        let others = serving().filter(|&(other, agent)| other != id && agent.health.is_held_back()).count();
        if (others + 1) * 2 > serving().count() {
            self.agents.update(id, |agent| agent.health.let_off());
            return;
        }
        for accuser in &verdict.accusers {
            if let Some(project) = self.projects.get_mut(accuser) {
                project.accused = Some(id);
            }
        }
        let now = self.now;
        let why = verdict.why.clone();
        let done = self.agents.update(id, |agent| {
            let time = agent.health.quarantine(verdict, now);
            (agent.name.clone(), time, agent.recall_all())
        });
        if let Some((name, time, asked)) = done {
            fx.warnings.push(format!("agent {name} gets no attempts for {} s: {why}", time.as_secs()));
            self.outgoing_to(id, |out| out.recall.extend(asked));
        }
    }

    /// A project on whose word an agent was convicted fails elsewhere, too.
    fn acquit(&mut self, id: AgentId, project: ProjectId, fx: &mut Effects) {
        let acquitted = self.agents.update(id, |agent| {
            let was_wrong = agent.health.acquitted(project);
            if was_wrong {
                agent.forget_recalls();
            }
            was_wrong.then(|| agent.name.clone())
        });
        if let Some(name) = acquitted.flatten() {
            fx.warnings
                .push(format!("agent {name} gets attempts again: project {project} fails elsewhere, too"));
        }
    }

    /// Agents whose quarantine is over may show that they are well again.
    pub(super) fn end_quarantines(&mut self, now: Duration) {
        if self.limits.has(Planted::QuarantineNeverEnds) {
            return;
        }
        let held_back = self.agents.iter().filter(|(_, agent)| agent.health.is_held_back());
        let held_back: Vec<_> = held_back.map(|(id, _)| id).collect();
        for id in held_back {
            self.agents.update(id, |agent| {
                if agent.health.comes_back(now, !agent.held.is_empty()) {
                    agent.forget_recalls();
                }
            });
        }
    }

    fn warn(&mut self, id: AgentId, warning: String, fx: &mut Effects) {
        let now = self.now;
        self.agents.update(id, |agent| {
            // It may happen at each of very many calls: the log has it once.
            let is_new = agent.warning.as_ref().is_none_or(|old| old.text != warning || !old.is_current(now));
            if is_new {
                fx.warnings.push(format!("agent {}: {warning}", agent.name));
            }
            agent.warning = Some(Warning { text: warning, seen: now });
        });
    }

    /// Why this Hello can't open a session, if it can't.
    pub(super) fn refusal(&mut self, id: AgentId, hello: &Hello, now: Duration) -> Option<String> {
        let alive = self.limits.alive();
        let agent = self.agents.get(id)?;
        let named_so = || format!("another agent is named {}: give this one another --name", hello.name);
        // An agent that has enrolled is known by its certificate alone.
        if hello.enrolled.is_none() && agent.about.identity == ENROLLED {
            return Some(named_so());
        }
        // A restarted process may be faster than the news of its old stream's end. Another agent of the same name is refused
        // as long as this one may come back to what it holds.
        let leased = !agent.held.is_empty() && now.saturating_sub(agent.heard) <= self.limits.lease;
        if (agent.session.is_some() || leased) && agent.about.identity != hello.identity {
            return Some(named_so());
        }
        // Two processes with one identity: the one that is connected stays, for as long as it is alive.
        let is_rival = agent.session.is_some()
            && agent.about.instance != hello.instance
            && now.saturating_sub(agent.heard) <= alive;
        if !is_rival {
            return None;
        }
        let from = if agent.about.address.is_empty() { "this host" } else { &agent.about.address };
        let why = format!("another process of agent {} is connected, from {from}", hello.name);
        let address = hello.address.clone();
        self.agents.update(id, |agent| agent.rival = Some(Rival { called: now, address }));
        Some(why)
    }

    /// An agent was heard after another process had said it is this agent: there are two.
    pub(super) fn is_alive_beside_rival(&mut self, id: AgentId, now: Duration, fx: &mut Effects) {
        let heartbeat = self.limits.alive() / 2;
        let Some(rival) = self.agents.get(id).and_then(|agent| agent.rival.as_ref()) else { return };
        // What was on its way when the other one called says nothing.
        if now.saturating_sub(rival.called) < heartbeat {
            return;
        }
        let from = if rival.address.is_empty() { "this host" } else { &rival.address };
        let warning = format!(
            "a second process with its identity calls from {from}: is there a copy of its data directory? It is refused"
        );
        self.warn(id, warning, fx);
        self.agents.update(id, |agent| agent.rival = None);
    }

    /// A session was opened. What was said against the one before is forgotten.
    pub(super) fn log_in(&mut self, id: AgentId, session: SessionId, fx: &mut Effects) {
        let old = self.agents.update(id, |agent| {
            agent.rival = None;
            agent.session.as_ref().map(|old| old.id)
        });
        if let Some(old) = old.flatten().filter(|&old| old != session) {
            self.outgoing.remove(&old);
            fx.closes.push((old, "replaced by a newer session of the same agent".to_owned()));
        }
    }
}
