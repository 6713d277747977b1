//! The conditional writes of a commit, one by one, inside its transaction. A condition that does not hold is a conflict.

use super::{
    encoding::{
        FAILED, LEASE_LOST, RUNNING, SUBMITTING, SUCCEEDED, TODO, args_column, damaged, integer,
        outcome_columns, output_columns, phase_code, project_state_code, read_item, spec_column,
    },
    feed, growth,
};
use crate::{
    domain::{
        AgentId, AttemptKey, Item, ItemSource, Phase, ProjectId, ProjectSpec, ProjectState, Report,
        SessionEpoch, TaskKey, Usage,
    },
    store::{Committed, StoreError, Write},
};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;

/// Where a task goes.
#[derive(Clone, Copy, Debug)]
struct Move {
    state: i64,
    /// The furthest state that it may come from.
    from_max: i64,
    /// Its new counts, if they change.
    failures: Option<u32>,
    crashes: Option<u32>,
}

impl Move {
    /// From any state without a result, with its counts as they are.
    const fn to(state: i64) -> Self {
        Self { state, from_max: RUNNING, failures: None, crashes: None }
    }
}

/// The writes of one commit on their way into its transaction.
pub(super) struct Batch<'c> {
    connection: &'c Connection,
    now_millis: i64,
    committed: Committed,
    /// Successes and failures recorded, added up so that each project's row is written once.
    progress: BTreeMap<ProjectId, (u32, u32)>,
}

impl<'c> Batch<'c> {
    pub(super) fn new(connection: &'c Connection, now_millis: i64) -> Self {
        Self { connection, now_millis, committed: Committed::default(), progress: BTreeMap::new() }
    }

