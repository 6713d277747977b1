//! From a submitted specification to tasks: validation, placeholders, items and commands. Pure: no I/O and no clock.
//!
//! A specification is checked once, at submission ([`validate`]), and every problem is told at once with the path of
//! its field. What has passed is never checked again: [`item`] and [`command`] can't fail.

mod command;
mod image;
mod items;
mod problem;
mod task;
mod template;
mod validate;

#[cfg(test)]
mod tests;

pub use crate::domain::{ITEMS_MAX, SPLIT_ITEM_BYTES_MAX};
pub use command::{CommandTemplate, command};
pub use items::{check_item, item, task_count};
pub use problem::{Problem, ProblemKind, Problems};
pub use template::{Template, TemplateError, escape};
pub use validate::{is_name, validate};

/// Longest name of a project.
pub const NAME_BYTES_MAX: usize = 63;

/// What a name is made of, for people.
pub const NAME_RULE: &str = "letters, digits, `.`, `_` and `-`, at most 63 of them";

/// Largest weight of a project.
pub const WEIGHT_MAX: u32 = 1000;

/// Most attempts at a time that a project may be limited to: more than any fleet has slots.
pub const PARALLEL_MAX: u32 = 1_000_000;

/// Most retries of a task.
pub const RETRIES_MAX: u32 = 1000;

/// Longest timeout: a year.
pub const TIMEOUT_MILLIS_MAX: u64 = 366 * 24 * 3600 * 1000;

/// Shortest time without a new task after which an open project is closed.
pub const IDLE_MILLIS_MIN: u64 = 1000;

/// Longest such time: a year.
pub const IDLE_MILLIS_MAX: u64 = TIMEOUT_MILLIS_MAX;

/// Longest single argument that Linux passes to a program (`MAX_ARG_STRLEN` without the closing zero).
pub const ARGUMENT_BYTES_MAX: usize = 128 * 1024 - 1;

/// Longest command, all its arguments together: what Linux takes under the usual stack limit.
pub const COMMAND_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Longest stdin that is made from a template: it travels with its assignment.
pub const STDIN_BYTES_MAX: usize = 128 * 1024;

/// Longest text or resource of one item.
pub const ITEM_TEXT_BYTES_MAX: usize = ARGUMENT_BYTES_MAX;

/// Fewest processors of a worker, in thousandths; Docker takes no less.
pub const CPUS_MILLI_MIN: u32 = 10;

/// Most processors of a worker, in thousandths.
pub const CPUS_MILLI_MAX: u32 = 1024 * 1000;

/// Least memory of a worker; Docker takes no less.
pub const MEMORY_BYTES_MIN: u64 = 6 * 1024 * 1024;

/// Most memory of a worker: a pebibyte.
pub const MEMORY_BYTES_MAX: u64 = 1 << 50;

/// Most processes of a worker: the most that Linux has numbers for.
pub const PIDS_MAX: u32 = 1 << 22;

/// Most output that a task may be allowed: a tebibyte.
pub const OUTPUT_BYTES_MAX: u64 = 1 << 40;

/// Most files that are copied into an image.
pub const IMAGE_FILES_MAX: usize = 10_000;

/// Longest file that is copied into an image; what the store of bulk bytes takes.
pub const IMAGE_FILE_BYTES_MAX: u64 = 1 << 30;

/// Longest path of a file in an image, as Linux has it (`PATH_MAX` without the closing zero).
pub const PATH_BYTES_MAX: usize = 4095;
