//! Tasks on their way into an open project. They are put into the store first, each in the place that it will have, and become
//! a part of the project with the commit of [`Write::AddTasks`](super::Write::AddTasks). So their bodies never pass through
//! the coordinator's core, and one synchronisation of the disk does for both.

use crate::domain::AddedTask;

/// What came of staging some tasks.
#[derive(Debug, PartialEq, Eq)]
pub enum Staging {
    /// All are in the store. They are tasks once the project has at least so many.
    Staged {
        /// The place of each; those that are not tasks yet count as new.
        tasks: Vec<AddedTask>,
        /// How many tasks the project has with them. Others that are on their way may be among them.
        total: u32,
    },
    /// All of them are tasks already: nothing was done.
    Known(Vec<AddedTask>),
    /// The project takes no tasks: it has ended, was closed, never was open, or is unknown. Nothing was done.
    NotOpen,
    /// The project would have too many tasks. Nothing was done.
    TooMany,
}