    pub(super) fn apply(&mut self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::CreateProject { project, spec, state, tasks } => {
                self.create_project(*project, spec, *state, *tasks)
            }
            Write::MoveProject { project, state, message, tasks } => {
                self.move_project(*project, *state, message, *tasks)
            }
            Write::AddTasks { project, tasks } => growth::add_tasks(self.connection, *project, *tasks),
            Write::Close { project } => growth::close(self.connection, *project),
            Write::Claim { attempt, agent, stored_item } => self.claim(*attempt, *agent, *stored_item),
            Write::Record { agent, report } => self.record(*agent, report),
            Write::Requeue { agent, report, failures, crashes } => {
                self.requeue(*agent, report, *failures, *crashes)
            }
            Write::Return { agent, attempt } => self.give_back(*agent, *attempt),
            Write::Readopt { agent, attempt, crashes } => self.readopt(*agent, *attempt, *crashes),
            Write::Drain { agent, draining } => self.drain(*agent, *draining),
            Write::RemoveAgent { agent } => self.remove_agent(*agent),
            Write::Session { agent, name, identity, instance, epoch } => {
                self.session(*agent, name, identity, instance, *epoch)
            }
        }
    }

    pub(super) fn finish(self) -> Result<Committed, StoreError> {
        for (project, (succeeded, failed)) in &self.progress {
            let changed = self
                .connection
                .prepare_cached(
                    "UPDATE progress SET succeeded = succeeded + ?2, failed = failed + ?3 WHERE project = ?1",
                )?
                .execute(params![integer(project.0), succeeded, failed])?;
            held(changed, || format!("project {project} is unknown"))?;
        }
        Ok(self.committed)
    }

    fn create_project(
        &self,
        project: ProjectId,
        spec: &ProjectSpec,
        state: ProjectState,
        tasks: u32,
    ) -> Result<(), StoreError> {
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE projects SET state = ?3, name = ?4, spec = ?5, tasks = ?6, created_millis = ?7, ended_millis = ?8
                 WHERE id = ?1 AND state = ?2",
            )?
            .execute(params![
                integer(project.0),
                SUBMITTING,
                project_state_code(state),
                spec.name,
                spec_column(spec)?,
                tasks,
                self.now_millis,
                state.is_ended().then_some(self.now_millis),
            ])?;
        held(changed, || format!("no submission {project} is under way"))?;
        self.connection
            .prepare_cached("INSERT INTO progress (project) VALUES (?1)")?
            .execute([integer(project.0)])?;
        if state.is_ended() {
            feed::end(self.connection, project)?;
        }
        match spec.items {
            ItemSource::Open { .. } => growth::open(self.connection, project),
            _ => Ok(()),
        }
    }

    fn move_project(
        &self,
        project: ProjectId,
        state: ProjectState,
        message: &str,
        tasks: u32,
    ) -> Result<(), StoreError> {
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE projects SET state = ?2, message = ?3, tasks = ?4, ended_millis = ?5
                 WHERE id = ?1 AND state BETWEEN 1 AND 3",
            )?
            .execute(params![
                integer(project.0),
                project_state_code(state),
                message,
                tasks,
                state.is_ended().then_some(self.now_millis),
            ])?;
        held(changed, || format!("project {project} has ended, or is unknown"))?;
        if state.is_ended() {
            // What ran is killed: nothing of an ended project runs, and nobody reports on it any more.
            self.connection
                .prepare_cached("UPDATE tasks SET state = ?2 WHERE project = ?1 AND state = ?3")?
                .execute(params![integer(project.0), TODO, RUNNING])?;
            growth::forget(self.connection, project)?;
            feed::end(self.connection, project)?;
        }
        Ok(())
    }

    fn claim(&mut self, attempt: AttemptKey, agent: AgentId, stored_item: bool) -> Result<(), StoreError> {
        let (project, phase, index) = columns(attempt.task);
        let changed = if attempt.attempt == 1 {
            self.connection
                .prepare_cached(
                    "INSERT INTO tasks (project, phase, idx, state, attempt, agent) VALUES (?1, ?2, ?3, ?4, 1, ?5)
                     ON CONFLICT DO NOTHING",
                )?
                .execute(params![project, phase, index, RUNNING, integer(agent.0)])?
        } else {
            self.connection
                .prepare_cached(
                    "UPDATE tasks SET state = ?4, attempt = ?5, agent = ?6
                     WHERE project = ?1 AND phase = ?2 AND idx = ?3 AND state = ?7 AND attempt = ?5 - 1",
                )?
                .execute(params![project, phase, index, RUNNING, attempt.attempt, integer(agent.0), TODO])?
        };
        held(changed, || format!("{attempt} can't be claimed: the task is not waiting for this attempt"))?;
        if stored_item {
            self.committed.items.push((attempt, self.item(attempt.task)?));
        }
        Ok(())
    }

    fn item(&self, task: TaskKey) -> Result<Item, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT text, args, resource FROM items WHERE project = ?1 AND idx = ?2")?;
        let mut rows = statement.query(params![integer(task.project.0), task.index])?;
        let item = rows.next()?.map(|row| read_item(row, 0)).transpose()?.flatten();
        item.ok_or_else(|| damaged(format!("task {task} has no item")))
    }

    /// Moves a task whose highest attempt is this one by this agent, and which is in no state beyond `from_max`. Returns how
    /// many tasks that was: one, or none.
    fn move_task(&self, agent: AgentId, attempt: AttemptKey, to: Move) -> Result<usize, StoreError> {
        let (project, phase, index) = columns(attempt.task);
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE tasks SET state = ?6, failures = COALESCE(?8, failures), crashes = COALESCE(?9, crashes)
                 WHERE project = ?1 AND phase = ?2 AND idx = ?3 AND attempt = ?4 AND agent = ?5 AND state <= ?7",
            )?
            .execute(params![
                project,
                phase,
                index,
                attempt.attempt,
                integer(agent.0),
                to.state,
                to.from_max,
                to.failures,
                to.crashes,
            ])?;
        Ok(changed)
    }

    fn record(&mut self, agent: AgentId, report: &Report) -> Result<(), StoreError> {
        let attempt = report.attempt;
        let success = report.outcome.is_success();
        let to = if success { SUCCEEDED } else { FAILED };
        held(self.move_task(agent, attempt, Move::to(to))?, || not_current(attempt))?;
        if attempt.task.phase == Phase::Task {
            let (succeeded, failed) = self.progress.entry(attempt.task.project).or_default();
            *if success { succeeded } else { failed } += 1;
        }
        self.keep_ending(agent, report, true)
    }

    fn requeue(
        &self,
        agent: AgentId,
        report: &Report,
        failures: u32,
        crashes: u32,
    ) -> Result<(), StoreError> {
        let requeue = Move { failures: Some(failures), crashes: Some(crashes), ..Move::to(TODO) };
        held(self.move_task(agent, report.attempt, requeue)?, || not_current(report.attempt))?;
        self.keep_ending(agent, report, false)
    }

    fn give_back(&self, agent: AgentId, attempt: AttemptKey) -> Result<(), StoreError> {
        held(self.move_task(agent, attempt, Move::to(TODO))?, || not_current(attempt))
    }

    /// The attempt has not ended after all: the lost lease that the requeue noted is removed.
    fn readopt(&self, agent: AgentId, attempt: AttemptKey, crashes: u32) -> Result<(), StoreError> {
        let again = Move { from_max: TODO, crashes: Some(crashes), ..Move::to(RUNNING) };
        held(self.move_task(agent, attempt, again)?, || {
            format!("{attempt} can't run again: it is not its task's highest, or the task is not in TODO")
        })?;
        let (project, phase, index) = columns(attempt.task);
        self.connection
            .prepare_cached(
                "DELETE FROM attempts WHERE project = ?1 AND phase = ?2 AND idx = ?3 AND attempt = ?4 AND outcome = ?5",
            )?
            .execute(params![project, phase, index, attempt.attempt, LEASE_LOST])?;
        Ok(())
    }

    fn session(
        &self,
        agent: AgentId,
        name: &str,
        identity: &str,
        instance: &str,
        epoch: SessionEpoch,
    ) -> Result<(), StoreError> {
        let holder: Option<i64> = self
            .connection
            .prepare_cached("SELECT id FROM agents WHERE name = ?1 AND removed_millis IS NULL")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        if holder.is_some_and(|id| id != integer(agent.0)) {
            return Err(StoreError::Conflict(format!("another agent is named {name:?}")));
        }
        let changed = self
            .connection
            .prepare_cached(
                "INSERT INTO agents (id, name, epoch, identity, instance) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch,
                     identity = excluded.identity, instance = excluded.instance
                 WHERE excluded.epoch > agents.epoch AND excluded.name = agents.name AND agents.removed_millis IS NULL",
            )?
            .execute(params![integer(agent.0), name, integer(epoch.0), identity, instance])?;
        held(changed, || {
            format!("agent {name:?} was removed, or already had session epoch {} or a higher one", epoch.0)
        })
    }

    fn drain(&self, agent: AgentId, draining: bool) -> Result<(), StoreError> {
        let changed = self
            .connection
            .prepare_cached("UPDATE agents SET draining = ?2 WHERE id = ?1 AND removed_millis IS NULL")?
            .execute(params![integer(agent.0), draining])?;
        held(changed, || format!("agent {} is not known", agent.0))
    }

    fn remove_agent(&self, agent: AgentId) -> Result<(), StoreError> {
        let changed = self
            .connection
            .prepare_cached("UPDATE agents SET removed_millis = ?2 WHERE id = ?1 AND removed_millis IS NULL")?
            .execute(params![integer(agent.0), self.now_millis])?;
        held(changed, || format!("agent {} is not known", agent.0))
    }

    /// Replaces what a lost lease noted of the same attempt, under a new number in the order of recording, so that
    /// readers who have seen the old row see the new one too. The task's row has shown that nothing is recorded.
    fn keep_ending(&self, agent: AgentId, report: &Report, recorded: bool) -> Result<(), StoreError> {
        let (project, phase, index) = columns(report.attempt.task);
        let (outcome, code, message) = outcome_columns(&report.outcome);
        let (stdout_length, stdout_sha256, stdout) = output_columns(&report.stdout);
        let (stderr_length, stderr_sha256, stderr) = output_columns(&report.stderr);
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO attempts (project, phase, idx, attempt, agent, outcome, code, message, recorded,
                     wall_micros, user_micros, system_micros, peak_bytes, ended_millis,
                     stdout_length, stdout_sha256, stdout, stderr_length, stderr_sha256, stderr)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
            )?
            .execute(params![
                project,
                phase,
                index,
                report.attempt.attempt,
                integer(agent.0),
                outcome,
                code,
                message,
                recorded,
                integer(report.usage.wall_micros),
                integer(report.usage.user_micros),
                integer(report.usage.system_micros),
                integer(report.usage.peak_memory_bytes),
                self.now_millis,
                stdout_length,
                stdout_sha256,
                stdout,
                stderr_length,
                stderr_sha256,
                stderr,
            ])?;
        let Usage { oom_kills, pids_refused, .. } = report.usage;
        if oom_kills > 0 || pids_refused > 0 {
            self.connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO refusals (project, phase, idx, attempt, oom_kills, pids_refused)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![project, phase, index, report.attempt.attempt, oom_kills, pids_refused])?;
        }
        Ok(())
    }
}

/// Adds items to a project, from an index on; the caller has checked its state.
pub(super) fn put_items<'i>(
    connection: &Connection,
    project: ProjectId,
    first: u32,
    items: impl IntoIterator<Item = &'i Item>,
) -> Result<(), StoreError> {
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO items (project, idx, text, args, resource) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (index, item) in (i64::from(first)..).zip(items) {
        insert.execute(params![integer(project.0), index, item.text, args_column(item)?, item.resource])?;
    }
    Ok(())
}

fn columns(task: TaskKey) -> (i64, i64, i64) {
    (integer(task.project.0), phase_code(task.phase), i64::from(task.index))
}

fn not_current(attempt: AttemptKey) -> String {
    format!("{attempt} is not its task's highest attempt, is another agent's, or the task has its result")
}

pub(super) fn held(changed: usize, why_not: impl FnOnce() -> String) -> Result<(), StoreError> {
    if changed == 1 { Ok(()) } else { Err(StoreError::Conflict(why_not())) }
}
