//! What readers ask, on any connection. Each question is one statement, and so sees one moment.

use super::encoding::{
    FAILED, RUNNING, SUCCEEDED, TODO, damaged, integer, phase, phase_code, project_state, read_item,
    read_outcome, read_output, read_spec, read_unsigned, read_usage, task_state, task_state_code,
};
use crate::{
    domain::{AgentId, AttemptKey, Generation, Output, Phase, Project, ProjectId, TaskCounts, TaskKey},
    store::{AttemptRow, RESULTS_INLINE_BYTES, ResultRow, StoreError, TaskFilter, TaskRow},
};
use rusqlite::{Connection, Params, Row, params};

/// The statement that reads projects. Where an index is named, the planner, which has no statistics, would rather walk over
/// all tasks or all projects.
macro_rules! projects {
    ($index:literal, $condition:literal) => {
        concat!(
            "SELECT p.id, p.spec, p.state, p.message, p.generation, coalesce(o.tasks, p.tasks), p.created_millis, p.ended_millis,
                 g.succeeded, g.failed,
                 (SELECT count(*) FROM tasks t INDEXED BY tasks_open
                  WHERE t.project = p.id AND t.state <= 1 AND t.state = 1 AND t.phase = 1),
                 o.project IS NOT NULL
             FROM projects p ",
            $index,
            " JOIN progress g ON g.project = p.id LEFT JOIN open_projects o ON o.project = p.id WHERE ",
            $condition
        )
    };
}

/// The questions of readers, on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Reads<'c> {
    connection: &'c Connection,
}

impl<'c> Reads<'c> {
    pub(super) const fn on(connection: &'c Connection) -> Self {
        Self { connection }
    }

