//! The broker only carries: tasks to do from the coordinator that owns them to the one that claims them. One seam; the
//! embedded default is a view of the store's task states.

mod embedded;

pub use embedded::Embedded;

use crate::coordinator::Dispatch;

/// TODO. No call blocks: an implementation with I/O does it in a task of its own, and wakes the driver with
/// [`crate::coordinator::Input::Delivered`]. What is published is bounded by the coordinator's window.
pub trait Broker: Send + 'static {
    /// Whether TODO is a view of the store: what is published is then true only together with the transaction under way, and
    /// may be claimed in it.
    fn is_view(&self) -> bool;

    /// Puts tasks into TODO, in this order.
    fn publish(&mut self, dispatches: Vec<Dispatch>);

    /// How many deliveries may be out unacknowledged.
    fn prefetch(&mut self, deliveries_max: u32);

    /// These deliveries are claimed durably, or stale.
    fn ack(&mut self, dispatches: &[Dispatch]);

    /// What is ready to be delivered now.
    fn deliver(&mut self) -> Vec<Dispatch>;
}
