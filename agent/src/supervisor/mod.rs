//! The agent's core: a state machine without I/O, clock or async, and the driver that owns it.

mod effects;
mod input;

pub use effects::{Effects, ToCoordinator};
pub use input::{ConnectionId, FromCoordinator, Input};