    pub(super) const fn connection(self) -> &'c Connection {
        self.connection
    }

    /// As [`Store::project`](crate::store::Store::project).
    ///
    /// # Errors
    /// If the database fails or is damaged. So for all that follow.
    pub fn project(self, id: ProjectId) -> Result<Option<Project>, StoreError> {
        self.first(projects!("", "p.id = ?1 AND p.state > 0"), [integer(id.0)], read_project)
    }

    /// As [`Store::project_named`](crate::store::Store::project_named).
    ///
    /// # Errors
    /// See [`Reads::project`].
    pub fn project_named(self, name: &str) -> Result<Option<Project>, StoreError> {
        let sql = projects!("", "p.name = ?1 AND p.state > 0 ORDER BY p.id DESC LIMIT 1");
        self.first(sql, [name], read_project)
    }

    /// As [`Store::projects`](crate::store::Store::projects).
    ///
    /// # Errors
    /// See [`Reads::project`].
    pub fn projects(
        self,
        active_only: bool,
        before: Option<ProjectId>,
        limit: u32,
    ) -> Result<Vec<Project>, StoreError> {
        let sql = if active_only {
            projects!(
                "INDEXED BY projects_active",
                "p.state BETWEEN 0 AND 3 AND p.state > 0 AND p.id < ?1 ORDER BY p.id DESC LIMIT ?2"
            )
        } else {
            projects!("", "p.state > 0 AND p.id < ?1 ORDER BY p.id DESC LIMIT ?2")
        };
        self.all(sql, params![before.map_or(i64::MAX, |id| integer(id.0)), limit], read_project)
    }

    /// As [`Store::tasks`](crate::store::Store::tasks).
    ///
    /// # Errors
    /// See [`Reads::project`].
    pub fn tasks(self, project: ProjectId, filter: &TaskFilter) -> Result<Vec<TaskRow>, StoreError> {
        let wanted: i64 = filter.states.iter().fold(0, |mask, &state| mask | 1 << task_state_code(state));
        let wanted = if filter.states.is_empty() { !0 } else { wanted };
        // Only open tasks: their small index is enough, and the planner does not see it.
        let only_open = wanted & !(1 << RUNNING | 1 << TODO) == 0;
        let (index, open) = if only_open { ("INDEXED BY tasks_open", "AND t.state <= 1") } else { ("", "") };
        let (after_phase, after_index) =
            filter.after.map_or((-1, 0), |(phase, index)| (phase_code(phase), i64::from(index)));
        let sql = format!(
            "SELECT t.phase, t.idx, t.state, t.attempt, coalesce(a.name, ''), i.text, i.args, i.resource
             FROM tasks t {index}
             LEFT JOIN agents a ON a.id = t.agent
             LEFT JOIN items i ON i.project = t.project AND i.idx = t.idx AND t.phase = 1
             WHERE t.project = ?1 AND (t.phase, t.idx) > (?2, ?3) AND (?4 >> t.state) & 1 {open}
             ORDER BY t.phase, t.idx LIMIT ?5"
        );
        let values = params![integer(project.0), after_phase, after_index, wanted, filter.limit];
        self.all(&sql, values, |row| {
            Ok(TaskRow {
                key: TaskKey { project, phase: phase(row.get(0)?)?, index: row.get(1)? },
                state: task_state(row.get(2)?)?,
                item: read_item(row, 5)?,
                attempt: row.get(3)?,
                agent: row.get(4)?,
            })
        })
    }

    /// As [`Store::attempts`](crate::store::Store::attempts).
    ///
    /// # Errors
    /// See [`Reads::project`].
    pub fn attempts(self, task: TaskKey) -> Result<Vec<AttemptRow>, StoreError> {
        self.all(
            &format!("{ATTEMPTS} WHERE t.project = ?1 AND t.phase = ?2 AND t.idx = ?3 ORDER BY t.attempt"),
            params![integer(task.project.0), phase_code(task.phase), task.index],
            |row| read_attempt(task.project, row),
        )
    }

    /// The second part of [`Store::project_and_attempts`](crate::store::Store::project_and_attempts).
    ///
    /// # Errors
    /// See [`Reads::project`].
    pub fn attempts_after(
        self,
        project: ProjectId,
        seq: u64,
        limit: u32,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        self.all(
            &format!("{ATTEMPTS} WHERE t.project = ?1 AND t.seq > ?2 ORDER BY t.seq LIMIT ?3"),
            params![integer(project.0), integer(seq), limit],
            |row| read_attempt(project, row),
        )
    }

    /// As [`Store::results`](crate::store::Store::results).
    ///
    /// # Errors
    /// See [`Reads::project`].
    pub fn results(
        self,
        project: ProjectId,
        phase: Phase,
        first: u32,
        limit: u32,
    ) -> Result<Vec<ResultRow>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT t.idx, t.state, t.attempt, a.seq, a.stdout_length, a.stdout_sha256, a.stdout
             FROM tasks t
             LEFT JOIN attempts a
                 ON a.project = t.project AND a.phase = t.phase AND a.idx = t.idx AND a.attempt = t.attempt
             WHERE t.project = ?1 AND t.phase = ?2 AND t.idx >= ?3
             ORDER BY t.idx LIMIT ?4",
        )?;
        let mut rows = statement.query(params![integer(project.0), phase_code(phase), first, limit])?;
        let mut results = Vec::new();
        let mut inline_bytes = 0;
        while let Some(row) = rows.next()? {
            let index: u32 = row.get(0)?;
            let state: i64 = row.get(1)?;
            if index as usize != first as usize + results.len() || !matches!(state, SUCCEEDED | FAILED) {
                break;
            }
            let key = TaskKey { project, phase, index }.attempt(row.get(2)?);
            if row.get::<_, Option<i64>>(3)?.is_none() {
                return Err(damaged(format!("the recorded attempt {key} is missing")));
            }
            let stdout = read_output(row, 4, 5, 6)?;
            if let crate::domain::OutputBody::Inline(bytes) = &stdout.body {
                inline_bytes += bytes.len();
            }
            results.push(ResultRow { key, success: state == SUCCEEDED, stdout });
            if inline_bytes >= RESULTS_INLINE_BYTES {
                break;
            }
        }
        Ok(results)
    }

    /// As [`Store::outputs`](crate::store::Store::outputs).
    ///
    /// # Errors
    /// See [`Reads::project`].
    pub fn outputs(self, attempt: AttemptKey) -> Result<Option<(Output, Output)>, StoreError> {
        self.first(
            "SELECT stdout_length, stdout_sha256, stdout, stderr_length, stderr_sha256, stderr FROM attempts
             WHERE project = ?1 AND phase = ?2 AND idx = ?3 AND attempt = ?4",
            params![
                integer(attempt.task.project.0),
                phase_code(attempt.task.phase),
                attempt.task.index,
                attempt.attempt
            ],
            |row| Ok((read_output(row, 0, 1, 2)?, read_output(row, 3, 4, 5)?)),
        )
    }

    /// As [`Store::current_owner`](crate::store::Store::current_owner).
    ///
    /// # Errors
    /// See [`Reads::project`].
    pub fn current_owner(self, attempt: AttemptKey) -> Result<Option<AgentId>, StoreError> {
        self.first(
            "SELECT tasks.agent FROM tasks JOIN projects p ON p.id = project AND p.state BETWEEN 1 AND 3
             WHERE project = ?1 AND phase = ?2 AND idx = ?3 AND attempt = ?4 AND tasks.state <= 1",
            params![
                integer(attempt.task.project.0),
                phase_code(attempt.task.phase),
                attempt.task.index,
                attempt.attempt
            ],
            |row| Ok(AgentId(read_unsigned(row, 0)?)),
        )
    }

    /// As [`Store::result`](crate::store::Store::result).
    ///
    /// # Errors
    /// See [`Reads::project`].
    pub fn result(self, project: ProjectId, generation: Generation) -> Result<Option<Output>, StoreError> {
        self.first(
            "SELECT length, sha256, bytes FROM results WHERE project = ?1 AND generation = ?2",
            params![integer(project.0), generation.0],
            |row| read_output(row, 0, 1, 2),
        )
    }

    pub(super) fn first<T>(
        self,
        sql: &str,
        values: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        rows.next()?.map(read).transpose()
    }

    pub(super) fn all<T>(
        self,
        sql: &str,
        values: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }
}

