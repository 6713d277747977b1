//! The agent's core: a state machine without I/O, clock or async, and the driver that owns it.

mod core;
pub mod driver;
mod effects;
mod held;
mod input;
mod link;
mod pace;
mod planted;
mod unrecorded;
mod withheld;

pub use self::core::{Core, CoreConfig};
pub use effects::{Effects, ToCoordinator};
pub use input::{ConnectionId, FromCoordinator, Input, Stop};
pub use pace::BACKLOG_ATTEMPTS_MAX;
pub use planted::{Planted, PlantedBug};
pub use unrecorded::{OUTBOX_INLINE_BYTES_MAX, OUTBOX_REPORTS_MAX, OUTBOX_SPOOLED_BYTES_MAX};
