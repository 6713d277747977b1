//! Tasks on their way into an open project: checked like those of a submission, staged in the store, and added by the driver.
//!
//! ```text
//!  check ─▶ stage: key known? ─no─▶ driver: durable ─▶ answer
//!             ▲         └─yes, all─────────────────────▶ answer
//!             └── not open any more (then all are known, or none is taken)
//! ```
//!
//! A call that was not answered, for whatever reason, is repeated with the same keys.

use crate::{
    domain::{AddedTask, ITEMS_MAX, ItemSource, NewTask, Phase, Project, ProjectId, ProjectState},
    driver::{DriverError, Handle},
    plan::{self, CommandTemplate, Problems},
    store::{Staging, Store, StoreError},
};
use std::sync::Arc;

/// Most tasks that are added at once: what one turn of the store takes without holding up others.
pub const TASKS_AT_ONCE_MAX: usize = 10_000;

/// How often an addition looks again at a project that is open for the store and not for the driver. Once is enough, unless
/// the coordinator recovers meanwhile.
const LOOKS_MAX: u32 = 3;

/// Why nothing was added.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// There is no such project.
    #[error("there is no project {0}")]
    NoProject(ProjectId),
    /// Its items come from elsewhere.
    #[error("project {0} takes no tasks: it was not submitted as an open project")]
    NeverOpen(ProjectId),
    /// It was closed.
    #[error("project {0} takes no more tasks: it was closed")]
    Closed(ProjectId),
    /// It has ended.
    #[error("project {project} takes no more tasks: it has ended ({state})")]
    Ended {
        /// The project.
        project: ProjectId,
        /// How.
        state: ProjectState,
    },
    /// More than are taken at once.
    #[error("at most {TASKS_AT_ONCE_MAX} tasks are added at once, not {0}")]
    TooManyAtOnce(usize),
    /// It would have too many tasks.
    #[error("project {0} would have more than {ITEMS_MAX} tasks")]
    TooMany(ProjectId),
    /// An item is not fit for the project's command. Its paths begin with `items[nth]`.
    #[error("{problems}")]
    Item {
        /// Which, from 0.
        nth: u32,
        /// What is wrong.
        problems: Problems,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The driver did not answer. It may have been done.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

impl IntakeError {
    /// Whether the same addition may go well later, or was made after all: then it is to be repeated. Else it is refused for
    /// good.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Driver(_) => true,
            // Whoever has taken over takes it, too.
            Self::Store(error) => {
                error.is_passing() || matches!(error, StoreError::Closed | StoreError::Fenced { .. })
            }
            Self::NoProject(_)
            | Self::NeverOpen(_)
            | Self::Closed(_)
            | Self::Ended { .. }
            | Self::TooManyAtOnce(_)
            | Self::TooMany(_)
            | Self::Item { .. } => false,
        }
    }
}

/// Adds tasks to open projects. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    store: Arc<dyn Store>,
    driver: Handle,
}

impl Intake {
    /// Makes one over a store and the driver that belongs to it.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, driver: Handle) -> Self {
        Self { store, driver }
    }

    /// Adds all of these tasks or none, and closes the project if no more follow. Returns once they are durable, with what
    /// became of each, in their order.
    ///
    /// # Errors
    /// If nothing was added; after [`IntakeError::Driver`] or [`IntakeError::Store`] it may have been all the same.
    pub async fn add(
        &self,
        project: ProjectId,
        tasks: Vec<NewTask>,
        end: bool,
    ) -> Result<Vec<AddedTask>, IntakeError> {
        check(&self.project(project).await?, &tasks)?;
        for _ in 0..LOOKS_MAX {
            let (added, total) = match self.store.stage_tasks(project, tasks.clone()).await? {
                Staging::Staged { tasks, total } => (tasks, total),
                Staging::Known(tasks) if !end || !self.project(project).await?.open => return Ok(tasks),
                // Nothing to add: only its end is wanted.
                Staging::Known(tasks) => (tasks, 0),
                Staging::NotOpen => return Err(not_open(&self.project(project).await?)),
                Staging::TooMany => return Err(IntakeError::TooMany(project)),
            };
            if self.driver.add_tasks(project, total, end).await? {
                return Ok(added);
            }
        }
        Err(DriverError::Recovering.into())
    }

    async fn project(&self, id: ProjectId) -> Result<Project, IntakeError> {
        self.store.project(id).await?.ok_or(IntakeError::NoProject(id))
    }
}

fn check(project: &Project, tasks: &[NewTask]) -> Result<(), IntakeError> {
    if !matches!(project.spec.items, ItemSource::Open { .. }) {
        return Err(IntakeError::NeverOpen(project.id));
    }
    if tasks.len() > TASKS_AT_ONCE_MAX {
        return Err(IntakeError::TooManyAtOnce(tasks.len()));
    }
    let template = CommandTemplate::new(&project.spec, Phase::Task);
    for (nth, task) in (0..).zip(tasks) {
        plan::check_item(&template, nth, &task.item)
            .map_err(|problems| IntakeError::Item { nth, problems })?;
    }
    Ok(())
}

fn not_open(project: &Project) -> IntakeError {
    let Project { id, state, .. } = *project;
    if state.is_ended() { IntakeError::Ended { project: id, state } } else { IntakeError::Closed(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_repeated_and_what_was_refused_is_not() {
        let project = ProjectId(1);
        let passing: [IntakeError; 4] = [
            DriverError::Recovering.into(),
            DriverError::Stopped.into(),
            StoreError::Full.into(),
            StoreError::Closed.into(),
        ];
        assert!(passing.iter().all(IntakeError::is_passing));
        let refused = [
            IntakeError::NoProject(project),
            IntakeError::Closed(project),
            IntakeError::Ended { project, state: ProjectState::Failed },
            IntakeError::TooMany(project),
            StoreError::Damaged(String::new()).into(),
        ];
        assert!(!refused.iter().any(IntakeError::is_passing));
    }
}