fn read_project(row: &Row<'_>) -> Result<Project, StoreError> {
    Ok(Project {
        id: ProjectId(read_unsigned(row, 0)?),
        spec: read_spec(row, 1)?,
        state: project_state(row.get(2)?)?,
        message: row.get(3)?,
        generation: Generation(row.get(4)?),
        counts: TaskCounts {
            total: row.get(5)?,
            succeeded: row.get(8)?,
            failed: row.get(9)?,
            running: row.get(10)?,
        },
        open: row.get(11)?,
        created_millis: row.get(6)?,
        ended_millis: row.get(7)?,
    })
}

const ATTEMPTS: &str = "SELECT t.seq, t.phase, t.idx, t.attempt, coalesce(a.name, ''), t.outcome, t.code, t.message,
     t.recorded, t.wall_micros, t.user_micros, t.system_micros, t.peak_bytes,
     coalesce(r.oom_kills, 0), coalesce(r.pids_refused, 0), t.stdout_length, t.stderr_length,
     t.ended_millis
     FROM attempts t LEFT JOIN agents a ON a.id = t.agent
     LEFT JOIN refusals r ON r.project = t.project AND r.phase = t.phase AND r.idx = t.idx AND r.attempt = t.attempt";

fn read_attempt(project: ProjectId, row: &Row<'_>) -> Result<AttemptRow, StoreError> {
    Ok(AttemptRow {
        seq: read_unsigned(row, 0)?,
        key: TaskKey { project, phase: phase(row.get(1)?)?, index: row.get(2)? }.attempt(row.get(3)?),
        agent: row.get(4)?,
        outcome: read_outcome(row, 5)?,
        recorded: row.get(8)?,
        usage: read_usage(row, 9)?,
        stdout_bytes: read_unsigned(row, 15)?,
        stderr_bytes: read_unsigned(row, 16)?,
        ended_millis: row.get(17)?,
    })
}
