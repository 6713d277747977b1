//! How an open project grows: tasks are staged behind those that it has, then added, and one day it is closed.
//!
//! What is staged and not added has not been answered. It comes in with the next addition, as the client that adds it again
//! expects; or it goes when the project is closed.

use super::{
    apply::{held, put_items},
    encoding::integer,
    writer::Writer,
};
use crate::{
    domain::{AddedTask, ClientKey, ITEMS_MAX, NewTask, ProjectId},
    store::{Staging, StoreError},
};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;

impl Writer {
    /// As [`Store::stage_tasks`](crate::store::Store::stage_tasks).
    ///
    /// # Errors
    /// [`StoreError::Full`] if the disk is nearly full, or if the database fails.
    pub fn stage_tasks(&mut self, project: ProjectId, tasks: &[NewTask]) -> Result<Staging, StoreError> {
        // Only asked for if there is something to be kept.
        let reserve = self.keep_reserve();
        self.prelude(|connection| {
            let Some((total, next)) = length(connection, project)? else { return Ok(Staging::NotOpen) };
            let places = tasks.iter().map(|task| place(connection, project, &task.key));
            let places = places.collect::<Result<Vec<_>, _>>()?;
            if places.iter().all(|place| place.is_some_and(|index| index < total)) {
                let known = places.into_iter().flatten().map(|index| AddedTask { index, existed: true });
                return Ok(Staging::Known(known.collect()));
            }
            let Some(first) = next else { return Ok(Staging::NotOpen) };
            let plan = Plan::new(first, total, tasks, &places);
            if plan.next > ITEMS_MAX {
                return Ok(Staging::TooMany);
            }
            reserve?;
            plan.stage(connection, project, first)?;
            Ok(Staging::Staged { tasks: plan.places, total: plan.next })
        })
    }
}

/// Which of some tasks go where.
struct Plan<'t> {
    /// Those that are not in the store, in order.
    new: Vec<&'t NewTask>,
    /// The place of each.
    places: Vec<AddedTask>,
    /// The place behind the last one.
    next: u32,
}

impl<'t> Plan<'t> {
    fn new(first: u32, total: u32, tasks: &'t [NewTask], known: &[Option<u32>]) -> Self {
        let mut plan = Self { new: Vec::new(), places: Vec::with_capacity(tasks.len()), next: first };
        let mut here = HashMap::with_capacity(tasks.len());
        for (task, known) in tasks.iter().zip(known) {
            let index = known.or_else(|| here.get(&task.key).copied()).unwrap_or_else(|| {
                plan.new.push(task);
                plan.next += 1;
                plan.next - 1
            });
            // The second one of a key is as good as one that was there before.
            let is_second = here.insert(&task.key, index).is_some();
            plan.places.push(AddedTask { index, existed: is_second || index < total });
        }
        plan
    }

    fn stage(&self, connection: &Connection, project: ProjectId, first: u32) -> Result<(), StoreError> {
        put_items(connection, project, first, self.new.iter().map(|task| &task.item))?;
        let mut name =
            connection.prepare_cached("INSERT INTO client_keys (project, key, idx) VALUES (?1, ?2, ?3)")?;
        for (index, task) in (first..).zip(&self.new) {
            name.execute(params![integer(project.0), task.key.as_str(), index])?;
        }
        connection
            .prepare_cached("UPDATE open_projects SET next = ?2 WHERE project = ?1")?
            .execute(params![integer(project.0), self.next])?;
        Ok(())
    }
}

/// How many tasks a project has, and where the next one goes if it is open.
fn length(connection: &Connection, project: ProjectId) -> Result<Option<(u32, Option<u32>)>, StoreError> {
    let found = connection
        .prepare_cached(
            "SELECT coalesce(o.tasks, p.tasks), o.next
             FROM projects p LEFT JOIN open_projects o ON o.project = p.id WHERE p.id = ?1 AND p.state > 0",
        )?
        .query_row([integer(project.0)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found)
}

/// The place of the task with this key, if there is one.
fn place(connection: &Connection, project: ProjectId, key: &ClientKey) -> Result<Option<u32>, StoreError> {
    let found = connection
        .prepare_cached("SELECT idx FROM client_keys WHERE project = ?1 AND key = ?2")?
        .query_row(params![integer(project.0), key.as_str()], |row| row.get(0))
        .optional()?;
    Ok(found)
}

/// A project that was just created takes tasks from here on.
pub(super) fn open(connection: &Connection, project: ProjectId) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT INTO open_projects (project) VALUES (?1)")?
        .execute([integer(project.0)])?;
    Ok(())
}

/// As [`Write::AddTasks`](crate::store::Write::AddTasks).
pub(super) fn add_tasks(connection: &Connection, project: ProjectId, tasks: u32) -> Result<(), StoreError> {
    let changed = connection
        .prepare_cached(
            "UPDATE open_projects SET tasks = ?2 WHERE project = ?1 AND tasks <= ?2 AND next >= ?2",
        )?
        .execute(params![integer(project.0), tasks])?;
    held(changed, || format!("project {project} is not open, or has not {tasks} tasks staged"))
}

/// As [`Write::Close`](crate::store::Write::Close).
pub(super) fn close(connection: &Connection, project: ProjectId) -> Result<(), StoreError> {
    let changed = connection
        .prepare_cached(
            "UPDATE projects SET tasks = o.tasks FROM open_projects o WHERE o.project = ?1 AND id = ?1",
        )?
        .execute([integer(project.0)])?;
    held(changed, || format!("project {project} is not open"))?;
    forget(connection, project)
}

/// A project that has ended takes no more tasks. Its keys stay: what was added is still known.
pub(super) fn forget(connection: &Connection, project: ProjectId) -> Result<(), StoreError> {
    let staged: Option<(u32, u32)> = connection
        .prepare_cached("DELETE FROM open_projects WHERE project = ?1 RETURNING tasks, next")?
        .query_row([integer(project.0)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((tasks, next)) = staged
        && tasks < next
    {
        connection
            .prepare_cached("DELETE FROM items WHERE project = ?1 AND idx >= ?2")?
            .execute(params![integer(project.0), tasks])?;
    }
    Ok(())
}
