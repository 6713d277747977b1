//! What a coordinator needs in order to go on, without reading ended tasks one by one: what has ended is counted as it is
//! recorded, and only open tasks are read.

use super::{
    encoding::{
        LEASE_LOST, RUNNING, integer, phase, phase_code, project_state, read_labels, read_outcome, read_spec,
        read_unsigned,
    },
    reads::Reads,
};
use crate::{
    domain::{AgentId, Outcome, Phase, ProjectId, SessionEpoch, TaskCounts, TaskKey},
    store::{ActiveProject, KnownAgent, Noted, OpenTask, Snapshot, StoreError},
};
use rusqlite::{Connection, Row, params};

/// Reads the snapshot; the caller's transaction makes it one moment.
pub(super) fn load(connection: &Connection) -> Result<Snapshot, StoreError> {
    let reads = Reads::on(connection);
    let agents = reads.all(
        "SELECT id, name, epoch, identity, instance, labels, draining FROM agents
         WHERE removed_millis IS NULL ORDER BY id",
        [],
        read_agent,
    )?;
    let agent_max = connection
        .prepare_cached("SELECT max(id) FROM agents")?
        .query_row([], |row| row.get::<_, Option<i64>>(0))?;
    let mut projects = reads.all(
        "SELECT p.id, p.spec, p.state, coalesce(o.tasks, p.tasks), g.succeeded, g.failed, o.project IS NOT NULL
         FROM projects p INDEXED BY projects_active JOIN progress g ON g.project = p.id
         LEFT JOIN open_projects o ON o.project = p.id
         WHERE p.state BETWEEN 0 AND 3 AND p.state > 0 ORDER BY p.id",
        [],
        |row| {
            Ok(ActiveProject {
                id: ProjectId(read_unsigned(row, 0)?),
                spec: read_spec(row, 1)?,
                state: project_state(row.get(2)?)?,
                counts: TaskCounts {
                    total: row.get(3)?,
                    succeeded: row.get(4)?,
                    failed: row.get(5)?,
                    running: 0,
                },
                is_open: row.get(6)?,
                frontier: 0,
                gaps: Vec::new(),
                open: Vec::new(),
                split: None,
                reassemble: None,
            })
        },
    )?;
    for project in &mut projects {
        project.open = open_tasks(reads, project.id)?;
        project.frontier = frontier(connection, project.id)?;
        project.gaps = gaps(connection, project)?;
        project.split = single_outcome(reads, project.id, Phase::Split)?;
        project.reassemble = single_outcome(reads, project.id, Phase::Reassemble)?;
    }
    Ok(Snapshot { agents, agent_max: AgentId(agent_max.unwrap_or(0).unsigned_abs()), projects })
}

/// An agent, as in the query of [`load`].
pub(super) fn read_agent(row: &Row<'_>) -> Result<KnownAgent, StoreError> {
    Ok(KnownAgent {
        id: AgentId(read_unsigned(row, 0)?),
        name: row.get(1)?,
        epoch: SessionEpoch(read_unsigned(row, 2)?),
        identity: row.get(3)?,
        instance: row.get(4)?,
        labels: read_labels(row, 5)?,
        draining: row.get(6)?,
    })
}

fn open_tasks(reads: Reads<'_>, project: ProjectId) -> Result<Vec<OpenTask>, StoreError> {
    reads.all(
        "SELECT t.phase, t.idx, t.attempt, t.agent, t.state, t.failures, t.crashes, a.outcome
         FROM tasks t INDEXED BY tasks_open
         LEFT JOIN attempts a ON a.project = t.project AND a.phase = t.phase AND a.idx = t.idx AND a.attempt = t.attempt
         WHERE t.project = ?1 AND t.state <= 1 ORDER BY t.phase, t.idx",
        params![integer(project.0)],
        |row| {
            Ok(OpenTask {
                task: TaskKey { project, phase: phase(row.get(0)?)?, index: row.get(1)? },
                attempt: row.get(2)?,
                agent: AgentId(read_unsigned(row, 3)?),
                running: row.get::<_, i64>(4)? == RUNNING,
                failures: row.get(5)?,
                crashes: row.get(6)?,
                noted: match row.get::<_, Option<i64>>(7)? {
                    None => Noted::Nothing,
                    Some(LEASE_LOST) => Noted::LostLease,
                    Some(_) => Noted::Ending,
                },
            })
        },
    )
}

fn frontier(connection: &Connection, project: ProjectId) -> Result<u32, StoreError> {
    let highest: Option<u32> = connection
        .prepare_cached("SELECT max(idx) FROM tasks WHERE project = ?1 AND phase = ?2")?
        .query_row(params![integer(project.0), phase_code(Phase::Task)], |row| row.get(0))?;
    Ok(highest.map_or(0, |index| index.saturating_add(1)))
}

/// Walks down from the frontier until every gap is found. Tasks are claimed about in order, so that is about a window's
/// length, and no step at all if there is no gap.
fn gaps(connection: &Connection, project: &ActiveProject) -> Result<Vec<u32>, StoreError> {
    let open = project.open.iter().filter(|open| open.task.phase == Phase::Task).count();
    let claimed = project.counts.succeeded as usize + project.counts.failed as usize + open;
    let missing = (project.frontier as usize).saturating_sub(claimed);
    let mut gaps = Vec::with_capacity(missing);
    if missing == 0 {
        return Ok(gaps);
    }
    let mut statement = connection
        .prepare_cached("SELECT idx FROM tasks WHERE project = ?1 AND phase = ?2 ORDER BY idx DESC")?;
    let mut rows = statement.query(params![integer(project.id.0), phase_code(Phase::Task)])?;
    let mut above = project.frontier;
    while gaps.len() < missing {
        let below = rows.next()?.map(|row| row.get::<_, u32>(0)).transpose()?;
        gaps.extend((below.map_or(0, |index| index + 1)..above).rev());
        match below {
            Some(index) => above = index,
            None => break,
        }
    }
    gaps.reverse();
    Ok(gaps)
}

fn single_outcome(reads: Reads<'_>, project: ProjectId, phase: Phase) -> Result<Option<Outcome>, StoreError> {
    let outcomes = reads.all(
        "SELECT outcome, code, message FROM attempts WHERE project = ?1 AND phase = ?2 AND idx = 0 AND recorded = 1",
        params![integer(project.0), phase_code(phase)],
        |row| read_outcome(row, 0),
    )?;
    Ok(outcomes.into_iter().next())
}
