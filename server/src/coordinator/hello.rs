//! Sessions: an agent comes, says what it holds, is heard or not, and goes.

use super::{
    Coordinator, Effects, FromAgent, Hello, Planted, SessionId, ToAgent,
    agent::{About, Agent, Session},
    project::{Open, OpenState},
};
use crate::{
    domain::{AgentId, AttemptKey, Outcome, SessionEpoch},
    store::{Noted, Write},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

impl Coordinator {
    /// An agent opened a session: what it holds and what the store says are brought together.
    pub(super) fn hello(&mut self, session: SessionId, hello: Hello, now: Duration, fx: &mut Effects) {
        if hello.epoch_seen > self.epoch.0 {
            let why = format!(
                "agent {} has seen a coordinator of epoch {}, this one has {}: was an old data directory restored?",
                hello.name, hello.epoch_seen, self.epoch.0
            );
            fx.closes.push((session, why));
            return;
        }
        let known = hello.enrolled.as_ref().map(|enrolled| enrolled.id);
        let id = known.or_else(|| self.agents.named(&hello.name)).unwrap_or_else(|| self.agents.next_id());
        if self.agents.get(id).is_none() {
            // Whoever has enrolled is known before it has its certificate. It was removed while it said Hello.
            if hello.enrolled.is_some() {
                fx.closes.push((session, format!("agent {} was removed", hello.name)));
                return;
            }
            self.agents.add(id, Agent::new(hello.name.clone(), SessionEpoch(0), now));
        }
        if let Some(why) = self.refusal(id, &hello, now) {
            fx.closes.push((session, why));
            return;
        }
        self.log_in(id, session, fx);
        let Some(agent) = self.agents.get(id) else { return };
        let restarted = !agent.about.instance.is_empty() && agent.about.instance != hello.instance;
        let epoch = SessionEpoch(agent.epoch.0 + 1);
        fx.writes.push(Write::Session {
            agent: id,
            name: hello.name,
            identity: hello.identity.clone(),
            instance: hello.instance.clone(),
            epoch,
        });
        let held = agent.held.keys().copied().collect::<Vec<_>>();
        let mut labels = hello.labels;
        labels.extend(hello.enrolled.map(|enrolled| enrolled.labels).unwrap_or_default());
        let live: BTreeSet<_> = hello.live.into_iter().collect();
        let unrecorded: BTreeSet<_> = hello.unrecorded.into_iter().collect();
        self.agents.update(id, |agent| {
            agent.epoch = epoch;
            agent.session = Some(Session { id: session, seq: 1 });
            agent.heard = now;
            agent.forget_cancelled();
            agent.forget_recalls();
            agent.attempts_max = 0;
            agent.not_ready.clear();
            agent.about = About {
                identity: hello.identity,
                instance: hello.instance,
                version: hello.version,
                runtime: hello.runtime,
                slots: hello.slots,
                labels,
                cpus_milli: hello.cpus_milli,
                memory_bytes: hello.memory_bytes,
                address: hello.address,
            };
        });
        self.agents.relabelled(id);
        let mut discard = Vec::new();
        for &attempt in &live {
            if !self.still_runs(attempt, id) && !self.readopt(attempt, id, fx) {
                discard.push(attempt);
            }
        }
        for &attempt in unrecorded.difference(&live) {
            if !self.counts(attempt, id) {
                discard.push(attempt);
            }
        }
        fx.sends.push((
            session,
            ToAgent::Welcome { coordinator_epoch: self.epoch, session_epoch: epoch, discard },
        ));
        if self.limits.has(Planted::HelloNotReconciled) {
            return;
        }
        for &attempt in &held {
            if live.contains(&attempt) || unrecorded.contains(&attempt) {
                continue;
            }
            if restarted {
                let why = "the agent was restarted, and its worker was gone".to_owned();
                self.lost(attempt, id, Outcome::WorkerLost(why), fx);
            } else {
                // It never arrived.
                self.returned(attempt, id, fx);
            }
        }
        if self.agents.get(id).is_some_and(|agent| agent.draining) {
            let asked = self.agents.update(id, Agent::recall_all);
            self.outgoing_to(id, |out| out.recall.extend(asked.unwrap_or_default()));
        }
    }

    /// The attempt runs with this agent, as far as the store knows.
    fn still_runs(&self, attempt: AttemptKey, agent: AgentId) -> bool {
        self.agents.get(agent).is_some_and(|agent| agent.held.contains_key(&attempt))
    }

    /// A report of this attempt by this agent would count.
    pub(super) fn counts(&self, attempt: AttemptKey, agent: AgentId) -> bool {
        self.open_of(attempt, agent).is_some()
    }

    /// The open task of which this is the highest attempt, this agent has or had it, and its ending is not noted yet.
    pub(super) fn open_of(&self, attempt: AttemptKey, agent: AgentId) -> Option<Open> {
        let open = self.projects.get(&attempt.task.project)?.open(attempt.task)?;
        let (last, owner) = open.last?;
        let current = last == attempt.attempt && owner == agent && open.noted != Noted::Ending;
        (current || self.limits.has(Planted::StaleReportCounts)).then_some(open)
    }

    /// A requeued attempt turned out to be alive: it runs again, unless it was assigned anew.
    fn readopt(&mut self, attempt: AttemptKey, agent: AgentId, fx: &mut Effects) -> bool {
        let planted = self.limits.has(Planted::OldAttemptReadopted);
        let open = if planted {
            self.projects.get(&attempt.task.project).and_then(|project| project.open(attempt.task))
        } else {
            self.open_of(attempt, agent)
        };
        let Some(open) = open else { return false };
        if open.state == OpenState::Running && !planted {
            return false;
        }
        let open = open.without_lost_lease();
        fx.writes.push(Write::Readopt { agent, attempt, crashes: open.crashes });
        fx.changed.insert(attempt.task.project);
        self.run(attempt, agent, open);
        true
    }

    pub(super) fn agent_said(
        &mut self,
        session: SessionId,
        seq: u64,
        message: FromAgent,
        now: Duration,
        fx: &mut Effects,
    ) {
        // A session that was replaced: whatever it still says was said before the newer one's Hello.
        let Some(id) = self.agents.of_session(session) else { return };
        let gap_ignored = self.limits.has(Planted::MessageGapIgnored);
        let expected = self.agents.update(id, |agent| {
            agent.heard = now;
            match &mut agent.session {
                Some(open) if seq == open.seq + 1 || (gap_ignored && seq > open.seq) => {
                    open.seq = seq;
                    Ok(())
                }
                Some(open) => Err(open.seq + 1),
                None => Err(0),
            }
        });
        self.is_alive_beside_rival(id, now, fx);
        match expected {
            Some(Ok(())) => self.message(id, message, fx),
            Some(Err(expected)) if seq > expected => {
                fx.closes.push((session, format!("message {seq} came where {expected} was expected")));
                self.session_closed(session, fx);
            }
            // A repeated one. While it commits, an agent says Heartbeat so, and wants to hear that it is heard.
            _ if matches!(message, FromAgent::Heartbeat) => {
                self.outgoing_to(id, |out| out.heartbeat = true);
            }
            _ => {}
        }
    }

    fn message(&mut self, id: AgentId, message: FromAgent, fx: &mut Effects) {
        match message {
            FromAgent::Heartbeat => self.outgoing_to(id, |out| out.heartbeat = true),
            FromAgent::Credits { attempts_max, not_ready } => {
                self.agents.update(id, |agent| {
                    agent.attempts_max = attempts_max;
                    agent.not_ready = not_ready;
                });
            }
            FromAgent::Reports(reports) => {
                for report in reports {
                    self.report(id, report, fx);
                }
            }
            FromAgent::Returned(attempts) => {
                for attempt in attempts {
                    self.agents.update(id, |agent| agent.cancelled_ended(attempt));
                    if self.still_runs(attempt, id) {
                        self.returned(attempt, id, fx);
                    }
                }
            }
        }
    }

    /// A stream ended. Its agent's lease goes on.
    pub(super) fn session_closed(&mut self, session: SessionId, fx: &mut Effects) {
        self.outgoing.remove(&session);
        let Some(id) = self.agents.of_session(session) else { return };
        self.agents.update(id, |agent| {
            agent.session = None;
            agent.attempts_max = 0;
        });
        if self.limits.has(Planted::RequeueOnDisconnect) {
            self.lose_all(id, fx);
        }
    }

    /// Ends the leases of agents that were not heard from.
    pub(super) fn tick(&mut self, now: Duration, fx: &mut Effects) {
        if self.limits.has(Planted::LeaseNeverEnds) {
            return;
        }
        let expired: BTreeMap<_, _> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.session.is_some() || !agent.held.is_empty() || agent.has_cancelled())
            .filter(|(_, agent)| now.saturating_sub(agent.heard) > self.limits.lease)
            .map(|(id, agent)| (id, agent.session.as_ref().map(|session| session.id)))
            .collect();
        for (id, session) in expired {
            if let Some(session) = session {
                fx.closes.push((session, "not heard from for a whole lease".to_owned()));
                self.session_closed(session, fx);
            }
            self.lose_all(id, fx);
        }
        self.end_quarantines(now);
        self.charge_what_runs(now);
        self.reserve();
    }

    /// Projects of which nothing ends for long pay for it.
    fn charge_what_runs(&mut self, now: Duration) {
        let running = self.projects.values().filter(|project| project.with_agents() > 0);
        let running: Vec<_> = running.map(|project| project.id).collect();
        for id in running {
            self.update_project(id, |project| project.account.waits(now));
        }
    }

    pub(super) fn lose_all(&mut self, id: AgentId, fx: &mut Effects) {
        let held = self.agents.update(id, |agent| {
            agent.forget_cancelled();
            agent.held.keys().copied().collect::<Vec<_>>()
        });
        for attempt in held.unwrap_or_default() {
            self.lost(attempt, id, Outcome::LeaseLost, fx);
        }
    }
}
