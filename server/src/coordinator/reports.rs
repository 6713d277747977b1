//! Endings: what becomes of a task when an attempt at it ended, was lost, or was handed back.

use super::{
    Coordinator, Effects, Planted,
    health::points_at_host,
    project::{Open, OpenState},
};
use crate::{
    domain::{AgentId, AttemptKey, LeaseLossPolicy, Outcome, OutcomeClass, Output, Report, TaskKey, Usage},
    store::{Noted, Write},
};

impl Coordinator {
    /// An agent reported an ending.
    pub(super) fn report(&mut self, agent: AgentId, report: Report, fx: &mut Effects) {
        let attempt = report.attempt;
        self.agents.update(agent, |agent| agent.cancelled_ended(attempt));
        // Settled in any case: recorded with this batch, or of no use to anybody.
        self.outgoing_to(agent, |out| out.settled.push(attempt));
        if let Some(open) = self.open_of(attempt, agent) {
            self.judge(agent, attempt.task, &report.outcome, fx);
            self.ended(agent, report, open, fx);
        }
    }

    /// The infrastructure lost an attempt.
    pub(super) fn lost(&mut self, attempt: AttemptKey, agent: AgentId, outcome: Outcome, fx: &mut Effects) {
        if let Some(open) = self.open_of(attempt, agent) {
            let report = Report {
                attempt,
                outcome,
                usage: Usage::default(),
                stdout: Output::empty(),
                stderr: Output::empty(),
            };
            self.ended(agent, report, open, fx);
        }
    }

    /// The highest attempt of an open task ended: record it, or try again.
    fn ended(&mut self, agent: AgentId, report: Report, open: Open, fx: &mut Effects) {
        let attempt = report.attempt;
        let task = attempt.task;
        let open = open.without_lost_lease();
        self.agents.update(agent, |agent| agent.let_go(attempt));
        let (now, wall) = (self.now, report.usage.wall_micros);
        self.update_project(task.project, |project| project.account.ended(wall, now));
        let Some(project) = self.projects.get(&task.project) else { return };
        let stops = project.spec.on_lease_loss == LeaseLossPolicy::Stop
            && !self.limits.has(Planted::LeaseStopIgnored);
        let spec = project.task_spec(task.phase);
        let crashed = Open { crashes: open.crashes + 1, lost: Some(now), ..open };
        let again = match report.outcome.class() {
            OutcomeClass::TaskFailure if spec.retries_on(&report.outcome) && open.failures < spec.retries => {
                Some(Open { failures: open.failures + 1, lost: None, ..open })
            }
            // It may still run there.
            OutcomeClass::Loss if stops && report.outcome == Outcome::LeaseLost => None,
            OutcomeClass::Loss if open.crashes < self.limits.crashes_max => Some(crashed),
            OutcomeClass::Hopeless
                if open.crashes < self.limits.crashes_max.min(1)
                    && self.may_be_the_hosts(agent, task, &report.outcome) =>
            {
                Some(crashed)
            }
            // Cancelled, but the project is still wanted: no fault of the task's.
            OutcomeClass::Cancelled => {
                self.requeue_silently(attempt, agent, open, fx);
                return;
            }
            _ => None,
        };
        if let Some(again) = again {
            // Only a lost lease leaves room for a late report.
            let lost = report.outcome == Outcome::LeaseLost;
            let noted = if lost { Noted::LostLease } else { Noted::Ending };
            self.set(task, Open { state: OpenState::Ready, noted, ..again });
            fx.changed.insert(task.project);
            let Open { failures, crashes, .. } = again;
            fx.writes.push(Write::Requeue { agent, report: Box::new(report), failures, crashes });
        } else {
            let outcome = report.outcome.clone();
            fx.writes.push(Write::Record { agent, report: Box::new(report) });
            self.recorded(task, &outcome, fx);
        }
    }

    /// Whether an ending points at the host, nothing says that it would be the same elsewhere, and that can be tried.
    fn may_be_the_hosts(&self, agent: AgentId, task: TaskKey, outcome: &Outcome) -> bool {
        let Some(project) = self.projects.get(&task.project) else { return false };
        points_at_host(outcome)
            && project.is_well_elsewhere(agent) != Some(false)
            && self.could_run_elsewhere(agent, project.kind_of(task.phase).class)
    }

    /// An attempt is handed back unfinished, or never arrived.
    pub(super) fn returned(&mut self, attempt: AttemptKey, agent: AgentId, fx: &mut Effects) {
        self.agents.update(agent, |agent| agent.let_go(attempt));
        if let Some(open) = self.open_of(attempt, agent) {
            self.requeue_silently(attempt, agent, open, fx);
        }
    }

    fn requeue_silently(&mut self, attempt: AttemptKey, agent: AgentId, open: Open, fx: &mut Effects) {
        // A task that is in TODO already stays there.
        if open.state != OpenState::Running {
            return;
        }
        self.set(attempt.task, Open { state: OpenState::Ready, ..open });
        fx.changed.insert(attempt.task.project);
        fx.writes.push(Write::Return { agent, attempt });
    }
}
